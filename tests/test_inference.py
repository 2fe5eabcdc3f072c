import weakref
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from scl_hf.inference import predict_probs, tile_starts, upsample_logits


class Net(nn.Module):
    """Convolutions of one kernel size, at the resolution of the image divided by `stride`."""

    def __init__(self, kernel_size, stride=1, depth=2, num_classes=4):
        super().__init__()
        torch.manual_seed(0)
        widths = [3] + [6] * (depth - 1) + [num_classes]
        self.layers = nn.Sequential()
        for index, (width_in, width_out) in enumerate(zip(widths, widths[1:])):
            step = stride if index == 0 else 1
            self.layers.append(nn.Conv2d(width_in, width_out, kernel_size, step, padding=kernel_size // 2))
            self.layers.append(nn.Tanh())
        self.batches = []

    def forward(self, pixel_values):
        self.batches.append((len(pixel_values), *pixel_values.shape[-2:]))
        return SimpleNamespace(logits=3 * self.layers(pixel_values))


def images(height, width, batch=2):
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


def test_tiles_cover_with_the_overlap_and_are_the_fewest():
    for length in range(1, 40):
        for tile in range(1, 20):
            for overlap in (0.0, 0.14, 1 / 3, 0.5, 0.9):
                starts = tile_starts(length, tile, overlap)
                if tile >= length:
                    assert starts == [0]
                    continue
                assert starts[0] == 0 and starts[-1] + tile == length
                largest_step = max(1, int(tile * (1 - overlap) + 1e-6))
                steps = [after - before for before, after in zip(starts, starts[1:])]
                assert max(steps) <= largest_step and max(steps) - min(steps) <= 1
                # one tile less would not reach the end
                assert (len(starts) - 2) * largest_step + tile < length


def test_overlap_is_not_rounded_up_by_floating_point():
    assert tile_starts(93, 50, 0.14) == [0, 43]  # 0.14 * 50 > 7 in floating point


@pytest.mark.parametrize("tile", [9, (7, 12), (40, 10), 100])
@pytest.mark.parametrize("flip", [False, True])
def test_tiled_equals_whole_for_a_pointwise_model(tile, flip):
    model, pixel_values = Net(1), images(23, 31)
    whole = predict_probs(model, pixel_values)
    torch.testing.assert_close(predict_probs(model, pixel_values, tile=tile, flip=flip), whole, atol=1e-5, rtol=0)


def test_tiled_equals_whole_wherever_no_tile_border_is_in_sight():
    # A tile pads with zeros where the whole image goes on: the plain average over tiles is exact at the pixels whose
    # tiles all see their receptive field (radius 2), and only there.
    model, pixel_values, tile, radius = Net(3), images(40, 52), 16, 2
    tiled = predict_probs(model, pixel_values, tile=tile, overlap=0.5)
    error = (tiled - predict_probs(model, pixel_values)).abs().amax((0, 1))
    near = torch.zeros(40, 52, dtype=torch.bool)
    for side, length in ((0, 40), (1, 52)):
        for start in tile_starts(length, tile, 0.5):
            if start > 0:
                near.narrow(side, start, radius).fill_(True)
            if start + tile < length:
                near.narrow(side, start + tile - radius, radius).fill_(True)
    assert 0.2 < near.float().mean() < 0.8
    assert error[~near].max() < 1e-5
    assert error[near].max() > 1e-2


def test_prediction_with_flip_does_not_know_left_from_right():
    model, pixel_values = Net(3, stride=4), images(16, 27)
    probs = predict_probs(model, pixel_values, flip=True)
    mirrored = predict_probs(model, pixel_values.flip(-1), flip=True)
    torch.testing.assert_close(mirrored.flip(-1), probs, atol=1e-5, rtol=0)
    assert (probs - predict_probs(model, pixel_values)).abs().max() > 1e-3


def test_logits_are_averaged_over_scales_and_flips():
    # The logarithm of a probability is the logit up to a constant of the pixel, which the softmax takes out again.
    model, pixel_values = Net(3, stride=2), images(21, 30)
    parts = [predict_probs(model, pixel_values, scales=(scale,), flip=True, tile=12).log() for scale in (0.5, 1, 2)]
    flipped = predict_probs(model, pixel_values.flip(-1)).flip(-1).log()
    both = torch.softmax((predict_probs(model, pixel_values).log() + flipped) / 2, 1)
    probs = predict_probs(model, pixel_values, scales=(0.5, 1, 2), flip=True, tile=12)
    torch.testing.assert_close(probs, torch.softmax(sum(parts) / 3, 1), atol=1e-5, rtol=0)
    torch.testing.assert_close(predict_probs(model, pixel_values, flip=True), both, atol=1e-5, rtol=0)


def test_batches_that_the_model_sees():
    model = Net(1)
    predict_probs(model, images(20, 50, batch=1), scales=(0.5, 2), tile=(16, 32), overlap=0.25)
    assert model.batches == [(1, 10, 25)] + [(1, 32, 64)] * 4  # 40 × 100 at scale 2: two rows of two tiles
    model.batches.clear()
    predict_probs(model, images(3, 2, batch=1), scales=(0.1,), tile=8, flip=True)
    assert model.batches == [(1, 1, 1)] * 2
    # Two images and their mirror images: of each image 2 tiles at scale 1/2, 9 at the others.
    model.batches.clear()
    settings = {"scales": (0.5, 2, 1), "flip": True, "tile": (8, 16), "overlap": 0.25}
    probs = predict_probs(model, images(16, 40), max_tiles_per_batch=5, **settings)
    many = [5] * 7 + [1]
    expected = [(n, 8, 16) for n in (5, 3)] + [(n, 16, 32) for n in many] + [(n, 8, 16) for n in many]
    assert model.batches == expected
    torch.testing.assert_close(probs, predict_probs(model, images(16, 40), **settings))


class PeakMemory(TorchDispatchMode):
    """The most bytes of tensors alive at once that operators have made."""

    alive = peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, torch.Tensor) and not hasattr(storage := tensor.untyped_storage(), "counted"):
                storage.counted = True
                self.alive += storage.nbytes()
                self.peak = max(self.peak, self.alive)
                weakref.finalize(storage, self.release, storage.nbytes())
        return out

    def release(self, num_bytes):
        self.alive -= num_bytes


def test_memory_does_not_grow_with_the_number_of_tiles():
    class Classifier(nn.Module):
        def forward(self, pixel_values):
            return SimpleNamespace(logits=pixel_values[:, :1].expand(-1, 64, -1, -1) * 2)

    pixel_values, peaks = images(64, 128, batch=1), []
    for tile, overlap in ((32, 0.0), (32, 0.8)):
        with PeakMemory() as memory:
            predict_probs(Classifier(), pixel_values, (1, 2), True, tile, overlap, max_tiles_per_batch=2)
        peaks.append(memory.peak)
    size, scaled, tiles = (64 * 4 * pixels for pixels in (64 * 128, 128 * 256, 2 * 64 * 64))
    # The sum of the scale and the average; the batch of logits, and a tile's mirrored logits.
    assert max(peaks) < 1.1 * (scaled + 2 * size + 2 * tiles)
    assert peaks[1] < 1.02 * peaks[0]


def test_compiled_model():
    model, pixel_values = Net(3, stride=2), images(24, 40)
    settings = {"scales": (0.5, 1), "flip": True, "tile": 16, "max_tiles_per_batch": 4}
    probs = predict_probs(torch.compile(model, backend="aot_eager"), pixel_values, **settings)
    torch.testing.assert_close(probs, predict_probs(model, pixel_values, **settings))


def test_image_processors_model_of_transformers():
    config = SegformerConfig(
        num_encoder_blocks=2,
        depths=[1, 1],
        sr_ratios=[2, 1],
        hidden_sizes=[8, 16],
        patch_sizes=[7, 3],
        strides=[4, 2],
        num_attention_heads=[1, 2],
        mlp_ratios=[2, 2],
        decoder_hidden_size=16,
        num_labels=5,
    )
    model, pixel_values = SegformerForSemanticSegmentation(config).eval(), images(33, 47)
    probs = predict_probs(model, pixel_values)
    assert probs.shape == (2, 5, 33, 47) and probs.dtype == torch.float32
    with torch.no_grad():
        logits = model(pixel_values).logits
    assert logits.shape[-2:] != (33, 47)
    torch.testing.assert_close(probs, upsample_logits(logits, (33, 47)).softmax(1))
    tiled = predict_probs(model, pixel_values, scales=(0.5, 1), tile=(24, 32), flip=True)
    assert tiled.shape == probs.shape
    torch.testing.assert_close(tiled.sum(1), torch.ones(2, 33, 47))


def test_model_is_left_as_it_was():
    model = Net(1)
    model.layers.insert(1, nn.Dropout(0.9))
    model.layers.append(nn.BatchNorm2d(4))
    model.train()
    model.layers[-1].eval()  # frozen, as in fine-tuning
    pixel_values = images(8, 8).requires_grad_()
    first, second = predict_probs(model, pixel_values), predict_probs(model, pixel_values)
    assert torch.equal(first, second) and not first.requires_grad
    assert model.training and model.layers[1].training and not model.layers[-1].training

    model.forward = None
    with pytest.raises(TypeError):
        predict_probs(model, pixel_values)
    assert model.training and not model.layers[-1].training


def test_half_precision_logits_are_averaged_in_float32():
    class Half(nn.Module):
        def forward(self, pixel_values):
            return SimpleNamespace(logits=pixel_values.to(torch.bfloat16))

    pixel_values = images(30, 30)
    probs = predict_probs(Half(), pixel_values, tile=10, flip=True)
    assert probs.dtype == torch.float32
    torch.testing.assert_close(probs, pixel_values.to(torch.bfloat16).float().softmax(1))
    assert upsample_logits(pixel_values.half(), (60, 60)).dtype == torch.float32
    assert upsample_logits(pixel_values, (30, 30)) is pixel_values


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"scales": ()}, "scales must hold"),
        ({"scales": (1.0, 0.0)}, "scales must hold"),
        ({"scales": (float("nan"),)}, "scales must hold"),
        ({"overlap": 1.0}, "overlap must be"),
        ({"overlap": -0.1}, "overlap must be"),
        ({"tile": 0}, "tile must be"),
        ({"tile": (8, 0)}, "tile must be"),
        ({"tile": (8, 8, 8)}, "tile must be"),
        ({"max_tiles_per_batch": 0}, "max_tiles_per_batch must be"),
        ({"pixel_values": torch.zeros(3, 8, 8)}, "pixel_values must have"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        predict_probs(Net(1), **({"pixel_values": images(8, 8)} | arguments))

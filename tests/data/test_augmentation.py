import colorsys
import math
import pickle

import cv2
import numpy as np
import pytest
import torch
from transformers import HfArgumentParser

from scl_hf.data.augmentation import Augmentation, AugmentationArguments, crop_interval
from scl_hf.data.normalization import Normalization
from scl_hf.data.sampler import Sample
from scl_hf.errors import InputError

IMAGE_MEAN, IMAGE_STD, _ = Normalization()
PLAIN = {"brightness": 0, "contrast": 0, "saturation": 0, "hue": 0, "blur_probability": 0}


def augmentation(crop_size=(24, 32), **fields):
    return Augmentation(AugmentationArguments(crop_size=list(crop_size), **fields), Normalization())


@pytest.fixture
def frame():
    """Blocks of 8×8 pixels, each with its own id; red is 5 times the id, so that an image tells its label."""
    label = np.random.default_rng(0).integers(0, 50, (6, 8), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    return np.stack([label * 5, 255 - label, label], -1), label


def shown_ids(crop):
    red = crop["pixel_values"][0] * IMAGE_STD[0] + IMAGE_MEAN[0]
    return (red * 51).round().long()


def test_crop_at_scale_1_is_a_copy(frame):
    for seed in range(20):
        crop = augmentation(scale_range=[1.0, 1.0], **PLAIN)(*frame, Sample(0, seed))
        assert torch.equal(shown_ids(crop), crop["labels"])


@pytest.mark.parametrize("axis", ["x", "y"])
def test_scaled_image_and_label_stay_aligned(axis):
    ramp = np.tile(np.arange(0, 240, 2, dtype=np.uint8), (120, 1))
    ramp = ramp if axis == "x" else ramp.T.copy()
    image = np.stack([ramp] * 3, -1)
    off = []
    for seed in range(40):
        crop = augmentation((40, 40), scale_range=[0.55, 2.0], **PLAIN)(image, ramp, Sample(0, seed))
        gray = (crop["pixel_values"][0] * IMAGE_STD[0] + IMAGE_MEAN[0]) * 255
        inner = crop["valid"] & (crop["labels"] > 8) & (crop["labels"] < 230)
        off.append((gray - crop["labels"])[inner].mean().item())
    # Two gray values are one pixel: each crop is right to half a pixel, and all of them to a twentieth.
    assert max(map(abs, off)) < 1 and abs(np.mean(off)) < 0.1


def test_flip_turns_image_and_label(frame):
    fields = {"crop_size": (48, 64), "scale_range": [1.0, 1.0], **PLAIN}
    straight = augmentation(flip_probability=0, **fields)(*frame, Sample(0, 1))
    turned = augmentation(flip_probability=1, **fields)(*frame, Sample(0, 1))
    np.testing.assert_array_equal(straight["labels"].numpy(), frame[1])
    for name in ("pixel_values", "labels", "valid"):
        assert torch.equal(turned[name], straight[name].flip(-1))


def test_padding_is_mean_color_ignored_and_invalid(frame):
    for seed in range(10):
        crop = augmentation((64, 48), scale_range=[0.5, 1.2])(*frame, Sample(0, seed))
        padded = ~crop["valid"]
        assert torch.equal(padded, crop["labels"] == 255)
        assert (crop["pixel_values"][:, padded] == 0).all()
        rows, columns = crop["valid"].any(1).nonzero(), crop["valid"].any(0).nonzero()
        assert crop["valid"].sum() == len(rows) * len(columns) > 0
        assert padded.any()


def test_image_much_smaller_than_the_crop_still_shows():
    crop = augmentation((9, 9), scale_range=[0.1, 0.1])(
        np.zeros((2, 3, 3), np.uint8), np.zeros((2, 3), np.uint8), Sample(0, 0)
    )
    assert crop["valid"].sum() == 1


def test_crop_shows_its_center_in_the_middle_half(frame):
    image, _ = frame
    label = np.full((48, 64), 255, np.uint8)
    label[20, 30] = 7
    for seed in range(30):
        augment = augmentation((16, 16), scale_range=[1.0, 1.5], **PLAIN)
        y, x = (augment(image, label, Sample(0, seed, (30.0, 20.0)))["labels"] == 7).nonzero().float().mean(0).tolist()
        assert 2.5 <= y <= 12.5 and 2.5 <= x <= 12.5


@pytest.mark.parametrize("center", [None, 0.0, 99.0])
@pytest.mark.parametrize("length, crop, scale", [(100, 32, 1.0), (100, 32, 0.7), (33, 32, 1.0), (20, 32, 1.3)])
def test_crop_stays_inside_and_is_full_where_it_can_be(center, length, crop, scale):
    for offset in np.linspace(0, 1, 41, endpoint=False):
        image_from, image_to, crop_from, crop_to = crop_interval(length, crop, scale, offset, center)
        assert 0 <= image_from < image_to <= length and 0 <= crop_from < crop_to <= crop
        if length * scale >= crop:
            assert (crop_from, crop_to) == (0, crop)
            assert math.isclose(image_to - image_from, crop / scale)
        else:
            assert (image_from, image_to) == (0, length)
            assert abs(crop_to - crop_from - length * scale) <= 1


def test_all_offsets_are_reached_equally_often():
    starts = [crop_interval(13, 10, 1.0, offset)[0] for offset in np.linspace(0, 1, 400, endpoint=False)]
    assert np.unique(starts, return_counts=True)[1].tolist() == [100] * 4


def test_crop_depends_on_the_sample_alone_and_leaves_global_generators(frame):
    augment = augmentation()
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = augment(*frame, Sample(0, 2**63 - 1))
    assert torch.equal(torch_state, torch.get_rng_state())
    np.testing.assert_array_equal(numpy_state, np.random.get_state()[1])
    torch.manual_seed(99)
    again = pickle.loads(pickle.dumps(augment))(*frame, Sample(5, 2**63 - 1))
    for name in first:
        assert torch.equal(first[name], again[name])
    assert not torch.equal(first["pixel_values"], augment(*frame, Sample(0, 1))["pixel_values"])


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue", "blur_probability"])
def test_each_color_change_acts_on_the_image_alone(frame, name):
    fields = {"scale_range": [1.0, 1.0], **PLAIN}
    plain = augmentation(**fields)(*frame, Sample(0, 4))
    changed = augmentation(**fields | {name: 0.5 if name == "hue" else 1})(*frame, Sample(0, 4))
    assert torch.equal(plain["labels"], changed["labels"])
    assert (plain["pixel_values"] - changed["pixel_values"]).abs().mean() > 0.01
    low, high = ((torch.tensor([bound]) - torch.tensor(IMAGE_MEAN)) / torch.tensor(IMAGE_STD) for bound in (0, 1))
    assert (changed["pixel_values"] >= low.view(3, 1, 1) - 1e-5).all()
    assert (changed["pixel_values"] <= high.view(3, 1, 1) + 1e-5).all()


def test_hue_turns_by_parts_of_the_color_circle():
    red = np.full((24, 32, 3), (255, 0, 0), np.uint8)
    turns = set()
    for seed in range(60):
        crop = augmentation(scale_range=[1.0, 1.0], **PLAIN | {"hue": 0.25})(red, None, Sample(0, seed))
        r, g, b = (crop["pixel_values"][:, 0, 0] * torch.tensor(IMAGE_STD) + torch.tensor(IMAGE_MEAN)).tolist()
        assert r > 0.49  # at most a quarter of the circle away from red
        turns.add("green" if g > b else "blue")
    assert turns == {"green", "blue"}


def test_unlabeled_crop_has_no_labels(frame):
    crop = augmentation()(frame[0], None, Sample(0, 0))
    assert set(crop) == {"pixel_values", "valid"}
    assert (crop["pixel_values"].shape, crop["pixel_values"].dtype) == ((3, 24, 32), torch.float32)


def test_normalization_takes_mean_and_std(frame):
    pixels = Normalization((0.5, 0.5, 0.5), (0.25, 0.5, 1.0)).of(frame[0])
    expected = (np.asarray(frame[0]) / 255 - 0.5) / [0.25, 0.5, 1.0]
    np.testing.assert_allclose(pixels.permute(1, 2, 0).numpy(), expected, atol=1e-6)


def test_crop_size_may_be_one_number_and_comes_from_a_command_line():
    assert AugmentationArguments(crop_size=[64]).crop_size == [64, 64]
    (args,) = HfArgumentParser(AugmentationArguments).parse_args_into_dataclasses(
        ["--crop_size", "96", "192", "--blur_sigma", "0.1", "1", "--hue", "0"]
    )
    assert (args.crop_size, args.blur_sigma, args.hue, args.contrast) == ([96, 192], [0.1, 1.0], 0.0, 0.25)


@pytest.mark.parametrize(
    "name, value",
    [
        ("crop_size", [0, 64]),
        ("crop_size", [1, 2, 3]),
        ("scale_range", [2.0, 0.5]),
        ("scale_range", [0.0, 1.0]),
        ("flip_probability", 1.1),
        ("brightness", -0.1),
        ("hue", 0.6),
        ("blur_probability", 2),
        ("blur_sigma", [0.5]),
    ],
)
def test_fields_out_of_range_are_named(name, value):
    with pytest.raises(InputError, match=f"^{name}: "):
        AugmentationArguments(**{name: value})


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("scale", [0.5, 0.63, 0.97, 1.0, 1.3, 2.0])
def test_edge_falls_on_the_same_place_in_image_and_label(axis, scale):
    """To a tenth of a source pixel, also far from the corner that a crop is measured from."""
    label = np.zeros((600, 600), np.uint8)
    label[480:] = 1
    label = label if axis == 0 else label.T.copy()
    image = np.stack([255 * label] * 3, -1)
    for seed in range(5):
        sample = Sample(0, seed, (480.0, 480.0))
        crop = augmentation((260, 260), scale_range=[scale, scale], **PLAIN)(image, label, sample)
        assert crop["valid"].all()
        gray = crop["pixel_values"][0] * IMAGE_STD[0] + IMAGE_MEAN[0]
        grays = gray[130] if axis else gray[:, 130]
        labels = crop["labels"][130] if axis else crop["labels"][:, 130]
        # The label's edge lies at a whole pixel of the crop, the image's where it is: half a pixel of the crop apart.
        assert abs(grays.sum().item() - labels.sum().item()) <= 0.5 + 0.1 * scale
        offset = np.random.default_rng(seed).random(6)[2 - axis]
        covered = 260 - (480 - crop_interval(600, 260, scale, offset, 480.0)[0]) * scale
        assert abs(grays.sum().item() - covered) < 0.1 * scale


def test_shrinking_averages_and_does_not_skip():
    """Stripes finer than the pixels of the crop become gray."""
    stripes = np.tile(np.array([0, 255], np.uint8), (200, 100))
    image = np.stack([stripes] * 3, -1)
    crop = augmentation((100, 100), scale_range=[0.5, 0.5], **PLAIN)(image, None, Sample(0, 0))
    gray = crop["pixel_values"][0] * IMAGE_STD[0] + IMAGE_MEAN[0]
    assert crop["valid"].all() and (gray - 0.5).abs().max() < 0.01


def moved(name, limit, pixels):
    """Pixels (h, w, 3) in [0, 1] before and after one change at scale 1, and its strength of -1 to 1."""
    image = np.rint(255 * pixels).astype(np.uint8)
    fields = {"scale_range": [1.0, 1.0], "flip_probability": 0, **PLAIN, name: limit}
    for seed in range(8):
        crop = augmentation(pixels.shape[:2], **fields)(image, None, Sample(0, seed))
        after = crop["pixel_values"] * torch.tensor(IMAGE_STD).view(3, 1, 1) + torch.tensor(IMAGE_MEAN).view(3, 1, 1)
        rng = np.random.default_rng(seed)
        rng.random(6)
        strengths = dict(zip(("brightness", "contrast", "saturation", "hue"), rng.uniform(-1, 1, 4)))
        yield np.asarray(image) / 255, after.permute(1, 2, 0).numpy(), strengths.get(name)


@pytest.fixture
def pixels():
    colors = np.random.default_rng(1).random((40, 48, 3))
    colors[0, :4] = [[1, 0, 0], [0, 0, 1], [1, 1, 0], [0.5, 0.5, 0.5]]
    return colors


def test_colors_change_as_defined(pixels):
    weights = np.array([0.299, 0.587, 0.114])
    for before, after, strength in moved("brightness", 0.6, pixels):
        np.testing.assert_allclose(after, np.clip((1 + 0.6 * strength) * before, 0, 1), atol=1e-5)
    for before, after, strength in moved("contrast", 0.6, pixels):
        factor, mean = 1 + 0.6 * strength, (before @ weights).mean()
        np.testing.assert_allclose(after, np.clip(factor * before + (1 - factor) * mean, 0, 1), atol=1e-5)
    for before, after, strength in moved("saturation", 0.6, pixels):
        factor, gray = 1 + 0.6 * strength, (before @ weights)[..., None]
        np.testing.assert_allclose(after, np.clip(factor * before + (1 - factor) * gray, 0, 1), atol=1e-5)
    for before, after, strength in moved("hue", 0.5, pixels):
        turned = [colorsys.rgb_to_hsv(*color) for color in before.reshape(-1, 3)]
        turned = [colorsys.hsv_to_rgb((hue + 0.5 * strength) % 1, *rest) for hue, *rest in turned]
        np.testing.assert_allclose(after.reshape(-1, 3), turned, atol=1e-5)


def test_blur_is_gaussian_with_replicated_border(pixels):
    for sigma in (0.3, 1.1):
        image = np.rint(255 * pixels).astype(np.uint8)
        fields = {"scale_range": [1.0, 1.0], "flip_probability": 0, **PLAIN, "blur_probability": 1}
        crop = augmentation((40, 48), **fields, blur_sigma=[sigma, sigma])(image, None, Sample(0, 0))
        after = crop["pixel_values"] * torch.tensor(IMAGE_STD).view(3, 1, 1) + torch.tensor(IMAGE_MEAN).view(3, 1, 1)
        radius = math.ceil(3 * sigma)
        kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
        expected = np.pad(np.asarray(image) / 255, [(radius, radius), (radius, radius), (0, 0)], mode="edge")
        for axis in (0, 1):
            expected = np.apply_along_axis(np.convolve, axis, expected, kernel / kernel.sum(), mode="valid")
        np.testing.assert_allclose(after.permute(1, 2, 0).numpy(), expected, atol=1e-4)


def test_opencv_has_one_thread_inside_and_its_own_outside(frame, monkeypatch):
    inside, resize = [], cv2.resize
    monkeypatch.setattr(cv2, "resize", lambda *args, **kw: inside.append(cv2.getNumThreads()) or resize(*args, **kw))
    before = cv2.getNumThreads()
    try:
        cv2.setNumThreads(2)
        augmentation()(*frame, Sample(0, 0))
        assert inside == [1] and cv2.getNumThreads() == 2
        with pytest.raises(AttributeError):
            augmentation()(None, None, Sample(0, 0))
        assert cv2.getNumThreads() == 2
    finally:
        cv2.setNumThreads(before)

"""Prediction of whole images, the streamed metric, and images written behind the model."""

import argparse
import os
import tempfile
from pathlib import Path
from types import SimpleNamespace

import datasets
import evaluate
import numpy as np
import psutil
import torch
import torch.nn.functional as F
from torch import nn

from scl_hf import DeepLabV3PlusConfig, DeepLabV3PlusForSemanticSegmentation
from scl_hf.data.sources.cityscapes import ID2LABEL
from scl_hf.inference import predict_probs, tile_starts
from scl_hf.metrics import MeanIoU
from scl_hf.prediction.inputs import Input
from scl_hf.prediction.writers import PredictionFolder, WriteQueue
from scl_hf.pretrained import Checkpoint

from .common import print_table, print_targets, time_in_turn

NUM_CLASSES = 19
SCALES = (0.5, 1, 2)  # with flips and tiles as high as the image: the paper's evaluation on Cityscapes
REDUCED = {
    "stem_channels": 8,
    "depths": [1, 1, 1, 1, 1, 1],
    "channels": [[16, 16], [32, 32], [64, 64], [64, 64], [32, 64, 128], [64, 64, 128]],
    "aspp_channels": 32,
    "skip_channels": 16,
    "decoder_channels": 32,
}
# A quarter of that: on one core, the plain loop takes 15 s on an image of 1024×2048.
NARROW = {
    "stem_channels": 4,
    "depths": [1, 1, 1, 1, 1, 1],
    "channels": [[4, 4], [8, 8], [8, 8], [8, 8], [8, 8, 16], [8, 8, 16]],
    "aspp_channels": 8,
    "skip_channels": 4,
    "decoder_channels": 8,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--height", type=int, default=1024, help="images of height × 2 height (default: 1024)")
    parser.add_argument("--images", type=int, default=4, help="images that are scored and written (default: 4)")
    parser.add_argument("--kept_images", type=int, default=12, help="images scored to see what is kept (default: 12)")


def run(args: argparse.Namespace) -> None:
    height, width = args.height, 2 * args.height
    wide = (height, -(-3 * width // 80) * 16)  # two that share a third: 3/5 of the width each, up to a multiple of 16
    targets = [
        *measure_augmented(height, width, wide, min(args.rounds, 3)),
        measure_compute(height, width, wide),
        *measure_metric(height, width, args.images, args.kept_images, min(args.rounds, 3)),
        measure_writing(height, width, args.images, min(args.rounds, 3)),
    ]
    print_targets(
        f"Targets (set for 1024×2048 on one core; this run: {height}×{width}, threads: {args.threads})", targets
    )


def plain_loop(model: nn.Module, image: torch.Tensor, tile: int) -> torch.Tensor:
    """Test-time augmentation written down plainly: tile by tile, in float32."""
    size, total = image.shape[-2:], 0
    for scale in SCALES:
        scaled = F.interpolate(image, scale_factor=scale, mode="bilinear", antialias=True)
        height, width = (min(round(tile * max(1, scale)), side) for side in scaled.shape[-2:])
        logits = torch.zeros(1, NUM_CLASSES, *scaled.shape[-2:], device=image.device)
        count = torch.zeros_like(logits[:, :1])
        for top in tile_starts(scaled.shape[-2], height, 1 / 3):
            for left in tile_starts(scaled.shape[-1], width, 1 / 3):
                window = (..., slice(top, top + height), slice(left, left + width))
                for mirrored in (False, True):
                    pixels = scaled[window].flip(-1) if mirrored else scaled[window]
                    part = F.interpolate(model(pixel_values=pixels).logits, (height, width), mode="bilinear")
                    logits[window] += part.flip(-1) if mirrored else part
                    count[window] += 1
        total = total + F.interpolate(logits / count, size, mode="bilinear")
    return torch.softmax(total / len(SCALES), dim=1)


@torch.no_grad()
def measure_augmented(height: int, width: int, wide: tuple[int, int], rounds: int) -> list[tuple]:
    """Measures the paper's test-time augmentation on one image, against the plain loop."""
    on_gpu = torch.cuda.is_available()
    torch.manual_seed(0)
    config = DeepLabV3PlusConfig(**({} if on_gpu else NARROW))
    device = torch.device("cuda" if on_gpu else "cpu")
    model = DeepLabV3PlusForSemanticSegmentation(config).eval().to(device)
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    image = torch.randn(1, 3, height, width, device=device)

    def augmented(model: nn.Module = model, tile=height, tiles: int = 1, half: bool = False) -> torch.Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            return predict_probs(model, image, SCALES, True, tile, max_tiles_per_batch=tiles)

    cases = {"plain loop, float32": lambda: plain_loop(model, image, height), "square tiles": augmented}
    cases["square tiles, batches of 4"] = lambda: augmented(tiles=4)
    cases["wide tiles"] = lambda: augmented(tile=wide)
    if on_gpu:
        compiled = torch.compile(model)
        cases["square tiles, bfloat16"] = lambda: augmented(half=True)
        cases["square tiles, bfloat16, compiled"] = lambda: augmented(compiled, half=True)
        cases["wide tiles, bfloat16, compiled"] = lambda: augmented(compiled, wide, half=True)
        for case in cases.values():  # chooses kernels and compiles
            case()
    corner, tile = image[..., : height // 4, : width // 4], height // 4
    difference = predict_probs(model, corner, SCALES, True, tile) - plain_loop(model, corner, tile)
    difference = difference.abs().max().item()
    measured = time_in_turn(cases, rounds)
    loop = measured["plain loop, float32"]
    described = f"full-size model, {torch.cuda.get_device_name()}" if on_gpu else "model of a few channels"
    print_table(
        f"Scales {', '.join(map(str, SCALES))}, mirrored, overlap 1/3, on one image of {height}×{width}: {described}, "
        f"{parameters:.3g} M parameters; squares of {height}, wide tiles of {wide[0]}×{wide[1]}; the largest "
        f"difference to the loop, on a corner, is {difference:.1e}",
        ["", "s", "times faster than the loop"],
        [[name, m.milliseconds / 1e3, loop.times_slower_than(m)] for name, m in measured.items()],
    )
    name = "test-time augmentation, same tiles: time / the plain loop's"
    return [
        (name, measured["square tiles"].times_slower_than(loop), "≤", 1.0),
        ("test-time augmentation, probabilities: largest difference to the plain loop", difference, "≤", 1e-4),
    ]


def measure_compute(height: int, width: int, wide: tuple[int, int]) -> tuple:
    """Counts the pixels that go through the model, by shape of the tiles."""

    class CountPixels(nn.Module):
        def forward(self, pixel_values: torch.Tensor) -> SimpleNamespace:
            self.pixels += pixel_values[:, 0].numel()
            self.largest = max(self.largest, pixel_values[0, 0].numel())
            return SimpleNamespace(logits=pixel_values[:, :1, ::8, ::8])

    def count(tile: int | tuple[int, int] | None) -> CountPixels:
        counter = CountPixels()
        counter.pixels = counter.largest = 0
        predict_probs(counter, torch.zeros(1, 3, height, width), SCALES, True, tile)
        return counter

    tiles = {"whole images": None, f"{height}×{height}": height, f"{wide[0]}×{wide[1]}": wide}
    counted = {name: count(tile) for name, tile in tiles.items()}
    whole = counted["whole images"]
    print_table(
        f"Pixels through the model, scales {', '.join(map(str, SCALES))}, mirrored, overlap 1/3, {height}×{width}",
        ["tile", "million pixels", "times whole images", "largest input, share of the whole"],
        [[name, c.pixels / 1e6, c.pixels / whole.pixels, c.largest / whole.largest] for name, c in counted.items()],
    )
    ratio = counted[f"{wide[0]}×{wide[1]}"].pixels / whole.pixels
    return f"compute with tiles of {wide[0]}×{wide[1]} / whole images", ratio, "≤", 1.2


class StoredMeanIoU(evaluate.Metric):
    """Mean IoU as other metrics of `evaluate` compute it: stores every label map, counts at the end."""

    def _info(self) -> evaluate.MetricInfo:
        label_maps = datasets.Sequence(datasets.Sequence(datasets.Value("uint16")))
        features = datasets.Features({"predictions": label_maps, "references": label_maps})
        return evaluate.MetricInfo(description="", citation="", features=features)

    def _compute(self, predictions, references) -> dict[str, float]:
        matrix = np.zeros(NUM_CLASSES**2, dtype=np.int64)
        for prediction, reference in zip(predictions, references):
            prediction, reference = np.array(prediction), np.array(reference)
            counted = reference != 255
            pairs = reference[counted] * NUM_CLASSES + prediction[counted]
            matrix += np.bincount(pairs, minlength=NUM_CLASSES**2)
        matrix = matrix.reshape(NUM_CLASSES, NUM_CLASSES)
        with np.errstate(invalid="ignore"):  # a class that does not occur is 0 / 0
            iou = matrix.diagonal() / (matrix.sum(0) + matrix.sum(1) - matrix.diagonal())
        return {"mean_iou": float(np.nanmean(iou))}


def label_map(height: int, width: int, seed: int) -> np.ndarray:
    """Returns labels in patches of 32 pixels, a few of them ignored."""
    patches = np.random.default_rng(seed).integers(0, NUM_CLASSES + 1, (height // 32 + 1, width // 32 + 1))
    labels = patches.repeat(32, axis=0).repeat(32, axis=1)[:height, :width]
    return np.where(labels == NUM_CLASSES, 255, labels)


def memory_and_disk(folder: str) -> np.ndarray:
    """Returns the MiB of this process's memory and of a folder's files."""
    files = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
    return np.array([psutil.Process().memory_info().rss, files]) / 2**20


def measure_metric(height: int, width: int, num_images: int, kept_images: int, rounds: int) -> list[tuple]:
    """Measures the streamed metric against one that stores its input."""
    references = [torch.from_numpy(label_map(height, width, seed))[None] for seed in range(num_images)]
    predictions = [(labels.roll(5, dims=-1) % 255) % NUM_CLASSES for labels in references]
    scores, kept = {}, {}

    def streamed() -> None:
        metric = MeanIoU(NUM_CLASSES)
        for prediction, reference in zip(predictions, references):
            metric.add_batch(predictions=prediction, references=reference)
        scores["streamed"] = metric.compute()["mean_iou"]

    def stored() -> None:
        with tempfile.TemporaryDirectory() as folder:
            metric = StoredMeanIoU(cache_dir=folder)
            for prediction, reference in zip(predictions, references):
                metric.add_batch(predictions=prediction.numpy(), references=reference.numpy())
            scores["stored"] = metric.compute()["mean_iou"]

    measured = time_in_turn({"streamed": streamed, "stored": stored}, rounds)
    if abs(scores["streamed"] - scores["stored"]) > 1e-12:
        raise AssertionError(f"the metrics differ: {scores}")
    ratio = measured["stored"].times_slower_than(measured["streamed"])
    milliseconds = measured["streamed"].milliseconds / num_images
    for name in measured:
        with tempfile.TemporaryDirectory() as folder:
            metric = MeanIoU(NUM_CLASSES) if name == "streamed" else StoredMeanIoU(cache_dir=folder)
            for index in range(kept_images + 1):
                metric.add_batch(predictions=predictions[0].numpy(), references=references[0].numpy())
                if index == 0:
                    first = memory_and_disk(folder)  # with the buffers that are reused
            kept[name] = (memory_and_disk(folder) - first) / kept_images
            metric.compute() if name == "streamed" else metric.writer.finalize()
    print_table(
        f"Mean IoU of {num_images} images of {height}×{width}, {NUM_CLASSES} classes; what memory and the metric's "
        f"files grow by, over {kept_images} images after the first",
        ["", "ms an image", "images/s", "memory, MiB an image", "files, MiB an image"],
        [
            [name, m.milliseconds / num_images, 1e3 * num_images / m.milliseconds, *kept[name]]
            for name, m in measured.items()
        ],
    )
    return [
        ("streamed metric: images/s / stored metric's", ratio, "≥", 10.0),
        ("streamed metric, ms an image", milliseconds, "≤", 8.0),
    ]


@torch.no_grad()
def measure_writing(height: int, width: int, num_images: int, rounds: int) -> tuple:
    """Measures how much of the time of writing images scripts/predict.py hides behind the model."""
    torch.manual_seed(0)
    model = DeepLabV3PlusForSemanticSegmentation(DeepLabV3PlusConfig(**REDUCED, id2label=ID2LABEL)).eval()
    image = torch.randn(1, 3, height, width)
    prediction = label_map(height, width, 0).astype(np.uint8) % NUM_CLASSES
    pixels = prediction[..., None] * 12 + np.random.default_rng(0).integers(0, 8, (height, width, 3), dtype=np.uint8)
    inputs = [Input(f"{index}.png", str(index)) for index in range(num_images)]

    with tempfile.TemporaryDirectory() as output:
        folder = PredictionFolder(output, ["color", "overlay", "train_ids"], Checkpoint("benchmark", model), {})

        def alone() -> None:
            for _ in inputs:
                predict_probs(model, image)

        def in_turn() -> None:
            for item in inputs:
                predict_probs(model, image)
                folder.write(item, pixels, prediction, None)

        def behind() -> None:
            with WriteQueue(threads=4, waiting=8) as queue:
                for item in inputs:
                    predict_probs(model, image)
                    queue.submit(folder.write, item, pixels, prediction, None)

        measured = time_in_turn({"model alone": alone, "model, then PNGs": in_turn, "PNGs behind": behind}, rounds)
    seconds = zip(*(m.seconds for m in measured.values()))
    hidden = float(
        np.median([1 - (queue - model_alone) / (turn - model_alone) for model_alone, turn, queue in seconds])
    )
    print_table(
        f"Colors, overlay and train ids of {num_images} images of {height}×{width}, written as predict.py does, "
        f"one forward of the reduced model each, {os.cpu_count()} cores",
        ["", "ms an image"],
        [[name, m.milliseconds / num_images] for name, m in measured.items()],
    )
    return "time of writing PNGs that is hidden behind the model, share", hidden, "≥", 0.7

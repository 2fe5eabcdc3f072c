"""
Reading, cropping and indexing of images of the size of Cityscapes.

Crops and the class index are measured in CPU seconds, so that a neighbor's load does not count.
"""

import argparse
import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import datasets
import numpy as np
import psutil
import torch
from PIL import Image
from torch.utils.data import DataLoader, default_collate
from toy_dataset import RARE, draw_street
from toy_dataset.scene import City

from scl_hf import (
    DeepLabV3PlusConfig,
    DeepLabV3PlusForSemanticSegmentation,
    SemiSupervisedConfig,
    SemiSupervisedTrainer,
)
from scl_hf.data import AugmentationArguments, DataArguments, load_data
from scl_hf.data.augmentation import Augmentation
from scl_hf.data.class_index import ClassIndex, tile_centroids
from scl_hf.data.crops import Crops
from scl_hf.data.labels import read_label, read_pair
from scl_hf.data.normalization import Normalization
from scl_hf.data.sampler import LabeledSampler, Sample
from scl_hf.data.sources.cityscapes import ID2LABEL, LABEL_IMAGE, open_source
from scl_hf.errors import InputError

from .common import print_table, print_targets

TILE = 1024
SUFFIXES = {"leftImg8bit": "leftImg8bit.png", "gtFine": "gtFine_labelIds.png", "gtCoarse": "gtCoarse_labelIds.png"}
NO_COLORS = {"brightness": 0, "contrast": 0, "saturation": 0, "hue": 0}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--width", type=int, default=2048, help="width of the images, twice the height (default: 2048)"
    )
    parser.add_argument("--crop_size", type=int, default=896, help="side of the crops (default: 896)")
    parser.add_argument("--images", type=int, default=8, help="images that differ (default: 8)")
    parser.add_argument("--crops", type=int, default=48, help="samples whose crops are timed (default: 48)")
    parser.add_argument("--labels", type=int, default=500, help="labels of the class index (default: 500)")
    parser.add_argument("--plain_labels", type=int, default=40, help="of them, by SciPy as well (default: 40)")
    parser.add_argument("--rows", type=int, default=23475, help="images of the tree that is opened (default: 23475)")
    parser.add_argument("--worker_crops", type=int, default=2000, help="crops of the loader's worker (default: 2000)")
    parser.add_argument("--steps", type=int, default=60, help="training steps on a GPU, if there is one (default: 60)")


def run(args: argparse.Namespace) -> None:
    try:
        from scipy.ndimage import center_of_mass
    except ImportError as error:
        raise InputError("SciPy is not installed; install it with pip install 'scl_hf[benchmark]'") from error
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as folder:
        datasets.config.HF_DATASETS_CACHE = Path(folder, "cache")
        draw_tree(Path(folder, "toy_dataset"), args)
        dataset = load_data(DataArguments(data_dir=f"{folder}/toy_dataset"), evaluate=False).labeled
        start = time.process_time()
        class_index = ClassIndex.build(dataset, tile=TILE)
        index_seconds = time.process_time() - start

        augmentation = Augmentation(AugmentationArguments(crop_size=[args.crop_size]), Normalization())
        labeled = Crops(dataset, augmentation)
        unlabeled = Crops(dataset.remove_columns("label"), augmentation)
        sampler = LabeledSampler(len(dataset), seed=0, class_index=class_index)
        speed, beyond_decode = measure_crops(labeled, unlabeled, sampler, args)
        index_speed = measure_index(dataset, index_seconds, center_of_mass, args)
        growth = measure_worker(labeled, sampler, args)
        opening = measure_opening(Path(folder, "placeholders"), args.rows)
        targets = [
            ("crops/s and core / those of scaling whole images", speed, "≥", 1.5),
            ("time beyond the decoding / decoding", beyond_decode, "≤", 0.4),
            ("class index / SciPy, speed, reading included", index_speed, "≥", 5.0),
            (f"worker, growth of the peak in the second half of {args.worker_crops} crops, MiB", growth, "≤", 16.0),
            (f"opening {args.rows} images, warm, s", opening, "≤", 5.0),
        ]
        if torch.cuda.is_available():
            waiting = measure_waiting(dataset, Path(folder, "run"), args.steps)
            targets.append(("share of the step waiting for data, 4 workers", waiting, "≤", 0.02))
    print_targets(
        f"Targets (set for images of 2048×1024, crops of 896×896; this run: {args.width}×{args.width // 2}, "
        f"{args.crop_size}×{args.crop_size})",
        targets,
    )


def file_in(root: Path, kind: str, split: str, number: int) -> Path:
    city = f"city{number // 1000:02}"
    return root / kind / split / city / f"{city}_{number:06d}_000019_{SUFFIXES[kind]}"


def draw_tree(root: Path, args: argparse.Namespace) -> None:
    """`args.labels` images and labels in the folder layout of Cityscapes, `args.images` of them different files."""
    rng = np.random.default_rng(0)
    width, height = args.width, args.width // 2
    sizes = []
    for number in range(args.images):
        # Every second image mirrors the one before it, with other noise: drawing takes seconds.
        if number % 2 == 0:
            frame, ids = draw_street(rng, City.sample(rng), width // 2, height // 2, RARE[number // 2 % len(RARE)])
            frame = np.asarray(frame.resize((width, height), Image.Resampling.BILINEAR), np.float32)
            ids = ids.repeat(2, axis=0).repeat(2, axis=1)
        else:
            frame, ids = frame[:, ::-1], np.ascontiguousarray(ids[:, ::-1])
        noisy = np.rint(frame + rng.normal(0, 0.5, frame.shape)).clip(0, 255).astype(np.uint8)
        for kind, image in (("leftImg8bit", noisy), ("gtFine", ids)):
            path = file_in(root, kind, "train", number)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
        sizes.append(os.path.getsize(file_in(root, "leftImg8bit", "train", number)))
    for number in range(args.images, args.labels):
        for kind in ("leftImg8bit", "gtFine"):
            target = file_in(root, kind, "train", number)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(file_in(root, kind, "train", number % args.images), target)
    print(
        f"{args.images} PNGs of {width}×{height}, {np.mean(sizes) / 1e6:.2f} MB each (those of Cityscapes have 2.3), "
        f"linked to {max(args.images, args.labels)} names"
    )


def scale_whole(labeled: Crops, unscaled: Augmentation, sample: Sample) -> dict[str, torch.Tensor]:
    """Makes a crop the usual way: decodes, scales the whole image and label, cuts the crop out."""
    example = labeled.dataset[sample.row]
    with Image.open(example["image"]["path"]) as image:
        image = image.convert("RGB")
    label = read_label(example["label"], labeled.dataset.features["label"])
    smallest, largest = labeled.augmentation.args.scale_range
    scale = smallest + (largest - smallest) * np.random.default_rng(sample.seed).random()
    size = round(scale * image.width), round(scale * image.height)
    image = np.asarray(image.resize(size, Image.Resampling.BILINEAR))
    label = np.asarray(Image.fromarray(label).resize(size, Image.Resampling.NEAREST))
    center = sample.center and (scale * sample.center[0], scale * sample.center[1])
    return unscaled(image, label, sample._replace(center=center))


def measure_crops(
    labeled: Crops, unlabeled: Crops, sampler: LabeledSampler, args: argparse.Namespace
) -> tuple[float, float]:
    """Prints crops per second and where their time goes; returns the speed-up and the time beyond decoding."""
    augmentation = labeled.augmentation
    plain, colors, unscaled = (
        Augmentation(replace(augmentation.args, **changed), augmentation.normalization)
        for changed in (NO_COLORS | {"blur_probability": 0}, {"blur_probability": 0}, {"scale_range": [1.0, 1.0]})
    )

    def decode(column: str, sample: Sample) -> None:
        with Image.open(labeled.dataset[sample.row][column]["path"]) as image:
            image.load()

    def decode_image(sample: Sample) -> None:
        cv2.imread(labeled.dataset[sample.row]["image"]["path"], cv2.IMREAD_COLOR_RGB)

    cases: dict[str, Callable[[Sample], object]] = {
        "labeled": lambda sample: labeled[sample],
        "unlabeled": lambda sample: unlabeled[sample],
        "whole": lambda sample: scale_whole(labeled, unscaled, sample),
        "image": decode_image,
        "image, Pillow": lambda sample: decode("image", sample),
        "label": lambda sample: decode("label", sample),
        "pair": lambda sample: read_pair(labeled.dataset[sample.row], labeled.dataset.features),
        "window": lambda sample: plain(image, None, sample),
        "colors": lambda sample: colors(image, None, sample),
        "blur": lambda sample: augmentation(image, None, sample),
        "crop": lambda sample: augmentation(image, label, sample),
    }
    seconds = {name: [] for name in cases}
    for sample in sampler(0)[: args.crops]:
        image, label = read_pair(labeled.dataset[sample.row], labeled.dataset.features)
        labeled[sample]  # one-time costs
        of_sample = {name: [] for name in cases}
        for _ in range(min(args.rounds, 3)):
            for name, case in cases.items():
                start = time.process_time()
                case(sample)
                of_sample[name].append(time.process_time() - start)
        for name in cases:
            seconds[name].append(np.median(of_sample[name]))
    ms = {name: 1e3 * float(np.mean(values)) for name, values in seconds.items()}

    speed = ms["whole"] / ms["labeled"]
    print_table(
        f"Crops per second and core, {len(seconds['labeled'])} samples of an epoch",
        ["", "ms", "crops/s", "times scaling whole images"],
        [
            ["labeled crop: one resampling of its window", ms["labeled"], 1e3 / ms["labeled"], speed],
            ["unlabeled crop", ms["unlabeled"], 1e3 / ms["unlabeled"], ms["whole"] / ms["unlabeled"]],
            ["decode, scale image and label as a whole (Pillow), crop", ms["whole"], 1e3 / ms["whole"], 1.0],
        ],
    )
    decoding = ms["image"] + ms["label"]
    parts = [
        ["decode the image", ms["image"]],
        ["decode the label", ms["label"]],
        ["orientation, label table, sizes", ms["pair"] - decoding],
        ["window, resampling, normalization", ms["window"]],
        ["colors", ms["colors"] - ms["window"]],
        ["blur", ms["blur"] - ms["colors"]],
        ["label's window", ms["crop"] - ms["blur"]],
        ["all of it", ms["labeled"]],
        ["(decode the image with Pillow)", ms["image, Pillow"]],
    ]
    print_table(
        "Where the time of a labeled crop goes (the last three steps as differences)",
        ["", "ms", "times decoding"],
        [[name, value, value / decoding] for name, value in parts],
    )
    seconds_of_pair = (ms["labeled"] + 2 * ms["unlabeled"]) / 1e3
    print(
        f"\nA step on one labeled and two unlabeled crops takes {seconds_of_pair:.3f} s of one core: 4 workers on "
        f"cores of their own keep up with steps of {seconds_of_pair / 4:.3f} s and more."
    )
    return speed, (ms["labeled"] - decoding) / decoding


def measure_index(
    dataset: datasets.Dataset, index_seconds: float, center_of_mass: Callable, args: argparse.Namespace
) -> float:
    """Prints milliseconds per label of the class index and of a loop over the classes; returns the speed-up."""

    def by_class(label: np.ndarray) -> list[tuple]:
        found = []
        for top, left in itertools.product(range(0, label.shape[0], TILE), range(0, label.shape[1], TILE)):
            part = label[top : top + TILE, left : left + TILE]
            for category in range(len(ID2LABEL)):
                mask = part == category
                if mask.any():
                    y, x = center_of_mass(mask)
                    found.append((category, left + x, top + y))
        return found

    reading, ours, plain = [], [], []
    for example in dataset.select(range(min(args.plain_labels, len(dataset)))):
        times = [time.process_time()]
        label = read_label(example["label"], LABEL_IMAGE)
        times.append(time.process_time())
        centroids = tile_centroids(label, len(ID2LABEL), TILE)
        times.append(time.process_time())
        expected = by_class(label)
        times.append(time.process_time())
        if not np.allclose(np.stack([centroids[name] for name in ("category", "x", "y")], axis=1), expected):
            raise AssertionError(f"{example['label']['path']}: the class index and SciPy differ")
        for seconds, taken in zip((reading, ours, plain), np.diff(times)):
            seconds.append(1e3 * taken)
    found, looped = np.median(ours), np.median(plain)
    of_index, of_loop = 1e3 * index_seconds / len(dataset), np.median(np.add(reading, plain))
    print_table(
        f"Class index, ms a label: {len(dataset)} labels, one core; by SciPy {len(plain)} of them",
        ["", "class index", "SciPy's center of mass per class", "ratio"],
        [
            ["centroids of a label in memory", float(found), float(looped), float(looped / found)],
            ["from the files, all included", of_index, float(of_loop), float(of_loop / of_index)],
        ],
    )
    return float(of_loop / of_index)


def with_memory(crops: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor | int]:
    """Collates a batch, with the resident memory of its worker."""
    return default_collate(crops) | {"resident": psutil.Process().memory_info().rss}


def measure_worker(labeled: Crops, sampler: LabeledSampler, args: argparse.Namespace) -> float:
    """Prints the resident memory of a loader's worker over many crops; returns how much its peak still grows."""
    many = [sample for epoch in range(-(-args.worker_crops // len(sampler))) for sample in sampler(epoch)]
    loader = DataLoader(labeled, sampler=many[: args.worker_crops], num_workers=1, collate_fn=with_memory)
    resident = [batch["resident"] / 2**20 for batch in loader]
    first, half = len(resident) // 10, len(resident) // 2
    # Single readings vary by a crop or two, as freed memory goes back to the system in batches.
    growth = max(resident[half:]) - max(resident[first:half])
    print_table(
        f"Resident memory of a worker of the DataLoader, crops of {args.crop_size}×{args.crop_size}, MiB",
        [f"after {first} crops", f"after {len(resident)}", f"peak up to {half}", "peak after that", "growth"],
        [[resident[first], resident[-1], max(resident[first:half]), max(resident[half:]), growth]],
    )
    return growth


def measure_opening(root: Path, num_rows: int) -> float:
    """Prints how long a tree of placeholders takes to open, twice; returns the second time."""
    num_train, num_val = max(1, num_rows * 2975 // 23475), max(1, num_rows * 500 // 23475)
    splits = {"train": num_train, "val": num_val, "train_extra": num_rows - num_train - num_val}
    for split, count in splits.items():
        for kind, number in itertools.product(SUFFIXES, range(count)):
            if kind != "gtFine" or split != "train_extra":
                path = file_in(root, kind, split, number)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(path.name)
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        source = open_source(DataArguments(data_dir=str(root)))
        num_opened = sum(len(source.open(split, split in source.labeled_splits)) for split in source.splits)
        seconds.append(time.perf_counter() - start)
    print_table(f"Opening {num_opened} images with their annotations, s", ["first time", "again"], [seconds])
    return seconds[1]


class TimedTrainer(SemiSupervisedTrainer):
    """Records when each step asks for its batch, with the GPU idle, and when it gets it."""

    def get_batch_samples(self, *args, **kwargs) -> Iterator:
        torch.cuda.synchronize()
        start = time.perf_counter()
        batch = super().get_batch_samples(*args, **kwargs)
        torch.cuda.synchronize()
        self.times.append((start, time.perf_counter()))
        return batch


def measure_waiting(dataset: datasets.Dataset, output_dir: Path, steps: int) -> float:
    """Prints how long the full model's training steps on the GPU wait for their batches; returns that share."""
    trainer = TimedTrainer(
        model=DeepLabV3PlusForSemanticSegmentation(DeepLabV3PlusConfig(id2label=ID2LABEL)),
        args=SemiSupervisedConfig(
            output_dir=str(output_dir),
            max_steps=steps,
            per_device_train_batch_size=1,
            crop_size=[896, 896],
            num_boxes=32,
            num_loss_boxes=16,
            semi_supervised_start_step=0,
            eval_strategy="no",
            dataloader_num_workers=4,
            bf16=True,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=dataset,
        unlabeled_dataset=dataset.remove_columns("label"),
    )
    trainer.times = []
    trainer.train()
    times = trainer.times[steps // 4 :]  # without the first steps, which start workers and choose kernels
    asked, given = np.array(times).T
    step, wait = np.diff(asked).mean(), (given - asked)[:-1].mean()
    print_table(
        f"Training steps of the full model on {torch.cuda.get_device_name()}, 4 workers on {os.cpu_count()} cores",
        ["step, ms", "waiting for data, ms", "share"],
        [[1e3 * step, 1e3 * wait, float(wait / step)]],
    )
    return float(wait / step)

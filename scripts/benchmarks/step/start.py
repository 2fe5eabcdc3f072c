"""Seconds from the command to the first step of scripts/train.py."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import yaml
from PIL import Image
from toy_dataset import draw_toy_dataset

from ..common import print_table
from ..data import file_in
from .case import NARROW, NARROW_CROP, NARROW_SETTINGS

ROOT = Path(__file__).parents[3]
STAMPED = Path(__file__).with_name("stamped.py")
TOY_IMAGES = {"width": 192, "height": 96, "num_train": 20, "num_train_extra": 240}
TINY_SIZE = (64, 32)


def measure_start(folder: Path, images: tuple[int, int], threads: int) -> None:
    """Prints how long a run on the toy dataset, and one on many tiny files, take to their first step, twice."""
    toy_images, tree = folder / "toy_dataset", folder / "tree"
    draw_toy_dataset(toy_images, **TOY_IMAGES)
    draw_tiny_tree(tree, *images)
    cases = {
        "the toy dataset": (toy_images, []),
        f"{images[0]} + {images[1]} tiny files": (tree, ["--crop_size", "32", "64"]),
    }
    columns, seconds = {}, {}
    for name, (data_dir, more) in cases.items():
        for again in (False, True):
            column = f"{name}, again" if again else name
            columns[column] = time_start(data_dir, folder / "start", more, threads)
            seconds[column] = sum(columns[column].values())
    parts = list(next(iter(columns.values())))
    rows = [[part, *(column[part] for column in columns.values())] for part in parts]
    print_table(
        "From the command to the end of the first step, narrow DeepLabV3+, s",
        ["until", *columns],
        [*rows, ["in all", *seconds.values()]],
    )


def time_start(data_dir: Path, folder: Path, more: list[str], threads: int) -> dict[str, float]:
    """Returns the seconds of each part of a start."""
    stamps, recipe = folder.with_suffix(".json"), folder.with_suffix(".yaml")
    fields = {"output_dir": str(folder), "data_dir": str(data_dir), "max_steps": 1500, "model_config": NARROW}
    fields |= {"crop_size": list(NARROW_CROP), "class_uniform_tile": NARROW_CROP[0]} | NARROW_SETTINGS
    recipe.write_text(yaml.safe_dump(fields))
    train = [str(ROOT / "scripts/train.py"), str(recipe), "--overwrite_output_dir", "true", "--report_to", "none"]
    train += more
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "HF_DATASETS_CACHE": str(folder.parent / "cache")}
    started = time.time()
    result = subprocess.run(
        [sys.executable, str(STAMPED), str(stamps), *train], env=environment, capture_output=True, text=True
    )
    if result.returncode or not stamps.exists():
        raise RuntimeError(f"scripts/train.py ended before its first step: {result.stderr.strip()[-500:]}")
    times = json.loads(stamps.read_text())
    stamps.unlink()
    return {name: after - before for (name, after), (_, before) in zip(times.items(), [("", started), *times.items()])}


def draw_tiny_tree(root: Path, num_train: int, num_val: int) -> None:
    """Draws images and labels of a few pixels in the folder layout of Cityscapes, no two alike."""
    rng, (width, height) = np.random.default_rng(0), TINY_SIZE
    for split, number in (("train", num_train), ("val", num_val)):
        for i in range(number):
            pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
            # Blocks of the ids that Cityscapes trains on
            ids = rng.choice(np.array([7, 8, 11, 21, 23, 24, 26], np.uint8), (4, 4)).repeat(height // 4, 0)
            for kind, image in (("leftImg8bit", pixels), ("gtFine", ids.repeat(width // 4, 1))):
                path = file_in(root, kind, split, i)
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image).save(path, compress_level=1)

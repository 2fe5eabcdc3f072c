"""Time and memory of a step: an encoder in both precisions, with one and four images, and compiled."""

import functools
import statistics
from collections.abc import Callable, Iterator

import torch
from transformers import PreTrainedModel

from scl_hf.errors import InputError

from ..common import print_table
from ..encoders import CASES as ENCODERS
from . import variants
from .case import NAMES, Case, ToyImages, build_trainer
from .growth import TOO_LARGE, release

SMALL = 112  # side of the crops on a CPU; a multiple of all encoders' patches
ADAMW = {"optim": "adamw_torch", "optim_args": None, "learning_rate": 1e-5}
ROUNDS, STEPS = 2, 3  # of each row: an encoder is to take two or three minutes of a GPU


def encoder_cases(crop_size: int | None) -> list[Case]:
    """Returns a case for each encoder of the recipes."""
    found = []
    for name, (build, side, optimizer) in ENCODERS.items():
        side = crop_size or (side if torch.cuda.is_available() else SMALL)
        settings = ADAMW if optimizer == "adamw" else {}
        found.append(Case(name, functools.partial(named, build), (side, side), settings, steps=STEPS, rounds=ROUNDS))
    return found


def named(build: Callable[[], PreTrainedModel]) -> PreTrainedModel:
    """Returns a model with the class names of the images."""
    model = build()
    model.config.update(NAMES)
    return model


def measure_grid(case: Case, toy_images: ToyImages) -> None:
    header = ["images", "precision", "compiled", "step, ms", "images/s of the student", "peak, MiB", ""]
    print_table(f"Steps: {case.name}, {case.crop[0]}×{case.crop[1]}", header, grid_rows(case, toy_images))


def grid_rows(case: Case, toy_images: ToyImages) -> Iterator[list[object]]:
    precisions = ("bf16", "float32") if torch.cuda.is_available() else ("float32",)  # bfloat16 is slow on a CPU
    rows = [(images, precision, False) for images in (1, 4) for precision in precisions]
    for images, precision, compiled in [*rows, (1, precisions[0], True)]:
        fields = {"per_device_train_batch_size": images} | (variants.VARIANTS["torch.compile"][0] if compiled else {})
        row = [f"{images} + {images}", precision, "yes" if compiled else ""]
        trainer = build_trainer(case, toy_images, **fields, bf16=precision == "bf16")
        try:
            note = variants.first_round(trainer)
            seconds = statistics.median(trainer.round() for _ in range(case.rounds))
            yield [*row, 1e3 * seconds, 2 * images / seconds, trainer.peak_bytes() / 2**20, note]
        except InputError:  # out of memory
            yield [*row, TOO_LARGE, "", "", ""]
        except Exception as error:  # a compiler may be missing
            if not compiled:
                raise
            yield [*row, "not measured", "", "", f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"]
        release(trainer)

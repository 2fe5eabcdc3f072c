"""Growth of a step's cost with the crop, the boxes and the batch; losses.py has that with the classes."""

from collections.abc import Iterator
from dataclasses import replace

import torch

from scl_hf.errors import InputError

from ..common import print_table
from .case import Case, MeasuredTrainer, ToyImages, build_trainer
from .parts import DATA, EMA, L_C, L_SC, L_X, LOSSES, MIX, STUDENT, TEACHER, TRANSFER, Parts, measure_parts

BOXES = (4, 16, 32, 64)
BATCHES = (1, 2, 4, 8)
HEADER = [
    "step without data, ms",
    "networks, ms",
    "L_x",
    "L_c",
    "L_sc",
    "other of the method",
    "its share",
    "peak MiB",
]
TOO_LARGE = "does not fit into the memory"


def measure_growth(case: Case, toy_images: ToyImages) -> None:
    """Prints a table for each, the other settings as in the case."""
    case = replace(case, steps=min(case.steps, 3))  # there are many rows
    sides = scaled_crops(case)
    tables: dict[str, dict[str, Case]] = {
        "crop": {f"{height}×{width}": replace(case, crop=(height, width)) for height, width in sides},
        "boxes N, half of them with a loss": {
            str(number): case.changed(num_boxes=number, num_loss_boxes=number // 2) for number in BOXES
        },
        "labeled images, and as many mixed ones": {
            str(number): case.changed(per_device_train_batch_size=number) for number in BATCHES
        },
    }
    for what, rows in tables.items():
        print_table(f"Growth with the {what}: {case}", [what, *HEADER], growth_rows(rows, toy_images))


def scaled_crops(case: Case) -> list[tuple[int, int]]:
    factors = (0.25, 0.5, 1) if torch.cuda.is_available() else (0.5, 1, 2)
    return [tuple(max(16, round(factor * side / 16) * 16) for side in case.crop) for factor in factors]


def growth_rows(rows: dict[str, Case], toy_images: ToyImages) -> Iterator[list[object]]:
    for name, case in rows.items():
        trainer = build_trainer(case, toy_images)
        try:
            parts = measure_parts(trainer)
            yield [name, *growth_of(parts), trainer.peak_bytes() / 2**20]
        except InputError:  # out of memory
            yield [name, TOO_LARGE, *[""] * 7]
        release(trainer)


def growth_of(parts: Parts) -> list[object]:
    def ms(*names: str) -> float:
        return sum(parts.of[name].milliseconds for name in names)

    other = (MIX, LOSSES, EMA)
    share = parts.share([L_X, L_C, L_SC, *other])
    networks = ms(STUDENT, TEACHER)
    return [parts.milliseconds - ms(DATA, TRANSFER), networks, ms(L_X), ms(L_C), ms(L_SC), ms(*other), f"{share:.1%}"]


def release(trainer: MeasuredTrainer) -> None:
    """Frees a trainer's memory on a GPU."""
    trainer.model = trainer.model_wrapped = trainer.teacher = trainer.optimizer = None
    if torch.cuda.is_available():
        torch.cuda.empty_cache()

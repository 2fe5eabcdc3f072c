"""What switches of the recipe and of torch change in time and memory, each beside the default."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import Trainer

from ..common import in_turn, print_table
from .case import Case, MeasuredTrainer, Town, build_trainer

Change = Callable[[MeasuredTrainer], None]


def with_optimizer(**switches: bool) -> Change:
    """Another implementation of the same optimizer."""

    def change(trainer: MeasuredTrainer) -> None:
        optimizer_class, settings = Trainer.get_optimizer_cls_and_kwargs(trainer.args, trainer.model)
        settings |= {"weight_decay": trainer.args.weight_decay} | switches
        trainer.optimizer = optimizer_class(trainer.model.parameters(), **settings)

    return change


def weights_channels_last(trainer: MeasuredTrainer) -> None:
    for model in (trainer.model, trainer.teacher.module):
        model.to(memory_format=torch.channels_last)


def teacher_in_float32(trainer: MeasuredTrainer) -> None:
    model = trainer.teacher.module
    model.forward = torch.autocast(trainer.args.device.type, enabled=False)(model.forward)


def kernels_by_trial(trainer: MeasuredTrainer) -> None:
    trainer.train = torch.backends.cudnn.flags(enabled=True, benchmark=True)(trainer.train)


VARIANTS: dict[str, tuple[dict[str, Any], Change | None]] = {
    "default": ({}, None),
    "torch.compile": ({"torch_compile": True}, None),
    "activation checkpointing": ({"activation_checkpointing": True}, None),
    "weights channels-last": ({}, weights_channels_last),
    "optimizer foreach": ({}, with_optimizer(foreach=True)),
    "optimizer fused": ({}, with_optimizer(fused=True)),
    "structured loss of 9000 pairs": ({"num_pairs": 9000}, None),
}
# bfloat16 on a CPU says nothing: some take a hundred times as long, and some that announce it cannot do it.
ON_GPU = {
    "teacher in float32": ({}, teacher_in_float32),
    "convolutions chosen by trial": ({}, kernels_by_trial),
    "all in float32": ({"bf16": False}, None),
}


def measure_variants(case: Case, town: Town) -> None:
    """Prints step time and peak memory of each variant, and what compiling takes."""
    trainers, notes = {}, {}
    for name, (fields, change) in (VARIANTS | (ON_GPU if torch.cuda.is_available() else {})).items():
        try:
            trainer = build_trainer(case, town, **fields)
            if change is not None:
                change(trainer)
            trainers[name], notes[name] = trainer, first_round(trainer)
        except Exception as error:
            notes[name] = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
            trainers.pop(name, None)
    seconds = in_turn({name: trainer.round for name, trainer in trainers.items()}, case.rounds)
    peaks = {name: trainer.peak_bytes() for name, trainer in trainers.items()}
    base, base_peak, rows = seconds["default"], peaks["default"], []
    for name, note in notes.items():
        if name not in trainers:
            rows.append([name, *["not measured"] * 4, note])
            continue
        ratio = statistics.median(own / other for own, other in zip(seconds[name], base, strict=True))
        peak = peaks[name]
        rows.append([name, 1e3 * statistics.median(seconds[name]), ratio, peak / 2**20, peak / base_peak, note])
    header = ["", "step, ms", "times the default", "peak, MiB", "times the default", ""]
    print_table(f"Variants: {case}", header, rows)


def first_round(trainer: MeasuredTrainer) -> str:
    """Trains once; says what compiling took, if the model is compiled."""
    if not trainer.args.torch_compile:
        trainer.train()
        return ""
    from torch._dynamo.utils import counters  # seconds

    torch._dynamo.reset()
    counters.clear()
    start = time.perf_counter()
    trainer.train()
    first = time.perf_counter() - start
    start = time.perf_counter()
    trainer.train()
    compiling = first - (time.perf_counter() - start)
    graphs, breaks = counters["stats"]["unique_graphs"], sum(counters["graph_break"].values())
    return f"{compiling:.0f} s of compiling, {graphs} graph(s), {breaks} graph break(s)"

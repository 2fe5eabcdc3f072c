"""
The training step: its parts, its cost beside a plain step, and how that grows.

By default it measures the parts of the step, its rate and memory, and the ratio to a plain step, for each of three
models. --variants, --grow and --start measure what they say instead; --everything measures all, the encoders of the
recipes first, into one file. After --minutes it begins nothing more, and the same command again does the rest:

    python scripts/benchmark.py step --everything --output step.md

A part's time is that of its torch.profiler range; the backward pass of a loss is the time of its operators' gradients,
found by autograd's sequence numbers. On a GPU the model has its full size, precision is bfloat16, and a part's time is
that of its kernels. On the CPU --full asks for the full size, and calls that would wait for a GPU are counted.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import datasets
import torch

from scl_hf.errors import InputError

from ..common import Measured, in_turn, print_table, print_targets
from .case import Case, ToyImages, build_trainer, cases, matrix_rate, repeat
from .grid import encoder_cases, measure_grid
from .growth import measure_growth, release
from .parts import METHOD, host_reads, measure_parts, parts_table
from .plain import PlainStep
from .processes import measure_processes
from .start import measure_start
from .variants import measure_variants

MODELS = ("tiny", "segformer", "full")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description, parser.formatter_class = __doc__, argparse.RawDescriptionHelpFormatter
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), help="which (default: all)")
    parser.add_argument("--crop_size", type=int, help="side of the crops (default: one for each model)")
    parser.add_argument("--steps", type=int, default=5, help="steps in a round, after two others (default: 5)")
    parser.add_argument("--full", action="store_true", help="the large model at 896×896 on a CPU, too")
    parser.add_argument("--variants", action="store_true", help="torch.compile, checkpointing, optimizers instead")
    parser.add_argument("--grow", action="store_true", help="crops, boxes, batches, processes instead")
    parser.add_argument("--start", action="store_true", help="seconds from the command to the first step instead")
    parser.add_argument("--everything", action="store_true", help="all of this; a failure is named and skipped")
    parser.add_argument(
        "--minutes", type=float, default=12, help="after which --everything begins no table (default: 12)"
    )
    parser.add_argument(
        "--images", type=int, nargs=2, default=[2975, 500], help="of the tree that --start opens (default: 2975 500)"
    )


def run(args: argparse.Namespace) -> None:
    datasets.disable_progress_bars()
    on_gpu, found = torch.cuda.is_available(), cases(args)
    # The model of the tables for one model: on a GPU the paper's, if it is in --models
    main = "full" if on_gpu and "full" in found else next(iter(found))
    alone = not (args.variants or args.grow or args.start)
    summary, targets, begun = [], [], time.perf_counter()
    earlier = args.output.read_text(encoding="utf-8") if args.everything and args.output else ""
    with tempfile.TemporaryDirectory() as folder:
        datasets.config.HF_DATASETS_CACHE = Path(folder, "cache")
        toy_images = ToyImages(Path(folder), images=8 if on_gpu else 2)
        sections: dict[str, Callable[[], object]] = {}
        for case in encoder_cases(args.crop_size) if args.everything else ():
            sections[f"the encoder {case.name}"] = lambda case=case: measure_grid(case, toy_images)
        if alone or args.everything:
            for name, case in found.items():
                sections[f"the step of {case}"] = lambda name=name, case=case: summary.append(
                    measure_step(case, toy_images, targets if name == ("full" if on_gpu else "tiny") else [])
                )
            sections["the table of all models"] = lambda: print_summary(summary)
        if args.variants or args.everything:
            sections["variants"] = lambda: measure_variants(found[main], toy_images)
        if args.grow or args.everything:
            sections["growth"] = lambda: measure_growth(found[main], toy_images)
            sections["processes"] = lambda: measure_processes(main, found[main], toy_images, args)
        if args.start or args.everything:
            sections["the start"] = lambda: measure_start(Path(folder), args.images, args.threads)
        for name, measure in sections.items():
            start = time.perf_counter()
            if args.everything and f"\n({name} took " in earlier:
                continue
            if args.everything and start - begun > 60 * args.minutes:
                print(f"\n{name} and what follows: the time is up; the same command does the rest", flush=True)
                break
            try:
                measure()
            except Exception as error:  # one failing table must not lose the others
                if not args.everything:
                    raise
                print(f"\n{name}: not measured ({type(error).__name__}: {str(error).strip()[:300]})", flush=True)
            if args.everything:
                print(f"\n({name} took {time.perf_counter() - start:.0f} s)", flush=True)
    if targets:
        machine = torch.cuda.get_device_name() if on_gpu else f"set for two cores; this run: {args.threads} threads"
        print_targets(f"Targets ({machine})", targets)


def measure_step(case: Case, toy_images: ToyImages, targets: list[tuple]) -> list[object]:
    """Prints the parts of a case's step and its host reads; adds to `targets`; returns a line of the summary."""
    on_gpu = torch.cuda.is_available()
    trainer = build_trainer(case, toy_images)
    plain = PlainStep(trainer.model, trainer.args)
    trainer.round()  # chooses kernels, and keeps the batch for the plain step

    # 1. The parts
    parts = measure_parts(trainer)
    counted = "kernels" if on_gpu else "operators"
    print_table(
        f"Parts of the step: {case}; with the profiler a step takes {parts.milliseconds:.0f} ms",
        ["", "ms", "of its gradient", "share", counted, "values read"],
        parts_table(parts),
    )
    if on_gpu:
        waits, copies = parts.synchronizations, parts.copies
        print(f"\nThe host waits {waits:.3g} times a step for the GPU, and copies {copies:.3g} times from it.")
    places = [[place, f"{number:.3g}"] for place, number in host_reads(trainer).items()]
    print_table(f"Where the host reads values of tensors: {case}", ["", "times a step"], places)

    # 2. Rate and memory
    flop = trainer.count_flops()
    rate = matrix_rate(torch.bfloat16 if trainer.args.bf16 else torch.float32)
    peak = trainer.peak_bytes() / 2**20

    # 3. Beside the plain step
    try:
        batch = trainer.last_batch
        runs = {"ours": trainer.round, "plain": lambda: repeat(lambda: plain(batch), case)}
        measured = {name: Measured(seconds, 0) for name, seconds in in_turn(runs, case.rounds).items()}
        ratio = measured["plain"].times_slower_than(measured["ours"])
        plain_peak, plain_ms = plain.peak_bytes(batch) / 2**20, measured["plain"].milliseconds
        ms = measured["ours"].milliseconds
    except (torch.OutOfMemoryError, InputError):
        print("\nThe plain step does not fit into the memory.")
        ms, plain_ms, ratio, plain_peak = 1e3 * trainer.round(), float("nan"), float("nan"), float("nan")
    achieved = flop / (ms / 1e3)
    release(trainer)

    limits = (0.5, 0.05, 2.5, 0.6) if on_gpu else (None, 0.1, 1.25, None)
    for name, value, sign, limit in (
        ("achieved, share of the matrix rate", achieved / rate, "≥", limits[0]),
        ("losses, CutMix and EMA, share of the step", parts.share(METHOD), "≤", limits[1]),
        ("plain step / step", ratio, "≥", limits[2]),
        ("peak memory / plain step's", peak / plain_peak, "≤", limits[3]),
        ("waiting for data, share of the step", parts.waiting / parts.milliseconds, "≤", 0.02 if on_gpu else None),
    ):
        if limit is not None:
            targets.append((f"{case.name}: {name}", value, sign, limit))
    share = f"{achieved / rate:.0%}"
    figures = [number / unit()[1] for number in (flop, achieved, rate)]
    return [case, ms, plain_ms, ratio, peak, plain_peak, peak / plain_peak, *figures, share]


def unit() -> tuple[str, float]:
    """Returns the unit of operations: those of a GPU are a thousand times those of a CPU."""
    return ("TFLOP", 1e12) if torch.cuda.is_available() else ("GFLOP", 1e9)


def print_summary(rows: list[list[object]]) -> None:
    header = ["", "step, ms", "plain, ms", "plain / ours", "peak, MiB", "plain, MiB", "ours / plain"]
    header += [unit()[0], f"{unit()[0]}/s", "of matrix products", "share"]
    print_table("The step beside the plain one: data left out, medians of rounds in turn", header, rows)

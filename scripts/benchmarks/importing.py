"""Seconds to import the package, beside transformers, each in a process of its own."""

import argparse
import statistics
import subprocess
import sys
import time

from .common import print_table, print_targets

CASES = ("from transformers import Trainer", "import scl_hf", "from scl_hf import SemiSupervisedTrainer")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds nothing: this benchmark has no arguments of its own."""


def run(args: argparse.Namespace) -> None:
    seconds = {code: [] for code in CASES}
    for code in CASES:
        time_import(code)  # warms the file cache
    for _ in range(args.rounds):
        for code in CASES:
            seconds[code].append(time_import(code))
    base = seconds[CASES[0]]
    ratios = {code: statistics.median(a / b for a, b in zip(seconds[code], base, strict=True)) for code in CASES}
    rows = [[f"`{code}`", statistics.median(seconds[code]), ratios[code]] for code in CASES]
    print_table("Importing in a new process", ["", "s", "times the first"], rows)
    print_targets("Targets", [(f"`{CASES[1]}` / `{CASES[0]}`", ratios[CASES[1]], "≤", 1.1)])


def time_import(code: str) -> float:
    """Returns the seconds of a new process that imports."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    return time.perf_counter() - start

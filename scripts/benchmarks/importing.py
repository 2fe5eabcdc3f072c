"""Seconds to import the package, beside transformers, each in a process of its own."""

import argparse
import functools
import subprocess
import sys

from .common import print_table, print_targets, time_in_turn

CASES = ("from transformers import Trainer", "import scl_hf", "from scl_hf import SemiSupervisedTrainer")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds nothing: this benchmark has no arguments of its own."""


def run(args: argparse.Namespace) -> None:
    start = functools.partial(subprocess.run, check=True, capture_output=True)
    cases = {code: functools.partial(start, [sys.executable, "-c", code]) for code in CASES}
    time_in_turn(cases, 1)  # warms the file cache
    measured = time_in_turn(cases, args.rounds)
    first = measured[CASES[0]]
    rows = [[f"`{code}`", m.milliseconds / 1e3, m.times_slower_than(first)] for code, m in measured.items()]
    print_table("Importing in a new process", ["", "s", "times the first"], rows)
    print_targets("Targets", [(f"`{CASES[1]}` / `{CASES[0]}`", rows[1][2], "≤", 1.1)])

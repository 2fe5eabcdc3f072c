"""Timing, memory and tables of the benchmarks."""

import io
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import torch
from torch.profiler import ProfilerActivity, profile

Step = Callable[[], torch.Tensor]


@dataclass
class Measured:
    seconds: list[float]  # one per round
    peak_bytes: int

    @property
    def milliseconds(self) -> float:
        return 1e3 * statistics.median(self.seconds)

    def times_slower_than(self, other: "Measured") -> float:
        """Returns the median of the rounds' ratios, in which the load of a round cancels."""
        return statistics.median(a / b for a, b in zip(self.seconds, other.seconds, strict=True))


def measure(cases: dict[str, Step], leaves: list[torch.Tensor], rounds: int) -> dict[str, Measured]:
    """Times forward and backward of each case, all cases in turn in each round, after one run for the memory."""

    def forget_gradients() -> None:
        for leaf in leaves:
            leaf.grad = None

    def timed(step: Step) -> float:
        forget_gradients()
        start = time.perf_counter()
        step().backward()
        return time.perf_counter() - start

    peaks = {}
    for name, step in cases.items():
        forget_gradients()
        peaks[name] = peak_memory(lambda step=step: step().backward())
    seconds = in_turn({name: lambda step=step: timed(step) for name, step in cases.items()}, rounds)
    return {name: Measured(seconds[name], peaks[name]) for name in cases}


def in_turn(runs: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Returns the seconds that each run reports, all runs in turn in each round."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            seconds[name].append(run())
    return seconds


def time_in_turn(cases: dict[str, Callable[[], object]], rounds: int) -> dict[str, Measured]:
    """Returns the seconds of each case, all cases in turn in each round."""
    measured = {name: Measured([], 0) for name in cases}
    for _ in range(rounds):
        for name, case in cases.items():
            start = time.perf_counter()
            case()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            measured[name].seconds.append(time.perf_counter() - start)
    return measured


def peak_memory(run: Callable[[], object]) -> int:
    """
    Returns the most bytes alive at once, beyond those alive before. It sums the profiler's log of all allocations and
    releases of torch's CPU allocator, those inside kernels included.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as log:
        run()
    events = [event for event in log.profiler.kineto_results.events() if event.name() == "[memory]"]
    alive = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        alive += event.nbytes()
        peak = max(peak, alive)
    return peak


def print_table(title: str, header: list[str], rows: list[list[object]]) -> None:
    def text(cell: object) -> str:
        return str(cell) if not isinstance(cell, float) else f"{cell:.0f}" if cell >= 100 else f"{cell:.3g}"

    print(f"\n### {title}\n")
    print("| " + " | ".join(header) + " |")
    print("|" + " --- |" * len(header))
    for row in rows:
        print("| " + " | ".join(text(cell) for cell in row) + " |", flush=True)


def print_targets(title: str, targets: list[tuple[str, float, str, float]]) -> None:
    """Prints whether each target (name, measured value, ≤ or ≥, limit) holds."""
    rows = [
        [name, value, f"{sign} {limit:g}", "yes" if (value >= limit if sign == "≥" else value <= limit) else "NO"]
        for name, value, sign, limit in targets
    ]
    print_table(title, ["", "measured", "target", "holds"], rows)


def print_machine(threads: int) -> None:
    cpu_info = Path("/proc/cpuinfo")
    lines = cpu_info.read_text().splitlines() if cpu_info.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    cpu = models[0] if models else platform.processor() or platform.machine()
    gpu = f"{torch.cuda.get_device_name()}, " if torch.cuda.is_available() else ""
    machine = f"{gpu}{cpu}, {os.cpu_count()} cores, {threads} used"
    print(f"{machine}; torch {torch.__version__}; Python {platform.python_version()}")


class Also(io.TextIOBase):
    """Writes to standard output and to a file."""

    def __init__(self, file: TextIO):
        self.streams = (sys.stdout, file)

    def write(self, text: str) -> int:
        for stream in self.streams:
            stream.write(text)
            stream.flush()
        return len(text)

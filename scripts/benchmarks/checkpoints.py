"""
Opening a saved model of full size, and the memory of converting one of the baseline.

A weight stays on the disk until its first use, so opening is timed twice: as it is, and with a copy of every weight.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from convert_checkpoint import baseline_name
from safetensors.torch import load_file
from transformers.utils import logging

from scl_hf import DeepLabV3PlusConfig, DeepLabV3PlusForSemanticSegmentation

from .common import print_table, print_targets, time_in_turn

SIZES = {}  # fields of the config, full size
CONVERT = Path(__file__).parents[1] / "convert_checkpoint.py"
# Another process in between, as the memory of the starting process would count, too
PEAK = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--folder", help="where files of 1.6 GB are written and removed (default: the system's)")


def run(args: argparse.Namespace) -> None:
    logging.disable_progress_bar()
    torch.manual_seed(0)
    model = DeepLabV3PlusForSemanticSegmentation(DeepLabV3PlusConfig(**SIZES))
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        targets = [measure_opening(model, Path(folder, "saved"), args.rounds)]
        targets += measure_conversion(model, Path(folder))
    print_targets("Targets", targets)


def measure_opening(model: DeepLabV3PlusForSemanticSegmentation, folder: Path, rounds: int) -> tuple:
    """Measures `from_pretrained` beside reading the weights and building the model on the meta device."""
    model.save_pretrained(folder)

    def parts() -> dict[str, torch.Tensor]:
        with torch.device("meta"):
            type(model)(DeepLabV3PlusConfig.from_pretrained(folder))
        return load_file(folder / "model.safetensors")

    def opened() -> dict[str, torch.Tensor]:
        return type(model).from_pretrained(folder).state_dict()

    def used(tensors: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        return [tensor.clone() for tensor in tensors.values()]

    opened()  # imports parts of the library
    cases = {
        "reading and building": parts,
        "from_pretrained": opened,
        "reading and building, weights copied": lambda: used(parts()),
        "from_pretrained, weights copied": lambda: used(opened()),
    }
    measured = time_in_turn(cases, rounds)
    ratios = [
        measured["from_pretrained" + end].times_slower_than(measured["reading and building" + end])
        for end in ("", ", weights copied")
    ]
    print_table(
        f"Opening {sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters, the file in the system's cache",
        ["", "ms", "times reading and building"],
        [[name, m.milliseconds, ratio] for (name, m), ratio in zip(measured.items(), (1, ratios[0], 1, ratios[1]))],
    )
    return "from_pretrained, weights copied / reading and building", ratios[1], "≤", 1.3


def measure_conversion(model: DeepLabV3PlusForSemanticSegmentation, folder: Path) -> list[tuple]:
    """Measures the peak memory of converting beyond that of the imports, for both formats of `torch.save`."""

    def peak(*arguments: str | Path) -> int:
        command = [sys.executable, "-c", PEAK, sys.executable, CONVERT, *arguments]
        return 1024 * int(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)

    imports, source = peak("--help"), folder / "checkpoint.pth"
    weights = {f"module.{baseline_name(name)}": tensor for name, tensor in model.state_dict().items()}
    rows, targets = [], []
    for name, is_zip in (("zip", True), ("from before torch 1.6", False)):
        torch.save({"state_dict": weights}, source, _use_new_zipfile_serialization=is_zip)
        size = os.path.getsize(source)
        taken = peak(source, "--output", folder / name) - imports
        rows.append([name, size / 2**20, taken / 2**20, taken / size])
        targets.append((f"peak memory of converting / size of the file, {name}", taken / size, "≤", 1.5))
    header = ["file", "size, MiB", "peak beyond imports, MiB", "times the file"]
    print_table(f"Converting, imports take {imports / 2**20:.0f} MiB", header, rows)
    return targets

"""One step in several processes, with gloo on CPUs and NCCL on GPUs; `torchrun` runs this module."""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import datasets
import torch

from ..common import print_table
from .case import Case, ToyImages, build_trainer, cases

NUMBERS = (1, 2, 4)


def measure_processes(name: str, case: Case, toy_images: ToyImages, args: argparse.Namespace) -> None:
    """Prints the step's time in as many processes as there are GPUs, or in 1, 2 and 4 on CPUs."""
    toy_images.labeled(case.crop[0])  # before the processes need it
    rows, alone = [], None
    for number in (n for n in NUMBERS if not torch.cuda.is_available() or n <= torch.cuda.device_count()):
        file = toy_images.folder / f"processes-{number}.json"
        own = {"folder": str(toy_images.folder), "file": str(file), "cache": str(datasets.config.HF_DATASETS_CACHE)}
        own |= {"crop": case.crop, "steps": case.steps, "rounds": min(case.rounds, 3), "threads": args.threads}
        own |= {"models": [name], "crop_size": None, "full": False}  # what `cases` reads
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(number)]
        scripts = str(Path(__file__).parents[2])
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([scripts, os.environ.get("PYTHONPATH", "")])}
        environment["OMP_NUM_THREADS"] = str(args.threads)
        result = subprocess.run(
            [*command, "--module", "benchmarks.step.processes", json.dumps(own)],
            env=environment,
            capture_output=True,
            text=True,
        )
        if result.returncode:
            rows.append([number, *["not measured"] * 3, last_line(result.stderr)])
            continue
        seconds = statistics.median(json.loads(file.read_text()))
        alone = alone or seconds
        images = 2 * number * case.settings.get("per_device_train_batch_size", 1)
        rows.append([number, 1e3 * seconds, images / seconds, number * alone / seconds, f"{alone / seconds:.0%}"])
    print_table(
        f"Processes, {os.cpu_count()} cores, {torch.cuda.device_count()} GPUs: {case} in each",
        ["processes", "step, ms", "images/s of the student", "times one process", "efficiency"],
        rows,
    )


def last_line(text: str) -> str:
    errors = [line for line in text.splitlines() if "Error" in line]
    return (errors or text.splitlines() or ["failed"])[-1].strip()[:150]


def main() -> None:
    args = argparse.Namespace(**json.loads(sys.argv[1]))
    torch.set_num_threads(args.threads)
    datasets.disable_progress_bars()
    datasets.config.HF_DATASETS_CACHE = Path(args.cache)
    (case,) = cases(args).values()
    case.crop, case.steps = tuple(args.crop), args.steps
    with contextlib.redirect_stdout(None):
        trainer = build_trainer(case, ToyImages(Path(args.folder)))
        seconds = [trainer.round() for _ in range(args.rounds)]
    if trainer.is_world_process_zero():
        Path(args.file).write_text(json.dumps(seconds))
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.end_training()


if __name__ == "__main__":
    main()

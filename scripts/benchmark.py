"""
Measures speed and memory as ratios, and says whether the project's targets hold.

    python scripts/benchmark.py checkpoints [--threads 1] [--rounds 7]
    python scripts/benchmark.py losses [--size 896] [--threads 1] [--rounds 7]
    python scripts/benchmark.py data [--crop_size 896] [--labels 500] [--threads 1] [--rounds 7]
    python scripts/benchmark.py encoders [--crop_size 518]
    python scripts/benchmark.py importing [--rounds 5]
    python scripts/benchmark.py inference [--height 1024] [--images 4] [--threads 1] [--rounds 7]
    python scripts/benchmark.py step [--everything] [--threads 1] [--rounds 7]

Prints Markdown; --output FILE.md writes it to a file, too. Run it on a quiet machine. The cases of a table are timed
in turn, round by round, and each number is the median over the rounds, so that a neighbor's load falls on all alike.
"""

import argparse
import contextlib
from pathlib import Path

import torch
from benchmarks import checkpoints, data, encoders, importing, inference, losses, step
from benchmarks.common import Also, print_machine

from scl_hf.cli import run_script

MODULES = (checkpoints, data, encoders, importing, inference, losses, step)
BENCHMARKS = {module.__name__.rpartition(".")[2]: module for module in MODULES}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(title="what to measure", dest="benchmark", required=True)
    for name, module in BENCHMARKS.items():
        command = commands.add_parser(name, help=module.__doc__.strip().splitlines()[0])
        module.add_arguments(command)
        command.add_argument("--threads", type=int, default=1, help="threads for torch (default: 1)")
        command.add_argument("--rounds", type=int, default=7, help="runs of each case; medians count (default: 7)")
        command.add_argument("--output", type=Path, metavar="FILE.md", help="a file for the tables")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with contextlib.ExitStack() as stack:
        if args.output is not None:
            mode = "a" if getattr(args, "everything", False) else "w"  # --everything adds what the file lacks
            file = stack.enter_context(args.output.open(mode, encoding="utf-8"))
            stack.enter_context(contextlib.redirect_stdout(Also(file)))
        print_machine(args.threads)
        BENCHMARKS[args.benchmark].run(args)


if __name__ == "__main__":
    run_script(main)

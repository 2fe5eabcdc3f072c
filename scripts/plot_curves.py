"""
Draws losses and mean IoU of one run or of several:

    python scripts/plot_curves.py runs/demo
    python scripts/plot_curves.py runs/demo runs/demo_supervised --output curves.svg
"""

import argparse
import sys
from pathlib import Path

from scl_hf.errors import InputError
from scl_hf.evaluation.candidates import short_names
from scl_hf.evaluation.figures import plot_curves, read_log_history


def main() -> None:
    parser = argparse.ArgumentParser(description="Draws losses and mean IoU of one run or of several.")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="output_dir of a run, or a checkpoint in it")
    parser.add_argument("--output", metavar="FILE", help=".png, .svg, .pdf, … (default: curves.png in the first RUN)")
    args = parser.parse_args()
    runs = {name: read_log_history(run) for name, run in zip(short_names(args.runs), args.runs)}
    print(plot_curves(runs, args.output or Path(args.runs[0]) / "curves.png"))


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)

"""
Draws losses and mean IoU of one run or of several:

    python scripts/plot_curves.py runs/demo
    python scripts/plot_curves.py runs/demo runs/demo_supervised --output curves.svg
"""

import argparse
import json
import os
from pathlib import Path

from scl_hf.cli import run_script
from scl_hf.errors import InputError
from scl_hf.visualization.curves import TERMS, plot_curves
from scl_hf.visualization.names import short_names


def main() -> None:
    parser = argparse.ArgumentParser(description="Draws losses and mean IoU of one run or of several.")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="output_dir of a run, or a checkpoint in it")
    parser.add_argument("--output", metavar="FILE", help=".png, .svg, .pdf, … (default: curves.png in the first RUN)")
    args = parser.parse_args()
    runs = {name: read_log_history(run) for name, run in zip(short_names(args.runs), args.runs)}
    print(plot_curves(runs, args.output or Path(args.runs[0]) / "curves.png"))


def read_log_history(run: str | Path) -> list[dict[str, float]]:
    """Returns the `log_history` of an output folder or a checkpoint in it; of several logs, the longest."""
    run = Path(run)
    if not os.path.isdir(run):
        raise InputError(f"{run}: is not a folder; give the output_dir of a run, or a checkpoint in it")
    states = []
    for file in [*run.glob("trainer_state.json"), *run.glob("checkpoint-*/trainer_state.json")]:
        try:
            state = json.loads(file.read_text(encoding="utf-8"))
            for entry in state["log_history"]:  # all that is drawn must be numbers
                drawn = [entry[key] for key in entry if key in TERMS or key.endswith("mean_iou")]
                list(map(float, [entry["step"], *drawn]))
            states.append((float(state["global_step"]), state["log_history"]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{file}: is not the log of a run ({error}); remove it, or copy it anew") from error
    if not states:
        raise InputError(
            f"{run}: holds no trainer_state.json, neither itself nor in a checkpoint-* folder; give the output_dir of "
            "a run that has saved a checkpoint"
        )
    return max(states, key=lambda state: state[0])[1]


if __name__ == "__main__":
    run_script(main)

"""
scripts/train.py (or predict.py) with a place where a test can do something to it:

    python stopped_run.py PLACE SCRIPT ARGUMENT …

At the place (start, step, evaluation, checkpoint, end, none) it prints READY and waits a moment, once.
"""

import os
import runpy
import sys
import time
from pathlib import Path

place, script = sys.argv[1:3]
sys.argv = [script, *sys.argv[3:]]
sys.path.insert(0, str(Path(script).parent))

import stopping  # noqa: E402, F401  (looks at the name of the script)


def ready(seconds=2):
    if os.environ.get("RANK", "0") == "0":
        os.write(1, b"READY\n")
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        time.sleep(0.1)


if place == "start":
    ready()

import scl_hf.evaluation.scoring as scoring  # noqa: E402
from scl_hf import SemiSupervisedTrainer  # noqa: E402


def once(owner, name, when, seconds=2):
    inner, done = getattr(owner, name), []

    def outer(*args, **kwargs):
        if not done and when(args[0]):
            done.append(ready(seconds))
        return inner(*args, **kwargs)

    setattr(owner, name, outer)


if place == "step":
    once(SemiSupervisedTrainer, "compute_loss", lambda trainer: trainer.state.global_step == 1)
elif place == "slow step":
    once(SemiSupervisedTrainer, "compute_loss", lambda trainer: True, 60)
elif place in ("evaluation", "end"):
    once(scoring, "predict_image", lambda model: True)
elif place == "checkpoint":
    once(SemiSupervisedTrainer, "_save_rng_state", lambda trainer: True)
runpy.run_path(script, run_name="__main__")

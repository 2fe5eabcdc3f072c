"""
Runs scripts/train.py to the end of its first step, and writes the time of each part:

    python stamped.py STAMPS.json train.py RECIPE …
"""

import time

BEGUN = time.time()

import json  # noqa: E402
import os  # noqa: E402
import runpy  # noqa: E402
import sys  # noqa: E402
from collections.abc import Callable  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

stamps = {"Python": BEGUN}


def stamped(function: Callable, name: str) -> Callable:
    def and_stamp(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        stamps[name] = time.time()
        return result

    return and_stamp


def run_stamped(file: str, train: str) -> None:
    sys.path[0] = str(Path(train).parent)
    from scl_hf import cli

    run = cli.run_script

    def with_stamps(main: Callable) -> None:
        # The script calls this last, after all imports.
        from transformers import TrainerCallback

        class Stop(TrainerCallback):
            def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
                stamps["start of the training"] = time.time()

            def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
                stamps["first batch"] = time.time()

            def on_step_end(self, *args: Any, **kwargs: Any) -> None:
                stamps["first step"] = time.time()
                Path(file).write_text(json.dumps(stamps))
                os._exit(0)

        stamps["imports"] = time.time()
        names = main.__globals__
        build = names["SemiSupervisedTrainer"]
        names["load_data"] = stamped(names["load_data"], "data opened")
        names["load_model"] = stamped(names["load_model"], "model built")
        names["SemiSupervisedTrainer"] = stamped(lambda **given: build(**given, callbacks=[Stop()]), "trainer built")
        run(main)

    cli.run_script = with_stamps
    runpy.run_path(train, run_name="__main__")


if __name__ == "__main__":
    _, file, *sys.argv = sys.argv  # the script sees its own arguments
    run_stamped(file, sys.argv[0])

"""
Sends to the Hub what it lacks of a run, finished or stopped:

    python scripts/push.py runs/demo --hub_model_id user/demo --hub_private_repo true

That is the model with its code, card and images, and the checkpoints that the run's `hub_strategy` wants. Exit code 1:
the Hub cannot be used now; 2: wrong input.
"""

import stopping  # noqa: F401 isort: skip (signals, while the rest is being imported)

import sys
from pathlib import Path

from transformers.utils import logging

from scl_hf.cli import parse_leading, run_script
from scl_hf.errors import InputError
from scl_hf.files import FolderLock
from scl_hf.hub import HubArguments, Push, check_token, has_ended, is_refusal, reason_of, settings_of

USAGE = "OUTPUT_DIR [--field value …]"


def main() -> int:
    given, arguments = parse_leading(HubArguments, USAGE, "the folder of one run comes first")
    folder = Path(given[0])
    if not any(folder.glob("checkpoint-*")) and not (folder / "config.json").is_file():
        raise InputError(f"{folder}: holds no run. Name the output_dir of one.")
    settings = settings_of(folder, arguments)
    check_token(None)
    logging.disable_progress_bar()
    with FolderLock("output_dir", folder):  # a run under way pushes itself
        push = Push(folder, settings)
        try:
            commit = push.push("Upload the run", take_model=not has_ended(folder))
        except Exception as error:
            if is_refusal(error):
                raise push.refusal(error) from error
            print(f"error: {folder}: {reason_of(error)}. Give the command again later.", file=sys.stderr)
            return 1
    print(f"{folder}: pushed to {commit.repo_url}")
    return 0


if __name__ == "__main__":
    run_script(main)

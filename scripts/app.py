"""
Shows a page to try a model on, or two side by side:

    python scripts/app.py runs/demo
    python scripts/app.py runs/demo_supervised user/demo@main --examples data/streets/leftImg8bit/val
    python scripts/app.py user/demo --space my_space    # the files of a Space with that page

A checkpoint is a folder or a Hub id, user/repo or user/repo@revision. The page is shown on this machine only, at the
address that is printed; with GRADIO_SERVER_NAME=0.0.0.0 in the environment, to the local network, too. Exit code 2:
wrong input.
"""

import stopping  # noqa: F401 isort: skip (signals, while the rest is being imported)

from dataclasses import dataclass
from pathlib import Path

from transformers.utils import logging

from scl_hf.cli import parse_leading, run_script
from scl_hf.errors import InputError
from scl_hf.prediction.inputs import find_inputs
from scl_hf.prediction.space import check_space, write_space
from scl_hf.prediction.views import read_upload

USAGE = "CHECKPOINT [CHECKPOINT_B] [--field value …]"
EXAMPLES = [str(Path(__file__).parents[1] / "docs/images/street_*.png")]


@dataclass
class AppArguments:
    """
    Options of the page.

    Args:
        examples (`list[str]`, *optional*): Files, folders and globs of images. By default three of the toy dataset.
        space (`str`, *optional*): A new folder for the files of a Space with the page, which is then not shown here.
        trust_remote_code (`bool`, *optional*, defaults to `False`): Whether the checkpoints may run their own code.
    """

    examples: list[str] | None = None
    space: str | None = None
    trust_remote_code: bool = False


def main() -> None:
    names, args = parse_leading(AppArguments, USAGE, "one checkpoint or two come first", most=2)
    examples = [item.path for item in find_inputs(args.examples or EXAMPLES) if not item.is_video]
    if args.space is not None:
        check_space(args.space, names)
    try:
        from scl_hf.prediction.page import launch, load_models, make_page
    except ImportError as error:
        remedy = "run pip install 'scl_hf[app]'"
        raise InputError(f"Gradio is not installed ({error}); {remedy}.") from error

    logging.disable_progress_bar()
    checkpoints = load_models(names, args.trust_remote_code)
    for path in examples:
        read_upload(path, checkpoints[0].input)
    if args.space is not None:
        write_space(args.space, names, examples, args.trust_remote_code)
        print(f"{args.space}: to push it, hf upload USER/NAME {args.space} --repo-type space")
        return
    page = make_page(checkpoints, examples)
    print(f"The page is at {launch(page)} until Ctrl-C.", flush=True)
    page.block_thread()


if __name__ == "__main__":
    run_script(main)

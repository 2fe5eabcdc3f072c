"""What is written: files that are whole or not there, in folders that hold nobody else's."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_NAME

from .errors import InputError
from .manifest import checkpoints_in, clear_partial


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name with the suffix of `path`: what is written there becomes `path` when it is whole, or goes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")  # several processes may write one file
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, values: Mapping) -> None:
    """Writes a JSON file that people can read."""
    with replacing(path) as partial:
        partial.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def check_output_dir(output_dir: str | os.PathLike, resume: str | None, overwrite: bool) -> str | bool | None:
    """
    The checkpoint folder that a run resumes from, `True` for the newest whole one, `None` if it does not. Refuses a
    folder that holds another run.
    """
    path = Path(output_dir)
    check_writable("output_dir", path)
    found = bool(checkpoints_in(path))
    if resume and resume.lower() != "false":
        newest = resume.lower() == "true"
        if not (found if newest else Path(resume).is_dir()):
            where = f"{path} holds no checkpoint-*" if newest else f"{resume} is not a checkpoint folder"
            raise InputError(f"resume_from_checkpoint: {where}. Name a folder such as {path}/checkpoint-500.")
        return newest or resume
    if not overwrite and (found or any((path / name).exists() for name in (CONFIG_NAME, SAFE_WEIGHTS_NAME))):
        remedy = "--resume_from_checkpoint true to go on, " if found else ""
        raise InputError(
            f"output_dir {path}: holds another run. Add {remedy}--overwrite_output_dir true to replace it,"
            " or name another --output_dir."
        )
    return None


def check_writable(name: str, path: Path) -> None:
    """Refuses a folder, named by the field `name` and perhaps not there yet, that cannot be written to."""
    if path.exists() and not path.is_dir():
        raise InputError(f"{name} {path}: is a file. Name a folder.")
    existing = next(parent for parent in (path.absolute(), *path.absolute().parents) if parent.exists())
    if not existing.is_dir():
        raise InputError(f"{name} {path}: {existing} is a file. Name another folder.")
    if not os.access(existing, os.W_OK):
        raise InputError(f"{name} {path}: {existing} cannot be written to. Name another folder.")


def clear_output_dir(output_dir: str | os.PathLike) -> None:
    """Removes what an earlier run left: an old checkpoint among the new ones would be resumed from."""
    path = Path(output_dir)
    clear_partial(path)
    for folder in checkpoints_in(path):
        shutil.rmtree(folder, ignore_errors=True)
    # By their names: whoever names a folder with other things in it shall not lose those.
    for pattern in ("panels/step-*.png", "runs/*/events.out.tfevents.*", SAFE_WEIGHTS_NAME, CONFIG_NAME):
        for file in path.glob(pattern):
            file.unlink()

"""What is written: files that are whole or not there, in folders that hold nobody else's."""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, get_last_checkpoint
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_NAME

from .errors import InputError


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


def check_output_dir(output_dir: str | os.PathLike, resume: str | None, overwrite: bool) -> str | None:
    """The checkpoint folder that a run resumes from, if it does. Refuses a folder that holds another run."""
    check_writable("output_dir", output_dir)
    path = Path(output_dir)
    newest = get_last_checkpoint(str(path)) if path.is_dir() else None
    if resume and resume.lower() != "false":
        checkpoint = newest if resume.lower() == "true" else resume
        if checkpoint is None or not os.path.isfile(Path(checkpoint) / "trainer_state.json"):
            where = f"{checkpoint} is not a checkpoint folder" if checkpoint else f"{path} holds no checkpoint-*"
            raise InputError(f"resume_from_checkpoint: {where}. Name a folder such as {path}/checkpoint-500.")
        return checkpoint
    if not overwrite and (newest or any((path / name).exists() for name in (CONFIG_NAME, SAFE_WEIGHTS_NAME))):
        remedy = "--resume_from_checkpoint true to go on, " if newest else ""
        raise InputError(
            f"output_dir {path}: holds another run. Add {remedy}--overwrite_output_dir true to replace it,"
            " or name another --output_dir."
        )
    return None


def check_writable(name: str, path: str | os.PathLike) -> None:
    """Refuses a folder, named by the field `name` and perhaps not there yet, that cannot be written to."""
    if not os.fspath(path):
        raise InputError(f"{name}: is empty. Name a folder.")
    whole = Path(path).absolute()
    if (
        "\0" in str(path)
        or len(os.fsencode(whole)) > 4000
        or any(len(os.fsencode(part)) > 255 for part in whole.parts)
    ):
        raise InputError(f"{name} {str(path)!r}: is too long, or no name of a folder. Name another one.")
    existing = next(parent for parent in (whole, *whole.parents) if os.path.lexists(parent))
    if not existing.is_dir():
        what = "is a link to nothing" if existing.is_symlink() and not existing.is_file() else "is a file"
        raise InputError(f"{name} {path}: {'' if existing == whole else f'{existing} '}{what}. Name another folder.")
    try:
        tempfile.TemporaryFile(dir=existing).close()  # by its rights alone, root may write to /proc
    except OSError as error:
        raise InputError(
            f"{name} {path}: {existing} cannot be written to ({error.strerror}). Name another folder."
        ) from None


def clear_output_dir(output_dir: str | os.PathLike) -> None:
    """Removes what an earlier run left: an old checkpoint among the new ones would be resumed from."""
    path = Path(output_dir)
    for folder in path.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        shutil.rmtree(folder, ignore_errors=True)
    # By their names: whoever names a folder with other things in it shall not lose those.
    for pattern in ("panels/step-*.png", "runs/*/events.out.tfevents.*", SAFE_WEIGHTS_NAME, CONFIG_NAME):
        for file in path.glob(pattern):
            file.unlink()

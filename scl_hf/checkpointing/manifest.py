"""Atomic checkpoint folders: written aside, sealed with a manifest, renamed, verified."""

import errno
import hashlib
import json
import logging
import os
import re
import shutil
import stat
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_NAME

from ..errors import InputError, first_line
from ..files import check_writable

logger = logging.getLogger(__name__)

MANIFEST_NAME, OPTIMIZER_NAME = "manifest.json", "optimizer.pt"
PARTIAL_DIR = "_partial"  # folder in the output folder for what is being written or removed; `_*` is never pushed
OLD = "old-"  # prefix in there of a folder that a new one replaces
THREADS = 8  # hashing and flushing release the interpreter's lock


def step_of(checkpoint: str | os.PathLike) -> int:
    """Returns the step in the name of a checkpoint folder, -1 for other names."""
    match = re.fullmatch(rf"{PREFIX_CHECKPOINT_DIR}-(\d+)", Path(checkpoint).name)
    return int(match[1]) if match else -1


def checkpoints_in(output_dir: str | os.PathLike) -> list[Path]:
    """Returns the checkpoint folders in a folder, complete or not, the newest last."""
    return sorted((path for path in Path(output_dir).glob("*") if step_of(path) >= 0), key=step_of)


def publish(partial: Path, folder: Path) -> None:
    """Seals `partial` and renames it to `folder`. A kill at any point leaves no incomplete folder of that name."""
    seal(partial)
    if os.path.lexists(folder):  # from an earlier attempt
        _set_aside(folder, OLD)
    os.rename(partial, folder)
    _flush(folder.parent)


def rotate(output_dir: Path, newest: Path, limit: int | None, best: str | None) -> None:
    """Removes the oldest checkpoints above `limit`, first those of later steps; keeps the `newest` and the `best`."""
    found = checkpoints_in(output_dir)
    found.sort(key=lambda path: step_of(path) <= step_of(newest))  # later steps are of an attempt left behind
    kept = {newest.name} | ({Path(best).name} & {path.name for path in found} if best else set())
    surplus = len(found) - max(limit, len(kept)) if limit and limit > 0 else 0
    for path in [path for path in found if path.name not in kept][: max(0, surplus)]:
        _set_aside(path, "removed-")  # a half-removed one would pass for a checkpoint
    clear_partial(output_dir)


def clear_partial(output_dir: str | os.PathLike) -> None:
    """Removes what was left half-written or half-removed, and restores a folder whose replacement is missing."""
    partial = Path(output_dir, PARTIAL_DIR)
    for aside in partial.glob(f"{OLD}*"):
        folder = partial.parent / aside.name.removeprefix(OLD)
        if not os.path.lexists(folder):
            os.rename(aside, folder)
    shutil.rmtree(partial, ignore_errors=True)


def seal(folder: Path) -> None:
    """Flushes the files of a folder to the disk and writes their sizes and SHA-256 into its manifest."""
    names = _files_in(folder)
    paths = [folder / name for name in names]
    with ThreadPoolExecutor(THREADS) as pool:
        flushed = pool.map(_flush, [*paths, folder, *(path for path in folder.rglob("*") if path.is_dir())])
        entries = dict(zip(names, pool.map(_entry, paths)))
        list(flushed)  # raises what went wrong
    (folder / MANIFEST_NAME).write_text(_render({"files": entries}), encoding="utf-8")
    _flush(folder / MANIFEST_NAME)
    _flush(folder)


def find_problem(folder: Path) -> str | None:
    """Returns what is wrong with a sealed folder, in a few words that name the file, or None."""
    path = folder / MANIFEST_NAME
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for its writer
            raise OSError(None, "no file")
        text = path.read_bytes().decode("utf-8")
        manifest = json.loads(text)
        entries = manifest["files"]
        if text != _render(manifest):  # no byte of it can change unseen
            raise ValueError
        there = set(_files_in(folder))
    except FileNotFoundError:
        return f"{MANIFEST_NAME} is missing, so the folder cannot be verified"
    except OSError as error:
        return f"{MANIFEST_NAME} or a folder cannot be read ({error.strerror or first_line(error)})"
    except (ValueError, KeyError, TypeError, RecursionError):
        return f"{MANIFEST_NAME} was changed or cut off"
    problems = [f"{name} is missing or no file" for name in sorted(set(entries) - there)]
    problems += [f"{name} does not belong to the checkpoint, take it out" for name in sorted(there - set(entries))]
    if not problems:
        with ThreadPoolExecutor(THREADS) as pool:
            problems = list(filter(None, pool.map(lambda key: _mismatch(folder / key, key, entries[key]), entries)))
    # The damaged file may be the manifest itself.
    return f"{problems[0]} (see {MANIFEST_NAME})" if problems else None


def why_not_resumable(folder: Path) -> str | None:
    """Returns why a run cannot resume from a folder, in a few words, or None."""
    if not folder.is_dir():
        return "is not a checkpoint folder" if folder.exists() else "there is no such folder"
    alone = not (folder / OPTIMIZER_NAME).exists()
    return find_problem(folder) or ("holds the model alone (save_only_model)" if alone else None)


def newest_complete(output_dir: Path) -> Path:
    """Returns the newest checkpoint to resume from, and warns of newer ones that are damaged."""
    found = checkpoints_in(output_dir)
    for folder in reversed(found):
        problem = why_not_resumable(folder)
        if problem is None:
            return folder
        logger.warning("%s is passed over: %s", folder, problem)
    none = f"none of the {len(found)} checkpoints is complete" if found else "holds no checkpoint-*"
    remedy = "Name another folder, or start anew with --overwrite_output_dir true."
    raise InputError(f"resume_from_checkpoint: {output_dir}: {none}. {remedy}")


def _mismatch(path: Path, name: str, entry: Mapping) -> str | None:
    try:
        found = _entry(path)
    except OSError as error:
        return f"{name} cannot be read ({error.strerror or first_line(error)})"
    if found["size"] != entry.get("size"):
        return f"{name} has {found['size']} of {entry.get('size')} bytes"
    return None if found == entry else f"{name} was changed since it was written"


def _files_in(folder: Path) -> list[str]:
    """Returns the relative paths of the regular files below a folder, without the manifest and hidden files."""
    names = []
    for root, folders, files in os.walk(folder, onerror=_raise):
        folders[:] = [name for name in folders if name[0] != "."]
        paths = (Path(root, name) for name in files if name[0] != ".")
        names += [path.relative_to(folder).as_posix() for path in paths if os.path.isfile(path)]
    return sorted(name for name in names if name != MANIFEST_NAME)


def _entry(path: Path) -> dict[str, int | str]:
    with open(path, "rb") as file:
        return {"size": os.fstat(file.fileno()).st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _render(manifest: Mapping[str, Any]) -> str:
    return json.dumps(manifest, indent=1, sort_keys=True) + "\n"


def _flush(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    except OSError as error:  # some file systems, such as CIFS, flush files but no folders
        if not path.is_dir() or error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(file)


def _set_aside(path: Path, prefix: str) -> None:
    aside = path.parent / PARTIAL_DIR / f"{prefix}{path.name}"
    aside.parent.mkdir(exist_ok=True)
    shutil.rmtree(aside, ignore_errors=True)
    os.rename(path, aside)


def _raise(error: OSError) -> None:
    raise error


def check_output_dir(output_dir: str | os.PathLike, resume: str | None, overwrite: bool) -> str | bool | None:
    """Returns the folder to resume from, `True` for the newest, `None` for a new run; rejects another run's folder."""
    check_writable("output_dir", output_dir)
    path = Path(output_dir)
    if resume and resume.lower() != "false":
        if resume.lower() == "true":
            return True
        if not os.path.isdir(resume):
            raise InputError(
                f"resume_from_checkpoint: {resume} is not a checkpoint folder. Name one such as {path}/checkpoint-500,"
                " or give true for the newest complete one. `hf download user/repo --local-dir FOLDER` fetches one."
            )
        return resume
    found = bool(checkpoints_in(path))
    if not overwrite and (found or any((path / name).exists() for name in (CONFIG_NAME, SAFE_WEIGHTS_NAME))):
        remedy = "--resume_from_checkpoint true to resume it, " if found else ""
        remedy += "--overwrite_output_dir true to replace it, or name another --output_dir."
        raise InputError(f"output_dir {path}: holds another run. Add {remedy}")
    return None


def clear_output_dir(output_dir: str | os.PathLike) -> None:
    """Removes what an earlier run left: an old checkpoint among the new ones would be resumed from."""
    path = Path(output_dir)
    clear_partial(path)
    for folder in checkpoints_in(path):
        shutil.rmtree(folder, ignore_errors=True)
    # By name: a folder that a user names may hold other things.
    own = ("panels/step-*.png", "panel.png", "runs/*/events.out.tfevents.*", "_not_finite-*.safetensors")
    for pattern in (*own, "trainer_state.json", SAFE_WEIGHTS_NAME, CONFIG_NAME):
        for file in path.glob(pattern):
            file.unlink()

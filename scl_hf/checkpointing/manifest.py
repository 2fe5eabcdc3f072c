"""Folders that are whole or not there: sealed with a manifest of their files, renamed when complete, verified."""

import errno
import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_NAME

from ..errors import InputError, first_line
from ..files import check_writable
from ..hub import on_the_hub

MANIFEST_NAME = "manifest.json"
# In the output folder: what is being written, and what is being removed. A push to the Hub leaves `_*` out.
PARTIAL_DIR = "_partial"
OLD = "old-"  # in there: a folder of which a new one takes the place
THREADS = 8  # hashing and flushing leave the interpreter's lock


def step_of(checkpoint: str | os.PathLike) -> int:
    """The step that the name of a checkpoint folder says, -1 for other names."""
    match = re.fullmatch(rf"{PREFIX_CHECKPOINT_DIR}-(\d+)", Path(checkpoint).name)
    return int(match[1]) if match else -1


def checkpoints_in(output_dir: str | os.PathLike) -> list[Path]:
    """What is called a checkpoint in a folder, whole or not, the newest last."""
    return sorted((path for path in Path(output_dir).glob("*") if step_of(path) >= 0), key=step_of)


def publish(partial: Path, folder: Path) -> None:
    """Seals what was written to `partial`, and gives it the name `folder`: a kill at any point leaves no half one."""
    seal(partial)
    if os.path.lexists(folder):  # of an earlier attempt
        _set_aside(folder, OLD)
    os.rename(partial, folder)
    _flush(folder.parent)


def rotate(output_dir: Path, newest: Path, limit: int | None, best: str | None) -> None:
    """
    Removes the oldest checkpoints above `limit`, but never the `newest`, which was just verified, nor the `best`.
    Those of later steps are of an attempt that this run has left behind, and go first.
    """
    found = checkpoints_in(output_dir)
    found.sort(key=lambda path: step_of(path) <= step_of(newest))
    kept = {newest.name} | ({Path(best).name} & {path.name for path in found} if best else set())
    surplus = len(found) - max(limit, len(kept)) if limit and limit > 0 else 0
    for path in [path for path in found if path.name not in kept][: max(0, surplus)]:
        _set_aside(path, "removed-")  # one that is removed in part would be taken for a checkpoint
    clear_partial(output_dir)


def clear_partial(output_dir: str | os.PathLike) -> None:
    """Removes what was left half-written or half-removed, and puts back what nothing has replaced yet."""
    partial = Path(output_dir, PARTIAL_DIR)
    for aside in partial.glob(f"{OLD}*"):
        folder = partial.parent / aside.name.removeprefix(OLD)
        if not os.path.lexists(folder):
            os.rename(aside, folder)
    shutil.rmtree(partial, ignore_errors=True)


def seal(folder: Path) -> None:
    """Flushes the files of a folder to the disk and writes their names, sizes and SHA-256 beside them."""
    names = _files_in(folder)
    paths = [folder / name for name in names]
    with ThreadPoolExecutor(THREADS) as pool:
        flushed = pool.map(_flush, [*paths, folder, *(path for path in folder.rglob("*") if path.is_dir())])
        entries = dict(zip(names, pool.map(_entry, paths)))
        list(flushed)  # raises what went wrong
    path = folder / MANIFEST_NAME
    with open(path, "w", encoding="utf-8") as file:
        file.write(_render(entries))
        file.flush()
        os.fsync(file.fileno())
    _flush(folder)


def find_problem(folder: Path) -> str | None:
    """What is wrong with a sealed folder, in a few words that name the file; None if nothing is."""
    try:
        text = _read(folder / MANIFEST_NAME)
        entries = json.loads(text)["files"]
        if text != _render(entries):
            raise ValueError
    except FileNotFoundError:
        return f"{MANIFEST_NAME} is missing, so nothing says whether it is whole"
    except OSError as error:
        return f"{MANIFEST_NAME} cannot be read ({error.strerror or first_line(error)})"
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return f"{MANIFEST_NAME} was changed or cut off"
    try:
        there = _files_in(folder)
    except OSError as error:
        return f"cannot be listed ({error.strerror})"
    if missing := sorted(entries.keys() - set(there)):
        return f"{missing[0]} is missing or no file"
    if added := sorted(set(there) - entries.keys()):
        return f"{added[0]} does not belong to it, take it out"
    # The sizes of all first: they cost nothing.
    for check in (_wrong_size, _wrong_content):
        with ThreadPoolExecutor(THREADS) as pool:
            for flaw in pool.map(lambda name, check=check: check(folder, name, entries[name]), there):
                if flaw:
                    return flaw
    return None


def _wrong_size(folder: Path, name: str, entry: Mapping) -> str | None:
    size = (folder / name).stat().st_size
    return None if size == entry["size"] else f"{name} has {size} of {entry['size']} bytes"


def _wrong_content(folder: Path, name: str, entry: Mapping) -> str | None:
    try:
        return None if _entry(folder / name) == entry else f"{name} was changed since it was written"
    except OSError as error:
        return f"{name} cannot be read ({error.strerror or first_line(error)})"


def _files_in(folder: Path) -> list[str]:
    """Regular files below a folder, by their paths in it; not the manifest, nor what systems hide there."""
    names = []
    for root, folders, files in os.walk(folder, onerror=_raise):
        folders[:] = [name for name in folders if name[0] != "."]
        for name in files:
            path = Path(root, name)
            try:
                regular = stat.S_ISREG(path.stat().st_mode)
            except OSError:  # a link to nowhere
                regular = False
            if regular and name[0] != ".":
                names.append(path.relative_to(folder).as_posix())
    return sorted(name for name in names if name != MANIFEST_NAME)


def _entry(path: Path) -> dict[str, int | str]:
    with open(path, "rb") as file:
        return {"size": os.fstat(file.fileno()).st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _render(entries: Mapping) -> str:
    # With a digest of its own, and read again to the byte: no byte of it can change unseen either.
    digest = hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()
    return json.dumps({"files": entries, "sha256": digest}, indent=1, sort_keys=True) + "\n"


def _read(path: Path) -> str:
    if not stat.S_ISREG(path.stat().st_mode):  # to open a pipe would wait for its writer
        raise OSError(None, "no file")
    return path.read_bytes().decode("utf-8")


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
    """
    The checkpoint folder that a run resumes from, its name on the Hub or `True` for the newest whole one, which the
    trainer looks for, `None` if it does not. Refuses a folder that holds another run.
    """
    check_writable("output_dir", output_dir)
    path = Path(output_dir)
    if resume and resume.lower() != "false":
        if resume.lower() == "true":
            return True
        if not os.path.isdir(resume) and not on_the_hub(resume):
            raise InputError(
                f"resume_from_checkpoint: {resume} is not a checkpoint folder. Name one such as"
                f" {path}/checkpoint-500, give true for the newest whole one, or user/repo@revision of the Hub."
            )
        return resume
    found = bool(checkpoints_in(path))
    if not overwrite and (found or any((path / name).exists() for name in (CONFIG_NAME, SAFE_WEIGHTS_NAME))):
        remedy = "--resume_from_checkpoint true to go on, " if found else ""
        raise InputError(
            f"output_dir {path}: holds another run. Add {remedy}--overwrite_output_dir true to replace it,"
            " or name another --output_dir."
        )
    return None


def clear_output_dir(output_dir: str | os.PathLike) -> None:
    """Removes what an earlier run left: an old checkpoint among the new ones would be resumed from."""
    path = Path(output_dir)
    clear_partial(path)
    for folder in checkpoints_in(path):
        shutil.rmtree(folder, ignore_errors=True)
    # By their names: whoever names a folder with other things in it shall not lose those.
    own = ("panels/step-*.png", "panel.png", "runs/*/events.out.tfevents.*")
    own += ("_not_finite-*.safetensors", "trainer_state.json")
    for pattern in (*own, SAFE_WEIGHTS_NAME, CONFIG_NAME):
        for file in path.glob(pattern):
            file.unlink()

"""Atomic writes, locked folders, and the error of a full disk."""

import contextlib
import errno
import json
import logging
import os
import re
import shutil
import socket
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from .errors import RESUME_HINT, InputError
from .processes import check_joined, is_main_process

logger = logging.getLogger(__name__)
LOCK = "_run.lock"  # what begins with _ is never pushed to the Hub
_held: set[tuple[int, Path]] = set()  # process and lock file


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary name with the suffix of `path`; the complete file becomes `path`, an incomplete one goes."""
    with writing(str(path), path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Several processes may write one file. The suffix stays: libraries go by it.
        partial = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
        try:
            yield partial
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


def clear_partial_files(folder: Path, patterns: Sequence[str]) -> None:
    """Removes what killed runs left under temporary names of [`replacing`]. No other process may be writing there."""
    for pattern in patterns:
        for file in folder.glob(pattern):
            if re.fullmatch(r"\..+\.\d+\.partial(\.[^.]+)?", file.name) and file.is_file():
                file.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text file, complete or not at all."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, values: Mapping) -> None:
    """Writes a JSON file for people to read; NaN and infinity become null."""
    values = json.loads(json.dumps(values), parse_constant=lambda constant: None)
    write_text(path, json.dumps(values, indent=2, ensure_ascii=False) + "\n")


def check_writable(name: str, path: str | os.PathLike, empty: bool = False) -> None:
    """Raises where a folder of the field `name`, perhaps still to be made, cannot be written to, or is not `empty`."""
    if not os.fspath(path):
        raise InputError(f"{name}: is empty. Name a folder.")
    full = Path(path).absolute()
    lengths = [len(os.fsencode(part)) for part in full.parts]
    if "\0" in str(path) or sum(lengths) + len(lengths) > 4000 or max(lengths) > 255:
        raise InputError(f"{name} {str(path)!r}: is too long, or no name of a folder. Name another one.")
    existing = next(parent for parent in (full, *full.parents) if os.path.lexists(parent))
    if not existing.is_dir():
        kind = "is a link to nothing" if existing.is_symlink() and not existing.is_file() else "is a file"
        raise InputError(f"{name} {path}: {'' if existing == full else f'{existing} '}{kind}. Name another folder.")
    if empty and (folder := full.resolve()).is_dir() and any(folder.iterdir()):
        raise InputError(f"{name} {path}: is not an empty folder. Remove it or name another one.")
    try:
        tempfile.TemporaryFile(dir=existing).close()  # by its rights alone, root may write to /proc
    except OSError as error:
        reason = f"{existing} cannot be written to ({error.strerror})"
        raise InputError(f"{name} {path}: {reason}. Name another folder.") from None


class FolderLock(contextlib.AbstractContextManager):
    """
    Makes this process the one writer of a folder until `release`, and removes what a killed run left half-written.
    Re-acquiring in one process is a no-op; of the processes of a run the first holds the lock.
    """

    def __init__(self, field: str, folder: str | os.PathLike):
        folder = Path(folder)
        self.path = folder / LOCK
        self.release: Callable[[], None] = lambda: None
        held = (os.getpid(), self.path.absolute())
        check_joined()
        if not is_main_process() or held in _held:
            return
        check_writable(field, folder)
        created = [parent for parent in (folder, *folder.parents) if not parent.exists()]
        with writing(str(self.path), folder):
            folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.path, thread_local=False, fallback_to_soft=False)
            try:
                lock.acquire(timeout=0.1)  # not at once: the last owner may just be removing the file
            except Timeout:
                owner = "whose process is not known yet"
                with contextlib.suppress(OSError):
                    owner = self.path.read_text(encoding="utf-8").strip() or owner
                remedy = "Wait for its end, stop it, or name another folder."
                raise InputError(f"{field} {folder}: is written to by another run, {owner}. {remedy}") from None
            except OSError as error:
                if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
                    raise
                logger.warning("%s %s: the file system has no locks; start no second run there", field, folder)
            _held.add(held)
            self.release = weakref.finalize(self, _release, lock, held, created)
            try:
                self.path.write_text(f"process {os.getpid()} on {socket.gethostname()}\n", encoding="utf-8")
            except OSError:
                self.release()
                raise
            clear_partial_files(folder, ("*", "panels/*"))

    def __exit__(self, *exception: object) -> None:
        self.release()


def _release(lock: FileLock, held: tuple[int, Path], created: Sequence[Path]) -> None:
    if os.getpid() != held[0]:
        return  # a fork, such as a DataLoader's worker
    _held.discard(held)
    with contextlib.suppress(OSError):
        held[1].unlink(missing_ok=True)  # while it is locked: nobody else's is removed
        lock.release()
        for folder in created:
            folder.rmdir()  # unless it holds something


_FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "no larger file may be",
}
# Words of safetensors, PyTorch and Arrow, whose exceptions have no errno
_WORDS = re.compile(
    r"No space left|[Dd]isk quota|File too large|os error (?:28|122|27)\b|errno (?:28|122|27)\b"
    r"|PytorchStreamWriter failed|inline_container.*(?:unexpected pos|write failed)|iostream error",
    re.S,
)


class DiskFullError(InputError):
    """There was no space to write something."""


def is_disk_full(error: BaseException | None) -> bool:
    """Returns whether an exception, or one that it was raised from, says that there was no space to write."""
    while error is not None:
        if getattr(error, "errno", None) in _FULL or _WORDS.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def disk_full(error: Exception, what: str, folder: str | os.PathLike, remedy: str, needed: int = 0) -> DiskFullError:
    """Returns one line on what was being written into `folder`, the bytes `needed` and free, and what to do."""
    folder = next((path for path in (Path(folder), *Path(folder).absolute().parents) if path.is_dir()), Path())
    reasons = [_FULL.get(getattr(found, "errno", None)) for found in (error, error.__cause__, error.__context__)]
    reason = next(filter(None, reasons), "the disk is full")
    size = f", which takes about {_size(needed)}," if needed else ""
    with contextlib.suppress(OSError):
        reason += f", {_size(shutil.disk_usage(folder).free)} are free in {folder}"
    return DiskFullError(f"{what}{size} could not be written: {reason}. {remedy}")


def _size(number: float) -> str:
    unit, size = next(((unit, size) for unit, size in (("GB", 1e9), ("MB", 1e6)) if number >= size), ("KB", 1e3))
    return f"{number / size:.1f} {unit}"


@contextlib.contextmanager
def writing(what: str, folder: str | os.PathLike) -> Iterator[None]:
    """Turns the error of a full disk into one line that names `what`."""
    try:
        yield
    except DiskFullError:
        raise
    except Exception as error:
        if not is_disk_full(error):
            raise
        remedy = f"Free some space and give the command again (to resume a training, {RESUME_HINT})."
        raise disk_full(error, what, folder, remedy) from error

"""What is written: files that are whole or not there, in folders that hold nobody else's."""

import contextlib
import errno
import json
import os
import re
import shutil
import socket
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TextIO

from .errors import RESUME_HINT, InputError
from .processes import is_main_process

try:
    import fcntl
except ImportError:  # no Unix
    fcntl = None

LOCK = "_run.lock"  # what begins with _ is pushed to no Hub
_held: set[tuple[int, Path]] = set()  # the locks that a process holds: to close a second one would release the first


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name with the suffix of `path`: what is written there becomes `path` when it is whole, or goes."""
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
    """Removes what runs that were killed have left under names of [`replacing`]. None may be writing there."""
    for pattern in patterns:
        for file in folder.glob(pattern):
            if re.fullmatch(r"\..+\.\d+\.partial(\.[^.]+)?", file.name) and file.is_file():
                file.unlink(missing_ok=True)


def write_json(path: Path, values: Mapping) -> None:
    """Writes a JSON file that people can read."""
    # JSON has no NaN and no infinity.
    values = json.loads(json.dumps(values), parse_constant=lambda constant: None)
    with replacing(path) as partial:
        partial.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


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


class FolderLock:
    """
    A folder's one writer, until `release`, or the end of this object or of its process, whatever that is. Of the
    processes of a run the first holds it for all. In a process that holds it already another one is nothing. What a
    run that was killed has half written is removed.

    The lock is one of the file system, which it takes back from a process that is dead, on other machines, too. Where
    there are none, the process and machine that the file names decide.
    """

    _has_locks = True

    def __init__(self, field: str, folder: str | os.PathLike):
        self.path = Path(folder) / LOCK
        self.release: Callable[[], None] = lambda: None
        held = (os.getpid(), self.path.absolute())
        if not is_main_process() or held in _held:
            return
        check_writable(field, self.path.parent)
        created = [path for path in (self.path.parent, *self.path.parent.parents) if not path.exists()]
        with writing(str(self.path), self.path.parent):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = self._open(field)
            _held.add(held)
            self.release = weakref.finalize(self, _release, file, self.path, held, created)
            clear_partial_files(self.path.parent, ("*", "panels/*"))
            try:
                file.truncate(0)
                os.write(file.fileno(), f"process {os.getpid()} on {socket.gethostname()}\n".encode())
            except OSError:
                self.release()
                raise

    def _open(self, field: str) -> TextIO:
        """The file, locked."""
        while True:
            file = open(self.path, "a+", encoding="utf-8")
            if not self._take(file):
                owner = self._owner(file)
                file.close()
                gone = "" if self._has_locks else f" If it is gone, remove {self.path}."
                raise InputError(
                    f"{field} {self.path.parent}: is written to by another run, {owner}. Wait for its end, stop it, or"
                    f" name another folder.{gone}"
                )
            with contextlib.suppress(OSError):
                if os.fstat(file.fileno()).st_ino == os.stat(self.path).st_ino:
                    return file  # and not one that its last owner has just removed
            file.close()

    def _take(self, file: TextIO) -> bool:
        try:
            if fcntl is None:
                raise OSError(errno.ENOLCK, "no locks")
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # not flock: workers would keep it
            return True
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                return False
        self._has_locks = False
        match = re.match(r"process (\d+) on (.+)", self._owner(file))
        if match is None or match[2] == socket.gethostname() and not _is_alive(int(match[1])):
            return True
        return int(match[1]) == os.getpid() and match[2] == socket.gethostname()

    def _owner(self, file: TextIO) -> str:
        file.seek(0)
        return file.read().strip() or "whose process is not known yet"


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


def _release(file: TextIO, path: Path, held: tuple[int, Path], created: Sequence[Path]) -> None:
    if os.getpid() != held[0]:
        return
    _held.discard(held)
    with contextlib.suppress(OSError, ValueError):
        path.unlink(missing_ok=True)
        file.close()
        for folder in created:
            folder.rmdir()  # where nothing else came into it


# A full disk

_FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "no larger file may be",
}
# How safetensors, PyTorch and Arrow put it, whose exceptions have no errno.
_SAID = re.compile(r"No space left|[Dd]isk quota|File too large|os error (?:28|122|27)\b|errno (?:28|122|27)\b")
_CUT_OFF = re.compile(
    r"PytorchStreamWriter failed|inline_container.*(?:unexpected pos|write failed)|iostream error", re.S
)


class DiskFullError(InputError):
    """Something could not be written for want of space."""


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an exception, or what it was raised from, says that there was no space to write."""
    while error is not None:
        if getattr(error, "errno", None) in _FULL or _SAID.search(str(error)) or _CUT_OFF.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def disk_full(
    error: BaseException, what: str, folder: str | os.PathLike, remedy: str, needed: int = 0
) -> DiskFullError:
    """The one line of a full disk: what was being written into `folder`, the bytes that it needs, how to go on."""
    folder = next((path for path in (Path(folder), *Path(folder).absolute().parents) if path.is_dir()), Path())
    reasons = [_FULL.get(getattr(found, "errno", None)) for found in (error, error.__cause__, error.__context__)]
    reason = next(filter(None, reasons), "the disk is full")
    size = f", which takes about {_size(needed)}," if needed else ""
    with contextlib.suppress(OSError):
        reason += f", {_size(shutil.disk_usage(folder).free)} are free in {folder}"
    return DiskFullError(f"{what}{size} could not be written: {reason}. {remedy}")


def _size(number: int) -> str:
    for unit in ("bytes", "KB", "MB", "GB"):
        if number < 1000 or unit == "GB":
            return f"{number:.0f} {unit}" if unit == "bytes" else f"{number:.1f} {unit}"
        number /= 1000


@contextlib.contextmanager
def writing(what: str, folder: str | os.PathLike) -> Iterator[None]:
    """Says in one line that `what` could not be written for want of space."""
    try:
        yield
    except DiskFullError:
        raise
    except Exception as error:
        if not is_disk_full(error):
            raise
        raise disk_full(
            error,
            what,
            folder,
            f"Free some space and give the command again; of train.py {RESUME_HINT} goes on.",
        ) from error

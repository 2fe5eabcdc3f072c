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

from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_NAME

from .errors import InputError
from .processes import is_main_process
from .safety.disk import writing
from .safety.manifest import checkpoints_in, clear_partial, on_the_hub

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
    clear_partial(path)
    for folder in checkpoints_in(path):
        shutil.rmtree(folder, ignore_errors=True)
    # By their names: whoever names a folder with other things in it shall not lose those.
    own = ("panels/step-*.png", "panel.png", "runs/*/events.out.tfevents.*")
    own += ("_not_finite-*.safetensors", "trainer_state.json")
    for pattern in (*own, SAFE_WEIGHTS_NAME, CONFIG_NAME):
        for file in path.glob(pattern):
            file.unlink()


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

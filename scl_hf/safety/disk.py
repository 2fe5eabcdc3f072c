"""A full disk, said in one line."""

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from ..errors import GO_ON, InputError

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
            f"Free some space and give the command again; of train.py {GO_ON} goes on.",
        ) from error

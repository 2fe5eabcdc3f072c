"""The one exception for what a user can fix, and parts of its messages."""

import contextlib
import difflib
import math
from collections.abc import Iterable, Iterator
from dataclasses import fields
from itertools import islice
from typing import Any

RESUME_HINT = "the same command with --resume_from_checkpoint true"


class InputError(ValueError):
    """Wrong input of a user, in one line that names the file or field and what to do; scripts exit with code 2."""

    def __init__(self, message: str):
        # A DataLoader worker's exception arrives with its whole traceback as the message.
        message = message.rsplit(f"{type(self).__name__}: ", 1)[-1].strip()
        super().__init__(" ".join(message.splitlines()))  # names of files may hold anything


class SharedError(InputError):
    """An error that all processes raise, and that the first one prints."""


class NotFiniteError(SharedError):
    """A step has numbers that are not finite. All processes raise it at that step."""


def check_field(args: object, name: str, holds: bool, expected: str) -> None:
    """Raises unless the value of the field `name` of `args` `holds`."""
    if not holds:
        raise InputError(f"{name}: must be {expected}, got {getattr(args, name)!r}.")


def check_finite(args: Any) -> None:
    """Raises where a field of a dataclass is, or holds, a NaN or an infinity."""
    for name in (field.name for field in fields(args)):
        value = getattr(args, name)
        values = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else [value]
        check_field(args, name, all(math.isfinite(item) for item in values if isinstance(item, float)), "finite")


def first_few(items: Iterable[str], n: int = 3) -> str:
    """Joins the first `n` items in one line, with `…` where there are more."""
    few = list(islice(items, n + 1))
    return ", ".join(few[:n] + ["…"] * (len(few) > n))


def counted(number: int, what: str) -> str:
    """Returns a number of things in words, such as `1 label` and `1,200 labels`."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def did_you_mean(name: Any, known: Iterable[str], n: int = 1) -> str:
    """Returns a question that names the `n` most similar known names, or nothing."""
    close = " or ".join(f"'{similar}'" for similar in difflib.get_close_matches(str(name), list(known), n))
    return f" Did you mean {close}?" if close else ""


def first_line(error: Exception) -> str:
    """Returns an exception's message in one line."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def is_killed_worker(error: BaseException) -> bool:
    """Returns whether a process that reads images was killed, by the words of PyTorch, `datasets` and Python."""
    return isinstance(error, RuntimeError) and any(s in str(error) for s in ("DataLoader worker (pid", "abruptly"))


@contextlib.contextmanager
def killed_workers() -> Iterator[None]:
    """Turns the error of a killed process that reads images into one line."""
    try:
        yield
    except RuntimeError as error:
        if not is_killed_worker(error):
            raise
        reason = f"a process that reads images was killed ({first_line(error)}). Often memory ran out"
        remedy = "take fewer processes, or give the run more memory"
        raise InputError(f"dataloader_num_workers, num_proc: {reason}: {remedy}") from error

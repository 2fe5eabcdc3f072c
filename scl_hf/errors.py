"""The one exception for what a user can mend, and how its message is put together."""

import contextlib
import difflib
import math
from collections.abc import Iterable, Iterator
from dataclasses import fields
from itertools import islice
from typing import Any

# How a training run that has ended, by whatever, is continued
RESUME_HINT = "the same command with --resume_from_checkpoint true"


class InputError(ValueError):
    """
    Something that the user gave is wrong. The message is one line: it names the file or the field and says what to do.
    Scripts print it without a traceback and exit with code 2.
    """

    def __init__(self, message: str):
        # A DataLoader worker's exception arrives with its whole traceback as the message: keep the line that counts.
        message = message.rsplit(f"{type(self).__name__}: ", 1)[-1].strip()
        super().__init__(" ".join(message.splitlines()))  # names of files may hold anything


class NotFiniteError(InputError):
    """A step was about to be taken with numbers that are not finite. All processes raise it at that step."""


def check_field(args: object, name: str, holds: bool, expected: str) -> None:
    """Refuses the value of the field `name` of `args` unless `holds`."""
    if not holds:
        raise InputError(f"{name}: must be {expected}, got {getattr(args, name)!r}.")


def check_finite(args: Any) -> None:
    """Refuses a dataclass with a field that is, or holds, a NaN or an infinity."""
    for name in (field.name for field in fields(args)):
        value = getattr(args, name)
        values = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else [value]
        holds = all(math.isfinite(number) for number in values if isinstance(number, float))
        check_field(args, name, holds, "finite")


def first_few(items: Iterable[str], n: int = 3) -> str:
    """The first `n` items in one line, with `…` where there are more."""
    few = list(islice(items, n + 1))
    return ", ".join(few[:n] + ["…"] * (len(few) > n))


def did_you_mean(name: Any, known: Iterable[str]) -> str:
    """A question that names the known name which is like `name`, or nothing."""
    close = difflib.get_close_matches(str(name), list(known), n=1)
    return f" Did you mean '{close[0]}'?" if close else ""


def first_line(error: Exception) -> str:
    """An exception in one line."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def is_killed_worker(error: BaseException) -> bool:
    """Whether one of the processes that read pictures was killed: PyTorch, `datasets` and Python say it in words."""
    return isinstance(error, RuntimeError) and any(
        words in str(error) for words in ("DataLoader worker (pid", "abruptly")
    )


@contextlib.contextmanager
def killed_workers() -> Iterator[None]:
    """Says in one line that one of the processes that read pictures was killed."""
    try:
        yield
    except RuntimeError as error:
        if not is_killed_worker(error):
            raise
        raise InputError(
            f"dataloader_num_workers, num_proc: a process that reads pictures was killed ({first_line(error)}). Often "
            "memory ran out: take fewer processes, or give the run more memory"
        ) from error

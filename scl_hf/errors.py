"""The one exception for what a user can mend, and how its line is made."""

from collections.abc import Iterable


class InputError(ValueError):
    """
    Something that the user gave is wrong. The message is one line: it names the file or the field and says what to do.
    Scripts print it without a traceback and exit with code 2.
    """

    def __init__(self, message: str):
        # A DataLoader worker's exception arrives with its whole traceback as the message: keep the line that counts.
        super().__init__(message.rsplit(f"{type(self).__name__}: ", 1)[-1].strip())


def first_line(error: Exception) -> str:
    """An exception in one line."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def check_field(args: object, name: str, holds: bool, expected: str) -> None:
    """Raises an [`InputError`] that names the field of a dataclass, what it must be, and what it is."""
    if not holds:
        raise InputError(f"{name}: must be {expected}, got {getattr(args, name)!r}.")


def first_few(items: Iterable[str], n: int = 3) -> str:
    """The first n of some names, in a line: `a, b, c, …`."""
    items = list(items)
    return ", ".join(items[:n]) + (", …" if len(items) > n else "")

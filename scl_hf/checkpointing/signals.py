"""Signals that are to end a run: it ends where nothing is lost, and all its processes at the same place."""

import contextlib
import functools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

import torch

from ..processes import are_several, is_main_process

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
# Ctrl-C reaches a process twice where its launcher passes it on: a second signal is one that comes later than this.
_AT_ONCE = 3.0  # seconds

_requested, _since, _active = 0, 0.0, False


class Interrupted(SystemExit):
    """A signal has ended the run; the exit code is 128 + its number. `line` says where it ended and how to go on."""

    def __init__(self, number: int, line: str | None = None):
        super().__init__(128 + number)
        self.number, self.line = number, line

    @property
    def signal_name(self) -> str:
        """Such as SIGTERM."""
        return signal.Signals(self.number).name


def requested() -> int:
    """The number of the signal that has come within [`deferred`], 0 if none has."""
    return _requested


def check(device: torch.device) -> None:
    """Raises `Interrupted` in all processes where one of them has got a signal. All of them call it."""
    number = _requested
    if are_several():
        numbers = torch.tensor(number, device=device)
        torch.distributed.all_reduce(numbers, torch.distributed.ReduceOp.MAX)
        number = int(numbers)
    if number:
        raise Interrupted(number)


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """
    Within this, a signal is kept for whoever asks for it ([`requested`], [`check`]); one that comes well after it ends
    the process at once. What nobody has asked for is raised at the end. The end of the launcher that a script follows
    is such a signal, too.
    """
    global _requested, _active
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return
    process, launcher = os.getpid(), os.getppid()

    def ask(number: int, frame: FrameType | None) -> None:
        global _requested, _since
        if os.getpid() != process:  # a worker goes on until the process that it works for has ended
            if number == signal.SIGTERM:
                os._exit(128 + number)
            return
        if not _requested:
            _requested, _since = number, time.monotonic()
            if sys.__stderr__ is not None and sys.__stderr__.isatty():
                _say("\nthe step is finished and saved; once more ends the run at once\n")
        elif time.monotonic() - _since > _AT_ONCE:
            _say(f"stopped at once by a second signal, {signal.Signals(number).name}\n")
            os._exit(128 + number)

    def ask_for_launcher(number: int, frame: FrameType | None) -> None:
        global _requested, _since
        if os.getppid() != launcher and not _requested:
            _requested, _since = signal.SIGTERM, time.monotonic()

    launchers = getattr(signal, "SIGRTMIN", None)
    handlers = {number: ask_for_launcher if number == launchers else ask for number in _handled()}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    _requested, _active = 0, True
    try:
        yield
        if _requested and not are_several():
            raise Interrupted(_requested)
    finally:
        number, _requested, _active = _requested, 0, False
        for of, handler in before.items():
            signal.signal(of, handler)
        if number and sys.exception() is None:  # one of several processes alone: it is too late to tell the others
            signal.raise_signal(number)


def leaving() -> None:
    """
    To be called when a process is about to exit because of a signal: a launcher ends all processes when the first of
    them has left, and that is not to be taken for another signal. One that comes 10 s later ends the process.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    left = time.monotonic()

    def late(number: int, frame: FrameType | None) -> None:
        if time.monotonic() - left > 10:
            os._exit(128 + signal.SIGTERM)

    for number in _handled():
        signal.signal(number, late)


def _handled() -> list[int]:
    """The signals that can end a run here."""
    numbers = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]
    numbers = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]  # as of nohup
    if hasattr(signal, "SIGRTMIN") and callable(signal.getsignal(signal.SIGRTMIN)):
        numbers.append(signal.SIGRTMIN)  # the end of a launcher that a script follows
    return numbers


def _say(line: str) -> None:
    if is_main_process():
        with contextlib.suppress(OSError):  # the terminal may be gone
            os.write(2, line.encode())


def worker_init(before: Callable[[int], None] | None = None) -> Callable[[int], None] | None:
    """
    The `worker_init_fn` of a DataLoader whose batches a step waits for: a SIGTERM to all processes of a job does not
    end the worker; a second one does.
    """
    return functools.partial(_shield, before) if _active else before


def _shield(before: Callable[[int], None] | None, worker_id: int) -> None:
    if before is not None:
        before(worker_id)
    seen = []
    signal.signal(signal.SIGTERM, lambda number, frame: os._exit(128 + number) if seen else seen.append(number))

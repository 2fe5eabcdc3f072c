"""Signals that end a run after a complete step, in all its processes at the same one."""

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
from transformers import TrainerCallback
from transformers.trainer_utils import HubStrategy

from ..processes import are_several, is_main_process

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
# A launcher may pass Ctrl-C on, so that it comes twice: a second signal is one that comes later than this.
_AT_ONCE = 3.0  # seconds

_requested, _since, _active = 0, 0.0, False


class Interrupted(SystemExit):
    """Ends a run by a signal, with exit code 128 + its number. `line` says where it ended and how to resume."""

    def __init__(self, number: int, line: str | None = None):
        super().__init__(128 + number)
        self.signal_name, self.line = signal.Signals(number).name, line


def requested() -> int:
    """Returns the number of the signal that came within [`deferred`], or 0."""
    return _requested


def agree(flags: torch.Tensor) -> list[int]:
    """Returns the maximum over the processes of each of some flags, (N,), and last of the signal's number."""
    flags = torch.cat([flags.int(), torch.full((1,), _requested, dtype=torch.int32, device=flags.device)])
    if are_several():
        torch.distributed.all_reduce(flags, torch.distributed.ReduceOp.MAX)
    return flags.tolist()


def check(device: torch.device) -> None:
    """Raises `Interrupted` in all processes if one of them got a signal. All of them call it."""
    (number,) = agree(torch.empty(0, device=device))
    if number:
        raise Interrupted(number)


class SignalCallback(TrainerCallback):
    """
    Saves a checkpoint after the step in which a signal comes, without an evaluation, and raises [`Interrupted`] when
    it is saved. With several processes, the trainer sets `number` in each step to what [`agree`] returns.
    """

    number = 0

    def on_train_begin(self, args, state, control, **kwargs):
        self.number = 0

    def on_step_end(self, args, state, control, **kwargs):
        if not are_several():
            self.number = _requested
        if self.number:
            control.should_save, control.should_evaluate = True, False
            save_for_resume(args)

    def on_save(self, args, state, control, **kwargs):
        if self.number:
            raise Interrupted(self.number)


def save_for_resume(args) -> None:
    """Sets a run that ends now to save complete checkpoints and to push none."""
    args.save_only_model, args.hub_strategy = False, HubStrategy.END


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """
    Keeps a signal for [`requested`] and [`check`]; a second one, well after it, ends the process at once. A signal
    that nobody has asked for is raised at the end. The end of the launcher that a script follows counts as one.
    """
    global _requested, _active
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread handles signals
        return
    process, launcher = os.getpid(), os.getppid()

    def ask(number: int, frame: FrameType | None) -> None:
        global _requested, _since
        if os.getpid() != process:  # a worker runs until the process that it works for has ended
            if number == signal.SIGTERM:
                os._exit(128 + number)
            return
        if not _requested:
            _requested, _since = number, time.monotonic()
            if sys.__stderr__ is not None and sys.__stderr__.isatty():
                _say("\nstopping after this step, with a checkpoint; a second signal ends the run at once\n")
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
        if number and sys.exception() is None:  # it is too late to tell other processes
            signal.raise_signal(number)


def leaving() -> None:
    """Ignores signals for 10 s: the launcher of a process that exits by a signal ends all others with another one."""
    if threading.current_thread() is not threading.main_thread():
        return
    left = time.monotonic()

    def late(number: int, frame: FrameType | None) -> None:
        if time.monotonic() - left > 10:
            os._exit(128 + signal.SIGTERM)

    for number in _handled():
        signal.signal(number, late)


def _handled() -> list[int]:
    """Returns the signals that can end a run here."""
    numbers = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]
    numbers = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]  # as of nohup
    if hasattr(signal, "SIGRTMIN") and callable(signal.getsignal(signal.SIGRTMIN)):
        numbers.append(signal.SIGRTMIN)  # the end of the launcher that a script follows
    return numbers


def _say(line: str) -> None:
    if is_main_process():
        with contextlib.suppress(OSError):  # the terminal may be gone
            os.write(2, line.encode())


def worker_init(before: Callable[[int], None] | None = None) -> Callable[[int], None] | None:
    """Returns a `worker_init_fn` with which a worker survives one SIGTERM to all processes of a job, but not two."""
    return functools.partial(_shield, before) if _active else before


def _shield(before: Callable[[int], None] | None, worker_id: int) -> None:
    if before is not None:
        before(worker_id)
    seen = []
    signal.signal(signal.SIGTERM, lambda number, frame: os._exit(128 + number) if seen else seen.append(number))

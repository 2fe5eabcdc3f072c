"""
Ends a script at once on a signal, with one line and 128 + its number as exit code, until its training takes over.
Scripts import this before what takes seconds to import. On Linux the end of a launcher (`accelerate launch`,
`torchrun`) is such a signal, too: its processes would otherwise live on, and write where a restart writes.
"""

import contextlib
import ctypes
import os
import signal
import sys
from types import FrameType

PROCESS, LAUNCHER = os.getpid(), os.getppid()
SCRIPT = os.path.basename(sys.argv[0]).removeprefix("scl-hf ").removesuffix(".py")
LAUNCHERS = {"accelerate", "torchrun", "accelerate.commands.launch", "torch.distributed.run"}


def leave(number: int, frame: FrameType | None) -> None:
    """Ends the process; a worker that it has forked ends on SIGTERM only."""
    if os.getpid() != PROCESS and number != signal.SIGTERM:
        return
    if os.getpid() == PROCESS and os.environ.get("RANK", "0") == "0":
        resume = " (with --resume_from_checkpoint true where there are checkpoints)" * (SCRIPT == "train")
        line = f"stopped by {signal.Signals(number).name}; the same command can be given again{resume}\n"
        with contextlib.suppress(OSError):  # nobody may be there to read it
            os.write(sys.__stderr__.fileno(), line.encode())
    os._exit(128 + number)  # an exception could be lost in what is being imported


def _leave_with_launcher(number: int, frame: FrameType | None) -> None:
    if os.getppid() != LAUNCHER:  # the signal also comes at the end of the thread that started this
        leave(signal.SIGTERM, frame)


def _follow_launcher() -> None:
    command = []
    with contextlib.suppress(OSError), open(f"/proc/{LAUNCHER}/cmdline", "rb") as file:  # only Linux has it
        command = [os.path.basename(part) for part in file.read().decode(errors="replace").split("\0")[:4]]
    if not LAUNCHERS.isdisjoint(command):
        signal.signal(signal.SIGRTMIN, _leave_with_launcher)
        ctypes.CDLL(None).prctl(1, int(signal.SIGRTMIN))  # PR_SET_PDEATHSIG
        _leave_with_launcher(signal.SIGRTMIN, None)  # it may have ended before


if __name__ != "__main__" and SCRIPT in ("train", "eval", "predict", "push", "app"):
    for _name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"):
        if hasattr(signal, _name) and signal.getsignal(getattr(signal, _name)) != signal.SIG_IGN:  # as of nohup
            signal.signal(getattr(signal, _name), leave)
    _follow_launcher()

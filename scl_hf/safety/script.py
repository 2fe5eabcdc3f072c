"""How a script ends: with an exit code, and what went wrong in one line."""

import os
import sys
import threading
from collections.abc import Callable
from typing import NoReturn

from tqdm.auto import tqdm

from ..errors import GO_ON, InputError, first_line
from ..processes import are_several, is_main_process
from .disk import disk_full, is_disk_full
from .finite import NotFiniteError
from .interruption import Interrupted, leaving


def run(main: Callable[[], int | None]) -> NoReturn:
    """
    Exits with what `main` returns: 0 where that is nothing; 2, in one line, where the user's input was wrong or a disk
    is full; 128 + the number of a signal.
    """
    # A thread that finds the disk full, as TensorBoard's, says nothing: its error is raised where it is used.
    threading.excepthook = lambda args: None if is_disk_full(args.exc_value) else threading.__excepthook__(args)
    is_main = is_main_process()
    try:
        code, line = main() or 0, None
    except InputError as error:
        code, line = 2, f"error: {error}"
        line = line if not isinstance(error, NotFiniteError) or is_main else None  # all processes stop by that
    except Interrupted as stop:
        leaving()
        code, line = stop.code, stop.line or f"stopped by {stop.signal_name}: {GO_ON} goes on"
        line = line if is_main else None
    except Exception as error:
        if is_disk_full(error):
            name = str(getattr(error, "filename", None) or "")
            full = disk_full(error, name or "a file", os.path.dirname(name) or ".", "Free some space.")
            code, line = 2, f"error: {full}"
        elif isinstance(error, OSError):
            code, line = 2, f"error: a file cannot be read or written ({first_line(error)})"
        else:
            raise
    if line is not None:
        tqdm.write(line, file=sys.stderr)  # on a line of its own, below a progress bar
    if are_several():
        sys.stdout.flush()
        os._exit(code)  # the threads of its connections would abort the process
    sys.exit(code)

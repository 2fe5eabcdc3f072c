"""How scripts end: exit codes, and one line for what a user can mend."""

import errno
import os
import signal

import pytest

from scl_hf.checkpointing.signals import Interrupted
from scl_hf.cli import run_script
from scl_hf.errors import RESUME_HINT, InputError, NotFiniteError
from scl_hf.files import FolderLock


def fail(error):
    raise error


ENDINGS = {
    "nothing": (lambda: None, 0, ""),
    "a code": (lambda: 1, 1, ""),
    "input": (lambda: fail(InputError("field: wrong")), 2, "error: field: wrong"),
    "signal": (lambda: fail(Interrupted(signal.SIGTERM)), 143, f"stopped by SIGTERM: {RESUME_HINT} resumes it"),
    "signal with a line": (lambda: fail(Interrupted(signal.SIGINT, "stopped here")), 130, "stopped here"),
    "full disk": (
        lambda: fail(OSError(errno.ENOSPC, "full", "a.npy")),
        2,
        "error: a.npy could not be written",
    ),
    "file": (lambda: fail(PermissionError(errno.EACCES, "Permission denied", "a.npy")), 2, "error: a file cannot be"),
}


def test_what_main_holds_is_released_with_its_error(tmp_path):
    def main():
        held = [FolderLock("output", tmp_path / "out")]
        raise InputError(f"output: wrong, with {len(held)} lock")

    with pytest.raises(SystemExit):
        run_script(main)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_script_ends_with_a_code_and_one_line(capsys, ending):
    main, code, said = ENDINGS[ending]
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    try:
        with pytest.raises(SystemExit) as ended:
            run_script(main)
    finally:
        for number, handler in handlers.items():
            if signal.getsignal(number) is not handler:
                signal.signal(number, handler)
    printed = capsys.readouterr().err.strip()
    assert (ended.value.code or 0) == code and printed.startswith(said) and len(printed.splitlines()) == bool(said)


def test_of_several_processes_the_first_says_what_all_stop_by(capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    for error in (NotFiniteError("step 3"), InputError("of this process alone")):
        with pytest.raises(SystemExit, match="2"):
            run_script(lambda error=error: fail(error))
    assert capsys.readouterr().err == "error: of this process alone\n"


def test_a_bug_is_a_traceback():
    with pytest.raises(KeyError):
        run_script(lambda: fail(KeyError(os.name)))

"""
Runs `scripts/train.py` many times in one go, each in a fork of an interpreter that has imported everything. Some runs
are ended by SIGKILL at a chosen point, and some find a damaged checkpoint:

    python tests/checkpointing/killed_runs.py JOBS.json RESULTS.json

A job is `{"command": […], "output_dir": …}`, and perhaps `"kill": [kind, n]`; `"copy"`, a folder that becomes the
output folder before; `"damage": [kind, path]` of something in there; `"resume": true` for the same command again. Its
result is the exit code (or minus the signal), what it printed, and how often each kind of point came.
"""

import contextlib
import functools
import gc
import json
import os
import random
import runpy
import shutil
import signal
import sys
import tempfile
import traceback
from collections import Counter
from pathlib import Path

import conftest  # noqa: F401  # its environment, before torch is imported
import evaluate  # noqa: F401  # what runs import late
import torch
import transformers.modeling_utils

import scl_hf.metrics  # noqa: F401
import scl_hf.trainer
import scl_hf.visualization.panels  # noqa: F401

SCRIPT = Path(__file__).parents[2] / "scripts/train.py"


class KillPoints:
    """Counts what happens to files of a folder, and ends the process when a kind happens for the n-th time."""

    def __init__(self, folder, kind=None, n=0):
        self.folder, self.kind, self.n, self.counts = str(folder), kind, n, Counter()

    def hit(self, kind, before=lambda: None):
        """Whether this is the point: then `before`, and the end."""
        self.counts[kind] += 1
        if kind == self.kind and self.counts[kind] == self.n:
            before()
            os.kill(os.getpid(), signal.SIGKILL)
            signal.pause()  # in another thread than the one that dies

    def within(self, path):
        if isinstance(path, int):
            path = os.readlink(f"/proc/self/fd/{path}")
        return str(path).startswith(self.folder)

    def arm(self):
        def around(module, name, kind, path_at=0):
            original = getattr(module, name)

            @functools.wraps(original)
            def wrapped(*args, **kwargs):
                path = args[path_at] if len(args) > path_at else next(iter(kwargs.values()))
                if not self.within(path):
                    return original(*args, **kwargs)
                if kind == "remove":
                    self.hit(kind, lambda: remove_half(path))
                    return original(*args, **kwargs)
                if kind in ("flush", "rename"):
                    self.hit(kind)
                result = original(*args, **kwargs)
                if kind in ("state", "weights"):
                    self.hit(kind, lambda: os.truncate(path, os.path.getsize(path) // 2))
                if kind == "rename":
                    self.hit("renamed")
                return result

            setattr(module, name, wrapped)

        around(os, "fsync", "flush")
        around(os, "rename", "rename")
        around(os, "replace", "rename")
        around(shutil, "rmtree", "remove")
        around(torch, "save", "state", path_at=1)
        around(transformers.modeling_utils, "safe_save_file", "weights", path_at=1)
        update = scl_hf.trainer.EMATeacher.update_parameters
        scl_hf.trainer.EMATeacher.update_parameters = lambda *args: (self.hit("step"), update(*args))[1]


def remove_half(folder):
    files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    for path in files[: (len(files) + 1) // 2]:
        path.unlink()


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def replace(path, make):
    path.unlink()
    make()


# What can become of a file.
DAMAGE = {
    "missing": Path.unlink,
    "empty": lambda path: os.truncate(path, 0),
    "half": lambda path: os.truncate(path, path.stat().st_size // 2),
    "flipped": flip,
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "text": lambda path: path.write_text("<html>404 Not Found</html>\n"),
    "noise": lambda path: path.write_bytes(random.Random(0).randbytes(path.stat().st_size)),
    "folder": lambda path: replace(path, path.mkdir),
    "unreadable": lambda path: replace(path, lambda: path.symlink_to(path.name)),  # a link to itself: for root, too
    "pipe": lambda path: replace(path, lambda: os.mkfifo(path)),
    # … and of a folder
    "added": lambda path: (path / "pytorch_model.bin").write_bytes(b"x"),
    "gone": shutil.rmtree,
    "emptied": lambda path: (shutil.rmtree(path), path.mkdir()),
    "a file": lambda path: (shutil.rmtree(path), path.write_text("")),
    "half gone": remove_half,
}


def run(job):
    """The exit code of one run in a fork, what it printed, and its counts."""
    with tempfile.NamedTemporaryFile("r+") as printed, tempfile.NamedTemporaryFile("r+") as counts:
        pid = os.fork()
        if pid == 0:
            code = 70
            try:
                for stream in (1, 2):
                    os.dup2(printed.fileno(), stream)
                kind, n = job.get("kill") or (None, 0)
                if kind == "time":
                    signal.setitimer(signal.ITIMER_REAL, n)  # its signal ends the process, wherever it is
                points = KillPoints(job["output_dir"], kind, n)
                points.arm()
                sys.argv = [str(SCRIPT), *job["command"]]
                code = 0
                runpy.run_path(str(SCRIPT), run_name="__main__")
            except SystemExit as end:
                code = end.code or 0
            except BaseException:
                traceback.print_exc()
                code = 1
            finally:
                with contextlib.suppress(BaseException):
                    Path(counts.name).write_text(json.dumps(points.counts))
                    sys.stdout.flush()
                    sys.stderr.flush()
                os._exit(code)
        _, status = os.waitpid(pid, 0)
        result = {"code": os.waitstatus_to_exitcode(status), "printed": Path(printed.name).read_text(errors="replace")}
        return result | {"counts": json.loads(Path(counts.name).read_text() or "{}")}


if __name__ == "__main__":
    results = []
    gc.freeze()  # forks have nothing of it to collect
    for job in json.loads(Path(sys.argv[1]).read_text()):
        if "copy" in job:
            shutil.copytree(job["copy"], job["output_dir"])
        for kind, path in job.get("damage", ()):
            DAMAGE[kind](Path(job["output_dir"], path))
        found = []
        if job.get("resume"):  # the same command again; there is nothing to resume from before the first checkpoint
            found = list(Path(job["output_dir"]).glob("checkpoint-*"))
            how = "--resume_from_checkpoint" if found else "--overwrite_output_dir"
            job["command"] = [*job["command"], how, "true"]
        results.append(run(job) | {"resumed": bool(found)})
    Path(sys.argv[2]).write_text(json.dumps(results))

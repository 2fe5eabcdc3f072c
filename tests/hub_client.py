"""
Runs scripts one after another, each in a fork of an interpreter that has imported everything, against the Hub that the
environment names, with short pauses:

    python tests/hub_client.py < JOBS.json > RESULTS.json

A job is a script and its arguments, after NAME=VALUE of its environment; its result is the exit code and what it
printed to standard output and error.
"""

import gc
import json
import os
import runpy
import sys
import tempfile
import time
import traceback
import types
from pathlib import Path

import evaluate  # noqa: F401  # what runs import late
import huggingface_hub.utils._http as hub_http

import scl_hf.cli
import scl_hf.hub
import scl_hf.metrics
import scl_hf.trainer  # noqa: F401
import scl_hf.visualization.panels

scl_hf.hub.PAUSES, scl_hf.hub.TIMEOUT = (0.05, 0.1, 0.2), (0.5, 0.5, 0.5, 0.5)
hub_http.time = types.SimpleNamespace(**vars(time) | {"sleep": lambda seconds: time.sleep(min(seconds, 0.02))})


def run(job):
    """The exit code of one script in a fork, and what it printed."""
    job, code = list(job), 70
    with tempfile.TemporaryFile("r+") as out, tempfile.TemporaryFile("r+") as error:
        if not (child := os.fork()):
            try:
                os.dup2(out.fileno(), 1)
                os.dup2(error.fileno(), 2)
                while "=" in job[0]:
                    name, value = job.pop(0).split("=", 1)
                    os.environ[name] = value
                sys.argv = job
                sys.path.insert(0, str(Path(job[0]).parent))
                runpy.run_path(job[0], run_name="__main__")
                code = 0
            except SystemExit as end:
                code = end.code or 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                os._exit(code)
        _, status = os.waitpid(child, 0)
        printed = []
        for stream in (out, error):
            stream.seek(0)
            printed.append(stream.read())
        return [os.waitstatus_to_exitcode(status), *printed]


if __name__ == "__main__":
    gc.freeze()  # forks have nothing of it to collect
    json.dump([run(job) for job in json.load(sys.stdin)], sys.stdout)

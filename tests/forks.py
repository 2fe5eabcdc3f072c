"""
Processes for tests that do not import torch anew: forks of this one, in place of those of `torchrun`, and forks of an
interpreter that has imported torch and transformers but cannot import the package.
"""

import functools
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from types import SimpleNamespace


def fork(run, **environment):
    """Starts `run` in a fork; returns its process id and the files of its standard output and error."""
    files = [tempfile.TemporaryFile("w+") for _ in range(2)]
    child = os.fork()
    if child:
        return child, files
    code = 70
    try:
        for number, file in enumerate(files, start=1):
            os.dup2(file.fileno(), number)
        sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))
        os.environ.update(environment)
        run()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def wait(forks):
    """Waits for forks, and ends them when one fails or after 10 minutes; returns what `subprocess.run` does."""
    running, codes, deadline = {child for child, _ in forks}, [], time.monotonic() + 600
    while running:
        for child in list(running):
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                running.remove(child)
                codes.append(os.waitstatus_to_exitcode(status))
        if any(codes) or time.monotonic() > deadline:
            for child in running:
                os.kill(child, signal.SIGKILL)
        time.sleep(0.01)
    texts = []
    for files in zip(*(files for _, files in forks)):
        for file in files:
            file.seek(0)
        texts.append("".join(file.read() for file in files))
    return SimpleNamespace(returncode=next(filter(None, codes), 0), stdout=texts[0], stderr=texts[1])


def run_processes(number, script, *arguments):
    """Runs a script (a path) or a module (its name) as `torchrun --nproc_per_node NUMBER` does."""
    from accelerate.state import AcceleratorState

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])

    def run():
        AcceleratorState._reset_state(reset_partial_state=True)  # forget this process's state
        sys.argv = [str(script), *map(str, arguments)]
        if Path(script).exists():
            sys.path.insert(0, str(Path(script).parent))
            runpy.run_path(str(script), run_name="__main__")
        else:
            runpy.run_module(script, run_name="__main__", alter_sys=True)

    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "LOCAL_WORLD_SIZE": str(number)}
    common |= {"WORLD_SIZE": str(number), "CUDA_VISIBLE_DEVICES": ""}
    return wait([fork(run, RANK=str(rank), LOCAL_RANK=str(rank), **common) for rank in range(number)])


def run_without_package(code, *arguments, folder):
    """Runs code in a folder. There, `import scl_hf` fails, and no remote code is cached yet."""
    server = server_without_package()
    print(json.dumps([code, [*map(str, arguments)], str(folder)]), file=server.stdin, flush=True)
    return SimpleNamespace(**json.loads(server.stdout.readline()))


@functools.cache
def server_without_package():
    command, environment = [sys.executable, __file__], os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONPATH", None)
    return subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )  # ends with its standard input, when this process ends


def serve():
    sys.modules["scl_hf"] = None
    from transformers import AutoModelForSemanticSegmentation, dynamic_module_utils  # noqa: F401 (imports torch)

    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        code, arguments, folder = json.loads(line)

        def run(code=code, arguments=arguments, folder=folder):
            os.chdir(folder)
            dynamic_module_utils.HF_MODULES_CACHE = str(Path(folder, "hf_modules"))
            sys.argv = ["-c", *arguments]
            exec(code, {"__name__": "__main__"})

        print(json.dumps(vars(wait([fork(run)]))), file=answers, flush=True)


if __name__ == "__main__":
    serve()

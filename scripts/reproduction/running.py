"""Runs a table's runs as processes: starts, resumes and records them, and ends them with their parent."""

import contextlib
import ctypes
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

import scl_hf
from scl_hf.checkpointing.manifest import checkpoints_in, why_not_resumable
from scl_hf.errors import InputError
from scl_hf.evaluation.scoring import SCORES, changed_setting, iou_name
from scl_hf.files import write_json

from .table import Run, Table

TRAIN = Path(__file__).resolve().parents[1] / "train.py"
VERSIONS = {module.__name__: module.__version__ for module in (scl_hf, torch, transformers)}
# glibc returns each freed large block to the system and faults the next one in page by page. With blocks kept, in huge
# pages, a step of camvid_12.yaml took 0.92 of the time, a supervised one 0.83.
KEPT_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": "1073741824",
    "MALLOC_TRIM_THRESHOLD_": "8589934592",
    "THP_MEM_ALLOC_ENABLE": "1",
}
ON_ONE_CORE = {"OMP_NUM_THREADS": "1"} | {name: os.environ.get(name, value) for name, value in KEPT_MEMORY.items()}
# Scores do not depend on paths, on reports and on how batches are loaded.
NOT_COMPARED = ("data_dir", "output_dir", "report_to", "model_card_template")


def command(run: Run, gpus: int) -> list[str]:
    """Returns the command line of a run from its first step."""
    several = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={gpus}"] if gpus > 1 else []
    return [sys.executable, *several, os.path.relpath(TRAIN), *run.arguments]


def read_result(run: Run) -> dict[str, Any] | None:
    """Returns the result of a finished run, its scores in 0 … 1."""
    file = run.folder / "result.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None


def check_folder(table: Table, output_dir: Path) -> None:
    """Refuses a folder that holds results of another table, of other values or of another version."""
    runs = {run.folder: run for run in table.runs}
    for file in sorted(output_dir.glob("*/*/seed_*/cell.json")):
        done = (file.parent / "result.json").is_file()
        if not (done or can_resume(file.parent)):
            continue
        before = json.loads(file.read_text(encoding="utf-8"))
        remedy = "name another --output_dir" if done else f"remove {file.parent}, name another --output_dir"
        name = f"{before['share']}, {before['row']}, seed {before['seed']}"
        run = runs.get(file.parent)
        if run is None:
            raise InputError(f"output_dir {output_dir}: holds a run that is not in {table.path} ({name}); {remedy}.")
        if changed := changed_setting(before["versions"], VERSIONS):
            raise InputError(
                f"output_dir {output_dir}: {name} was trained with {changed[0]} {changed[1]}, this is {changed[2]}; "
                f"{remedy}, or install that version."
            )
        # The number of GPUs multiplies the batch. Records without it are of one GPU.
        recipe = _compared(before["recipe"]) | {"gpus": before.get("gpus", 1)}
        if changed := changed_setting(recipe, _compared(run.settings) | {"gpus": table.gpus}):
            raise InputError(
                f"output_dir {output_dir}: {name} was trained with {changed[0]} {changed[1]!r}, the table has "
                f"{changed[2]!r}; {remedy}, or put the value back."
            )


def can_resume(folder: Path) -> bool:
    """Returns whether a run has a complete checkpoint to resume from. A run with damaged ones alone starts anew."""
    return any(why_not_resumable(path) is None for path in checkpoints_in(folder / "run"))


def _compared(settings: dict[str, Any]) -> dict[str, Any]:
    return {n: v for n, v in settings.items() if n not in NOT_COMPARED and not n.startswith("dataloader_")}


@contextlib.contextmanager
def only_one(output_dir: Path) -> Iterator[int]:
    """Locks an output folder. The runs inherit the lock, so that it is free when the last of them has ended."""
    output_dir.mkdir(parents=True, exist_ok=True)
    with open(output_dir / ".lock", "a+", encoding="utf-8") as lock:
        for attempt in range(600):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                lock.seek(0)
                owner = lock.read().strip()
            if not owner.isdigit() or os.path.isdir(f"/proc/{owner}"):
                raise InputError(
                    f"output_dir {output_dir}: reproduce.py runs in it already (process {owner or 'unknown'}); "
                    "wait for its end, or name another --output_dir."
                )
            if attempt == 599:  # the runs of a killed process may need a moment to end
                raise InputError(
                    f"output_dir {output_dir}: runs of process {owner}, which has ended, still run in it; wait for "
                    "their end, or name another --output_dir."
                )
            time.sleep(0.1)
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield lock.fileno()


def slots(table: Table, jobs: int | None) -> list[dict[str, str]]:
    """Returns the environment of each of the runs at once: GPUs of its own, or one thread."""
    if all(run.settings["use_cpu"] for run in table.runs) or not torch.cuda.is_available():
        if table.gpus > 1:
            raise InputError(f"{table.path}: gpus: a run takes {table.gpus} GPUs, there is none; see --dry_run true.")
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        return [ON_ONE_CORE] * (jobs or cores)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(torch.cuda.device_count())))).split(",")
    groups = [",".join(visible[i : i + table.gpus]) for i in range(0, len(visible), table.gpus)]
    groups = [group for group in groups if group.count(",") == table.gpus - 1]
    if not groups:
        raise InputError(
            f"{table.path}: gpus: a run takes {table.gpus} GPUs, there are {len(visible)}; see --dry_run true."
        )
    return [{"CUDA_VISIBLE_DEVICES": groups[i % len(groups)]} for i in range(jobs or len(groups))]


def run_all(
    runs: Sequence[Run],
    gpus: int,
    environments: Sequence[dict[str, str]],
    lock: int,
    report: Callable[[Mapping[Run, str]], object],
) -> dict[Run, str]:
    """
    Trains runs, one at a time in each environment; returns why some failed, and reports it whenever a run has ended.
    An exception ends those that run.
    """
    waiting, free = list(runs), list(environments)
    running: dict[subprocess.Popen, tuple[Run, dict[str, str]]] = {}
    failed: dict[Run, str] = {}
    ended: list[subprocess.Popen] = []
    try:
        while waiting or running:
            while waiting and free:
                run, environment = waiting.pop(0), free.pop(0)
                running[_start(run, gpus, environment, lock)] = (run, environment)
            if ended:  # the next ones run meanwhile
                report(failed)
            time.sleep(0.1)
            ended = [process for process in running if process.poll() is not None]
            for process in ended:
                run, environment = running.pop(process)
                free.append(environment)
                if process.returncode:
                    failed[run] = _reason(run, gpus, process.returncode)
                    said = f"failed: {failed[run]}"
                else:
                    result = _finish(run)
                    said = f"{100 * result['scores']['mean_iou']:.2f} mIoU, {result['seconds'] / 60:.1f} min"
                print(f"{len(runs) - len(waiting) - len(running)}/{len(runs)}  {run}: {said}", flush=True)
    finally:
        _stop(running)
    return failed


def _start(run: Run, gpus: int, environment: dict[str, str], lock: int) -> subprocess.Popen:
    """Starts a run, from its last checkpoint if it has one."""
    resume = can_resume(run.folder)
    begun = {"share": run.share, "row": run.row, "seed": run.seed, "versions": VERSIONS, "recipe": run.settings}
    seconds = _seconds(run, max(path.stat().st_mtime for path in run.folder.rglob("*"))) if resume else 0.0
    begun |= {"gpus": gpus, "seconds": seconds, "started": time.time()}
    run.folder.mkdir(parents=True, exist_ok=True)
    parent = os.getpid()

    def end_with_parent() -> None:
        if sys.platform == "linux":  # elsewhere the runs of a killed parent continue
            ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
            if os.getppid() != parent:
                os._exit(1)

    mode = "ab" if resume else "wb"
    with open(run.folder / "stdout.txt", mode) as stdout, open(run.folder / "stderr.txt", mode) as stderr:
        write_json(run.folder / "cell.json", begun | {"stderr_before": stderr.tell()})  # bytes of earlier starts
        return subprocess.Popen(
            command(run, gpus) + ["--resume_from_checkpoint", "true"] * resume,
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            pass_fds=[lock],
            start_new_session=True,  # Ctrl-C is for the parent, which ends its runs
            preexec_fn=end_with_parent,
        )


def _reason(run: Run, gpus: int, returncode: int) -> str:
    """Returns the error of a run's last start."""
    file = run.folder / "stderr.txt"
    if returncode < 0:
        return f"ended by {signal.Signals(-returncode).name}, see {file}"
    before = json.loads((run.folder / "cell.json").read_text(encoding="utf-8"))["stderr_before"]
    text = file.read_bytes()[before:].decode(errors="replace")
    said = [line.strip() for line in text.splitlines() if line.strip()]
    # The first error of several processes is the cause; the last lines are the launcher's.
    errors = [line.removeprefix("error: ") for line in said if line.startswith("error: ")]
    if errors:
        return errors[0]
    return said[-1] if said and gpus == 1 else f"exit code {returncode}, see {file}"


def _finish(run: Run) -> dict[str, Any]:
    """Writes and returns the result of a finished run."""
    begun = json.loads((run.folder / "cell.json").read_text(encoding="utf-8"))
    metrics = json.loads((run.folder / "run/all_results.json").read_text(encoding="utf-8"))
    config = json.loads((run.folder / "run/config.json").read_text(encoding="utf-8"))
    scores = {name: metrics[f"eval_{name}"] for name in SCORES}
    labels = [label for _, label in sorted(config["id2label"].items(), key=lambda item: int(item[0]))]
    scores["iou"] = {label: metrics.get(f"eval_{iou_name(label)}") for label in labels}
    result = {name: begun[name] for name in ("share", "row", "seed", "versions", "recipe")}
    result |= {"scores": scores, "seconds": round(_seconds(run, time.time()), 1)}
    write_json(run.folder / "result.json", result)
    return result


def _stop(running: dict[subprocess.Popen, Any]) -> None:
    """Ends processes and their children."""
    for process in running:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
    try:
        for process in running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(60)
    finally:
        for process in running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def _seconds(run: Run, now: float) -> float:
    """Returns the seconds of a run, those before a resume included."""
    begun = json.loads((run.folder / "cell.json").read_text(encoding="utf-8"))
    return begun["seconds"] + max(0.0, now - begun["started"])

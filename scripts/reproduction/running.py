"""Cells as processes: started, resumed, kept and ended with the process that started them."""

import contextlib
import ctypes
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.trainer import OPTIMIZER_NAME

import scl_hf
from scl_hf.checkpointing.manifest import checkpoints_in, find_problem
from scl_hf.errors import InputError
from scl_hf.evaluation.scoring import SCORES, changed_setting, iou_name
from scl_hf.files import write_json

from .table import Cell, Table

TRAIN = Path(__file__).resolve().parents[1] / "train.py"
VERSIONS = {module.__name__: module.__version__ for module in (scl_hf, torch, transformers)}
# glibc hands each large block back to the system when it is freed, and the next one is faulted in page by page. Kept,
# and in huge pages, a step of camvid_12.yaml took 0.92 of the time, with labels alone 0.83.
KEPT_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": "1073741824",
    "MALLOC_TRIM_THRESHOLD_": "8589934592",
    "THP_MEM_ALLOC_ENABLE": "1",
}
ON_ONE_CORE = {"OMP_NUM_THREADS": "1"} | {name: os.environ.get(name, value) for name, value in KEPT_MEMORY.items()}
# Where things are, what is shown and how fast batches come are no part of what a cell's scores depend on.
NOT_COMPARED = ("data_dir", "output_dir", "report_to", "model_card_template")


def command(cell: Cell, gpus: int) -> list[str]:
    """The command line of a cell that starts from nothing."""
    several = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={gpus}"] if gpus > 1 else []
    return [sys.executable, *several, os.path.relpath(TRAIN), *cell.arguments]


def read_result(cell: Cell) -> dict[str, Any] | None:
    """What a cell that is done has left, with its scores in 0 … 1."""
    file = cell.folder / "result.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None


def check_folder(table: Table, output_dir: Path) -> None:
    """Refuses a folder with cells of another table, of other values or of another version that would be kept."""
    cells = {cell.folder: cell for cell in table.cells}
    for file in sorted(output_dir.glob("*/*/seed_*/cell.json")):
        done = (file.parent / "result.json").is_file()
        if not (done or can_resume(file.parent)):
            continue
        before = json.loads(file.read_text(encoding="utf-8"))
        remedy = "name another --output_dir" if done else f"remove {file.parent}, name another --output_dir"
        name = f"{before['share']}, {before['row']}, seed {before['seed']}"
        cell = cells.get(file.parent)
        if cell is None:
            raise InputError(f"output_dir {output_dir}: holds a cell that {table.path} has not ({name}); {remedy}.")
        if changed := changed_setting(before["versions"], VERSIONS):
            raise InputError(
                f"output_dir {output_dir}: {name} was trained with {changed[0]} {changed[1]}, this is {changed[2]}; "
                f"{remedy}, or go on with that version."
            )
        # Their number is a factor of the batch. Where it does not stand, it was one.
        recipe = _compared(before["recipe"]) | {"gpus": before.get("gpus", 1)}
        if changed := changed_setting(recipe, _compared(cell.settings) | {"gpus": table.gpus}):
            raise InputError(
                f"output_dir {output_dir}: {name} was trained with {changed[0]} {changed[1]!r}, the table has "
                f"{changed[2]!r}; {remedy}, or put the value back."
            )


def can_resume(folder: Path) -> bool:
    """Whether a cell has a checkpoint that train.py goes on from. A damaged one alone is no reason to stay a gap."""
    whole = (path for path in checkpoints_in(folder / "run") if find_problem(path) is None)
    return any((path / OPTIMIZER_NAME).is_file() for path in whole)


def _compared(settings: dict[str, Any]) -> dict[str, Any]:
    return {n: v for n, v in settings.items() if n not in NOT_COMPARED and not n.startswith("dataloader_")}


@contextlib.contextmanager
def only_one(output_dir: Path) -> Iterator[int]:
    """Holds the lock of an output folder, which cells share: it is free when the last of them has ended."""
    output_dir.mkdir(parents=True, exist_ok=True)
    with open(output_dir / ".lock", "a+", encoding="utf-8") as lock:
        for attempt in range(600):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                lock.seek(0)
                owner = lock.read().strip()
            except OSError:  # a file system without locks; each cell's folder has one that does without
                break
            if not owner.isdigit() or os.path.isdir(f"/proc/{owner}"):
                raise InputError(
                    f"output_dir {output_dir}: reproduce.py runs in it already (process {owner or 'unknown'}); "
                    "wait for its end, or name another --output_dir."
                )
            if attempt == 599:  # cells of one that was killed may need a moment to end
                raise InputError(
                    f"output_dir {output_dir}: cells of process {owner}, which has ended, still run in it; wait for "
                    "their end, or name another --output_dir."
                )
            time.sleep(0.1)
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield lock.fileno()


def slots(table: Table, jobs: int | None) -> list[dict[str, str]]:
    """What each of the cells that run at once has in its environment: GPUs of its own, or one thread."""
    if all(cell.settings["use_cpu"] for cell in table.cells) or not torch.cuda.is_available():
        if table.gpus > 1:
            raise InputError(f"{table.path}: gpus: a cell takes {table.gpus} GPUs, there is none; see --dry_run true.")
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        return [ON_ONE_CORE] * (jobs or cores)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(torch.cuda.device_count())))).split(",")
    groups = [",".join(visible[i : i + table.gpus]) for i in range(0, len(visible), table.gpus)]
    groups = [group for group in groups if group.count(",") == table.gpus - 1]
    if not groups:
        raise InputError(
            f"{table.path}: gpus: a cell takes {table.gpus} GPUs, there are {len(visible)}; see --dry_run true."
        )
    return [{"CUDA_VISIBLE_DEVICES": groups[i % len(groups)]} for i in range(jobs or len(groups))]


def run_cells(cells: Sequence[Cell], gpus: int, environments: Sequence[dict[str, str]], lock: int) -> dict[Cell, str]:
    """Runs cells, as many at once as there are environments; returns why some failed. Those that run end with it."""
    waiting, free = list(cells), list(environments)
    running: dict[subprocess.Popen, tuple[Cell, dict[str, str]]] = {}
    failed: dict[Cell, str] = {}
    try:
        while waiting or running:
            while waiting and free:
                cell, environment = waiting.pop(0), free.pop(0)
                running[_start(cell, gpus, environment, lock)] = (cell, environment)
            time.sleep(0.1)
            for process in [process for process in running if process.poll() is not None]:
                cell, environment = running.pop(process)
                free.append(environment)
                if process.returncode:
                    failed[cell] = _reason(cell, gpus, process.returncode)
                    said = f"failed: {failed[cell]}"
                else:
                    said = _in_short(_finish(cell))
                print(f"{len(cells) - len(waiting) - len(running)}/{len(cells)}  {cell}: {said}", flush=True)
    finally:
        _stop(running)
    return failed


def _start(cell: Cell, gpus: int, environment: dict[str, str], lock: int) -> subprocess.Popen:
    """Starts a cell, from its last checkpoint if it has one."""
    resume = can_resume(cell.folder)
    begun = {"share": cell.share, "row": cell.row, "seed": cell.seed, "versions": VERSIONS, "recipe": cell.settings}
    begun |= {"gpus": gpus, "seconds": _seconds(cell, _last_write(cell)) if resume else 0.0, "started": time.time()}
    cell.folder.mkdir(parents=True, exist_ok=True)
    parent = os.getpid()

    def end_with_parent() -> None:
        if sys.platform == "linux":  # elsewhere only a parent that can still act ends its cells
            ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
            if os.getppid() != parent:
                os._exit(1)

    mode = "ab" if resume else "wb"
    with open(cell.folder / "stdout.txt", mode) as stdout, open(cell.folder / "stderr.txt", mode) as stderr:
        write_json(cell.folder / "cell.json", begun | {"stderr_before": stderr.tell()})  # of earlier starts
        return subprocess.Popen(
            command(cell, gpus) + ["--resume_from_checkpoint", "true"] * resume,
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            pass_fds=[lock],
            start_new_session=True,  # Ctrl-C is for the parent, which ends its cells
            preexec_fn=end_with_parent,
        )


def _reason(cell: Cell, gpus: int, returncode: int) -> str:
    """Why a cell has failed, as its last start has said it."""
    file = cell.folder / "stderr.txt"
    if returncode < 0:
        return f"ended by {signal.Signals(-returncode).name}, see {file}"
    before = json.loads((cell.folder / "cell.json").read_text(encoding="utf-8"))["stderr_before"]
    text = file.read_bytes()[before:].decode(errors="replace")
    said = [line.strip() for line in text.splitlines() if line.strip()]
    # The first one of several processes has the cause; what their launcher says last is a frame of its own.
    errors = [line.removeprefix("error: ") for line in said if line.startswith("error: ")]
    if errors:
        return errors[0]
    return said[-1] if said and gpus == 1 else f"exit code {returncode}, see {file}"


def _finish(cell: Cell) -> dict[str, Any]:
    """Writes the result of a cell that is done, and returns it."""
    begun = json.loads((cell.folder / "cell.json").read_text(encoding="utf-8"))
    metrics = json.loads((cell.folder / "run/all_results.json").read_text(encoding="utf-8"))
    config = json.loads((cell.folder / "run/config.json").read_text(encoding="utf-8"))
    scores = {name: metrics[f"eval_{name}"] for name in SCORES}
    labels = [label for _, label in sorted(config["id2label"].items(), key=lambda item: int(item[0]))]
    scores["iou"] = {label: metrics.get(f"eval_{iou_name(label)}") for label in labels}
    result = {name: begun[name] for name in ("share", "row", "seed", "versions", "recipe")}
    result |= {"scores": scores, "seconds": round(_seconds(cell, time.time()), 1)}
    write_json(cell.folder / "result.json", result)
    return result


def _in_short(result: dict[str, Any]) -> str:
    return f"{100 * result['scores']['mean_iou']:.2f} mIoU, {result['seconds'] / 60:.1f} min"


def _stop(running: dict[subprocess.Popen, Any]) -> None:
    """Ends processes, and those that they have started."""
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


def _seconds(cell: Cell, now: float) -> float:
    """How long a cell has run, the times before it was resumed included."""
    begun = json.loads((cell.folder / "cell.json").read_text(encoding="utf-8"))
    return begun["seconds"] + max(0.0, now - begun["started"])


def _last_write(cell: Cell) -> float:
    return max(path.stat().st_mtime for path in cell.folder.rglob("*"))

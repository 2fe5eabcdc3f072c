"""Whole runs that are stopped from outside: signals, launchers that end, second starts, full disks. Minutes long."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import yaml
from conftest import SMALL_RUN
from safetensors.torch import load_file
from test_stops import same

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
TRAIN = str(ROOT / "scripts/train.py")
DRIVER = str(Path(__file__).parent / "stopped_run.py")
RUN = SMALL_RUN | {
    "class_uniform_share": 0.0,
    "max_steps": 3,
    "logging_steps": 1,
    "eval_strategy": "steps",
    "eval_steps": 2,
    "save_strategy": "steps",
    "save_steps": 2,
    "disable_tqdm": True,
    "report_to": "none",
    "panel_images": 0,
}
COUNTS = Counter()
TERM, INT, HUP, USR1, KILL = signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGKILL

ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module", autouse=True)
def counts():
    yield
    print(f"\n{dict(sorted(COUNTS.items()))}")


@pytest.fixture(scope="module")
def recipe(toy_dataset, tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    path.write_text(yaml.safe_dump(RUN | {"dataset": "cityscapes", "data_dir": str(toy_dataset)}))
    return path


@pytest.fixture(scope="module")
def undisturbed(recipe, tmp_path_factory):
    output = tmp_path_factory.mktemp("undisturbed") / "run"
    run = start("none", recipe, output)
    assert run.wait() == 0, output_of(run)
    return load_file(output / "model.safetensors")


def start(place, recipe, output, *fields, launcher=(), script=TRAIN, driver=True):
    command = [*launcher, *([DRIVER, place] if driver else []), script, str(recipe), "--output_dir", str(output)]
    command = command if launcher else [sys.executable, *command]
    output.parent.mkdir(parents=True, exist_ok=True)
    log = open(output.parent / f"{output.name}-{time.time_ns()}.log", "w+")
    run = subprocess.Popen([*command, *fields], stdout=log, stderr=log, env=ENVIRONMENT, start_new_session=True)
    run.log, run.output = log.name, output
    return run


def output_of(run):
    return Path(run.log).read_text()


def wait_for(run, text, seconds=300):
    deadline = time.monotonic() + seconds
    while text not in output_of(run):
        assert run.poll() is None and time.monotonic() < deadline, output_of(run)
        time.sleep(0.1)


def members(run):
    """The live processes of a run: those of its session and, of its folder (torchrun opens others)."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, _, session = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
            own = str(run.output).encode() in (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if (int(session) == run.pid or own) and state != "Z":
            found.append(int(folder.name))
    return found


def wait_for_the_end_of_all(run, seconds=120):
    deadline = time.monotonic() + seconds
    while members(run):
        assert time.monotonic() < deadline, (members(run), output_of(run))
        time.sleep(0.2)


def check_whole(place, output, run, number, code=None):
    """One line, the exit code, nothing published."""
    COUNTS["runs stopped by signals"] += 1
    log = output_of(run)
    if code is None:
        COUNTS["tracebacks"] += "Traceback" in log
        assert run.returncode == 128 + number, log
        assert "Traceback" not in log, log
    assert len(re.findall(r"^stopped by ", log, re.M)) == 1, log
    assert not (output / "model.safetensors").exists() and not (output / "README.md").exists()
    if place == "start":
        assert "(with --resume_from_checkpoint true where there are checkpoints)" in log, log
    else:
        assert "--resume_from_checkpoint true resumes from here" in log, log
        assert list(output.glob("checkpoint-*/trainer_state.json"))


def check_goes_on(recipe, output, undisturbed, *fields, launcher=()):
    """The same bits as the run that nobody disturbed."""
    resume = ["--resume_from_checkpoint", "true"] if list(output.glob("checkpoint-*")) else []
    run = start("none", recipe, output, *resume, *fields, launcher=launcher)
    COUNTS["lost runs"] += run.wait() != 0
    assert run.returncode == 0, output_of(run)
    COUNTS["runs gone on with"] += 1
    equal = same(load_file(output / "model.safetensors"), undisturbed)
    COUNTS["unequal endings"] += not equal
    assert equal


SITUATIONS = [
    *((place, TERM, workers) for place in ("start", "step", "evaluation", "checkpoint", "end") for workers in (0, 2)),
    *((place, INT, workers) for place, workers in (("start", 0), ("step", 0), ("step", 2), ("evaluation", 2))),
    *((place, INT, 0) for place in ("checkpoint", "end")),
    ("step", USR1, 2),
    ("evaluation", USR1, 0),
    ("step", HUP, 0),
    ("end", HUP, 2),
]


@pytest.mark.parametrize(("place", "number", "workers"), SITUATIONS)
def test_a_signal_to_all_processes_of_a_run(recipe, undisturbed, tmp_path, place, number, workers):
    output = tmp_path / "run"
    # An evaluation after the last step is the one of the end.
    fields = ["--dataloader_num_workers", str(workers)] + (["--eval_strategy", "no"] if place == "end" else [])
    run = start(place, recipe, output, *fields)
    wait_for(run, "READY")
    os.killpg(run.pid, number)
    run.wait()
    wait_for_the_end_of_all(run)
    check_whole(place, output, run, number)
    if place != "end":  # resuming at the last step is another matter
        check_goes_on(recipe, output, undisturbed, *fields)


def test_a_second_signal_ends_at_once(recipe, tmp_path):
    run = start("slow step", recipe, tmp_path / "run")
    wait_for(run, "READY")
    os.kill(run.pid, TERM)
    time.sleep(4)
    assert run.poll() is None
    os.kill(run.pid, INT)
    assert run.wait(5) == 130
    assert "stopped at once by a second signal, SIGINT" in output_of(run)
    assert not list((tmp_path / "run").glob("checkpoint-*"))


ACCELERATE = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "1", "--num_machines", "1"]
ACCELERATE += ["--mixed_precision", "no", "--dynamo_backend", "no", "--cpu"]


@pytest.mark.parametrize(("number", "group"), [(TERM, False), (KILL, False), (INT, True), (TERM, True), (HUP, False)])
@pytest.mark.parametrize("place", ["start", "step"])
def test_a_run_goes_with_its_launcher(recipe, undisturbed, tmp_path, place, number, group):
    output = tmp_path / "run"
    run = start(place, recipe, output, launcher=ACCELERATE)
    wait_for(run, "READY")
    (os.killpg if group else os.kill)(run.pid, number)
    run.wait()
    wait_for_the_end_of_all(run)  # no orphan
    check_whole(place, output, run, number, code="the launcher's")
    check_goes_on(recipe, output, undisturbed)


TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


@pytest.mark.parametrize(
    ("place", "number", "whom"),
    [
        ("step", TERM, "launcher"),
        ("step", INT, "all"),
        ("step", USR1, "one rank"),
        ("evaluation", TERM, "launcher"),
        ("checkpoint", INT, "all"),
        ("step", KILL, "launcher"),
    ],
)
def test_all_processes_stop_at_the_same_step(recipe, tmp_path, place, number, whom):
    output = tmp_path / "run"
    fields = ["--per_device_train_batch_size", "1", "--ddp_backend", "gloo", "--max_steps", "5"]
    fields += ["--consistency_weight", "1", "--sync_batch_norm", "false"]
    run = start(place, recipe, output, *fields, launcher=TORCHRUN)
    wait_for(run, "READY")
    if whom == "all":
        os.killpg(run.pid, number)
    elif whom == "launcher":
        os.kill(run.pid, number)
    else:
        ranks = [pid for pid in members(run) if TRAIN.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()]
        os.kill(max(pid for pid in ranks if pid != run.pid), number)
    run.wait()
    wait_for_the_end_of_all(run)
    check_whole(place, output, run, number, code="the launcher's")
    run = start("none", recipe, output, *fields, "--resume_from_checkpoint", "true", launcher=TORCHRUN)
    COUNTS["lost runs"] += run.wait() != 0
    assert run.returncode == 0, output_of(run)
    whole = start("none", recipe, tmp_path / "whole", *fields, launcher=TORCHRUN)
    assert whole.wait() == 0
    equal = same(load_file(output / "model.safetensors"), load_file(tmp_path / "whole/model.safetensors"))
    COUNTS["runs gone on with"] += 1
    COUNTS["unequal endings"] += not equal
    assert equal


def test_two_launchers_on_one_machine_stand_for_two_machines(recipe, tmp_path):
    """The Accelerate config for two machines, on loopback and CPU."""
    config = str(ROOT / "recipes/accelerate_configs/two_machines.yaml")
    runs = []
    for rank in range(2):
        launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", config]
        launcher += ["--machine_rank", str(rank), "--main_process_ip", "127.0.0.1", "--main_process_port", "29611"]
        launcher += ["--num_processes", "2", "--multi_gpu"]
        fields = ["--per_device_train_batch_size", "1", "--ddp_backend", "gloo", "--max_steps", "2"]
        runs.append(start("none", recipe, tmp_path / "run", *fields, launcher=launcher))
    assert [run.wait() for run in runs] == [0, 0], output_of(runs[0]) + output_of(runs[1])
    assert (tmp_path / "run/model.safetensors").is_file() and "2 processes" in output_of(runs[0])


SRUN = """#!/bin/bash
# Two nodes on one machine; what srun is told by signals it tells the tasks.
while [[ $1 == --* ]]; do shift; done
trap 'kill -USR1 $tasks' USR1
trap 'kill -TERM $tasks' TERM
for node in 0 1; do SLURM_NODEID=$node "$@" & tasks="$tasks $!"; done
code=0
for task in $tasks; do while kill -0 $task 2> /dev/null; do wait $task; code=$?; done; done
exit $code
"""


def test_the_slurm_script_saves_and_queues_again_when_time_is_up(recipe, tmp_path):
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, text in {
        "srun": SRUN,
        "scontrol": f'#!/bin/bash\n[ "$1" = show ] && echo 127.0.0.1 || echo "$@" >> {tmp_path}/scontrol.log\n',
        "python": f'#!/bin/bash\nexec {sys.executable} "$@"\n',
        "torchrun": f'#!/bin/bash\nexec {sys.executable} -m torch.distributed.run "$@"\n',
    }.items():
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)
    slurm = {
        "SLURM_JOB_NODELIST": "n[0-1]",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_GPUS_ON_NODE": "1",
        "SLURM_JOB_ID": "7",
    }
    environment = ENVIRONMENT | slurm | {"PATH": f"{commands}:{os.environ['PATH']}", "MASTER_PORT": "29613"}
    fields = ["--per_device_train_batch_size", "1", "--ddp_backend", "gloo"]

    def submit(*more):
        command = ["bash", "recipes/slurm/train.slurm", str(tmp_path / "run"), str(recipe), *fields]
        log = open(tmp_path / f"job-{time.time_ns()}.log", "w+")
        job = subprocess.Popen(
            [*command, *more], cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True
        )
        job.log, job.output = log.name, tmp_path / "run"
        return job

    job = submit("--max_steps", "100000")
    wait_for(job, "step      2")
    os.kill(job.pid, USR1)
    assert job.wait() == 0, output_of(job)
    wait_for_the_end_of_all(job)
    assert "stopped by SIGUSR1 after step" in output_of(job) and "queued again" in output_of(job)
    assert (tmp_path / "scontrol.log").read_text() == "requeue 7\n"
    step = max(int(path.name.partition("-")[2]) for path in (tmp_path / "run").glob("checkpoint-*"))
    job = submit("--max_steps", str(step + 2))
    assert job.wait() == 0, output_of(job)
    assert (tmp_path / "run/model.safetensors").is_file()


def test_a_second_run_in_the_folder_is_refused_and_a_dead_one_is_no_obstacle(recipe, tmp_path):
    output = tmp_path / "run"
    first = start("step", recipe, output, "--max_steps", "100000", "--save_steps", "100000")
    wait_for(first, "READY")
    for fields in ([], ["--overwrite_output_dir", "true"], ["--resume_from_checkpoint", "true"]):
        second = start("none", recipe, output, *fields)
        assert second.wait() == 2
        assert f"is written to by another run, process {first.pid} on " in output_of(second)
        assert "Traceback" not in output_of(second)
        COUNTS["second starts refused"] += 1
    first.kill()
    first.wait()
    assert start("none", recipe, output, "--overwrite_output_dir", "true").wait() == 0


# Full disks: a file system of a few megabytes, where a user may mount one

SMALL_DISK = ["unshare", "-rm", "sh", "-c"]


def can_mount():
    command = [*SMALL_DISK, "mount -t tmpfs -o size=1m none /mnt"]
    return shutil.which("unshare") is not None and subprocess.run(command, capture_output=True).returncode == 0


@pytest.mark.parametrize("room", [0, 40, 90, 150, 300, 500, 700, 900, 1100, 1400, 1800, 2200])
def test_a_small_disk(recipe, tmp_path, room):
    """Whatever is being written when the disk is full, in each case something else: one line, exit code 2."""
    if not can_mount():
        pytest.skip("no file system can be mounted here")
    disk = tmp_path / "disk"
    disk.mkdir()
    arguments = [DRIVER, "none", TRAIN, str(recipe), "--output_dir", str(disk / "run"), "--report_to", "tensorboard"]
    command = " ".join([sys.executable, *arguments, "--save_steps 1 --panel_images 3 --logging_steps 1"])
    mount = f"mount -t tmpfs -o size={max(room, 4)}k,nr_inodes=10k none {disk} && {command}; code=$?; "
    listed = f"find {disk} -path '*checkpoint-*' -name trainer_state.json; exit $code"
    result = subprocess.run([*SMALL_DISK, mount + listed], capture_output=True, text=True, env=ENVIRONMENT)
    COUNTS["full disks"] += 1
    COUNTS["tracebacks"] += "Traceback" in result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    print(room, lines)
    assert result.returncode == 2 and len(lines) == 1, result.stderr
    assert "could not be written: the disk is full" in lines[0] and "free in" in lines[0]
    assert "Traceback" not in result.stderr and "Exception ignored" not in result.stderr, result.stderr

"""
A training run that is killed anywhere, or whose checkpoints are damaged, is started again by the same command and ends
with the bits of the undisturbed one; or one line says what is wrong. The runs are real ones of `scripts/train.py`.
"""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml
from conftest import TINY

SETTINGS = {
    "model_config": TINY,
    "dataset": "cityscapes",
    "crop_size": [32, 32],
    "class_uniform_tile": 32,
    "num_boxes": 4,
    "num_loss_boxes": 4,
    "num_pairs": 40,
    "ema_decay": 0.9,
    "per_device_train_batch_size": 2,
    "max_steps": 7,  # 3 steps are an epoch
    "logging_steps": 1,
    "eval_strategy": "steps",
    "eval_steps": 2,
    "save_strategy": "steps",
    "save_steps": 2,
    "panel_images": 0,
    "disable_tqdm": True,
    "use_cpu": True,
    "report_to": "none",
}
FILES = (
    "model.safetensors",
    "student/model.safetensors",
    "optimizer.pt",
    "scheduler.pt",
    "rng_state.pth",
    "trainer_state.json",
    "config.json",
    "student/config.json",
    "recipe.json",
    "training_args.bin",
    "manifest.json",
)
EXACT = FILES[:5] + ("config.json",)  # the others hold times or paths
KINDS = ("missing", "empty", "half", "flipped", "longer", "text", "noise", "folder", "unreadable", "pipe")
OF_FOLDERS = [("added", ""), ("gone", "student"), ("emptied", ""), ("a file", ""), ("half gone", "")]


class Runs:
    """Jobs for tests/checkpointing/killed_runs.py, and what came of them."""

    def __init__(self, toy_dataset, path):
        self.path, self.jobs = path, []
        self.recipe = path / "recipe.yaml"
        self.recipe.write_text(yaml.safe_dump(SETTINGS | {"data_dir": str(toy_dataset)}))

    def add(self, name, *command, **job):
        """One more run in the folder of this name; returns its number."""
        folder = str(self.path / name)
        command = [str(self.recipe), "--output_dir", folder, *command]
        self.jobs.append({"command": command, "output_dir": folder} | job)
        return len(self.jobs) - 1

    def execute(self):
        jobs, results = self.path / "jobs.json", self.path / "results.json"
        jobs.write_text(json.dumps(self.jobs))
        command = [sys.executable, str(Path(__file__).with_name("killed_runs.py")), str(jobs), str(results)]
        environment = os.environ | {"HF_DATASETS_CACHE": str(self.path / "cache"), "CUDA_VISIBLE_DEVICES": ""}
        environment["PYTHONPATH"] = os.pathsep.join(map(str, [Path(__file__).parents[1], *sys.path]))  # conftest
        outcome = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert outcome.returncode == 0, outcome.stderr[-3000:]
        self.results = json.loads(results.read_text())

    def bits(self, name):
        """What a run ends with: the published model, the last checkpoint, the losses and scores."""
        run = self.path / name
        last = run / f"checkpoint-{SETTINGS['max_steps']}"
        files = [run / "model.safetensors", *(last / name for name in EXACT)]
        logs = json.loads((run / "trainer_state.json").read_text())["log_history"]
        scores = {(log["step"], name): log[name] for log in logs for name in ("loss", "eval_mean_iou") if name in log}
        return [hashlib.sha256(file.read_bytes()).hexdigest() for file in files], scores


def lines_of(result):
    """What a run said on its own account."""
    return [line for line in result["printed"].splitlines() if line.startswith("error: ") or "passed over" in line]


class Count(Counter):
    """What must not happen, and how often it did."""

    def __init__(self):
        super().__init__({"lost runs": 0, "unequal endings": 0, "tracebacks": 0, "silent failures": 0})
        self.cases = []

    def add(self, name, case, holds):
        if not holds:
            self[name] += 1
            self.cases.append((name, case))


def kill_and_restart(runs, points, limits=("1", "2", "null"), twice=0):
    """Adds runs that are killed at these points, some of them at a second one, too, and started again."""
    numbers = {}
    for i, (kind, n) in enumerate(points):
        name, limit = f"{kind}-{n}-{i}", ("--save_total_limit", limits[i % len(limits)])
        killed = [runs.add(name, *limit, kill=[kind, n])]
        if twice and i % twice == 0:
            killed.append(runs.add(name, *limit, resume=True, kill=["flush", 3 + i % 40]))
        numbers[name] = killed, runs.add(name, *limit, resume=True)
    return numbers


def count_kills(runs, numbers, count):
    """How many of them were killed by us."""
    expected, kills = runs.bits("complete"), 0
    for name, (killed, last) in numbers.items():
        results = [runs.results[i] for i in killed]
        kills += sum(result["code"] in (-signal.SIGKILL, -signal.SIGALRM) for result in results)
        last = runs.results[last]
        count.add("tracebacks", name, not any("Traceback" in result["printed"] for result in [*results, last]))
        count.add("lost runs", (name, lines_of(last), last["printed"][-500:]), last["code"] == 0)
        count.add("unequal endings", name, last["code"] != 0 or runs.bits(name) == expected)
        # Nothing that a killed run leaves is called a checkpoint and is none, and nothing is left in the end.
        count.add("silent failures", (name, "passed over"), "passed over" not in last["printed"])
        count.add("silent failures", (name, "left over"), not (runs.path / name / "_partial").exists())
    return kills


def damage(runs, cases):
    """Adds runs that find their newest checkpoint damaged: beside an older one, alone, and by its name."""
    numbers = {}
    for i, (kind, file) in enumerate(cases):
        name = f"damaged-{i}"
        spoilt = [(kind, f"checkpoint-4/{file}")]
        job = {"copy": str(runs.path / "stopped"), "damage": spoilt}
        older = runs.add(name, resume=True, **job)
        alone = runs.add(f"{name}-alone", resume=True, **job | {"damage": [("gone", "checkpoint-2"), *spoilt]})
        checkpoint = runs.path / f"{name}-named/checkpoint-4"
        named = runs.add(f"{name}-named", "--resume_from_checkpoint", str(checkpoint), **job)
        numbers[name] = kind, file, older, alone, named
    return numbers


def count_damage(runs, numbers, count):
    expected = runs.bits("complete")
    for name, (kind, file, *of_case) in numbers.items():
        older, alone, named = (runs.results[i] for i in of_case)
        case = (kind, file)
        for result in (older, alone, named):
            count.add("tracebacks", (case, result["printed"][-800:]), "Traceback" not in result["printed"])
        count.add("lost runs", (case, older["printed"][-500:]), older["code"] == 0)
        count.add("unequal endings", case, older["code"] != 0 or runs.bits(name) == expected)
        said = [line for line in lines_of(older) if "checkpoint-4 is passed over: " in line]
        count.add("silent failures", (case, "passed over"), len(said) == 1)
        for result, start in ((alone, "error: resume_from_checkpoint"), (named, "error: resume_from_checkpoint")):
            lines = [line for line in lines_of(result) if line.startswith("error: ")]
            one = result["code"] == 2 and len(lines) == 1 and lines[0].startswith(start)
            count.add("silent failures", (case, lines, result["code"]), one)
        if file and kind not in ("gone", "half gone"):
            for result in (older, named):
                count.add(
                    "silent failures", (case, "names"), any(Path(file).name in line for line in lines_of(result))
                )


def finish(count, **numbers):
    text = ", ".join(f"{name}: {n}" for name, n in (numbers | count).items())
    print(f"\n{text}")
    assert not +count, count.cases


def test_killed_or_damaged_it_ends_with_the_same_bits(toy_dataset, tmp_path):
    runs, count = Runs(toy_dataset, tmp_path), Count()
    runs.add("complete")
    runs.add("stopped", kill=["step", 5])
    killed = kill_and_restart(runs, [("rename", 6), ("remove", 4)])
    damaged = damage(runs, [("missing", "manifest.json")])
    again = runs.add("complete", resume=True)
    published = tmp_path / "complete/model.safetensors"
    runs.execute()
    assert count_kills(runs, killed, count) == 2
    count_damage(runs, damaged, count)
    # A run that has reached its last step, which is not an epoch's end, is not trained on.
    finished = runs.results[again]
    assert finished["code"] == 0 and "has reached the last step" in finished["printed"]
    assert "step" not in finished["counts"] and finished["counts"]["weights"] == 1
    assert published.read_bytes() == (tmp_path / "complete/checkpoint-7/model.safetensors").read_bytes()
    finish(count)


@pytest.mark.slow
def test_killed_anywhere_it_ends_with_the_same_bits(toy_dataset, tmp_path):
    first = Runs(toy_dataset, tmp_path / "first") if (tmp_path / "first").mkdir() is None else None
    first.add("complete", "--save_total_limit", "1")
    first.execute()
    often = first.results[0]["counts"]
    rng = random.Random(0)
    points = [
        (kind, n)
        for kind, apart in (("flush", 5), ("rename", 1), ("renamed", 1), ("remove", 1), ("state", 1), ("weights", 1))
        for n in range(1, often[kind] + 1, apart)
    ]
    writes = len(points)
    points += [("step", n) for n in range(1, often["step"] + 1)]
    points += [("time", rng.uniform(0.05, 2.0)) for _ in range(12)]

    (tmp_path / "all").mkdir()
    runs, count = Runs(toy_dataset, tmp_path / "all"), Count()
    runs.add("complete")
    numbers = kill_and_restart(runs, points, twice=6)
    runs.execute()
    kills = count_kills(runs, numbers, count)
    assert kills >= 60 and writes >= 20
    finish(count, kills=kills, writes=writes)


@pytest.mark.slow
def test_each_kind_of_damage_is_passed_over_or_one_line(toy_dataset, tmp_path):
    runs, count = Runs(toy_dataset, tmp_path), Count()
    runs.add("complete")
    runs.add("stopped", kill=["step", 5])
    cases = [*((kind, file) for file in FILES for kind in KINDS), *OF_FOLDERS]
    numbers = damage(runs, cases)
    runs.execute()
    count_damage(runs, numbers, count)
    assert len(cases) >= 35
    finish(count, damages=len(cases))

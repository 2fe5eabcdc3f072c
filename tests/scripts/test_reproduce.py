"""scripts/reproduce.py: a table of real runs that is killed on the way, and tables of a stand-in for train.py"""

import csv
import json
import math
import multiprocessing
import os
import re
import runpy
import shutil
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from conftest import SMALL_RUN, load_script
from reproduction import running
from reproduction.report import plus_minus
from reproduction.summary import T_QUANTILES, Summary, estimate
from safetensors.torch import load_file

from scl_hf.checkpointing.manifest import seal
from scl_hf.errors import InputError

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts/reproduce.py"
RECIPE = SMALL_RUN | {
    "class_uniform_share": 0,
    "max_steps": 16,
    "save_strategy": "steps",
    "save_steps": 1,
    "save_total_limit": 1,
    "panel_images": 0,
    "report_to": "none",
    "output_dir": "unused",
}
SUPERVISED = {"consistency_weight": 0, "structured_consistency_weight": 0}
TABLE = {
    "title": "The toy dataset",
    "shares": {"2 labels": {"recipe": "toy_dataset.yaml", "labeled_fraction": 0.4}},
    "seeds": [0],
    "baseline": "supervised",
    "rows": {"supervised": SUPERVISED, "both": {}},
}

# Writes what train.py leaves, its score made of the fields; a row with a `run_name` ends as that says.
STAND_IN = """
import json, os, pathlib, signal, sys
fields = dict(zip(sys.argv[2::2], sys.argv[3::2]))
run = pathlib.Path(fields["--output_dir"])
run.mkdir(parents=True, exist_ok=True)
with open(run.parent / "starts.txt", "a") as starts:
    print(json.dumps([fields.get("--resume_from_checkpoint"), os.environ.get("OMP_NUM_THREADS")]), file=starts)
ending = fields.get("--run_name", "")
print("some log")
if ending == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if ending and not pathlib.Path(ending).exists():
    sys.exit(f"Traceback\\n  1%|#   |\\rerror: no good: {pathlib.Path(ending).name}")
score = 0.4 + 0.01 * int(fields["--seed"]) + 0.1 * ("--consistency_weight" not in fields)
scores = dict(eval_mean_iou=score, eval_mean_accuracy=0.5, eval_overall_accuracy=0.6, eval_iou_big_road=score + 0.1)
(run / "all_results.json").write_text(json.dumps(scores))
(run / "config.json").write_text(json.dumps({"id2label": {"1": "sky", "0": "big road"}}))
"""


@pytest.fixture
def reproduce(tmp_path, toy_dataset, monkeypatch):
    """Runs the script in this process on a table, `TABLE` but for `changes`; returns its exit code."""
    script = load_script(SCRIPT)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}

    def run(*command_line, **changes):
        monkeypatch.setattr(
            sys, "argv", ["reproduce.py", *write_table(tmp_path, toy_dataset, **changes), *command_line]
        )
        return script.main()

    yield run
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """In place of train.py a script that trains nothing."""
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    monkeypatch.setattr(running, "TRAIN", tmp_path / "stand_in.py")


def write_table(folder, toy_dataset, **changes):
    """Recipe and table; the command line that runs it."""
    (folder / "toy_dataset.yaml").write_text(yaml.safe_dump(RECIPE | {"data_dir": str(toy_dataset)}))
    table = {name: value for name, value in (TABLE | changes).items() if value is not None}
    (folder / "table.yaml").write_text(yaml.safe_dump(table, sort_keys=False))
    return str(folder / "table.yaml"), "--output_dir", str(folder / "out")


def results_of(folder):
    return {str(file.parent.relative_to(folder)): json.loads(file.read_text()) for file in folder.rglob("result.json")}


def wait_for(condition):
    for _ in range(12000):
        if condition():
            return
        time.sleep(0.01)
    raise TimeoutError


def processes_with(text):
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found += [file.parent.name] * (text.encode() in file.read_bytes())
        except OSError:
            pass
    return found


def start(command_line):
    """The script as a process of its own, forked: what it imports is there."""

    def run():
        sys.argv = ["reproduce.py", *command_line]
        sys.stdout = open(os.devnull, "w")
        runpy.run_path(str(SCRIPT), run_name="__main__")

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    return process


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a killed process leaves its children")
def test_killed_twice_on_the_way_it_ends_with_the_same_bits(reproduce, toy_dataset, tmp_path, capfd):
    assert reproduce() == 0
    undisturbed = results_of(tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / "undisturbed")

    command_line = [*write_table(tmp_path, toy_dataset), "--jobs", "1"]
    folders = [tmp_path / "out/2_labels" / row / "seed_0" for row in ("supervised", "both")]
    for folder, number, code in zip(folders, (signal.SIGKILL, signal.SIGTERM), (-signal.SIGKILL, 130)):
        parent = start(command_line)
        wait_for(lambda folder=folder: list(folder.glob("run/checkpoint-*/trainer_state.json")))
        os.kill(parent.pid, number)
        parent.join()
        assert parent.exitcode == code
        wait_for(lambda: not processes_with(str(tmp_path / "out")))
        assert not (folder / "result.json").exists()
    assert (folders[0] / "result.json").exists() and "the same command resumes" in capfd.readouterr().err

    assert reproduce("--jobs", "1") == 0
    results = results_of(tmp_path / "out")
    assert list(undisturbed) and results.keys() == undisturbed.keys()
    for name, result in results.items():
        assert result.pop("seconds") > 0 and undisturbed[name].pop("seconds") > 0
        assert result == undisturbed[name]
        ours, theirs = (load_file(tmp_path / run / name / "run/model.safetensors") for run in ("out", "undisturbed"))
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
    result = results["2_labels/both/seed_0"]
    assert result["recipe"]["labeled_fraction"] == 0.4 and result["recipe"]["max_steps"] == 16
    assert result["versions"] == running.VERSIONS and len(result["scores"]["iou"]) == 19
    assert (tmp_path / "out/table.png").stat().st_size > 10_000


def test_the_page_of_a_table(reproduce, stand_in, tmp_path, capsys):
    changes = {"seeds": [0, 1, 3], "shares": {"2 labels": TABLE["shares"]["2 labels"], "all": "toy_dataset.yaml"}}
    changes["rows"] = TABLE["rows"] | {"longer": SUPERVISED | {"max_steps": "x2"}}
    assert reproduce("--jobs", "9", baseline=["supervised", "longer"], **changes) == 0
    page = (tmp_path / "out/table.md").read_text()
    # 40, 41, 43: standard deviation 1.528, times 4.303 / √3; the differences are 10 with each seed.
    assert "| supervised | 41.33 ± 3.79 | baseline | 41.33 ± 3.79 | baseline |" in page
    assert "| both | 51.33 ± 3.79 | **+10.00** ± 0.00 | 51.33 ± 3.79 | **+10.00** ± 0.00 |" in page
    assert "| longer | 41.33 ± 3.79 | 0.00 ± 0.00 |" in page
    assert "| both | **+10.00** ± 0.00 | – | **+10.00** ± 0.00 |\n| longer | 0.00 ± 0.00 | **−10.00** ± 0.00 |" in page
    assert "|  | to supervised | to both | to longer |" in page
    assert "of supervised and longer the one with the higher mean. 2 labels: supervised; all: supervised." in page
    assert "| big road | 51.33 ± 3.79 | **+10.00** ± 0.00 | 0.00 ± 0.00 |\n| sky | – | – | – |" in page
    assert "(table.png)" in page and "18 of 18 runs" in page and page in capsys.readouterr().out
    with open(tmp_path / "out/table.csv", encoding="utf-8", newline="") as file:
        *_, last = lines = list(csv.DictReader(file))
    assert len(lines) == 18 and [last[name] for name in ("share", "row", "seed")] == ["all", "longer", "3"]
    assert (last["mean_iou"][:4], last["IoU big road"][:4], last["IoU sky"]) == ("0.43", "0.53", "")
    longer = json.loads((tmp_path / "out/all/longer/seed_3/result.json").read_text())["recipe"]
    assert (longer["max_steps"], longer["seed"], longer["labeled_seed"]) == (32, 3, 3)
    assert json.loads((tmp_path / "out/all/both/seed_0/starts.txt").read_text()) == [None, "1"]

    # With all of it done, the page is written anew and nothing is started; a further seed joins.
    (tmp_path / "out/table.md").unlink()
    assert reproduce(baseline=["supervised", "longer"], **changes) == 0
    assert (tmp_path / "out/table.md").read_text() == page
    assert reproduce("--jobs", "6", baseline=["supervised", "longer"], **changes | {"seeds": [0, 1, 3, 4]}) == 0
    assert len((tmp_path / "out/all/both/seed_0/starts.txt").read_text().splitlines()) == 1


def test_a_failed_run_is_a_gap_with_its_reason_and_is_tried_again(reproduce, stand_in, tmp_path):
    mended = tmp_path / "mended"
    rows = {"broken": {"run_name": str(mended)}, **TABLE["rows"], "killed": {"run_name": "killed"}}
    assert reproduce("--jobs", "1", rows=rows) == 1
    page = (tmp_path / "out/table.md").read_text()
    assert "| broken | – | – |" in page and "| both | 50.00 | +10.00 |" in page and "2 of 4 runs" in page
    assert "- 2 labels, broken, seed 0: no good: mended\n" in page and "seed 0: ended by SIGKILL, see " in page
    folder = tmp_path / "out/2_labels/broken/seed_0"
    assert "some log" in (folder / "stdout.txt").read_text() and "Traceback" in (folder / "stderr.txt").read_text()

    mended.touch()
    del rows["killed"]
    assert reproduce(rows=rows) == 0  # a run without a result does not hold the table to its row
    page = (tmp_path / "out/table.md").read_text()
    assert "| broken | 50.00 | +10.00 |" in page and "Gaps" not in page
    starts = [len(file.read_text().splitlines()) for file in sorted((tmp_path / "out").glob("*/*/*/starts.txt"))]
    assert starts == [1, 2, 1, 1]  # both, broken, killed, supervised

    shutil.rmtree(tmp_path / "out")
    assert reproduce(rows={"broken": {"run_name": str(tmp_path / "none")}}, baseline=None) == 1
    assert ".png" not in (tmp_path / "out/table.md").read_text() and not (tmp_path / "out/table.csv").exists()


def test_the_page_is_there_before_the_last_run_and_a_dry_run_writes_none(reproduce, stand_in, tmp_path):
    page = tmp_path / "out/table.md"
    rows = TABLE["rows"] | {"needs the page": {"run_name": str(page)}}
    assert reproduce("--dry_run", "true", rows=rows) == 0 and not page.exists()
    assert reproduce("--jobs", "1", rows=rows) == 0 and "3 of 3 runs" in page.read_text()


def test_an_unfinished_run_resumes_from_its_last_complete_checkpoint(reproduce, stand_in, tmp_path):
    assert reproduce() == 0
    folder = tmp_path / "out/2_labels/both/seed_0"
    begun = json.loads((folder / "cell.json").read_text())
    (folder / "cell.json").write_text(json.dumps(begun | {"seconds": 3600, "started": time.time()}))
    (folder / "result.json").unlink()
    for name in ("checkpoint-2", "checkpoint-3", "checkpoint-4"):
        (folder / "run" / name).mkdir()
        (folder / "run" / name / "trainer_state.json").write_text("{}")
        (folder / "run" / name / "optimizer.pt").write_text("rates")
        if name != "checkpoint-4":  # cut off
            seal(folder / "run" / name)
    (folder / "run/checkpoint-3/optimizer.pt").write_text("dates")
    assert reproduce() == 0
    assert [json.loads(line)[0] for line in (folder / "starts.txt").read_text().splitlines()] == [None, "true"]
    assert 3600 <= json.loads((folder / "result.json").read_text())["seconds"] < 7200
    assert (folder / "stdout.txt").read_text() == "some log\n" * 2

    # Without a checkpoint that train.py takes, the run starts anew.
    for damage in ("dates", None):
        file = folder / "run/checkpoint-2/optimizer.pt"
        file.write_text(damage) if damage else (file.unlink(), seal(file.parent))  # save_only_model
        (folder / "result.json").unlink()
        assert reproduce() == 0
        assert json.loads((folder / "starts.txt").read_text().splitlines()[-1])[0] is None


WRONG_TABLES = {
    "unknown field": ({"seed": [0]}, "unknown field 'seed'. Did you mean 'seeds'"),
    "no row": ({"rows": {}}, "rows: must be `name: …` lines"),
    "row of a word": ({"rows": {"supervised": "x"}}, "rows: supervised: expected `field: value` lines, got 'x'"),
    "field of a row": ({"rows": {"supervised": {"max_step": 3}}}, "rows: supervised: .*Did you mean 'max_steps'"),
    "value": ({"rows": {"supervised": {"num_boxes": 0}}}, "rows: supervised: .*num_boxes: must be 1 to 10000"),
    "times": ({"rows": {"supervised": {"num_pairs": "x2"}}}, "num_pairs: x2 needs a number above 0 in the recipe"),
    "times of what": ({"rows": {"supervised": {"max_steps": "x1.2.3"}}}, "max_steps: .*x1.2.3"),
    "own field": ({"rows": {"supervised": {"seed": 3}}}, "rows: supervised: seed: each run has its own"),
    "like names": ({"rows": {"supervised": {}, "Supervised": {}}}, "rows: 'supervised' is too similar to another"),
    "no name": ({"rows": {"supervised": {}, "...": {}}}, "rows: '...' has neither letter nor digit"),
    "baseline": ({"baseline": "supervise"}, "baseline: 'supervise' is no row. Did you mean 'supervised'"),
    "no recipe": (
        {"shares": {"all": "toy_dataset.yml"}},
        "shares: all: there is no .*toy_dataset.yml; name a recipe by its path",
    ),
    "share": ({"shares": {"all": {"labeled_fraction": 1}}}, "shares: all: has no recipe"),
    "field of a share": (
        {"shares": {"all": {"recipe": "toy_dataset.yaml", "x": 1}}},
        "shares: all: .*unknown field 'x'",
    ),
    "no seed": ({"seeds": None}, r"seeds: must be a list of whole numbers such as \[0, 1, 2\], got None"),
    "word as a seed": ({"seeds": ["a"]}, "seeds: must be a list of whole numbers"),
    "seed twice": ({"seeds": [0, 2, 0]}, "seeds: 0 is given twice"),
    "gpus": ({"gpus": 0}, "gpus: must be 1 or more, got 0"),
    "too many gpus": ({"gpus": 2}, "gpus: a run takes 2 GPUs, there is none; see --dry_run true"),
}


@pytest.mark.parametrize("case", WRONG_TABLES)
def test_a_wrong_table_is_one_line(reproduce, tmp_path, case):
    changes, message = WRONG_TABLES[case]
    with pytest.raises(InputError, match=message) as error:
        reproduce(**changes)
    assert "\n" not in str(error.value) and "table.yaml" in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("command_line", "message"),
    [
        (("--jobs", "0"), "jobs: must be 1 or more, got 0"),
        (("--seed", "1"), "command line: seed: each run has its own, from the table's seeds"),
        (("--max_step", "1"), "unknown field 'max_step'. Did you mean 'max_steps'"),
        (("--data_dir", "nowhere"), "data_dir: there is no folder nowhere"),
        (("--model_config", '{"width": 3}'), "model_config: .*width"),
        (("--output_dir", str(SCRIPT)), "is a file"),
    ],
)
def test_a_wrong_command_line_is_one_line(reproduce, command_line, message):
    with pytest.raises(InputError, match=message) as error:
        reproduce(*command_line)
    assert "\n" not in str(error.value)


def test_an_output_folder_of_another_table_or_version_is_refused_and_kept(reproduce, stand_in, tmp_path, monkeypatch):
    assert reproduce() == 0
    before = results_of(tmp_path / "out")
    for changes, message in (
        (
            {"rows": {"supervised": SUPERVISED}},
            "holds a run that is not in .*table.yaml .2 labels, both, seed 0.; name an",
        ),
        (
            {"rows": {"supervised": SUPERVISED, "both": {"num_boxes": 5}}},
            "both, seed 0 was .* num_boxes 4, .* has 5; name",
        ),
        ({"seeds": [1]}, "holds a run that .*supervised, seed 0|holds a run that .*both, seed 0"),
    ):
        with pytest.raises(InputError, match=message):
            reproduce(**changes)
    monkeypatch.setattr(running, "VERSIONS", running.VERSIONS | {"scl_hf": "9.9"})
    message = "was trained with scl_hf 0.1.0, this is 9.9; name another --output_dir, or install that version"
    with pytest.raises(InputError, match=message):
        reproduce()
    assert results_of(tmp_path / "out") == before


def test_an_unfinished_run_can_be_removed_and_a_batch_of_more_gpus_is_another_run(reproduce, stand_in, tmp_path):
    assert reproduce() == 0
    folder = tmp_path / "out/2_labels/both/seed_0"
    rows = TABLE["rows"] | {"both": {"num_boxes": 5}}
    (folder / "result.json").unlink()
    (folder / "run/checkpoint-1").mkdir()
    (folder / "run/checkpoint-1/optimizer.pt").write_text("rates")
    seal(folder / "run/checkpoint-1")
    with pytest.raises(InputError, match=f"num_boxes 4, the table has 5; remove {folder}, name another"):
        reproduce(rows=rows)
    shutil.rmtree(folder)
    assert reproduce(rows=rows) == 0

    begun = json.loads((folder / "cell.json").read_text())
    (folder / "cell.json").write_text(json.dumps(begun | {"gpus": 8}))
    with pytest.raises(InputError, match="both, seed 0 was trained with gpus 8, the table has 1; name another"):
        reproduce(rows=rows)


def test_the_reason_is_what_the_first_process_says_and_not_the_frame_of_its_launcher(tmp_path):
    run = SimpleNamespace(folder=tmp_path)
    (tmp_path / "cell.json").write_text(json.dumps({"stderr_before": 10}))
    error = tmp_path / "stderr.txt"
    error.write_text("error: old\n  1%|\rerror: no good\nerror: stopped\nChildFailedError:\n====\n")
    assert running._reason(run, 2, 1) == running._reason(run, 1, 1) == "no good"
    error.write_text("error: old\nTraceback\nValueError: three\n")
    assert running._reason(run, 1, 1) == "ValueError: three"
    assert running._reason(run, 2, 1) == f"exit code 1, see {error}"
    assert running._reason(run, 1, -signal.SIGKILL) == f"ended by SIGKILL, see {error}"


def test_a_folder_whose_runs_outlive_their_parent(tmp_path, monkeypatch):
    def held(file, operation):
        raise BlockingIOError

    ended = multiprocessing.get_context("fork").Process(target=int)
    ended.start()
    ended.join()
    (tmp_path / ".lock").write_text(str(ended.pid))
    monkeypatch.setattr(running.fcntl, "flock", held)
    monkeypatch.setattr(running.time, "sleep", lambda seconds: None)
    message = f"runs of process {ended.pid}, which has ended, still run in it; wait for their end"
    with pytest.raises(InputError, match=message), running.only_one(tmp_path):
        pass


def test_a_closed_terminal_ends_the_runs_unless_nohup_was_there(reproduce, stand_in):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    assert reproduce() == 0 and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    assert reproduce() == 0
    with pytest.raises(SystemExit, match="130"):
        signal.raise_signal(signal.SIGHUP)


def test_two_in_one_folder(reproduce, stand_in, tmp_path):
    message = f"reproduce.py runs in it already .process {os.getpid()}.; wait for its end, or name another"
    with running.only_one(tmp_path / "out"), pytest.raises(InputError, match=message):
        reproduce()
    assert reproduce() == 0


def test_the_dry_run_lists_the_runs_of_each_table_of_the_project(reproduce, tmp_path, monkeypatch, capsys):
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    monkeypatch.chdir(tmp_path)
    tables = sorted(Path("recipes/tables").glob("*.yaml"))
    assert len(tables) == 11
    printed = {}
    for table in tables:
        monkeypatch.setattr(sys, "argv", ["reproduce.py", str(table), "--dry_run", "true", "--seconds_per_step", "2"])
        assert load_script(SCRIPT).main() == 0
        *lines, printed[table.stem] = capsys.readouterr().out.splitlines()
        number = sum(" recipes/" in line for line in lines)
        assert printed[table.stem].startswith(f"{number} runs") and re.search(
            rf"\b{number} (cells|runs)\b", table.read_text()
        )
    assert printed["cityscapes_table2"] == (
        "9 runs on 8 GPUs, 585,900 steps; at 2 s a step 325.5 hours, 2,604.0 GPU-hours"
    )
    assert not (tmp_path / "runs").exists()


def test_hours_that_are_not_known(reproduce, capsys, tmp_path):
    assert reproduce("--dry_run", "true", "--max_steps", "-1") == 0
    assert "2 runs; hours not known" in capsys.readouterr().out and not (tmp_path / "out").exists()


def test_each_run_has_gpus_of_its_own(monkeypatch):
    class Table:
        path, gpus = Path("table.yaml"), 2
        runs = (type("Run", (), {"settings": {"use_cpu": False}}),)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 5)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert running.slots(Table, None) == [{"CUDA_VISIBLE_DEVICES": "0,1"}, {"CUDA_VISIBLE_DEVICES": "2,3"}]
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in running.slots(Table, 3)] == ["0,1", "2,3", "0,1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "6")
    with pytest.raises(InputError, match="table.yaml: gpus: a run takes 2 GPUs, there are 1"):
        running.slots(Table, None)


def scores(mean, **iou):
    return {
        "mean_iou": mean / 100,
        "iou": {name: None if value is None else value / 100 for name, value in iou.items()},
    }


def test_statistics():
    one, three = estimate([4.0]), estimate([1.0, 2.0, 4.0])
    assert one[0] == 4 and math.isnan(one.half) and not one.excludes_zero and estimate([]) is None
    # √((1.333² + 0.333² + 1.667²) / 2) = 1.5275; 4.303 · 1.5275 / √3 = 3.795
    assert three.mean == pytest.approx(7 / 3) and three.half == pytest.approx(3.795, abs=1e-3)
    stats = pytest.importorskip("scipy.stats")
    assert T_QUANTILES == pytest.approx([stats.t.ppf(0.975, df) for df in range(1, 31)], abs=6e-4)
    assert estimate([0.0] * 40 + [1.0]).half == pytest.approx(2.042 / 41, rel=1e-3)


def test_differences_are_paired_and_the_better_baseline_counts():
    results = {
        ("12", "short", 0): scores(40, road=80, sky=None),
        ("12", "short", 1): scores(50, road=90, sky=10),
        ("12", "long", 0): scores(41, road=81, sky=20),
        ("12", "long", 1): scores(52, road=95, sky=None),
        ("12", "both", 0): scores(44, road=80, sky=26),
        ("12", "both", 1): scores(54, road=90, sky=30),
        ("12", "both", 2): scores(10, road=10, sky=10),  # the baseline has no such seed
        ("46", "both", 0): scores(60, road=70),
        # With the seed that both have, the short one is better.
        ("all", "short", 0): scores(40, road=80),
        ("all", "short", 1): scores(50, road=80),
        ("all", "long", 1): scores(49, road=80),
    }
    summary = Summary(["short", "long", "both"], ["12", "46", "all"], ["short", "long"], results)
    assert summary.baseline == {"12": "long", "46": None, "all": "short"}
    gain = summary.gain("12", "both")
    # 3 and 2: their standard deviation is 0.7071; 12.706 · 0.7071 / √2 = 6.353
    assert gain.mean == pytest.approx(2.5) and gain.half == pytest.approx(6.353, abs=1e-3)
    assert summary.mean("12", "both").mean == pytest.approx(36) and summary.mean("46", "short") is None
    of_one_seed = summary.gain("12", "both", "sky")  # in which both have a score
    assert of_one_seed.mean == pytest.approx(6) and math.isnan(of_one_seed.half)
    assert summary.difference("12", "short", "both").mean == pytest.approx(-4)
    assert summary.gain("46", "both") is None
    assert summary.classes == {"12": ["road", "sky"], "46": ["road"], "all": ["road"]}
    assert plus_minus(gain, signed=True) == "+2.50 ± 6.35" and plus_minus(None) == "–"
    assert plus_minus(estimate([-1.0, -1.1, -1.2]), signed=True) == "**−1.10** ± 0.25"
    assert plus_minus(estimate([-0.001]), signed=True) == "0.00"

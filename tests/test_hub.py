"""Names and reasons of the Hub; pushes that fail over HTTP: all is on disk at once, on the Hub later."""

import json
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import yaml
from conftest import SMALL_RUN
from mini_hub import mini_hub
from safetensors.torch import load_file

from scl_hf import hub as hub_room
from scl_hf.checkpointing.manifest import find_problem
from scl_hf.hub import HubArguments, Push, has_ended, on_the_hub, reason_of

ROOT = Path(__file__).parents[1]
TRAIN, PUSH = str(ROOT / "scripts/train.py"), str(ROOT / "scripts/push.py")
TOKEN = "hf_MadeUpForThisTest"
RECIPE = SMALL_RUN | {
    "dataset": "folder",
    "labeled_fraction": 0.5,
    "class_uniform_share": 0.0,
    "max_steps": 4,
    "save_steps": 2,
    "lr_scheduler_type": "constant",
    "lr_scheduler_kwargs": None,
    "report_to": "none",
    "disable_tqdm": True,
    "push_to_hub": True,
}
ALWAYS = 10**6


def gone(hub):
    hub.repos.pop("models/me/deleted", None)


# Repository and strategy -> (requests, answer, how often), and the reason in the last line; None where it passes.
FAILURES = {
    "offline checkpoint": (("me/offline", "cut", ALWAYS), "the Hub cannot be reached"),
    "conflict-once all_checkpoints": (("me/conflict-once/commit", 409, 2), None),
    "deleted every_save": (("me/deleted/preupload", gone, ALWAYS), "the repository or its revision is gone.* .404 "),
}
MORE_FAILURES = {
    "later end": (("me/later[/.].*(preupload|commit|batch)", "cut", ALWAYS), "the Hub cannot be reached"),
    "slow checkpoint": (("me/slow/commit", "hang", ALWAYS), "the Hub cannot be reached .*timed out"),
    "unknown every_save": (("me/unknown/commit", 401, ALWAYS), "the Hub does not know the token .401 "),
    "forbidden checkpoint": (("me/forbidden/preupload", 403, ALWAYS), "the token may not write there .403 "),
    "conflict all_checkpoints": (("me/conflict/commit", 409, ALWAYS), "something else is being written there .409 "),
    "error checkpoint": (("me/error/commit", 500, ALWAYS), "the Hub cannot do it now .500 "),
    "busy all_checkpoints": (("me/busy/preupload", 503, ALWAYS), "the Hub cannot do it now .503 "),
    "busy-at-start every_save": (("repos/create me/busy-at-start", 503, 1), None),
}


def client(hub, home, jobs):
    """The exit code, output and error output of each job."""
    result = subprocess.run(
        [sys.executable, str(ROOT / "tests/hub_client.py")],
        input=json.dumps(jobs),
        env=hub.environment(home, HF_TOKEN=TOKEN, PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.fixture
def hub():
    with mini_hub() as hub:
        yield hub


@pytest.fixture
def train(own_folder, tmp_path):
    """Makes the job of a run whose output folder has the name of its repository."""
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE | {"data_dir": str(own_folder)}))

    def job(name, *fields):
        where = ["--output_dir", str(tmp_path / name), "--hub_model_id", f"me/{name}"]
        return [TRAIN, str(tmp_path / "recipe.yaml"), *where, *fields]

    return job


def files_below(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def wanted(run, strategy, newest="checkpoint-4"):
    """The files of a run's folder that its repository must hold."""
    own = ("_", "checkpoint-", "panels/", "runs/")
    files = {name: content for name, content in files_below(run).items() if not name.startswith(own)}
    checkpoints = {"checkpoint": {"last-checkpoint": newest}}
    checkpoints["all_checkpoints"] = {name: name for name in ("checkpoint-2", "checkpoint-4")}
    for name, folder in checkpoints.get(strategy, {}).items():
        files |= {f"{name}/{file}": content for file, content in files_below(run / folder).items()}
    return files


@pytest.mark.parametrize("failures", [FAILURES, pytest.param(MORE_FAILURES, marks=pytest.mark.slow)])
def test_a_push_that_fails_loses_nothing_and_is_completed_later(hub, train, tmp_path, failures):
    hub.faults = [list(fault) for fault, _ in failures.values()]
    jobs, runs = [], {}
    for (name, strategy), (_, reason) in ((case.split(), failure) for case, failure in failures.items()):
        runs[name] = (tmp_path / name, strategy, reason)
        jobs.append(train(name, "--hub_strategy", strategy, *(["--hub_token", TOKEN] if strategy == "end" else [])))
    trained = client(hub, tmp_path / "home", jobs)
    for (name, (run, strategy, reason)), (code, printed, said) in zip(runs.items(), trained):
        assert code == 0 and f'from_pretrained("{run}"' in printed, said
        lines = said.splitlines()
        assert len(lines) <= 3 and all(line.startswith(f"push_to_hub me/{name}: ") for line in lines), said
        if reason is not None:
            assert re.search(reason, lines[-1]), said
            assert lines[-1].endswith(f"All is in {run}; this completes it: scl-hf push {run}")
        else:
            assert "All is in" not in said
        assert (run / "checkpoint-4/modeling_deeplabv3plus.py").is_file()  # of which each revision has a copy
        assert find_problem(run / "checkpoint-4") is None and load_file(run / "model.safetensors")
        is_there = hub.repos.get(f"models/me/{name}", {"files": {}})["files"] == wanted(run, strategy)
        assert is_there == (reason is None)

    hub.faults.clear()
    pushed = client(hub, tmp_path / "home", [[PUSH, str(run)] for run, *_ in runs.values()] * 2)
    for (name, (run, strategy, _)), (code, printed, said) in zip(list(runs.items()) * 2, pushed):
        assert code == 0 and printed == f"{run}: pushed to {hub.url}/me/{name}\n" and not said, said
        assert hub.repos[f"models/me/{name}"]["files"] == wanted(run, strategy)
    assert TOKEN in hub.tokens
    for content in (*files_below(tmp_path).values(), *(text.encode() for job in trained + pushed for text in job[1:])):
        assert TOKEN.encode() not in content


def test_what_would_not_be_pushed_at_the_end_either_is_refused_before_the_run(hub, train, tmp_path):
    hub.faults = [
        ["repos/create me/unknown", 401, 9],
        ["/api/models/me/unknown", 401, 9],
        ["repos/create org/mine", 403, 9],
        ["me/read-only/auth-check", 403, 9],
        ["me/branch/branch", 400, 9],
    ]
    cases = {
        "unknown": ([], "hub_token: the Hub does not know the token .401 .* Run `hf auth login`"),
        "org": (["--hub_model_id", "org/mine"], "hub_model_id org/mine: the token may not write there .403 "),
        "read-only": ([], "hub_model_id me/read-only: the token may not write there .403 .*Name a repository"),
        "branch": (["--hub_revision", "a..b"], "hub_revision: the Hub refuses it .400 .*Name a branch"),
        "name": (["--hub_model_id", "me/a b"], "hub_model_id me/a b: Repo id must use"),
        "type": (
            ["--hub_model_id", "datasets/me/toy_dataset"],
            "hub_model_id datasets/me/toy_dataset: Repo id must be",
        ),
        "spaces": (["--hub_token", f"{TOKEN} x"], "hub_token: holds characters that no token has"),
        "none": ([], "hub_token: there is no token. Run `hf auth login`"),
    }
    jobs = [["HF_TOKEN="] * (name == "none") + train(name, *fields) for name, (fields, _) in cases.items()]
    for (name, (_, message)), (code, printed, said) in zip(cases.items(), client(hub, tmp_path / "home", jobs)):
        assert code == 2 and not printed, said
        assert len(said.splitlines()) == 1 and re.search(f"^error: {message}", said), said
        assert TOKEN not in said and not list((tmp_path / name).glob("*"))


def test_a_private_repository_and_a_branch_of_its_own(hub, train, tmp_path):
    fields = {"hub_strategy": "checkpoint", "hub_revision": "v1", "max_steps": 2, "hub_private_repo": True}
    ((code, _, said),) = client(
        hub, tmp_path / "home", [train("half", *(f"--{name}={value}" for name, value in fields.items()))]
    )
    assert code == 0, said
    repo = hub.repos["models/me/half"]
    assert repo["private"] and not repo["files"]
    assert repo["branches"]["v1"] == wanted(tmp_path / "half", "checkpoint", newest="checkpoint-2")


def folder_of_a_run(path, steps, content="step {}"):
    for step in steps:
        (path / f"checkpoint-{step}").mkdir(parents=True)
        for name in ("model.safetensors", "config.json", "optimizer.pt", "modeling.py", "manifest.json"):
            (path / f"checkpoint-{step}" / name).write_text(content.format(step))
    return path


class Recorder:
    """Stands in for `HfApi`: records uploaded folders, and raises `errors`."""

    sent, errors = [], []

    def __init__(self, token=None):
        pass

    def upload_folder(self, folder_path, path_in_repo="", **options):
        if self.errors:
            raise self.errors.pop(0)
        self.sent.append((path_in_repo, folder_path, (Path(folder_path) / "model.safetensors").read_text()))


@pytest.fixture
def recorder(monkeypatch):
    monkeypatch.setattr(hub_room, "HfApi", Recorder)
    monkeypatch.setattr(hub_room, "PAUSES", (0.01, 0.01))
    Recorder.sent, Recorder.errors = [], []
    return Recorder


def push_of(folder, strategy):
    push = Push(folder, HubArguments("me/run", hub_strategy=strategy))
    push.repo = "me/run"
    return push


def test_a_stopped_run_gives_the_model_of_its_newest_checkpoint(recorder, tmp_path):
    run = folder_of_a_run(tmp_path / "run", (2, 10))
    assert not has_ended(run)
    push_of(run, "all_checkpoints").push("message", take_model=True)
    assert recorder.sent == [
        ("", run, "step 10"),
        ("checkpoint-2", run / "checkpoint-2", "step 2"),
        ("checkpoint-10", run / "checkpoint-10", "step 10"),
    ]
    assert sorted(path.name for path in run.iterdir() if path.is_file()) == [
        "config.json",
        "model.safetensors",
        "modeling.py",
    ]


def test_a_run_has_ended_where_no_checkpoint_is_newer_than_its_model(tmp_path):
    run = folder_of_a_run(tmp_path / "run", (2, 10))
    (run / "trainer_state.json").write_text('{"global_step": 10}')
    assert has_ended(run)
    (run / "trainer_state.json").write_text('{"global_step": 4}')  # of the first part of a resumed run
    assert not has_ended(run)
    (run / "model.safetensors").write_text("saved after the last checkpoint")
    assert has_ended(run)


def test_saves_during_a_push_are_pushed_after_it_and_a_reason_is_said_once(recorder, tmp_path, capsys, monkeypatch):
    run, goes_on = folder_of_a_run(tmp_path / "run", (1, 2, 3)), threading.Event()
    push = push_of(run, "checkpoint")
    inner = Recorder.upload_folder

    def wait(self, **options):
        goes_on.wait(10)
        inner(self, **options)

    monkeypatch.setattr(Recorder, "upload_folder", wait)
    for step in (1, 2, 3):
        push.start(f"step {step}", run / f"checkpoint-{step}")
    assert push._thread.daemon  # Python joins others at exit: a stopped run would wait for its push
    goes_on.set()
    push.finish()
    # The newest checkpoint may have gone with an earlier message: what counts is that it is there.
    assert ("", run, "step 3") in recorder.sent[-2:]
    assert [path for where, path, _ in recorder.sent if where == "last-checkpoint"][-1] == run / "checkpoint-3"
    for _ in range(2):
        recorder.errors[:] = [ConnectionError("no route")] * 3
        push.start("step 3", run / "checkpoint-3")
        push.finish()
    assert capsys.readouterr().err.splitlines() == [
        "push_to_hub me/run: the Hub cannot be reached (no route). The run continues and tries again later."
    ]
    recorder.errors[:] = [ConnectionError("no route")] * 3
    assert push.end("end") is None
    line = f"push_to_hub me/run: the Hub cannot be reached (no route). All is in {run}; this completes it: "
    assert capsys.readouterr().err == f"{line}scl-hf push {run}\n"


def test_what_cannot_pass_is_not_tried_again(recorder, tmp_path):
    push = push_of(folder_of_a_run(tmp_path / "run", (1,)), "end")
    for error, left in ((ValueError("invalid metadata in README.md"), 1), (ConnectionError("no route"), 0)):
        recorder.errors[:] = [error, ConnectionError("again")]
        try:
            push.push("message", take_model=True)
        except ValueError:
            pass
        assert len(recorder.errors) == left


def test_which_names_are_of_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/mine").mkdir(parents=True)
    assert on_the_hub("me/toy") == ("me/toy", None) and on_the_hub("me/toy@v1.0") == ("me/toy", "v1.0")
    for name in (
        "runs/mine",
        "runs/mine/checkpoint-2",
        "runs/checkpoint-2",
        "toy",
        "/me/toy",
        "../toy",
        "a\nb",
        "./x",
    ):
        assert on_the_hub(name) is None, name


def test_a_reason_holds_no_token_and_no_signature(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    error = ConnectionError(f"Illegal header b'Bearer {TOKEN}' for 'https://hub/lfs?X-Signature=abc' and hf_Given")
    expected = "the Hub cannot be reached (Illegal header b'Bearer …' for 'https://hub/lfs and …)"
    assert reason_of(error, "hf_Given") == expected

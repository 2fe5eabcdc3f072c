"""Pushes that fail over HTTP, and what becomes of them: on disk at once, on the Hub later."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import SMALL_RUN
from mini_hub import mini_hub, sha_of
from safetensors.torch import load_file

from scl_hf.safety.manifest import flaw_of

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


# Repository and strategy -> (requests, answer, how often), and the reason in the last line; None where it has passed.
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
    """The job of a run, with the output folder of its repository's name."""
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE | {"data_dir": str(own_folder)}))

    def job(name, *fields):
        where = ["--output_dir", str(tmp_path / name), "--hub_model_id", f"me/{name}"]
        return [TRAIN, str(tmp_path / "recipe.yaml"), *where, *fields]

    return job


def files_below(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def wanted(run, strategy):
    """What a repository is to have of a run's folder."""
    files = {name: content for name, content in files_below(run).items() if not name.startswith(("_", "checkpoint-"))}
    checkpoints = {"checkpoint": {"last-checkpoint": "checkpoint-4"}}
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
            assert lines[-1].endswith(f"All is in {run}; this completes it: python scripts/push.py {run}")
        else:
            assert "All is in" not in said
        assert flaw_of(run / "checkpoint-4") is None and load_file(run / "model.safetensors")
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
        "type": (["--hub_model_id", "datasets/me/town"], "hub_model_id datasets/me/town: Repo id must be"),
        "spaces": (["--hub_token", f"{TOKEN} x"], "hub_token: holds characters that no token has"),
        "none": ([], "push_to_hub: there is no token. Run `hf auth login`"),
    }
    jobs = [["HF_TOKEN="] * (name == "none") + train(name, *fields) for name, (fields, _) in cases.items()]
    for (name, (_, message)), (code, printed, said) in zip(cases.items(), client(hub, tmp_path / "home", jobs)):
        assert code == 2 and not printed, said
        assert len(said.splitlines()) == 1 and re.search(f"^error: {message}", said), said
        assert TOKEN not in said and not list((tmp_path / name).glob("*"))


def test_a_run_goes_on_from_the_hub_bit_for_bit(hub, train, tmp_path):
    def broken(hub):
        files = dict(hub.repos["models/me/half"]["branches"]["v1"])
        files["last-checkpoint/optimizer.pt"] = files["last-checkpoint/optimizer.pt"][:-1] + b"?"
        hub.repos["models/me/broken"] = {"private": False, "files": files}

    hub.repos["datasets/me/data"] = {"private": False, "files": {}}
    hub.faults = [["/api/models/me/broken", broken, 1], ["/api/models/me/offline", "cut", 9]]
    resume, alone = "--resume_from_checkpoint", ["--push_to_hub", "false"]
    pushed = ["--hub_strategy", "checkpoint", "--hub_revision", "v1", "--max_steps", "2", "--hub_private_repo", "true"]
    wrong = {
        "me/none": "there is no such folder, and on the Hub no such repository of a model that the token may read",
        "me/data": "there is no such folder, and on the Hub no such repository of a model that the token may read",
        "me/half@v2": "there is no such branch, tag or commit",
        "me/half": "holds no checkpoint to go on from",
        "me/offline": "there is no such folder, and from the Hub it cannot be fetched: the Hub cannot be reached",
        "me/broken": "last-checkpoint: optimizer.pt was changed since it was written. Name an older revision",
    }
    jobs = [train("whole", *alone), train("half", *pushed), train("resumed", *alone, resume, "me/half@v1")]
    jobs += [train(name, *alone, resume, "me/half@v1") for name in ("resumed", "whole")]
    jobs += [train(f"wrong-{number}", *alone, resume, name) for number, name in enumerate(wrong)]
    whole, half, resumed, again, other, *refused = client(hub, tmp_path / "home", jobs)
    assert [job[0] for job in (whole, half, resumed, again)] == [0] * 4, (half[2], resumed[2], again[2])
    assert hub.repos["models/me/half"]["private"] and not hub.repos["models/me/half"]["files"]
    assert hub.log.count("GET /me/half/resolve/" + sha_of("v1") + "/last-checkpoint/optimizer.pt") == 1
    runs = [tmp_path / name for name in ("whole", "resumed")]
    for name in ("model.safetensors", "checkpoint-4/model.safetensors", "checkpoint-4/student/model.safetensors"):
        assert (runs[0] / name).read_bytes() == (runs[1] / name).read_bytes()
    assert flaw_of(runs[1] / "checkpoint-2") is None and not (runs[1] / "_partial").exists()
    messages = [f"me/half@v1: its checkpoint-2 is another one than {runs[0]}/checkpoint-2", *wrong.values()]
    for message, name, (code, _, said) in zip(messages, ["me/half@v1", *wrong], [other, *refused]):
        assert code == 2 and len(said.splitlines()) == 1, said
        assert f"error: resume_from_checkpoint {name}: " in said and message in said, said
    assert not list(tmp_path.glob("wrong-*/*"))

"""scripts/push.py: which folder goes where, or one line for what is wrong. Over HTTP: tests/test_hub.py."""

import json
import os
import sys
from pathlib import Path

import pytest
from conftest import load_script, tiny_model
from huggingface_hub import constants

from scl_hf.errors import InputError

SCRIPT = Path(__file__).parents[2] / "scripts/push.py"
IDS = {0: "road", 1: "sky"}


@pytest.fixture
def push(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_MadeUp")
    script = load_script(SCRIPT)

    def run(*command_line):
        monkeypatch.setattr(sys, "argv", ["push.py", *map(str, command_line)])
        return script.main()

    return run


@pytest.fixture
def run(tmp_path):
    """The folder of a run that was to be pushed."""
    tiny_model(IDS).save_pretrained(tmp_path / "run")
    (tmp_path / "run/_hub.json").write_text(json.dumps({"hub_model_id": "me/run", "hub_strategy": "every_save"}))
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("fields", "recorded", "message"),
    [
        ([], "{}", "hub_model_id: is missing, for .*run was not to be pushed. Add --hub_model_id user/name"),
        ([], "[]", "_hub.json: cannot be read .*Remove it, and give --hub_model_id"),
        ([], '{"hub_model_id": ', "_hub.json: cannot be read"),
        ([], '{"hub_strategy": "always"}', "_hub.json: cannot be read .*hub_strategy: must be one of end, every_save"),
        (["--hub_strategy", "always"], None, "hub_strategy: must be one of end, every_save, checkpoint, all_ch"),
        (["--hub_modelid", "me/run"], None, "unknown field 'hub_modelid'. Did you mean 'hub_model_id'"),
        (["--hub_private_repo", "perhaps"], None, "hub_private_repo: "),
        (["--hub_model_id", "me/my run"], None, "hub_model_id me/my run: Repo id must use"),
    ],
)
def test_wrong_settings(push, run, fields, recorded, message):
    if recorded is not None:
        (run / "_hub.json").write_text(recorded)
    with pytest.raises(InputError, match=message) as error:
        push(run, *fields)
    assert "\n" not in str(error.value)


def test_wrong_folders_and_no_token(push, run, tmp_path, monkeypatch):
    for folders in ([tmp_path], [tmp_path / "none"], [run / "config.json"]):
        with pytest.raises(InputError, match="holds no run. Name the output_dir of one"):
            push(*folders)
    for folders in ([], [run, run]):
        with pytest.raises(InputError, match="the folder of one run comes first: OUTPUT_DIR"):
            push(*folders)
    monkeypatch.setenv("HF_TOKEN", "")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(InputError, match="there is no token. Run `hf auth login`"):
        push(run)


def test_a_hub_that_cannot_be_reached_is_one_line_and_code_1(push, run, capsys):
    assert os.environ["HF_HUB_OFFLINE"] == "1" and push(run) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {run}: the Hub cannot be reached (") and line.endswith(
        "Give the command again later."
    )

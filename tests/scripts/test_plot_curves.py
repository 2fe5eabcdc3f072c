"""scripts/plot_curves.py: which log is read, and what the script says."""

import json
import runpy
from pathlib import Path

import pytest
from conftest import load_script

from scl_hf.errors import InputError

SCRIPT = Path(__file__).resolve().parents[2] / "scripts/plot_curves.py"
script = load_script(SCRIPT)


def make_log(last=60):
    """As the trainer logs."""
    steps = range(10, last + 1, 10)
    return [{"step": step, "loss": 10 / step, "loss_x": 9 / step, "learning_rate": 0.1} for step in steps]


def write_state(folder, log, step):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": step, "log_history": log}))


def test_the_log_that_goes_farthest_is_read(tmp_path):
    write_state(tmp_path, make_log(last=40), 40)  # of a run that was resumed since
    write_state(tmp_path / "checkpoint-60", make_log(), 60)
    write_state(tmp_path / "checkpoint-20", make_log(last=20), 20)
    assert script.read_log_history(tmp_path) == make_log()
    assert script.read_log_history(str(tmp_path / "checkpoint-20")) == make_log(last=20)


def test_script(tmp_path, monkeypatch, capsys):
    def plot(*arguments):
        monkeypatch.setattr("sys.argv", ["plot_curves.py", *arguments])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        return ended.value.code

    monkeypatch.chdir(tmp_path)
    for run in ("full", "supervised"):
        write_state(tmp_path / run / "checkpoint-60", make_log(), 60)
    assert plot("full", "supervised") == 0
    assert capsys.readouterr().out == "full/curves.png\n" and (tmp_path / "full" / "curves.png").is_file()
    assert plot("full", "supervised/../full") == 2
    assert capsys.readouterr().err == "error: full: is given twice; name it once.\n"
    assert plot("full", "nowhere") == 2
    wrong = capsys.readouterr().err
    assert wrong.startswith("error: nowhere: is not a folder") and len(wrong.splitlines()) == 1


def test_runs_without_a_log(tmp_path):
    with pytest.raises(InputError, match="holds no trainer_state.json"):
        script.read_log_history(tmp_path)
    for text in ("{", "[]", "{}", '{"global_step": 1, "log_history": [{}]}', '{"global_step": 1, "log_history": 3}'):
        (tmp_path / "trainer_state.json").write_text(text)
        with pytest.raises(InputError, match="trainer_state.json: is not the log of a run"):
            script.read_log_history(tmp_path)

import json
import os

import pytest

from scl_hf.errors import InputError
from scl_hf.output import check_output_dir, clear_output_dir, replacing, write_json


def test_a_file_is_whole_or_not_there(tmp_path):
    path = tmp_path / "new" / "scores.json"
    write_json(path, {"mean": 0.5, "name": "Straße"})
    assert json.loads(path.read_text(encoding="utf-8")) == {"mean": 0.5, "name": "Straße"}
    with pytest.raises(RuntimeError), replacing(path) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert [file.name for file in path.parent.iterdir()] == ["scores.json"] and "Straße" in path.read_text("utf-8")


def test_another_runs_folder_is_refused(tmp_path):
    run = tmp_path / "run"
    assert check_output_dir(run, None, False) is None
    (run / "runs").mkdir(parents=True)  # a tracker's folder alone is no run
    assert check_output_dir(run, None, False) is None
    checkpoint = run / "checkpoint-5"
    checkpoint.mkdir()
    (checkpoint / "trainer_state.json").write_text("{}")
    with pytest.raises(InputError, match="holds another run. Add --resume_from_checkpoint true to go on, --overwrite"):
        check_output_dir(run, None, False)
    assert check_output_dir(run, None, True) is None
    assert check_output_dir(run, "true", False) == str(checkpoint)
    assert check_output_dir(run, str(checkpoint), False) == str(checkpoint)


def test_there_is_nothing_to_resume_from(tmp_path):
    with pytest.raises(InputError, match="holds no checkpoint"):
        check_output_dir(tmp_path, "true", False)
    with pytest.raises(InputError, match="is not a checkpoint folder"):
        check_output_dir(tmp_path, str(tmp_path / "none"), False)
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(InputError, match="is a file"):
        check_output_dir(file, None, False)


def test_a_folder_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file is a file. Name another folder"):
        check_output_dir(tmp_path / "file/run", None, False)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("", "is empty"),
        ("x" * 300, "is too long"),
        ("new/" + "x" * 300 + "/run", "is too long"),
        ("a\0b", "no name of a folder"),
        ("loop/run", "loop is a link to nothing"),
        ("/proc/run", "/proc cannot be written to"),
    ],
)
def test_a_folder_that_cannot_be(tmp_path, monkeypatch, path, reason):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(InputError, match=f"^output_dir.*: .*{reason}") as error:
        check_output_dir(path, None, False)
    assert "\n" not in str(error.value) and [file.name for file in tmp_path.iterdir()] == ["loop"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_of_others(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="output_dir .* cannot be written to"):
        check_output_dir(tmp_path / "run", None, False)


def touch(root, names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("")


def test_overwriting_removes_the_old_run_and_nothing_else(tmp_path):
    run = ("checkpoint-4/model.safetensors", "panels/step-000004.png", "runs/a/events.out.tfevents.1", "config.json")
    touch(tmp_path, (*run, "notes.txt", "mine/c.json"))
    clear_output_dir(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["c.json", "notes.txt"]


def test_overwriting_leaves_what_lies_in_a_folder_named_by_mistake(tmp_path):
    others = ("id2label.json", "README.md", "panels/mine.png", "runs/demo/model.safetensors", "runs/demo/config.json")
    touch(tmp_path, others)
    clear_output_dir(tmp_path)
    assert all((tmp_path / name).is_file() for name in others)

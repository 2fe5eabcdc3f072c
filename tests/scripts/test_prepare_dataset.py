"""scripts/prepare_dataset.py: exit codes, and one line for what is wrong."""

import json
import shutil
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
from conftest import load_script
from PIL import Image

SCRIPT = Path(__file__).parents[2] / "scripts/prepare_dataset.py"


@pytest.fixture
def prepare(monkeypatch):
    """Runs the script; returns its exit code."""
    script = load_script(SCRIPT)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["prepare_dataset.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            script.run_script(script.main)
        return ended.value.code

    return run


def test_draw_check_push(prepare, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    toy_dataset = tmp_path / "toy_dataset"
    sizes = ["--width", 48, "--height", 48, "--num_train", 2, "--num_val", 1, "--num_train_extra", 1, "--num_test", 1]
    assert prepare("streets", toy_dataset, *sizes) == 0
    assert prepare("check", toy_dataset, "--num_proc", 1) == 0
    said = capsys.readouterr().out
    assert "Complete and sound" in said and "Look at runs/check_toy_dataset.png: labels over images" in said
    assert Image.open("runs/check_toy_dataset.png").width > 1000
    assert prepare("push", toy_dataset, tmp_path / "parquet") == 0
    assert "nothing was sent" in capsys.readouterr().out
    next(toy_dataset.glob("leftImg8bit/val/*/*")).write_bytes(b"no image")
    shutil.rmtree("runs")
    assert prepare("check", toy_dataset, "--num_proc", 1, "--picture", "null") == 1
    assert "NOT sound: 1 broken" in capsys.readouterr().out and not Path("runs").exists()
    for arguments in (["check", tmp_path / "parquet"], ["push", toy_dataset, tmp_path / "parquet"]):
        assert prepare(*arguments) == 2
        error = capsys.readouterr().err.splitlines()
        assert len(error) == 1 and error[0].startswith("error: ")


def test_masks(prepare, tmp_path, capsys):
    shapes = [{"label": label, "points": [[1, 1], [3, 3]], "shape_type": "rectangle"} for label in ("cat", "car")]
    content = {"imagePath": "a.jpg", "imageHeight": 4, "imageWidth": 6, "shapes": shapes}
    (tmp_path / "a.json").write_text(json.dumps(content))
    assert prepare("masks", tmp_path / "a.json", "--output", tmp_path / "labels", "--classes", "car", "bus") == 0
    assert "objects: car 1, bus 0\nobjects that became background: cat 1\n" in capsys.readouterr().out
    assert np.asarray(Image.open(tmp_path / "labels/a.png")).sum() == 9
    assert prepare("masks", tmp_path / "a.json", "--output", tmp_path / "labels") == 2


def test_ids_of_ones_own_come_from_the_recipe(prepare, tmp_path, capsys, monkeypatch):
    for split, name in (("train", "a"), ("validation", "b")):
        for kind, value in (("images", 0), ("labels", 7)):
            (tmp_path / "mine" / split / kind).mkdir(parents=True)
            pixels = np.full((8, 16), value, np.uint8) + np.arange(16, dtype=np.uint8) // 8
            Image.fromarray(pixels).save(tmp_path / "mine" / split / kind / f"{name}.png")
    (tmp_path / "mine/id2label.json").write_text(json.dumps({"0": "road", "1": "sky"}))
    (tmp_path / "more").mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "more/c.jpg")
    recipe = tmp_path / "mine.yaml"
    fields = {"dataset": "folder", "data_dir": str(tmp_path / "mine"), "output_dir": "runs/mine"}
    fields |= {"label_map": {7: 0, 8: 1}, "ignore_index": 9, "unlabeled_dirs": [str(tmp_path / "more")]}
    recipe.write_text(json.dumps(fields))  # which is YAML, too
    monkeypatch.chdir(tmp_path)
    assert prepare("check", tmp_path / "mine", "--num_proc", 1) == 1
    assert "unknown class id 7" in capsys.readouterr().out
    assert prepare("check", "--num_proc", 1, "--recipe", recipe) == 0  # the folder is that of the recipe
    assert "5 files opened" in capsys.readouterr().out
    assert prepare("push", tmp_path / "mine", tmp_path / "parquet", "--recipe", recipe) == 0
    assert "classes: {road: 7, sky: 8}\nignore: [9]" in (tmp_path / "parquet/README.md").read_text()
    dataset = datasets.load_dataset(str(tmp_path / "parquet"), split="train")
    assert np.asarray(dataset[0]["label"])[0, 0] == 7

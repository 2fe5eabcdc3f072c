"""scripts/eval.py as a user runs it: scores, pages and images, or one line for what is wrong."""

import csv
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from accelerate import Accelerator
from conftest import load_script, tiny_model
from forks import run_processes
from PIL import Image
from transformers import SegformerImageProcessorPil

from scl_hf.data.crops import EvaluationImages
from scl_hf.data.normalization import Normalization
from scl_hf.data.sources.cityscapes import ID2LABEL, LABEL_IMAGE
from scl_hf.errors import InputError
from scl_hf.evaluation.scoring import EvaluationArguments, score

SCRIPT = Path(__file__).parents[2] / "scripts/eval.py"
SETTINGS = ["--eval_scales", "0.5", "1", "--eval_flip", "true", "--eval_tile", "32"]
NORMALIZATION = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.25]}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """An untrained model whose predictions vary; its student is another one."""
    folder = tmp_path_factory.mktemp("run") / "checkpoint-7"
    for seed, path in ((0, folder), (1, folder / "student")):
        tiny_model(ID2LABEL, seed).save_pretrained(path)
    SegformerImageProcessorPil(do_resize=False, **NORMALIZATION).save_pretrained(folder)
    return folder


@pytest.fixture
def evaluate(monkeypatch, tmp_path):
    """Runs the script in an empty folder; returns its exit code."""
    script = load_script(SCRIPT)
    monkeypatch.chdir(tmp_path)

    def run(*command_line):
        monkeypatch.setattr(sys, "argv", ["eval.py", *map(str, command_line)])
        return script.main()

    return run


def read(folder):
    return json.loads((Path(folder) / "scores.json").read_text())


def read_matrix(folder):
    with open(Path(folder, "confusion.csv"), newline="") as file:
        return [[int(pixels) for pixels in row[1:]] for row in list(csv.reader(file))[1:]]


def test_two_checkpoints_side_by_side_and_the_official_scorer(evaluate, checkpoint, toy_dataset, toy_data, capsys):
    data = ["--data_dir", toy_dataset, "--official", "--panel_images", "2", "--output", "out"]
    assert evaluate(checkpoint, checkpoint / "student", *data, *SETTINGS) == 0
    printed = capsys.readouterr().out
    assert "checkpoint-7" in printed and "the Cityscapes scorer agrees" in printed

    first, second = read("out")["checkpoints"]
    images = EvaluationImages(toy_data.evaluation, Normalization(**NORMALIZATION))
    settings = EvaluationArguments(eval_scales=[0.5, 1.0], eval_flip=True, eval_tile=32)
    expected = score(tiny_model(ID2LABEL, 0), images, settings, Accelerator(cpu=True))
    assert first["mean_iou"] == expected["mean_iou"] != second["mean_iou"]
    assert first["official"]["mean_iou"] == pytest.approx(first["mean_iou"], abs=1e-12)

    name = first["name"].replace("/", "-")
    assert read_matrix(Path("out", name)) == expected["confusion_matrix"].tolist()
    files = sorted(Path("out", name, "label_ids").iterdir())
    assert not Path("out", ".label_ids").exists()
    assert [file.name for file in files] == sorted(f"{i}_pred_labelIds.png" for i in toy_data.evaluation["id"])
    ids = np.asarray(Image.open(files[0]))
    assert ids.shape == (48, 96) and (LABEL_IMAGE.table[ids] < 19).all()
    assert sorted(path.name for path in Path("out").iterdir() if path.is_file()) == [
        "panel.png",
        "scores.json",
        "scores.md",
    ]
    assert Path("out", name, "confusion.png").is_file() and Path("out", "student", "confusion.png").is_file()
    assert f"| {first['name']} | " in Path("out/scores.md").read_text()


def test_two_processes_score_as_one_bit_for_bit(evaluate, checkpoint, toy_dataset):
    command = [checkpoint, "--data_dir", toy_dataset, "--official", *SETTINGS]
    evaluate(*command, "--output", "one")
    result = run_processes(2, SCRIPT, *command, "--output", "two")
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.count("mean IoU") == 1
    files = {path.relative_to("one") for path in Path("one").rglob("*.*")}
    assert files == {path.relative_to("two") for path in Path("two").rglob("*.*")}
    for file in files:
        assert Path("one", file).read_bytes() == Path("two", file).read_bytes(), file


def test_a_training_recipe_gives_data_and_evaluation_settings(evaluate, checkpoint, toy_dataset):
    recipe = {"data_dir": str(toy_dataset), "eval_scales": [0.5], "learning_rate": 0.1, "output_dir": "run", "seed": 3}
    Path("my.yaml").write_text(yaml.safe_dump(recipe | {"model_config": {"stem_channels": 4}, "panel_images": 9}))
    assert evaluate(checkpoint, "my.yaml", "--student", "--panel_images", "0") == 0
    assert [path.name for path in Path().iterdir() if path.is_dir()] == ["runs"]
    (folder,) = Path("runs/evaluation").iterdir()
    assert folder.name.endswith("-checkpoint-7-student-validation") and not (folder / "panel.png").exists()
    student = read(folder)
    assert student["settings"]["eval_scales"] == [0.5] and student["images"] == 3
    evaluate(checkpoint / "student", "my.yaml", "--output", "direct")
    # The student alone has no image processor: ImageNet's normalization gives other scores.
    assert read("direct")["checkpoints"][0]["mean_iou"] != student["checkpoints"][0]["mean_iou"]


def test_scorers_that_differ_are_an_error(evaluate, checkpoint, toy_dataset, monkeypatch, capsys):
    monkeypatch.setattr("scl_hf.evaluation.checkpoints.LABEL_IDS", np.full(19, 23, np.uint8))  # all sky
    assert evaluate(checkpoint, "--data_dir", toy_dataset, "--official", "--output", "out") == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: official: ")
    assert read("out")["checkpoints"][0]["official"]["difference"] > 1e-6


def test_a_scorer_that_stops_leaves_no_label_ids(evaluate, checkpoint, toy_dataset, monkeypatch):
    monkeypatch.setattr("scl_hf.evaluation.checkpoints.LABEL_IDS", np.zeros((19, 3), np.uint8))  # colors
    with pytest.raises(InputError, match="official: the Cityscapes scorer stopped: .*channels"):
        evaluate(checkpoint, "--data_dir", toy_dataset, "--official", "--output", "out")
    assert not Path("out").exists()


def test_scores_of_other_settings_are_not_overwritten(evaluate, checkpoint, toy_dataset):
    command = [checkpoint, "--data_dir", toy_dataset, "--panel_images", "0", "--output", "out"]
    evaluate(*command)
    with pytest.raises(InputError, match="is for eval_flip False, this would be for True. .*overwrite"):
        evaluate(*command, "--eval_flip", "true")
    assert read("out")["settings"]["eval_flip"] is False
    evaluate(*command)
    evaluate(*command, "--eval_flip", "true", "--overwrite", "true")
    assert read("out")["settings"]["eval_flip"] is True


def test_classes_of_ones_own(evaluate, tmp_path):
    for kind, mode in (("images", "RGB"), ("labels", "L")):
        (tmp_path / "mine/validation" / kind).mkdir(parents=True)
        for index in range(2):
            Image.new(mode, (24, 16), index).save(tmp_path / f"mine/validation/{kind}/{index}.png")
    (tmp_path / "mine/id2label.json").write_text('{"0": "grass", "1": "path"}')
    tiny_model({0: "grass", 1: "path"}).save_pretrained("model")
    data = ["--dataset", "folder", "--data_dir", "mine"]
    assert evaluate("model", *data, "--output", "out") == 0
    assert "|  | grass | path | mIoU |" in Path("out/scores.md").read_text()
    assert sum(map(sum, read_matrix("out"))) == 2 * 16 * 24
    with pytest.raises(InputError, match="official: scores Cityscapes' label files only"):
        evaluate("model", *data, "--official")


def test_an_image_that_cannot_be_read(evaluate, checkpoint, toy_dataset, tmp_path):
    shutil.copytree(toy_dataset, tmp_path / "toy_dataset")
    image = next(Path("toy_dataset/leftImg8bit/val").glob("*/*.png"))
    image.write_bytes(image.read_bytes()[:200])
    with pytest.raises(InputError, match=f"{image.name}: cannot be read"):
        evaluate(checkpoint, "--data_dir", "toy_dataset", "--output", "out")
    assert not Path("out").exists()


def test_other_classes_than_the_data(evaluate, checkpoint, toy_dataset):
    tiny_model({0: "sky", 1: "road"}).save_pretrained("two")
    with pytest.raises(InputError, match=r"^checkpoint two: has 2 classes \(sky, road\), the data 19"):
        evaluate(checkpoint, "two", "--data_dir", toy_dataset)
    assert not Path("runs").exists()  # found before the first was scored

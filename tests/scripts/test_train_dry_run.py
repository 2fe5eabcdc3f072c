"""scripts/train.py RECIPE --dry_run true: says what the run would be, and trains and writes nothing."""

import json
import re
import sys
from pathlib import Path

import pytest
import yaml
from conftest import SMALL_RUN, load_script
from PIL import Image

from scl_hf.errors import InputError

SCRIPT = Path(__file__).parents[2] / "scripts/train.py"


@pytest.fixture
def dry_run(tmp_path, own_folder, monkeypatch, capsys):
    """Runs the script dry on `own_folder`; returns what it prints."""
    script = load_script(SCRIPT)
    monkeypatch.setattr(script, "SemiSupervisedTrainer", None)  # nothing is trained

    def run(*command_line, **fields):
        recipe = tmp_path / "recipe.yaml"
        data = {"dataset": "folder", "data_dir": str(own_folder), "labeled_fraction": 0.5, "max_steps": 6}
        data |= {"class_uniform_tile": 32, "semi_supervised_start_step": 2, "output_dir": str(tmp_path / "run")}
        recipe.write_text(yaml.safe_dump(SMALL_RUN | data | fields))
        before = sorted(tmp_path.rglob("*"))
        monkeypatch.setattr(sys, "argv", ["train.py", str(recipe), "--dry_run", "true", *command_line])
        script.main()
        assert sorted(tmp_path.rglob("*")) == before
        return capsys.readouterr().out

    return run


def test_it_says_all_of_a_run(dry_run, own_folder):
    names = {"0": "grass", "1": "path", "2": "sky", "3": "well"}
    (own_folder / "id2label.json").write_text(json.dumps(names))
    Image.new("L", (60, 40), 3).save(own_folder / "validation/labels/frame0.png")  # no labeled image shows it
    said = dry_run("--tflops_per_second", "0.001", "--num_gpus", "2", optim="adamw_torch", optim_args=None)
    for expected in (
        "images     2 labeled, 4 unlabeled, 2 to evaluate on, 4 classes",
        "a step     4 labeled crops of 32×32 and 4 mixed, of 8 unlabeled ones, on 2 GPUs",
        "the run    6 steps: 6.0 epochs of 1; the first 2 supervised",
        "24 labeled crops, 12.0 an image",
        "32 unlabeled crops, 8.0 an image",
        "12 of the labeled crops are centered on a class, by the samples of seed",
        " -  no label shows it",
        "model      DeepLabV3PlusForSemanticSegmentation, ",
        "a supervised step on each GPU",
        "GPU-hours, at 0.001 TFLOP/s a GPU",
        "in float32",
    ):
        assert expected in said, said
    assert re.search(r"^grass +\d+ +\d+ +\d\.\d$", said, re.MULTILINE)
    parts = re.findall(r"^ +(\d+\.\d)  (.+)$", said, re.MULTILINE)
    names = ["weights", "gradients", "buckets of DDP", "optimizer", "EMA model", "batch", "activations"]
    assert [name for _, name in parts] == names
    total = float(re.search(r"memory +about (\S+) MiB", said)[1])
    assert sum(float(size) for size, _ in parts) == pytest.approx(total, abs=0.05 * len(parts))


def test_without_unlabeled_images_and_without_a_rate(dry_run):
    alone = {"consistency_weight": 0, "structured_consistency_weight": 0}
    said = dry_run(**alone, class_uniform_share=0, num_train_epochs=1, max_steps=-1)
    assert "the run    1 step: 1.0 epochs of 1; all supervised" in said and "mixed" not in said
    assert "no crop is centered on a class" in said and "hours      not known: give --tflops_per_second" in said


def test_wrong_data_is_what_it_is_in_a_run(dry_run, own_folder):
    with pytest.raises(InputError, match="crop_size: must be multiples of|crop_size"):
        dry_run("--crop_size", "0", "32")
    with pytest.raises(InputError, match="metric_for_best_model: must be one of mean_iou"):
        dry_run("--metric_for_best_model", "loss")
    next((own_folder / "train/images").glob("*.png")).write_bytes(b"")
    with pytest.raises(InputError, match="frame"):
        dry_run()

"""The README's example in Python, run as it stands but for names and sizes."""

import re
from pathlib import Path

import pytest
from conftest import tiny_model
from transformers import AutoModelForSemanticSegmentation

README = (Path(__file__).parents[1] / "README.md").read_text()
(EXAMPLE,) = [code for code in re.findall(r"```python\n(.*?)```", README, re.S) if "SemiSupervisedTrainer(" in code]


@pytest.fixture
def small(own_folder, tmp_path, monkeypatch):
    """The example on small data, from a small model, for two steps."""
    monkeypatch.chdir(tmp_path)
    tiny_model({i: f"class {i}" for i in range(5)}).save_pretrained("starting")
    text = EXAMPLE
    for old, new in (
        ('"MY_DATA"', f'"{own_folder}"'),
        ('"MY_PHOTOS"', f'"{own_folder}/train/images"'),
        ('"nvidia/mit-b0"', '"starting"'),
        ("crop_size=[512, 512]", "crop_size=[32, 32], use_cpu=True, report_to=[], save_strategy='no'"),
        ("semi_supervised_start_step=500", "semi_supervised_start_step=1"),
        ("max_steps=8000", "max_steps=2"),
        ("eval_steps=500", "eval_steps=2"),
    ):
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


def test_the_example_in_python(small):
    names = {}
    exec(small, names)
    trainer = names["trainer"]
    assert trainer.state.global_step == 2 and "eval_mean_iou" in trainer.state.log_history[-2]
    model = AutoModelForSemanticSegmentation.from_pretrained("runs/mine")
    assert model.config.id2label == {0: "grass", 1: "path", 2: "sky"}


def test_no_command_needs_an_environment_that_was_not_activated():
    for block in re.findall(r"```bash\n(.*?)```", README, re.S):
        commands = [line for line in block.splitlines() if line.strip()]
        outside = ("make ", ". .venv/bin/activate")
        if not commands[0].startswith(outside):
            # A block that goes on where one before it left off.
            assert README.index(". .venv/bin/activate") < README.index(block)

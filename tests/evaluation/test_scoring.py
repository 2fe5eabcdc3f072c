from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
from accelerate import Accelerator
from conftest import tiny_model
from forks import run_processes
from torch import nn

from scl_hf import SemiSupervisedConfig
from scl_hf.cli import RecipeParser
from scl_hf.errors import InputError
from scl_hf.evaluation.scoring import EvaluationArguments, predict_image, score
from scl_hf.inference import predict_probs

NUM_CLASSES = 4
SETTINGS = {"eval_scales": [0.5, 1.0], "eval_flip": True, "eval_tile": [16, 24], "max_tiles_per_batch": 3}


def noise(index):
    """An image and its labels, some of them ignored."""
    generator, size = torch.Generator().manual_seed(index), (24 + 3 * index, 40 - index)
    labels = torch.randint(NUM_CLASSES, size, generator=generator)
    labels[0] = 255
    return {"pixel_values": torch.randn(3, *size, generator=generator), "labels": labels, "id": f"image {index}"}


IMAGES = [noise(index) for index in range(5)]  # of five sizes


@pytest.fixture(scope="module")
def accelerator():
    return Accelerator(cpu=True)


def model_of_noise():
    return tiny_model({i: f"class {i}" for i in range(NUM_CLASSES)})


def test_images_are_predicted_as_the_fields_say(accelerator):
    model = model_of_noise()
    args = EvaluationArguments(**SETTINGS, eval_overlap=0.5)
    predicted = []
    score(model, IMAGES, args, accelerator, lambda *prediction: predicted.append(prediction))
    assert [(index, item["id"]) for index, item, _ in predicted] == [(i, f"image {i}") for i in range(5)]
    for index, _, probs in predicted:
        pixel_values = IMAGES[index]["pixel_values"].unsqueeze(0)
        expected = predict_probs(model, pixel_values, (0.5, 1.0), True, (16, 24), 0.5, max_tiles_per_batch=3)
        assert torch.equal(probs, expected)


def test_mixed_precision_reaches_the_model_and_not_the_average():
    model, accelerator = nn.Module(), SimpleNamespace(device="cpu")
    accelerator.autocast = lambda: torch.autocast("cpu", torch.bfloat16)
    kinds = []

    def forward(pixel_values):
        logits = torch.einsum("bchw,dc->bdhw", pixel_values, torch.eye(3))
        kinds.append(logits.dtype)
        return SimpleNamespace(logits=logits)

    model.forward = forward
    args = EvaluationArguments(eval_scales=[0.5, 1.0], eval_flip=True, eval_tile=16)
    probs = predict_image(model, IMAGES[0], args, accelerator)
    assert set(kinds) == {torch.bfloat16} and probs.dtype == torch.float32
    expected = predict_probs(model, IMAGES[0]["pixel_values"].unsqueeze(0), (0.5, 1.0), True)
    torch.testing.assert_close(probs, expected, atol=0.01, rtol=0)


SCORE = """
import os, sys
import torch
from accelerate import Accelerator
from transformers import AutoModelForSemanticSegmentation
sys.path[:0] = {tests!r}
from test_scoring import IMAGES, SETTINGS, EvaluationArguments, score

torch.set_num_threads(1)
accelerator = Accelerator(cpu=True)
assert accelerator.num_processes == 2
indices = []
model = AutoModelForSemanticSegmentation.from_pretrained({model!r})
results = score(model, IMAGES, EvaluationArguments(**SETTINGS), accelerator, lambda index, *_: indices.append(index))
torch.save((indices, results), f"{out}/{{accelerator.process_index}}.pt")
accelerator.end_training()
"""


def test_two_processes_score_as_one_bit_for_bit(accelerator, tmp_path):
    model = model_of_noise()
    model.save_pretrained(tmp_path / "model")
    script = tmp_path / "score.py"
    paths = {
        "tests": [str(Path(__file__).parents[1]), str(Path(__file__).parent)],
        "model": str(tmp_path / "model"),
        "out": str(tmp_path),
    }
    script.write_text(SCORE.format(**paths))
    result = run_processes(2, script)
    assert result.returncode == 0, result.stderr[-3000:]

    shown = []
    one = score(
        type(model).from_pretrained(tmp_path / "model"),
        IMAGES,
        EvaluationArguments(**SETTINGS),
        accelerator,
        on_prediction=lambda index, item, probs: shown.append((index, item["id"], probs.shape[-2:])),
    )
    assert shown == [(index, f"image {index}", image["labels"].shape) for index, image in enumerate(IMAGES)]
    counted = sum((item["labels"] != 255).sum() for item in IMAGES)
    matrix = one.pop("confusion_matrix")
    assert matrix.sum() == counted and matrix.count_nonzero() > NUM_CLASSES
    assert one["overall_accuracy"] == (matrix.diagonal().sum() / counted.double()).item()
    for process, expected_indices in enumerate(([0, 2, 4], [1, 3])):
        indices, two = torch.load(tmp_path / f"{process}.pt")
        assert indices == expected_indices and torch.equal(two.pop("confusion_matrix"), matrix) and two == one


def test_what_a_user_can_mend_is_one_line(accelerator):
    model = model_of_noise()

    def message(model=model, **fields):
        with pytest.raises(InputError) as caught:
            score(model, IMAGES, EvaluationArguments(**fields), accelerator)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    expected = "eval_scales, eval_tile: image image 0 cannot be evaluated with tiles 4×8 pixels at scale 1: "
    assert message(eval_tile=[4, 8]).startswith(expected + "pixel_values of 4x8 pixels are too small")
    assert message(eval_scales=[1, 0.1]).startswith(
        "eval_scales, eval_tile: image image 0 cannot be evaluated with its"
    )
    # A model that does not know its least size: a convolution inside it fails.
    strided = nn.Conv2d(3, NUM_CLASSES, 12)
    strided.forward = lambda pixel_values: SimpleNamespace(logits=nn.Conv2d.forward(strided, pixel_values))
    strided.config = model.config
    assert message(strided, eval_tile=[8]).startswith("eval_scales, eval_tile: image image 0 cannot be evaluated")

    # The CPU has no exception of its own for memory that nothing has.
    on_gpu = Mock(side_effect=torch.OutOfMemoryError("HIP out of memory.\nTried to allocate"))
    for out_of_memory in (on_gpu, lambda pixel_values: torch.empty(10**15)):
        strided.forward = out_of_memory
        expected = "eval_tile, max_tiles_per_batch: image image 0 does not fit into the memory"
        assert message(strided).startswith(expected)
    two_classes = tiny_model({0: "a", 1: "b"})
    assert message(two_classes).startswith("image image 0: the labels do not fit the model: references hold")


@pytest.mark.parametrize(
    "field, value",
    [
        ("eval_scales", []),
        ("eval_scales", [0.0, 1.0]),
        ("eval_scales", [float("nan")]),
        ("eval_scales", [float("inf")]),
        ("eval_tile", [1, 2, 3]),
        ("eval_tile", [0]),
        ("eval_tile", 0),
        ("eval_overlap", 1.0),
        ("max_tiles_per_batch", 0),
        ("dataloader_num_workers", -1),
    ],
)
def test_fields_out_of_range(field, value):
    for config in (EvaluationArguments, SemiSupervisedConfig):
        with pytest.raises(InputError, match=f"^{field}: must be"):
            config(**{field: value})


def test_a_recipe_and_the_command_line_give_the_tile(tmp_path):
    recipe = tmp_path / "recipe.yaml"

    def tile(text, *argv):
        recipe.write_text(text)
        return RecipeParser(EvaluationArguments).parse_recipe([str(recipe), *argv])[0].eval_tile

    assert tile("eval_flip: true") is None and tile("eval_tile: null") is None
    assert tile("eval_tile: 64") == tile("eval_tile: [64]") == [64, 64]
    assert tile("eval_tile: [64, 96]") == [64, 96]
    assert tile("eval_tile: 64", "--eval_tile", "32", "48") == [32, 48]
    assert tile("eval_tile: 64", "--eval_tile", "null") is None
    config = SemiSupervisedConfig(output_dir=str(tmp_path), eval_tile=64, use_cpu=True, report_to="none")
    assert config.eval_tile == [64, 64]

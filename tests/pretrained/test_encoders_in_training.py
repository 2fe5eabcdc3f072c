"""Each head over each encoder: trained, resumed, evaluated, predicted with, saved, loaded without the package."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import build_trainer
from forks import run_without_package
from safetensors.torch import load_file
from test_encoders import FITTING, SMALL, encoders  # noqa: F401
from transformers import AutoModelForSemanticSegmentation, pipeline

from scl_hf.errors import InputError
from scl_hf.image_processors import load_processor
from scl_hf.inference import predict_probs
from scl_hf.pretrained import ModelArguments, load_checkpoint, load_model

FIELDS = {"crop_size": [56, 84], "optim": "adamw_torch", "optim_args": None, "learning_rate": 1e-3, "max_steps": 3}
FIELDS |= {"backbone_learning_rate": 1e-4, "no_weight_decay": ["norms", "biases"], "save_strategy": "steps"}

WITHOUT_THE_PACKAGE = """
import sys
sys.modules["scl_hf"] = None  # any import of it fails
import torch
from transformers import AutoModelForSemanticSegmentation
folder, out = sys.argv[1:]
model = AutoModelForSemanticSegmentation.from_pretrained(folder, trust_remote_code=True).eval()
with torch.no_grad():
    torch.save(model(pixel_values=torch.load(out + ".in")).logits, out)
"""


def start(encoders, backbone, head, data, **fields):  # noqa: F811
    torch.manual_seed(0)
    args = ModelArguments(backbone=str(encoders / backbone), head=head, model_config=SMALL[head], **fields)
    return load_model(args, data.id2label)


@pytest.mark.parametrize("backbone, head", FITTING)
def test_from_an_encoder_to_a_model_that_loads_anywhere(encoders, backbone, head, toy_data, tmp_path):  # noqa: F811
    crop_size = {"beit": [64, 96], "swin": [72, 96]}.get(backbone, [56, 84])
    fields = FIELDS | {"save_steps": 2, "crop_size": crop_size}
    whole = build_trainer(toy_data, tmp_path / "whole", start(encoders, backbone, head, toy_data), **fields)
    before = {name: tensor.clone() for name, tensor in whole.model.state_dict().items()}
    whole.train()
    inside = whole.model.backbone.state_dict(prefix="backbone.")
    assert any(not torch.equal(before[name], tensor) for name, tensor in inside.items())
    assert 0 <= whole.evaluate()["eval_mean_iou"] <= 1  # 48 by 96 pixels, which are no multiples of 14
    whole.save_model()

    # Resumed, with the same bits.
    rest = build_trainer(toy_data, tmp_path / "rest", start(encoders, backbone, head, toy_data), **fields)
    rest.train(resume_from_checkpoint=str(tmp_path / "whole/checkpoint-2"))
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, rest.model.state_dict()[name]), name

    # Every pixel of an image has a prediction, in the whole image and in tiles.
    checkpoint = load_checkpoint(str(tmp_path / "whole"))
    image = np.random.default_rng(0).integers(0, 256, (51, 93, 3), dtype=np.uint8)
    pixel_values = checkpoint.normalization.of(image)[None]
    for tile in (None, (45, 50)):
        probs = predict_probs(checkpoint.model, pixel_values, tile=tile)
        assert probs.shape == (1, 19, 51, 93)
        torch.testing.assert_close(probs.sum(dim=1), torch.ones(1, 51, 93))

    # The same logits as in memory, in a process that has no such package.
    model = whole.teacher.module.eval()
    pixel_values = torch.randn(1, 3, *crop_size, generator=torch.Generator().manual_seed(3))
    out = tmp_path / "logits.pt"
    torch.save(pixel_values, f"{out}.in")
    result = run_without_package(WITHOUT_THE_PACKAGE, tmp_path / "whole", out, folder=tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]
    with torch.no_grad():
        logits = model(pixel_values=pixel_values).logits
    # Of the size of the logits: a file's tensors lie elsewhere in memory, and sums are taken in another order.
    torch.testing.assert_close(torch.load(out), logits, atol=1e-6 * max(1, logits.abs().max().item()), rtol=0)


def test_pipeline_and_processor_of_a_trained_model(encoders, toy_data, tmp_path):  # noqa: F811
    from PIL import Image

    trainer = build_trainer(toy_data, tmp_path / "run", start(encoders, "dinov2", "dpt", toy_data), **FIELDS)
    trainer.save_model()
    model = AutoModelForSemanticSegmentation.from_pretrained(tmp_path / "run").eval()
    processor = load_processor(str(tmp_path / "run"))
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (51, 93, 3), dtype=np.uint8))
    segments = pipeline("image-segmentation", model=model, image_processor=processor)(image)
    shown = np.sum([np.asarray(segment["mask"]) > 0 for segment in segments], axis=0)
    assert shown.shape == (51, 93) and (shown == 1).all()


@pytest.mark.parametrize(
    "fields, message",
    [
        (
            {"crop_size": [56, 80]},
            r"crop_size: must be multiples of 14 for this encoder, such as 56 or 56 by 70 or 84, got \[56, 80\]\.$",
        ),
        (
            {"crop_size": 512},
            r"crop_size: must be multiples of 14 for this encoder, such as 504 or 518, got \[512, 512\]\.$",
        ),
    ],
)
def test_crops_that_do_not_fit_the_encoder(encoders, toy_data, tmp_path, fields, message):  # noqa: F811
    model = start(encoders, "dinov2", "dpt", toy_data)
    with pytest.raises(InputError, match=message):
        build_trainer(toy_data, tmp_path / "run", model, **FIELDS | fields)
    assert not (tmp_path / "run").exists()


def test_windows_that_would_shrink_for_good(encoders, toy_data, tmp_path):  # noqa: F811
    model = start(encoders, "swin", "upernet", toy_data)
    with pytest.raises(InputError, match=r"crop_size: must be 65 or more for this encoder's windows, got \[64, 96\]"):
        build_trainer(toy_data, tmp_path / "run", model, **FIELDS | {"crop_size": [64, 96]})
    large, small = torch.randn(1, 3, 96, 96), torch.randn(1, 3, 40, 50)
    before = predict_probs(model, large)
    predict_probs(model, small)
    assert torch.equal(predict_probs(model, large), before)


def test_gradient_checkpointing_where_an_encoder_has_it(encoders, toy_data, tmp_path):  # noqa: F811
    states = []
    for checkpointing in (False, True):
        trainer = build_trainer(
            toy_data,
            tmp_path / str(checkpointing),
            start(encoders, "dinov2", "dpt", toy_data),
            **FIELDS | {"save_strategy": "no"},
            gradient_checkpointing=checkpointing,
        )
        trainer.train()
        assert trainer.model.is_gradient_checkpointing == checkpointing
        states.append(trainer.model.state_dict())
    for name, tensor in states[0].items():
        torch.testing.assert_close(tensor, states[1][name], atol=1e-5, rtol=1e-4)
    with pytest.raises(InputError, match="gradient_checkpointing: DeepLabV3Plus.* has none; leave it out"):
        resnet = start(encoders, "resnet", "deeplabv3plus", toy_data)
        build_trainer(toy_data, tmp_path / "run", resnet, **FIELDS, gradient_checkpointing=True)


def test_the_checkpoint_of_a_run_is_complete(encoders, toy_data, tmp_path):  # noqa: F811
    model = start(encoders, "resnet", "deeplabv3plus", toy_data, output_stride=16)
    trainer = build_trainer(toy_data, tmp_path / "run", model, **FIELDS, save_steps=3)
    trainer.train()
    saved = load_file(Path(tmp_path / "run/checkpoint-3/student/model.safetensors"))
    assert {f"backbone.{name}" for name in trainer.model.backbone.state_dict()} <= set(saved)


@pytest.mark.parametrize("backbone, head", [("resnet", "deeplabv3plus"), ("convnext", "upernet"), ("dinov2", "dpt")])
def test_teacher_computes_in_half_precision(encoders, backbone, head, toy_data, tmp_path):  # noqa: F811
    def train(bf16: bool) -> tuple[list[float], set[torch.dtype]]:
        model, types = start(encoders, backbone, head, toy_data), set()
        fields = FIELDS | {"save_strategy": "no", "logging_steps": 1, "bf16": bf16}
        trainer = build_trainer(toy_data, tmp_path / str(bf16), model, **fields)
        convolutions = [module for module in trainer.teacher.module.modules() if isinstance(module, torch.nn.Conv2d)]
        convolutions[-2].register_forward_hook(lambda module, args, output: types.add(output.dtype))
        trainer.train()
        # Stored in half, an average that moves by a thousandth per step would not move at all.
        assert {parameter.dtype for parameter in trainer.teacher.module.parameters()} == {torch.float32}
        return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry], types

    whole, whole_types = train(bf16=False)
    half, half_types = train(bf16=True)
    assert (whole_types, half_types) == ({torch.float32}, {torch.bfloat16})
    assert half == pytest.approx(whole, rel=0.05) and half != whole

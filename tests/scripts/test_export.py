"""scripts/export.py: files that compute what the model does, with names and normalization; or one line and no file."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch
from conftest import load_script, tiny_model
from transformers import (
    Dinov2Config,
    ResNetConfig,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SegformerImageProcessorPil,
    SwinConfig,
    UperNetConfig,
    UperNetForSemanticSegmentation,
)

from scl_hf.errors import InputError
from scl_hf.inference import predict_probs
from scl_hf.models import (
    BackboneDPTConfig,
    BackboneDPTForSemanticSegmentation,
    DeepLabV3PlusConfig,
    DeepLabV3PlusForSemanticSegmentation,
)

IDS = {0: "straße", 1: "sky", 2: "car"}
NO_ONNX = pytest.mark.skipif(not importlib.util.find_spec("onnxruntime"), reason="the extra is not installed")
TRACED = [pytest.param("onnx", marks=NO_ONNX), "torchscript"]


def make(name):
    classes = {"id2label": IDS, "label2id": {name: i for i, name in IDS.items()}}
    if name == "deeplabv3plus":
        return tiny_model(IDS)
    if name == "resnet":
        backbone = ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 8, 16, 16], depths=[1] * 4, layer_type="basic", out_indices=[1, 4]
        )
        heads = {"aspp_channels": 8, "aspp_dilations": [1, 2], "skip_channels": 8, "decoder_channels": 8}
        return DeepLabV3PlusForSemanticSegmentation(DeepLabV3PlusConfig(backbone_config=backbone, **heads, **classes))
    if name == "dinov2":
        backbone = Dinov2Config(
            hidden_size=32, num_hidden_layers=4, num_attention_heads=2, image_size=56, patch_size=14
        )
        return BackboneDPTForSemanticSegmentation(BackboneDPTConfig(backbone_config=backbone, **classes))
    if name == "segformer":
        widths = {"hidden_sizes": [8, 8, 16, 16], "depths": [1] * 4, "decoder_hidden_size": 8}
        return SegformerForSemanticSegmentation(SegformerConfig(num_attention_heads=[1, 1, 2, 2], **widths, **classes))
    backbone = SwinConfig(embed_dim=8, depths=[1] * 4, num_heads=[1, 1, 2, 2], window_size=2, out_indices=[1, 2, 3, 4])
    heads = {"hidden_size": 8, "use_auxiliary_head": False}
    return UperNetForSemanticSegmentation(UperNetConfig(backbone_config=backbone, **heads, **classes))


@pytest.fixture
def export(monkeypatch, tmp_path):
    """Saves a model, exports it, and returns the model and the written file."""
    script = load_script(Path(__file__).parents[2] / "scripts/export.py")

    def run(model, form, output=tmp_path / "out/model.bin"):
        if not isinstance(model, Path):
            model.eval().save_pretrained(tmp_path / "checkpoint")
            SegformerImageProcessorPil(do_resize=False, image_mean=[0.5] * 3).save_pretrained(tmp_path / "checkpoint")
            model = tmp_path / "checkpoint"
        monkeypatch.setattr(sys, "argv", ["export.py", str(model), "--format", form, "--output", str(output)])
        script.main()
        return output

    return run


def read(form, path):
    """Returns a function of a written file, and its metadata."""
    if form == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path)
        metadata = session.get_modelmeta().custom_metadata_map
        return lambda x: torch.from_numpy(session.run(["logits"], {"pixel_values": x.numpy()})[0]), metadata
    metadata = dict.fromkeys(("classes", "image_mean", "image_std", "channels"), "")
    if form == "torchscript":
        return torch.jit.load(path, _extra_files=metadata), metadata
    return torch.export.load(path, extra_files=metadata).module(), metadata


@pytest.mark.parametrize("form", TRACED)
@pytest.mark.parametrize("name", ["deeplabv3plus", "resnet", "dinov2", "segformer"])
def test_a_traced_file(export, name, form, capsys):
    check(export, name, form, capsys)


@pytest.mark.parametrize("name", ["deeplabv3plus", pytest.param("segformer", marks=pytest.mark.slow)])
def test_an_exported_program(export, name, capsys):
    check(export, name, "exported_program", capsys)


def check(export, name, form, capsys):
    model = make(name)
    path = export(model, form)
    assert capsys.readouterr().out.startswith(f"{path}: written; its logits agree with the model's to ")
    run, metadata = read(form, path)
    assert json.loads(metadata["classes"]) == list(IDS.values()) and metadata["channels"] in ("RGB", b"RGB")
    assert json.loads(metadata["image_mean"]) == [0.5] * 3 and json.loads(metadata["image_std"])[0] == 0.229
    for shape in ((1, 3, 84, 96), (4, 3, 101, 67)):
        pixel_values = torch.randn(shape)
        expected = predict_probs(model, pixel_values)
        torch.testing.assert_close(run(pixel_values).softmax(1), expected, rtol=0, atol=1e-3)
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("name", "form"),
    [
        pytest.param("swin", "onnx", marks=NO_ONNX),
        ("swin", "torchscript"),
        pytest.param("dinov2", "exported_program", marks=pytest.mark.slow),
    ],
)
def test_a_model_that_a_format_cannot_hold_leaves_no_file(export, name, form, tmp_path):
    with pytest.raises(InputError, match=f"its .* cannot be exported as {form} .*Try another format") as error:
        export(make(name), form)
    assert "\n" not in str(error.value) and list(tmp_path.glob("out/*")) == []


def test_a_file_that_differs_is_not_kept(export, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.jit.load", lambda path: lambda pixel_values: pixel_values * torch.nan)
    with pytest.raises(InputError, match="differ by nan"):
        export(make("deeplabv3plus"), "torchscript")
    assert list(tmp_path.glob("out/*")) == []


def test_wrong_input(export, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="format: invalid choice: 'tflite'"):
        export(tmp_path, "tflite")
    with pytest.raises(InputError, match="output .*: is a folder. Name a file in it"):
        export(tmp_path, "torchscript", tmp_path)
    with pytest.raises(InputError, match="checkpoint .*none: no such folder"):
        export(tmp_path / "none", "torchscript")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError, match=r"onnx needs what is not installed .*pip install 'scl_hf\[export\]'"):
        export(tmp_path, "onnx")
    with pytest.raises(InputError, match="one checkpoint comes first: CHECKPOINT --output"):
        export(Path("--output"), "onnx")

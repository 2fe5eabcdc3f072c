"""scripts/train.py on an encoder: from its folder to a model that loads, and one line for what does not fit."""

import json
import sys
from pathlib import Path

import pytest
import torch
import yaml
from conftest import load_script
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForSemanticSegmentation,
    BertConfig,
    BertModel,
    Dinov2Config,
    Dinov2ForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
    SegformerImageProcessorPil,
    ViTMAEConfig,
    ViTMAEModel,
)

from scl_hf.errors import InputError

SCRIPT = Path(__file__).parents[2] / "scripts/train.py"
SETTINGS = {
    "dataset": "folder",
    "labeled_fraction": 0.5,
    "crop_size": [56, 56],
    "class_uniform_tile": 56,
    "num_boxes": 4,
    "num_loss_boxes": 4,
    "per_device_train_batch_size": 2,
    "max_steps": 2,
    "report_to": "none",
    "disable_tqdm": True,
    "use_cpu": True,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("encoders")
    torch.manual_seed(0)
    pyramid = ResNetConfig(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], embedding_size=8)
    ResNetForImageClassification(pyramid).save_pretrained(root / "resnet")
    vit = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2}
    Dinov2ForImageClassification(Dinov2Config(**vit, image_size=56)).save_pretrained(root / "dinov2")
    SegformerImageProcessorPil(image_mean=[0.5] * 3, image_std=[0.25] * 3).save_pretrained(root / "dinov2")
    BertModel(BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1)).save_pretrained(root / "bert")
    mae = ViTMAEConfig(**vit, image_size=32, intermediate_size=32, decoder_hidden_size=16, decoder_num_hidden_layers=1)
    ViTMAEModel(mae).save_pretrained(root / "mae")
    Dinov2ForImageClassification(Dinov2Config(**vit, image_size=56)).save_pretrained(root / "torn")
    weights = load_file(root / "torn/model.safetensors")
    lost = [name for name in weights if "layer.2." in name]
    save_file(
        {name: weights[name] for name in weights if name not in lost},
        root / "torn/model.safetensors",
        {"format": "pt"},
    )
    ResNetForImageClassification(pyramid).save_pretrained(root / "foreign")
    config = json.loads((root / "foreign/config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config"}}
    (root / "foreign/config.json").write_text(json.dumps(config))
    return root


@pytest.fixture
def train(own_folder, tmp_path, monkeypatch):
    """Runs the script; returns its output folder."""
    script = load_script(SCRIPT)

    def run(**fields):
        recipe = tmp_path / "recipe.yaml"
        paths = {"data_dir": str(own_folder), "output_dir": str(tmp_path / "run")}
        recipe.write_text(yaml.safe_dump(SETTINGS | paths | fields))
        monkeypatch.setattr(sys, "argv", ["train.py", str(recipe)])
        script.main()
        return tmp_path / "run"

    return run


def test_a_recipe_with_a_backbone(train, folders, caplog):
    fields = {"head": "dpt", "learning_rate": 1e-3, "backbone_learning_rate": 1e-4, "optim": "adamw_torch"}
    run = train(backbone=str(folders / "dinov2"), **fields, optim_args=None)
    assert "dinov2: 79 tensors of the encoder taken over (" in caplog.text and "new: dpt head (" in caplog.text
    model = AutoModelForSemanticSegmentation.from_pretrained(run)
    assert model.config.id2label == {0: "grass", 1: "path", 2: "sky"}
    processor = json.loads((run / "preprocessor_config.json").read_text())
    assert processor["image_mean"] == [0.5] * 3 and processor["do_resize"] is False  # the encoder's own


WRONG = {
    "no such folder": ({"backbone": "/nowhere/at/all"}, "backbone /nowhere/at/all: no such folder"),
    "no backbone class": ({"backbone": "bert"}, "no backbone class for model_type 'bert'"),
    "no feature maps": ({"backbone": "mae"}, "no backbone class for model_type 'vit_mae'"),
    "keys missing": ({"backbone": "torn"}, "of the encoder's .* tensors are missing"),
    "code of its own": ({"backbone": "foreign"}, "no backbone class for model_type"),
    "out_features": (
        {"backbone": "resnet", "model_config": {"out_features": ["stage1", "stage9"]}},
        "model_config: out_features must name two or more of stem, stage1",
    ),
    "dpt on a ResNet": ({"backbone": "resnet", "head": "dpt"}, "head: dpt is for plain ViTs"),
    "unknown head": ({"backbone": "resnet", "head": "fcn"}, "head: must be one of deeplabv3plus, upernet, dpt"),
    "stride of a ViT": (
        {"backbone": "dinov2", "head": "deeplabv3plus", "output_stride": 8},
        "output_stride: .*leave it out",
    ),
    "crop": ({"backbone": "dinov2", "crop_size": [64, 56]}, "crop_size: must be multiples of 14"),
    "two starts": ({"backbone": "resnet", "model_name_or_path": "a/b"}, "backbone and model_name_or_path: both name"),
    "head alone": ({"head": "dpt"}, "head: is for a model over a backbone"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_one_line(train, folders, tmp_path, case):
    fields, message = WRONG[case]
    if "/" not in fields.get("backbone", "/"):
        fields = fields | {"backbone": str(folders / fields["backbone"])}
    with pytest.raises(InputError, match=message) as error:
        train(**fields)
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()

"""How weights are opened, and what is said of those that cannot be."""

import json
import logging

import pytest
import torch
from conftest import TINY_MOBILEVIT, tiny_model
from safetensors.torch import save_file
from transformers import (
    MobileViTConfig,
    MobileViTForSemanticSegmentation,
    SegformerConfig,
    SegformerForSemanticSegmentation,
)

from scl_hf.errors import InputError
from scl_hf.pretrained import ModelArguments, load_checkpoint, load_model, load_weights

FLOWERS = {0: "iris", 1: "lily", 2: "rose"}
TINY_SEGFORMER = {
    "depths": [1, 1, 1, 1],
    "hidden_sizes": [8, 8, 16, 16],
    "decoder_hidden_size": 16,
    "num_attention_heads": [1, 1, 2, 2],
}


def save_model(folder, model_type="segformer", id2label=None):
    torch.manual_seed(0)
    labels = {"id2label": id2label or FLOWERS}
    labels["label2id"] = {name: i for i, name in labels["id2label"].items()}
    if model_type == "segformer":
        model = SegformerForSemanticSegmentation(SegformerConfig(**TINY_SEGFORMER, **labels))
    else:
        model = MobileViTForSemanticSegmentation(MobileViTConfig(**TINY_MOBILEVIT, **labels))
    model.save_pretrained(folder)
    return folder


def test_a_checkpoint_of_other_classes_gives_all_but_the_head(tmp_path, caplog):
    before = tiny_model({index: f"class {index}" for index in range(5)})
    before.save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING):
        model = load_model(ModelArguments(model_name_or_path=str(tmp_path)), {0: "a", 1: "b", 2: "c"})
    old, new = before.state_dict(), model.state_dict()
    head = "decoder.classifier.weight"
    assert new[head].shape[0] == 3 and new[head].std() > 0 and model.config.id2label == {0: "a", 1: "b", 2: "c"}
    assert list(new) == list(old) and all(torch.equal(new[key], old[key]) for key in new if key != head)
    taken_over = f"{len(new) - 1} of {len(new)} tensors taken over; new: {head} (5 → 3 classes)"
    assert [record.getMessage() for record in caplog.records][0] == f"{tmp_path}: {taken_over}"
    assert "LOAD REPORT" not in caplog.text


def test_without_class_names_a_checkpoint_keeps_its_own(tmp_path):
    folder = save_model(tmp_path)
    model = load_model(ModelArguments(model_name_or_path=str(folder)), None)
    assert model.config.id2label == load_checkpoint(str(folder)).id2label == FLOWERS


def test_half_precision_is_opened_in_float32(tmp_path):
    model = tiny_model(FLOWERS).half()
    model.save_pretrained(tmp_path)
    opened = (
        load_model(ModelArguments(model_name_or_path=str(tmp_path)), FLOWERS),
        load_checkpoint(str(tmp_path)).model,
    )
    resumed = tiny_model(FLOWERS, seed=1)
    load_weights(tmp_path, resumed)
    for other in (*opened, resumed):
        assert {parameter.dtype for parameter in other.parameters()} == {torch.float32}
        for key, value in model.state_dict().items():
            assert torch.equal(other.state_dict()[key], value.to(other.state_dict()[key].dtype))


def test_weights_of_another_architecture_are_refused(tmp_path):
    tiny_model({0: "a", 1: "b"}).save_pretrained(tmp_path)
    save_file({"encoder.weight": torch.zeros(3)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match="its weights share no tensor with DeepLabV3PlusForSemanticSegmentation"):
        load_model(ModelArguments(model_name_or_path=str(tmp_path)), {0: "a", 1: "b"})


def test_weights_to_resume_from_must_be_of_this_model(tmp_path):
    save_model(tmp_path / "segformer")
    tiny_model({0: "a", 1: "b"}).save_pretrained(tmp_path / "fewer")
    (tmp_path / "empty").mkdir()
    for name, message in (
        ("segformer", "of another architecture than this recipe's deeplabv3plus"),
        ("fewer", r"\(decoder.classifier.weight differs\)"),
        ("empty", "cannot be read; take an older one"),
    ):
        with pytest.raises(InputError, match=f"^resume_from_checkpoint {tmp_path / name}: .*{message}"):
            load_weights(tmp_path / name, tiny_model(FLOWERS))


def test_classes_are_numbered_without_a_gap(tmp_path):
    folder = save_model(tmp_path / "start")
    config = json.loads((folder / "config.json").read_text())
    config["id2label"] = {str(2 * int(i)): name for i, name in config["id2label"].items()}
    (folder / "config.json").write_text(json.dumps(config))
    for load in (load_checkpoint, lambda name: load_model(ModelArguments(model_name_or_path=name), None)):
        with pytest.raises(
            InputError, match=r"start: id2label of its config.json has the ids 0, 2, 4; number .*without a gap"
        ):
            load(str(folder))
    load_model(ModelArguments(model_name_or_path=str(folder)), FLOWERS)  # which brings the classes


@pytest.mark.parametrize(
    ("field", "load"),
    [
        ("model_name_or_path", lambda name: load_model(ModelArguments(model_name_or_path=name), FLOWERS)),
        ("checkpoint", load_checkpoint),
    ],
)
def test_what_cannot_be_opened_is_one_line_of_either_field(tmp_path, field, load):
    def refused(name, message):
        with pytest.raises(InputError, match=f"^{field} {name}: {message}") as error:
            load(str(name))
        assert "\n" not in str(error.value)

    refused("runs/nowhere", "there is no such folder, and on the Hub it is not a semantic-segmentation checkpoint")
    refused(tmp_path / "nowhere", "no such folder")
    refused("./nowhere", "no such folder")
    folder = save_model(tmp_path / "start")
    weights, config = folder / "model.safetensors", json.loads((folder / "config.json").read_text())
    whole = weights.read_bytes()
    weights.write_bytes(whole[:1000])
    refused(folder, "not a semantic-segmentation checkpoint that can be loaded")
    weights.write_bytes(whole)
    for broken in (
        {"depths": "many"},
        {"hidden_sizes": [8]},
        {"num_attention_heads": [0] * 4},
        {"model_type": "bert"},
    ):
        (folder / "config.json").write_text(json.dumps(config | broken))
        refused(folder, "not a semantic-segmentation checkpoint that can be loaded")
    (folder / "config.json").write_text("{")
    refused(folder, "not a semantic-segmentation checkpoint that can be loaded")


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"backbone": "a/b", "model_name_or_path": "c/d"}, "backbone and model_name_or_path: both name weights"),
        ({"head": "dpt"}, "head: is for a model over a backbone"),
        ({"output_stride": 8}, "output_stride: is for a model over a backbone"),
    ],
)
def test_model_fields_that_contradict_each_other(fields, message):
    with pytest.raises(InputError, match=f"^{message}"):
        ModelArguments(**fields)

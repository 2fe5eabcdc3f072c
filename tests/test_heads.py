"""The head of a checkpoint whose classes have other names than the data, or another order."""

import logging

import pytest
import torch
from conftest import tiny_model
from transformers import (
    ResNetConfig,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    UperNetConfig,
    UperNetForSemanticSegmentation,
)

from scl_hf.pretrained import ModelArguments, load_model

NAMES = ("Road", "traffic_light ", "sky")
KINDS = ("weight", "bias")
HEADS = {
    "deeplabv3plus": ["decoder.classifier.weight"],
    "segformer": ["decode_head.classifier.weight", "decode_head.classifier.bias"],
    "upernet": [f"{head}.classifier.{kind}" for head in ("decode_head", "auxiliary_head") for kind in KINDS],
}


def make(kind, names):
    torch.manual_seed(0)
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    if kind == "deeplabv3plus":
        model = tiny_model(labels["id2label"])
    elif kind == "segformer":
        sizes = {"depths": [1] * 4, "hidden_sizes": [8] * 4, "num_attention_heads": [1] * 4, "decoder_hidden_size": 8}
        model = SegformerForSemanticSegmentation(SegformerConfig(**sizes, **labels))
    else:
        encoder = ResNetConfig(embedding_size=8, hidden_sizes=[8] * 4, depths=[1] * 4, out_indices=[1, 2, 3, 4])
        sizes = {"hidden_size": 8, "auxiliary_in_channels": 8, "auxiliary_channels": 8}
        model = UperNetForSemanticSegmentation(UperNetConfig(backbone_config=encoder, **sizes, **labels))
    for name in HEADS[kind]:
        torch.nn.init.normal_(model.get_parameter(name))
    return model.eval()


def start(folder, model, names, caplog):
    """Returns the model that starts from `model`, and the line on its weights."""
    model.save_pretrained(folder)
    with caplog.at_level(logging.WARNING, "scl_hf.pretrained"):
        opened = load_model(ModelArguments(str(folder)), dict(enumerate(names)))
    return opened.eval(), caplog.records[-1].getMessage()


@pytest.mark.parametrize("kind", HEADS)
def test_classes_in_another_order_are_put_in_that_of_the_data(tmp_path, caplog, kind):
    before = make(kind, NAMES)
    after, line = start(tmp_path, before, ("sky", "road", "Traffic light"), caplog)
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(after(image).logits, before(image).logits[:, [2, 0, 1]])
    old, new = before.state_dict(), after.state_dict()
    assert all(torch.equal(new[name], old[name][[2, 0, 1]] if name in HEADS[kind] else old[name]) for name in old)
    heads = ", ".join(sorted(HEADS[kind], key=list(old).index))
    remark = f"{heads} put in the order of the data's classes, by name"
    assert line == f"{tmp_path}: {len(old)} of {len(old)} tensors taken over; {remark}"
    assert after.config.id2label == {0: "sky", 1: "road", 2: "Traffic light"}


@pytest.mark.parametrize(
    "names, data",
    [
        (NAMES, NAMES),
        (NAMES, ("ROAD", "traffic-light", " sky")),
        (("LABEL_0", "LABEL_1", "LABEL_2"), NAMES),
        (("cell", "Cell", "b"), ("cell", "Cell", "b")),
    ],
)
def test_the_same_classes_are_taken_over_as_they_are(tmp_path, caplog, names, data):
    before = make("segformer", names)
    after, line = start(tmp_path, before, data, caplog)
    assert all(map(torch.equal, after.state_dict().values(), before.state_dict().values()))
    assert line.endswith("tensors taken over")


def test_names_that_differ_by_their_case_alone_are_two(tmp_path, caplog):
    before = make("segformer", ("cell", "Cell"))
    after, line = start(tmp_path, before, ("Cell", "cell"), caplog)
    name = "decode_head.classifier.weight"
    assert torch.equal(after.state_dict()[name], before.state_dict()[name][[1, 0]])


@pytest.mark.parametrize("kind", HEADS)
def test_as_many_other_classes_have_a_new_head(tmp_path, caplog, kind):
    before = make(kind, NAMES)
    after, line = start(tmp_path, before, ("road", "lamp", "sky"), caplog)
    old, new = before.state_dict(), after.state_dict()
    assert {name for name in old if not torch.equal(new[name], old[name])} == {*HEADS[kind]}
    assert all(new[name].std() > 0 for name in HEADS[kind] if name.endswith("weight"))
    assert f": {len(old) - len(HEADS[kind])} of {len(old)} tensors taken over; new: " in line
    assert line.endswith(
        " (the data have no traffic_light ; with the checkpoint's names in id2label its head is taken over)"
    )

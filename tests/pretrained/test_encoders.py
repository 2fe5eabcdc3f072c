"""From an encoder's name to a segmentation model: the encoder's weights are really in, whatever it is."""

import json
import logging
import shutil

import numpy as np
import pytest
import torch
from forks import run_without_package
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForSemanticSegmentation,
    BeitConfig,
    BeitForImageClassification,
    BeitForSemanticSegmentation,
    ConvNextConfig,
    ConvNextForImageClassification,
    Dinov2Config,
    Dinov2ForImageClassification,
    Dinov2Model,
    DPTConfig,
    DPTForSemanticSegmentation,
    MobileViTConfig,
    MobileViTForSemanticSegmentation,
    ResNetConfig,
    ResNetForImageClassification,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SegformerImageProcessorPil,
    SwinConfig,
    SwinForImageClassification,
    SwinModel,
    ViTConfig,
    ViTForImageClassification,
    pipeline,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_BACKBONE_MAPPING

from scl_hf.errors import InputError
from scl_hf.inference import aligned_stride, predict_probs, size_divisor
from scl_hf.models import BackboneDPTConfig, BackboneDPTForSemanticSegmentation, DeepLabV3PlusConfig
from scl_hf.models.configuration_efficientnet_lite import EfficientNetLiteConfig
from scl_hf.models.modeling_efficientnet_lite import EfficientNetLiteBackbone
from scl_hf.pretrained import ModelArguments, load_on_backbone

LABELS = {"id2label": {0: "iris", 1: "lily", 2: "rose"}, "label2id": {"iris": 0, "lily": 1, "rose": 2}}
VIT = {"hidden_size": 32, "num_hidden_layers": 8, "num_attention_heads": 2}
PYRAMID = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1]}
SWIN = {"embed_dim": 8, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 2, 4], "window_size": 2, "image_size": 64}
LITE = {"stem_channels": 8, "stage_channels": [8, 8, 12, 16, 16], "num_block_repeats": [1, 2, 1, 1, 1]}
LITE |= {"strides": [1, 2, 2, 2, 1], "kernel_sizes": [3, 3, 5, 3, 5], "expand_ratios": [1, 2, 2, 2, 2]}
CLASSIFIERS = {
    "resnet": (ResNetForImageClassification, ResNetConfig(**PYRAMID, embedding_size=8)),
    "convnext": (ConvNextForImageClassification, ConvNextConfig(**PYRAMID)),
    "swin": (SwinForImageClassification, SwinConfig(**SWIN)),
    "dinov2": (Dinov2ForImageClassification, Dinov2Config(**VIT, image_size=70)),
    "beit": (BeitForImageClassification, BeitConfig(**VIT, intermediate_size=64, image_size=64)),
    "efficientnet_lite": (EfficientNetLiteBackbone, EfficientNetLiteConfig(**LITE)),
}
SMALL = {
    "deeplabv3plus": {"aspp_channels": 16, "aspp_dilations": [1, 2, 3], "skip_channels": 8, "decoder_channels": 16},
    "upernet": {"hidden_size": 16},
    "dpt": {},
}
FITTING = [
    ("resnet", "deeplabv3plus"),
    ("convnext", "deeplabv3plus"),
    ("swin", "deeplabv3plus"),
    ("dinov2", "deeplabv3plus"),
    ("efficientnet_lite", "deeplabv3plus"),
    ("resnet", "upernet"),
    ("convnext", "upernet"),
    ("swin", "upernet"),
    ("dinov2", "upernet"),
    ("dinov2", "dpt"),
    ("beit", "dpt"),
]


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    """Folders of tiny classifiers over each encoder, as the Hub has them, with weights unlike fresh ones."""
    root = tmp_path_factory.mktemp("encoders")
    torch.manual_seed(7)
    for name, (model_class, config) in CLASSIFIERS.items():
        config.num_labels = 5
        model = model_class(config)
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(torch.rand_like(tensor) / 10)
        model.save_pretrained(root / name)
        torch.save(model.state_dict(), root / name / "state_dict.pt")
    return root


def opened(backbone, head=None, output_stride=None, model_config=None, labels=LABELS):
    return load_on_backbone(ModelArguments(None, str(backbone), head, output_stride, model_config), labels)


def build(encoders, backbone, head=None, output_stride=None, **fields):
    torch.manual_seed(0)
    return opened(encoders / backbone, head, output_stride, SMALL.get(head, SMALL["deeplabv3plus"]) | fields)


def built(encoders, backbone, head, **fields):
    return build(encoders, backbone, head, **fields)[0]


def images(batch=2, height=56, width=84):
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("backbone, head", FITTING)
def test_every_weight_of_the_encoder_is_in(encoders, backbone, head):
    model, line = build(encoders, backbone, head)
    inside = model.backbone.state_dict()
    stored = torch.load(encoders / backbone / "state_dict.pt")
    # A classifier names the encoder's tensors after its kind, and has its own head.
    stored = {key.removeprefix(f"{backbone}."): tensor for key, tensor in stored.items()}
    norms = {key for key in inside if key.startswith("hidden_states_norms")}
    for key, tensor in inside.items():
        if key in norms:
            assert torch.equal(tensor, torch.full_like(tensor, float(key.endswith("weight")))), key
        else:
            assert torch.equal(tensor, stored[key.removeprefix(f"{backbone}.")]), key
    assert bool(norms) == (backbone in ("convnext", "swin"))
    assert {p.dtype for p in model.parameters()} == {torch.float32} and not model.training
    assert model.config.id2label == LABELS["id2label"]
    assert f"{len(inside) - len(norms)} tensors of the encoder taken over (" in line
    assert f"M parameters); new: {head} head (" in line and "\n" not in line


@pytest.mark.parametrize("backbone, head", FITTING)
def test_a_step_moves_the_encoder_and_the_head_and_waits_for_no_parameter(encoders, backbone, head):
    model = built(encoders, backbone, head).train()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    labels = torch.randint(0, 3, (2, 56, 84))
    labels[:, :9] = 255
    outputs = model(images(), labels=labels)
    assert outputs.logits.shape == (2, 3, 56, 84)
    outputs.loss.backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {name for name, parameter in model.named_parameters() if parameter.grad is not None} == trained
    frozen = {name.rpartition("backbone.")[2] for name in set(before) - trained}
    expected = {"dinov2": {"embeddings.mask_token"}, "swin": {"swin.layernorm.weight", "swin.layernorm.bias"}}
    assert frozen == expected.get(backbone, set())
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert {name.startswith("backbone.") for name in moved} == {True, False}
    assert len(moved) > 0.8 * len(trained)


@pytest.mark.parametrize("backbone, head", FITTING)
def test_saved_and_loaded_without_the_encoder(encoders, backbone, head, tmp_path):
    model = built(encoders, backbone, head)
    model.save_pretrained(tmp_path / "model")
    assert str(encoders) not in (tmp_path / "model" / "config.json").read_text()
    hidden = encoders.rename(encoders.with_name("hidden"))
    try:
        loaded = AutoModelForSemanticSegmentation.from_pretrained(tmp_path / "model").eval()
    finally:
        hidden.rename(encoders)
    assert type(loaded) is type(model) and len(loaded.config.backbone_config.id2label) == 2
    with torch.no_grad():
        expected = model(images()).logits
        assert (loaded(images()).logits - expected).abs().max() <= 1e-6 * max(1, expected.abs().max())


@pytest.mark.parametrize("backbone, head", [("resnet", "deeplabv3plus"), ("swin", "deeplabv3plus"), ("beit", "dpt")])
def test_the_head_that_fits_by_default(encoders, backbone, head):
    fields = SMALL[head]
    model, line = opened(encoders / backbone, model_config=fields, labels={})
    assert type(model) is type(built(encoders, backbone, head)) and f"new: {head} head" in line
    assert model.config.num_labels == (19 if head == "deeplabv3plus" else 2)


@pytest.mark.parametrize("backbone", ["resnet", "convnext"])
@pytest.mark.parametrize("output_stride", [8, 16])
def test_output_stride_changes_the_map_and_no_weight(encoders, backbone, output_stride):
    model = build(encoders, backbone, "deeplabv3plus", output_stride)[0]
    plain = built(encoders, backbone, "deeplabv3plus")
    assert all(torch.equal(a, b) for a, b in zip(model.backbone.parameters(), plain.backbone.parameters()))
    with torch.no_grad():
        maps = model.backbone(images(height=64, width=96)).feature_maps
    assert maps[-1].shape[-2:] == (64 // output_stride, 96 // output_stride)


def test_maps_at_a_quarter_half_three_quarters_and_the_whole(encoders):
    config = built(encoders, "dinov2", "dpt").config
    assert config.backbone_config.out_features == ["stage2", "stage4", "stage6", "stage8"]
    assert (config.neck_hidden_sizes, config.fusion_hidden_size) == ((4, 8, 16, 32), 8)
    small = BackboneDPTConfig(backbone_config=Dinov2Config(hidden_size=384))
    assert (small.neck_hidden_sizes, small.fusion_hidden_size) == ((48, 96, 192, 384), 64)
    assert small.backbone_config.out_features == ["stage3", "stage6", "stage9", "stage12"]
    base = BackboneDPTConfig()
    assert (base.neck_hidden_sizes, base.fusion_hidden_size) == ((96, 192, 384, 768), 128)
    assert built(encoders, "resnet", "upernet").config.backbone_config.out_features == [
        f"stage{i}" for i in range(1, 5)
    ]
    own = built(encoders, "resnet", "upernet", out_features=["stage2", "stage4"])
    assert own.config.backbone_config.out_features == ["stage2", "stage4"]
    own = built(encoders, "dinov2", "dpt", neck_hidden_sizes=[8, 8], reassemble_factors=[2, 1], out_features=["stage4", "stage8"])  # fmt: skip  # noqa: E501
    assert own(images()).logits.shape == (2, 3, 56, 84)


def test_dinov2_at_another_size_than_its_own(encoders):
    """Position embeddings are interpolated; sides that are no multiple of 14 are padded with the mean, not cut."""
    model = built(encoders, "dinov2", "dpt")
    positions = model.backbone.embeddings.position_embeddings
    assert positions.shape[1] == 1 + (70 // 14) ** 2
    with torch.no_grad():
        whole = torch.zeros(1, 3, 56, 112)
        whole[..., :50, :99] = images(1, 50, 99)
        assert torch.equal(model(whole[..., :50, :99]).logits, model(whole).logits[..., :50, :99])
        assert model(images(1, 70, 70)).logits.shape == (1, 3, 70, 70)
        before = model(whole).logits
        positions.data[:, -1] += 1  # the lower right corner
        assert not torch.equal(model(whole).logits, before)


def test_half_precision_and_bare_encoders_too(tmp_path):
    halved, bare = tmp_path / "halved", tmp_path / "bare"
    model = Dinov2Model(CLASSIFIERS["dinov2"][1])
    model.save_pretrained(bare)
    model.half().save_pretrained(halved)
    for folder in (bare, halved):
        loaded = opened(folder, "dpt")[0]
        assert {p.dtype for p in loaded.parameters()} == {torch.float32}
        assert torch.equal(
            loaded.backbone.layernorm.weight, load_file(folder / "model.safetensors")["layernorm.weight"].float()
        )
    swin = SwinModel(CLASSIFIERS["swin"][1])
    swin.save_pretrained(tmp_path / "swin")
    inside = opened(tmp_path / "swin", "upernet", None, SMALL["upernet"])[0].backbone.swin
    assert all(torch.equal(tensor, swin.state_dict()[key]) for key, tensor in inside.state_dict().items())


def test_no_table_of_missing_keys_in_the_log(encoders, caplog):
    logging.getLogger("transformers").propagate = True
    with caplog.at_level(logging.INFO):
        built(encoders, "swin", "upernet")
    assert "LOAD REPORT" not in caplog.text


def test_dpt_loads_where_the_package_is_not_installed(encoders, tmp_path):
    model = built(encoders, "dinov2", "dpt")
    model.save_pretrained(tmp_path / "model")
    torch.save(images(), tmp_path / "pixel_values.pt")
    code = """
import sys
sys.modules["scl_hf"] = None  # from here on, `import scl_hf` fails
import torch
from transformers import AutoModelForSemanticSegmentation
model = AutoModelForSemanticSegmentation.from_pretrained("model", trust_remote_code=True)
with torch.no_grad():
    torch.save(model(torch.load("pixel_values.pt")).logits, "logits.pt")
model.save_pretrained("again")
"""
    run = run_without_package(code, folder=tmp_path)
    assert run.returncode == 0, run.stderr
    torch.testing.assert_close(torch.load(tmp_path / "logits.pt"), model(images()).logits, rtol=0, atol=1e-6)
    assert (tmp_path / "again" / "modeling_backbone_dpt.py").exists()


def test_dpt_in_a_pipeline_on_an_image_of_any_size(encoders):
    model = built(encoders, "dinov2", "dpt")
    processor = SegformerImageProcessorPil(do_resize=False, do_convert_rgb=True)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (37, 50, 3), dtype=np.uint8))
    segments = pipeline("image-segmentation", model=model, image_processor=processor)(image)
    assert sum(np.asarray(part["mask"], dtype=bool).sum() for part in segments) == 37 * 50


def test_sides_must_be_multiples_of_a_vits_patches(encoders):
    assert size_divisor(built(encoders, "dinov2", "dpt")) == 14
    assert size_divisor(built(encoders, "dinov2", "upernet")) == 14
    assert size_divisor(built(encoders, "beit", "dpt")) == 16
    for backbone in ("resnet", "convnext", "swin"):
        assert size_divisor(built(encoders, backbone, "upernet")) == 1
        assert size_divisor(built(encoders, backbone, "deeplabv3plus")) == 1
    with torch.device("meta"):
        assert size_divisor(DPTForSemanticSegmentation(DPTConfig(num_hidden_layers=1, backbone_out_indices=[0]))) == 16
        assert (
            size_divisor(BeitForSemanticSegmentation(BeitConfig(num_hidden_layers=4, out_indices=[1, 2, 3, 4]))) == 16
        )
        assert size_divisor(SegformerForSemanticSegmentation(SegformerConfig())) == 1
        assert size_divisor(MobileViTForSemanticSegmentation(MobileViTConfig())) == 1


def test_deeplabv3plus_over_a_backbone_predicts_at_sides_that_are_multiples_of_its_stride(encoders):
    model = built(encoders, "resnet", "deeplabv3plus")
    assert aligned_stride(model) == 32
    assert DeepLabV3PlusConfig(backbone_config=EfficientNetLiteConfig(**LITE)).stride == 16
    assert aligned_stride(built(encoders, "resnet", "upernet")) == 1
    pixel_values = torch.randn(1, 3, 37, 70)
    filled_up = torch.nn.functional.pad(pixel_values, (0, 26, 0, 27))
    model.eval()
    with torch.no_grad():
        expected = model(pixel_values=filled_up).logits.softmax(1)[..., :37, :70]
    torch.testing.assert_close(predict_probs(model, pixel_values), expected)


@pytest.mark.parametrize(
    "backbone, head, output_stride, fields, message",
    [
        ("resnet", "dpt", None, {}, "head: dpt is for plain ViTs such as DINOv2, resnet is none; take deeplabv3plus"),
        ("swin", "dpt", None, {}, "head: dpt is for plain ViTs"),
        (
            "efficientnet_lite",
            "upernet",
            None,
            {},
            "head: upernet over efficientnet_lite would not open .* deeplabv3plus",
        ),
        ("efficientnet_lite", "deeplabv3plus", 16, {}, "output_stride: .*leave it out"),
        ("resnet", "fcn", None, {}, "head: must be one of deeplabv3plus, upernet, dpt, got 'fcn'"),
        ("dinov2", "deeplabv3plus", 8, {}, "output_stride: .*leave it out"),
        ("swin", "deeplabv3plus", 8, {}, "output_stride: .*leave it out"),
        ("resnet", "deeplabv3plus", 4, {}, "output_stride must be 8 or 16, or left out, got 4"),
        ("dinov2", "dpt", 16, {}, "output_stride: is for deeplabv3plus; leave it out with the dpt head"),
        ("resnet", "upernet", 16, {}, "output_stride: is for deeplabv3plus; leave it out with the upernet head"),
        (
            "resnet",
            "upernet",
            None,
            {"out_features": ["stage3", "stage9"]},
            "model_config: out_features must name two",
        ),
        (
            "resnet",
            "upernet",
            None,
            {"out_features": ["stage3"]},
            "two or more of stem, stage1, .*, got \\['stage3'\\]",
        ),
        ("resnet", "upernet", None, {"out_features": ["stage4", "stage1"]}, "in order"),
        ("resnet", "upernet", None, {"out_features": 3}, "model_config: out_features .* got 3"),
        (
            "resnet",
            "upernet",
            None,
            {"hidden_sizes": 3},
            "model_config: unknown field 'hidden_sizes'; see UperNetConfig",
        ),
        ("resnet", "upernet", None, {"hidden_size": "wide"}, "model_config: .*hidden_size"),
        ("resnet", "upernet", None, {"hidden_size": -3}, "model_config: "),
        ("resnet", "upernet", None, {"num_labels": 3}, "model_config: leave out 'num_labels'"),
        ("resnet", "deeplabv3plus", None, {"stem_channels": 8}, "model_config: leave out 'stem_channels'"),
        ("resnet", "deeplabv3plus", None, {"backbone_config": {}}, "model_config: leave out 'backbone_config'"),
        ("dinov2", "dpt", None, {"neck_hidden_sizes": [8, 8]}, "model_config: .*neck_hidden_sizes must hold a number"),
        ("dinov2", "dpt", None, {"num_hidden_layers": 8}, "model_config: unknown field 'num_hidden_layers'"),
    ],
)
def test_bad_values_end_in_one_line(encoders, backbone, head, output_stride, fields, message):
    with pytest.raises(InputError, match=f"^[^\n]*{message}[^\n]*$"):
        build(encoders, backbone, head, output_stride, **fields)


def refused(backbone, message):
    with pytest.raises(InputError, match=f"^backbone [^\n]*{message}[^\n]*$"):
        opened(backbone)


def test_what_is_no_encoder_is_refused_in_one_line(tmp_path):
    refused(tmp_path / "nowhere", "no such folder")
    refused("nobody/nothing", "no encoder that can be opened")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "no backbone class for model_type None; take one that AutoBackbone opens")
    ViTForImageClassification(ViTConfig(**VIT, intermediate_size=64)).save_pretrained(tmp_path / "vit")
    refused(tmp_path / "vit", "no backbone class for model_type 'vit'; take one that AutoBackbone opens")
    SegformerForSemanticSegmentation(
        SegformerConfig(depths=[1] * 4, hidden_sizes=[8] * 4, decoder_hidden_size=8, num_attention_heads=[1] * 4)
    ).save_pretrained(tmp_path / "mit")
    refused(tmp_path / "mit", "a segformer is a segmentation model already; give it as model_name_or_path")
    for name, values, message in (
        (
            "code",
            {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config"}},
            "no backbone class for model_type 'mine'",
        ),
        ("unknown", {"model_type": "mine"}, "no backbone class for model_type 'mine'"),
        ("nameless", {}, "no backbone class for model_type None; take one that AutoBackbone opens"),
        ("wrong", {"model_type": "dinov2", "hidden_size": "wide"}, "its config.json cannot be used .*hidden_size"),
        ("weightless", {"model_type": "dinov2"}, "its weights cannot be read"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(values))
        refused(tmp_path / name, message)


def test_no_run_starts_from_random_weights_of_the_encoder(encoders, tmp_path):
    shutil.copytree(encoders / "resnet", tmp_path / "resnet")
    weights = load_file(tmp_path / "resnet" / "model.safetensors")
    lacking = {key: tensor for key, tensor in weights.items() if "encoder.stages.2" not in key}
    save_file(lacking, tmp_path / "resnet" / "model.safetensors", {"format": "pt"})
    refused(tmp_path / "resnet", r"of the encoder's 114 tensors are missing or .* \(encoder.stages.2.*all weights")
    save_file({"x": torch.ones(1)}, tmp_path / "resnet" / "model.safetensors", {"format": "pt"})
    refused(tmp_path / "resnet", "114 of the encoder's 114 tensors are missing")
    weights["resnet.embedder.embedder.convolution.weight"] = torch.ones(9, 3, 7, 7)
    save_file(weights, tmp_path / "resnet" / "model.safetensors", {"format": "pt"})
    refused(tmp_path / "resnet", r"1 of the encoder's 114 tensors .* another size \(embedder.embedder.convolution")
    (tmp_path / "resnet" / "model.safetensors").write_bytes(b"no weights")
    refused(tmp_path / "resnet", "its weights cannot be read")


def test_dpt_over_an_encoder_by_its_config_alone():
    config = BackboneDPTConfig(backbone_config={"model_type": "dinov2"} | VIT, num_labels=4)
    model = BackboneDPTForSemanticSegmentation(config)
    assert model(images()).logits.shape == (2, 4, 56, 84) and config.size_divisor == 14
    assert model(images(), return_dict=False)[0].shape == (2, 4, 56, 84)
    assert type(model.backbone) is MODEL_FOR_BACKBONE_MAPPING[Dinov2Config]
    assert BackboneDPTConfig.from_dict(json.loads(config.to_json_string())).to_dict() == config.to_dict()
    for backbone_config in ({"model_type": "resnet"}, {"model_type": "mine"}, {"model_type": "swin"}):
        with pytest.raises(ValueError, match="backbone_config: "):
            BackboneDPTConfig(backbone_config=backbone_config)

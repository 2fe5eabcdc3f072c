"""DeepLabV3+ over the encoders of transformers, tiny ones"""

import copy
import json

import pytest
import torch
from forks import run_without_package
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import (
    AutoBackbone,
    AutoModelForSemanticSegmentation,
    ConvNextConfig,
    ConvNextV2Config,
    Dinov2Config,
    PvtV2Config,
    ResNetConfig,
    SwinConfig,
    ViTConfig,
)

from scl_hf.models import DeepLabV3PlusConfig, DeepLabV3PlusForSemanticSegmentation

SIZES = [8, 12, 16, 24]


def basic(**kwargs):
    return ResNetConfig(embedding_size=8, hidden_sizes=SIZES, depths=[1, 1, 2, 2], layer_type="basic", **kwargs)


VIT = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 56}
BACKBONES = {
    "bottleneck": ResNetConfig(embedding_size=8, hidden_sizes=[16, 16, 32, 32], depths=[1, 2, 2, 2]),
    "bottleneck_strided_first": ResNetConfig(
        embedding_size=8, hidden_sizes=[16, 16, 32, 32], depths=[1, 1, 2, 2], downsample_in_bottleneck=True
    ),
    "basic": basic(),
    "convnext": ConvNextConfig(hidden_sizes=SIZES, depths=[1, 1, 2, 1], layer_scale_init_value=1.0),
    "convnextv2": ConvNextV2Config(hidden_sizes=SIZES, depths=[1, 1, 2, 1]),
    "swin": SwinConfig(embed_dim=8, depths=[1, 1, 2, 1], num_heads=[1, 1, 2, 2], window_size=3, image_size=64),
    "pvt_v2": PvtV2Config(hidden_sizes=SIZES, depths=[1] * 4, num_attention_heads=[1, 1, 2, 2]),
    "dinov2": Dinov2Config(**VIT, patch_size=14),
}
CONVOLUTIONAL = ["bottleneck", "bottleneck_strided_first", "basic", "convnext", "convnextv2"]
# Not met by any pixel: classifiers' and masked images' parameters that come with the encoder.
UNUSED = {"backbone.swin.layernorm.weight", "backbone.swin.layernorm.bias", "backbone.embeddings.mask_token"}


def tiny_config(backbone, **kwargs):
    kwargs = {"aspp_channels": 16, "skip_channels": 8, "decoder_channels": 16, "num_labels": 5} | kwargs
    backbone = BACKBONES[backbone] if isinstance(backbone, str) else backbone
    return DeepLabV3PlusConfig(backbone_config=backbone, **kwargs)


def tiny_model(backbone, **kwargs):
    torch.manual_seed(0)
    return DeepLabV3PlusForSemanticSegmentation(tiny_config(backbone, **kwargs))


def batch(height=70, width=98):
    generator = torch.Generator().manual_seed(1)
    pixel_values = torch.randn(2, 3, height, width, generator=generator)
    labels = torch.randint(0, 5, (2, height, width), generator=generator)
    labels[:, :4] = 255
    return pixel_values, labels


# Forward and backward


@pytest.mark.parametrize("backbone", BACKBONES)
def test_forward_and_backward(backbone):
    model = tiny_model(backbone).train()
    pixel_values, labels = batch()
    output = model(pixel_values, labels=labels)
    assert output.logits.shape == (2, 5, 70, 98) and output.logits.isfinite().all()
    output.loss.backward()
    without_gradient = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert without_gradient <= UNUSED
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)
    assert model.backbone.get_parameter(next(iter(model.backbone.state_dict()))).grad is not None


@pytest.mark.parametrize(
    ("backbone", "out_features", "strides"),
    [
        ("bottleneck", ["stage1", "stage4"], (4, 32)),
        ("convnext", ["stage1", "stage4"], (4, 32)),
        ("swin", ["stage1", "stage4"], (4, 32)),
        ("dinov2", ["stage1", "stage3"], (14, 14)),
        ("pvt_v2", ["stage1", "stage4"], (4, 32)),
        (basic(out_features=["stage4"]), ["stage1", "stage4"], (4, 32)),
        (
            basic(out_features=["stem", "stage2", "stage3"]),
            ["stem", "stage3"],
            (4, 16),
        ),
    ],
)
def test_head_takes_the_first_map_and_the_last(backbone, out_features, strides):
    model = tiny_model(backbone).eval()
    assert model.config.backbone_config.out_features == model.backbone.out_features == out_features
    seen = {}
    model.aspp.register_forward_pre_hook(lambda _, args: seen.update(last=args[0]))
    model.decoder.register_forward_pre_hook(lambda _, args: seen.update(first=args[0]))
    pixel_values, _ = batch(224, 448)
    model(pixel_values)
    feature_maps = model.backbone(pixel_values).feature_maps
    assert torch.equal(seen["first"], feature_maps[0]) and torch.equal(seen["last"], feature_maps[-1])
    for feature_map, stride in zip((seen["first"], seen["last"]), strides):
        assert feature_map.shape[-2:] == (224 // stride, 448 // stride)


def test_given_configuration_stays_as_it_was():
    given = ResNetConfig(embedding_size=8, hidden_sizes=SIZES, depths=[1] * 4, num_channels=4)
    config = tiny_config(given)
    assert given.out_features == ["stage4"]
    assert config.num_channels == 4
    assert DeepLabV3PlusForSemanticSegmentation(config)(torch.zeros(2, 4, 32, 64)).logits.shape == (2, 5, 32, 64)


def test_random_weights_are_the_backbones_own():
    model = tiny_model("convnext")
    linear = model.backbone.encoder.stages[3].layers[0].pwconv1
    assert linear.weight.std().item() == pytest.approx(0.02, rel=0.1) and linear.bias.eq(0).all()
    assert model.aspp.branches[1].convolution.weight.std().item() == pytest.approx((2 / (24 * 9)) ** 0.5, rel=0.1)


def test_weights_of_a_pretrained_encoder_fit(tmp_path):
    torch.manual_seed(3)
    encoder = AutoBackbone.from_config(copy.deepcopy(BACKBONES["bottleneck"])).eval()
    encoder.save_pretrained(tmp_path)
    model = tiny_model("bottleneck", output_stride=16).eval()
    out_features = model.config.backbone_config.out_features
    loaded = type(encoder).from_pretrained(tmp_path, out_features=out_features)
    model.backbone.load_state_dict(loaded.state_dict())
    pixel_values, _ = batch(64, 96)
    new, old = (network(pixel_values).feature_maps[-1] for network in (model.backbone, encoder))
    torch.testing.assert_close(new[:, :, ::2, ::2], old, atol=1e-5, rtol=1e-5)


# Output stride


@pytest.mark.parametrize("backbone", CONVOLUTIONAL)
@pytest.mark.parametrize("output_stride", [8, 16])
def test_old_map_is_every_second_or_fourth_pixel_of_the_new_one(backbone, output_stride):
    plain = tiny_model(backbone).eval()
    dilated = tiny_model(backbone, output_stride=output_stride).eval()
    assert list(dilated.state_dict()) == list(plain.state_dict())
    dilated.load_state_dict(plain.state_dict())
    pixel_values, _ = batch(64, 128)
    old_maps, new_maps = (model.backbone(pixel_values).feature_maps for model in (plain, dilated))
    assert torch.equal(new_maps[0], old_maps[0])
    assert new_maps[-1].shape[-2:] == (64 // output_stride, 128 // output_stride)
    step = 32 // output_stride
    torch.testing.assert_close(new_maps[-1][:, :, ::step, ::step], old_maps[-1], atol=1e-5, rtol=1e-5)
    assert dilated(pixel_values).logits.shape == (2, 5, 64, 128)


@pytest.mark.parametrize("backbone", ["bottleneck", "bottleneck_strided_first"])
def test_resnet_against_a_copy_dilated_by_hand(backbone):
    dilated = tiny_model(backbone, output_stride=8).eval()
    by_hand = tiny_model(backbone).backbone.eval()
    by_hand.load_state_dict(dilated.backbone.state_dict())
    strided_first = backbone == "bottleneck_strided_first"
    for stage, before, after in ((2, 1, 2), (3, 2, 4)):
        for number, block in enumerate(by_hand.encoder.stages[stage].layers):
            dilation = before if number == 0 and not strided_first else after
            first, middle, _ = (layer.convolution for layer in block.layer)
            first.stride = middle.stride = (1, 1)
            middle.dilation = middle.padding = (dilation, dilation)
        by_hand.encoder.stages[stage].layers[0].shortcut.convolution.stride = (1, 1)
    pixel_values, _ = batch(70, 98)
    torch.testing.assert_close(
        dilated.backbone(pixel_values).feature_maps[-1], by_hand(pixel_values).feature_maps[-1], atol=0, rtol=0
    )


def test_convnext_against_kernels_with_holes():
    """A kernel of zeros between the old weights, padded on the right and at the bottom, at stride 1"""
    dilated = tiny_model("convnext", output_stride=8).backbone.eval()
    downsampling = dilated.encoder.stages[3].downsampling_layer[1]
    features = torch.randn(2, 16, 7, 9)
    with_holes = torch.zeros(24, 16, 3, 3)
    with_holes[:, :, ::2, ::2] = downsampling.weight.detach()
    expected = nn.functional.conv2d(nn.functional.pad(features, (0, 2, 0, 2)), with_holes, downsampling.bias)
    torch.testing.assert_close(downsampling(features), expected)
    assert [layer.dwconv.dilation for stage in dilated.encoder.stages for layer in stage.layers] == [
        (1, 1),
        (1, 1),
        (2, 2),
        (2, 2),
        (4, 4),
    ]


def test_output_stride_of_an_earlier_last_map():
    backbone = basic(out_features=["stage1", "stage3"])
    model = tiny_model(backbone, output_stride=8).eval()
    assert model.backbone(batch(64, 96)[0]).feature_maps[-1].shape[-2:] == (8, 12)


@pytest.mark.parametrize("backbone", ["swin", "pvt_v2", "dinov2"])
@pytest.mark.parametrize("output_stride", [8, 16])
def test_encoders_that_have_no_other_output_stride(backbone, output_stride):
    with pytest.raises(ValueError, match=rf"output_stride: .* at stride {output_stride}, .*; leave it out") as error:
        tiny_model(backbone, output_stride=output_stride)
    assert "\n" not in str(error.value)


# Saving and loading


@pytest.mark.parametrize("backbone", BACKBONES)
def test_save_and_load(backbone, tmp_path):
    output_stride = 16 if backbone in CONVOLUTIONAL else None
    model = tiny_model(backbone, output_stride=output_stride, id2label=dict(enumerate("abcde")))
    pixel_values, _ = batch()
    model.train()(pixel_values)
    model.eval().save_pretrained(tmp_path)
    for loader in (DeepLabV3PlusForSemanticSegmentation, AutoModelForSemanticSegmentation):
        loaded, report = loader.from_pretrained(tmp_path, output_loading_info=True)
        assert type(loaded) is type(model) and not any(report.values())
        torch.testing.assert_close(loaded(pixel_values).logits, model(pixel_values).logits, atol=1e-6, rtol=0)
        assert loaded.config.id2label == dict(enumerate("abcde"))
    assert loaded.backbone.config._attn_implementation == model.backbone.config._attn_implementation
    half = DeepLabV3PlusForSemanticSegmentation.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("backbone", BACKBONES)
def test_configuration_round_trip(backbone, tmp_path):
    config = tiny_config(backbone, output_stride=16 if backbone in CONVOLUTIONAL else None)
    config.save_pretrained(tmp_path)
    loaded = DeepLabV3PlusConfig.from_pretrained(tmp_path)
    assert type(loaded.backbone_config) is type(BACKBONES[backbone])
    assert loaded.to_dict() | {"_name_or_path": ""} == config.to_dict() | {"_name_or_path": ""}
    assert DeepLabV3PlusConfig(**json.loads(config.to_json_string())).to_dict() == config.to_dict()


def test_one_precision_whatever_the_encoder_was_saved_in():
    backbone = basic(dtype="bfloat16")
    assert {parameter.dtype for parameter in tiny_model(backbone).parameters()} == {torch.float32}


def test_remote_code_loads_where_the_package_is_not_installed(tmp_path):
    model = tiny_model("convnext", output_stride=8).eval()
    model.save_pretrained(tmp_path / "model")
    pixel_values, _ = batch()
    torch.save(pixel_values, tmp_path / "pixel_values.pt")
    script = """
import sys
sys.modules["scl_hf"] = None  # from here on, `import scl_hf` fails
import torch
from transformers import AutoModelForSemanticSegmentation
model = AutoModelForSemanticSegmentation.from_pretrained("model", trust_remote_code=True)
assert type(model).__module__.startswith("transformers_modules."), type(model)
with torch.no_grad():
    torch.save(model(torch.load("pixel_values.pt")).logits, "logits.pt")
"""
    run = run_without_package(script, folder=tmp_path)
    assert run.returncode == 0, run.stderr
    expected = model(pixel_values).logits.detach()
    # Of the size of the logits: a file's tensors lie elsewhere in memory, and sums are taken in another order.
    torch.testing.assert_close(
        torch.load(tmp_path / "logits.pt"), expected, atol=1e-6 * max(1, expected.abs().max().item()), rtol=0
    )


def test_copies_and_exports_of_a_dilated_backbone():
    model = tiny_model("convnext", output_stride=8).eval()
    pixel_values, _ = batch()
    expected = model(pixel_values).logits
    torch.testing.assert_close(copy.deepcopy(model)(pixel_values).logits, expected)
    torch.testing.assert_close(torch.export.export(model, (pixel_values,)).module()(pixel_values).logits, expected)


# Gradient checkpointing


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("backbone", ["swin", "dinov2"])
def test_gradient_checkpointing_changes_nothing(backbone):
    plain = tiny_model(backbone).train()
    checkpointed = copy.deepcopy(plain)
    checkpointed.gradient_checkpointing_enable({"use_reentrant": False})
    runs = []
    layer = next(
        m for m in checkpointed.backbone.modules() if type(m).__name__ in ("SwinAttention", "Dinov2Attention")
    )
    layer.register_forward_pre_hook(lambda *_: runs.append(1))
    pixel_values, labels = batch()
    for model in (plain, checkpointed):
        torch.manual_seed(2)
        model(pixel_values, labels=labels).loss.backward()
    assert len(runs) >= 2
    for (name, expected), parameter in zip(plain.named_parameters(), checkpointed.parameters()):
        assert (expected.grad is None) == (parameter.grad is None), name
        if expected.grad is not None:
            torch.testing.assert_close(parameter.grad, expected.grad)
    for (name, expected), buffer in zip(plain.named_buffers(), checkpointed.buffers()):
        assert torch.equal(buffer, expected), name
    checkpointed.gradient_checkpointing_disable()
    assert not checkpointed.is_activation_checkpointing


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("backbone", ["basic", "convnext"])
def test_encoders_without_gradient_checkpointing(backbone):
    model = tiny_model(backbone)
    assert not model.supports_gradient_checkpointing
    with pytest.raises(ValueError, match="does not support activation checkpointing"):
        model.gradient_checkpointing_enable()
    model.gradient_checkpointing_disable()


# Sizes and bad input


@pytest.mark.parametrize(
    ("backbone", "output_stride", "stride"),
    [
        ("bottleneck", None, 32),
        ("bottleneck", 16, 16),
        ("convnext", 8, 8),
        ("swin", None, 32),
        ("dinov2", None, 14),
        (None, None, 8),
    ],
)
def test_sizes_that_an_image_must_have(backbone, output_stride, stride):
    config = tiny_config(backbone, output_stride=output_stride)
    assert config.stride == stride
    if backbone is None:
        return
    model = DeepLabV3PlusForSemanticSegmentation(config).eval()
    for size in ((stride - 1, 64), (64, stride - 1)):
        with pytest.raises(ValueError, match=f"height and width must be at least {stride}$"):
            model(torch.zeros(2, 3, *size))
    assert model(torch.zeros(1, 3, stride, 56)).logits.shape == (1, 5, stride, 56)


def test_images_and_labels_are_checked_as_over_the_trunk():
    model = tiny_model("basic").train()
    with pytest.raises(ValueError, match="two images or more a step, or convert the model to SyncBatchNorm"):
        model(torch.zeros(1, 3, 64, 64))
    with pytest.raises(ValueError, match=r"pixel_values must be of shape \(batch_size, 3, height, width\), got"):
        model(torch.zeros(2, 4, 64, 64))
    with pytest.raises(ValueError, match="labels hold class 5, but the model has the classes 0 to 4"):
        model(torch.zeros(2, 3, 64, 64), labels=torch.full((2, 64, 64), 5))


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        (ViTConfig(**VIT), "backbone_config: vit gives no feature maps; take an encoder that AutoBackbone opens"),
        (
            {"model_type": "resnext"},
            "backbone_config: model_type must be one of transformers, .* got resnext",
        ),
        ({"depths": [1, 1, 1, 1]}, "backbone_config: model_type must be one of transformers, .* got None"),
        (
            {"model_type": "resnet", "out_features": ["stage1", "stage9"]},
            "out_features must be a subset of stage_names",
        ),
    ],
)
def test_wrong_backbones(backbone, message):
    with pytest.raises(ValueError, match=message) as error:
        tiny_config(backbone)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("backbone", "output_stride"), [("basic", 4), ("basic", "16"), (None, 8)])
def test_wrong_output_strides(backbone, output_stride):
    with pytest.raises(StrictDataclassError, match="output_stride"):
        tiny_config(backbone, output_stride=output_stride)

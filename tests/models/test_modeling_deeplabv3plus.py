import copy
import hashlib
import json
import os

import numpy as np
import pytest
import torch
from forks import run_without_package
from huggingface_hub.errors import StrictDataclassError
from PIL import Image
from torch import nn
from torch.nn import functional as F
from transformers import AutoModelForSemanticSegmentation, SegformerImageProcessorPil, pipeline

from scl_hf.models import DeepLabV3PlusConfig, DeepLabV3PlusForSemanticSegmentation


def tiny_config(**kwargs):
    sizes = {
        "stem_channels": 8,
        "depths": (1, 1, 2, 1, 1, 1),
        "channels": ((8, 8), (8, 8), (16, 16), (16, 16), (8, 16, 32), (16, 32, 32)),
        "aspp_channels": 16,
        "skip_channels": 8,
        "decoder_channels": 16,
        "num_labels": 5,
    }
    return DeepLabV3PlusConfig(**(sizes | kwargs))


def tiny_model(**kwargs):
    torch.manual_seed(0)
    return DeepLabV3PlusForSemanticSegmentation(tiny_config(**kwargs))


def batch(height=33, width=49, size=2):
    generator = torch.Generator().manual_seed(1)
    pixel_values = torch.randn(size, 3, height, width, generator=generator)
    labels = torch.randint(0, 5, (size, height, width), generator=generator)
    labels[:, :4] = 255
    return pixel_values, labels


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A directory with a saved tiny model, and the model: its BatchNorm statistics are not the initial ones."""
    directory = tmp_path_factory.mktemp("model")
    model = tiny_model(id2label=dict(enumerate(["road", "car", "sky", "pole", "tree"])))
    model.train()(batch()[0])
    model.eval().save_pretrained(directory)
    return directory, model


# The full-size network, on the meta device


@pytest.fixture(scope="module")
def full_size():
    with torch.device("meta"):
        return DeepLabV3PlusForSemanticSegmentation(DeepLabV3PlusConfig())


def convolutions(module):
    return [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)]


def test_full_size_parameters(full_size):
    def count(module):
        return sum(parameter.numel() for parameter in module.parameters())

    assert count(full_size) == 137_103_936
    assert count(full_size.trunk) == 105_062_720
    assert count(full_size.aspp) == 30_738_944
    assert count(full_size.decoder) == 1_302_272
    assert all(layer.bias is None for layer in convolutions(full_size))
    assert full_size.config.num_labels == 19


def test_full_size_trunk(full_size):
    trunk = full_size.trunk
    modules = [trunk.mod2, trunk.mod3, trunk.mod4, trunk.mod5, trunk.mod6, trunk.mod7]
    assert (trunk.mod1.kernel_size, trunk.mod1.out_channels, trunk.mod1.stride) == ((3, 3), 64, (1, 1))
    assert [len(module) for module in modules] == [3, 3, 6, 3, 1, 1]

    widths, kernels, dilations, dropouts = [], [], [], []
    for module in modules:
        for block in module:
            layers = convolutions(block.residual)
            assert type(block.residual[-2]) is nn.Dropout2d and block.residual[-1] is layers[-1]
            assert all(layer.dilation == (1, 1) for layer in layers if layer.kernel_size == (1, 1))
            assert block.residual.dropout.p == module[0].residual.dropout.p
            assert {layer.dilation for layer in layers if layer.kernel_size == (3, 3)} == {
                layer.dilation for layer in convolutions(module[0].residual) if layer.kernel_size == (3, 3)
            }
        widths.append(tuple(layer.out_channels for layer in layers))
        kernels.append([layer.kernel_size[0] for layer in layers])
        dilations.append(max(layer.dilation[0] for layer in layers))
        dropouts.append(block.residual.dropout.p)
        assert [block.projection is None for block in module[1:]] == [True] * (len(module) - 1)
    assert widths == [(128, 128), (256, 256), (512, 512), (512, 1024), (512, 1024, 2048), (1024, 2048, 4096)]
    assert kernels == [[3, 3]] * 4 + [[1, 3, 1]] * 2
    assert dilations == [1, 1, 1, 2, 4, 4]
    assert dropouts == [0, 0, 0, 0, 0.3, 0.5]
    # Every module widens the features, so each first block projects its shortcut; only mod4's is strided.
    assert [module[0].projection.stride[0] for module in modules] == [1, 1, 2, 1, 1, 1]
    assert sum(layer.stride != (1, 1) for layer in convolutions(trunk)) == 2


def test_full_size_resolutions(full_size):
    model = copy.deepcopy(full_size).eval()
    shapes = {}
    for name in ("mod1", "mod2", "mod3", "mod4", "mod7"):
        layer = getattr(model.trunk, name)
        layer.register_forward_hook(lambda _, __, output, name=name: shapes.update({name: tuple(output.shape[1:])}))
    output = model(torch.empty(1, 3, 64, 128, device="meta"))
    assert output.logits.shape == (1, 19, 64, 128)
    assert shapes == {
        "mod1": (64, 64, 128),
        "mod2": (128, 32, 64),
        "mod3": (256, 16, 32),
        "mod4": (512, 8, 16),
        "mod7": (4096, 8, 16),
    }


def test_full_size_aspp_and_decoder(full_size):
    aspp, decoder = full_size.aspp, full_size.decoder
    branches = [branch.convolution for branch in (aspp.image_pooling, *aspp.branches)]
    assert [layer.kernel_size[0] for layer in branches] == [1, 1, 3, 3, 3]
    assert [layer.dilation[0] for layer in branches] == [1, 1, 12, 24, 36]
    assert {(layer.in_channels, layer.out_channels) for layer in branches} == {(4096, 256)}
    assert (aspp.projection.in_channels, aspp.projection.out_channels) == (1280, 256)
    assert [(layer.in_channels, layer.out_channels, layer.kernel_size[0]) for layer in convolutions(decoder)] == [
        (128, 48, 1),
        (304, 256, 3),
        (256, 256, 3),
        (256, 19, 1),
    ]


def test_aspp_concatenates_image_pooling_first():
    aspp = tiny_model().aspp.eval()
    seen = []
    aspp.projection.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    features = torch.randn(2, 32, 5, 7)
    aspp(features)
    pooled, *rest = seen[0].split(16, dim=1)
    torch.testing.assert_close(pooled, aspp.image_pooling(F.adaptive_avg_pool2d(features, 1)).expand(-1, -1, 5, 7))
    for branch, output in zip(aspp.branches, rest):
        torch.testing.assert_close(output, branch(features))


def test_decoder_takes_skip_first_and_aligns_corners():
    decoder = tiny_model().decoder.eval()
    seen = []
    decoder.layers.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    skip, hidden_states = torch.randn(2, 8, 9, 13), torch.randn(2, 16, 3, 4)
    decoder(skip, hidden_states)
    torch.testing.assert_close(seen[0][:, :8], decoder.skip_projection(skip))
    torch.testing.assert_close(seen[0][:, 8:, ::8, ::12], hidden_states[:, :, ::2, ::3])


def test_shortcut_projects_the_preactivated_input():
    block = tiny_model().trunk.mod3[0].eval()
    block.projection = nn.Conv2d(8, 8, 1, bias=False)
    nn.init.zeros_(block.residual.conv2.weight)
    hidden_states = torch.randn(2, 8, 6, 6)
    expected = block.projection(F.relu(hidden_states / (1 + block.norm1.eps) ** 0.5))
    torch.testing.assert_close(block(hidden_states.clone()), expected)


def test_initial_weights():
    model = tiny_model(aspp_channels=64)
    weight = model.aspp.branches[1].convolution.weight
    assert weight.std().item() == pytest.approx((2 / (32 * 9)) ** 0.5, rel=0.03)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.weight.eq(1).all() and layer.bias.eq(0).all()


# Forward, backward, loss


@pytest.mark.parametrize("size", [(8, 8), (9, 17), (33, 49), (64, 32)])
def test_logits_have_the_resolution_of_the_input(size):
    logits = tiny_model()(batch(*size)[0]).logits
    assert logits.shape == (2, 5, *size)
    assert logits.isfinite().all()


def test_loss_and_gradients():
    model = tiny_model()
    pixel_values, labels = batch()
    output = model(pixel_values, labels=labels)
    torch.testing.assert_close(output.loss, F.cross_entropy(output.logits, labels, ignore_index=255))
    output.loss.backward()
    assert all(p.grad.isfinite().all() and p.grad.abs().sum() > 0 for p in model.parameters())


@pytest.mark.parametrize("ignore_index", [9, 200])
def test_labels_of_any_integer_type_and_ignore_index(ignore_index):
    model = tiny_model(semantic_loss_ignore_index=ignore_index).eval()
    pixel_values, labels = batch()
    labels[labels == 255] = ignore_index
    output = model(pixel_values, labels=labels.to(torch.uint8))
    torch.testing.assert_close(output.loss, F.cross_entropy(output.logits, labels, ignore_index=ignore_index))


def test_return_tuple():
    model = tiny_model().eval()
    pixel_values, labels = batch()
    expected = model(pixel_values, labels=labels)
    assert len(model(pixel_values, return_dict=False)) == 1
    loss, logits = model(pixel_values, labels=labels, return_dict=False)
    assert torch.equal(loss, expected.loss) and torch.equal(logits, expected.logits)


def test_dropout_drops_whole_channels():
    block = tiny_model(dropout_probs=(0, 0, 0, 0, 0, 0.5)).trunk.mod7[0]
    seen = []
    block.residual.dropout.register_forward_hook(lambda _, args, output: seen.append((args[0], output)))
    block(torch.randn(2, 32, 6, 6))
    before, after = (features.abs().sum(dim=(2, 3)) for features in seen[0])
    assert torch.equal(before[after > 0] * 2, after[after > 0])
    assert 0 < (after == 0).sum() < after.numel()


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_gradient_checkpointing_changes_nothing(use_reentrant):
    plain = tiny_model().train()
    checkpointed = copy.deepcopy(plain)
    checkpointed.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    runs = []
    checkpointed.trunk.mod4[1].register_forward_pre_hook(lambda *_: runs.append(1))
    pixel_values, labels = batch()
    for model in (plain, checkpointed):
        torch.manual_seed(2)
        model(pixel_values, labels=labels).loss.backward()
    assert len(runs) == 2
    for expected, parameter in zip(plain.parameters(), checkpointed.parameters()):
        torch.testing.assert_close(parameter.grad, expected.grad)
    for (name, expected), buffer in zip(plain.named_buffers(), checkpointed.buffers()):
        assert torch.equal(buffer, expected), name


# Bad input


@pytest.mark.parametrize("shape", [(3, 32, 32), (2, 1, 32, 32), (2, 32, 32, 3)])
def test_wrong_pixel_values(shape):
    with pytest.raises(ValueError, match=r"pixel_values must be of shape \(batch_size, 3, height, width\), got"):
        tiny_model()(torch.zeros(shape))


@pytest.mark.parametrize("size", [(7, 64), (64, 1)])
def test_too_small_an_image(size):
    with pytest.raises(ValueError, match="height and width must be at least 8"):
        tiny_model()(torch.zeros(2, 3, *size))


def test_one_training_image():
    model = tiny_model().train()
    with pytest.raises(ValueError, match="two images or more a step, or convert the model to SyncBatchNorm"):
        model(torch.zeros(1, 3, 32, 32))
    assert model.eval()(torch.zeros(1, 3, 32, 32)).logits.shape == (1, 5, 32, 32)


@pytest.mark.parametrize("labels", [torch.zeros(2, 16, 32), torch.zeros(2, 32, 32)[:1].long(), torch.zeros(2, 32, 32)])
def test_wrong_labels(labels):
    with pytest.raises(ValueError, match=r"labels must be integers of the shape \(2, 32, 32\)"):
        tiny_model()(torch.zeros(2, 3, 32, 32), labels=labels)


@pytest.mark.parametrize("label", [5, -1, 254])
def test_class_out_of_range(label):
    pixel_values, labels = batch()
    labels[1, 20, 20] = label
    with pytest.raises(ValueError, match=f"labels hold class {label}, but the model has the classes 0 to 4"):
        tiny_model()(pixel_values, labels=labels)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("depths", (1, 1)),
        ("depths", (1, 1, 0, 1, 1, 1)),
        ("depths", 3),
        ("channels", ((8,),) * 6),
        ("channels", ((8, 0),) * 6),
        ("dropout_probs", (0, 0, 0, 0, 0, 1.0)),
        ("dilations", (1, 1, 1, 2, 4)),
        ("aspp_channels", 0),
        ("stem_channels", "8"),
    ],
)
def test_wrong_configuration(field, value):
    with pytest.raises(StrictDataclassError, match=field):
        tiny_config(**{field: value})


# Saving, loading, exporting


def test_checkpoints_from_before_there_were_backbones():
    """Fields, keys and logits of a model that was saved then"""
    fields = {
        "aspp_channels": 16,
        "aspp_dilations": [12, 24, 36],
        "channels": [[8, 8], [8, 8], [16, 16], [16, 16], [8, 16, 32], [16, 32, 32]],
        "decoder_channels": 16,
        "depths": [1, 1, 2, 1, 1, 1],
        "dilations": [1, 1, 1, 2, 4, 4],
        "dropout_probs": [0.0, 0.0, 0.0, 0.0, 0.3, 0.5],
        "id2label": {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2", "3": "LABEL_3", "4": "LABEL_4"},
        "label2id": {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2, "LABEL_3": 3, "LABEL_4": 4},
        "model_type": "deeplabv3plus",
        "num_channels": 3,
        "semantic_loss_ignore_index": 255,
        "skip_channels": 8,
        "stem_channels": 8,
    }
    config = DeepLabV3PlusConfig.from_dict(fields)
    new_fields = {"backbone_config": None, "output_stride": None}
    saved_fields = json.loads(config.to_json_string())
    saved_fields.pop("transformers_version")
    assert saved_fields == fields | new_fields
    model = DeepLabV3PlusForSemanticSegmentation(config).eval()
    shapes = json.dumps([(key, list(tensor.shape)) for key, tensor in model.state_dict().items()])
    assert hashlib.sha256(shapes.encode()).hexdigest().startswith("f8e0f116e77f00c2")

    for number, parameter in enumerate(model.parameters()):
        waves = torch.sin(torch.arange(parameter.numel(), dtype=torch.float64) * 0.7 + number).view(parameter.shape)
        is_norm = parameter.dim() == 1
        with torch.no_grad():
            parameter.copy_(waves * 0.1 + 1 if is_norm else waves * parameter[0].numel() ** -0.5)
    pixel_values = torch.cos(torch.arange(2 * 3 * 33 * 49, dtype=torch.float64) * 0.37).view(2, 3, 33, 49).float()
    logits = model(pixel_values).logits
    for pixel, expected in (
        (logits[0, :, 0, 0], [-0.0172070, 0.3230248, 0.1483583, -0.2627898, -0.2550536]),
        (logits[1, :, 20, 30], [0.4278086, -0.0812253, -0.4607868, -0.1058587, 0.4178072]),
    ):
        torch.testing.assert_close(pixel, torch.tensor(expected), atol=1e-5, rtol=0)


@pytest.mark.parametrize("num_labels", [2, 5, 19])
def test_configuration_round_trip(tmp_path, num_labels):
    config = tiny_config(num_labels=num_labels)
    config.save_pretrained(tmp_path)
    loaded = DeepLabV3PlusConfig.from_pretrained(tmp_path)
    assert loaded.num_labels == num_labels
    assert loaded.to_dict() == config.to_dict()
    assert loaded.channels == config.channels and isinstance(loaded.channels[0], tuple)


def test_save_and_load(saved):
    directory, model = saved
    loaded = DeepLabV3PlusForSemanticSegmentation.from_pretrained(directory)
    pixel_values, _ = batch()
    torch.testing.assert_close(loaded(pixel_values).logits, model(pixel_values).logits)
    assert loaded.config.id2label == model.config.id2label
    half = DeepLabV3PlusForSemanticSegmentation.from_pretrained(directory, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    other = DeepLabV3PlusForSemanticSegmentation.from_pretrained(directory, num_labels=7, ignore_mismatched_sizes=True)
    assert other(pixel_values).logits.shape[1] == 7
    assert torch.equal(other.trunk.mod1.weight, model.trunk.mod1.weight)


def test_auto_class_needs_no_trust_where_the_package_is_imported(saved):
    directory, model = saved
    code = {
        f"{kind}_{name}.py"
        for kind in ("configuration", "modeling")
        for name in ("deeplabv3plus", "efficientnet_lite")
    }
    assert {"config.json", "model.safetensors"} | code == set(os.listdir(directory))
    for trust in ({}, {"trust_remote_code": True}):
        loaded = AutoModelForSemanticSegmentation.from_pretrained(directory, **trust)
        assert type(loaded) is type(model)


def test_remote_code_loads_where_the_package_is_not_installed(saved, tmp_path):
    directory, model = saved
    pixel_values, _ = batch()
    torch.save(pixel_values, tmp_path / "pixel_values.pt")
    script = """
import sys
sys.modules["scl_hf"] = None  # from here on, `import scl_hf` fails
import torch
from transformers import AutoModelForSemanticSegmentation
directory = sys.argv[1]
try:
    AutoModelForSemanticSegmentation.from_pretrained(directory, trust_remote_code=False)
except ValueError as error:
    assert "trust_remote_code=True" in str(error)
else:
    raise AssertionError("loaded without the package and without remote code")
model = AutoModelForSemanticSegmentation.from_pretrained(directory, trust_remote_code=True)
assert type(model).__module__.startswith("transformers_modules."), type(model)
with torch.no_grad():
    torch.save(model(torch.load("pixel_values.pt")).logits, "logits.pt")
model.save_pretrained("again")
"""
    run = run_without_package(script, directory, folder=tmp_path)
    assert run.returncode == 0, run.stderr
    torch.testing.assert_close(torch.load(tmp_path / "logits.pt"), model(pixel_values).logits)
    assert (tmp_path / "again" / "modeling_deeplabv3plus.py").exists()
    auto_map = json.loads((tmp_path / "again" / "config.json").read_text())["auto_map"]
    assert "AutoConfig" in auto_map and "AutoModelForSemanticSegmentation" in auto_map


def test_pipeline(saved):
    model = saved[1]
    processor = SegformerImageProcessorPil(do_resize=False, do_convert_rgb=True)
    segment = pipeline("image-segmentation", model=model, image_processor=processor)
    pixels = np.random.default_rng(0).integers(0, 256, (37, 50, 3), dtype=np.uint8)
    segments = segment(Image.fromarray(pixels))
    assert segments and {part["label"] for part in segments} <= set(model.config.id2label.values())
    assert sum(np.asarray(part["mask"], dtype=bool).sum() for part in segments) == 37 * 50


def test_export(saved):
    model = saved[1]
    pixel_values, _ = batch()
    exported = torch.export.export(
        model, (pixel_values,), dynamic_shapes={"pixel_values": {0: torch.export.Dim.AUTO}}
    ).module()
    torch.testing.assert_close(exported(pixel_values).logits, model(pixel_values).logits)
    one_more = torch.cat([pixel_values, pixel_values[:1]])
    torch.testing.assert_close(exported(one_more).logits, model(one_more).logits)

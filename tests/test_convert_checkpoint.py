"""scripts/convert_checkpoint.py against a forward pass on the baseline's own names; and files that it must refuse."""

import json
import os
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from conftest import SMALL_RUN, load_script
from safetensors.torch import load_file
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation

from scl_hf.cli import run_script
from scl_hf.data.normalization import Normalization
from scl_hf.data.sources.cityscapes import ID2LABEL, is_cityscapes
from scl_hf.errors import InputError
from scl_hf.image_processors import normalization_of
from scl_hf.pretrained import load_checkpoint

SCRIPTS = Path(__file__).parents[1] / "scripts"
DEPTHS = (1, 2, 2, 1, 1, 1)
CHANNELS = ((8, 8), (8, 12), (16, 16), (16, 16), (8, 16, 32), (16, 24, 32))


def trunk_weights():
    """A narrow WideResNet by the baseline's names, with BatchNorm that has seen data; basic blocks and bottlenecks."""
    weights = {"mod1.conv1.weight": convolution(6, 3, 3)}
    inputs = 6
    for module, (depth, widths) in enumerate(zip(DEPTHS, CHANNELS), start=2):
        for block in range(1, depth + 1):
            name = f"mod{module}.block{block}"
            if inputs != widths[-1] or (module, block) == (4, 1):
                weights[f"{name}.proj_conv.weight"] = convolution(widths[-1], inputs, 1)
            weights |= normalization(f"{name}.bn1.0", inputs)
            for n, (kernel, width) in enumerate(zip((3, 3) if len(widths) == 2 else (1, 3, 1), widths), start=1):
                if n > 1:
                    weights |= normalization(f"{name}.convs.bn{n}.0", inputs)
                weights[f"{name}.convs.conv{n}.weight"] = convolution(width, inputs, kernel)
                inputs = width
    return weights


def head_weights(num_classes):
    """The ASPP and the decoder by the baseline's names."""
    weights = {"bot_fine.weight": convolution(5, 8, 1), "bot_aspp.weight": convolution(10, 50, 1)}
    branches = {"aspp.img_conv": 1, "aspp.features.0": 1} | {f"aspp.features.{n}": 3 for n in (1, 2, 3)}
    for name, kernel in branches.items():
        weights |= {f"{name}.0.weight": convolution(10, 32, kernel)} | normalization(f"{name}.1", 10)
    for n, inputs in ((0, 15), (3, 14)):
        weights |= {f"final.{n}.weight": convolution(14, inputs, 3)} | normalization(f"final.{n + 1}", 14)
    return weights | {"final.6.weight": convolution(num_classes, 14, 1)}


def convolution(outputs, inputs, kernel):
    return torch.randn(outputs, inputs, kernel, kernel) * (2 / (inputs * kernel**2)) ** 0.5


def normalization(name, width):
    return {
        f"{name}.weight": torch.rand(width) + 0.5,
        f"{name}.bias": torch.randn(width) * 0.1,
        f"{name}.running_mean": torch.randn(width) * 0.1,
        f"{name}.running_var": torch.rand(width) + 0.5,
        f"{name}.num_batches_tracked": torch.tensor(7),
    }


def baseline_logits(weights, pixel_values):
    """The network of DESIGN, section 3, in evaluation mode."""

    def conv(name, x, stride=1, dilation=1):
        kernel = weights[f"{name}.weight"]
        return F.conv2d(x, kernel, None, stride, dilation * (kernel.shape[-1] // 2), dilation)

    def bn_relu(name, x):
        mean, var, weight, bias = (weights[f"{name}.{n}"] for n in ("running_mean", "running_var", "weight", "bias"))
        return F.relu(F.batch_norm(x, mean, var, weight, bias))

    def resize(x, size):
        return F.interpolate(x, size, mode="bilinear", align_corners=True)

    x = conv("mod1.conv1", pixel_values)
    for module, depth in enumerate(DEPTHS, start=2):
        if module in (2, 3):
            x = F.max_pool2d(x, 3, stride=2, padding=1)
        dilation = {5: 2, 6: 4, 7: 4}.get(module, 1)
        for block in range(1, depth + 1):
            name, stride = f"mod{module}.block{block}", 2 if (module, block) == (4, 1) else 1
            active = bn_relu(f"{name}.bn1.0", x)
            shortcut = conv(f"{name}.proj_conv", active, stride) if f"{name}.proj_conv.weight" in weights else x
            x, n = active, 1
            while f"{name}.convs.conv{n}.weight" in weights:
                x = x if n == 1 else bn_relu(f"{name}.convs.bn{n}.0", x)
                is_wide = weights[f"{name}.convs.conv{n}.weight"].shape[-1] == 3
                x, n = conv(f"{name}.convs.conv{n}", x, stride if n == 1 else 1, dilation if is_wide else 1), n + 1
            x = x + shortcut
        if module == 2:
            skip = x
    pooled = bn_relu("aspp.img_conv.1", conv("aspp.img_conv.0", F.adaptive_avg_pool2d(x, 1)))
    maps = [resize(pooled, x.shape[-2:])]
    for n, dilation in enumerate((1, 12, 24, 36)):
        maps.append(bn_relu(f"aspp.features.{n}.1", conv(f"aspp.features.{n}.0", x, dilation=dilation)))
    x = resize(conv("bot_aspp", torch.cat(maps, 1)), skip.shape[-2:])
    x = torch.cat([conv("bot_fine", skip), x], 1)
    x = bn_relu("final.4", conv("final.3", bn_relu("final.1", conv("final.0", x))))
    return resize(conv("final.6", x), pixel_values.shape[-2:])


@pytest.fixture
def weights():
    torch.manual_seed(0)
    return trunk_weights() | head_weights(19)


@pytest.fixture
def trunk():
    torch.manual_seed(0)
    classifier = {"classifier.fc.weight": torch.randn(10, 32), "classifier.fc.bias": torch.randn(10)}
    return trunk_weights() | normalization("bn_out.0", 32) | classifier


@pytest.fixture
def convert(tmp_path, monkeypatch, capsys):
    """Runs the script on a file, or on what is saved as one: (exit code, standard output, standard error)."""
    script = load_script(SCRIPTS / "convert_checkpoint.py")

    def convert(source, *fields):
        if not isinstance(source, Path):
            torch.save(source, tmp_path / "source.pth")
            source = tmp_path / "source.pth"
        output = () if "--output" in fields else ("--output", str(tmp_path / "out"))
        monkeypatch.setattr(sys, "argv", ["convert_checkpoint.py", str(source), *output, *fields])
        with pytest.raises(SystemExit) as ended:
            run_script(script.main)
        return ended.value.code, *capsys.readouterr()

    return convert


def modules(weights):
    return {f"module.{name}": tensor for name, tensor in weights.items()}


def without_counters(weights):
    return {name: tensor for name, tensor in weights.items() if not name.endswith("num_batches_tracked")}


CONTAINERS = {
    "bare": lambda weights: weights,
    "of several GPUs": modules,
    "state_dict": lambda weights: {
        "state_dict": modules(weights),
        "optimizer": {"state": {}, "param_groups": []},
        "epoch": 3,
        "mean_iu": np.float64(0.5),
    },
    "model": lambda weights: {"model": weights, "epoch": 3},
    "parameters": lambda weights: {k: torch.nn.Parameter(v, v.is_floating_point()) for k, v in weights.items()},
    "no counters": without_counters,
}


@pytest.mark.parametrize("container", CONTAINERS)
def test_the_logits_are_those_of_the_baseline(convert, weights, tmp_path, container):
    code, printed, error = convert(CONTAINERS[container](weights))
    assert (code, error) == (0, "")
    assert f"{len(weights)} of {len(weights)} tensors taken" in printed
    assert f"renamed: {len(weights)} (mod1.conv1.weight → trunk.mod1.weight, mod2.block1.bn1.0.weight → " in printed
    for line in ("missing: none\n", "unexpected: none\n", "out: a model with 19 classes, those of Cityscapes\n"):
        assert line in printed
    # In double precision: single rounds to 1e-5 in either.
    model = AutoModelForSemanticSegmentation.from_pretrained(tmp_path / "out", dtype=torch.float64)
    pixel_values = torch.randn(2, 3, 40, 57, dtype=torch.float64)
    with torch.no_grad():
        logits = model(pixel_values=pixel_values).logits
        expected = baseline_logits({name: tensor.double() for name, tensor in weights.items()}, pixel_values)
    assert expected.std() > 0.1
    torch.testing.assert_close(logits, expected, rtol=1e-8, atol=1e-8)
    assert model.config.id2label == ID2LABEL
    assert (model.config.depths, model.config.channels) == (DEPTHS, CHANNELS)


def test_files_from_before_torch_1_6_and_numpy_2(convert, weights, tmp_path):
    source = tmp_path / "old.pth"
    torch.save(CONTAINERS["state_dict"](weights), source, _use_new_zipfile_serialization=False)
    content = source.read_bytes()
    assert content.count(b"cnumpy._core.multiarray\n") == 1
    source.write_bytes(content.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"))
    assert convert(source)[0] == 0
    assert len(load_file(tmp_path / "out/model.safetensors")) == len(weights)


def test_the_folder_is_a_checkpoint_like_any_other(convert, weights, tmp_path):
    convert(weights)
    assert is_cityscapes(load_checkpoint(str(tmp_path / "out")).id2label)
    assert normalization_of(AutoImageProcessor.from_pretrained(tmp_path / "out")) == Normalization()
    assert (tmp_path / "out/modeling_deeplabv3plus.py").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "source.pth"]


def test_half_precision_stays_half(convert, weights, tmp_path):
    convert({name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in weights.items()})
    assert AutoModelForSemanticSegmentation.from_pretrained(tmp_path / "out").dtype == torch.float16


# Classes


def test_classes_that_nobody_names(convert, weights, tmp_path):
    weights["final.6.weight"] = torch.randn(65, 14, 1, 1)
    code, printed, _ = convert(weights)
    assert code == 0 and "65 classes, without names (LABEL_0, …)" in printed and "--id2label FILE.json" in printed
    assert AutoModelForSemanticSegmentation.from_pretrained(tmp_path / "out").config.id2label[64] == "LABEL_64"


def test_classes_that_a_file_names(convert, weights, tmp_path):
    names = {i: f"thing {i}" for i in range(19)}
    (tmp_path / "names.json").write_text(json.dumps(names))
    code, printed, _ = convert(weights, "--id2label", str(tmp_path / "names.json"))
    assert code == 0 and "19 classes, thing 0, thing 1, thing 2, …, named by" in printed
    assert load_checkpoint(str(tmp_path / "out")).id2label == names


def test_names_that_do_not_fit(convert, weights, trunk, tmp_path):
    names = tmp_path / "names.json"
    names.write_text('{"0": "sky", "1": "road"}')
    code, _, error = convert(weights, "--id2label", str(names))
    assert code == 2 and error == f"error: id2label {names}: names 2 classes, the checkpoint has 19.\n"
    code, _, error = convert(trunk, "--id2label", str(names))
    assert code == 2 and "has no classes to name" in error
    assert not (tmp_path / "out").exists()


# A part


def test_a_partial_match_is_refused_unless_it_is_wanted(convert, weights, tmp_path):
    del weights["final.6.weight"], weights["mod4.block2.bn1.0.bias"]
    weights |= {"dsn.0.weight": torch.zeros(2), "bot_aspp.weight": torch.zeros(10, 50, 3, 3)}
    code, printed, error = convert(weights)
    assert code == 2 and "fits in part only, 3 tensors are missing and 2 unexpected" in error
    assert "--partial true" in error and error.count("\n") == 1
    assert "missing: 3 (mod4.block2.bn1.0.bias, bot_aspp.weight, final.6.weight)" in printed
    assert "unexpected: 2 (bot_aspp.weight, dsn.0.weight)" in printed
    assert not (tmp_path / "out").exists()

    code, printed, _ = convert(weights, "--partial", "true")
    assert code == 0 and "a start for training" in printed
    stored = load_file(tmp_path / "out/model.safetensors")
    assert len(stored) == len(weights) - 2
    torch.testing.assert_close(stored["decoder.skip_projection.weight"], weights["bot_fine.weight"])
    with pytest.raises(InputError, match="not a trained segmentation model, 3 of its tensors are missing"):
        load_checkpoint(str(tmp_path / "out"))


def test_training_starts_from_the_imagenet_trunk(convert, trunk, toy_dataset, tmp_path, monkeypatch, caplog):
    code, printed, _ = convert({"state_dict": modules(trunk), "epoch": 90})
    assert code == 0 and "missing: none" in printed and "unexpected: none" in printed
    assert "ImageNet's classifier, not used: 7 (bn_out.0.weight, " in printed
    assert "a start for training, as model_name_or_path of a recipe" in printed
    fields = {name: value for name, value in SMALL_RUN.items() if name != "model_config"}
    fields |= {"model_name_or_path": str(tmp_path / "out"), "dataset": "cityscapes", "data_dir": str(toy_dataset)}
    fields |= {"output_dir": str(tmp_path / "run"), "max_steps": 1, "learning_rate": 1e-4, "report_to": "none"}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(fields | {"eval_strategy": "no", "save_strategy": "no"}))
    monkeypatch.setattr(sys, "argv", ["train.py", str(tmp_path / "recipe.yaml")])
    load_script(SCRIPTS / "train.py").main()
    total = len(load_file(tmp_path / "run/model.safetensors"))
    taken = f"{len(trunk) - 7} of {total} tensors taken over; new: aspp.branches.0.convolution.weight, "
    assert f"{tmp_path / 'out'}: {taken}" in caplog.text
    trained = load_file(tmp_path / "run/model.safetensors")["trunk.mod1.weight"]
    torch.testing.assert_close(trained, trunk["mod1.conv1.weight"], atol=1e-2, rtol=0)


# What is no checkpoint of the baseline


class Code:
    """Pickled, it is a command that makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def write(path, content, cut=None):
    path.write_bytes(content[:cut])


WRONG = {
    "a web page": (
        lambda path, _: path.write_text("<!DOCTYPE html>\n<html>Sign in"),
        "is cut off, or no file of torch.save .a web page..",
    ),
    "a web page with a mark": (
        lambda path, _: path.write_text("\ufeff\n<html>"),
        "is cut off, or no file of torch.save .a web page..",
    ),
    "nothing": (lambda path, _: path.write_bytes(b""), "is cut off"),
    "zeros": (lambda path, _: path.write_bytes(bytes(2000)), "is cut off"),
    "a text": (lambda path, _: path.write_text("version https://git-lfs.github.com/spec/v1\n"), "is cut off"),
    "code": (
        lambda path, _: torch.save({"state_dict": Code(path.with_name("ran"))}, path),
        r"holds Python code \(posix.mkdir\), which is not run",
    ),
    "code alone": (
        lambda path, _: write(path, pickle.dumps(Code(path.with_name("ran")), protocol=2)),
        r"holds Python code \(posix.mkdir\)",
    ),
    "a module": (lambda path, _: torch.save(torch.nn.Conv2d(1, 1, 1), path), r"holds Python code \(torch.nn.modules"),
    "TorchScript": (lambda path, _: torch.jit.script(torch.nn.ReLU()).save(path), "is cut off"),
    "a list": (lambda path, _: torch.save([torch.zeros(2)], path), "holds no tensors by name"),
    "no tensors": (lambda path, _: torch.save({"epoch": 3, "state_dict": {}}, path), "holds no tensors by name"),
    "another network": (
        lambda path, _: torch.save(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3)).state_dict(), path),
        "is of another network, with tensors such as 0.weight, 0.bias",
    ),
    "another network with such names": (
        lambda path, weights: torch.save({k: v for k, v in weights.items() if not k.startswith("mod5")}, path),
        "is of another network",
    ),
    "scalars": (
        lambda path, weights: torch.save({k: v.sum() for k, v in weights.items()}, path),
        "of another network",
    ),
    "NaN": (
        lambda path, weights: torch.save(weights | {"bot_fine.weight": torch.full((5, 8, 1, 1), torch.nan)}, path),
        r"1 of its tensors hold NaN or infinity \(bot_fine.weight\)",
    ),
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_file_that_is_no_checkpoint_of_the_baseline(convert, weights, tmp_path, case):
    make, expected = WRONG[case]
    source = tmp_path / "wrong.pth"
    make(source, weights)
    code, _, error = convert(source)
    assert code == 2 and error.count("\n") == 1
    with pytest.raises(InputError, match=expected):
        raise InputError(error)
    assert error.startswith(f"error: {source}: ")
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_a_file_that_is_cut_off(convert, weights, tmp_path, is_zip, share):
    source = tmp_path / "cut.pth"
    torch.save({"state_dict": weights}, source, _use_new_zipfile_serialization=is_zip)
    content = source.read_bytes()
    source.write_bytes(content[: int(share * len(content))])
    code, _, error = convert(source)
    assert (
        code == 2
        and error == f"error: {source}: is cut off, or no file of torch.save (a web page?). Download it again.\n"
    )


def test_paths_and_fields_that_are_wrong(convert, weights, tmp_path):
    code, _, error = convert(tmp_path / "none.pth")
    assert code == 2 and f"{tmp_path}/none.pth: no such file" in error
    assert convert(tmp_path)[0] == 2
    (tmp_path / "there").mkdir()
    code, _, error = convert(weights, "--output", str(tmp_path / "there"))
    assert code == 2 and error == f"error: output {tmp_path}/there: is there already. Name a new folder.\n"
    code, _, error = convert(weights, "--output", str(tmp_path / "source.pth/model"))
    assert code == 2 and "source.pth is a file" in error
    code, _, error = convert(weights, "--parts", "true")
    assert code == 2 and "unknown field 'parts'. Did you mean 'partial'?" in error
    assert convert(weights, "--output", str(tmp_path / "new/model"))[0] == 0


def test_a_folder_that_cannot_be_written_leaves_nothing(convert, weights, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.modeling_utils.safe_save_file", fail_for_space)
    code, _, error = convert(weights)
    assert code == 2 and f"{tmp_path}/out could not be written: the disk is full" in error
    assert [path.name for path in tmp_path.iterdir()] == ["source.pth"]


def fail_for_space(*_, **__):
    raise OSError(28, "No space left on device")

"""
Converts a DeepLabV3+ checkpoint of the public baseline (Zhu et al. 2019) for `from_pretrained`, with the same logits:

    python scripts/convert_checkpoint.py cityscapes.pth --output models/cityscapes
    python scripts/convert_checkpoint.py mapillary.pth --output models/mapillary --id2label names.json
    python scripts/convert_checkpoint.py wider_resnet38.pth --output models/imagenet    # the trunk: a start

Sizes and the number of classes are read from the weights; dilations and dropout are the defaults of
`DeepLabV3PlusConfig`. No code in the file is run. The license of the weights stays that of their publisher.
"""

import os
import re
import tempfile
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers.utils import logging

from scl_hf import DeepLabV3PlusConfig, DeepLabV3PlusForSemanticSegmentation
from scl_hf.cli import parse_leading, run_script
from scl_hf.data.classes import read_id2label
from scl_hf.data.sources.cityscapes import ID2LABEL
from scl_hf.errors import InputError, first_few
from scl_hf.files import check_writable, writing
from scl_hf.image_processors import load_processor

USAGE = "SOURCE.pth --output DIR [--field value …]"
Tensors = Mapping[str, torch.Tensor]
NEEDED = "A checkpoint of DeepLabV3+ on WideResNet-38, or of its ImageNet trunk, is needed."

LAYERS = {  # ours -> the baseline's, without residual blocks and the branches of the ASPP
    "trunk.mod1": "mod1.conv1",
    "aspp.image_pooling.convolution": "aspp.img_conv.0",
    "aspp.image_pooling.normalization": "aspp.img_conv.1",
    "aspp.projection": "bot_aspp",
    "decoder.skip_projection": "bot_fine",
    "decoder.layers.0.convolution": "final.0",
    "decoder.layers.0.normalization": "final.1",
    "decoder.layers.1.convolution": "final.3",
    "decoder.layers.1.normalization": "final.4",
    "decoder.classifier": "final.6",
}

# The baseline stores its mean IoU as a NumPy number, under the names before and after NumPy 2.
_scalar = np.float64().__reduce__()[0]
NUMBERS = [np.dtype, np.dtypes.Float64DType, _scalar, (_scalar, "numpy.core.multiarray.scalar")]


@dataclass
class ConversionArguments:
    """
    Where the model goes, and the names of its classes.

    Args:
        output (`str`): Folder of the model, which does not exist yet.
        id2label (`str`, *optional*): JSON file with the names of the classes, `{"0": "road", "1": "sidewalk", …}`. By
            default 19 classes are those of Cityscapes, and others have no names.
        partial (`bool`, *optional*, defaults to `False`): Whether to take a checkpoint that fits in part. What is
            missing is new where training starts from it.
    """

    output: str
    id2label: str | None = None
    partial: bool = False


def main() -> None:
    given, args = parse_leading(ConversionArguments, USAGE, "one checkpoint comes first")
    source, output = Path(given[0]), Path(args.output)
    check_writable("output", args.output)
    if os.path.lexists(output):
        raise InputError(f"output {output}: is there already. Name a new folder.")

    weights = read_weights(source)
    config = read_config(source, weights, args.id2label)
    with torch.device("meta"):
        model = DeepLabV3PlusForSemanticSegmentation(config)
    has_head = any(name.startswith(("aspp.", "bot_aspp.", "bot_fine.", "final.")) for name in weights)
    wanted = {name: t for name, t in model.state_dict().items() if has_head or name.startswith("trunk.")}
    taken, missing, unexpected = match(weights, wanted)
    unused = [] if has_head else [name for name in unexpected if name.startswith(("bn_out.", "classifier."))]
    unexpected = [name for name in unexpected if name not in unused]
    check_finite(source, taken)
    parameters = sum(taken[name].numel() for name, _ in model.named_parameters() if name in taken)
    print(f"{source}: {len(taken)} of {len(wanted)} tensors taken, {parameters / 1e6:.1f} M parameters")
    lists = {"renamed": [f"{baseline_name(n)} → {n}" for n in taken], "missing": missing, "unexpected": unexpected}
    lists |= {"ImageNet's classifier, not used": unused} if unused else {}
    for title, names in lists.items():
        print(f"{title}: {len(names)} ({first_few(names)})" if names else f"{title}: none")
    if (missing or unexpected) and not args.partial:
        problem = f"fits in part only, {len(missing)} tensors are missing and {len(unexpected)} unexpected"
        raise InputError(f"{source}: {problem}. {NEEDED} --partial true takes what fits.")
    logging.disable_progress_bar()
    save(output, model, taken)
    print(f"{output}: {described(config, args.id2label, is_complete=has_head and not missing)}")


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Reads the tensors of a checkpoint by the names of its network; those of a zip stay on the disk."""
    if not path.is_file():
        raise InputError(f"{path}: no such file. Name a checkpoint of the baseline, such as cityscapes.pth.")
    try:
        with torch.serialization.safe_globals(NUMBERS), warnings.catch_warnings(action="ignore"):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # files of others may hold anything
        if code := re.search(r"GLOBAL ([\w.]+)", str(error)):
            remedy = "If you trust it, save its state_dict alone, torch.save(model.state_dict(), …), and convert that."
            raise InputError(f"{path}: holds Python code ({code[1]}), which is not run. {remedy}") from error
        raise InputError(f"{path}: is cut off, or no file of torch.save (a web page?). Download it again.") from error
    if isinstance(checkpoint, Mapping):
        held = (checkpoint.get(key) for key in ("state_dict", "model"))
        checkpoint = next((value for value in held if isinstance(value, Mapping)), checkpoint)
        tensors = {name: value for name, value in checkpoint.items() if isinstance(value, torch.Tensor)}
        if tensors:
            return {str(name).removeprefix("module."): value.detach() for name, value in tensors.items()}
    raise InputError(f"{path}: holds no tensors by name, in state_dict, in model or bare. {NEEDED}")


def read_config(source: Path, weights: Tensors, names: str | None) -> DeepLabV3PlusConfig:
    """Makes the config of the network that the weights belong to, with the class names of a file or of Cityscapes."""
    kernels = {name: tensor.shape for name, tensor in weights.items() if tensor.dim() == 4 and tensor.numel()}
    depths, channels = [], []
    for module in (f"mod{n}" for n in range(2, 8)):
        blocks = {block[1] for name in weights if (block := re.match(rf"{module}\.block(\d+)\.", name))}
        convolutions = [f"{module}.block1.convs.conv{n}.weight" for n in (1, 2, 3)]
        depths.append(len(blocks))
        channels.append([kernels[name][0] for name in convolutions if name in kernels])
    if "mod1.conv1.weight" not in kernels or any(len(widths) < 2 for widths in channels):
        raise InputError(f"{source}: is of another network, with tensors such as {first_few(weights, 2)}. {NEEDED}")
    layers = {"aspp_channels": "aspp.img_conv.0", "skip_channels": "bot_fine", "decoder_channels": "final.0"}
    fields = {field: kernels[f"{name}.weight"][0] for field, name in layers.items() if f"{name}.weight" in kernels}
    num_labels = kernels["final.6.weight"][0] if "final.6.weight" in kernels else None
    id2label = ID2LABEL if num_labels == len(ID2LABEL) else None
    if names is not None:
        id2label = read_id2label(Path(names))
        if num_labels is None:
            raise InputError("id2label: this checkpoint has no classes to name (final.6.weight). Leave it out.")
        if len(id2label) != num_labels:
            raise InputError(f"id2label {names}: names {len(id2label)} classes, the checkpoint has {num_labels}.")
    if id2label is not None:
        fields |= {"id2label": dict(id2label), "label2id": {name: i for i, name in id2label.items()}}
    elif num_labels is not None:
        fields["num_labels"] = num_labels
    fields["stem_channels"], fields["num_channels"] = kernels["mod1.conv1.weight"][:2]
    return DeepLabV3PlusConfig(depths=depths, channels=channels, **fields)


def baseline_name(name: str) -> str:
    """Returns the baseline's name of a tensor: `trunk.mod2.0.norm1.weight` -> `mod2.block1.bn1.0.weight`."""
    layer, _, tensor = name.rpartition(".")
    if layer in LAYERS:
        return f"{LAYERS[layer]}.{tensor}"
    if branch := re.fullmatch(r"aspp\.branches\.(\d+)\.(convolution|normalization)", layer):
        return f"aspp.features.{branch[1]}.{int(branch[2] == 'normalization')}.{tensor}"
    module, block, inner = re.fullmatch(r"trunk\.(mod\d)\.(\d+)\.(.+)", layer).groups()
    inner = inner.replace("residual", "convs").replace("projection", "proj_conv")
    inner = re.sub(r"norm(\d)", r"bn\1.0", inner)  # a BatchNorm and its ReLU are a pair there
    return f"{module}.block{int(block) + 1}.{inner}.{tensor}"


def match(weights: Tensors, wanted: Tensors) -> tuple[dict[str, torch.Tensor], list[str], list[str]]:
    """Returns the tensors taken, by our names, and the names missing and unexpected, by the baseline's."""
    taken, missing = {}, []
    for name, like in wanted.items():
        old = baseline_name(name)
        if old in weights and weights[old].shape == like.shape:
            taken[name] = weights[old]
        elif name.endswith(".num_batches_tracked") and old not in weights:
            taken[name] = torch.zeros((), dtype=torch.long)  # files from before torch 0.4.1 do not count
        else:
            missing.append(old)
    used = {baseline_name(name) for name in taken}
    return taken, missing, [name for name in weights if name not in used]


def check_finite(source: Path, tensors: Tensors) -> None:
    """Rejects NaN and infinity, by minimum and maximum, which need no memory."""
    ends = {name: torch.stack(tensor.aminmax()) for name, tensor in tensors.items()}
    if wrong := [baseline_name(name) for name, values in ends.items() if not values.isfinite().all()]:
        raise InputError(f"{source}: {len(wrong)} of its tensors hold NaN or infinity ({wrong[0]}). Take another one.")


def save(output: Path, model: DeepLabV3PlusForSemanticSegmentation, tensors: dict[str, torch.Tensor]) -> None:
    """Writes the folder of a model with these tensors and ImageNet's image processor, as in the baseline."""
    model.to(next(iter(tensors.values())).dtype)
    with writing(str(output), output.parent):
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.", suffix=".partial") as folder:
            model.save_pretrained(f"{folder}/model", state_dict=tensors)
            load_processor(None).save_pretrained(f"{folder}/model")
            os.rename(f"{folder}/model", output)


def described(config: DeepLabV3PlusConfig, id2label: str | None, is_complete: bool) -> str:
    """Says what the folder is, and what to do with it."""
    if not is_complete:
        return "a start for training, as model_name_or_path of a recipe; what is missing will be new"
    if id2label is not None:
        names = f"{first_few(config.id2label.values())}, named by {id2label}"
    elif config.num_labels == len(ID2LABEL):
        names = "those of Cityscapes"
    else:
        names = "without names (LABEL_0, …), for which eval.py and predict.py ask: name them by --id2label FILE.json"
    return f"a model with {config.num_labels} classes, {names}"


if __name__ == "__main__":
    run_script(main)

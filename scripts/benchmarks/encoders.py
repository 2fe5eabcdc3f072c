"""
Parameters, work and memory of a training step on each encoder of the recipes, at their crops.

One labeled and one mixed image through the student and back, two unlabeled ones through the teacher. Work and memory
are counted on tensors without data: any machine will do. With a GPU the step is timed, too.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import Dinov2Config, PreTrainedModel, ResNetBackbone, ResNetConfig, ResNetForImageClassification

from scl_hf.models import (
    BackboneDPTConfig,
    BackboneDPTForSemanticSegmentation,
    DeepLabV3PlusConfig,
    DeepLabV3PlusForSemanticSegmentation,
)
from scl_hf.pretrained import ModelArguments, load_model

from .common import print_table, time_in_turn

OPTIMIZER_STATES = {"sgd": 1, "adamw": 2}  # tensors of the size of the weights


def resnet_101() -> PreTrainedModel:
    encoder = ResNetConfig(depths=[3, 4, 23, 3])
    config = DeepLabV3PlusConfig(backbone_config=encoder, output_stride=16, aspp_dilations=[6, 12, 18], num_labels=19)
    return DeepLabV3PlusForSemanticSegmentation(config)


def dinov2(hidden_size: int, num_heads: int) -> PreTrainedModel:
    encoder = Dinov2Config(hidden_size=hidden_size, num_attention_heads=num_heads, image_size=518)
    return BackboneDPTForSemanticSegmentation(BackboneDPTConfig(backbone_config=encoder, num_labels=19))


CASES: dict[str, tuple[Callable[[], PreTrainedModel], int, str]] = {
    "WideResNet-38, stride 8": (lambda: DeepLabV3PlusForSemanticSegmentation(DeepLabV3PlusConfig()), 896, "sgd"),
    "ResNet-101, stride 16": (resnet_101, 801, "sgd"),
    "DINOv2-small, DPT": (lambda: dinov2(384, 6), 798, "adamw"),
    "DINOv2-base, DPT": (lambda: dinov2(768, 12), 798, "adamw"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--crop_size", type=int, help="side of the crops (default: that of each recipe)")


def run(args: argparse.Namespace) -> None:
    on_gpu = torch.cuda.is_available()
    rows = []
    for name, (build, crop_size, optimizer) in CASES.items():
        side = args.crop_size or crop_size
        with torch.device("meta"):
            model = build().train()
        parameters = sum(parameter.numel() for parameter in model.parameters())
        tflop, saved = count_step(model, side)
        # Weights, their gradients, the optimizer's and the teacher's
        weights = 4 * parameters * (3 + OPTIMIZER_STATES[optimizer])
        row = [name, f"{side}×{side}", parameters / 1e6, tflop, saved / 2**30, (weights + saved) / 2**30]
        rows.append([*row, 1e3 * time_step(build().train().cuda(), side, args.rounds)] if on_gpu else row)
    header = ["encoder", "crop", "M parameters", "TFLOP", "kept for backward, GiB", "with weights and optimizer, GiB"]
    if on_gpu:
        header.append(f"ms in bf16 on {torch.cuda.get_device_name()}")
    print_table("A step on 1 + 1 images, float32, counted", header, rows)
    measure_building(ResNetConfig(depths=[3, 4, 23, 3]), args.rounds)


def step(model: PreTrainedModel, pixel_values: torch.Tensor) -> None:
    """Runs the student's and the teacher's passes, without the losses, which take a few percent."""
    model(pixel_values=pixel_values).logits.float().softmax(dim=1).square().sum().backward()
    with torch.no_grad():
        model(pixel_values=pixel_values)


def count_step(model: PreTrainedModel, side: int) -> tuple[float, int]:
    """Returns the TFLOP of a step, and the bytes kept for the backward pass, weights aside."""
    kept: dict[int, torch.UntypedStorage] = {}
    own = {parameter.untyped_storage()._cdata for parameter in model.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage
        return tensor

    pixel_values = torch.empty(2, 3, side, side, device="meta")
    with (
        FlopCounterMode(display=False) as flops,
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
    ):
        step(model, pixel_values)
    return flops.get_total_flops() / 1e12, sum(storage.nbytes() for storage in kept.values())


def time_step(model: PreTrainedModel, side: int, rounds: int) -> float:
    """Returns the median seconds of a step in bf16."""
    pixel_values = torch.randn(2, 3, side, side, device="cuda").contiguous(memory_format=torch.channels_last)
    seconds = []
    for _ in range(3 + rounds):
        torch.cuda.synchronize()
        start = time.perf_counter()
        with torch.autocast("cuda", torch.bfloat16):
            step(model, pixel_values)
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return sorted(seconds[3:])[rounds // 2]


def measure_building(config: ResNetConfig, rounds: int) -> None:
    """Prints how long a model over an encoder in a folder takes to be built and saved, beside the encoder alone."""
    with tempfile.TemporaryDirectory() as folder:
        encoder = Path(folder, "encoder")
        ResNetForImageClassification(config).save_pretrained(encoder)
        fields = {"aspp_dilations": [6, 12, 18]}
        args = ModelArguments(backbone=str(encoder), head="deeplabv3plus", output_stride=16, model_config=fields)
        model = load_model(args, None)
        cases = {
            "encoder alone": lambda: ResNetBackbone.from_pretrained(encoder),
            "DeepLabV3+ over it": lambda: load_model(args, None),
            "saving that": lambda: model.save_pretrained(Path(folder, "model")),
        }
        medians = {name: m.milliseconds / 1e3 for name, m in time_in_turn(cases, rounds).items()}
    rows = [[name, median, median / medians["encoder alone"]] for name, median in medians.items()]
    print_table(f"Opening, building and saving a ResNet of depths {config.depths}, s", ["", "s", "times alone"], rows)

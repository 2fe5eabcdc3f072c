"""What a training step of a model takes, in arithmetic and in memory, counted on tensors that hold no values."""

import math
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel, Trainer

from .config import SemiSupervisedConfig
from .inference import upsample_logits

# Float32 maps (C, H, W) of an image that softmax, targets and losses hold at once beside the logits, measured on steps
# of the trainer: 4.5 of a labeled and a mixed image, 2.2 of a labeled one alone. Adjusted logits are one more.
LOSS_MAPS = 2.5


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the tensors that are made within it: those that live `now`, and their `peak`."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self._known = weakref.WeakSet()

    def __torch_dispatch__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        given = {id(leaf.untyped_storage()) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)}
        output = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(output):
            if not isinstance(leaf, torch.Tensor):
                continue
            storage = leaf.untyped_storage()
            if id(storage) not in given and storage not in self._known:  # a view, or in place
                self._known.add(storage)
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._free, storage.nbytes())
        return output

    def _free(self, size: int) -> None:
        self.now -= size


def convolution_backward_flops(
    grad_output: torch.Size, pixels: torch.Size, weight: torch.Size, *args: Any, out_shape: Any = None, **kwargs: Any
) -> int:
    """
    Of both gradients of a convolution, given shapes: each takes the products of the forward pass. PyTorch's own count
    forgets the groups: it is a hundred times too much for a depthwise convolution of a hundred channels.
    """
    *_, transposed, _, _, output_mask = args
    of_side = pixels if transposed else grad_output
    return 2 * grad_output[0] * math.prod(of_side[2:]) * math.prod(weight) * sum(output_mask[:2])


def counting_flops() -> FlopCounterMode:
    """Counts the FLOPs of what runs within it, a multiply-add as 2."""
    counts = {torch.ops.aten.convolution_backward: convolution_backward_flops}
    return FlopCounterMode(display=False, custom_mapping=counts)


@dataclass
class StepCost:
    """
    Arithmetic of an image, and memory of a step on one device.

    FLOPs are those of convolutions, matrix products and attention, where a multiply-add is 2; norms, activations,
    resizing and losses are left out. With gradient checkpointing, what is computed again counts again.

    Args:
        student_flops (`float`): Forward and backward, of one image.
        teacher_flops (`float`): Forward, of one image.
        activation_bytes (`int`): The most that all images of a step hold at once, losses and temporaries included.
    """

    student_flops: float
    teacher_flops: float
    activation_bytes: int


def step_cost(model: PreTrainedModel, args: SemiSupervisedConfig, labeled: int, mixed: int) -> StepCost:
    """
    The cost of a step with so many labeled and mixed crops on one device. Nothing is computed: a model of the same
    config runs forward and backward, under the mixed precision of `args`, on tensors that have shape and type alone.
    """
    images = max(2, labeled + mixed)  # BatchNorm cannot take one alone; each image costs the same
    precision = torch.bfloat16 if args.bf16 else torch.float16
    with FakeTensorMode():
        twin = type(model)(model.config).train()
        for parameter, own in zip(twin.parameters(), model.parameters()):
            # Gradients are counted as a whole elsewhere, so they are there before.
            parameter.requires_grad_(own.requires_grad).grad = torch.empty_like(parameter)
        if args.gradient_checkpointing:
            twin.gradient_checkpointing_enable(args.gradient_checkpointing_kwargs)
        pixel_values = torch.empty(images, 3, *args.crop_size)
        # CPU tensors, on which autocast does what it does on a GPU but for upsampling, which is in float32 here.
        with LiveBytes() as live, counting_flops() as flops:
            with torch.autocast("cpu", dtype=precision, enabled=args.bf16 or args.fp16):
                logits = twin(pixel_values=pixel_values).logits
            forward, num_classes = flops.get_total_flops(), logits.shape[1]
            logits = upsample_logits(logits, args.crop_size)
            saved = live.now
            logits.backward(torch.empty_like(logits))
    maps = LOSS_MAPS * (labeled + mixed) + labeled * (args.logit_adjustment > 0)
    losses = maps * num_classes * math.prod(args.crop_size) * 4
    share = (labeled + mixed) / images
    most = max(saved * share + losses, live.peak * share)  # at the end of the forward pass, or in the backward pass
    return StepCost(flops.get_total_flops() / images, forward / images, round(most))


def parameter_bytes(model: nn.Module) -> tuple[int, int]:
    """Bytes of all parameters and buffers, and of the parameters that have a gradient."""
    held = [*model.parameters(), *model.buffers()]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return tuple(sum(tensor.numel() * tensor.element_size() for tensor in tensors) for tensors in (held, trained))


def optimizer_bytes_per_value(model: PreTrainedModel, args: SemiSupervisedConfig) -> float:
    """
    Bytes of state that the optimizer of `optim` keeps for a number that is trained: 4 for SGD with momentum, 8 for
    AdamW. It takes one step on a small matrix; one that is made for a whole model counts as AdamW.
    """
    optimizer_class, kwargs = Trainer.get_optimizer_cls_and_kwargs(args, model)
    if not (isinstance(optimizer_class, type) and issubclass(optimizer_class, torch.optim.Optimizer)):
        return 8.0
    weight = nn.Parameter(torch.zeros(64, 64))
    weight.grad = torch.ones_like(weight)
    optimizer = optimizer_class([weight], **kwargs)
    optimizer.step()
    state = [value for value in optimizer.state[weight].values() if isinstance(value, torch.Tensor) and value.dim()]
    return sum(value.numel() * value.element_size() for value in state) / weight.numel()

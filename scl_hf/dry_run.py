"""What a run will see, compute and hold, before it is started: `scripts/train.py RECIPE --dry_run true`."""

import contextlib
import math
import weakref
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel, Trainer

from .config import SemiSupervisedConfig
from .data.batch import pair_collator
from .data.crops import PairedCrops
from .data.sampler import LabeledSampler, PairSampler
from .errors import InputError, check_field, check_finite
from .inference import upsample_logits
from .optim import encoder_of

# Float32 maps (C, H, W) of an image that softmax, pseudo-labels and losses hold at once beside the logits, measured on
# steps of the trainer: 4.5 of a labeled and a mixed image, 2.2 of a labeled one. Adjusted logits are one more.
LOSS_MAPS = 2.5


@dataclass
class DryRunArguments:
    """
    Settings of a dry run, which describes a run without starting it.

    Args:
        dry_run (`bool`, *optional*, defaults to `False`):
            Whether to say what the run would see, compute and hold, instead of training. Samples, steps, crops placed
            on each class, parameters, FLOPs, memory and, with `tflops_per_second`, hours. All that is read is checked
            as in a run; nothing is written but what `datasets` caches.
        tflops_per_second (`float`, *optional*):
            TFLOP/s that one GPU reaches in training, for the hours of a dry run.
        num_gpus (`int`, *optional*):
            GPUs, one process on each, that a dry run is for. By default as many as it was started with.
    """

    dry_run: bool = False
    tflops_per_second: float | None = None
    num_gpus: int | None = None

    def __post_init__(self):
        check_finite(self)
        for name in ("tflops_per_second", "num_gpus"):
            value = getattr(self, name)
            if value is not None and not self.dry_run:
                raise InputError(f"{name}: is for a dry run; add --dry_run true, or leave it out.")
            check_field(self, name, value is None or value > 0, "above 0")


@dataclass
class StepCost:
    """
    FLOPs of one image, forward and backward in the student, forward in the teacher, and the most bytes that the images
    of a step hold at once. Counted are convolutions, matrix products and attention, a multiply-add as 2, and with
    gradient checkpointing what is computed again; not norms, activations, resizing and losses.
    """

    student_flops: float
    teacher_flops: float
    activation_bytes: int


@dataclass
class RunPlan:
    """
    Steps and crops of a run. `batch_size` counts the labeled crops of a step, of all processes and accumulated
    batches; an epoch of the labeled images is rounded up to whole steps.
    """

    num_gpus: int
    batch_size: int
    epoch_steps: int
    steps: int
    supervised_steps: int

    @classmethod
    def of(cls, args: SemiSupervisedConfig, num_labeled: int, num_gpus: int | None = None) -> "RunPlan":
        """The plan of a run on so many GPUs; by default on those that this process was started with."""
        num_gpus = num_gpus or args.world_size * max(1, args.n_gpu)
        batch_size = args.per_device_train_batch_size * args.gradient_accumulation_steps * num_gpus
        epoch_steps = -(-num_labeled // batch_size)
        steps = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * epoch_steps)
        supervised_steps = min(steps, args.start_step(steps)) if args.semi_supervised else steps
        return cls(num_gpus, batch_size, epoch_steps, steps, supervised_steps)

    @property
    def labeled_crops(self) -> int:
        """Labeled crops of the run."""
        return self.steps * self.batch_size

    @property
    def unlabeled_crops(self) -> int:
        """Unlabeled crops of the run: two beside each labeled one, after the supervised steps."""
        return 2 * (self.steps - self.supervised_steps) * self.batch_size

    def flops(self, cost: StepCost) -> tuple[float, float, float]:
        """FLOPs on one GPU of a supervised step, and of one with as many mixed crops; on all GPUs of all steps."""
        crops = self.batch_size / self.num_gpus
        supervised, both = crops * cost.student_flops, crops * 2 * (cost.student_flops + cost.teacher_flops)
        run = self.supervised_steps * supervised + (self.steps - self.supervised_steps) * both
        return supervised, both, self.num_gpus * run


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the tensors that are made within it: those that live `now`, and their `peak`."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self._known = weakref.WeakSet()

    def __torch_dispatch__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        given = {id(leaf.untyped_storage()) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)}
        output = func(*args, **(kwargs or {}))
        for storage in (leaf.untyped_storage() for leaf in tree_leaves(output) if isinstance(leaf, torch.Tensor)):
            if id(storage) not in given and storage not in self._known:  # neither a view nor in place
                self._known.add(storage)
                self._add(storage.nbytes())
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._add, -storage.nbytes())
        return output

    def _add(self, size: int) -> None:
        self.now += size


def counting_flops() -> FlopCounterMode:
    """Counts the FLOPs of what runs within it, a multiply-add as 2."""

    def of_convolution(grad: torch.Size, image: torch.Size, weight: torch.Size, *args: Any, **kwargs: Any) -> int:
        # Each of the two gradients takes the products of the forward pass. PyTorch's own count forgets the groups: it
        # is a hundred times too much for a depthwise convolution of a hundred channels.
        *_, transposed, _, _, output_mask = args
        side = image if transposed else grad
        return 2 * grad[0] * math.prod(side[2:]) * math.prod(weight) * sum(output_mask[:2])

    return FlopCounterMode(display=False, custom_mapping={torch.ops.aten.convolution_backward: of_convolution})


def step_cost(model: PreTrainedModel, args: SemiSupervisedConfig, labeled: int, mixed: int) -> StepCost:
    """
    Cost of a step with so many labeled and mixed crops on one device. Nothing is computed: a model of the same config
    runs forward and backward, under the mixed precision of `args`, on tensors that have shape and type only.
    """
    images = max(2, labeled + mixed)  # BatchNorm cannot take one alone; each image costs the same
    precision = torch.bfloat16 if args.bf16 else torch.float16
    with FakeTensorMode():
        twin = type(model)(model.config).train()
        for parameter, own in zip(twin.parameters(), model.parameters()):
            # Gradients are a part of their own in `memory_parts`, so they are there before.
            parameter.requires_grad_(own.requires_grad).grad = torch.empty_like(parameter)
        if args.gradient_checkpointing:
            twin.gradient_checkpointing_enable(args.gradient_checkpointing_kwargs)
        pixel_values = torch.empty(images, 3, *args.crop_size)
        # Autocast does on CPU tensors what it does on a GPU but for upsampling, which is in float32 here.
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


def optimizer_bytes_per_value(model: PreTrainedModel, args: SemiSupervisedConfig) -> float:
    """Bytes of optimizer state of a trained number, from a step on a small matrix: 4 for momentum, 8 for AdamW."""
    optimizer_class, kwargs = Trainer.get_optimizer_cls_and_kwargs(args, model)
    if not (isinstance(optimizer_class, type) and issubclass(optimizer_class, torch.optim.Optimizer)):
        return 8.0  # it is made for a whole model
    weight = nn.Parameter(torch.zeros(64, 64))
    weight.grad = torch.ones_like(weight)
    optimizer = optimizer_class([weight], **kwargs)
    optimizer.step()
    state = [value for value in optimizer.state[weight].values() if isinstance(value, torch.Tensor) and value.dim()]
    return sum(value.nbytes for value in state) / weight.numel()


def count_placed_crops(sampler: LabeledSampler, plan: RunPlan) -> Counter[int]:
    """Class -> how many labeled crops of the run are placed on it: the very samples of this seed."""
    sampler, counts, left = replace(sampler, batch_size=plan.batch_size), Counter(), plan.labeled_crops
    for epoch in range(-(-plan.steps // plan.epoch_steps)):
        places = sampler.without_seeds(epoch)[:left]
        counts.update(place.category for place in places if place.category is not None)
        left -= len(places)
    return counts


def batch_bytes(crops: PairedCrops, sampler: LabeledSampler, args: SemiSupervisedConfig) -> int:
    """Bytes of a batch of one GPU with unlabeled images, and of the images mixed from it."""
    size, num_unlabeled = args.per_device_train_batch_size, len(crops.unlabeled or ())
    pairs = PairSampler(sampler, num_unlabeled, args.sample_seed, size)
    batch = pair_collator(args)([crops[sample] for sample in pairs.of_step(0)])
    held = sum(value.nbytes for value in batch.values() if isinstance(value, torch.Tensor))
    # The mixed images, and once more after the labeled ones, as the student sees them
    return held + (3 * batch["pixel_values"].numel() * 4 if num_unlabeled else 0)


def memory_parts(
    model: PreTrainedModel, args: SemiSupervisedConfig, plan: RunPlan, cost: StepCost, batch: int
) -> dict[str, float]:
    """
    Bytes on one GPU, part by part; mixed precision changes the activations only, its copies of the weights included.
    The CUDA context, workspaces of cuDNN and what the allocator loses between blocks are left out.
    """
    weights = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    gradients = sum(parameter.nbytes for parameter in model.parameters() if parameter.requires_grad)
    parts = {
        "weights": weights,
        "gradients": gradients,
        "buckets of DDP": gradients if plan.num_gpus > 1 else 0,
        "optimizer": gradients / 4 * optimizer_bytes_per_value(model, args),
        "EMA model": weights,
        "frozen teacher": weights if args.semi_supervised and args.teacher_update_interval else 0,
        "batch": batch,
        "activations": cost.activation_bytes,
    }
    return {name: size for name, size in parts.items() if size}


def estimate(
    model: PreTrainedModel,
    args: SemiSupervisedConfig,
    crops: PairedCrops,
    sampler: LabeledSampler,
    num_evaluated: int,
    dry: DryRunArguments,
) -> str:
    """All that a dry run prints."""
    num_labeled, num_unlabeled = len(crops.labeled), len(crops.unlabeled or ())
    plan, size = RunPlan.of(args, num_labeled, dry.num_gpus), args.per_device_train_batch_size
    cost = step_cost(model, args, size, size if plan.unlabeled_crops else 0)
    names = [name for _, name in sorted(model.config.id2label.items())]
    images = f"{num_labeled:,} labeled, {num_unlabeled:,} unlabeled, {num_evaluated:,} to evaluate on"
    blocks = [
        ["dry run: nothing is trained or written"],
        [_line("images", f"{images}, {len(names)} classes"), *_steps(plan, args, num_labeled, num_unlabeled)],
        _placed_crops(names, sampler, plan),
        [_line("model", _parameters(model))],
        _flops(plan, cost, dry.tflops_per_second),
        _memory(memory_parts(model, args, plan, cost, batch_bytes(crops, sampler, args)), args),
    ]
    return "\n\n".join("\n".join(block) for block in blocks)


def _steps(plan: RunPlan, args: SemiSupervisedConfig, num_labeled: int, num_unlabeled: int) -> list[str]:
    height, width = args.crop_size
    step = f"{_count(plan.batch_size, 'labeled crop')} of {height}×{width}"
    if plan.unlabeled_crops:
        step += f" and {plan.batch_size} mixed, of {2 * plan.batch_size} unlabeled ones"
    run = f"{_count(plan.steps, 'step')}: {plan.steps / plan.epoch_steps:,.1f} epochs of {plan.epoch_steps:,}"
    if plan.supervised_steps:
        start = "all" if plan.supervised_steps == plan.steps else f"the first {plan.supervised_steps:,}"
        run += f"; {start} supervised"
    lines = [
        _line("a step", f"{step}, on {'one GPU or CPU' if plan.num_gpus == 1 else f'{plan.num_gpus} GPUs'}"),
        _line("the run", run),
        _line("", f"{plan.labeled_crops:,} labeled crops, {plan.labeled_crops / num_labeled:,.1f} an image"),
    ]
    if plan.unlabeled_crops:
        each = plan.unlabeled_crops / num_unlabeled
        lines.append(_line("", f"{plan.unlabeled_crops:,} unlabeled crops, {each:,.1f} an image"))
    return lines


def _placed_crops(names: list[str], sampler: LabeledSampler, plan: RunPlan) -> list[str]:
    counts, index = count_placed_crops(sampler, plan), sampler.class_index
    if index is None:
        return ["no crop is placed on a class (class_uniform_share 0)"]
    tiles = [len(fine) + len(coarse) for fine, coarse in zip(index.fine, index.coarse)]
    lines = [
        f"{counts.total():,} of the labeled crops are placed on a class, by the samples of seed {sampler.seed}",
        f"{'class':<20}{'crops':>10}{'tiles':>10}{'crops a tile':>16}",
    ]
    for i, name in enumerate(names):
        each = f"{counts[i] / tiles[i]:,.1f}" if tiles[i] else "-"
        lines.append(f"{name:<20}{counts[i]:>10,}{tiles[i]:>10,}{each:>16}")
    unseen = [name for name, number in zip(names, tiles) if not number]
    passed_over = [name for i, name in enumerate(names) if tiles[i] and not counts[i]]
    if unseen:
        lines.append(f"never placed on {', '.join(unseen)}: no label shows {'it' if len(unseen) == 1 else 'them'}")
    if passed_over:
        lines.append(f"never placed on {', '.join(passed_over)}: too few crops")
    return lines


def _parameters(model: PreTrainedModel) -> str:
    def millions(parameters: Iterable[torch.Tensor]) -> str:
        return f"{sum(parameter.numel() for parameter in parameters) / 1e6:,.2f} M"

    trained = millions(parameter for parameter in model.parameters() if parameter.requires_grad)
    text = f"{type(model).__name__}, {millions(model.parameters())} parameters, {trained} of them trained"
    with contextlib.suppress(InputError):  # no encoder apart from the head
        encoder = {id(parameter): parameter for parameter in encoder_of(model).parameters()}
        head = millions(parameter for parameter in model.parameters() if id(parameter) not in encoder)
        text += f"; encoder {millions(encoder.values())}, head {head}"
    return text


def _flops(plan: RunPlan, cost: StepCost, rate: float | None) -> list[str]:
    supervised, both, total = plan.flops(cost)
    gpus, on = plan.num_gpus, " on each GPU" if plan.num_gpus > 1 else ""
    image = f"{_unit(cost.student_flops)} an image that is trained on, {_unit(cost.teacher_flops)} one of the teacher"
    lines = [_line("FLOPs", image)]
    if plan.supervised_steps:
        lines.append(_line("", f"{_unit(supervised)} a supervised step{on}"))
    if plan.unlabeled_crops:
        lines.append(_line("", f"{_unit(both)} a step with unlabeled images{on}"))
    lines.append(_line("", f"{_unit(total)} the run, without evaluations"))
    if rate is None:
        return [*lines, _line("hours", "not known: give --tflops_per_second, what one GPU reaches in training")]
    hours = total / (rate * 1e12 * gpus) / 3600
    gpu_hours = f" on {gpus} GPUs, {hours * gpus:,.2f} GPU-hours" if gpus > 1 else ""
    rest = f"at {rate:g} TFLOP/s a GPU; waiting for data and evaluations come on top"
    return [*lines, _line("hours", f"{hours:,.2f}{gpu_hours}, {rest}")]


def _memory(parts: dict[str, float], args: SemiSupervisedConfig) -> list[str]:
    total = sum(parts.values())
    unit, divisor = ("GiB", 2**30) if total >= 2**30 else ("MiB", 2**20)
    precision = "bf16" if args.bf16 else "fp16" if args.fp16 else "float32"
    lines = [_line("memory", f"about {total / divisor:,.1f} {unit} a GPU, in {precision}; CUDA's own come on top")]
    return lines + [_line("", f"{size / divisor:>8,.1f}  {name}") for name, size in parts.items()]


def _line(name: str, text: str) -> str:
    return f"{name:<11}{text}"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"


def _unit(number: float) -> str:
    power = min(6, max(2, int(math.log10(max(1, number))) // 3))
    return f"{number / 1000**power:.3g} {'KMGTPE'[power - 1]}FLOP"

"""Estimate of a run before it starts, `scripts/train.py RECIPE --dry_run true`: steps, crops, FLOPs, memory."""

import contextlib
import math
import weakref
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel
from transformers.initialization import no_init_weights

from .config import SemiSupervisedConfig
from .data.batch import PairCollator
from .data.crops import PairedCrops
from .data.sampler import LabeledSampler, PairSampler
from .errors import InputError, check_field, check_finite, counted
from .inference import upsample_logits
from .optim import encoder_of, small_optimizer

# Float32 maps (C, H, W) of an image that pseudo-labels and losses hold at once beside the logits, as measured
LOSS_MAPS = 2.5


@dataclass
class DryRunArguments:
    """
    Settings of a dry run, which describes a run without starting it.

    Args:
        dry_run (`bool`, *optional*, defaults to `False`):
            Whether to say what the run would see, compute and hold, instead of training. All that is read is checked
            as in a run; nothing is written but what `datasets` caches.
        tflops_per_second (`float`, *optional*): TFLOP/s that one GPU reaches in training, for the hours of a dry run.
        num_gpus (`int`, *optional*): GPUs, one process on each, that a dry run is for.
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
    """FLOPs of an image in student (forward, backward) and teacher, and the most bytes that a step's images hold."""

    student_flops: float
    teacher_flops: float
    activation_bytes: int


@dataclass
class RunPlan:
    """Steps and crops of a run; `batch_size` is that of all processes and accumulated batches."""

    num_gpus: int
    batch_size: int
    epoch_steps: int
    steps: int
    supervised_steps: int

    @classmethod
    def of(cls, args: SemiSupervisedConfig, num_labeled: int, num_gpus: int | None = None) -> "RunPlan":
        """Returns the plan of a run on so many GPUs; by default on those that this process was started with."""
        num_gpus = num_gpus or args.world_size * max(1, args.n_gpu)
        batch_size = args.per_device_train_batch_size * args.gradient_accumulation_steps * num_gpus
        epoch_steps = -(-num_labeled // batch_size)
        steps = args.total_steps(num_labeled, batch_size)
        supervised_steps = min(steps, args.start_step(steps)) if args.semi_supervised else steps
        return cls(num_gpus, batch_size, epoch_steps, steps, supervised_steps)

    @property
    def labeled_crops(self) -> int:
        """Labeled crops of the run."""
        return self.steps * self.batch_size

    @property
    def unlabeled_crops(self) -> int:
        """Unlabeled crops of the run: two for each mixed one, after the supervised steps."""
        return 2 * (self.steps - self.supervised_steps) * self.batch_size

    def flops(self, cost: StepCost) -> tuple[float, float, float]:
        """FLOPs of a supervised step on one GPU, of one with unlabeled images, and of the run on all GPUs."""
        crops = self.batch_size / self.num_gpus
        supervised, both = crops * cost.student_flops, crops * 2 * (cost.student_flops + cost.teacher_flops)
        run = self.supervised_steps * supervised + (self.steps - self.supervised_steps) * both
        return supervised, both, self.num_gpus * run


def _storages(tree: Any) -> list[torch.UntypedStorage]:
    return [leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the tensors that are made within it: those that live `now`, and their `peak`."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self._known = weakref.WeakSet()

    def __torch_dispatch__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        self._known.update(_storages((args, kwargs)))  # an output that shares them is a view or in place
        output = func(*args, **(kwargs or {}))
        for storage in _storages(output):
            if storage not in self._known:
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
        # Each of the two gradients takes the products of the forward pass. PyTorch's own count forgets the groups.
        *_, transposed, _, _, output_mask = args
        side = image if transposed else grad
        return 2 * grad[0] * math.prod(side[2:]) * math.prod(weight) * sum(output_mask[:2])

    return FlopCounterMode(display=False, custom_mapping={torch.ops.aten.convolution_backward: of_convolution})


def step_cost(model: PreTrainedModel, args: SemiSupervisedConfig, labeled: int, mixed: int) -> StepCost:
    """Returns the cost of a step with so many labeled and mixed crops on one device, from tensors without values."""
    images = max(2, labeled + mixed)  # BatchNorm cannot take one alone; each image costs the same
    precision = torch.bfloat16 if args.bf16 else torch.float16
    with FakeTensorMode(), no_init_weights():  # some initializations read values
        twin = type(model)(model.config).train()
        for parameter, own in zip(twin.parameters(), model.parameters()):
            # Gradients exist beforehand: `memory_parts` counts them on their own.
            parameter.requires_grad_(own.requires_grad).grad = torch.empty_like(parameter)
        if args.gradient_checkpointing:
            twin.gradient_checkpointing_enable(args.gradient_checkpointing_kwargs)
        pixel_values = torch.empty(images, 3, *args.crop_size)
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
    """Returns the bytes of optimizer state of a trained number: 4 for momentum, 8 for AdamW."""
    optimizer = small_optimizer(model, args)
    if optimizer is None:
        return 8.0
    (weight,) = optimizer.param_groups[0]["params"]
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    state = [value for value in optimizer.state[weight].values() if isinstance(value, torch.Tensor) and value.dim()]
    return sum(value.nbytes for value in state) / weight.numel()


def count_centered_crops(sampler: LabeledSampler, plan: RunPlan) -> Counter[int]:
    """Returns class -> number of labeled crops of the run that are centered on it, with this seed."""
    sampler, counts, left = replace(sampler, batch_size=plan.batch_size), Counter(), plan.labeled_crops
    for epoch in range(-(-plan.steps // plan.epoch_steps)):
        samples = sampler.without_seeds(epoch)[:left]
        counts.update(sample.category for sample in samples if sample.category is not None)
        left -= len(samples)
    return counts


def batch_bytes(crops: PairedCrops, sampler: LabeledSampler, args: SemiSupervisedConfig) -> int:
    """Returns the bytes of a batch of one GPU with unlabeled images, and of the images mixed from it."""
    size, num_unlabeled = args.per_device_train_batch_size, len(crops.unlabeled or ())
    pairs = PairSampler(sampler, num_unlabeled, size)
    batch = PairCollator(args)([crops[sample] for sample in pairs.of_step(0)])
    held = sum(value.nbytes for value in batch.values() if isinstance(value, torch.Tensor))
    # The mixed images, and once more after the labeled ones, as the student sees them
    return held + (3 * batch["pixel_values"].numel() * 4 if num_unlabeled else 0)


def memory_parts(
    model: PreTrainedModel, args: SemiSupervisedConfig, plan: RunPlan, cost: StepCost, batch: int
) -> dict[str, float]:
    """Returns the bytes on one GPU, part by part, without the CUDA context, workspaces and lost space."""
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
    """Returns the text of a dry run."""
    plan, size = RunPlan.of(args, len(crops.labeled), dry.num_gpus), args.per_device_train_batch_size
    cost = step_cost(model, args, size, size if plan.unlabeled_crops else 0)
    names = [name for _, name in sorted(model.config.id2label.items())]
    num_labeled, num_unlabeled = len(crops.labeled), len(crops.unlabeled or ())
    images = f"{num_labeled:,} labeled, {num_unlabeled:,} unlabeled, {num_evaluated:,} to evaluate on"
    blocks = (
        "dry run: nothing is trained or written",
        _aligned([("images", f"{images}, {len(names)} classes"), *_steps(plan, args, num_labeled, num_unlabeled)]),
        _centered_crops(names, sampler, plan),
        _aligned([("model", _parameters(model))]),
        _aligned(_flops(plan, cost, dry.tflops_per_second)),
        _aligned(_memory(memory_parts(model, args, plan, cost, batch_bytes(crops, sampler, args)), args)),
    )
    return "\n\n".join(blocks)


def _aligned(rows: Iterable[tuple[str, str | int]]) -> str:
    """Joins lines of a name and a text; leaves out those without a text."""
    return "\n".join(f"{name:<11}{text}" for name, text in rows if text)


def _steps(plan: RunPlan, args: SemiSupervisedConfig, num_labeled: int, num_unlabeled: int) -> list[tuple]:
    labeled, unlabeled, (height, width) = plan.labeled_crops, plan.unlabeled_crops, args.crop_size
    mixed = f" and {plan.batch_size} mixed, of {2 * plan.batch_size} unlabeled ones" if unlabeled else ""
    gpus = "one GPU or CPU" if plan.num_gpus == 1 else f"{plan.num_gpus} GPUs"
    epochs = f"{plan.steps / plan.epoch_steps:,.1f} epochs of {plan.epoch_steps:,}"
    if plan.supervised_steps:
        start = "all" if plan.supervised_steps == plan.steps else f"the first {plan.supervised_steps:,}"
        epochs += f"; {start} supervised"
    return [
        ("a step", f"{counted(plan.batch_size, 'labeled crop')} of {height}×{width}{mixed}, on {gpus}"),
        ("the run", f"{counted(plan.steps, 'step')}: {epochs}"),
        ("", f"{labeled:,} labeled crops, {labeled / num_labeled:,.1f} an image"),
        ("", unlabeled and f"{unlabeled:,} unlabeled crops, {unlabeled / num_unlabeled:,.1f} an image"),
    ]


def _centered_crops(names: list[str], sampler: LabeledSampler, plan: RunPlan) -> str:
    counts, index = count_centered_crops(sampler, plan), sampler.class_index
    if index is None:
        return "no crop is centered on a class (class_uniform_share 0)"
    text = f"{counts.total():,} of the labeled crops are centered on a class, by the samples of seed {sampler.seed}\n"
    text += f"{'class':<20}{'crops':>10}{'tiles':>10}{'crops a tile':>16}"
    for i, name in enumerate(names):
        tiles = len(index.fine[i]) + len(index.coarse[i])
        each = f"{counts[i] / tiles:,.1f}" if tiles else "-"
        why = "" if counts[i] else "  too few crops" if tiles else "  no label shows it"
        text += f"\n{name:<20}{counts[i]:>10,}{tiles:>10,}{each:>16}{why}"
    return text


def _parameters(model: PreTrainedModel) -> str:
    def millions(parameters: Iterable[torch.Tensor]) -> str:
        return f"{sum(parameter.numel() for parameter in parameters) / 1e6:,.2f} M"

    parameters = set(model.parameters())
    trained = millions(parameter for parameter in parameters if parameter.requires_grad)
    text = f"{type(model).__name__}, {millions(parameters)} parameters, {trained} of them trained"
    with contextlib.suppress(InputError):  # no encoder apart from the head
        encoder = set(encoder_of(model).parameters())
        text += f"; encoder {millions(encoder)}, head {millions(parameters - encoder)}"
    return text


def _flops(plan: RunPlan, cost: StepCost, rate: float | None) -> list[tuple]:
    supervised, both, total = plan.flops(cost)
    gpus, on = plan.num_gpus, " on each GPU" if plan.num_gpus > 1 else ""
    hours = "not known: give --tflops_per_second, what one GPU reaches in training"
    if rate is not None:
        gpu_hours = total / (rate * 1e12) / 3600
        of_gpus = f" on {gpus} GPUs, {gpu_hours:,.2f} GPU-hours" if gpus > 1 else ""
        hours = f"{gpu_hours / gpus:,.2f}{of_gpus}, at {rate:g} TFLOP/s a GPU, without evaluations and waits for data"
    return [
        ("FLOPs", f"{_unit(cost.student_flops)} an image in training, {_unit(cost.teacher_flops)} one of the teacher"),
        ("", plan.supervised_steps and f"{_unit(supervised)} a supervised step{on}"),
        ("", plan.unlabeled_crops and f"{_unit(both)} a step with unlabeled images{on}"),
        ("", f"{_unit(total)} the run, without evaluations"),
        ("hours", hours),
    ]


def _memory(parts: dict[str, float], args: SemiSupervisedConfig) -> list[tuple]:
    total = sum(parts.values())
    unit, divisor = ("GiB", 2**30) if total >= 2**30 else ("MiB", 2**20)
    precision = "bf16" if args.bf16 else "fp16" if args.fp16 else "float32"
    rows = [("memory", f"about {total / divisor:,.1f} {unit} a GPU, in {precision}; CUDA's own come on top")]
    return rows + [("", f"{size / divisor:>8,.1f}  {name}") for name, size in parts.items()]


def _unit(number: float) -> str:
    power = min(6, max(2, int(math.log10(max(1, number))) // 3))
    return f"{number / 1000**power:.3g} {'KMGTPE'[power - 1]}FLOP"

"""What a run will see, compute and hold, before it is started: `scripts/train.py RECIPE --dry_run true`."""

import contextlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from transformers import PreTrainedModel

from .config import SemiSupervisedConfig
from .data.crops import PairedCrops
from .data.sampler import LabeledSampler, PairSampler
from .data.training import pair_collator
from .errors import InputError, check_field, check_finite
from .optim import encoder_of
from .step_cost import StepCost, optimizer_bytes_per_value, parameter_bytes, step_cost


@dataclass
class DryRunArguments:
    """
    What a run would be, without it.

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
class RunPlan:
    """
    The steps of a run.

    Args:
        num_gpus (`int`): Processes.
        batch_size (`int`): Labeled crops of a step, those of all processes and accumulated batches.
        epoch_steps (`int`): Steps of an epoch of the labeled images, which is rounded up to whole steps.
        steps (`int`): All of them, as the trainer counts them.
        supervised_steps (`int`): Those of labels alone, at the start.
        unlabeled_per_mix (`int`): Unlabeled crops for each mixed one.
    """

    num_gpus: int
    batch_size: int
    epoch_steps: int
    steps: int
    supervised_steps: int
    unlabeled_per_mix: int

    @classmethod
    def of(cls, args: SemiSupervisedConfig, num_labeled: int, num_gpus: int | None = None) -> "RunPlan":
        """The plan of a run on so many GPUs; by default on those that this process was started with."""
        num_gpus = num_gpus or args.world_size * max(1, args.n_gpu)
        batch_size = args.per_device_train_batch_size * args.gradient_accumulation_steps * num_gpus
        epoch_steps = -(-num_labeled // batch_size)
        steps = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * epoch_steps)
        supervised = min(steps, args.semi_supervised_start_step) if args.semi_supervised else steps
        return cls(num_gpus, batch_size, epoch_steps, steps, supervised, args.unlabeled_per_mix)

    @property
    def labeled_crops(self) -> int:
        """Of the run."""
        return self.steps * self.batch_size

    @property
    def unlabeled_crops(self) -> int:
        """Of the run: u_a and u_b beside each labeled crop, once the unlabeled images have joined."""
        return self.unlabeled_per_mix * (self.steps - self.supervised_steps) * self.batch_size

    def step_flops(self, cost: StepCost) -> tuple[float, float]:
        """
        FLOPs of a step on one GPU: of labels alone, and with unlabeled images, for which the student sees as many
        mixed crops and the teacher those that they are mixed of.
        """
        crops = self.batch_size / self.num_gpus
        return crops * cost.student_flops, crops * (
            2 * cost.student_flops + self.unlabeled_per_mix * cost.teacher_flops
        )

    def run_flops(self, cost: StepCost) -> float:
        """FLOPs of all steps on all GPUs; evaluations are not in it."""
        alone, together = self.step_flops(cost)
        return self.num_gpus * (self.supervised_steps * alone + (self.steps - self.supervised_steps) * together)


def count_placed_crops(draws: LabeledSampler, plan: RunPlan) -> Counter[int]:
    """How many labeled crops of a run are placed on each class: the very ones that it will draw with this seed."""
    draws, counts, left = replace(draws, batch_size=plan.batch_size), Counter(), plan.labeled_crops
    for epoch in range(-(-plan.steps // plan.epoch_steps)):
        places = draws.places(epoch)[:left]
        counts.update(place.category for place in places if place.category is not None)
        left -= len(places)
    return counts


def batch_bytes(crops: PairedCrops, draws: LabeledSampler, args: SemiSupervisedConfig) -> int:
    """Bytes of the first batch of one GPU that has all that a batch can have, and of the images mixed from it."""
    size, num_unlabeled = args.per_device_train_batch_size, len(crops.unlabeled or ())
    sampler = PairSampler(draws, num_unlabeled, args.sample_seed, size, unlabeled_per_mix=args.unlabeled_per_mix)
    batch = pair_collator(args)([crops[draw] for draw in sampler.of_step(0)])
    held = sum(value.numel() * value.element_size() for value in batch.values() if isinstance(value, torch.Tensor))
    # The mixed images, and once more after the labeled ones, as the student sees them
    return held + (3 * batch["pixel_values"].numel() * 4 if num_unlabeled else 0)


def memory_parts(
    model: PreTrainedModel, args: SemiSupervisedConfig, plan: RunPlan, cost: StepCost, batch: int
) -> dict[str, float]:
    """
    Bytes on one GPU, part by part. Mixed precision halves activations and adds copies of the weights, both of which
    are in `activations`; weights, gradients, state and teacher stay in float32. What is not in it: the CUDA context,
    workspaces of cuDNN, and what the allocator loses between blocks.
    """
    weights, gradients = parameter_bytes(model)
    parts = {
        "weights": weights,
        "gradients": gradients,
        "buckets of DDP": gradients if plan.num_gpus > 1 else 0,
        "optimizer": gradients / 4 * optimizer_bytes_per_value(model, args),
        "EMA model": weights,
        "its kept copy": weights if args.semi_supervised and args.teacher_update_interval else 0,
        "batch": batch,
        "activations": cost.activation_bytes,
    }
    return {name: size for name, size in parts.items() if size}


def estimate(
    model: PreTrainedModel,
    args: SemiSupervisedConfig,
    crops: PairedCrops,
    draws: LabeledSampler,
    num_evaluated: int,
    dry: DryRunArguments,
) -> str:
    """All that a dry run says of the run of this model, on these data."""
    num_labeled, num_unlabeled = len(crops.labeled), len(crops.unlabeled or ())
    plan = RunPlan.of(args, num_labeled, dry.num_gpus)
    size = args.per_device_train_batch_size
    cost = step_cost(model, args, size, size if plan.unlabeled_crops else 0)
    parts = memory_parts(model, args, plan, cost, batch_bytes(crops, draws, args))
    names = [name for _, name in sorted(model.config.id2label.items())]
    images = f"{num_labeled:,} labeled, {num_unlabeled:,} unlabeled, {num_evaluated:,} to evaluate on"
    blocks = [
        ["dry run: nothing is trained or written"],
        [_line("images", f"{images}, {len(names)} classes"), *_describe_steps(plan, args, num_labeled, num_unlabeled)],
        _describe_placed_crops(names, draws, plan),
        _describe_model(model),
        _describe_flops(plan, cost, dry.tflops_per_second),
        _describe_memory(parts, args),
    ]
    return "\n\n".join("\n".join(block) for block in blocks)


def _describe_steps(plan: RunPlan, args: SemiSupervisedConfig, num_labeled: int, num_unlabeled: int) -> list[str]:
    height, width = args.crop_size
    step = f"{_several(plan.batch_size, 'labeled crop')} of {height}×{width}"
    if plan.unlabeled_crops:
        step += f" and {plan.batch_size} mixed, of {plan.unlabeled_per_mix * plan.batch_size} unlabeled ones"
    gpus = "one GPU or CPU" if plan.num_gpus == 1 else f"{plan.num_gpus} GPUs"
    run = f"{_several(plan.steps, 'step')}: {plan.steps / plan.epoch_steps:,.1f} epochs of {plan.epoch_steps:,}"
    if plan.supervised_steps:
        start = "all" if plan.supervised_steps == plan.steps else f"the first {plan.supervised_steps:,}"
        run += f"; {start} of labels alone"
    lines = [
        _line("a step", f"{step}, on {gpus}"),
        _line("the run", run),
        _line("", f"{plan.labeled_crops:,} labeled crops, {plan.labeled_crops / num_labeled:,.1f} an image"),
    ]
    if plan.unlabeled_crops:
        each = plan.unlabeled_crops / num_unlabeled
        lines.append(_line("", f"{plan.unlabeled_crops:,} unlabeled crops, {each:,.1f} an image"))
    return lines


def _describe_placed_crops(names: Sequence[str], draws: LabeledSampler, plan: RunPlan) -> list[str]:
    counts, index = count_placed_crops(draws, plan), draws.class_index
    if index is None:
        return ["no crop is placed on a class (class_uniform_share 0)"]
    places = [len(fine) + len(coarse) for fine, coarse in zip(index.fine, index.coarse)]
    lines = [
        f"{counts.total():,} of the labeled crops are placed on a class, by the draws of seed {draws.seed}",
        f"{'class':<20}{'crops':>10}{'tiles':>10}{'crops a tile':>16}",
    ]
    for i, name in enumerate(names):
        each = f"{counts[i] / places[i]:,.1f}" if places[i] else "-"
        lines.append(f"{name:<20}{counts[i]:>10,}{places[i]:>10,}{each:>16}")
    nowhere = [name for name, number in zip(names, places) if not number]
    passed_over = [name for i, name in enumerate(names) if places[i] and not counts[i]]
    if nowhere:
        lines.append(f"never placed on {', '.join(nowhere)}: no label shows {'it' if len(nowhere) == 1 else 'them'}")
    if passed_over:
        lines.append(f"never placed on {', '.join(passed_over)}: too few crops")
    return lines


def _describe_model(model: PreTrainedModel) -> list[str]:
    def millions(parameters: Sequence[torch.Tensor]) -> str:
        return f"{sum(parameter.numel() for parameter in parameters) / 1e6:,.2f} M"

    everything = list(model.parameters())
    parts = f"{millions([parameter for parameter in everything if parameter.requires_grad])} of them trained"
    with contextlib.suppress(InputError):  # no encoder apart from the head
        encoder = list(encoder_of(model).parameters())
        inside = {id(parameter) for parameter in encoder}
        head = [parameter for parameter in everything if id(parameter) not in inside]
        parts += f"; encoder {millions(encoder)}, head {millions(head)}"
    return [_line("model", f"{type(model).__name__}, {millions(everything)} parameters, {parts}")]


def _describe_flops(plan: RunPlan, cost: StepCost, rate: float | None) -> list[str]:
    alone, together = plan.step_flops(cost)
    on = " on each GPU" if plan.num_gpus > 1 else ""
    student, teacher, total = _flops(cost.student_flops), _flops(cost.teacher_flops), plan.run_flops(cost)
    lines = [_line("FLOPs", f"{student} an image that is trained on, {teacher} one that the teacher sees")]
    if plan.supervised_steps:
        lines.append(_line("", f"{_flops(alone)} a step of labels alone{on}"))
    if plan.unlabeled_crops:
        lines.append(_line("", f"{_flops(together)} a step with unlabeled images{on}"))
    lines.append(_line("", f"{_flops(total)} the run, without evaluations"))
    if rate is None:
        return [*lines, _line("hours", "not known: give --tflops_per_second, what one GPU reaches in training")]
    hours = total / (rate * 1e12 * plan.num_gpus) / 3600
    gpu_hours = f" on {plan.num_gpus} GPUs, {hours * plan.num_gpus:,.2f} GPU-hours" if plan.num_gpus > 1 else ""
    said = f"{hours:,.2f}{gpu_hours}, at {rate:g} TFLOP/s a GPU; waiting for data and evaluations come on top"
    return [*lines, _line("hours", said)]


def _describe_memory(parts: dict[str, float], args: SemiSupervisedConfig) -> list[str]:
    total = sum(parts.values())
    unit, divisor = ("GiB", 2**30) if total >= 2**30 else ("MiB", 2**20)
    precision = "bf16" if args.bf16 else "fp16" if args.fp16 else "float32"
    lines = [_line("memory", f"about {total / divisor:,.1f} {unit} a GPU, in {precision}; CUDA's own come on top")]
    return lines + [_line("", f"{size / divisor:>8,.1f}  {name}") for name, size in parts.items()]


def _line(name: str, text: str) -> str:
    return f"{name:<11}{text}"


def _several(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"


def _flops(number: float) -> str:
    """Three digits, and a unit."""
    power = min(6, max(2, int(math.log10(max(1, number))) // 3))
    return f"{number / 1000**power:.3g} {'KMGTPE'[power - 1]}FLOP"

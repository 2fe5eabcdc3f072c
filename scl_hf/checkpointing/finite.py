"""Checks for NaN and infinity in weights, gradients and logs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import TrainingArguments

from ..errors import RESUME_HINT, InputError, NotFiniteError, first_few
from ..files import replacing


def check_weights(name: str, model: nn.Module, remedy: str) -> None:
    """Raises an InputError, which calls the model `name`, if a weight is NaN or infinite."""
    tensors = {key: value for key, value in model.state_dict().items() if value.is_floating_point() and value.numel()}
    if tensors and not torch.stack(torch._foreach_norm(list(tensors.values()), float("inf"))).isfinite().all():
        wrong = [key for key, value in tensors.items() if not value.isfinite().all()]
        raise InputError(f"{name}: {len(wrong)} of {len(tensors)} tensors hold NaN or infinity ({wrong[0]}). {remedy}")


def name_of_gradient(model: nn.Module) -> str:
    """Returns the name of the first gradient that is not finite; clipping by a NaN norm makes all of them NaN."""
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    wrong = [name for name, gradient in gradients.items() if not gradient.isfinite().all()]
    return f"the gradient of {wrong[0]}" if 0 < len(wrong) < len(gradients) else "the gradient as a whole"


def finite(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values without NaN and infinity, which JSON cannot hold."""
    return {name: value for name, value in values.items() if not isinstance(value, float) or value - value == 0}


def not_finite(
    step: int, what: str, images: Sequence[str], batches: Sequence[Mapping[str, Any]], args: TrainingArguments
) -> NotFiniteError:
    """Saves the tensors of a step's batches, and returns the error that names them."""
    rank = f"-rank-{args.process_index}" if args.world_size > 1 else ""
    file = Path(args.output_dir, f"_not_finite-step-{step:06d}{rank}.safetensors")  # `_*` is never pushed
    items = [(f"{i}.{name}", value) for i, batch in enumerate(batches) for name, value in batch.items()]
    tensors = {name: value.detach().cpu().contiguous() for name, value in items if isinstance(value, torch.Tensor)}
    try:
        with replacing(file) as partial:
            save_file(tensors, partial, {"step": str(step), "what": what, "images": "\n".join(images)})
        kept = f"its batch is kept in {file}"
    except Exception as error:  # the error matters more than its file
        kept = f"its batch could not be kept ({type(error).__name__})"
    return NotFiniteError(
        f"step {step}: {what} is not a finite number. The step was not taken; its images are {first_few(images, 6)};"
        f" {kept}. Look at them, or lower learning_rate; {RESUME_HINT} resumes from the last checkpoint."
    )

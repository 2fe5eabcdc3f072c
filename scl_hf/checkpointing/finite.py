"""Whether numbers are finite: those that a training step is taken with, and those of a model's weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..errors import InputError
from ..processes import are_several

GRADIENT = "gradient"


def check_weights(name: str, model: nn.Module, remedy: str) -> None:
    """Refuses a model with weights that are no finite numbers; `name` is what the message calls it."""
    tensors = {key: value for key, value in model.state_dict().items() if value.is_floating_point() and value.numel()}
    if tensors and not torch.stack(torch._foreach_norm(list(tensors.values()), float("inf"))).isfinite().all():
        wrong = [key for key, value in tensors.items() if not value.isfinite().all()]
        raise InputError(
            f"{name}: {len(wrong)} of its {len(tensors)} tensors hold NaN or infinity ({wrong[0]}). {remedy}"
        )


@dataclass
class Step:
    """What is kept of an optimizer step until it is known that its numbers were finite."""

    number: int
    terms: list[str]
    flags: torch.Tensor  # of each term, of the gradient: whether it is not finite; the number of a signal
    ready: torch.Event | None  # when they have arrived from the device
    norms: dict[str, torch.Tensor]  # of each parameter's gradient
    batches: list[dict[str, Any]]

    def wrong(self) -> tuple[str, str | None] | None:
        """What is not finite, a term or the gradient, and the first parameter where the gradient is not."""
        *flags, _ = self.flags.tolist()
        name = next((name for name, flag in zip(self.terms, flags) if flag), None)
        if name is None:
            return None
        norms = zip(self.norms, torch.stack(list(self.norms.values())).tolist()) if self.norms else ()
        return name, next((key for key, norm in norms if norm - norm != 0), None) if name == GRADIENT else None


class StepWatch:
    """
    Looks at the loss terms and the gradient of each optimizer step before the step is taken.

    On the CPU the answer is there at once, and the step is not taken. On a device it would have to be waited for.
    There (`late`) it is read after the next step, in whose losses the host has waited for the device anyway; until
    then the device itself sees to it that nothing gets in: a gradient that is not finite becomes 0, and the
    statistics of BatchNorm are put back. So neither student nor teacher ever hold what is not finite, and what reads
    or writes them settles the last step before.
    """

    def __init__(self, model: nn.Module, late: bool):
        self.late = late
        self._parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}
        self._buffers = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
        self._kept = [buffer.clone() for buffer in self._buffers]
        self._batches: list[dict[str, Any]] = []
        self._wrong: torch.Tensor | None = None
        self._terms: list[str] = []
        self._steps: list[Step] = []

    @torch.no_grad()
    def before(self, batch: dict[str, Any]) -> None:
        """Called before the forward pass of each of a step's batches."""
        if not self._batches and self._buffers:
            torch._foreach_copy_(self._kept, self._buffers)
        self._batches.append(batch)

    def after(self, terms: Mapping[str, torch.Tensor]) -> None:
        """Called after the backward pass, with the values of the loss."""
        values = torch.stack([value.detach().float() for value in terms.values()])
        # x - x is 0 unless x is NaN or infinite
        wrong = values.sub(values).ne(0)
        same = self._wrong is not None and list(terms) == self._terms
        self._wrong = self._wrong | wrong if same else wrong
        self._terms = list(terms)

    @torch.no_grad()
    def end(self, number: int, gradient: bool, signal: int) -> None:
        """
        Called when the gradient is complete. `gradient` says whether it has to be finite: a scaler of fp16 looks
        at it itself. `signal` joins what the processes tell one another.
        """
        norms = {}
        wrong = torch.zeros((), dtype=torch.bool, device=self._wrong.device)
        if gradient:
            gradients = {name: p.grad for name, p in self._parameters.items() if p.grad is not None}
            norms = dict(zip(gradients, torch._foreach_norm(list(gradients.values()))))
            total = torch.linalg.vector_norm(torch.stack(list(norms.values())))  # as clipping takes it
            wrong = total.sub(total).ne(0)
        flags = torch.cat([self._wrong, wrong[None]]).int()
        flags = torch.cat([flags, torch.full((1,), signal, dtype=torch.int32, device=flags.device)])
        if are_several():
            torch.distributed.all_reduce(flags, torch.distributed.ReduceOp.MAX)
        ready = None
        if self.late:
            self._put_back(flags[:-1].any())
            flags = flags.to("cpu", non_blocking=True)  # into pinned memory
            if gradient_device := next((p.device for p in self._parameters.values() if p.device.type != "cpu"), None):
                ready = torch.Event(gradient_device)
                ready.record()
        self._steps.append(Step(number, [*self._terms, GRADIENT], flags, ready, norms, self._batches))
        self._batches, self._wrong = [], None

    def settle(self, all_steps: bool) -> tuple[Step | None, int]:
        """
        The step that was not finite, if one was, and the number of a signal that a process has got. The last step is
        looked at where that costs no waiting, or with `all_steps`.
        """
        signal = 0
        while len(self._steps) > (self.late and not all_steps):
            step = self._steps.pop(0)
            if step.ready is not None:
                step.ready.synchronize()
            signal = max(signal, int(step.flags[-1]))
            if step.wrong():
                if not self.late and self._buffers:
                    torch._foreach_copy_(self._buffers, self._kept)
                return step, signal
        return None, signal

    def _put_back(self, wrong: torch.Tensor) -> None:
        for parameter in self._parameters.values():
            if parameter.grad is not None:
                parameter.grad.masked_fill_(wrong, 0)
        for buffer, kept in zip(self._buffers, self._kept):
            torch.where(wrong, kept, buffer, out=buffer)


def finite(values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the values that are no NaN and not infinite: JSON knows neither."""
    return {name: value for name, value in values.items() if not isinstance(value, float) or value - value == 0}


def tensors_of(batches: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
    """The tensors of batches, numbered, as a file of safetensors takes them."""
    return {
        f"{i}.{name}": value.detach().cpu().contiguous()
        for i, batch in enumerate(batches)
        for name, value in batch.items()
        if isinstance(value, torch.Tensor)
    }

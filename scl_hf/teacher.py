"""The teacher: an exponential moving average (EMA) of the student's weights."""

from collections.abc import Iterable

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from .processes import are_several


class EMATeacher(AveragedModel):
    """
    θ_teacher ← decay · θ_teacher + (1 − decay) · θ_student, once per training step, for the parameters and for the
    statistics of BatchNorm. It starts as a copy of the student, is always in evaluation mode, and takes no gradient.
    The averaged network itself is `.module`.

    Args:
        student (`torch.nn.Module`): The network that is trained, not wrapped in DDP.
        decay (`float`, *optional*, defaults to 0.999): Weight of the teacher's own past ("EMA weight" in section 4.1).
    """

    def __init__(self, student: nn.Module, decay: float = 0.999):
        average = get_ema_multi_avg_fn(decay)

        def average_floats(teacher: list[torch.Tensor], student: list[torch.Tensor], num_averaged: int) -> None:
            """Tensors of one type; counters and indices stay, for an average of whole numbers rounds down."""
            if teacher[0].is_floating_point():
                average(teacher, student, num_averaged)

        super().__init__(student, multi_avg_fn=average_floats, use_buffers=True)
        # AveragedModel copies at its first update, whatever the decay: spend that one on the initial weights.
        super().update_parameters(student)
        # DDP trains what rank 0 starts with: a head with random weights may differ elsewhere.
        _broadcast(self.module.state_dict().values())
        self.requires_grad_(False)
        self.eval()

    @torch.no_grad()
    def update_parameters(self, student: nn.Module) -> None:
        """One step of the average. Under DDP, every rank calls it with its replica and all teachers stay equal."""
        # Each rank's BatchNorm has seen its own images since DDP last shared the statistics.
        _broadcast(student.buffers())
        super().update_parameters(student)


def _broadcast(tensors: Iterable[torch.Tensor]) -> None:
    if are_several():
        for tensor in tensors:
            torch.distributed.broadcast(tensor, src=0)

"""The teacher: an exponential moving average (EMA) of the student's weights."""

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


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
        super().__init__(student, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
        # AveragedModel copies at its first update, whatever the decay: spend that one on the initial weights.
        super().update_parameters(student)
        self.requires_grad_(False)
        self.eval()

    @torch.no_grad()
    def update_parameters(self, student: nn.Module) -> None:
        """One step of the average. Under DDP, every rank calls it with its replica and all teachers stay equal."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            # Each rank's BatchNorm has seen its own images since DDP last shared the statistics.
            for buffer in student.buffers():
                torch.distributed.broadcast(buffer, src=0)
        super().update_parameters(student)

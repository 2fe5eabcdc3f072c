"""The teacher: an exponential moving average (EMA) of the student's weights."""

import copy
from collections.abc import Iterable

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import TrainerCallback

from .processes import are_several


class EMATeacher(AveragedModel):
    """
    θ_teacher ← decay · θ_teacher + (1 − decay) · θ_student, once per training step, for parameters and BatchNorm
    statistics. Starts as a copy of the student, stays in evaluation mode, takes no gradient. `.module` is the network.

    Args:
        student (`torch.nn.Module`): The network that is trained, not wrapped in DDP.
        decay (`float`, *optional*, defaults to 0.999): Weight of the teacher's own past ("EMA weight" in section 4.1).
    """

    def __init__(self, student: nn.Module, decay: float = 0.999):
        average = get_ema_multi_avg_fn(decay)

        def average_floats(teacher: list[torch.Tensor], student: list[torch.Tensor], num_averaged: int) -> None:
            if teacher[0].is_floating_point():  # counters and indices stay: an average of integers rounds down
                average(teacher, student, num_averaged)

        super().__init__(student, multi_avg_fn=average_floats, use_buffers=True)
        # AveragedModel copies at its first update, whatever the decay: spend that one on the initial weights.
        super().update_parameters(student)
        _broadcast(self.module.state_dict().values())  # DDP trains the weights of rank 0; a random head may differ
        self.requires_grad_(False)
        self.eval()

    @torch.no_grad()
    def update_parameters(self, student: nn.Module) -> None:
        """Takes one step of the average. Under DDP every rank calls it, and all teachers stay equal."""
        _broadcast(student.buffers())  # each rank's BatchNorm has seen its own images
        super().update_parameters(student)


def _broadcast(tensors: Iterable[torch.Tensor]) -> None:
    if are_several():
        for tensor in tensors:
            torch.distributed.broadcast(tensor, src=0)


class TeacherCallback(TrainerCallback):
    """Updates the teacher after each step, and its frozen copy after each `teacher_update_interval`."""

    def __init__(self, teacher: EMATeacher):
        self.teacher = teacher
        self.frozen: nn.Module | None = None

    def on_train_begin(self, args, state, control, **kwargs):
        self._freeze(args, state)

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.teacher.update_parameters(model)
        self._freeze(args, state)

    def _freeze(self, args, state):
        if args.semi_supervised and args.updates_teacher(state.global_step, state.max_steps):
            self.frozen = copy.deepcopy(self.teacher.module)

"""The teacher: an exponential moving average (EMA) of the student's weights."""

import copy
from itertools import chain

import torch
from torch import nn
from transformers import TrainerCallback

from .processes import are_several


class EMATeacher(nn.Module):
    """
    θ_teacher ← decay · θ_teacher + (1 − decay) · θ_student, once per training step, for parameters and BatchNorm
    statistics. Starts as a copy of the student, stays in evaluation mode, takes no gradient. `.module` is the network.

    Args:
        student (`torch.nn.Module`): The network that is trained, not wrapped in DDP.
        decay (`float`, *optional*, defaults to 0.999): Weight of the teacher's own past ("EMA weight" in section 4.1).
    """

    def __init__(self, student: nn.Module, decay: float = 0.999):
        super().__init__()
        self.module, self.decay = copy.deepcopy(student).requires_grad_(False), decay
        _broadcast(_floats(self.module))  # DDP trains the weights of rank 0; a random head may differ
        self.eval()

    @torch.no_grad()
    def update_parameters(self, student: nn.Module) -> None:
        """Takes one step of the average. Under DDP every rank calls it, and all teachers stay equal."""
        # Without SyncBatchNorm, each rank has statistics of its own images.
        _broadcast([buffer for buffer in student.buffers() if buffer.is_floating_point()])
        # Not by torch's AveragedModel: the host would read its counter, and wait for the device, in every step.
        torch._foreach_lerp_(_floats(self.module), _floats(student), 1 - self.decay)


def _floats(model: nn.Module) -> list[torch.Tensor]:
    """Returns parameters and buffers without counters and indices: an average of integers rounds down."""
    return [tensor for tensor in chain(model.parameters(), model.buffers()) if tensor.is_floating_point()]


def _broadcast(tensors: list[torch.Tensor]) -> None:
    """Copies the values of rank 0 to all ranks, in one message."""
    if tensors and are_several():
        values = torch.cat([tensor.flatten() for tensor in tensors])
        torch.distributed.broadcast(values, src=0)
        sizes = [tensor.numel() for tensor in tensors]
        torch._foreach_copy_(tensors, [part.view_as(to) for part, to in zip(values.split(sizes), tensors)])


class TeacherCallback(TrainerCallback):
    """Updates the teacher after each step, and its frozen copy at each `teacher_update_interval` or round."""

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

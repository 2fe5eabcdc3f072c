import copy

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from scl_hf.teacher import EMATeacher


def make_student():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout(0.5))


def test_it_starts_as_a_copy_and_the_first_update_is_an_average_already():
    student = make_student()
    teacher = EMATeacher(student, decay=0.9)
    start = copy.deepcopy(student.state_dict())
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(1)
    teacher.update_parameters(student)
    for name, value in teacher.module.named_parameters():
        torch.testing.assert_close(value, start[name] + 0.1)


def test_batch_norm_statistics_are_averaged_too():
    student = make_student()
    teacher = EMATeacher(student, decay=0.75)
    for _ in range(3):
        before = copy.deepcopy(teacher.module[1].running_mean)
        student(torch.randn(8, 3, 5, 5) + 2)
        teacher.update_parameters(student)
        torch.testing.assert_close(teacher.module[1].running_mean, 0.75 * before + 0.25 * student[1].running_mean)
    assert teacher.module[1].num_batches_tracked.dtype == torch.int64


def test_whole_numbers_stay_and_are_not_averaged():
    """Attention looks position biases up by indices, which an average of whole numbers, rounded down, would move."""
    student = make_student()
    student.register_buffer("index", torch.arange(9), persistent=False)
    teacher = EMATeacher(student, decay=0.999)
    for _ in range(50):
        student[1].num_batches_tracked += 1
        teacher.update_parameters(student)
    assert torch.equal(teacher.module.index, torch.arange(9))
    assert teacher.module[1].num_batches_tracked == 0


def test_it_is_in_evaluation_mode_and_takes_no_gradient():
    student = make_student().train()
    teacher = EMATeacher(student)
    assert student.training and not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_the_average_has_the_bits_of_torchs():
    student = make_student()
    teacher, torchs = EMATeacher(student), AveragedModel(student, multi_avg_fn=get_ema_multi_avg_fn(0.999))
    torchs.update_parameters(student)  # a copy
    for _ in range(3):
        with torch.no_grad():
            for parameter in student.parameters():
                parameter.add_(torch.randn_like(parameter))
        for average in (teacher, torchs):
            average.update_parameters(student)
    for ours, theirs in zip(teacher.parameters(), torchs.parameters(), strict=True):
        assert torch.equal(ours, theirs)

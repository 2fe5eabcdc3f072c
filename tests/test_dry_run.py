"""What a dry run says, against counts by hand and against what the trainer does."""

import math
from collections import Counter

import pytest
import torch
from conftest import TINY, tiny_model
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SemanticSegmenterOutput

from scl_hf import DeepLabV3PlusConfig, DeepLabV3PlusForSemanticSegmentation, SemiSupervisedConfig
from scl_hf.dry_run import (
    DryRunArguments,
    LiveBytes,
    RunPlan,
    StepCost,
    batch_bytes,
    count_centered_crops,
    memory_parts,
    optimizer_bytes_per_value,
    step_cost,
)
from scl_hf.errors import InputError
from scl_hf.models import BackboneDPTConfig, BackboneDPTForSemanticSegmentation


class ThreeConvolutions(PreTrainedModel):
    """3 → 8 channels, each of them alone, 8 → 4 classes."""

    config_class = PreTrainedConfig

    def __init__(self, config):
        super().__init__(config)
        self.first = nn.Conv2d(3, 8, 3, padding=1, stride=2)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.classifier = nn.Conv2d(8, 4, 1)
        self.post_init()

    def forward(self, pixel_values):
        return SemanticSegmenterOutput(logits=self.classifier(self.depthwise(self.first(pixel_values))))


def settings(tmp_path, **fields):
    fields = {"crop_size": [32, 64], "use_cpu": True, "report_to": "none", "semi_supervised_start_step": 0} | fields
    return SemiSupervisedConfig(str(tmp_path / "run"), **fields)


def test_flops_are_those_counted_by_hand(tmp_path):
    pixels = 16 * 32  # at stride 2
    first, depthwise, classifier = 2 * pixels * 8 * 3 * 9, 2 * pixels * 8 * 9, 2 * pixels * 8 * 4
    for crops in ((1, 0), (3, 3)):  # an image is an image
        cost = step_cost(ThreeConvolutions(PreTrainedConfig()), settings(tmp_path), *crops)
        assert cost.teacher_flops == first + depthwise + classifier
        # Backward: a gradient of weights and one of what comes in, but for that of the image
        assert cost.student_flops == 2 * first + 3 * depthwise + 3 * classifier


def test_a_vision_transformer_whose_initialization_reads_values_is_counted(tmp_path):
    sizes = {"hidden_size": 24, "num_hidden_layers": 4, "num_attention_heads": 2, "image_size": 56}
    config = BackboneDPTConfig(backbone_config={"model_type": "dinov2", **sizes}, num_labels=4)
    cost = step_cost(BackboneDPTForSemanticSegmentation(config), settings(tmp_path, crop_size=[28, 56]), 1, 1)
    assert cost.student_flops > 2 * cost.teacher_flops > 0


def test_weights_that_are_frozen_take_no_gradient(tmp_path):
    model = ThreeConvolutions(PreTrainedConfig())
    whole = step_cost(model, settings(tmp_path), 1, 1)
    model.first.requires_grad_(False)
    assert whole.student_flops - step_cost(model, settings(tmp_path), 1, 1).student_flops == 2 * 16 * 32 * (216 + 72)


def test_the_papers_step(tmp_path):
    with torch.device("meta"):
        model = DeepLabV3PlusForSemanticSegmentation(DeepLabV3PlusConfig())
    args = settings(tmp_path, crop_size=[896, 896], per_device_train_batch_size=1)
    cost = step_cost(model, args, 1, 1)
    assert 2 * cost.student_flops == pytest.approx(26.8e12, rel=0.01)
    assert 2 * cost.teacher_flops == pytest.approx(8.9e12, rel=0.01)
    plan = RunPlan.of(args, 2975, num_gpus=8)
    assert plan.steps == 65_100
    assert plan.flops(cost)[1] == pytest.approx(35.7e12, rel=0.01)
    assert plan.flops(cost)[2] == pytest.approx(65_100 * 8 * 35.7e12, rel=0.01)


def test_mixed_precision_and_checkpointing_hold_less(tmp_path):
    model = tiny_model({i: str(i) for i in range(3)})
    plain, half, recomputed = (
        step_cost(model, settings(tmp_path, **fields), 2, 2)
        for fields in ({}, {"bf16": True}, {"gradient_checkpointing": True})
    )
    assert half.student_flops == plain.student_flops < recomputed.student_flops
    assert half.activation_bytes < 0.8 * plain.activation_bytes
    assert recomputed.activation_bytes < plain.activation_bytes


@pytest.mark.parametrize(
    "optim, optim_args, expected", [("sgd", "momentum=0.9", 4), ("sgd", None, 0), ("adamw_torch", None, 8)]
)
def test_state_of_the_optimizer(tmp_path, optim, optim_args, expected):
    args = settings(tmp_path, optim=optim, optim_args=optim_args)
    assert optimizer_bytes_per_value(ThreeConvolutions(PreTrainedConfig()), args) == expected


def test_steps_and_centered_crops_are_those_of_the_trainer(make_trainer):
    trainer = make_trainer(
        max_steps=-1,
        num_train_epochs=1.5,
        gradient_accumulation_steps=2,
        class_uniform_share=0.5,
        class_uniform_tile=32,
    )
    trainer.train()
    plan = RunPlan.of(trainer.args, 5)
    assert (plan.steps, plan.batch_size, plan.epoch_steps) == (trainer.state.max_steps, 4, 2)
    samples = [pair.labeled for step in range(plan.steps) for pair in trainer._epochs.sampler.of_step(step)]
    assert len(samples) == plan.labeled_crops
    counts = count_centered_crops(trainer._labeled_sampler, plan)
    assert counts.total() == sum(sample.center is not None for sample in samples) > 0
    index = trainer._labeled_sampler.class_index
    for category, number in counts.items():
        centroids = Counter((int(row), float(x), float(y)) for row, x, y, _ in index.fine[category])
        assert number <= sum((sample.row, *sample.center) in centroids for sample in samples if sample.center)


def test_a_supervised_start(tmp_path):
    args = settings(tmp_path, max_steps=10, semi_supervised_start_step=4, per_device_train_batch_size=3)
    plan = RunPlan.of(args, 5)
    assert (plan.labeled_crops, plan.unlabeled_crops, plan.supervised_steps) == (30, 2 * 6 * 3, 4)
    cost = StepCost(student_flops=100, teacher_flops=10, activation_bytes=0)
    assert plan.flops(cost)[:2] == (300, 600 + 60)
    share = settings(tmp_path, max_steps=10, semi_supervised_start_step=0.4, per_device_train_batch_size=3)
    assert RunPlan.of(share, 5) == plan
    late = RunPlan.of(settings(tmp_path, max_steps=10, semi_supervised_start_step=20), 5)
    never = settings(tmp_path, max_steps=10, consistency_weight=0, structured_consistency_weight=0)
    for plan in (late, RunPlan.of(never, 5)):
        assert (plan.supervised_steps, plan.unlabeled_crops) == (10, 0)


@pytest.mark.parametrize("fields", [{}, {"consistency_weight": 0, "structured_consistency_weight": 0}])
def test_memory_is_about_that_of_a_real_step(make_trainer, toy_data, fields):
    model = DeepLabV3PlusForSemanticSegmentation(
        DeepLabV3PlusConfig(**TINY | {"depths": [1, 2, 2, 2, 1, 1]}, id2label=toy_data.id2label)
    )
    trainer = make_trainer(model=model, crop_size=[64, 64], **fields)
    args, semi = trainer.args, not fields
    batch = next(iter(trainer.get_train_dataloader()))
    for parameter in trainer.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    trainer.model.train()
    with LiveBytes() as live:
        trainer.compute_loss(trainer.model, batch).backward()
    given = sum(value.numel() * value.element_size() for value in batch.values() if isinstance(value, torch.Tensor))

    plan = RunPlan.of(args, len(toy_data.labeled))
    cost = step_cost(trainer.model, args, 2, 2 if semi else 0)
    parts = memory_parts(trainer.model, args, plan, cost, batch_bytes(trainer._crops, trainer._labeled_sampler, args))
    assert parts["batch"] - given == (3 * 2 * 3 * 64 * 64 * 4 if semi else 0)
    assert given + live.peak == pytest.approx(parts["batch"] + parts["activations"], rel=0.1)
    assert parts["weights"] == parts["EMA model"] and parts["gradients"] == parts["optimizer"]  # SGD with momentum
    assert "frozen teacher" not in parts and "buckets of DDP" not in parts


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"dry_run": True, "tflops_per_second": 0.0}, "tflops_per_second: must be above 0, got 0.0"),
        ({"dry_run": True, "tflops_per_second": math.inf}, "tflops_per_second: must be finite"),
        ({"dry_run": True, "num_gpus": -1}, "num_gpus: must be above 0, got -1"),
        ({"num_gpus": 8}, "num_gpus: is for a dry run; add --dry_run true"),
    ],
)
def test_wrong_arguments(fields, message):
    with pytest.raises(InputError, match=message):
        DryRunArguments(**fields)

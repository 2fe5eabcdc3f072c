"""The settings: what differs from transformers', and what their documentation says of it."""

import re
from dataclasses import MISSING, fields

import pytest
from transformers import TrainingArguments

from scl_hf import SemiSupervisedConfig
from scl_hf.data import AugmentationArguments, SamplingArguments
from scl_hf.errors import InputError, SharedError
from scl_hf.evaluation.scoring import EvaluationArguments
from scl_hf.files import FolderLock


def defaults(dataclass_type):
    def default(field):
        return field.default if field.default_factory is MISSING else field.default_factory()

    return {field.name: default(field) for field in fields(dataclass_type)}


def test_the_docstring_lists_every_default_that_differs_from_upstream():
    ours, theirs = defaults(SemiSupervisedConfig), defaults(TrainingArguments)
    differing = {name: (ours[name], value) for name, value in theirs.items() if ours[name] != value}
    listed = re.findall(r"> - `(\w+)`: Defaults to `(.+?)` instead of `(.+?)`", SemiSupervisedConfig.__doc__)
    assert {name: (eval(own), eval(upstream)) for name, own, upstream in listed} == differing


@pytest.mark.parametrize("inherited", [SamplingArguments, AugmentationArguments, EvaluationArguments])
def test_every_field_of_the_parts_is_one_of_the_whole(inherited):
    assert defaults(inherited).items() <= defaults(SemiSupervisedConfig).items()


@pytest.mark.parametrize("part", [SemiSupervisedConfig, SamplingArguments, AugmentationArguments, EvaluationArguments])
def test_every_own_field_is_documented_with_its_default(part):
    own = set(defaults(part))
    if part is SemiSupervisedConfig:
        inherited = (TrainingArguments, SamplingArguments, AugmentationArguments, EvaluationArguments)
        own -= {name for other in inherited for name in defaults(other)}
    documented = dict(re.findall(r"^ +(\w+) \(`.+?`, \*optional\*(?:, defaults to (.+?))?\):", part.__doc__, re.M))
    assert set(documented) == own
    for name, written in documented.items():
        value = defaults(part)[name]
        assert str(value) == (written.strip("`").strip('"') or "None") or written == "1/3", name


def test_processes_that_do_not_know_each_other(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")  # as torchrun does; no group is joined, as without a GPU and `use_cpu`
    with pytest.raises(SharedError, match="WORLD_SIZE: the 2 processes of this launch .* Add --use_cpu true"):
        SemiSupervisedConfig(str(tmp_path / "run"))
    with pytest.raises(SharedError, match="WORLD_SIZE"):
        FolderLock("output_dir", tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("launcher", ["FSDP", "DEEPSPEED"])
def test_sharding_by_the_launcher_is_refused_as_the_field_is(tmp_path, monkeypatch, launcher):
    monkeypatch.setenv(f"ACCELERATE_USE_{launcher}", "true")
    with pytest.raises(InputError, match=f"ACCELERATE_USE_{launcher}: must be left out: several GPUs work with DDP"):
        SemiSupervisedConfig(str(tmp_path))


def test_half_precision_on_the_cpu_is_refused(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="^fp16: needs a GPU"):
        SemiSupervisedConfig(str(tmp_path), fp16=True, use_cpu=True)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    with pytest.raises(InputError, match="^fp16: needs a GPU"):
        SemiSupervisedConfig(str(tmp_path), use_cpu=True)


def test_ranges_of_the_parts_are_checked_in_the_whole(tmp_path):
    for field in (
        {"class_uniform_share": 2},
        {"crop_size": [4]},
        {"eval_overlap": 1},
        {"num_boxes": 0},
        {"ignore_data_skip": True},
        {"enable_jit_checkpoint": True},
        {"learning_rate": float("nan")},
        {"consistency_weight": float("inf")},
        {"backbone_learning_rate": float("inf")},
        {"eval_scales": [float("nan")]},
        {"lr_scheduler_kwargs": {"power": float("nan")}},
        {"optim_args": "momentum=nan"},
        {"learning_rate": float("inf")},
        {"scale_range": [0.5, float("inf")]},
        {"weight_decay": -0.1},
        {"seed": 2**32},
        {"data_seed": -1},
        {"save_steps": 0},
        {"eval_steps": 0},
        {"logging_steps": 0},
        {"report_to": ["tensorbord"]},
        {"semi_supervised_start_step": 1.5},
        {"semi_supervised_ramp_steps": -1},
        {"teacher_update_interval": 0},
    ):
        (name,) = field
        with pytest.raises(InputError, match=f"^{name}: must be"):
            SemiSupervisedConfig(output_dir=str(tmp_path), use_cpu=True, **field)
    assert SemiSupervisedConfig(output_dir=str(tmp_path), use_cpu=True, crop_size=64).crop_size == [64, 64]


def test_lengths_are_steps_or_shares_of_the_run(tmp_path):
    def args(**fields):
        return SemiSupervisedConfig(output_dir=str(tmp_path), use_cpu=True, **fields)

    names = ("semi_supervised_start_step", "semi_supervised_ramp_steps", "teacher_update_interval")
    steps, shares = args(**dict(zip(names, (4, 2, 3)))), args(**dict(zip(names, (0.4, 0.2, 0.3))))
    assert [getattr(steps, name) for name in names] == [4, 2, 3] and isinstance(steps.teacher_update_interval, int)
    for config, max_steps in ((steps, 10), (steps, 999), (shares, 10)):
        assert config.start_step(max_steps) == 4
        assert [config.ramp(step, max_steps) for step in range(7)] == [0, 0, 0, 0, 0.5, 1, 1]
        assert [step for step in range(12) if config.updates_teacher(step, max_steps)] == [4, 7, 10]
    # Rounded to whole steps, and at least one
    assert [shares.start_step(number) for number in (1, 2, 4, 100)] == [1, 1, 2, 40]
    assert args(semi_supervised_start_step=0).start_step(100) == 0
    assert not args(teacher_update_interval=None).updates_teacher(0, 10)

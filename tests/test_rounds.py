"""`self_training_rounds`: the phases of a run, what they set, and what a run says of them."""

import dataclasses
import signal

import pytest
import torch
from conftest import build_trainer
from transformers import TrainerCallback

from scl_hf import SemiSupervisedConfig
from scl_hf.checkpointing import signals
from scl_hf.checkpointing.signals import Interrupted
from scl_hf.errors import InputError
from scl_hf.rounds import describe_gains, scores_of_phases

ROUNDS = {"self_training_rounds": 2, "max_steps": 6, "semi_supervised_start_step": None, "lr_scheduler_type": None}
ROUNDS |= {"semi_supervised_ramp_steps": 0, "eval_strategy": "steps", "eval_steps": 100, "warmup_steps": 0}
ROUNDS |= {"ema_decay": 0.5, "panel_images": 0, "lr_scheduler_kwargs": None}


def args(**fields):
    return SemiSupervisedConfig("unused", **{"self_training_rounds": 2, "max_steps": 1200} | fields)


def test_phases_are_equal_and_each_round_begins_with_a_copy():
    settings = args()
    assert settings.phase_ends(1200) == [400, 800, 1200] and settings.start_step(1200) == 400
    assert [step for step in range(1201) if settings.updates_teacher(step, 1200)] == [400, 800]
    assert settings.lr_scheduler_type == "cosine_with_restarts" and settings.lr_scheduler_kwargs == {"num_cycles": 3}
    assert [settings.phase_of(step, 1200) for step in (0, 1, 400, 401, 800, 801, 1200)] == [0, 0, 0, 1, 1, 2, 2]
    assert settings.phase_ends(1000) == [334, 667, 1000]  # that do not divide the run
    assert [step for step in range(1001) if settings.updates_teacher(step, 1000)] == [334, 667]
    assert settings.lengths(1000)["semi_supervised_start_step"] == settings.start_step(1000) == 334
    single = args(self_training_rounds=0)
    assert single.lr_scheduler_type == "linear" and single.semi_supervised_start_step == 0.0625


def test_fields_given_by_hand():
    own = {"lr_scheduler_type": "constant", "semi_supervised_ramp_steps": 7, "warmup_steps": 5}
    settings = args(**own)
    assert {name: getattr(settings, name) for name in own} == own and settings.lr_scheduler_kwargs is None
    same = {"semi_supervised_start_step": 400, "teacher_update_interval": 1 / 3}
    same |= {"lr_scheduler_type": "cosine_with_restarts", "lr_scheduler_kwargs": '{"num_cycles": 3}'}
    spaced = same | {"lr_scheduler_kwargs": '{"num_cycles":3}'}
    assert args(**same) == args(**spaced) == args() == dataclasses.replace(args())
    assert dataclasses.replace(args(), max_steps=2400).start_step(2400) == 800


def test_the_rate_begins_anew_with_each_round(make_trainer):
    trainer = make_trainer(**ROUNDS | {"max_steps": 1000})
    trainer.create_optimizer_and_scheduler(1000)
    rate = trainer.lr_scheduler.lr_lambdas[0]
    assert [rate(end) for end in args().phase_ends(1000)[:2]] == pytest.approx([1, 1], abs=1e-4)
    assert max(rate(end - 1) for end in args().phase_ends(1000)) < 1e-4


@pytest.mark.parametrize(
    "fields, said",
    [
        ({"semi_supervised_start_step": 300}, "semi_supervised_start_step: 300 is not the length of a phase"),
        ({"teacher_update_interval": 0.5}, "teacher_update_interval: 0.5 is not the length of a phase"),
        (
            {"lr_scheduler_type": "cosine_with_restarts", "lr_scheduler_kwargs": {"num_cycles": 2}},
            r"lr_scheduler_kwargs: \{'num_cycles': 2\} is not one cycle a phase",
        ),
        ({"lr_scheduler_kwargs": "num_cycles=3"}, "lr_scheduler_kwargs: num_cycles=3 is not one cycle a phase"),
        ({"warmup_steps": 10}, "warmup_steps: 10 would delay the rate in each phase"),
    ],
)
def test_fields_that_contradict_the_rounds(fields, said):
    remedy = r"Leave it out, or self_training_rounds: 2 cuts max_steps 1200 into 3 equal phases\."
    with pytest.raises(InputError, match=f"^{said}. {remedy}$"):
        args(**fields)


def test_rounds_need_a_teacher():
    with pytest.raises(InputError, match="self_training_rounds: must be 0 where ema_teacher is off"):
        args(ema_teacher=False)
    with pytest.raises(InputError, match="self_training_rounds: must be 0 or more, got -1"):
        args(self_training_rounds=-1)


class Recorder(TrainerCallback):
    """Copies the EMA model after each step, and notes which model gave the step's pseudo-labels."""

    def __init__(self, trainer):
        self.trainer, self.copies, self.teachers, self.rates = trainer, [], [], []

    def on_step_end(self, args, state, control, **kwargs):
        weights = [value.clone() for value in self.trainer.teacher.module.state_dict().values()]
        self.copies.append(weights)
        self.rates.append(kwargs["optimizer"].param_groups[0]["lr"])

    def on_step_begin(self, args, state, control, **kwargs):
        frozen = self.trainer._teaching.frozen
        self.teachers.append(None if frozen is None else [*frozen.state_dict().values()])


def test_a_run_in_rounds(make_trainer, capsys):
    trainer = make_trainer(**ROUNDS)
    recorder = Recorder(trainer)
    trainer.add_callback(recorder)
    trainer.train()
    for step, teacher in enumerate(recorder.teachers):
        if step < 2:
            assert teacher is None
        else:  # the EMA model at the end of the phase before
            expected = recorder.copies[1 if step < 4 else 3]
            assert all(torch.equal(ours, theirs) for ours, theirs in zip(teacher, expected, strict=True))
    assert recorder.rates[1] == recorder.rates[3] > recorder.rates[0]  # anew at full height, then down
    log = trainer.state.log_history
    evaluated = [(entry["step"], entry["round"]) for entry in log if "eval_mean_iou" in entry]
    assert evaluated == [(2, 0), (4, 1), (6, 2)]
    assert [entry["round"] for entry in log if "loss" in entry] == sorted(
        entry["round"] for entry in log if "loss" in entry
    )
    assert all(("loss_c" in entry) == (entry["round"] > 0) for entry in log if "loss" in entry)
    printed = capsys.readouterr().out
    assert "supervised, steps 1 to 2\n" in printed
    assert "round 2, steps 5 to 6: pseudo-labels from the EMA model of step 4\n" in printed
    scores = scores_of_phases(log, True)
    assert [*scores] == ["supervised", "round 1", "round 2"] and scores["round 2"] == log[-2]["eval_mean_iou"]
    assert describe_gains(log, True).startswith(f"\nmean IoU   supervised {100 * scores['supervised']:.2f} → round 1 ")


def test_labels_alone_have_the_same_phases(toy_data, tmp_path):
    weights = {"consistency_weight": 0, "structured_consistency_weight": 0}
    trainer = build_trainer(toy_data, tmp_path, **ROUNDS | weights)
    trainer.train()
    assert [entry["round"] for entry in trainer.state.log_history if "eval_mean_iou" in entry] == [0, 1, 2]
    assert trainer._teaching.frozen is None
    assert describe_gains(trainer.state.log_history, False).startswith("\nmean IoU   supervised phase 1 ")


def test_evaluations_within_a_phase_are_not_its_score(make_trainer):
    trainer = make_trainer(**ROUNDS | {"eval_steps": 1})
    trainer.train()
    log = trainer.state.log_history
    assert [entry["step"] for entry in log if {"round", "eval_mean_iou"} <= entry.keys()] == [2, 4, 6]
    assert scores_of_phases([entry for entry in log if entry["step"] > 4], True) == {}  # one phase alone adds nothing


def test_fewer_steps_than_phases(make_trainer, tmp_path):
    with pytest.raises(InputError, match="self_training_rounds: must be below the run's 2 steps, got 2"):
        make_trainer(**ROUNDS | {"max_steps": 2})
    with pytest.raises(InputError, match="self_training_rounds: must be below the run's 3 steps, got 5"):
        make_trainer(**ROUNDS | {"max_steps": -1, "num_train_epochs": 1, "self_training_rounds": 5})
    assert not any(tmp_path.iterdir())


def test_a_resumed_run_goes_on_in_its_round(make_trainer):
    whole = make_trainer(**ROUNDS, save_strategy="steps", save_steps=3)
    whole.train()
    checkpoint = f"{whole.args.output_dir}/checkpoint-3"
    resumed = make_trainer(**ROUNDS, save_strategy="steps", save_steps=100)
    resumed.train(resume_from_checkpoint=checkpoint)
    expected = whole.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in resumed.model.state_dict().items())
    assert scores_of_phases(resumed.state.log_history, True) == scores_of_phases(whole.state.log_history, True)
    with pytest.raises(InputError, match=r"other values of self_training_rounds \(2 → 1\)"):
        make_trainer(**ROUNDS | {"self_training_rounds": 1}).train(resume_from_checkpoint=checkpoint)


@pytest.mark.parametrize("of", ["the last step of round 1", "its evaluation"])
def test_a_resumed_run_makes_up_for_the_evaluation_that_a_signal_broke_off(toy_data, tmp_path, capsys, of):
    def build(name):
        torch.manual_seed(0)  # of the first weights
        return build_trainer(toy_data, tmp_path / name, **ROUNDS, save_strategy="steps", save_steps=100)

    class Stop(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == 3 and of == "the last step of round 1":
                signal.raise_signal(signal.SIGTERM)

        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 4:  # after the trainer's own callbacks, which saw no signal yet
                signal.raise_signal(signal.SIGTERM)

    whole = build("whole")
    whole.train()
    stopped = build("stopped")
    stopped.add_callback(Stop())
    with pytest.raises(Interrupted, match="143"), signals.deferred():
        stopped.train()
    assert [log["step"] for log in stopped.state.log_history if "eval_mean_iou" in log] == [2]
    resumed = build("stopped")
    capsys.readouterr()
    resumed.train(resume_from_checkpoint=True)
    printed = capsys.readouterr().out
    assert printed.index("step 4: EMA model") < printed.index("round 2, steps 5 to 6") < printed.index("step 6: EMA")
    assert scores_of_phases(resumed.state.log_history, True) == scores_of_phases(whole.state.log_history, True)
    expected = whole.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in resumed.model.state_dict().items())


def test_a_run_without_rounds_says_nothing_of_them(make_trainer):
    trainer = make_trainer(eval_strategy="steps", eval_steps=2, panel_images=0)
    trainer.train()
    assert describe_gains(trainer.state.log_history, True) == ""

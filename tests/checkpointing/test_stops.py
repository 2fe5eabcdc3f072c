"""Runs that are stopped: by a signal, by numbers that are not finite, by a full disk."""

import errno
import functools
import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import build_trainer
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import get_last_checkpoint

from scl_hf.checkpointing import signals
from scl_hf.checkpointing.signals import Interrupted
from scl_hf.errors import InputError, NotFiniteError
from scl_hf.evaluation import scoring


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


class At(TrainerCallback):
    """Does something at one step: before it, after it, or while its checkpoint is written."""

    def __init__(self, step, action, event="on_step_begin"):
        self.step = step
        setattr(self, event, lambda args, state, *_, **__: action() if state.global_step == step else None)


def kill(number=signal.SIGTERM):
    os.kill(os.getpid(), number)


FIELDS = {"max_steps": 5, "save_strategy": "steps", "save_steps": 100, "eval_strategy": "steps", "eval_steps": 3}


@pytest.fixture(scope="module")
def undisturbed(toy_data, tmp_path_factory):
    torch.manual_seed(1)
    trainer = build_trainer(toy_data, tmp_path_factory.mktemp("undisturbed"), panel_images=0, **FIELDS)
    trainer.train()
    return trainer


@pytest.mark.parametrize(
    ("number", "event", "step", "workers", "stops_at"),
    [
        (signal.SIGTERM, "on_step_begin", 1, 0, 2),
        (signal.SIGINT, "on_epoch_begin", 0, 2, 1),  # the workers are about to start
        (signal.SIGUSR1, "on_step_begin", 2, 2, 3),  # an evaluation is due after the step
        (signal.SIGHUP, "in evaluation", 3, 0, 3),
        (signal.SIGTERM, "on_save", 5, 0, 5),
    ],
)
def test_a_signal_ends_the_run_after_a_complete_step_and_nothing_is_lost(
    toy_data, undisturbed, tmp_path, monkeypatch, number, event, step, workers, stops_at
):
    fields = FIELDS | {"panel_images": 0, "dataloader_num_workers": workers}
    torch.manual_seed(1)
    trainer = build_trainer(toy_data, tmp_path, **fields)
    if event == "in evaluation":
        predict = scoring.predict_image
        monkeypatch.setattr(scoring, "predict_image", lambda *args: kill(number) or predict(*args))
    else:
        trainer.add_callback(At(step, lambda: kill(number), event))
    outside = signal.getsignal(number)
    if outside == signal.SIG_IGN:  # nohup started the tests
        signal.signal(number, signal.SIG_DFL)
    before = signal.getsignal(number)
    with pytest.raises(Interrupted) as stop, signals.deferred():
        trainer.train()
        trainer.final_metrics()
    assert signal.getsignal(number) is before
    signal.signal(number, outside)
    monkeypatch.undo()
    assert stop.value.code == 128 + number
    assert f"{number.name} after " in stop.value.line and "--resume_from_checkpoint true resumes" in stop.value.line
    checkpoint = get_last_checkpoint(str(tmp_path))
    assert checkpoint.endswith(f"-{stops_at}") and checkpoint in stop.value.line
    assert not list(tmp_path.glob("*.safetensors")) and not (tmp_path / "README.md").exists()

    if stops_at < 5:
        torch.manual_seed(2)
        rest = build_trainer(toy_data, tmp_path, **fields)
        rest.train(resume_from_checkpoint=checkpoint)
        assert same(rest.model.state_dict(), undisturbed.model.state_dict())
        assert same(rest.teacher.module.state_dict(), undisturbed.teacher.module.state_dict())

        def logs(trainer, *names):
            return [[log.get(name) for name in ("step", *names)] for log in trainer.state.log_history]

        # All steps are there. The evaluation that the signal broke off is left out, the next one is as it was.
        of_both = [[log for log in logs(t, "loss") if any(log[1:])] for t in (rest, undisturbed)]
        assert of_both[0] == of_both[1]
        scores = [[log for log in logs(t, "eval_mean_iou") if any(log[1:])] for t in (rest, undisturbed)]
        assert scores[0] == [log for log in scores[1] if log[0] != stops_at]


def test_save_only_model_and_no_saving_at_all_are_no_reason_to_lose_a_run(make_trainer):
    for fields in ({"save_only_model": True, "save_strategy": "steps", "save_steps": 1}, {"save_strategy": "no"}):
        trainer = make_trainer(**fields)
        trainer.add_callback(At(1, kill))
        handler = signal.getsignal(signal.SIGTERM)
        with pytest.raises(Interrupted), signals.deferred():
            trainer.train()
        signal.signal(signal.SIGTERM, handler)
        assert (Path(trainer.args.output_dir) / "checkpoint-2/optimizer.pt").is_file()
        assert trainer.args.save_only_model == fields.get("save_only_model", False)  # for another `train`
        assert trainer.args.hub_strategy == "every_save"


def test_a_script_on_its_way_out_takes_the_signals_of_its_launcher_for_no_others():
    """In a notebook, that is, without `cli.run_script`, the handlers are those of before."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    before = [signal.getsignal(number) for number in numbers]
    with pytest.raises(Interrupted), signals.deferred():
        kill()
    assert [signal.getsignal(number) for number in numbers] == before
    if not (child := os.fork()):
        try:
            with signals.deferred():
                kill()
        except Interrupted as stop:
            signals.leaving()
            kill(signal.SIGINT)
            kill()
            os._exit(stop.code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 143


def test_outside_of_deferred_signals_are_not_touched(make_trainer):
    trainer = make_trainer(max_steps=2)
    seen, before = [], signal.signal(signal.SIGUSR1, lambda number, frame: seen.append(number))
    trainer.add_callback(At(1, lambda: kill(signal.SIGUSR1)))
    trainer.train()
    signal.signal(signal.SIGUSR1, before)
    assert seen == [signal.SIGUSR1] and trainer.state.global_step == 2


# What is not finite, at step 3 of 5


def poison_pixel(trainer, poison):
    inner = trainer.training_step

    def training_step(model, inputs, *args):
        if poison():
            inputs["pixel_values"][0, 0, 0, 0] = float("nan")
        return inner(model, inputs, *args)

    trainer.training_step = training_step


def poison_pseudo_labels(trainer, poison):
    inner = trainer.teacher_probs
    trainer.teacher_probs = lambda *inputs: inner(*inputs) * (float("nan") if poison() else 1)


def poison_logit(trainer, poison):
    def hook(module, inputs, output):
        return output * (float("inf") if poison() else 1)

    trainer.model.decoder.classifier.register_forward_hook(hook)


def poison_gradient(trainer, poison):
    name, parameter = list(trainer.model.named_parameters())[7]
    parameter.register_hook(lambda gradient: gradient * (float("nan") if poison() else 1))
    return name


def poison_loss(trainer, poison):
    inner = trainer.compute_loss
    trainer.compute_loss = lambda *args, **kwargs: inner(*args, **kwargs) * (float("inf") if poison() else 1)


POISONS = {
    "loss": (poison_loss, "loss"),
    "logit": (poison_logit, "loss_x"),
    "pixel": (poison_pixel, "loss_x"),
    "pseudo-labels": (poison_pseudo_labels, "loss_c"),
    "gradient": (poison_gradient, "the gradient of {}"),
}


@pytest.mark.parametrize("kind", POISONS)
def test_what_is_not_finite_ends_the_run_before_the_step_is_taken(make_trainer, kind):
    poison, term = POISONS[kind]
    accumulated = 2 if kind == "logit" else 1
    fields = {"logging_steps": 100, "gradient_accumulation_steps": accumulated}
    trainer = make_trainer(max_steps=5, save_strategy="steps", save_steps=2, save_total_limit=1, **fields)
    name = poison(trainer, lambda: trainer.state.global_step == 2 and trainer.model.training)
    states = {}

    def keep():
        models = {"student": trainer.model, "teacher": trainer.teacher.module}
        states.update({key: {n: v.clone() for n, v in m.state_dict().items()} for key, m in models.items()})

    trainer.add_callback(At(2, keep, "on_step_begin"))
    with pytest.raises(InputError) as error:
        trainer.train()
    line, output = str(error.value), Path(trainer.args.output_dir)
    file = output / "_not_finite-step-000003.safetensors"
    assert line.startswith(f"step 3: {term.format(name)} is not a finite number") and "\n" not in line
    assert str(file) in line and "lower learning_rate" in line and "leftImg8bit" in line
    assert len(load_file(file)) == 7 * accumulated
    with safe_open(file, "pt") as kept:
        images = kept.metadata()["images"].splitlines()
    assert 4 <= len(images) <= 6 * accumulated and all(Path(image).is_file() for image in images)
    assert [path.name for path in output.glob("checkpoint-*")] == ["checkpoint-2"]
    # Nothing is saved any more: the student's BatchNorm statistics may have seen what is wrong.
    assert all(torch.equal(value, states["student"][n]) for n, value in trainer.model.named_parameters())
    assert same(trainer.teacher.module.state_dict(), states["teacher"])


def test_a_gradient_that_is_nan_before_clipping_ends_the_run_too(make_trainer):
    trainer = make_trainer(max_steps=5, max_grad_norm=1.0)
    trainer.record(
        {"left": torch.ones(1)}, {"loss_c": torch.tensor(float("nan"))}
    )  # by an earlier `train` that failed
    poison_gradient(trainer, lambda: True)
    with pytest.raises(NotFiniteError, match="^step 1: the gradient as a whole is not a finite number"):
        trainer.train()
    assert len(load_file(Path(trainer.args.output_dir, "_not_finite-step-000001.safetensors"))) == 7


def test_fp16_leaves_infinite_gradients_to_its_scaler_but_no_loss(make_trainer):
    trainer = make_trainer()
    trainer.get_train_dataloader()
    trainer._tr_loss = torch.tensor(1.0)
    for parameter in trainer.model.parameters():
        parameter.grad = torch.full_like(parameter, float("inf"))
    trainer.accelerator.scaler = SimpleNamespace(_scale=torch.tensor(1.0))
    assert trainer._get_grad_norm(trainer.model).isinf()
    trainer.accelerator.scaler._scale /= 2  # it has skipped as many steps in a row as it could
    with pytest.raises(NotFiniteError, match="^step 1: the gradient as a whole is not a finite number"):
        trainer._get_grad_norm(trainer.model)
    trainer.accelerator.scaler._scale *= 2
    trainer._terms["loss_c"] = (torch.tensor(float("nan")), 1)
    with pytest.raises(NotFiniteError, match="^step 1: loss_c is not a finite number"):
        trainer._get_grad_norm(trainer.model)


def test_watching_changes_no_bit(make_trainer):
    results = []
    for watched in (True, False):
        trainer = make_trainer(max_steps=3)
        if not watched:
            trainer._get_grad_norm = functools.partial(Trainer._get_grad_norm, trainer)
        trainer.train()
        norms = {
            str(log["step"]): torch.tensor(log["grad_norm"]) for log in trainer.state.log_history if "loss" in log
        }
        results.append(trainer.model.state_dict() | norms)
    assert same(*results) and "3" in results[0]


def test_a_broken_model_is_neither_scored_nor_written(make_trainer):
    trainer = make_trainer()
    trainer.teacher.module.decoder.classifier.weight.data[0] = float("nan")
    for use in (trainer.evaluate, trainer.save_model):
        with pytest.raises(InputError, match="hold NaN or infinity .decoder.classifier.weight"):
            use()
    assert not list(Path(trainer.args.output_dir).glob("*.safetensors"))


def test_no_nan_in_json(make_trainer):
    trainer = make_trainer(max_steps=1, eval_strategy="steps", eval_steps=1, save_strategy="steps", save_steps=1)
    trainer.args.metric_for_best_model = "iou_train"  # no evaluation image shows one
    trainer.train()
    trainer.log({"loss_x": float("nan")})
    trainer.save_state()
    trainer.save_metrics("all", trainer.final_metrics())

    def refuse(constant):
        raise AssertionError(constant)

    files = list(Path(trainer.args.output_dir).rglob("*.json"))
    assert len(files) >= 4
    for file in files:
        json.loads(file.read_text(), parse_constant=refuse)


# Full disks


@pytest.mark.parametrize("module", ["safetensors", "torch", "json"])
def test_a_full_disk_under_a_checkpoint_is_one_line(make_trainer, monkeypatch, module):
    trainer = make_trainer(save_strategy="steps", save_steps=1)

    def full(*args, **kwargs):
        if trainer.state.global_step < 2:
            return inner(*args, **kwargs)
        raise {
            "safetensors": RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
            "torch": RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 141312 vs 141200"),
            "json": OSError(errno.EDQUOT, "Disk quota exceeded"),
        }[module]

    name = {"safetensors": "_save", "torch": "_save_optimizer_and_scheduler", "json": "_save_rng_state"}[module]
    inner = getattr(trainer, name)
    monkeypatch.setattr(trainer, name, full)
    with pytest.raises(InputError) as error:
        trainer.train()
    line = str(error.value)
    assert "checkpoint-2, which takes about" in line and "are free in" in line and "\n" not in line
    assert "--resume_from_checkpoint true resumes from the last complete checkpoint" in line


def test_a_token_is_in_no_file_and_no_log(make_trainer, capsys, caplog, monkeypatch):
    token = "hf_" + "x1y2z3" * 5
    monkeypatch.setenv("HF_TOKEN", token)
    template = str(Path(__file__).parents[2] / "model_card.md")
    trainer = make_trainer(max_steps=1, save_strategy="steps", save_steps=1, model_card_template=template)
    trainer.args.hub_token = token
    trainer.train()
    trainer.save_model()
    trainer.save_state()
    trainer.create_model_card()
    assert token not in f"{trainer.args} {trainer.args.to_json_string()}" and trainer.args.hub_token == token
    files = [path for path in Path(trainer.args.output_dir).rglob("*") if path.is_file()]
    assert {"training_args.bin", "README.md", "trainer_state.json", "optimizer.pt"} <= {path.name for path in files}
    for path in files:
        assert token.encode() not in path.read_bytes(), path
    assert token not in caplog.text + "".join(capsys.readouterr())


# Signals where a best model is kept

BEST = {
    "save_strategy": "steps",
    "save_steps": 2,
    "eval_strategy": "steps",
    "eval_steps": 2,
    "save_total_limit": 2,
    "load_best_model_at_end": True,
    "panel_images": 0,
}


def scored(data, folder, scores, signal_at=None, **fields):
    """A trainer that scores as `scores` says of each step, and gets a signal in the evaluation of one."""
    trainer = build_trainer(data, folder, **BEST | fields)
    evaluate = trainer.evaluate

    def evaluate_as_told(*args, **kwargs):
        step = trainer.state.global_step
        if step == signal_at:
            kill()
        return evaluate(*args, **kwargs) | {"eval_mean_iou": scores[step]}

    trainer.evaluate = evaluate_as_told
    return trainer


def interrupted(trainer, **kwargs):
    """The line by which a signal ends a run."""
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted) as stop, signals.deferred():
        trainer.train(**kwargs)
        trainer.final_metrics()
    signal.signal(signal.SIGTERM, handler)
    return stop.value.line


def published(trainer, checkpoint):
    """Whether the model of a trainer is that of a checkpoint."""
    return same(trainer.teacher.module.state_dict(), load_file(checkpoint / "model.safetensors"))


def test_an_evaluation_that_a_signal_broke_off_is_left_out(toy_data, tmp_path):
    scores = {2: 0.1, 4: 0.9, 6: 0.2}
    interrupted(scored(toy_data, tmp_path, scores, signal_at=2, max_steps=6))
    rest = scored(toy_data, tmp_path, scores, max_steps=6)
    rest.train(resume_from_checkpoint=True)
    assert [log["step"] for log in rest.state.log_history if "eval_mean_iou" in log] == [4, 6]
    assert rest.state.best_model_checkpoint == str(tmp_path / "checkpoint-4")
    assert published(rest, tmp_path / "checkpoint-4")


def test_a_signal_at_the_end_of_an_epoch_saves_before_its_evaluation(toy_data, tmp_path):
    fields = {"max_steps": 4, "eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": False}
    trainer = scored(toy_data, tmp_path, {3: 0.5, 4: 0.6}, **fields)  # 3 steps are an epoch
    trainer.add_callback(At(2, kill))
    assert str(tmp_path / "checkpoint-3") in interrupted(trainer)
    rest = scored(toy_data, tmp_path, {3: 0.5, 4: 0.6}, **fields)
    rest.train(resume_from_checkpoint=True)
    assert [log["step"] for log in rest.state.log_history if "loss" in log] == [1, 2, 3, 4]


def test_a_signal_in_an_evaluation_that_a_later_callback_asks_for(make_trainer):
    trainer = make_trainer()
    trainer.add_callback(At(2, lambda: setattr(trainer.control, "should_evaluate", True), "on_step_end"))
    trainer.add_callback(At(2, kill, "on_log"))  # just before it
    assert "checkpoint-2: " in interrupted(trainer)


@pytest.mark.parametrize("fields", [{}, {"save_only_model": True}, {"save_strategy": "best"}])
def test_a_signal_in_the_final_scoring_mixes_no_steps(toy_data, tmp_path, fields):
    scores = {2: 0.9, 4: 0.1}
    trainer = scored(toy_data, tmp_path, scores, max_steps=4, **fields)
    ends, at_end = [], trainer._load_best_model

    def load_best_model():
        ends.append({name: value.clone() for name, value in trainer.model.state_dict().items()})
        at_end()
        kill()

    trainer._load_best_model = load_best_model
    line, last = interrupted(trainer), tmp_path / "checkpoint-4"
    assert "\n" not in line and published(trainer, tmp_path / "checkpoint-2")
    if "save_only_model" in fields:  # as it was asked for
        assert f"with the best model in {tmp_path / 'checkpoint-2'}" in line and not (last / "optimizer.pt").exists()
        return
    assert f"saved as {last}" in line and same(ends[0], load_file(last / "student/model.safetensors"))
    # A finished run is scored again; a signal ends that in one line, too.
    again = scored(toy_data, tmp_path, scores, signal_at=4, max_steps=4, **fields)
    assert f"saved as {last}" in interrupted(again, resume_from_checkpoint=True)
    assert not (tmp_path / "_partial").exists()

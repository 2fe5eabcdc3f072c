"""What can be resumed from, how it is said, and that a finished run stays finished."""

import json
import logging
import re
import shutil
from pathlib import Path

import pytest
import torch
from conftest import build_trainer, tiny_model
from safetensors.torch import load_file
from transformers import TrainerCallback

from scl_hf.checkpointing.manifest import checkpoints_in, find_problem, seal
from scl_hf.data import DataArguments, load_data
from scl_hf.errors import InputError

SAVING = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}  # 3 steps are an epoch


@pytest.fixture(scope="module")
def finished(toy_data, tmp_path_factory):
    """The folder of a run of 4 steps, with checkpoints of 2 and 4."""
    trainer = build_trainer(toy_data, tmp_path_factory.mktemp("finished") / "run", **SAVING)
    trainer.train()
    trainer.save_model()
    return Path(trainer.args.output_dir)


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def one_line(error):
    assert "\n" not in str(error.value)
    return str(error.value)


def test_true_takes_the_newest_complete_one_and_names_those_it_passes_over(run, finished, make_trainer, caplog):
    (run / "checkpoint-3").mkdir()
    (run / "checkpoint-4/optimizer.pt").unlink()
    trainer = make_trainer(**SAVING)
    trainer.train(resume_from_checkpoint=True)
    said = [record.message for record in caplog.records if "passed over" in record.message]
    assert said == [
        f"{run}/checkpoint-4 is passed over: optimizer.pt is missing or no file (see manifest.json)",
        f"{run}/checkpoint-3 is passed over: manifest.json is missing, so the folder cannot be verified",
    ]
    assert find_problem(run / "checkpoint-4") is None  # in place of the broken one
    for name in ("model.safetensors", "student/model.safetensors", "optimizer.pt", "rng_state.pth"):
        assert (run / "checkpoint-4" / name).read_bytes() == (finished / "checkpoint-4" / name).read_bytes()


def test_nothing_complete_is_one_line(run, make_trainer, tmp_path):
    for step in (2, 4):
        (run / f"checkpoint-{step}/scheduler.pt").write_bytes(b"")
    with pytest.raises(InputError, match="run: none of the 2 checkpoints is complete") as error:
        make_trainer(**SAVING).train(resume_from_checkpoint=True)
    one_line(error)
    with pytest.raises(
        InputError, match="checkpoint-2: scheduler.pt has 0 of [0-9]+ bytes .see manifest.json.. Name an older"
    ) as error:
        make_trainer(**SAVING).train(resume_from_checkpoint=run / "checkpoint-2")
    one_line(error)
    for name, problem in (("nowhere", "there is no such folder"), ("run/config.json", "is not a checkpoint folder")):
        with pytest.raises(InputError, match=f"^resume_from_checkpoint {tmp_path / name}: {problem}"):
            make_trainer(**SAVING).train(resume_from_checkpoint=str(tmp_path / name))
    shutil.rmtree(run)
    with pytest.raises(InputError, match="run: holds no checkpoint"):
        make_trainer(**SAVING).train(resume_from_checkpoint=True)


def test_a_checkpoint_without_a_manifest_is_not_complete(run, make_trainer, caplog):
    (run / "checkpoint-4/manifest.json").unlink()
    flip(run / "checkpoint-4/optimizer.pt")
    problem = "manifest.json is missing, so the folder cannot be verified"
    with pytest.raises(InputError, match=f"checkpoint-4: {problem}. Name an older one") as error:
        make_trainer(**SAVING).train(resume_from_checkpoint=run / "checkpoint-4")
    one_line(error)
    trainer = make_trainer(**SAVING)
    trainer.train(resume_from_checkpoint=True)
    assert trainer._initial_global_step == 2 and f"checkpoint-4 is passed over: {problem}" in caplog.text


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("ema_validation", [True, False])
def test_a_finished_run_is_not_trained_on(toy_data, tmp_path, ema_validation):
    fields = SAVING | {"ema_validation": ema_validation}
    first = build_trainer(toy_data, tmp_path / "run", **fields)
    first.train()
    first.save_model()
    before = {
        path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.suffix in (".safetensors", ".pt")
    }
    steps = []

    class Steps(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            steps.append(state.global_step)

    again = build_trainer(toy_data, tmp_path / "run", tiny_model(toy_data.id2label, seed=7), **fields)
    again.add_callback(Steps())
    output = again.train(resume_from_checkpoint=True)
    again.save_model()
    assert (steps, output.global_step, output.metrics, again.state.global_step) == ([], 4, {}, 4)
    assert {path: path.read_bytes() for path in before} == before
    first, again = (trainer.final_metrics() for trainer in (first, again))
    # Without the pseudo-labels of steps that were not taken
    scores = {name for name in first if "pseudo_label_share" not in name and name != "eval_runtime"}
    assert again.keys() - {"eval_runtime"} == scores
    assert {name: first[name] for name in scores} == {name: again[name] for name in scores}
    # With more steps it trains further.
    more = build_trainer(toy_data, tmp_path / "run", **fields | {"max_steps": 5})
    more.add_callback(Steps())
    more.train(resume_from_checkpoint=True)
    assert steps == [4]


def test_a_finished_run_brings_its_best_model_back_and_keeps_its_last_checkpoint(make_trainer):
    fields = SAVING | {"eval_strategy": "steps", "eval_steps": 2, "load_best_model_at_end": True, "panel_images": 0}
    fields["save_total_limit"] = 1
    trainer = make_trainer(**fields)
    scores, evaluate = iter([0.9, 0.1]), trainer.evaluate
    trainer.evaluate = lambda **kwargs: evaluate(**kwargs) | {"eval_mean_iou": next(scores)}
    trainer.train()
    run = Path(trainer.args.output_dir)
    assert sorted(path.name for path in run.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-4"]
    state = json.loads((run / "checkpoint-2/trainer_state.json").read_text())
    assert state["best_model_checkpoint"] == str(run / "checkpoint-2")  # its name once it is complete
    again = make_trainer(**fields)
    assert again.train(resume_from_checkpoint=True).metrics == {}
    best = load_file(run / "checkpoint-2/model.safetensors")
    assert all(torch.equal(value, best[key]) for key, value in again.teacher.module.state_dict().items())


CHANGED = {
    "seed": 1,
    "data_seed": 3,
    "crop_size": [40, 40],
    "scale_range": [0.5, 1.0],
    "hue": 0.1,
    "class_uniform_share": 0.5,
    "per_device_train_batch_size": 4,
    "consistency_weight": 2.0,
    "num_boxes": 5,
    "num_pairs": 9,
    "relaxation_window": 1,
    "ema_decay": 0.5,
    "ema_teacher": False,
    "ema_validation": False,
    "semi_supervised_start_step": 1,
    "optim_args": "momentum=0.5",
    "weight_decay": 0.5,
    "max_grad_norm": 1.0,
    "bf16": True,
    "no_weight_decay": ["norms"],
}
MAY_DIFFER = {
    "learning_rate": 0.5,
    "lr_scheduler_type": "constant",
    "lr_scheduler_kwargs": None,
    "warmup_steps": 2,
    "max_steps": 2,
    "save_steps": 1,
    "save_total_limit": 2,
    "logging_steps": 3,
    "eval_strategy": "epoch",
    "eval_scales": [0.5],
    "panel_images": 1,
    "dataloader_num_workers": 1,
    "skip_corrupt": True,
    "run_name": "other",
    "hub_model_id": "a/b",
    "ddp_timeout": 5,
}


def test_another_recipe_is_refused_with_its_fields_and_values(finished, make_trainer):
    checkpoint = str(finished / "checkpoint-2")
    with pytest.raises(InputError) as error:
        make_trainer(**SAVING | CHANGED).train(resume_from_checkpoint=checkpoint)
    line = one_line(error)
    named = dict(re.findall(r"(?:of|,) ([\w ]+) \((.*?)\)(?=,|\.)", line))
    assert set(named) == (set(CHANGED) - {"per_device_train_batch_size"}) | {"labeled crops of a step"}
    assert named["crop_size"] == "[32, 32] → [40, 40]" and named["labeled crops of a step"] == "2 → 4"
    with pytest.raises(InputError, match="add --allow_changed_recipe true"):
        make_trainer(**SAVING, seed=1).train(resume_from_checkpoint=checkpoint)
    for other in ({"optim": "adamw_torch", "optim_args": None}, {"ema_validation": False}):
        with pytest.raises(InputError, match=rf"{min(other)} \(\w+ → \w+\).*, or start a new run with"):
            make_trainer(**SAVING | other, allow_changed_recipe=True).train(resume_from_checkpoint=checkpoint)
    make_trainer(**SAVING | MAY_DIFFER).train(resume_from_checkpoint=checkpoint)


def test_other_data_is_another_recipe(finished, tmp_path, toy_data, caplog):
    checkpoint = str(finished / "checkpoint-2")
    labeled = toy_data.labeled.select([0, 1, 2, 4, 3])  # the same, in another order
    data = type("Data", (), vars(toy_data) | {"labeled": labeled, "unlabeled": toy_data.unlabeled.select(range(6))})
    with pytest.raises(InputError, match=r"labeled images \(5 ids \w+ → 5 ids \w+\), unlabeled .*11 ids \w+ → 6 id"):
        build_trainer(data, tmp_path / "run", **SAVING).train(resume_from_checkpoint=checkpoint)
    trainer = build_trainer(data, tmp_path / "run", **SAVING, allow_changed_recipe=True)
    trainer.train(resume_from_checkpoint=checkpoint)
    assert trainer.state.global_step == 4 and "is resumed with other values of labeled images" in caplog.text


@pytest.mark.parametrize(
    "column, edit, part",
    [
        ("label", lambda content: content[:-20] + bytes(20), "labels of the labeled images"),  # of the same size
        ("image", lambda content: content + b" ", "sizes of the unlabeled images"),
    ],
)
def test_an_edited_file_is_another_recipe_and_a_copied_one_is_not(own_folder, tmp_path, caplog, column, edit, part):
    def trainer(**fields):
        data = load_data(DataArguments(dataset="folder", data_dir=str(own_folder)))
        return build_trainer(data, tmp_path / "run", **SAVING | fields)

    trainer().train()
    copy = shutil.copytree(own_folder, tmp_path / "copy", copy_function=shutil.copyfile)  # with another time
    shutil.rmtree(own_folder)
    copy.rename(own_folder)
    trainer(max_steps=5).train(resume_from_checkpoint=True)
    file = own_folder / f"train/{column}s/frame1.png"
    file.write_bytes(edit(file.read_bytes()))
    differs = rf"other values of ((sizes of the labeled images .*, )?{part}) \(4 files \w+ → 4 files \w+\). Give"
    with pytest.raises(InputError, match=differs) as error:
        trainer(max_steps=6).train(resume_from_checkpoint=True)
    one_line(error)
    trainer(max_steps=6, allow_changed_recipe=True).train(resume_from_checkpoint=True)
    assert "is resumed with other values of" in caplog.text


def test_a_share_of_another_length_is_another_recipe(make_trainer):
    make_trainer(**SAVING, semi_supervised_start_step=0.5).train()
    longer = {"max_steps": 8, "semi_supervised_start_step": 0.5}
    with pytest.raises(InputError, match=r"other values of semi_supervised_start_step \(2 → 4\)") as error:
        make_trainer(**SAVING | longer).train(resume_from_checkpoint=True)
    one_line(error)
    make_trainer(**SAVING | longer | {"semi_supervised_start_step": 2}).train(resume_from_checkpoint=True)


def test_what_may_change_takes_effect(finished, make_trainer, caplog):
    caplog.set_level(logging.WARNING)
    checkpoint = str(finished / "checkpoint-2")
    changed = {
        "learning_rate": 1.0,
        "max_steps": 8,
        "save_steps": 3,
        "weight_decay": 0.25,
        "optim_args": "momentum=0.5",
    }
    trainer = make_trainer(**SAVING | changed, allow_changed_recipe=True)
    trainer.train(resume_from_checkpoint=checkpoint)
    rates = [log["learning_rate"] for log in trainer.state.log_history if "loss" in log]
    assert rates[2:] == pytest.approx([6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8])
    saved = sorted(path.name for path in Path(trainer.args.output_dir).glob("checkpoint-*"))
    assert saved == ["checkpoint-3", "checkpoint-6", "checkpoint-8"]
    (group,) = (group for group in trainer.optimizer.param_groups if group["params"])
    assert (group["weight_decay"], group["momentum"]) == (0.25, 0.5)
    with pytest.raises(InputError, match="optimizer's state does not fit this recipe"):
        make_trainer(**SAVING, backbone_learning_rate=0.1).train(resume_from_checkpoint=checkpoint)
    said = [record.message for record in caplog.records if "is resumed with" in record.message]
    assert len(said) == 1 and "weight_decay (0.001 → 0.25)" in said[0]


def test_what_is_pushed_is_complete(make_trainer):
    pushed = []
    trainer = make_trainer(**SAVING)
    trainer.args.push_to_hub = True
    trainer._push = type(
        "Push",
        (),
        {
            "start": lambda self, message, folder: pushed.append((folder.name, find_problem(folder))),
            "finish": lambda self, is_stopped: None,
        },
    )()
    trainer.train()
    assert pushed == [("checkpoint-2", None), ("checkpoint-4", None)]


def test_a_checkpoint_that_cannot_be_written_leaves_the_older_ones_and_no_half_one(make_trainer, monkeypatch):
    trainer, calls = make_trainer(**SAVING, save_total_limit=1), []

    def full(folder):
        calls.append(folder)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        return seal(folder)

    monkeypatch.setattr("scl_hf.checkpointing.manifest.seal", full)
    with pytest.raises(InputError, match="checkpoint-4, which takes about .* the disk is full"):
        trainer.train()
    run = Path(trainer.args.output_dir)
    assert [path.name for path in checkpoints_in(run)] == ["checkpoint-2"]
    assert not (run / "_partial").exists()  # the disk needs the space
    again = make_trainer(**SAVING, save_total_limit=1)
    again.train(resume_from_checkpoint=True)
    assert [path.name for path in checkpoints_in(run)] == ["checkpoint-4"] and not (run / "_partial").exists()


@pytest.fixture
def with_best(toy_data, tmp_path):
    """The folder of a finished run whose best step is 2 of 4, and what makes its trainer again."""
    fields = SAVING | {"eval_strategy": "steps", "eval_steps": 2, "load_best_model_at_end": True, "panel_images": 0}

    def make(folder=tmp_path / "best", **changed):
        trainer = build_trainer(toy_data, folder, **fields | changed)
        evaluate = trainer.evaluate
        trainer.evaluate = lambda **kwargs: (
            evaluate(**kwargs) | {"eval_mean_iou": {2: 0.9}.get(trainer.state.global_step, 0.1)}
        )
        return trainer

    make().train()
    return tmp_path / "best", make


def test_a_best_checkpoint_that_was_changed_is_not_published(with_best):
    run, make = with_best
    flip(run / "checkpoint-2/model.safetensors")
    for fields in ({}, {"max_steps": 5}):  # finished, and resumed
        with pytest.raises(
            InputError, match="best checkpoint, .*checkpoint-2: model.safetensors was changed"
        ) as error:
            make(**fields).train(resume_from_checkpoint=True)
        assert "--load_best_model_at_end false" in one_line(error)
    make(load_best_model_at_end=False).train(resume_from_checkpoint=True)


def test_the_best_checkpoint_is_found_where_the_folder_was_moved_to(with_best, tmp_path, caplog):
    run, make = with_best
    moved = run.rename(tmp_path / "moved")
    for fields in ({}, {"max_steps": 5}):
        trainer = make(moved, **fields)
        trainer.train(resume_from_checkpoint=True)
        best = load_file(moved / "checkpoint-2/model.safetensors")
        assert all(torch.equal(value, best[key]) for key, value in trainer.teacher.module.state_dict().items())
        assert trainer.state.best_model_checkpoint == str(moved / "checkpoint-2")
    assert "is gone" not in caplog.text
    shutil.rmtree(moved / "checkpoint-2")
    make(moved, max_steps=5).train(resume_from_checkpoint=True)
    said = [record.message for record in caplog.records if "is gone" in record.message]
    assert said == [f"the best checkpoint, {moved}/checkpoint-2, is gone: the model is that of the last step"]


def test_a_trainer_is_made_without_a_warning(make_trainer, caplog):
    make_trainer(**SAVING)
    assert "to the callbacks" not in caplog.text

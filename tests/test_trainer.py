"""The trainer: tiny models, trained for real."""

import copy
import inspect
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import build_trainer, tiny_model
from forks import run_processes
from safetensors.torch import load_file
from transformers import (
    AutoModelForSemanticSegmentation,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    Trainer,
    TrainerCallback,
)
from transformers.modeling_outputs import SemanticSegmenterOutput

from scl_hf import (
    DeepLabV3PlusConfig,
    DeepLabV3PlusForSemanticSegmentation,
    SemiSupervisedConfig,
    SemiSupervisedTrainer,
)
from scl_hf.checkpointing.manifest import seal
from scl_hf.checkpointing.trainer import CheckpointedTrainer
from scl_hf.cutmix import mix
from scl_hf.data.class_index import class_shares
from scl_hf.data.crops import EvaluationImages
from scl_hf.errors import InputError
from scl_hf.losses import adjust_logits, consistency_loss, relaxed_cross_entropy, structured_consistency_loss
from scl_hf.metrics import MeanIoU


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def batch_of(trainer):
    return next(iter(trainer.get_train_dataloader()))


def train_logs(trainer):
    return [log for log in trainer.state.log_history if "loss" in log]


def test_a_run_moves_both_models_and_logs_each_term(make_trainer):
    trainer = make_trainer(num_pairs=50)
    before = copy.deepcopy(trainer.model.state_dict())
    trainer.train()
    student, teacher = trainer.model.state_dict(), trainer.teacher.module.state_dict()
    assert not same(before, student) and not same(before, teacher) and not same(student, teacher)
    for log in train_logs(trainer):
        assert log["loss"] == pytest.approx(log["loss_x"] + 20 * log["loss_c"] + 3 * log["loss_sc"], rel=1e-4)
        assert log["images_per_second"] > 0 and log["minutes_left"] >= 0


def test_the_loss_is_equation_1_of_equations_2_4_and_10(make_trainer):
    trainer = make_trainer(consistency_weight=5.0, structured_consistency_weight=0.5, relaxation_window=5)
    inputs = batch_of(trainer)
    trainer.model.train()
    with torch.no_grad():
        box_ids = inputs["box_ids"]
        mixed = mix(inputs["unlabeled_a"], inputs["unlabeled_b"], box_ids)
        valid = inputs["valid"]
        teacher = trainer.teacher.module
        # The teacher sees both images unmixed, in evaluation mode.
        pseudo_label = mix(
            teacher(pixel_values=inputs["unlabeled_a"]).logits.softmax(1),
            teacher(pixel_values=inputs["unlabeled_b"]).logits.softmax(1),
            box_ids,
        )
        torch.manual_seed(0)
        logits = trainer.model(pixel_values=torch.cat([inputs["pixel_values"], mixed])).logits
        x, u = logits.chunk(2)
        expected = (
            relaxed_cross_entropy(x, inputs["labels"], window=5)
            + 5.0 * consistency_loss(u.softmax(1), pseudo_label, valid)
            + 0.5 * structured_consistency_loss(u.softmax(1), pseudo_label, box_ids.masked_fill(~valid, 0), 4, 3)
        )
    torch.manual_seed(0)  # of the channel dropout
    loss, outputs = trainer.compute_loss(trainer.model, inputs, return_outputs=True)
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
    assert isinstance(outputs, SemanticSegmenterOutput)  # of the labeled images, then of the mixed ones
    torch.testing.assert_close(outputs.logits, logits, rtol=1e-3, atol=1e-4)


def test_sampled_pairs_come_with_the_batch(make_trainer):
    trainer = make_trainer(num_pairs=10**6)  # more than a box has: all of them
    inputs = batch_of(trainer)
    assert "box_pixels" not in inputs and inputs["pairs"].shape[:3] == (2, 3, 2)
    exact = batch_of(make_trainer())
    assert exact["box_pixels"].shape[:2] == (2, 3) and torch.equal(exact["box_ids"], inputs["box_ids"])
    terms = []
    for batch, num_pairs in ((inputs, 10**6), (exact, None)):
        trainer.args.num_pairs = num_pairs
        torch.manual_seed(0)  # of the channel dropout
        trainer.compute_loss(trainer.model.train(), batch)
        terms.append(trainer.last_terms["loss_sc"])
    torch.testing.assert_close(*terms)
    assert not {"box_pixels", "pairs"} & batch_of(make_trainer(structured_consistency_weight=0)).keys()


def test_nothing_in_the_losses_waits_for_a_device(make_trainer):
    """On the CPU, labels are looked at (see `window_class_sets`); elsewhere that is left out."""
    for fields in ({}, {"num_pairs": 9}, {"logit_adjustment": 0.5}):
        trainer = make_trainer(**fields)
        inputs = batch_of(trainer)
        trainer.compute_loss(trainer.model.train(), inputs)  # what is read once
        looks = {"supervised": 0, "all": 0}
        for name in looks:
            trainer.state.global_step = 0
            trainer.args.semi_supervised_start_step = 10 if name == "supervised" else 0
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
                trainer.compute_loss(trainer.model, inputs).backward()
            waits = ("aten::_local_scalar_dense", "aten::nonzero", "aten::_unique2", "aten::masked_select")
            looks[name] = sum(event.count for event in profile.key_averages() if event.key in waits)
        assert looks["all"] == looks["supervised"]


def test_logit_adjustment_is_in_the_labeled_loss_alone(make_trainer):
    plain, adjusted = make_trainer(), make_trainer(logit_adjustment=0.5)
    inputs, weights, terms = batch_of(plain), copy.deepcopy(plain.model.state_dict()), []
    for trainer in (plain, adjusted):
        trainer.model.load_state_dict(weights)
        trainer.teacher.module.load_state_dict(weights)
        torch.manual_seed(0)  # of the channel dropout
        _, outputs = trainer.compute_loss(trainer.model.train(), inputs, return_outputs=True)
        terms.append(trainer.last_terms)
    labels = inputs["labels"]
    shares = torch.from_numpy(class_shares(adjusted._crops.labeled.dataset))
    logits = adjust_logits(outputs.logits[: len(labels)], shares, 0.5)
    expected = relaxed_cross_entropy(logits, labels, window=adjusted.args.relaxation_window)
    torch.testing.assert_close(terms[1]["loss_x"], expected, rtol=1e-4, atol=1e-5)
    assert terms[1]["loss_x"] != terms[0]["loss_x"]
    for term in ("loss_c", "loss_sc"):
        torch.testing.assert_close(terms[1][term], terms[0][term], rtol=1e-3, atol=1e-5)


def test_no_gradient_reaches_the_teacher(make_trainer):
    trainer = make_trainer()
    trainer.compute_loss(trainer.model, batch_of(trainer)).backward()
    assert all(p.grad is None for p in trainer.teacher.parameters())
    assert all(p.grad is not None for p in trainer.model.parameters())


def test_weights_of_zero_are_supervised_training(make_trainer):
    trainer = make_trainer(consistency_weight=0, structured_consistency_weight=0)
    assert set(batch_of(trainer)) == {"pixel_values", "labels"}
    trainer.train()
    assert all("loss_c" not in log and log["loss"] == pytest.approx(log["loss_x"]) for log in train_logs(trainer))


@pytest.mark.parametrize(("field", "term"), [("consistency_weight", "c"), ("structured_consistency_weight", "sc")])
def test_one_weight_of_zero_leaves_that_term_out(make_trainer, field, term):
    trainer = make_trainer(**{field: 0.0}, max_steps=1)
    trainer.train()
    terms = {key for key in train_logs(trainer)[0] if key.startswith("loss_")}
    assert terms == {"loss_x", "loss_c", "loss_sc"} - {f"loss_{term}"}


def test_supervised_start_and_ramp(make_trainer):
    trainer = make_trainer(semi_supervised_start_step=2, semi_supervised_ramp_steps=4, max_steps=5)
    factors = []
    for trainer.state.global_step in range(8):
        factors.append(trainer.args.ramp(trainer.state.global_step, 5))
    assert factors == [0, 0, 0.25, 0.5, 0.75, 1, 1, 1]
    trainer.state.global_step = 0
    trainer.train()
    assert ["loss_c" in log for log in train_logs(trainer)] == [False, False, True, True, True]
    last = train_logs(trainer)[-1]
    expected = last["loss_x"] + 0.75 * (20 * last["loss_c"] + 3 * last["loss_sc"])
    assert last["loss"] == pytest.approx(expected, rel=1e-4)


def test_unlabeled_losses_need_unlabeled_images(make_trainer):
    trainer = make_trainer()
    with pytest.raises(InputError, match="no unlabeled images"):
        SemiSupervisedTrainer(trainer.model, trainer.args, trainer.train_dataset)


def test_the_teacher_is_the_average_after_every_step(make_trainer):
    trainer = make_trainer(ema_decay=0.75, max_steps=3)
    expected = copy.deepcopy(trainer.model.state_dict())

    class Check(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            for key, value in trainer.model.state_dict().items():
                if value.is_floating_point():
                    expected[key].lerp_(value, 0.25)
                    torch.testing.assert_close(trainer.teacher.module.state_dict()[key], expected[key])

    trainer.add_callback(Check())
    trainer.train()
    assert not trainer.teacher.module.training


def test_a_frozen_teacher_gives_the_pseudo_labels_until_it_is_updated(make_trainer):
    trainer = make_trainer(ema_decay=0.5, max_steps=6, semi_supervised_start_step=1, teacher_update_interval=3)
    inputs, pseudo_labels, averages = batch_of(make_trainer()), [], []
    views = [inputs[name] for name in ("unlabeled_a", "unlabeled_b", "box_ids")]

    class Look(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            pseudo_labels.append(trainer.teacher_probs(*views))
            averages.append(copy.deepcopy(trainer.teacher.module.state_dict()))

    trainer.add_callback(Look())
    trainer.train()
    # Steps 1 to 3 learn from the EMA model as it was before step 1, steps 4 and 5 from that before step 4.
    for step, first in ((2, 1), (3, 1), (5, 4)):
        assert torch.equal(pseudo_labels[step], pseudo_labels[first])
    for made in (1, 4):
        trainer._teaching.frozen = None
        trainer.teacher.module.load_state_dict(averages[made])
        assert torch.equal(trainer.teacher_probs(*views), pseudo_labels[made])
    assert not torch.equal(pseudo_labels[1], pseudo_labels[4])


def test_without_ema_the_students_own_weights_teach(make_trainer):
    trainer = make_trainer(ema_teacher=False)
    inputs = batch_of(trainer)
    with torch.no_grad():
        for parameter in trainer.teacher.parameters():
            parameter.zero_()
    probs = trainer.teacher_probs(inputs["unlabeled_a"], inputs["unlabeled_b"], inputs["box_ids"])
    model = trainer.model.eval()
    own = [model(pixel_values=inputs[name]).logits.softmax(1) for name in ("unlabeled_a", "unlabeled_b")]
    torch.testing.assert_close(probs, mix(*own, inputs["box_ids"]), rtol=1e-3, atol=1e-5)
    model.train()
    trainer.teacher_probs(inputs["unlabeled_a"], inputs["unlabeled_b"], inputs["box_ids"])
    assert model.training


@pytest.mark.parametrize("ema_validation", [True, False])
def test_the_evaluated_model_is_the_one_that_is_saved(make_trainer, ema_validation):
    trainer = make_trainer(ema_validation=ema_validation)
    trainer.train()
    trainer.save_model()
    published = trainer.teacher.module if ema_validation else trainer.model
    saved = AutoModelForSemanticSegmentation.from_pretrained(trainer.args.output_dir)
    assert same(saved.state_dict(), published.state_dict())
    assert trainer.model is not trainer.teacher.module


def test_evaluation_scores_each_image_once(make_trainer, toy_data):
    trainer = make_trainer(model=tiny_model(toy_data.id2label, seed=5))
    metrics = trainer.evaluate()
    metric = MeanIoU(num_classes=19)
    for item in EvaluationImages(trainer.eval_dataset, trainer.normalization):
        logits = trainer.teacher.module(pixel_values=item["pixel_values"].unsqueeze(0)).logits
        metric.add_batch(predictions=logits.argmax(1), references=item["labels"].unsqueeze(0))
    expected = metric.compute()
    assert metrics["eval_mean_iou"] == pytest.approx(expected["mean_iou"])
    assert metrics["eval_iou_road"] == pytest.approx(expected["per_category_iou"][0])
    assert trainer.final_metrics() is metrics


def test_evaluation_writes_a_panel_and_a_table(make_trainer, capsys):
    trainer = make_trainer(eval_strategy="steps", eval_steps=2, max_steps=2, panel_images=2)
    trainer.train()
    assert (Path(trainer.args.output_dir) / "panels/step-000002.png").stat().st_size > 1000
    printed = capsys.readouterr().out
    assert "step 2: EMA model on 3 images" in printed and "traffic light" in printed
    assert "step      1" in printed and "loss_sc" in printed and "images/s" in printed


def segformer(id2label):
    return SegformerForSemanticSegmentation(
        SegformerConfig(
            depths=[1, 1, 1, 1],
            hidden_sizes=[8, 8, 16, 16],
            num_attention_heads=[1, 1, 2, 2],
            decoder_hidden_size=16,
            id2label=id2label,
            hidden_dropout_prob=0.0,
        )
    )


def test_any_segmentation_model_of_the_auto_class(toy_data, tmp_path):
    """Logits at a quarter of the resolution, other layers, other names in the file: trained, saved, resumed."""
    fields = {"optim": "adamw_torch", "optim_args": None, "save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    complete = build_trainer(toy_data, tmp_path / "complete", model=segformer(toy_data.id2label), **fields)
    complete.train()
    complete.save_model()
    assert 0 <= complete.evaluate()["eval_mean_iou"] <= 1
    saved = AutoModelForSemanticSegmentation.from_pretrained(tmp_path / "complete")
    assert same(saved.state_dict(), complete.teacher.module.state_dict())
    rest = build_trainer(toy_data, tmp_path / "rest", model=segformer(toy_data.id2label), **fields)
    rest.train(resume_from_checkpoint=str(tmp_path / "complete/checkpoint-2"))
    assert same(complete.model.state_dict(), rest.model.state_dict())
    assert same(complete.teacher.module.state_dict(), rest.teacher.module.state_dict())


@pytest.mark.parametrize("ema_validation, other", [(True, "student"), (False, "teacher")])
def test_both_models_are_scored_where_that_is_asked_for(make_trainer, ema_validation, other):
    trainer = make_trainer(evaluate_both=True, ema_validation=ema_validation, ema_decay=0.5)
    trainer.train()
    both = trainer.evaluate()
    trainer.teacher.module, trainer.model = trainer.model, trainer.teacher.module
    swapped = trainer.evaluate()
    assert both[f"eval_{other}_mean_iou"] == swapped["eval_mean_iou"] != both["eval_mean_iou"]
    assert f"eval_{other}_mean_iou" in trainer.state.log_history[-1]


def test_mixed_precision_trains_and_keeps_the_losses_in_float32(make_trainer):
    trainer = make_trainer(bf16=True, max_steps=1)
    trainer.train()
    log = train_logs(trainer)[0]
    assert log["loss"] == pytest.approx(log["loss_x"] + 20 * log["loss_c"] + 3 * log["loss_sc"], rel=1e-4)
    assert all(p.dtype == torch.float32 for p in trainer.teacher.parameters())


def test_accumulated_batches_stand_in_for_larger_ones(make_trainer):
    def samples(batch_size, batches):
        fields = {"per_device_train_batch_size": batch_size, "gradient_accumulation_steps": batches}
        sampler = make_trainer(**fields)._get_train_sampler()
        sampler.set_epoch(1)
        return list(sampler)

    assert samples(4, 1) == samples(2, 2) == samples(1, 4) and len(samples(2, 2)) == 8


def test_unlabeled_images_are_not_read_before_they_are_used(make_trainer):
    # 2 batches of 2 crops are a step, and 5 images an epoch of 2 steps.
    trainer = make_trainer(semi_supervised_start_step=3, gradient_accumulation_steps=2, max_steps=4)
    seen = []
    loss = trainer.compute_loss
    trainer.compute_loss = lambda model, inputs, **kwargs: (
        seen.append((trainer.state.global_step, "box_ids" in inputs)) or loss(model, inputs, **kwargs)
    )
    trainer.train()
    assert seen == [(step, step == 3) for step in (0, 0, 1, 1, 2, 2, 3, 3)]


def test_one_labeled_crop_is_too_few_for_batch_norm(make_trainer):
    for fields in ({"consistency_weight": 0, "structured_consistency_weight": 0}, {"semi_supervised_start_step": 1}):
        with pytest.raises(InputError, match="per_device_train_batch_size: must be 2 or more"):
            make_trainer(per_device_train_batch_size=1, **fields)
    make_trainer(per_device_train_batch_size=1)  # with a mixed crop beside it


def test_one_process_with_several_gpus_trains_nothing(make_trainer, tmp_path, monkeypatch):
    monkeypatch.setattr(SemiSupervisedConfig, "n_gpu", 2)
    with pytest.raises(InputError, match="^CUDA_VISIBLE_DEVICES: one process sees 2 GPUs. Start with accelerate"):
        make_trainer()
    assert not (tmp_path / "run").exists()


def test_what_a_user_can_mend_is_one_line(make_trainer):
    with pytest.raises(InputError, match="metric_for_best_model: must be one of mean_iou, .*iou_traffic_light"):
        make_trainer(metric_for_best_model="miou")
    with pytest.raises(InputError, match="eval_scales, eval_tile: image .* cannot be evaluated"):
        make_trainer(eval_scales=[0.1]).evaluate()


def test_labels_that_show_no_class_are_refused(make_trainer, monkeypatch):
    ignored = lambda source, table=None: np.full((48, 96), 255, np.uint8)  # noqa: E731
    monkeypatch.setattr("scl_hf.data.columns.read_label", ignored)
    with pytest.raises(InputError, match="^train_dataset: no label of its 5 images shows a class"):
        make_trainer()


def test_a_killed_worker_is_one_line(make_trainer, monkeypatch):
    monkeypatch.setattr("scl_hf.data.labels.read_image", lambda *source: os.kill(os.getpid(), signal.SIGKILL))
    trainer = make_trainer(dataloader_num_workers=1)  # to read in this process would end the tests
    for run in (trainer.train, trainer.evaluate):
        with pytest.raises(
            InputError, match="^dataloader_num_workers, num_proc: a process that reads .* killed"
        ) as error:
            run()
        assert "\n" not in str(error.value)


def test_a_step_that_does_not_fit_into_memory_is_one_line(make_trainer):
    trainer = make_trainer(crop_size=[10**8, 10**8], class_uniform_share=0.5)
    with pytest.raises(InputError, match="^crop_size, per_device_train_batch_size: a step does not fit") as error:
        trainer.train()
    assert "\n" not in str(error.value)


def test_without_a_log_nothing_piles_up(make_trainer):
    trainer = make_trainer(logging_strategy="no", max_steps=4)
    trainer.train()
    kept = {name: (total.numel(), number) for name, (total, number) in trainer._terms.items()}
    assert kept == dict.fromkeys(("loss_x", "loss_c", "loss_sc"), (1, 4))


def test_gradient_accumulation_averages_the_micro_batches(make_trainer):
    trainer = make_trainer(gradient_accumulation_steps=2, per_device_train_batch_size=2, max_steps=2)
    trainer.train()
    for log in train_logs(trainer):
        assert log["loss"] == pytest.approx(log["loss_x"] + 20 * log["loss_c"] + 3 * log["loss_sc"], rel=1e-4)


@pytest.mark.parametrize("stop", [3, 4])  # 3 steps of 2 crops are an epoch of the 5 labeled images
@pytest.mark.parametrize(("ema_validation", "interval"), [(True, None), (False, None), (True, 2)])
def test_a_resumed_run_ends_with_the_same_bits(toy_data, tmp_path, stop, ema_validation, interval):
    fields = {
        "max_steps": 6,
        "num_pairs": 40,
        "save_strategy": "steps",
        "save_steps": stop,
        "optim_args": "momentum=0.9",
    }
    fields |= {"ema_validation": ema_validation, "teacher_update_interval": interval}
    torch.manual_seed(1)
    complete = build_trainer(toy_data, tmp_path / "complete", **fields)
    complete.train()
    checkpoint = tmp_path / "complete" / f"checkpoint-{stop}"
    assert (checkpoint / "frozen_teacher").is_dir() == (interval is not None)
    if interval and stop == 4:  # its name in checkpoints of former versions
        (checkpoint / "frozen_teacher").rename(checkpoint / "kept_teacher")
        seal(checkpoint)
    torch.manual_seed(2)
    rest = build_trainer(toy_data, tmp_path / "rest", **fields)
    rest.train(resume_from_checkpoint=str(checkpoint))
    assert rest.state.global_step == 6
    assert same(complete.model.state_dict(), rest.model.state_dict())
    assert same(complete.teacher.module.state_dict(), rest.teacher.module.state_dict())
    losses = [(log["step"], log["loss"]) for log in train_logs(complete)]
    assert losses == [(log["step"], log["loss"]) for log in train_logs(rest)]


def test_a_checkpoint_holds_the_ema_model_and_the_student(make_trainer):
    trainer = make_trainer(save_strategy="steps", save_steps=3)
    trainer.train()
    checkpoint = Path(trainer.args.output_dir) / "checkpoint-3"
    assert same(load_file(checkpoint / "model.safetensors"), trainer.teacher.module.state_dict())
    assert same(load_file(checkpoint / "student/model.safetensors"), trainer.model.state_dict())
    assert (checkpoint / "modeling_deeplabv3plus.py").is_file()


def test_the_best_model_comes_back_as_student_and_teacher(make_trainer):
    steps = {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2}
    trainer = make_trainer(**steps, max_steps=4, load_best_model_at_end=True, panel_images=0)
    scores, evaluate = iter([0.9, 0.1]), trainer.evaluate
    trainer.evaluate = lambda **kwargs: evaluate(**kwargs) | {"eval_mean_iou": next(scores)}
    trainer.train()
    del trainer.evaluate
    assert trainer.final_metrics()["eval_mean_iou"] not in (0.9, 0.1)  # scored again: it is not the last step's model
    best = Path(trainer.args.output_dir) / "checkpoint-2"
    assert same(load_file(best / "model.safetensors"), trainer.teacher.module.state_dict())
    assert same(load_file(best / "student/model.safetensors"), trainer.model.state_dict())


def test_the_best_model_comes_back_from_checkpoints_of_the_model_only(make_trainer):
    steps = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1, "max_steps": 2}
    trainer = make_trainer(**steps, load_best_model_at_end=True, save_only_model=True, panel_images=0)
    trainer.train()
    best = Path(trainer.state.best_model_checkpoint)
    assert not (best / "student").exists()
    assert same(load_file(best / "model.safetensors"), trainer.teacher.module.state_dict())
    with pytest.raises(InputError, match="holds the model alone .save_only_model"):
        make_trainer(max_steps=2).train(resume_from_checkpoint=str(best))


def test_a_checkpoint_of_another_architecture_is_refused(make_trainer):
    trainer = make_trainer(save_strategy="steps", save_steps=3)
    trainer.train()
    other = make_trainer(model=SegformerForSemanticSegmentation(SegformerConfig(num_labels=19)))
    with pytest.raises(InputError, match="other values of model .DeepLabV3Plus.* → Segformer"):
        other.train(resume_from_checkpoint=f"{trainer.args.output_dir}/checkpoint-3")
    checkpoint = Path(trainer.args.output_dir) / "checkpoint-3"
    config = trainer.model.config.to_dict()
    fewer = DeepLabV3PlusForSemanticSegmentation(DeepLabV3PlusConfig.from_dict(config | {"decoder_channels": 8}))
    with pytest.raises(InputError, match="other values of config.decoder_channels .16 → 8.. Give the"):
        make_trainer(model=fewer).train(resume_from_checkpoint=str(checkpoint))
    weights = checkpoint / "student/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(InputError, match="checkpoint-3: student/model.safetensors has 1000 of [0-9]+ bytes"):
        make_trainer().train(resume_from_checkpoint=str(checkpoint))


def test_weight_decay_is_on_every_parameter(make_trainer):
    trainer = make_trainer(weight_decay=0.25)
    groups = [group for group in trainer.create_optimizer().param_groups if group["params"]]
    assert [group["weight_decay"] for group in groups] == [0.25]
    assert len(groups[0]["params"]) == len(list(trainer.model.parameters()))
    assert groups[0]["momentum"] == 0.9


# The private methods of transformers.Trainer that are overridden, and where upstream calls them
SIGNATURES = {
    "_get_train_sampler": ["self", "train_dataset"],
    "_get_grad_norm": ["self", "model", "grad_norm"],
    "_save": ["self", "output_dir", "state_dict"],
    "_save_optimizer_and_scheduler": ["self", "output_dir"],
    "_load_from_checkpoint": ["self", "resume_from_checkpoint", "model"],
    "_load_best_model": ["self"],
    "_save_checkpoint": ["self", "model", "trial"],
    "_get_output_dir": ["self", "trial"],
    "_push_from_checkpoint": ["self", "checkpoint_folder"],
    "_finish_current_push": ["self"],
    "_load_optimizer_and_scheduler": ["self", "checkpoint"],
    "_finalize_training": ["self", "trial", "num_train_samples", "start_time"],
}
CALLERS = {
    "_get_train_sampler": "get_train_dataloader",
    "_get_grad_norm": "_run_epoch",
    "_save": "save_model",
    "_save_optimizer_and_scheduler": "_save_checkpoint",
    "_load_from_checkpoint": "train",
    "_load_best_model": "_finalize_training",
    "_save_checkpoint": "_maybe_log_save_evaluate",
    "_get_output_dir": "_save_checkpoint",
    "_push_from_checkpoint": "_save_checkpoint",
    "_finish_current_push": "_finalize_training",
    "_load_optimizer_and_scheduler": "_prepare_for_training",
    "_finalize_training": "_inner_training_loop",
}


def test_the_list_of_overridden_private_methods_is_complete():
    classes = vars(SemiSupervisedTrainer) | vars(CheckpointedTrainer)
    own = {name for name in classes if name.startswith("_") and not name.startswith("__")}
    assert own & set(vars(Trainer)) == set(SIGNATURES)
    # … and one is called
    called = ["self", "dataset", "description", "batch_size", "sampler_fn", "is_training", "dataloader_key"]
    assert list(inspect.signature(Trainer._get_dataloader).parameters) == called


@pytest.mark.parametrize("name", SIGNATURES)
def test_upstream_still_has_the_private_method_and_calls_it(name):
    assert list(inspect.signature(getattr(Trainer, name)).parameters) == SIGNATURES[name]
    assert f"self.{name}" in inspect.getsource(getattr(Trainer, CALLERS[name]))


TWO_PROCESSES = """
import gc
import os
import sys
import torch
import torch.distributed as dist
sys.path.insert(0, {tests!r})
from conftest import build_trainer, tiny_model
from scl_hf.data import DataArguments, load_data
from pathlib import Path
from transformers import TrainerCallback

toy_dataset, out = sys.argv[1:]
data = load_data(DataArguments(dataset="cityscapes", data_dir=toy_dataset))
torch.manual_seed(int(os.environ["RANK"]))  # as with a new head: other weights on each rank
model = tiny_model(data.id2label, seed=None)
trainer = build_trainer(data, Path(out) / "run", model, per_device_train_batch_size=1, ddp_backend="gloo")

equal = []

class Compare(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        for key, value in trainer.teacher.module.state_dict().items():
            others = [torch.empty_like(value) for _ in range(2)]
            dist.all_gather(others, value)
            assert torch.equal(*others), key
        equal.append(state.global_step)

trainer.add_callback(Compare())
assert trainer.args.world_size == 2
trainer.train()
assert equal == [1, 2, 3]
metrics = trainer.evaluate()
maps = trainer.predict(data.evaluation)
assert [map.shape for map in maps.predictions] == [(48, 96)] * 3 and len(maps.label_ids) == 3
assert maps.metrics["test_mean_iou"] == metrics["eval_mean_iou"]
if trainer.is_world_process_zero():
    import json
    trainer.save_model()
    (Path(out) / "metrics.json").write_text(json.dumps(metrics))
accelerator = trainer.accelerator
accelerator.wait_for_everyone()
# gloo's threads abort the process if the reducer of DDP outlives the interpreter
accelerator.free_memory()
del trainer
gc.collect()
accelerator.end_training()
"""


def test_two_processes_hold_the_same_teacher_and_score_each_image_once(make_trainer, toy_dataset, tmp_path):
    script = tmp_path / "two.py"
    script.write_text(TWO_PROCESSES.format(tests=str(Path(__file__).parent)))
    result = run_processes(2, script, toy_dataset, tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    # One process that scores the model which two have trained finds what they found.
    saved = AutoModelForSemanticSegmentation.from_pretrained(tmp_path / "run")
    metrics = make_trainer(model=saved).evaluate()
    two = json.loads((tmp_path / "metrics.json").read_text())
    # Not to the last pixel: a loaded model's logits may differ in their last bits, and an untrained model has ties.
    assert two["eval_mean_iou"] == pytest.approx(metrics["eval_mean_iou"], abs=1e-3)
    assert two["eval_overall_accuracy"] == pytest.approx(metrics["eval_overall_accuracy"], abs=1e-3)

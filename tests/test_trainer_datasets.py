"""What the trainer takes, plain datasets and models by name; evaluation and prediction of whole images."""

import functools
import logging
import os
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from conftest import build_trainer, tiny_model
from PIL import Image
from transformers import (
    AutoImageProcessor,
    SegformerConfig,
    SegformerForImageClassification,
    SegformerImageProcessorPil,
)

from scl_hf import SemiSupervisedConfig, SemiSupervisedTrainer
from scl_hf.data import LabelImage
from scl_hf.data.labels import read_label
from scl_hf.errors import InputError
from scl_hf.files import LOCK, FolderLock

SETTINGS = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "save_strategy": "no", "seed": 3}
SETTINGS |= {"optim": "sgd", "optim_args": "momentum=0.9", "semi_supervised_start_step": 0, "eval_strategy": "no"}
SETTINGS |= {"crop_size": [32, 32], "class_uniform_tile": 48, "num_boxes": 4, "num_loss_boxes": 4}
SETTINGS |= {"per_device_train_batch_size": 2, "max_steps": 2, "logging_steps": 1, "learning_rate": 0.01}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.fixture
def plain(toy_data, tmp_path):
    """The toy dataset as a user's own data: images of train ids, with no `id` and no `LabelImage`."""

    def of(dataset, name, labels=True):
        columns = {"image": [example["path"] for example in dataset["image"]]}
        if labels:
            columns["label"] = []
            for i, example in enumerate(dataset):
                path = tmp_path / f"{name}-{i}.png"
                Image.fromarray(read_label(example["label"], dataset.features["label"])).save(path)
                columns["label"].append(str(path))
        plain = datasets.Dataset.from_dict(columns)
        for column in columns:
            plain = plain.cast_column(column, datasets.Image())
        return plain

    return {
        "train_dataset": of(toy_data.labeled, "train"),
        "unlabeled_dataset": of(toy_data.unlabeled, "unlabeled", labels=False),
        "eval_dataset": of(toy_data.evaluation, "eval"),
    }


def test_plain_data_sets_train_as_those_of_load_data_bit_for_bit(toy_data, plain, tmp_path):
    states = []
    undecoded = {
        name: functools.reduce(
            lambda dataset, c: dataset.cast_column(c, datasets.Image(decode=False)), dataset.column_names, dataset
        )
        for name, dataset in plain.items()
    }
    loaded = {"train_dataset": toy_data.labeled, "unlabeled_dataset": toy_data.unlabeled}
    for number, data in enumerate((loaded | {"eval_dataset": toy_data.evaluation}, plain, undecoded)):
        args = SemiSupervisedConfig(output_dir=str(tmp_path / str(number)), **SETTINGS)
        trainer = SemiSupervisedTrainer(tiny_model(toy_data.id2label), args, **data)
        trainer.train()
        assert trainer.train_dataset is data["train_dataset"] and trainer.eval_dataset is data["eval_dataset"]
        states.append((trainer.model.state_dict(), trainer.evaluate()["eval_mean_iou"]))
    assert same(states[0][0], states[1][0]) and same(states[0][0], states[2][0])
    assert states[0][1] == states[1][1] == states[2][1]


def test_chosen_examples_train_as_copies_of_them_bit_for_bit(toy_data, plain, tmp_path):
    choices = {
        "train_dataset": lambda dataset: dataset.filter(lambda image: True, input_columns="image").shuffle(seed=1),
        "unlabeled_dataset": lambda dataset: dataset.train_test_split(3, seed=0)["test"],
        "eval_dataset": lambda dataset: dataset.filter(lambda _, i: i > 0, input_columns="image", with_indices=True),
    }
    chosen = {name: choose(plain[name]) for name, choose in choices.items()}
    states = []
    for number, data in enumerate((chosen, {name: dataset.flatten_indices() for name, dataset in chosen.items()})):
        args = SemiSupervisedConfig(output_dir=str(tmp_path / str(number)), **SETTINGS)
        trainer = SemiSupervisedTrainer(tiny_model(toy_data.id2label), args, **data)
        trainer.train()
        states.append((trainer.model.state_dict(), trainer.evaluate()["eval_mean_iou"]))
    assert same(states[0][0], states[1][0]) and states[0][1] == states[1][1]


def test_a_broken_label_without_a_file_is_named_by_its_example(toy_data, plain, tmp_path):
    labels = plain["train_dataset"].cast_column("label", datasets.Image(decode=False))
    broken = labels.map(lambda example, i: {"label": {"bytes": b"cut"}} if i == 3 else {}, with_indices=True)
    args = SemiSupervisedConfig(output_dir=str(tmp_path / "run"), **SETTINGS)
    with pytest.raises(InputError, match=r"^the label of labeled example 3 \(id 3\): is not an image; [^\n]*$"):
        SemiSupervisedTrainer(tiny_model(toy_data.id2label), args, **plain | {"train_dataset": broken}).train()


def test_a_model_by_its_name_gets_the_classes_of_the_data(toy_data, tmp_path):
    tiny_model({i: f"class {i}" for i in range(4)}).save_pretrained(tmp_path / "starting")
    SegformerImageProcessorPil(image_mean=[0.5] * 3, image_std=[0.25] * 3).save_pretrained(tmp_path / "starting")
    args = SemiSupervisedConfig(output_dir=str(tmp_path / "run"), **SETTINGS)
    trainer = SemiSupervisedTrainer(str(tmp_path / "starting"), args, toy_data.labeled, toy_data.unlabeled)
    assert trainer.model.config.id2label == toy_data.id2label
    assert trainer.normalization.image_mean == (0.5, 0.5, 0.5) and trainer.processing_class.do_resize is False
    trainer.save_model()
    assert list(AutoImageProcessor.from_pretrained(tmp_path / "run").image_std) == [0.25] * 3
    with pytest.raises(InputError, match="model_name_or_path .*nowhere"):
        SemiSupervisedTrainer(str(tmp_path / "nowhere"), args, toy_data.labeled, toy_data.unlabeled)


def test_classes_of_the_model_and_of_the_data_must_be_as_many(toy_data, tmp_path):
    args = SemiSupervisedConfig(output_dir=str(tmp_path / "run"), **SETTINGS)
    with pytest.raises(InputError, match="train_dataset: has 19 classes, the model 2; give a model with the id2label"):
        SemiSupervisedTrainer(tiny_model({0: "a", 1: "b"}), args, toy_data.labeled, toy_data.unlabeled)
    assert not (tmp_path / "run").exists()


def test_classes_of_the_model_and_of_the_data_must_have_one_order(toy_data, tmp_path):
    names = list(toy_data.id2label.values())
    swapped = tiny_model(dict(enumerate([names[1], names[0], *names[2:]])))
    args = SemiSupervisedConfig(output_dir=str(tmp_path / "run"), **SETTINGS)
    with pytest.raises(InputError, match=f"class 0 is '{names[0]}', that of the model '{names[1]}'; give a model"):
        SemiSupervisedTrainer(swapped, args, eval_dataset=toy_data.evaluation)
    SemiSupervisedTrainer(tiny_model({i: f"LABEL_{i}" for i in range(19)}), args, eval_dataset=toy_data.evaluation)


def test_a_new_head_needs_the_names_of_the_classes(plain, tmp_path):
    encoder = SegformerForImageClassification(
        SegformerConfig(hidden_sizes=[8, 16, 24, 32], depths=[1] * 4, num_labels=1000)
    )
    encoder.save_pretrained(tmp_path / "encoder")
    args = SemiSupervisedConfig(output_dir=str(tmp_path / "run"), **SETTINGS)
    with pytest.raises(InputError, match=r"its head would be new, .* names no classes; .*LabelImage.of\(\{0: 'sky'"):
        SemiSupervisedTrainer(str(tmp_path / "encoder"), args, **plain)
    named = plain["train_dataset"].cast_column("label", LabelImage.of({i: f"class {i}" for i in range(19)}))
    trainer = SemiSupervisedTrainer(str(tmp_path / "encoder"), args, **plain | {"train_dataset": named})
    assert trainer.model.config.id2label[18] == "class 18"


def test_half_precision_weights_are_trained_in_whole(toy_data, tmp_path):
    model = tiny_model(toy_data.id2label).half()
    args = SemiSupervisedConfig(output_dir=str(tmp_path / "run"), **SETTINGS)
    trainer = SemiSupervisedTrainer(model, args, toy_data.labeled, toy_data.unlabeled, toy_data.evaluation)
    assert {weight.dtype for weight in trainer.teacher.module.parameters()} == {torch.float32}
    trainer.train()
    assert 0 <= trainer.evaluate()["eval_mean_iou"] <= 1


def test_ids_that_are_no_class_are_named(plain, tmp_path):
    model = tiny_model({0: "a", 1: "b"})
    args = SemiSupervisedConfig(output_dir=str(tmp_path / "run"), **SETTINGS)
    with pytest.raises(InputError, match=r"train-\d.png: unknown class id"):
        SemiSupervisedTrainer(model, args, **plain)


@pytest.mark.parametrize("argument", ["train_dataset", "unlabeled_dataset", "eval_dataset"])
@pytest.mark.parametrize(
    "spoil",
    [
        list,
        lambda dataset: datasets.DatasetDict(train=dataset),
        lambda dataset: dataset.rename_column("image", "photo"),
    ],
)
def test_data_sets_of_another_form_are_refused_in_a_line(toy_data, plain, tmp_path, argument, spoil):
    args = SemiSupervisedConfig(output_dir=str(tmp_path / "run"), **SETTINGS)
    if argument == "eval_dataset" and isinstance(spoil(plain[argument]), dict):
        pytest.skip("several sets to evaluate on are a dict")
    with pytest.raises(InputError, match=f"^{argument}: [^\n]*$"):
        SemiSupervisedTrainer(tiny_model(toy_data.id2label), args, **plain | {argument: spoil(plain[argument])})
    assert not (tmp_path / "run").exists()


def test_without_settings_the_folder_is_named_after_the_model(plain, toy_data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = tiny_model(toy_data.id2label)
    trainer = SemiSupervisedTrainer(model, eval_dataset=plain["eval_dataset"])
    assert Path(trainer.args.output_dir).name == "model-SCL" and trainer.args.consistency_weight == 1


def test_several_evaluation_sets_have_scores_of_their_own(make_trainer, toy_data, capsys):
    trainer = make_trainer(eval_strategy="steps", eval_steps=2, max_steps=2, panel_images=1)
    model, args = trainer.model, trainer.args
    dataset = toy_data.evaluation
    trainer = SemiSupervisedTrainer(
        model, args, toy_data.labeled, toy_data.unlabeled, {"day": dataset, "night": dataset.select([0])}
    )
    trainer.train()
    metrics = trainer.final_metrics()
    assert {"eval_day_mean_iou", "eval_night_mean_iou", "eval_night_overall_accuracy"} <= set(metrics)
    assert metrics["eval_day_mean_iou"] == trainer.evaluate(dataset)["eval_mean_iou"]
    assert trainer.args.metric_for_best_model == "day_mean_iou" and trainer.state.best_metric is not None
    printed = capsys.readouterr().out
    assert "on 3 images of day" in printed and "on 1 images of night" in printed
    panels = {path.name for path in Path(args.output_dir, "panels").iterdir()}
    assert {"day-step-000002.png", "night-step-000002.png"} <= panels
    assert trainer.evaluate("night")["eval_night_mean_iou"] == metrics["eval_night_mean_iou"]
    # The time of an evaluation is left out of the throughput once.
    left_out = []
    trainer._throughput.leave_out = left_out.append
    trainer.evaluate()
    assert len(left_out) == 2
    # A card has the scores of the first.
    args.model_card_template = str(Path(__file__).parents[1] / "model_card.md")
    trainer.create_model_card()
    card = Path(args.output_dir, "README.md").read_text()
    assert f"| {metrics['eval_day_mean_iou']:.4f} |" in card and "3 images" in card
    args.metric_for_best_model = "mean_iou"
    SemiSupervisedTrainer(model, args, eval_dataset=dataset).create_model_card()


@pytest.mark.parametrize("workers", [0, 1])
def test_an_evaluation_leaves_the_random_numbers_of_the_training_alone(make_trainer, workers):
    """A run that a signal stopped in an evaluation is resumed after it."""
    trainer = make_trainer(dataloader_num_workers=workers)
    before = torch.get_rng_state()
    trainer.evaluate()
    assert torch.equal(torch.get_rng_state(), before)


def test_predict_gives_label_maps_and_scores_where_there_are_labels(make_trainer, toy_data):
    trainer = make_trainer(model=tiny_model(toy_data.id2label, seed=5))
    output = trainer.predict(toy_data.evaluation)
    assert [map.shape for map in output.predictions] == [(48, 96)] * 3 and output.predictions[0].dtype == np.uint8
    expected = trainer.evaluate()
    assert output.metrics["test_mean_iou"] == expected["eval_mean_iou"]
    labels = toy_data.evaluation.features["label"]
    for example, label in zip(toy_data.evaluation, output.label_ids, strict=True):
        np.testing.assert_array_equal(label, read_label(example["label"], labels))
    without = trainer.predict(toy_data.unlabeled.select(range(2)), metric_key_prefix="other")
    assert len(without.predictions) == 2 and without.label_ids is None and without.metrics == {}
    assert trainer.predict(toy_data.unlabeled.select([])).predictions == []


def test_the_best_class_may_occur_nowhere(make_trainer):
    steps = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1, "max_steps": 2}
    trainer = make_trainer(**steps, metric_for_best_model="iou_train", load_best_model_at_end=True)
    evaluate = trainer._evaluate_one

    def without_trains(*args):
        metrics = evaluate(*args)
        metrics.pop("eval_iou_train", None)
        return metrics

    trainer._evaluate_one = without_trains
    trainer.train()
    assert trainer.state.global_step == 2 and trainer.state.best_model_checkpoint is None


def test_evaluation_without_data_says_so(make_trainer):
    trainer = make_trainer()
    trainer.eval_dataset = None
    with pytest.raises(ValueError, match="eval_dataset: is a NoneType; give a datasets.Dataset"):
        trainer.evaluate()


def test_a_checkpoint_without_an_image_processor_takes_imagenets(toy_data, tmp_path, caplog):
    tiny_model(toy_data.id2label).save_pretrained(tmp_path / "starting")
    with caplog.at_level(logging.WARNING):
        trainer = build_trainer(toy_data, tmp_path / "run", model=str(tmp_path / "starting"))
    assert "brings no image processor" in caplog.text and trainer.normalization.image_mean == (0.485, 0.456, 0.406)


def test_training_in_python_is_the_one_writer_of_its_folder(make_trainer, tmp_path):
    """Another run's half checkpoint is not touched, and the lock goes with the training."""
    partial = tmp_path / "run/_partial/checkpoint-2"
    partial.mkdir(parents=True)
    (ready, locked), (wait, go_on) = os.pipe(), os.pipe()
    if not (child := os.fork()):
        lock = FolderLock("output_dir", tmp_path / "run")
        os.write(locked, b"x")
        os.read(wait, 1)
        lock.release()
        os._exit(0)
    os.read(ready, 1)
    trainer = make_trainer(max_steps=1)
    with pytest.raises(InputError, match=f"is written to by another run, process {child} "):
        trainer.train()
    assert partial.is_dir()
    os.write(go_on, b"x")
    os.waitpid(child, 0)
    trainer.train()
    assert not partial.exists() and not (tmp_path / "run" / LOCK).exists()

"""The starting weights, the model card, and what a push to the Hub would send."""

import logging
from pathlib import Path

import pytest
import torch
from conftest import tiny_model
from huggingface_hub import ModelCard
from safetensors.torch import save_file
from transformers import TrainerControl

from scl_hf.checkpoints import ModelArguments
from scl_hf.errors import InputError
from scl_hf.hub import load_model, write_model_card

TEMPLATE = str(Path(__file__).parents[1] / "model_card.md")


def test_a_checkpoint_of_other_classes_gives_all_but_the_head(tmp_path, caplog):
    before = tiny_model({index: f"class {index}" for index in range(5)})
    before.save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING):
        model, _ = load_model(ModelArguments(model_name_or_path=str(tmp_path)), {0: "a", 1: "b", 2: "c"})
    old, new = before.state_dict(), model.state_dict()
    head = "decoder.classifier.weight"
    assert new[head].shape[0] == 3 and new[head].std() > 0 and model.config.id2label == {0: "a", 1: "b", 2: "c"}
    assert list(new) == list(old) and all(torch.equal(new[key], old[key]) for key in new if key != head)
    taken_over = f"{len(new) - 1} of {len(new)} tensors taken over; new: {head} (5 → 3 classes)"
    assert [record.getMessage() for record in caplog.records][0] == f"{tmp_path}: {taken_over}"
    assert "LOAD REPORT" not in caplog.text


def test_weights_of_another_architecture_are_refused(tmp_path):
    tiny_model({0: "a", 1: "b"}).save_pretrained(tmp_path)
    save_file({"encoder.weight": torch.zeros(3)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match="its weights share no tensor with DeepLabV3PlusForSemanticSegmentation"):
        load_model(ModelArguments(model_name_or_path=str(tmp_path)), {0: "a", 1: "b"})


def test_a_folder_of_weights_that_is_not_there_is_named():
    with pytest.raises(InputError, match="model_name_or_path runs/nowhere: there is no such folder, and on the Hub"):
        load_model(ModelArguments(model_name_or_path="runs/nowhere"), {0: "a", 1: "b"})


def test_the_card_says_what_the_run_was(make_trainer):
    trainer = make_trainer(model_card_template=TEMPLATE, consistency_weight=7.5, max_steps=2)
    trainer.train()
    metrics = trainer.evaluate()
    trainer.create_model_card(dataset="a drawn town", license="apache-2.0")
    card = ModelCard.load(Path(trainer.args.output_dir) / "README.md")
    assert card.data.library_name == "transformers" and card.data.license == "apache-2.0"
    assert card.data.eval_results[0].metric_value == round(metrics["eval_mean_iou"], 4)
    assert f"| {metrics['eval_mean_iou']:.4f} |" in card.text
    assert "| λ_c, weight of the consistency loss | 7.5 |" in card.text
    assert "On 3 images (whole images):" in card.text
    assert "{{" not in card.content and "{%" not in card.content


def test_a_class_that_was_not_seen_has_a_dash(make_trainer):
    trainer = make_trainer(model_card_template=TEMPLATE)
    trainer.state.log_history = [
        {"eval_mean_iou": 0.5, "eval_mean_accuracy": 0.5, "eval_overall_accuracy": 0.5, "eval_iou_road": 0.25}
    ]
    text = write_model_card(trainer).read_text()
    assert "| road | 0.2500 |" in text and "| train | – |" in text


def test_a_run_without_evaluation_claims_nothing(make_trainer):
    trainer = make_trainer(model_card_template=TEMPLATE, consistency_weight=0, structured_consistency_weight=0)
    text = write_model_card(trainer).read_text()
    assert "Not evaluated." in text and "Trained with labels alone" in text and "eval_results" not in text


def test_the_card_names_the_student_where_it_is_published(make_trainer):
    trainer = make_trainer(model_card_template=TEMPLATE, ema_validation=False)
    assert "the student after" in write_model_card(trainer).read_text()


def test_what_is_pushed_while_training_has_the_code_beside_the_weights(make_trainer):
    trainer = make_trainer()
    folder = Path(trainer.args.output_dir)
    folder.mkdir(exist_ok=True)
    trainer.callback_handler.on_push_begin(trainer.args, trainer.state, TrainerControl())
    assert {path.name for path in folder.glob("*.py")} == {
        "configuration_deeplabv3plus.py",
        "modeling_deeplabv3plus.py",
    }

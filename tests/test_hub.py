"""The model card, and what a push to the Hub would send."""

from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from huggingface_hub.errors import HTTPError
from transformers import Trainer, TrainerControl

from scl_hf.errors import InputError

TEMPLATE = str(Path(__file__).parents[1] / "model_card.md")


def card_of(trainer):
    trainer.create_model_card()
    return (Path(trainer.args.output_dir) / "README.md").read_text()


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
    text = card_of(trainer)
    assert "| road | 0.2500 |" in text and "| train | – |" in text


def test_a_run_without_evaluation_claims_nothing(make_trainer):
    trainer = make_trainer(model_card_template=TEMPLATE, consistency_weight=0, structured_consistency_weight=0)
    text = card_of(trainer)
    assert "Not evaluated." in text and "Trained with labels alone" in text and "eval_results" not in text


def test_the_card_names_the_student_where_it_is_published(make_trainer):
    trainer = make_trainer(model_card_template=TEMPLATE, ema_validation=False)
    assert "the student after" in card_of(trainer)


def test_what_is_pushed_while_training_has_the_code_beside_the_weights(make_trainer):
    trainer = make_trainer()
    folder = Path(trainer.args.output_dir)
    folder.mkdir(exist_ok=True)
    trainer.callback_handler.on_push_begin(trainer.args, trainer.state, TrainerControl())
    assert {path.name for path in folder.glob("*.py")} == {
        "configuration_deeplabv3plus.py",
        "configuration_efficientnet_lite.py",
        "modeling_deeplabv3plus.py",
        "modeling_efficientnet_lite.py",
    }


def test_a_last_push_that_fails_says_that_nothing_is_lost(make_trainer, monkeypatch):
    def push(self, **kwargs):
        raise kwargs["error"]

    monkeypatch.setattr(Trainer, "push_to_hub", push)
    trainer = make_trainer()
    for error in (HTTPError("401 Client Error"), ConnectionError("no route")):
        with pytest.raises(
            InputError, match=f"push_to_hub: the Hub cannot be used .{error}.. All is saved in .*again"
        ):
            trainer.push_to_hub(error=error)
    for error in (OSError(28, "No space left"), PermissionError(13, "Permission denied", "config.json")):
        with pytest.raises(OSError, match="No space|config.json"):  # is not the Hub's
            trainer.push_to_hub(error=error)

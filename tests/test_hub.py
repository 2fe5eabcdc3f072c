"""The model card."""

from pathlib import Path

from huggingface_hub import ModelCard

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

"""The model card: its metadata, what it says of the run, its images and its recipe."""

import json
import re
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import eval_results_to_model_index, model_index_to_eval_results
from PIL import Image

from scl_hf.data.sources.cityscapes import LICENSE
from scl_hf.data.sources.mapillary import LICENSE as MAPILLARY
from scl_hf.model_card import CardFacts, check_card_template, fill_model_card

TEMPLATE = str(Path(__file__).parents[1] / "model_card.md")
SCORES = {"step": 2, "eval_mean_iou": 0.5, "eval_mean_accuracy": 0.5, "eval_overall_accuracy": 0.5}


@pytest.fixture
def card_of(make_trainer):
    """The text of the card of a trainer that was not trained, with a log and settings of one's own."""

    def write(log_history=(), about=None, **fields):
        trainer = make_trainer(model_card_template=TEMPLATE, **fields)
        trainer.state.log_history = list(log_history)
        trainer.create_model_card(**about or {})
        return (Path(trainer.args.output_dir) / "README.md").read_text()

    return write


def metadata(text):
    return yaml.safe_load(text.split("---\n")[1])


def test_the_card_says_what_the_run_was(make_trainer):
    trainer = make_trainer(model_card_template=TEMPLATE, consistency_weight=7.5, max_steps=2)
    trainer.train()
    metrics = trainer.evaluate()
    trainer.create_model_card(
        dataset="toy streets", license="apache-2.0", eval_split="validation", recipe="learning_rate: 0.01\n"
    )
    folder = Path(trainer.args.output_dir)
    card = ModelCard.load(folder / "README.md")
    assert card.data.library_name == "transformers" and card.data.license == "apache-2.0"
    assert f"| {metrics['eval_mean_iou']:.4f} |" in card.text
    assert "| λ_c, weight of the consistency loss | 7.5 |" in card.text
    assert "On 3 images of the split `validation` (whole images):" in card.text
    assert "```yaml\nlearning_rate: 0.01\n```" in card.text
    assert (folder / "recipe.yaml").read_text() == "learning_rate: 0.01\n"
    assert "{{" not in card.content and "{%" not in card.content and "\n\n\n" not in card.content
    # Every image that it shows lies beside it, and is the last panel.
    shown = re.findall(r"!\[.*?\]\((.*?)\)", card.text)
    assert shown == ["panel.png", "curves.png"]
    assert all(Image.open(folder / name).size > (100, 100) for name in shown)
    assert (folder / "panel.png").read_bytes() == (folder / "panels/step-000002.png").read_bytes()


def test_the_metadata_pass_what_the_hub_checks(make_trainer):
    trainer = make_trainer(model_card_template=TEMPLATE, eval_scales=[0.5, 1], eval_flip=True)
    metrics = trainer.evaluate()
    trainer.create_model_card(dataset="toy streets", eval_split="validation", finetuned_from="nvidia/mit-b0")
    data = ModelCard.load(Path(trainer.args.output_dir) / "README.md").data  # raises ValueError for a wrong index
    model_index = data.to_dict()["model-index"]
    json.dumps(data.to_dict(), allow_nan=False)
    name, results = model_index_to_eval_results(model_index)
    assert name == "run" and eval_results_to_model_index(name, results) == model_index
    values = {result.metric_name: result.metric_value for result in results}
    scored = [key for key in metrics if key.startswith("eval_iou_")]
    assert values["Mean IoU"] == round(metrics["eval_mean_iou"], 4)
    assert values["IoU of traffic light"] == round(metrics["eval_iou_traffic_light"], 4)
    assert "IoU of train" not in values and len(values) == 3 + len(scored)  # no street shows one
    (result, *_) = results
    assert (result.task_type, result.metric_type) == ("image-segmentation", "mean_iou")
    assert (result.dataset_name, result.dataset_type) == ("toy streets", "toy-streets")
    assert (result.dataset_split, result.metric_config) == (
        "validation",
        "whole images, at scale 0.5, 1, mirrored too",
    )
    assert data.base_model == "nvidia/mit-b0" and data.pipeline_tag == "image-segmentation"
    assert data.datasets is None and data.license is None


def test_data_that_may_not_be_passed_on(make_trainer):
    trainer = make_trainer(model_card_template=TEMPLATE)
    trainer.evaluate()
    trainer.create_model_card(dataset="folder", eval_split="validation", data_license=LICENSE)
    folder = Path(trainer.args.output_dir)
    card = ModelCard.load(folder / "README.md")
    assert (card.data.license, card.data.license_name, card.data.license_link) == ("other", *LICENSE[::2])
    assert card.data.datasets == ["cityscapes"] and card.data.eval_results[0].dataset_name == "Cityscapes"
    text = " ".join(card.text.split())
    assert "non-commercial use only" in text and "asks to cite it" in text and "cordts2016cityscapes" in text
    assert list(folder.glob("panels/*.png")) and not (folder / "panel.png").exists() and "panel.png" not in text
    trainer.create_model_card(data_license=MAPILLARY, license="cc-by-nc-sa-4.0")
    card = ModelCard.load(folder / "README.md")
    assert card.data.license == "cc-by-nc-sa-4.0" and card.data.get("license_name") is None
    assert "under the license `cc-by-nc-sa-4.0`" in card.text and "neuhold2017vistas" in card.text


def test_other_data_and_weights(card_of, tmp_path):
    about = {"dataset": "mine", "dataset_tags": "me/mine", "finetuned_from": str(tmp_path)}
    text = card_of([SCORES], about, license="cc-by-4.0")
    values = metadata(text)
    assert values["datasets"] == ["me/mine"] and values["license"] == "cc-by-4.0" and "base_model" not in values
    assert values["model-index"][0]["results"][0]["dataset"] == {"name": "mine", "type": "me/mine"}
    assert "[me/mine](https://huggingface.co/datasets/me/mine), whose terms apply" in text
    assert f"It started from other weights, `{tmp_path.name}`." in text and str(tmp_path) + "`" not in text
    assert "The terms of the weights that the training started from hold as well." in text


def test_of_several_datasets_the_first_is_told(toy_data, make_trainer):
    trainer = make_trainer(model_card_template=TEMPLATE)
    trainer.eval_dataset = {"mean": toy_data.evaluation, "other": toy_data.evaluation.select([0])}
    metrics = trainer.evaluate()
    trainer.create_model_card(dataset="toy streets")
    folder = Path(trainer.args.output_dir)
    text = (folder / "README.md").read_text()
    assert "On 3 images (" in text and f"| {metrics['eval_mean_mean_iou']:.4f} |" in text
    assert (folder / "panel.png").read_bytes() == (folder / "panels/mean-step-000000.png").read_bytes()


def test_a_class_that_was_not_seen_has_a_dash(card_of):
    text = card_of([SCORES | {"eval_iou_road": 0.25}])
    assert "| road | 0.2500 |" in text and "| train | – |" in text and "A dash marks" in text


def test_a_run_without_evaluation_claims_nothing(card_of):
    text = card_of(consistency_weight=0, structured_consistency_weight=0)
    assert "Not evaluated." in text and "It is the supervised baseline" in text and "CutMix boxes" not in text
    assert not {"model-index", "metrics"} & metadata(text).keys() and "semi-supervised" not in metadata(text)["tags"]
    assert "![" not in text


def test_the_card_names_the_student_where_it_is_published(card_of):
    assert "the student after" in card_of(ema_validation=False)


def test_settings_are_plain_values(card_of):
    text = card_of(optim="adamw_torch", optim_args=None, lr_scheduler_type="cosine", lr_scheduler_kwargs=None)
    assert "| optim | adamw_torch |" in text and "| lr scheduler type | cosine |" in text
    assert "Names." not in text and "Type." not in text


def test_a_class_name_does_not_break_the_table(make_trainer):
    trainer = make_trainer(model_card_template=TEMPLATE)
    trainer.model.config.id2label = {0: "road|street", 1: 'it\'s: "odd"'}
    facts = CardFacts("a model", "me/model", [SCORES | {'eval_iou_it\'s:_"odd"': 0.5}], 2, 1, 1, 1, dataset="x: y")
    card = fill_model_card(trainer.model, trainer.args, facts)
    assert "| road\\|street | – |" in card.text
    assert card.data.eval_results[-1].metric_name == 'IoU of it\'s: "odd"'
    check_card_template(trainer.model, trainer.args)

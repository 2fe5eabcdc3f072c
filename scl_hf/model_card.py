"""The model card of a run: metadata and text from plain values, with curves, sample predictions and the recipe."""

import importlib
import os
import re
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import accelerate
import datasets
import torch
import transformers
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers import PreTrainedModel

from .cli import field_help, first_sentence
from .config import SemiSupervisedConfig
from .data.sources.base import License
from .errors import InputError, first_line
from .evaluation.scoring import SCORES, describe_settings, iou_name
from .files import replacing, write_text
from .rounds import scores_of_phases

# Fields in the table of settings: two groups by the first sentence of their documentation, the last by their names
SETTINGS = "relaxation_window logit_adjustment ema_decay class_uniform_share crop_size".split()
SEMI_SUPERVISED_SETTINGS = (
    "consistency_weight structured_consistency_weight num_boxes num_loss_boxes num_pairs cutmix_ratio ema_teacher "
    "self_training_rounds teacher_update_interval semi_supervised_start_step semi_supervised_ramp_steps"
).split()
TRAINING_SETTINGS = "optim learning_rate lr_scheduler_type weight_decay seed".split()
# Score -> its type in the model index, and its name there
METRICS = {
    "mean_iou": ("mean_iou", "Mean IoU"),
    "mean_accuracy": ("mean_accuracy", "Mean accuracy"),
    "overall_accuracy": ("accuracy", "Pixel accuracy"),
}
CARD, CURVES, PANEL, RECIPE = "README.md", "curves.png", "panel.png", "recipe.yaml"


@dataclass
class CardFacts:
    """Facts of a run for its card, beside model and settings."""

    model_name: str
    repo: str  # where the model is loaded from, a Hub id or a folder
    log_history: Sequence[Mapping[str, float]]  # the last evaluation in it gives the scores
    steps: int
    num_labeled: int
    num_unlabeled: int
    num_evaluated: int
    evaluated_name: str | None = None  # of several evaluation datasets
    license: str | None = None  # of the model, as the Hub writes it
    tags: Sequence[str] = ()
    finetuned_from: str | None = None  # Hub id or folder of the weights at the start
    dataset: str | None = None  # in words
    dataset_tags: str | None = None  # its id on the Hub
    eval_split: str | None = None
    data_license: License | None = None  # of data that may not be passed on
    recipe: str | None = None  # as YAML

    def __post_init__(self):
        if self.evaluated_name:
            prefix = f"eval_{self.evaluated_name}_"
            self.log_history = [{key.replace(prefix, "eval_", 1): log[key] for key in log} for log in self.log_history]
        if self.data_license:
            self.dataset, self.dataset_tags = self.data_license.owner, self.data_license.key

    @property
    def metrics(self) -> Mapping[str, float]:
        """Scores of the last evaluation."""
        return next((log for log in reversed(self.log_history) if "eval_mean_iou" in log), {})

    @property
    def base_model(self) -> str | None:
        """Hub id of the weights at the start, if they are from there."""
        name = self.finetuned_from or ""
        return name if re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) and not os.path.exists(name) else None


def check_card_template(model: PreTrainedModel, args: SemiSupervisedConfig) -> None:
    """Fills the template with made-up values, so that an error in it shows before the run."""
    if args.model_card_template is not None:
        # One class has a score; the others have none, as if no label showed them.
        scores = {f"eval_{name}": 0.5 for name in (*SCORES, iou_name(model.config.id2label[0]))}
        facts = CardFacts("a model", "me/model", [scores], 1, 1, 1, 1, dataset="some data", recipe="seed: 0")
        fill_model_card(model, args, facts, (CURVES, PANEL))


def write_card(model: PreTrainedModel, args: SemiSupervisedConfig, facts: CardFacts) -> None:
    """Writes the card of the published `model` into `args.output_dir`, with curves, sample predictions and recipe."""
    folder, images = Path(args.output_dir), []
    if any("loss" in log or "eval_mean_iou" in log for log in facts.log_history):
        from .visualization.curves import plot_curves  # late: importing matplotlib takes a second

        plot_curves({facts.model_name: facts.log_history}, folder / CURVES)
        images.append(CURVES)
    name = f"{facts.evaluated_name}-step" if facts.evaluated_name else "step"
    panel = folder / "panels" / f"{name}-{facts.metrics.get('step', 0):06d}.png"
    if panel.is_file() and facts.data_license is None:  # other images may not be passed on
        with replacing(folder / PANEL) as partial:
            shutil.copyfile(panel, partial)
        images.append(PANEL)
    write_text(folder / CARD, str(fill_model_card(model, args, facts, images)))
    if facts.recipe:
        write_text(folder / RECIPE, facts.recipe)


def fill_model_card(
    model: PreTrainedModel, args: SemiSupervisedConfig, facts: CardFacts, images: Collection[str] = ()
) -> ModelCard:
    """Fills `args.model_card_template` with the run of the published `model` and with these `images`."""
    ious = {label: facts.metrics.get(f"eval_{iou_name(label)}") for _, label in sorted(model.config.id2label.items())}
    evaluation = describe_settings(args)
    data = ModelCardData(
        license=facts.license,
        library_name="transformers",
        pipeline_tag="image-segmentation",
        base_model=facts.base_model,
        datasets=[facts.dataset_tags] if facts.dataset_tags else None,
        metrics=["mean_iou"] if facts.metrics else None,
        tags=sorted({"semantic-segmentation", *["semi-supervised"] * args.semi_supervised, *facts.tags}),
        eval_results=_eval_results(facts, ious, evaluation) or None,
        model_name=facts.model_name,
    )
    if facts.data_license and facts.license is None:
        data.license, data.license_name, data.license_link = "other", facts.data_license.key, facts.data_license.link
    values = vars(facts) | {
        "model_class": type(model).__name__,
        "remote_code": getattr(model, "_auto_class", None) is not None,  # then `save_pretrained` writes its code
        "published": args.published_name,
        "semi_supervised": args.semi_supervised,
        "base_model": facts.base_model,
        "local_start": Path(facts.finetuned_from or "").name,
        "dataset": facts.dataset or "an unnamed dataset",
        "dataset_id": facts.dataset_tags if facts.data_license is None else None,
        "model_license": facts.license,
        "evaluation": evaluation,
        "metrics": facts.metrics,
        "phases": scores_of_phases(facts.log_history, args.semi_supervised),
        "ious": ious,
        "curves": CURVES if CURVES in images else None,
        "panel": PANEL if PANEL in images else None,
        "settings": _settings(args, facts.steps),
        "crop_size": args.crop_size,
        "processes": args.world_size,
        "version": importlib.import_module(__package__).__version__,
        "versions": {m.__name__: m.__version__ for m in (transformers, torch, accelerate, datasets)},
    }
    try:
        return ModelCard.from_template(data, template_path=args.model_card_template, **values)
    except Exception as error:  # a template of others may do anything
        reason = f"cannot be filled ({first_line(error)}). Correct it, or leave it out."
        raise InputError(f"model_card_template {args.model_card_template}: {reason}") from error


def _settings(args: SemiSupervisedConfig, steps: int) -> dict[str, Any]:
    """Returns name of a setting in the card -> its value."""
    texts, values = field_help(type(args)), args.to_dict()
    values |= args.lengths(steps)
    names = (*SEMI_SUPERVISED_SETTINGS * args.semi_supervised, *SETTINGS)
    settings = {first_sentence(texts[name]): values[name] for name in names}
    settings |= {name.replace("_", " "): values[name] for name in TRAINING_SETTINGS}
    settings["labeled crops of a step" + ", and as many mixed ones" * args.semi_supervised] = args.step_batch_size
    return settings | {"processes": f"{args.world_size}, on {args.device.type.upper()}"}


def _eval_results(facts: CardFacts, ious: Mapping[str, float | None], evaluation: str) -> list[EvalResult]:
    """Returns the scores for the Hub, as plain numbers."""
    if not (facts.metrics and facts.dataset):
        return []
    scores = [(*METRICS[name], facts.metrics[f"eval_{name}"]) for name in SCORES]
    scores += [("iou", f"IoU of {label}", iou) for label, iou in ious.items() if iou is not None]
    common = {"task_type": "image-segmentation", "task_name": "Semantic segmentation", "metric_config": evaluation}
    common |= {"dataset_type": facts.dataset_tags or re.sub(r"[^\w.-]+", "-", facts.dataset)}
    common |= {"dataset_name": facts.dataset, "dataset_split": facts.eval_split}
    return [
        EvalResult(metric_type=kind, metric_name=name, metric_value=round(value, 4), **common)
        for kind, name, value in scores
    ]

"""The model card of a run, filled from plain values, with what it shows: curves, a panel, the recipe."""

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
from .files import replacing
from .pretrained import brings_code

# What a reader of a card wants to know of the settings, by the first sentence of their documentation; the recipe has
# all that differ from the defaults.
SETTINGS = ("relaxation_window", "logit_adjustment", "ema_decay", "class_uniform_share", "crop_size")
SEMI_SUPERVISED_SETTINGS = (
    "consistency_weight",
    "structured_consistency_weight",
    "num_boxes",
    "num_loss_boxes",
    "num_pairs",
    "cutmix_ratio",
    "ema_teacher",
    "teacher_update_interval",
    "share_unlabeled",
    "semi_supervised_start_step",
    "semi_supervised_ramp_steps",
)
# Those of transformers, by their names
TRAINING_SETTINGS = ("optim", "learning_rate", "lr_scheduler_type", "weight_decay", "seed")
# Score -> its type in the model index, and its name there
METRICS = {
    "mean_iou": ("mean_iou", "Mean IoU"),
    "mean_accuracy": ("mean_accuracy", "Mean accuracy"),
    "overall_accuracy": ("accuracy", "Pixel accuracy"),
}
CARD, CURVES, PANEL, RECIPE = "README.md", "curves.png", "panel.png", "recipe.yaml"


@dataclass
class CardFacts:
    """
    What a card says of a run, beside its model and settings. What is not known is left out of it.

    Args:
        model_name (`str`): Title of the card.
        repo (`str`): Where the model is loaded from, a Hub id or a folder.
        log_history (`Sequence[Mapping[str, float]]`): The log; the scores are those of the last evaluation in it.
        steps (`int`): Steps of the training.
        num_labeled (`int`): Labeled images.
        num_unlabeled (`int`): Unlabeled images.
        num_evaluated (`int`): Images that were evaluated on.
        evaluated_name (`str`, *optional*): Which of several data sets to evaluate on these are.
        license (`str`, *optional*): License of the model, as the Hub writes it.
        tags (`Sequence[str]`, *optional*): Further tags.
        finetuned_from (`str`, *optional*): Hub id or folder of the weights at the start.
        dataset (`str`, *optional*): What it was trained on, in words.
        dataset_tags (`str`, *optional*): Id of that on the Hub.
        eval_split (`str`, *optional*): The split that was evaluated on.
        data_license ([`License`], *optional*): The license of data that may not be passed on.
        recipe (`str`, *optional*): The recipe, as YAML.
    """

    model_name: str
    repo: str
    log_history: Sequence[Mapping[str, float]]
    steps: int
    num_labeled: int
    num_unlabeled: int
    num_evaluated: int
    evaluated_name: str | None = None
    license: str | None = None
    tags: Sequence[str] = ()
    finetuned_from: str | None = None
    dataset: str | None = None
    dataset_tags: str | None = None
    eval_split: str | None = None
    data_license: License | None = None
    recipe: str | None = None

    def __post_init__(self):
        if self.evaluated_name:
            prefix = f"eval_{self.evaluated_name}_"
            self.log_history = [{key.replace(prefix, "eval_", 1): log[key] for key in log} for log in self.log_history]
        if self.data_license:
            self.dataset, self.dataset_tags = self.data_license.owner, self.data_license.key

    @property
    def metrics(self) -> Mapping[str, float]:
        """The last evaluation."""
        return next((log for log in reversed(self.log_history) if "eval_mean_iou" in log), {})

    @property
    def base_model(self) -> str | None:
        """The Hub id of the weights at the start, if they are from there."""
        name = self.finetuned_from or ""
        return name if re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) and not os.path.exists(name) else None


def check_card_template(model: PreTrainedModel, args: SemiSupervisedConfig) -> None:
    """Fills the template, if there is one, with made-up values: what is wrong with it is not to show after a run."""
    if args.model_card_template is not None:
        # One class with a score and the others, as those that no label shows, without.
        scores = {f"eval_{name}": 0.5 for name in (*SCORES, *map(iou_name, [model.config.id2label[0]]))}
        facts = CardFacts("a model", "me/model", [scores], 1, 1, 1, 1, dataset="some data", recipe="seed: 0")
        fill_model_card(model, args, facts, (CURVES, PANEL))


def write_card(model: PreTrainedModel, args: SemiSupervisedConfig, facts: CardFacts) -> None:
    """
    Writes the card of the published `model` into `args.output_dir`, and what belongs to it: the curves, the panel of
    the last evaluation unless its pictures may not be passed on, and the recipe.
    """
    folder = Path(args.output_dir)
    pictures = []
    if any("loss" in log or "eval_mean_iou" in log for log in facts.log_history):
        from .visualization.curves import plot_curves  # late: importing matplotlib takes a second

        plot_curves({facts.model_name: facts.log_history}, folder / CURVES)
        pictures.append(CURVES)
    name = f"{facts.evaluated_name}-step" if facts.evaluated_name else "step"
    panel = folder / "panels" / f"{name}-{facts.metrics.get('step', 0):06d}.png"
    if panel.is_file() and facts.data_license is None:
        with replacing(folder / PANEL) as partial:
            shutil.copyfile(panel, partial)
        pictures.append(PANEL)
    if facts.recipe:
        with replacing(folder / RECIPE) as partial:
            partial.write_text(facts.recipe, encoding="utf-8")
    card = fill_model_card(model, args, facts, pictures)
    with replacing(folder / CARD) as partial:
        card.save(partial)


def fill_model_card(
    model: PreTrainedModel, args: SemiSupervisedConfig, facts: CardFacts, pictures: Collection[str] = ()
) -> ModelCard:
    """`args.model_card_template`, filled with what the run of the published `model` was, with these pictures."""
    ious = {label: facts.metrics.get(f"eval_{iou_name(label)}") for _, label in sorted(model.config.id2label.items())}
    data = ModelCardData(
        license=facts.license,
        library_name="transformers",
        pipeline_tag="image-segmentation",
        base_model=facts.base_model,
        datasets=[facts.dataset_tags] if facts.dataset_tags else None,
        metrics=["mean_iou"] if facts.metrics else None,
        tags=sorted({"semantic-segmentation", *["semi-supervised"] * args.semi_supervised, *facts.tags}),
        eval_results=_eval_results(facts, ious, describe_settings(args)) or None,
        model_name=facts.model_name,
    )
    if facts.data_license and facts.license is None:
        data.license, data.license_name, data.license_link = "other", facts.data_license.key, facts.data_license.link
    try:
        return ModelCard.from_template(
            data,
            template_path=args.model_card_template,
            model_name=facts.model_name,
            model_class=type(model).__name__,
            remote_code=brings_code(model),
            repo=facts.repo,
            published=args.published_name,
            semi_supervised=args.semi_supervised,
            base_model=facts.base_model,
            local_start=Path(facts.finetuned_from or "").name,
            dataset=facts.dataset or "an unnamed data set",
            dataset_id=facts.dataset_tags if facts.data_license is None else None,
            data_license=facts.data_license,
            model_license=facts.license,
            num_labeled=facts.num_labeled,
            num_unlabeled=facts.num_unlabeled,
            protocol=describe_settings(args),
            whole_images=args.eval_tile is None and args.eval_scales == [1.0] and not args.eval_flip,
            num_evaluated=facts.num_evaluated,
            eval_split=facts.eval_split,
            steps=facts.steps,
            metrics=facts.metrics,
            ious=ious,
            curves=CURVES if CURVES in pictures else None,
            panel=PANEL if PANEL in pictures else None,
            settings=_settings(args),
            crop_size=args.crop_size,
            recipe=facts.recipe,
            processes=args.world_size,
            version=importlib.import_module(__package__).__version__,
            versions={m.__name__: m.__version__ for m in (transformers, torch, accelerate, datasets)},
        )
    except Exception as error:  # what others wrote may do anything
        raise InputError(
            f"model_card_template {args.model_card_template}: cannot be filled ({first_line(error)}). Correct it, or "
            "leave it out."
        ) from error


def _settings(args: SemiSupervisedConfig) -> dict[str, Any]:
    """What the card calls a setting -> its value."""
    texts, values = field_help(type(args)), args.to_dict()
    names = (*SEMI_SUPERVISED_SETTINGS * args.semi_supervised, *SETTINGS)
    settings = {first_sentence(texts[name]): values[name] for name in names}
    settings |= {name.replace("_", " "): values[name] for name in TRAINING_SETTINGS}
    crops = args.train_batch_size * args.world_size * args.gradient_accumulation_steps
    settings["labeled crops of a step" + ", and as many mixed ones" * args.semi_supervised] = crops
    return settings | {"processes": f"{args.world_size}, on {args.device.type.upper()}"}


def _eval_results(facts: CardFacts, ious: Mapping[str, float | None], protocol: str) -> list[EvalResult]:
    """The scores for the Hub, as plain numbers."""
    if not (facts.metrics and facts.dataset):
        return []
    scores = [(*METRICS[name], facts.metrics[f"eval_{name}"]) for name in SCORES]
    scores += [("iou", f"IoU of {label}", iou) for label, iou in ious.items() if iou is not None]
    return [
        EvalResult(
            task_type="image-segmentation",
            task_name="Semantic segmentation",
            dataset_type=facts.dataset_tags or re.sub(r"[^\w.-]+", "-", facts.dataset),
            dataset_name=facts.dataset,
            dataset_split=facts.eval_split,
            metric_type=kind,
            metric_name=name,
            metric_value=round(value, 4),
            metric_config=protocol,
        )
        for kind, name, value in scores
    ]

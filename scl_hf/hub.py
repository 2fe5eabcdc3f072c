"""The model card of a run, filled from plain values."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import accelerate
import datasets
import torch
import transformers
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers import PreTrainedModel

from .config import SemiSupervisedConfig
from .errors import InputError, first_line
from .evaluation.protocol import SCORES, iou_name, protocol_in_words
from .recipe import field_help, first_sentence

# What a reader of a card wants to know of the settings; everything is in training_args.bin. Ours are called what the
# first sentence of their documentation says.
SETTINGS = (
    "consistency_weight",
    "structured_consistency_weight",
    "num_boxes",
    "num_loss_boxes",
    "num_pairs",
    "cutmix_ratio",
    "relaxation_window",
    "logit_adjustment",
    "ema_decay",
    "ema_teacher",
    "semi_supervised_start_step",
    "semi_supervised_ramp_steps",
    "class_uniform_share",
    "crop_size",
)
TRAINING_SETTINGS = (
    "optim",
    "learning_rate",
    "lr_scheduler_type",
    "weight_decay",
    "per_device_train_batch_size",
    "seed",
)


def brings_code(model: PreTrainedModel) -> bool:
    """Whether `save_pretrained` puts the model's own code beside its weights."""
    return getattr(model, "_auto_class", None) is not None


def check_card_template(model: PreTrainedModel, args: SemiSupervisedConfig) -> None:
    """Fills the template, if there is one, with made-up values: what is wrong with it is not to show after a run."""
    if args.model_card_template is not None:
        # One class with a score and the others, as those that no label shows, without.
        scores = {f"eval_{name}": 0.5 for name in (*SCORES, *map(iou_name, [model.config.id2label[0]]))}
        fill_model_card(model, args, [scores], 1, 1, 1, 1, dataset="some data")


def fill_model_card(
    model: PreTrainedModel,
    args: SemiSupervisedConfig,
    log_history: Sequence[Mapping[str, float]],
    steps: int,
    num_labeled: int,
    num_unlabeled: int,
    num_evaluated: int,
    model_name: str | None = None,
    dataset: str | None = None,
    license: str | None = None,
    repo: str | None = None,
    tags: Sequence[str] = (),
) -> ModelCard:
    """
    `args.model_card_template`, filled with what the run of the published `model` was and what it scored, by the last
    evaluation in `log_history`. A licence is left out unless given, since it follows the data's; `dataset` is what it
    was trained on, in words.
    """
    model_name = model_name or Path(args.output_dir).resolve().name
    metrics = next((log for log in reversed(log_history) if "eval_mean_iou" in log), {})
    ious = {label: metrics.get(f"eval_{iou_name(label)}") for _, label in sorted(model.config.id2label.items())}
    results = None
    if metrics and dataset:
        mean_iou = round(metrics["eval_mean_iou"], 4)
        results = [EvalResult("image-segmentation", dataset, dataset, "mean_iou", mean_iou)]
    data = ModelCardData(
        license=license,
        library_name="transformers",
        pipeline_tag="image-segmentation",
        tags=sorted({"semantic-segmentation", "semi-supervised", *tags}),
        eval_results=results,
        model_name=model_name,
    )
    texts, values = field_help(type(args)), args.to_dict()
    settings = {first_sentence(texts[name]): values[name] for name in SETTINGS}
    settings |= {name.replace("_", " "): values[name] for name in TRAINING_SETTINGS}
    try:
        return ModelCard.from_template(
            data,
            template_path=args.model_card_template,
            model_name=model_name,
            model_class=type(model).__name__,
            remote_code=brings_code(model),
            repo=repo or args.output_dir,
            published=args.published_name,
            semi_supervised=args.semi_supervised,
            dataset=dataset or "an unnamed data set",
            num_labeled=num_labeled,
            num_unlabeled=num_unlabeled,
            protocol=protocol_in_words(args),
            num_evaluated=num_evaluated,
            steps=steps,
            metrics=metrics,
            ious=ious,
            settings=settings,
            versions={m.__name__: m.__version__ for m in (transformers, torch, accelerate, datasets)},
        )
    except Exception as error:  # what others wrote may do anything
        raise InputError(
            f"model_card_template {args.model_card_template}: cannot be filled ({first_line(error)}). Correct it, or "
            "leave it out."
        ) from error

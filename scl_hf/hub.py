"""What a run gives to the Hub: the model card, and the code beside the weights."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import accelerate
import datasets
import torch
import transformers
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers import PreTrainedModel, TrainerCallback
from transformers.dynamic_module_utils import custom_object_save

from .evaluation.protocol import iou_name, protocol_in_words

if TYPE_CHECKING:
    from .trainer import SemiSupervisedTrainer

# What a reader of a card wants to know of the settings; everything is in training_args.bin.
SETTINGS = {
    "consistency_weight": "λ_c, weight of the consistency loss",
    "structured_consistency_weight": "λ_sc, weight of the structured consistency loss",
    "num_boxes": "N, CutMix boxes of an image",
    "num_loss_boxes": "N_box, boxes with a structured loss",
    "num_pairs": "N_pair, pairs of pixels in a box (None: all, exactly)",
    "cutmix_ratio": "area of all boxes as a share of the image",
    "relaxation_window": "w, window of boundary label relaxation",
    "ema_decay": "decay of the EMA teacher",
    "ema_teacher": "targets from the EMA model",
    "semi_supervised_start_step": "steps with labels alone at the start",
    "semi_supervised_ramp_steps": "steps of ramp-up",
    "optim": "optimizer",
    "learning_rate": "learning rate",
    "lr_scheduler_type": "schedule",
    "weight_decay": "weight decay",
    "per_device_train_batch_size": "labelled crops a step and device",
    "seed": "seed",
}


def brings_code(model: PreTrainedModel) -> bool:
    """Whether `save_pretrained` puts the model's own code beside its weights."""
    return getattr(model, "_auto_class", None) is not None


class CodeBesideWeights(TrainerCallback):
    """Puts the model's own code into what the Trainer is about to push: it copies weights alone while training."""

    def on_push_begin(self, args, state, control, model=None, **kwargs):
        if brings_code(model):
            custom_object_save(model, args.output_dir, config=model.config)


def write_model_card(
    trainer: "SemiSupervisedTrainer",
    model_name: str | None = None,
    dataset: str | None = None,
    license: str | None = None,
    **other: Any,
) -> Path:
    """
    Fills the card's template with what the run was and what it scored, and writes `README.md` into its output folder.

    Args:
        trainer ([`~scl_hf.SemiSupervisedTrainer`]): The run.
        model_name (`str`, *optional*): Name of the model; the output folder's by default.
        dataset (`str`, *optional*): What it was trained on, in words.
        license (`str`, *optional*): Licence of the weights; left out unless given, since it follows the data's.
        other: Further arguments of `Trainer.create_model_card`; `tags` is used.

    Returns:
        `pathlib.Path`: The card.
    """
    args, config = trainer.args, trainer.model.config
    model_name = model_name or Path(args.output_dir).resolve().name
    unlabeled = trainer.train_dataset.unlabeled
    metrics = next((log for log in reversed(trainer.state.log_history) if "eval_mean_iou" in log), {})
    ious = {label: metrics.get(f"eval_{iou_name(label)}") for _, label in sorted(config.id2label.items())}
    results = []
    if metrics and dataset:
        results = [
            EvalResult(
                task_type="image-segmentation",
                dataset_type=dataset,
                dataset_name=dataset,
                metric_type="mean_iou",
                metric_value=round(metrics["eval_mean_iou"], 4),
            )
        ]
    data = ModelCardData(
        license=license,
        library_name="transformers",
        pipeline_tag="image-segmentation",
        tags=sorted({"semantic-segmentation", "semi-supervised", *other.get("tags", [])}),
        eval_results=results or None,
        model_name=model_name,
    )
    card = ModelCard.from_template(
        data,
        template_path=args.model_card_template,
        model_name=model_name,
        model_class=type(trainer.evaluated_model).__name__,
        remote_code=brings_code(trainer.evaluated_model),
        repo=trainer.hub_model_id if args.push_to_hub else args.output_dir,
        published=trainer.evaluated_name,
        semi_supervised=args.semi_supervised,
        dataset=dataset or "an unnamed data set",
        num_labeled=len(trainer.train_dataset.labeled),
        num_unlabeled=0 if unlabeled is None else len(unlabeled),
        protocol=protocol_in_words(args),
        num_evaluated=0 if trainer.eval_dataset is None else len(trainer.eval_dataset),
        steps=trainer.state.global_step,
        metrics=metrics,
        ious=ious,
        settings={text: getattr(args, name) for name, text in SETTINGS.items()},
        versions={m.__name__: m.__version__ for m in (transformers, torch, accelerate, datasets)},
    )
    path = Path(args.output_dir) / "README.md"
    card.save(path)
    return path

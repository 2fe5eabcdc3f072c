"""What a run takes from the Hub or a folder, its starting weights, and what it gives back, the model card."""

import inspect
import json
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import accelerate
import datasets
import torch
import transformers
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import (
    AutoImageProcessor,
    AutoModelForSemanticSegmentation,
    PreTrainedModel,
    SegformerImageProcessorPil,
    TrainerCallback,
)
from transformers.dynamic_module_utils import custom_object_save
from transformers.image_processing_utils import BaseImageProcessor
from transformers.utils import CONFIG_NAME

from .checkpoints import ModelArguments
from .errors import InputError, first_line
from .evaluation.protocol import iou_name, protocol_in_words
from .models import DeepLabV3PlusConfig, DeepLabV3PlusForSemanticSegmentation

if TYPE_CHECKING:
    from .trainer import SemiSupervisedTrainer

logger = logging.getLogger(__name__)

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


def load_model(args: ModelArguments, id2label: dict[int, str]) -> tuple[PreTrainedModel, BaseImageProcessor]:
    """
    The model to train, and the image processor that is saved with it: the pictures as they are, normalised as the
    starting weights want it. Where there are such weights, the log says which of them were taken over.

    Args:
        args ([`ModelArguments`]): The model fields of the recipe.
        id2label (`dict[int, str]`): Class names by train id.

    Returns:
        `tuple`: The model, with a head for these classes, and the image processor.

    Raises:
        [`InputError`]: The checkpoint cannot be loaded as a semantic-segmentation model, none of its weights fit, or
            `model_config` is wrong.
    """
    labels = {"id2label": id2label, "label2id": {name: i for i, name in id2label.items()}}
    normalization = {}
    if args.model_name_or_path is None:
        if args.model_config and (given := {"id2label", "label2id", "num_labels"} & set(args.model_config)):
            raise InputError(f"model_config: leave out '{min(given)}': the classes are those of the data.")
        try:
            config = DeepLabV3PlusConfig(**(args.model_config or {}), **labels)
        except (TypeError, ValueError, StrictDataclassError) as error:
            raise InputError(f"model_config: {_last_line(error)}") from error
        unknown = sorted(set(args.model_config or {}) - set(inspect.signature(DeepLabV3PlusConfig).parameters))
        if unknown:
            raise InputError(f"model_config: unknown field '{unknown[0]}'; see DeepLabV3PlusConfig for the fields.")
        model = DeepLabV3PlusForSemanticSegmentation(config)
    else:
        transformers_logger = logging.getLogger("transformers.modeling_utils")
        transformers_logger.addFilter(_is_no_load_report)  # a table and notes, where a line says it
        try:
            model, report = AutoModelForSemanticSegmentation.from_pretrained(
                args.model_name_or_path,
                ignore_mismatched_sizes=True,
                trust_remote_code=args.trust_remote_code,
                dtype=torch.float32,
                output_loading_info=True,
                **labels,
            )
        except (OSError, ValueError, KeyError, SafetensorError, StrictDataclassError) as error:
            local = Path(args.model_name_or_path).is_dir()
            raise InputError(
                f"model_name_or_path {args.model_name_or_path}: "
                + ("" if local else "there is no such folder, and on the Hub it is ")
                + f"not a semantic-segmentation checkpoint that can be loaded ({first_line(error)})"
            ) from error
        finally:
            transformers_logger.removeFilter(_is_no_load_report)
        taken_over = _taken_over(args.model_name_or_path, model, report)
        if os.environ.get("RANK", "0") == "0":  # one process says it for all
            logger.warning("%s: %s", args.model_name_or_path, taken_over)
        try:
            processor = AutoImageProcessor.from_pretrained(args.model_name_or_path)
            normalization = {"image_mean": processor.image_mean, "image_std": processor.image_std}
        except (OSError, ValueError, AttributeError):
            logger.warning("%s brings no image processor: ImageNet's mean and std are used.", args.model_name_or_path)
    return model, SegformerImageProcessorPil(do_resize=False, do_convert_rgb=True, **normalization)


def _is_no_load_report(record: logging.LogRecord) -> bool:
    return "LOAD REPORT" not in record.getMessage()


def _taken_over(name: str, model: PreTrainedModel, report: dict) -> str:
    """What of a checkpoint is in the model now, in a line."""
    total = len(model.state_dict())
    new = {key: "" for key in sorted(report["missing_keys"])}
    # The config is the checkpoint's own but for the classes, so that a tensor of another size is one of the head.
    new |= {key: f" ({old[0]} → {now[0]} classes)" for key, old, now in sorted(report["mismatched_keys"])}
    if len(new) >= total:
        raise InputError(
            f"model_name_or_path {name}: its weights share no tensor with {type(model).__name__}, which its "
            f"{CONFIG_NAME} names; take a folder whose weights and {CONFIG_NAME} belong together."
        )
    parts = [f"{total - len(new)} of {total} tensors taken over"]
    if new:
        parts.append(f"new: {_listed([key + note for key, note in new.items()])}")
    if report["unexpected_keys"]:
        parts.append(f"not used: {_listed(sorted(report['unexpected_keys']))}")
    return "; ".join(parts)


def _listed(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f", … ({len(names)} in all)" if len(names) > 4 else "")


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1].strip()


def load_weights(folder: Path, model: PreTrainedModel) -> None:
    """
    Loads the weights of a checkpoint folder into a model of the same architecture.

    Args:
        folder (`pathlib.Path`): A folder that `save_pretrained` wrote.
        model ([`~transformers.PreTrainedModel`]): Takes the weights.

    Raises:
        [`InputError`]: There are none, they cannot be read, or they are of another architecture.
    """
    field = f"resume_from_checkpoint {folder}"
    try:
        model_type = json.loads((folder / CONFIG_NAME).read_text()).get("model_type")
    except (OSError, ValueError) as error:
        raise InputError(
            f"{field}: holds no {CONFIG_NAME} that can be read; resume with the same ema_validation."
        ) from error
    different = [f"model type {model_type}"]
    if model_type == model.config.model_type:
        try:
            # Not by the file's keys: transformers renames some of them when it saves.
            saved, report = type(model).from_pretrained(
                folder,
                config=model.config,
                dtype=torch.float32,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
        except (OSError, ValueError, SafetensorError) as error:
            raise InputError(f"{field}: cannot be read ({first_line(error)}); take an older one.") from error
        different = sorted([*report["missing_keys"], *report["unexpected_keys"]])
        different += [key for key, *_ in report["mismatched_keys"]]
    if different:
        raise InputError(
            f"{field}: of another architecture than this recipe's {model.config.model_type} ({different[0]} differs)."
            " Resume with the recipe that wrote it, or start anew in another output_dir."
        )
    model.load_state_dict(saved.state_dict())


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

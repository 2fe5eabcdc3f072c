"""Evaluation during training: whole images to named scores, a table and examples, or to label maps."""

from collections.abc import Mapping
from typing import Any

import datasets
import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn

from ..data.columns import check_labels, image_dataset, labeled_dataset
from ..data.crops import EvaluationImages
from ..data.normalization import Normalization
from ..errors import InputError
from .report import iou_table
from .scoring import SCORES, EvaluationArguments, iou_name, named_scores, score


def evaluation_images(
    dataset: datasets.Dataset, name: str, id2label: Mapping[int, str], normalization: Normalization
) -> EvaluationImages:
    """Returns the images of a dataset, which errors call `name`; only a test_dataset needs no labels."""
    if name == "test_dataset" and "label" not in getattr(dataset, "column_names", ()):
        return EvaluationImages(image_dataset(dataset, name, None), normalization)
    return EvaluationImages(labeled_dataset(dataset, name, id2label), normalization)


def best_metric_of(
    metric: str | None, eval_dataset: datasets.Dataset | dict | None, id2label: dict[int, str]
) -> str | None:
    """Checks evaluation datasets and `metric_for_best_model`; of several datasets, the first one's is the default."""
    several = eval_dataset if isinstance(eval_dataset, dict) else {"": eval_dataset}
    for dataset in several.values():
        if dataset is not None:
            check_labels(labeled_dataset(dataset, "eval_dataset", id2label), "eval_dataset")
    names = [*SCORES, *map(iou_name, id2label.values())]
    scores = [f"{dataset}_{score}".removeprefix("_") for dataset in several for score in names]
    if metric == SCORES[0]:
        metric = scores[0]
    if (metric or scores[0]).removeprefix("eval_") not in scores:
        raise InputError(f"metric_for_best_model: must be one of {', '.join(scores)}.")
    return metric


def evaluate_images(
    model: nn.Module, images: EvaluationImages, args: EvaluationArguments, accelerator: Accelerator, num_examples: int
) -> tuple[dict[str, float], str, list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]]:
    """Returns scores, a table, and this process's examples on the CPU: image (3, H, W), label, prediction (H, W)."""
    own = range(accelerator.process_index, len(images), accelerator.num_processes)  # as `score` shares them out
    shown = set(own[:: max(1, len(own) // max(1, num_examples))][:num_examples])
    examples, id2label = [], model.config.id2label

    def keep_example(index: int, item: dict[str, Any], probs: torch.Tensor) -> None:
        if index in shown:
            examples.append((item["pixel_values"], item["labels"], probs[0].argmax(dim=0).cpu()))

    results = score(model, images, args, accelerator, keep_example)
    return named_scores(results, id2label), iou_table(results, id2label), examples


def predict_label_maps(
    model: nn.Module, images: EvaluationImages, args: EvaluationArguments, accelerator: Accelerator
) -> tuple[list[np.ndarray], list[np.ndarray] | None, dict[str, float]]:
    """Returns the predicted map (H, W), uint8, of each image, in each process; with labels, also those and scores."""
    found: dict[int, tuple[np.ndarray, np.ndarray | None]] = {}

    def keep(index: int, item: dict[str, Any], probs: torch.Tensor) -> None:
        label = item["labels"].to(torch.uint8).numpy() if "labels" in item else None
        found[index] = (probs[0].argmax(dim=0).to(torch.uint8).cpu().numpy(), label)

    results = score(model, images, args, accelerator, keep)
    found = {index: maps for part in gather_object([found]) for index, maps in part.items()}
    predictions, labels = ([found[index][i] for index in sorted(found)] for i in range(2))
    if "label" not in images.dataset.column_names:
        return predictions, None, {}
    return predictions, labels, named_scores(results, model.config.id2label)

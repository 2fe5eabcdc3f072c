"""Whole images in, predictions and named scores out."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, Subset

from .config import SemiSupervisedConfig
from .data.batches import EvaluationImages
from .errors import InputError
from .inference import predict_probs

SCORES = ("mean_iou", "mean_accuracy", "overall_accuracy")


def predicted_images(
    model: nn.Module,
    images: EvaluationImages,
    rows: Sequence[int],
    args: SemiSupervisedConfig,
    accelerator: Accelerator,
) -> Iterator[tuple[int, dict[str, Any], torch.Tensor]]:
    """
    Predicts images one at a time, by the protocol of the `eval_…` fields.

    Args:
        model (`torch.nn.Module`): On `args.device`.
        images ([`~scl_hf.data.batches.EvaluationImages`]): What is predicted.
        rows (`Sequence[int]`): Which of them.
        args ([`SemiSupervisedConfig`]): Scales, flip, tiles, loader workers.
        accelerator (`accelerate.Accelerator`): Whose mixed precision is used.

    Yields:
        `tuple`: The row, its item of `images`, and the predicted train ids, (1, H, W) int64 on `args.device`.
    """
    loader = DataLoader(Subset(images, rows), batch_size=None, num_workers=args.dataloader_num_workers)
    for row, item in zip(rows, loader):
        try:
            with accelerator.autocast():
                probs = predict_probs(
                    model,
                    item["pixel_values"].unsqueeze(0).to(args.device),
                    scales=tuple(args.eval_scales),
                    flip=args.eval_flip,
                    tile=args.eval_tile,
                    overlap=args.eval_overlap,
                )
        except ValueError as error:
            raise InputError(f"eval_scales, eval_tile: image {item['id']} cannot be evaluated: {error}") from error
        yield row, item, probs.argmax(dim=1)


def iou_name(label: str) -> str:
    """The name of a class's IoU among the metrics: `iou_traffic_light`."""
    return f"iou_{label.replace(' ', '_')}"


def named_scores(results: Mapping[str, Any], id2label: Mapping[int, str]) -> dict[str, float]:
    """
    The results of [`~scl_hf.metrics.MeanIoU`] as plain (name, number) pairs; classes that do not occur are left out.

    Args:
        results (`Mapping[str, Any]`): Of `MeanIoU.compute`.
        id2label (`Mapping[int, str]`): Class names by train id.

    Returns:
        `dict[str, float]`: mean IoU, mean and overall accuracy, and the IoU of each class.
    """
    scores = {name: float(results[name]) for name in SCORES}
    ious = {iou_name(id2label[i]): float(iou) for i, iou in enumerate(results["per_category_iou"])}
    return scores | {name: iou for name, iou in ious.items() if iou == iou}

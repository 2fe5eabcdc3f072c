"""Predicts whole images and scores them, in the same way for training, evaluation and prediction."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset

from ..checkpointing import signals
from ..errors import InputError, check_field, check_finite, first_line, is_killed_worker, killed_workers
from ..inference import predict_probs
from ..processes import is_out_of_memory

SCORES = ("mean_iou", "mean_accuracy", "overall_accuracy")
MIXED_PRECISION = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}  # dtype -> name in `accelerate`


@dataclass
class EvaluationArguments:
    """
    How whole images are predicted, see [`~scl_hf.inference.predict_probs`]. The paper's test-time augmentation is
    `eval_scales=[0.5, 1, 2], eval_flip=True, eval_tile=[1024, 1024]`.

    Args:
        eval_scales (`list[float]`, *optional*, defaults to `[1.0]`): Scales at which each image is seen.
        eval_flip (`bool`, *optional*, defaults to `False`): Whether the mirrored image is seen, too.
        eval_tile (`list[int]`, *optional*): Height and width in pixels, or one number for both, of the sliding window.
            Whole images by default. Few wide tiles see fewer pixels twice: 1024 by 1232 on images of 1024 by 2048
            costs 1.19 times the whole images of the paper's scales, squares of 1024 cost 1.48 times.
        eval_overlap (`float`, *optional*, defaults to 1/3): Least share of a tile that its neighbor covers, too.
        max_tiles_per_batch (`int`, *optional*, defaults to 1): Tiles (or whole images), mirrored ones included, that
            go through the model at once. More need more memory, and are faster where tiles are small.
        dataloader_num_workers (`int`, *optional*, defaults to 0): Processes that read images ahead.
    """

    eval_scales: list[float] = field(default_factory=lambda: [1.0])
    eval_flip: bool = False
    eval_tile: list[int] | None = None
    eval_overlap: float = 1 / 3
    max_tiles_per_batch: int = 1
    dataloader_num_workers: int = 0

    def __post_init__(self):
        check_finite(self)
        if self.eval_tile is not None:
            tile = self.eval_tile if isinstance(self.eval_tile, (list, tuple)) else [self.eval_tile]
            self.eval_tile = None if tile == [None] else [*tile, *tile] if len(tile) == 1 else list(tile)
        positive = bool(self.eval_scales) and all(0 < scale < math.inf for scale in self.eval_scales)
        check_field(self, "eval_scales", positive, "scales above 0")
        is_size = self.eval_tile is None or (len(self.eval_tile) == 2 and min(self.eval_tile) >= 1)
        check_field(self, "eval_tile", is_size, "height and width, or one number, of 1 or more, or left out")
        check_field(self, "eval_overlap", 0 <= self.eval_overlap < 1, "0 or more and below 1")
        check_field(self, "max_tiles_per_batch", self.max_tiles_per_batch >= 1, "1 or more")
        check_field(self, "dataloader_num_workers", self.dataloader_num_workers >= 0, "0 or more")


def evaluation_settings(args: EvaluationArguments, dtype: str) -> dict[str, Any]:
    """Returns the settings that predictions depend on, as plain values, without those that change the speed only."""
    speed = ("max_tiles_per_batch", "dataloader_num_workers")
    names = [field.name for field in fields(EvaluationArguments) if field.name not in speed]
    return {name: getattr(args, name) for name in names} | {"dtype": dtype}


def describe_settings(args: EvaluationArguments) -> str:
    """Returns the evaluation settings in words, such as `whole images, at scale 0.5, 1, mirrored too`."""
    parts = ["tiles of {}×{} pixels".format(*args.eval_tile) if args.eval_tile else "whole images"]
    if args.eval_scales != [1.0]:
        parts.append("at scale " + ", ".join(f"{scale:g}" for scale in args.eval_scales))
    return ", ".join(parts + ["mirrored too"] * args.eval_flip)


def changed_setting(earlier: Mapping[str, Any], settings: Mapping[str, Any]) -> tuple[str, Any, Any] | None:
    """Returns the first setting that differs from what was read as JSON: its name, the value there, the one here."""
    settings = json.loads(json.dumps(settings))
    names = [name for name in settings | earlier if earlier.get(name) != settings.get(name)]
    return (names[0], earlier.get(names[0]), settings.get(names[0])) if names else None


def read_record(file: Path, settings: Mapping[str, Any] | None) -> dict[str, Any]:
    """Reads the JSON of an earlier run; raises `InputError` if it was made with other settings than these."""
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        earlier, record["sources"] = dict(record["settings"]), dict(record.get("sources", {}))
    except (ValueError, KeyError, TypeError):
        raise InputError(f"output: {file} is not the record of an earlier run. Name another --output.") from None
    if settings is not None and (changed := changed_setting(earlier, settings)):
        remedy = "Name another --output, or add --overwrite true to replace it."
        raise InputError("output: {} is for {} {}, this would be for {}. {}".format(file, *changed, remedy))
    return record


def make_accelerator(dtype: str) -> Accelerator:
    """Returns the accelerator of this process, on a GPU if there is one, with mixed precision by `dtype`."""
    if dtype not in MIXED_PRECISION:
        raise InputError(f"dtype: must be {', '.join(MIXED_PRECISION)}, got {dtype!r}.")
    if dtype == "float16" and not torch.accelerator.is_available():  # Accelerate would compute in float32
        raise InputError("dtype: float16 needs a GPU. Give bfloat16, or leave it out.")
    try:
        # Without a GPU, several processes find each other only if they are told that they run on the CPU.
        return Accelerator(cpu=not torch.accelerator.is_available(), mixed_precision=MIXED_PRECISION[dtype])
    except ValueError as error:
        raise InputError(f"dtype: {dtype} does not run here ({first_line(error)})") from error


def predict_image(
    model: nn.Module, item: Mapping[str, Any], args: EvaluationArguments, accelerator: Accelerator
) -> torch.Tensor:
    """Returns class probabilities (1, C, H, W), float32 on the device, of `pixel_values` (3, H, W) and `id`."""
    try:
        with accelerator.autocast():
            pixel_values = item["pixel_values"].unsqueeze(0).to(accelerator.device)
            test_time = (args.eval_scales, args.eval_flip, args.eval_tile, args.eval_overlap)
            return predict_probs(model, pixel_values, *test_time, args.max_tiles_per_batch)
    except (ValueError, RuntimeError) as error:  # RuntimeError: convolutions larger than their input, and the like
        if is_killed_worker(error):  # raised wherever the process happens to be
            raise
        height, width = args.eval_tile or item["pixel_values"].shape[-2:]
        scales = ", ".join(f"{scale:g}" for scale in args.eval_scales)
        seen = f"{'tiles' if args.eval_tile else 'its'} {height}×{width} pixels at scale {scales}"
        message = f"eval_scales, eval_tile: image {item['id']} cannot be evaluated with {seen}: {first_line(error)}"
        if is_out_of_memory(error):
            problem = f"image {item['id']} does not fit into the memory of the device"
            message = f"eval_tile, max_tiles_per_batch: {problem}; take smaller tiles than {seen}, or fewer at once."
        raise InputError(message) from error


@killed_workers()
def score(
    model: nn.Module,
    images: Dataset,
    args: EvaluationArguments,
    accelerator: Accelerator,
    on_prediction: Callable[[int, dict[str, Any], torch.Tensor], None] | None = None,
) -> dict[str, Any]:
    """
    Returns the results of [`~scl_hf.metrics.MeanIoU`] for a model on [`~scl_hf.data.crops.EvaluationImages`], all NaN
    without labels, and the "confusion_matrix", (C, C) int64 on the CPU. The processes share the images and add up
    their counts: the result is the same in each process and for any number of them. `on_prediction` is called with
    each index of this process, its item, and its probabilities (1, C, H, W) on the device.
    """
    from ..metrics import MeanIoU  # late: importing `evaluate` takes seconds

    metric = MeanIoU(num_classes=model.config.num_labels)
    # Not a prepared loader, which would repeat images to fill up the last batch
    indices = range(accelerator.process_index, len(images), accelerator.num_processes)
    workers = {"num_workers": args.dataloader_num_workers, "worker_init_fn": signals.worker_init()}
    # A generator of its own: an evaluation takes nothing from the random numbers of training.
    loader = DataLoader(Subset(images, indices), batch_size=None, generator=torch.Generator(), **workers)
    for index, item in zip(indices, loader):
        probs = predict_image(model, item, args, accelerator)
        try:
            if "labels" in item:
                metric.add_batch(predictions=probs.argmax(dim=1), references=item["labels"].unsqueeze(0))
        except ValueError as error:
            raise InputError(f"image {item['id']}: the labels do not fit the model: {error}") from error
        if on_prediction is not None:
            on_prediction(index, item, probs)
        if signals.requested():
            break
    signals.check(accelerator.device)
    metric.confusion_matrix = accelerator.reduce(metric.confusion_matrix.to(accelerator.device))
    confusion_matrix = metric.confusion_matrix.cpu()
    return metric.compute() | {"confusion_matrix": confusion_matrix}


def iou_name(label: str) -> str:
    """Returns the name of a class's IoU among the metrics, such as `iou_traffic_light`."""
    return f"iou_{label.replace(' ', '_')}"


def named_scores(results: Mapping[str, Any], id2label: Mapping[int, str]) -> dict[str, float]:
    """Returns mean IoU, accuracies and the IoU of each class that occurs, of the results of [`score`]."""
    scores = {name: float(results[name]) for name in SCORES}
    ious = {iou_name(id2label[i]): float(iou) for i, iou in enumerate(results["per_category_iou"])}
    return scores | {name: iou for name, iou in ious.items() if not math.isnan(iou)}

"""Streamed mean intersection over union. Import this module late: `evaluate` takes seconds to import."""

import datasets
import evaluate
import numpy as np
import torch


class MeanIoU(evaluate.Metric):
    """
    Intersection over union and accuracy of label maps, with the keys and meaning of the `mean_iou` metric of
    `evaluate`. No prediction is stored: `confusion_matrix`, int64 (num_classes, num_classes), rows references, columns
    predictions, grows on the device of the last predictions. Several processes sum theirs before `compute`:
    `metric.confusion_matrix = accelerator.reduce(metric.confusion_matrix.to(device))`.

    Args:
        num_classes (`int`): Classes are 0 … num_classes - 1.
        ignore_index (`int`, *optional*, defaults to `255`): Reference pixels of this value do not count.

    Example:

    ```python
    >>> metric = MeanIoU(num_classes=19)
    >>> metric.add_batch(predictions=logits.argmax(1), references=batch["labels"])
    >>> metric.compute()["mean_iou"]
    ```
    """

    def __init__(self, num_classes: int, ignore_index: int = 255):
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.confusion_matrix = torch.zeros(num_classes, num_classes, dtype=torch.int64)
        super().__init__()

    def _info(self) -> evaluate.MetricInfo:
        label_maps = datasets.Sequence(datasets.Sequence(datasets.Value("int64")))
        features = datasets.Features({"predictions": label_maps, "references": label_maps})
        return evaluate.MetricInfo(description="Mean IoU of label maps.", citation="", features=features)

    def _build_data_dir(self) -> str:
        return ""  # nothing is stored, so no folder is made

    def add_batch(self, *, predictions, references):
        """Counts integer tensors or arrays (B, H, W) or (H, W); raises a `ValueError` for a class out of range."""
        predictions = _as_int32(predictions, "predictions")
        references = _as_int32(references, "references").to(predictions.device)
        if predictions.shape != references.shape:
            shapes = f"{tuple(predictions.shape)}, {tuple(references.shape)}"
            raise ValueError(f"predictions and references differ in shape: {shapes}.")
        # Ignored pixels are counted in a row of their own and dropped: masking them first takes three times as long.
        num_classes, ignored_row = self.num_classes, self.ignore_index
        if not 0 <= ignored_row <= 255:
            ignored_row = num_classes
            references = references.masked_fill(references == self.ignore_index, ignored_row)
        num_rows = max(256, num_classes + 1)
        for name, values, limit in ("predictions", predictions, num_classes), ("references", references, num_rows):
            low, high = (bound.item() for bound in values.aminmax()) if values.numel() else (0, 0)
            if low < 0 or high >= limit:
                raise ValueError(f"{name} range over {low} … {high}, the classes over 0 … {num_classes - 1}.")
        pairs = (references * num_classes).add_(predictions).flatten()
        counts = torch.bincount(pairs, minlength=num_rows * num_classes).view(num_rows, num_classes)
        counts[ignored_row] = 0
        unknown = counts[num_classes:].sum(dim=1).nonzero().flatten() + num_classes
        if len(unknown):
            raise ValueError(f"references hold {unknown.tolist()}, the classes range over 0 … {num_classes - 1}.")
        self.confusion_matrix = self.confusion_matrix.to(counts.device) + counts[:num_classes]

    def add(self, *, prediction, reference):
        """Counts one label map, as `add_batch` counts a batch."""
        self.add_batch(predictions=prediction, references=reference)

    def compute(self, *, predictions=None, references=None) -> dict[str, float | list[float]]:
        """
        Returns the scores of all that was added, `predictions` and `references` included, and resets the counts.

        Returns:
            `dict`: `mean_iou`, `mean_accuracy`, `overall_accuracy` (floats in 0 … 1), `per_category_iou` and
            `per_category_accuracy` (lists). A class neither labeled nor predicted has the IoU NaN, one not labeled
            the accuracy NaN; the means leave NaN out.
        """
        if predictions is not None or references is not None:
            self.add_batch(predictions=predictions, references=references)
        # float64, which not every accelerator has, counts exactly up to 2^53 pixels.
        matrix = self.confusion_matrix.cpu().double()
        self.confusion_matrix = torch.zeros_like(self.confusion_matrix)
        correct, labeled, predicted = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
        iou, accuracy = correct / (labeled + predicted - correct), correct / labeled
        return {
            "mean_iou": iou.nanmean().item(),
            "mean_accuracy": accuracy.nanmean().item(),
            "overall_accuracy": (correct.sum() / matrix.sum()).item(),
            "per_category_iou": iou.tolist(),
            "per_category_accuracy": accuracy.tolist(),
        }


def _as_int32(values: torch.Tensor | np.ndarray, name: str) -> torch.Tensor:
    # Copied: torch takes no read-only or reversed arrays. int32: a joint index of two uint8 classes overflows uint8.
    tensor = values if isinstance(values, torch.Tensor) else torch.from_numpy(np.array(values))
    if tensor.is_floating_point() or tensor.is_complex():
        raise ValueError(f"{name} must be integers (logits? take their argmax over the classes), not {tensor.dtype}.")
    return tensor.to(torch.int32)

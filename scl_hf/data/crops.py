"""Crops, pairs of labelled and unlabelled crops and their batches, and whole images to evaluate on."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset as Rows
from torch.utils.data import Dataset

from ..cutmix import sample_boxes
from ..errors import InputError
from .augmentation import Augmentation
from .draws import Draw, PairDraw
from .pictures import CorruptFileError, read_image, read_pair
from .pixels import Pixels


class LabeledCrops(Dataset):
    """Augmented crops of rows with a [`LabelImage`] column, indexed by [`Draw`]; of `coarse` ones by coarse draws."""

    def __init__(self, rows: Rows, augmentation: Augmentation, coarse: Rows | None = None, skip_corrupt: bool = False):
        self.rows = rows
        self.augmentation = augmentation
        self.coarse = coarse
        self.skip_corrupt = skip_corrupt
        self.label_table = rows.features["label"].table

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, draw: Draw) -> dict[str, torch.Tensor | list]:
        rows = self.coarse if draw.coarse else self.rows
        (image, label), draw, skipped = _read(rows, draw, self._read_row, self.skip_corrupt)
        return self.augmentation(image, label, draw) | skipped

    def _read_row(self, row: Mapping) -> tuple[np.ndarray, np.ndarray]:
        return read_pair(row, self.label_table)


class UnlabeledCrops(Dataset):
    """Augmented crops without a label, indexed by [`Draw`]."""

    def __init__(self, rows: Rows, augmentation: Augmentation, skip_corrupt: bool = False):
        self.rows = rows
        self.augmentation = augmentation
        self.skip_corrupt = skip_corrupt

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, draw: Draw) -> dict[str, torch.Tensor | list]:
        image, draw, skipped = _read(self.rows, draw, self._read_row, self.skip_corrupt)
        return self.augmentation(image, None, draw) | skipped

    def _read_row(self, row: Mapping) -> np.ndarray:
        return read_image(row["image"])


def _read(
    rows: Rows, draw: Draw, read: Callable[[Mapping], Any], skip_corrupt: bool
) -> tuple[Any, Draw, dict[str, list[tuple[str, str]]]]:
    """
    What `read` makes of the draw's row, the draw of the row that it is, and file and reason of each that was skipped.
    The draw alone decides, so that a resumed run and any number of processes take the same crop.
    """
    skipped = []
    for _ in range(len(rows)):
        try:
            content = read(rows[draw.row])
        except CorruptFileError as error:
            if not skip_corrupt:
                raise
            skipped.append((error.file, str(error)))
            draw = draw._replace(row=(draw.row + 1) % len(rows), center=None)
        else:
            return content, draw, {"skipped": skipped} if skipped else {}
    raise InputError(f"not one of {len(rows)} images can be read, so skip_corrupt cannot go on; {skipped[0][1]}")


class PairedCrops(Dataset):
    """Labelled crops with the unlabelled ones of the same step, if any, indexed by [`PairDraw`]."""

    def __init__(self, labeled: LabeledCrops, unlabeled: UnlabeledCrops | None = None):
        self.labeled = labeled
        self.unlabeled = unlabeled

    def __len__(self) -> int:
        return len(self.labeled)

    def __getitem__(self, draw: PairDraw) -> dict[str, torch.Tensor | int | list]:
        crops = [self.labeled[draw.labeled]]
        pair = {"pixel_values": crops[0]["pixel_values"], "labels": crops[0]["labels"]}
        if draw.unlabeled_a is not None:
            a, b = self.unlabeled[draw.unlabeled_a], self.unlabeled[draw.unlabeled_b]
            crops += [a, b]
            pair |= {"unlabeled_a": a["pixel_values"], "unlabeled_b": b["pixel_values"]}
            pair |= {"valid_a": a["valid"], "valid_b": b["valid"], "cutmix_seed": draw.cutmix_seed}
        return pair | {"skipped": [file for crop in crops for file in crop.get("skipped", [])]}


class PairCollator:
    """
    Stacks the items of [`PairedCrops`] and draws each pair's CutMix boxes from its own seed: "pixel_values"
    (B, 3, h, w) and "labels" (B, h, w); unless supervised also "unlabeled_a", "unlabeled_b" (B, 3, h, w), "valid_a",
    "valid_b" (B, h, w) bool, "box_ids" (B, h, w) int64; where corrupt files were skipped also "skipped", file and
    reason of each.
    """

    def __init__(self, num_boxes: int, ratio: float):
        self.num_boxes = num_boxes
        self.ratio = ratio

    def __call__(self, pairs: Sequence[dict[str, torch.Tensor | int | list]]) -> dict[str, torch.Tensor | list]:
        tensors = [name for name, value in pairs[0].items() if isinstance(value, torch.Tensor)]
        batch = {name: torch.stack([pair[name] for pair in pairs]) for name in tensors}
        if "cutmix_seed" in pairs[0]:
            batch["box_ids"] = torch.stack([self._boxes(pair) for pair in pairs])
        skipped = [file for pair in pairs for file in pair["skipped"]]
        return batch | {"skipped": skipped} if skipped else batch

    def _boxes(self, pair: dict[str, torch.Tensor | int | list]) -> torch.Tensor:
        height, width = pair["unlabeled_a"].shape[-2:]
        generator = torch.Generator().manual_seed(pair["cutmix_seed"])
        return sample_boxes(height, width, self.num_boxes, self.ratio, generator)


class EvaluationImages(Dataset):
    """Whole images at their own size: "pixel_values" (3, H, W), "id", and "labels" (H, W) where the rows have them."""

    def __init__(self, rows: Rows, pixels: Pixels):
        self.rows = rows
        self.pixels = pixels

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor | str]:
        row = self.rows[index]
        if "label" not in row:
            return {"pixel_values": self.pixels.of(read_image(row["image"])), "id": row["id"]}
        image, label = read_pair(row, self.rows.features["label"].table)
        return {
            "pixel_values": self.pixels.of(image),
            "labels": torch.from_numpy(label.astype(np.int64)),
            "id": row["id"],
        }

"""Crops, pairs of labeled and unlabeled crops and their batches, and whole images to evaluate on."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from datasets import Dataset as Rows
from torch.utils.data import Dataset

from ..cutmix import mix, partners, sample_boxes
from ..errors import InputError
from ..pairs import draw_pairs, visible_pixels
from .augmentation import Augmentation
from .images import CorruptFileError, read_image, read_pair
from .normalization import Normalization
from .sampler import PairSample, Sample


class UnlabeledCrops(Dataset):
    """Augmented crops without a label, indexed by [`Sample`]."""

    coarse: Rows | None = None  # of labeled crops alone

    def __init__(self, rows: Rows, augmentation: Augmentation, skip_corrupt: bool = False):
        self.dataset = rows
        self.augmentation = augmentation
        self.skip_corrupt = skip_corrupt

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, draw: Sample) -> dict[str, torch.Tensor | list]:
        """
        The crop and, where images cannot be read, "skipped", file and reason of each: the next row takes its place.
        The draw alone decides, so that a resumed run and any number of processes take the same crop.
        """
        rows = self.coarse if draw.coarse else self.dataset
        skipped = []
        for _ in range(len(rows)):
            try:
                image, label = self._read(rows[draw.row])
            except CorruptFileError as error:
                if not self.skip_corrupt:
                    raise
                skipped.append((error.file, str(error)))
                draw = draw._replace(row=(draw.row + 1) % len(rows), center=None)
            else:
                return self.augmentation(image, label, draw) | ({"skipped": skipped} if skipped else {})
        raise InputError(f"not one of {len(rows)} images can be read, so skip_corrupt cannot go on; {skipped[0][1]}")

    def _read(self, row: Mapping) -> tuple[np.ndarray, np.ndarray | None]:
        return read_image(row["image"]), None


class LabeledCrops(UnlabeledCrops):
    """Crops as [`UnlabeledCrops`], with the labels of a [`LabelImage`] column; of `coarse` rows by coarse draws."""

    def __init__(self, rows: Rows, augmentation: Augmentation, coarse: Rows | None = None, skip_corrupt: bool = False):
        super().__init__(rows, augmentation, skip_corrupt)
        self.coarse = coarse
        self.label_table = rows.features["label"].table

    def _read(self, row: Mapping) -> tuple[np.ndarray, np.ndarray]:
        return read_pair(row, self.label_table)


class PairedCrops(Dataset):
    """Labeled crops with the unlabeled ones of the same step, if any, indexed by [`PairSample`]."""

    def __init__(self, labeled: LabeledCrops, unlabeled: UnlabeledCrops | None = None):
        self.labeled = labeled
        self.unlabeled = unlabeled

    @property
    def datasets(self) -> dict[str, Rows | None]:
        """The rows that crops are taken of, by what a person calls them."""
        unlabeled = None if self.unlabeled is None else self.unlabeled.dataset
        named = {"labeled images": self.labeled.dataset, "coarse images": self.labeled.coarse}
        return named | {"unlabeled images": unlabeled}

    def __len__(self) -> int:
        return len(self.labeled)

    def names(self, draws: Iterable[PairSample]) -> list[str]:
        """The images of draws: the path of each, or its id where the data set itself holds it."""
        rows = {}
        for pair in draws:
            labeled = self.labeled.coarse if pair.labeled.coarse else self.labeled.dataset
            for part, draw in ((labeled, pair.labeled), *((self.unlabeled, draw) for draw in pair[1:3] if draw)):
                row = (part.dataset if isinstance(part, UnlabeledCrops) else part)[draw.row]
                rows[row["image"]["path"] or row["id"]] = None
        return list(rows)

    def __getitem__(self, draw: PairSample) -> dict[str, torch.Tensor | int | list]:
        crops = [self.labeled[draw.labeled]]
        pair = {"pixel_values": crops[0]["pixel_values"], "labels": crops[0]["labels"]}
        for which, unlabeled in (("a", draw.unlabeled_a), ("b", draw.unlabeled_b)):
            if unlabeled is not None:
                crops.append(crop := self.unlabeled[unlabeled])
                pair |= {f"unlabeled_{which}": crop["pixel_values"], f"valid_{which}": crop["valid"]}
                pair["cutmix_seed"] = draw.cutmix_seed
        return pair | {"skipped": [file for crop in crops for file in crop.get("skipped", [])]}


@dataclass
class PairCollator:
    """
    Stacks the items of [`PairedCrops`] and draws each pair's CutMix boxes from its own seed: "pixel_values"
    (B, 3, h, w) and "labels" (B, h, w). Unless supervised also "unlabeled_a", "unlabeled_b" (B, 3, h, w), the latter
    only where a mix has an image b of its own, the CutMix map "box_ids" (B, h, w) int64, "valid" (B, h, w) bool, the
    mixed pixels that are no padding, and, for a structured loss, "box_pixels" or "pairs": they are found here, where
    nothing waits for a device. Where corrupt files were skipped also "skipped", file and reason of each.
    """

    num_boxes: int
    ratio: float
    num_loss_boxes: int  # 0: no structured loss
    num_pairs: int | None  # None: all of them

    def __call__(self, pairs: Sequence[dict[str, torch.Tensor | int | list]]) -> dict[str, torch.Tensor | list]:
        tensors = [name for name, value in pairs[0].items() if isinstance(value, torch.Tensor)]
        batch = {name: torch.stack([pair[name] for pair in pairs]) for name in tensors}
        if "cutmix_seed" in pairs[0]:
            valid_a, valid_b = partners(batch.pop("valid_a"), batch.pop("valid_b", None))
            height, width = valid_a.shape[-2:]
            generators = [torch.Generator().manual_seed(pair["cutmix_seed"]) for pair in pairs]
            box_ids = [sample_boxes(height, width, self.num_boxes, self.ratio, generator) for generator in generators]
            batch["box_ids"] = torch.stack(box_ids)
            batch["valid"] = mix(valid_a, valid_b, batch["box_ids"])
            if self.num_loss_boxes > 0:
                compared = batch["box_ids"].masked_fill(~batch["valid"], 0)
                box_pixels = visible_pixels(compared, self.num_boxes, self.num_loss_boxes)
                if self.num_pairs is None:
                    batch["box_pixels"] = box_pixels
                else:
                    batch["pairs"] = draw_pairs(box_pixels, self.num_pairs, generators)
        skipped = [file for pair in pairs for file in pair["skipped"]]
        return batch | {"skipped": skipped} if skipped else batch


class EvaluationImages(Dataset):
    """Whole images at their own size: "pixel_values" (3, H, W), "id", and "labels" (H, W) where the rows have them."""

    def __init__(self, rows: Rows, pixels: Normalization):
        self.dataset = rows
        self.normalization = pixels

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor | str]:
        row = self.dataset[index]
        if "label" not in row:
            return {"pixel_values": self.normalization.of(read_image(row["image"])), "id": row["id"]}
        image, label = read_pair(row, self.dataset.features["label"].table)
        labels = torch.from_numpy(label.astype(np.int64))
        return {"pixel_values": self.normalization.of(image), "labels": labels, "id": row["id"]}

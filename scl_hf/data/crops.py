"""Crops, pairs of labelled and unlabelled crops, and the batches of them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from datasets import Dataset as Rows
from torch.utils.data import Dataset, Sampler

from ..cutmix import sample_boxes
from ..errors import InputError
from .augmentation import Augmentation
from .draws import CUTMIX, Draw, LabeledDraws, UnlabeledDraws, draw_seed
from .pictures import CorruptFileError, read_image, read_pair
from .pixels import Pixels


@dataclass(frozen=True)
class PairDraw:
    """
    One position of an epoch: a labelled crop, the two unlabelled crops u_a and u_b to be mixed, and the seed of the
    boxes. Supervised steps have no unlabelled crops.
    """

    labeled: Draw
    unlabeled_a: Draw | None
    unlabeled_b: Draw | None
    cutmix_seed: int


class LabeledCrops(Dataset):
    """
    Augmented labelled crops, indexed by [`Draw`].

    Args:
        rows (`datasets.Dataset`): Columns `image` and `label`, not decoded.
        augmentation ([`Augmentation`]): Makes the crop.
        label_table (`np.ndarray`, *optional*): Id on disk to train id.
        coarse (`datasets.Dataset`, *optional*): Rows of the coarse annotations, for draws that say so.
        skip_corrupt (`bool`, *optional*, defaults to `False`):
            Whether the next row, at any place of it, stands in for one whose image or label cannot be read. The crop
            then has an entry "skipped": file and reason of each.
    """

    def __init__(
        self,
        rows: Rows,
        augmentation: Augmentation,
        label_table: np.ndarray | None,
        coarse: Rows | None = None,
        skip_corrupt: bool = False,
    ):
        self.rows = rows
        self.augmentation = augmentation
        self.label_table = label_table
        self.coarse = coarse
        self.skip_corrupt = skip_corrupt

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, draw: Draw) -> dict[str, torch.Tensor | list]:
        rows = self.coarse if draw.coarse else self.rows
        (image, label), draw, skipped = _read(rows, draw, self._read_row, self.skip_corrupt)
        return self.augmentation(image, label, draw) | skipped

    def _read_row(self, row: Mapping) -> tuple[np.ndarray, np.ndarray]:
        return read_pair(row, self.label_table)


class UnlabeledCrops(Dataset):
    """
    Augmented crops without a label, indexed by [`Draw`].

    Args:
        rows (`datasets.Dataset`): Column `image`, not decoded.
        augmentation ([`Augmentation`]): Makes the crop.
        skip_corrupt (`bool`, *optional*, defaults to `False`): As in [`LabeledCrops`].
    """

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
            draw = replace(draw, row=(draw.row + 1) % len(rows), center=None)
        else:
            return content, draw, {"skipped": skipped} if skipped else {}
    raise InputError(f"not one of {len(rows)} images can be read, so skip_corrupt cannot go on; {skipped[0][1]}")


class PairedCrops(Dataset):
    """
    Labelled crops together with the unlabelled ones of the same step, indexed by [`PairDraw`].

    Args:
        labeled ([`LabeledCrops`]): Its length is the length of an epoch.
        unlabeled ([`UnlabeledCrops`], *optional*): `None` for supervised training.
    """

    def __init__(self, labeled: LabeledCrops, unlabeled: UnlabeledCrops | None = None):
        self.labeled = labeled
        self.unlabeled = unlabeled

    @property
    def skip_corrupt(self) -> bool:
        """Whether files that cannot be read are passed over, labelled or unlabelled ones."""
        return any(crops.skip_corrupt for crops in (self.labeled, self.unlabeled) if crops is not None)

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


class DrawSampler(Sampler[PairDraw]):
    """
    Yields the draws of an epoch. They are values that carry their own seeds, so workers and processes, however many,
    and a resumed run take the same crops.

    Args:
        labeled ([`LabeledDraws`]): Its length is the length of an epoch.
        unlabeled (`tuple[UnlabeledDraws, UnlabeledDraws]`, *optional*):
            Draws of u_a and of u_b, as many as the labelled ones; `None` for supervised training.
        seed (`int`, *optional*, defaults to 0): Seed of the run, here for the boxes.
        unlabeled_from (`tuple[int, int]`, *optional*, defaults to `(0, 0)`):
            Epoch and position of the first draw with unlabelled crops; those before it are supervised.
    """

    def __init__(
        self,
        labeled: LabeledDraws,
        unlabeled: tuple[UnlabeledDraws, UnlabeledDraws] | None = None,
        seed: int = 0,
        unlabeled_from: tuple[int, int] = (0, 0),
    ):
        self.labeled = labeled
        self.unlabeled = unlabeled
        self.seed = seed
        self.unlabeled_from = unlabeled_from
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch, counted from 0, of the next iteration."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.labeled)

    def __iter__(self) -> Iterator[PairDraw]:
        epoch = self.epoch
        labeled = self.labeled(epoch)
        unlabeled = [draws(epoch) for draws in self.unlabeled] if self.unlabeled else [[None] * len(labeled)] * 2
        for position, (draw, a, b) in enumerate(zip(labeled, *unlabeled, strict=True)):
            if (epoch, position) < self.unlabeled_from:
                a = b = None
            yield PairDraw(draw, a, b, draw_seed(self.seed, CUTMIX, epoch, position))


class PairCollator:
    """
    Stacks the items of [`PairedCrops`] and draws each pair's CutMix boxes from its own seed.

    Args:
        num_boxes (`int`): Number N of boxes per image.
        ratio (`float`): Area of all boxes together as a share of the crop, overlaps counted twice.
    """

    def __init__(self, num_boxes: int, ratio: float):
        self.num_boxes = num_boxes
        self.ratio = ratio

    def __call__(self, pairs: Sequence[dict[str, torch.Tensor | int | list]]) -> dict[str, torch.Tensor | list]:
        """
        Returns:
            `dict[str, torch.Tensor]`: "pixel_values" (B, 3, h, w) and "labels" (B, h, w); unless supervised also
            "unlabeled_a", "unlabeled_b" (B, 3, h, w), "valid_a", "valid_b" (B, h, w) bool, "box_ids" (B, h, w) int64.
            Where corrupt files were skipped, also "skipped", a list of file and reason.
        """
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
    """
    Whole images at their own size, normalised as the image processor does, with their labels.

    Args:
        rows (`datasets.Dataset`): Columns `image`, `label` and `id`, not decoded.
        label_table (`np.ndarray`, *optional*): Id on disk to train id.
        pixels ([`~scl_hf.data.pixels.Pixels`]): How the model wants its pixels.
    """

    def __init__(self, rows: Rows, label_table: np.ndarray | None, pixels: Pixels):
        self.rows = rows
        self.label_table = label_table
        self.pixels = pixels

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor | str]:
        row = self.rows[index]
        image, label = read_pair(row, self.label_table)
        return {
            "pixel_values": self.pixels.of(image),
            "labels": torch.from_numpy(label.astype(np.int64)),
            "id": row["id"],
        }

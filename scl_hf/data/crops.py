"""Augmented crops, single and in pairs of labeled and unlabeled ones, and whole images to evaluate on."""

from collections.abc import Iterable

import datasets
import numpy as np
import torch
from torch.utils.data import Dataset

from ..errors import InputError
from .augmentation import Augmentation
from .images import CorruptFileError, read_image, read_pair
from .normalization import Normalization
from .sampler import PairSample, Sample


class Crops(Dataset):
    """Augmented crops, indexed by [`Sample`], with labels if there is a [`LabelImage`] column `label`."""

    def __init__(
        self,
        dataset: datasets.Dataset,
        augmentation: Augmentation,
        skip_corrupt: bool = False,
        coarse: datasets.Dataset | None = None,
    ):
        self.dataset = dataset
        self.augmentation = augmentation
        self.skip_corrupt = skip_corrupt
        self.coarse = coarse
        self.label_table = dataset.features["label"].table if "label" in dataset.features else None

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, sample: Sample) -> dict[str, torch.Tensor | list]:
        """
        Returns the crop and, with `skip_corrupt`, in "skipped" file and reason of each image that cannot be read: the
        next one takes its place, which depends on the sample alone, so that all processes take the same crop.
        """
        dataset, skipped = self.dataset_of(sample), []
        for _ in range(len(dataset)):
            example = dataset[sample.row]
            try:
                if self.label_table is None:
                    image, label = read_image(example["image"]), None
                else:
                    image, label = read_pair(example, self.label_table)
            except CorruptFileError as error:
                if not self.skip_corrupt:
                    raise
                skipped.append((error.file, str(error)))
                sample = sample._replace(row=(sample.row + 1) % len(dataset), center=None)
            else:
                return self.augmentation(image, label, sample) | ({"skipped": skipped} if skipped else {})
        raise InputError(f"not one of {len(dataset)} images can be read, so skip_corrupt cannot help; {skipped[0][1]}")

    def dataset_of(self, sample: Sample) -> datasets.Dataset:
        return self.coarse if sample.coarse else self.dataset


class PairedCrops(Dataset):
    """Labeled crops with the unlabeled ones of the same step, if any, indexed by [`PairSample`]."""

    def __init__(self, labeled: Crops, unlabeled: Crops | None = None):
        self.labeled = labeled
        self.unlabeled = unlabeled

    @property
    def datasets(self) -> dict[str, datasets.Dataset | None]:
        """The datasets that crops are taken from, by name."""
        return {
            "labeled images": self.labeled.dataset,
            "coarse images": self.labeled.coarse,
            "unlabeled images": None if self.unlabeled is None else self.unlabeled.dataset,
        }

    def __len__(self) -> int:
        return len(self.labeled)

    def names(self, pairs: Iterable[PairSample]) -> list[str]:
        """Returns the images of samples: the path of each, or its id where the dataset itself holds the image."""
        names = {}
        for labeled, a, b, _ in pairs:
            for crops, sample in ((self.labeled, labeled), (self.unlabeled, a), (self.unlabeled, b)):
                if sample is not None:
                    example = crops.dataset_of(sample)[sample.row]
                    names[example["image"]["path"] or example["id"]] = None
        return list(names)

    def __getitem__(self, pair: PairSample) -> dict[str, torch.Tensor | int | list]:
        crop = self.labeled[pair.labeled]
        item = {"pixel_values": crop["pixel_values"], "labels": crop["labels"], "skipped": crop.get("skipped", [])}
        if pair.unlabeled_a is not None:
            a, b = self.unlabeled[pair.unlabeled_a], self.unlabeled[pair.unlabeled_b]
            item |= {"unlabeled_a": a["pixel_values"], "valid_a": a["valid"]}
            item |= {"unlabeled_b": b["pixel_values"], "valid_b": b["valid"], "cutmix_seed": pair.cutmix_seed}
            item["skipped"] = [file for each in (crop, a, b) for file in each.get("skipped", [])]
        return item


class EvaluationImages(Dataset):
    """Whole images: "pixel_values" (3, H, W), "id", and "labels" (H, W) if the dataset has them."""

    def __init__(self, dataset: datasets.Dataset, normalization: Normalization):
        self.dataset = dataset
        self.normalization = normalization

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor | str]:
        example = self.dataset[index]
        if "label" not in example:
            return {"pixel_values": self.normalization.of(read_image(example["image"])), "id": example["id"]}
        image, label = read_pair(example, self.dataset.features["label"].table)
        labels = torch.from_numpy(label.astype(np.int64))
        return {"pixel_values": self.normalization.of(image), "labels": labels, "id": example["id"]}

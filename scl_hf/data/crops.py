"""Augmented crops, single and in pairs of labeled and unlabeled ones, and whole images to evaluate on."""

from collections.abc import Iterable
from dataclasses import dataclass

import datasets
import numpy as np
import torch
from torch.utils.data import Dataset

from ..errors import InputError
from .augmentation import Augmentation
from .columns import with_names
from .contents import labels_of, sizes_of
from .images import CorruptFileError
from .labels import read_pair
from .normalization import Normalization
from .sampler import PairSample, Sample


@dataclass(eq=False)
class Crops(Dataset):
    """Augmented crops, indexed by [`Sample`], with labels if there is a [`LabelImage`] column `label`."""

    dataset: datasets.Dataset
    augmentation: Augmentation
    skip_corrupt: bool = False
    coarse: datasets.Dataset | None = None

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, sample: Sample) -> dict[str, torch.Tensor | list]:
        """Returns the crop; with `skip_corrupt` the next image replaces a damaged one, which "skipped" names."""
        dataset, skipped = self.dataset_of(sample), []
        for _ in range(len(dataset)):
            try:
                image, label = read_pair(with_names(dataset[sample.row], sample.row), dataset.features)
            except CorruptFileError as error:
                if not self.skip_corrupt:
                    raise
                skipped.append((error.file, str(error)))
                # The sample alone decides, so that all processes take the same crop
                sample = sample._replace(row=(sample.row + 1) % len(dataset), center=None)
            else:
                return self.augmentation(image, label, sample) | ({"skipped": skipped} if skipped else {})
        raise InputError(f"not one of {len(dataset)} images can be read, so skip_corrupt cannot help; {skipped[0][1]}")

    def dataset_of(self, sample: Sample) -> datasets.Dataset:
        return self.coarse if sample.coarse else self.dataset


@dataclass(eq=False)
class PairedCrops(Dataset):
    """Labeled crops with the unlabeled ones of the same step, if any, indexed by [`PairSample`]."""

    labeled: Crops
    unlabeled: Crops | None = None

    @property
    def datasets(self) -> dict[str, datasets.Dataset | None]:
        """The datasets that crops are taken from, by name."""
        return {
            "labeled images": self.labeled.dataset,
            "coarse images": self.labeled.coarse,
            "unlabeled images": None if self.unlabeled is None else self.unlabeled.dataset,
        }

    @property
    def contents(self) -> dict[str, str]:
        """What a resumed run compares of the files: the labels of the labeled images, and the sizes of the others."""
        found = {f"sizes of the {name}": sizes_of(part, "image") for name, part in self.datasets.items() if part}
        if self.labeled.coarse:
            found["sizes of the coarse labels"] = sizes_of(self.labeled.coarse, "label")
        return found | {"labels of the labeled images": labels_of(self.labeled.dataset)}

    def __len__(self) -> int:
        return len(self.labeled)

    def names(self, pairs: Iterable[PairSample]) -> list[str]:
        """Returns the images of samples: the path of each, or its id where the dataset itself holds the image."""
        crops = (self.labeled, self.unlabeled, self.unlabeled)
        samples = [(part, sample) for pair in pairs for part, sample in zip(crops, pair[:3]) if sample is not None]
        examples = [part.dataset_of(sample)[sample.row] for part, sample in samples]
        return list(dict.fromkeys(example["image"]["path"] or example["id"] for example in examples))

    def __getitem__(self, pair: PairSample) -> dict[str, torch.Tensor | int | list]:
        crop = self.labeled[pair.labeled]
        item = {"pixel_values": crop["pixel_values"], "labels": crop["labels"], "skipped": crop.get("skipped", [])}
        if pair.unlabeled_a is not None:
            a, b = self.unlabeled[pair.unlabeled_a], self.unlabeled[pair.unlabeled_b]
            item |= {"unlabeled_a": a["pixel_values"], "valid_a": a["valid"]}
            item |= {"unlabeled_b": b["pixel_values"], "valid_b": b["valid"], "cutmix_seed": pair.cutmix_seed}
            item["skipped"] = [file for each in (crop, a, b) for file in each.get("skipped", [])]
        return item


@dataclass(eq=False)
class EvaluationImages(Dataset):
    """Whole images: "pixel_values" (3, H, W), "id", and "labels" (H, W) if the dataset has them."""

    dataset: datasets.Dataset
    normalization: Normalization

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor | str]:
        example = self.dataset[index]
        image, label = read_pair(with_names(example, index), self.dataset.features)
        item = {"pixel_values": self.normalization.of(image), "id": example["id"]}
        return item if label is None else item | {"labels": torch.from_numpy(label.astype(np.int64))}

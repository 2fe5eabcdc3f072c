"""Batches of crops and their CutMix boxes."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import datasets
import torch
from transformers import TrainingArguments

from ..cutmix import mix, sample_boxes
from ..errors import InputError, check_field
from ..pairs import sample_pairs, visible_pixels
from .augmentation import Augmentation
from .class_index import ClassIndex
from .columns import check_labels, image_dataset, labeled_dataset
from .crops import Crops, PairedCrops
from .normalization import Normalization
from .sampler import LabeledSampler


def training_crops(
    args: TrainingArguments,
    id2label: dict[int, str],
    normalization: Normalization,
    train_dataset: datasets.Dataset,
    unlabeled_dataset: datasets.Dataset | None = None,
    coarse_dataset: datasets.Dataset | None = None,
) -> tuple[PairedCrops, LabeledSampler]:
    """Checks the datasets of a run and returns their crops, and the sampler of the labeled ones."""
    if args.semi_supervised and not unlabeled_dataset:
        raise InputError(
            "consistency_weight and structured_consistency_weight: above 0, but there are no unlabeled images."
            " Add some (unlabeled_dataset; in a recipe unlabeled_dirs or unlabeled_splits), or set both to 0."
        )
    steps = args.total_steps(len(train_dataset), args.step_batch_size)
    check_field(args, "self_training_rounds", args.self_training_rounds < steps, f"below the run's {steps} steps")
    augmentation = Augmentation(args, normalization)
    labeled = labeled_dataset(train_dataset, "train_dataset", id2label)
    check_labels(labeled, "train_dataset")
    coarse = None if coarse_dataset is None else labeled_dataset(coarse_dataset, "coarse_dataset", id2label)
    index = unlabeled = None
    if args.semi_supervised:
        unlabeled = Crops(image_dataset(unlabeled_dataset, "unlabeled_dataset"), augmentation, args.skip_corrupt)
    if args.class_uniform_share > 0:
        with args.main_process_first(desc="class index"):  # the others read its cache
            settings = (args.class_uniform_tile, args.coarse_classes, os.cpu_count(), args.skip_corrupt)
            index = ClassIndex.build(labeled, coarse, *settings)
    sampler = LabeledSampler(len(labeled), args.sample_seed, index, args.class_uniform_share, args.coarse_until_epoch)
    return PairedCrops(Crops(labeled, augmentation, args.skip_corrupt, coarse), unlabeled), sampler


@dataclass
class PairCollator:
    """
    Stacks the items of [`PairedCrops`] and samples the CutMix boxes of each from its own seed.

    A batch has "pixel_values" (B, 3, h, w), "labels" (B, h, w) and, of skipped files, "skipped"; unless supervised
    also "unlabeled_a", "unlabeled_b" (B, 3, h, w), the CutMix map "box_ids" (B, h, w) int64, "valid" (B, h, w) bool,
    False on padding, and for a structured loss "box_pixels" or "pairs", found here, where nothing waits for a device.
    """

    args: TrainingArguments

    def __call__(self, items: Sequence[dict[str, torch.Tensor | int | list]]) -> dict[str, torch.Tensor | list]:
        args = self.args
        tensors = [name for name, value in items[0].items() if isinstance(value, torch.Tensor)]
        batch = {name: torch.stack([item[name] for item in items]) for name in tensors}
        if "unlabeled_a" in batch:
            height, width = batch["labels"].shape[-2:]
            generators = [torch.Generator().manual_seed(item["cutmix_seed"]) for item in items]
            boxes = height, width, args.num_boxes, args.cutmix_ratio
            batch["box_ids"] = torch.stack([sample_boxes(*boxes, generator) for generator in generators])
            batch["valid"] = mix(batch.pop("valid_a"), batch.pop("valid_b"), batch["box_ids"])
            if args.structured_consistency_weight > 0:
                compared = batch["box_ids"].masked_fill(~batch["valid"], 0)
                box_pixels = visible_pixels(compared, args.num_boxes, args.num_loss_boxes)
                if args.num_pairs is None:
                    batch["box_pixels"] = box_pixels
                else:
                    batch["pairs"] = sample_pairs(box_pixels, args.num_pairs, generators)
        skipped = [file for item in items for file in item["skipped"]]
        return batch | {"skipped": skipped} if skipped else batch

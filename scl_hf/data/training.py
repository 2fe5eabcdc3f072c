"""What a run draws from: the rows of its data sets, checked, as crops, and which of them an epoch draws."""

import os

import datasets
from transformers import TrainingArguments

from ..errors import InputError
from .augmentation import Augmentation
from .class_index import ClassIndex
from .columns import check_labels, image_dataset, labeled_dataset
from .crops import LabeledCrops, PairCollator, PairedCrops, UnlabeledCrops
from .normalization import Normalization
from .sampler import LabeledSampler


def crops_and_draws(
    args: TrainingArguments,
    id2label: dict[int, str],
    pixels: Normalization,
    train_dataset: datasets.Dataset,
    unlabeled_dataset: datasets.Dataset | None,
    coarse_dataset: datasets.Dataset | None,
) -> tuple[PairedCrops, LabeledSampler]:
    """Crops of the rows of a run for a model of these classes and pixels, and which labeled ones an epoch draws."""
    if args.semi_supervised and not unlabeled_dataset:
        raise InputError(
            "consistency_weight and structured_consistency_weight: above 0, but there are no unlabeled images."
            " Add some (unlabeled_dataset; in a recipe unlabeled_dirs or unlabeled_splits), or set both to 0."
        )
    augmentation = Augmentation(args, pixels)
    labeled = labeled_dataset(train_dataset, "train_dataset", id2label)
    check_labels(labeled, "train_dataset")
    coarse = index = unlabeled = None
    if coarse_dataset is not None:
        coarse = labeled_dataset(coarse_dataset, "coarse_dataset", id2label)
    if args.semi_supervised:
        unlabeled = image_dataset(unlabeled_dataset, "unlabeled_dataset", None)
        unlabeled = UnlabeledCrops(unlabeled, augmentation, args.skip_corrupt)
    if args.class_uniform_share > 0:
        with args.main_process_first(desc="class index"):
            settings = (args.class_uniform_tile, args.coarse_classes, os.cpu_count(), args.skip_corrupt)
            index = ClassIndex.build(labeled, coarse, *settings)
    draws = LabeledSampler(len(labeled), args.sample_seed, index, args.class_uniform_share, args.coarse_until_epoch)
    return PairedCrops(LabeledCrops(labeled, augmentation, coarse, args.skip_corrupt), unlabeled), draws


def pair_collator(args: TrainingArguments) -> PairCollator:
    """What makes batches of the crops of a run."""
    num_loss_boxes = args.num_loss_boxes if args.structured_consistency_weight > 0 else 0
    return PairCollator(args.num_boxes, args.cutmix_ratio, num_loss_boxes, args.num_pairs)

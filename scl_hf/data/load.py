"""From the data fields of a recipe to the labeled, the unlabeled and the evaluation images."""

import functools
import logging
from dataclasses import dataclass

import datasets
import numpy as np

from ..errors import InputError, first_few
from ..processes import is_main_process
from .arguments import DataArguments
from .columns import check_labels
from .images import describe_values
from .sources.base import License, open_images
from .sources.cityscapes import labeled_split_file
from .sources.layouts import open_source
from .subsets import choose_fraction, choose_images, choose_listed, find_shared_images, read_ids

logger = logging.getLogger(__name__)

_LABELED = ["image", "label", "id"]


@dataclass
class SegmentationData:
    """
    The data of a run. No image is decoded; each column `label` is a [`LabelImage`], which says what its ids mean.

    Args:
        labeled (`datasets.Dataset`): Columns `image`, `label`, `id`.
        unlabeled (`datasets.Dataset`): Columns `image`, `id`.
        evaluation (`datasets.Dataset`): Columns `image`, `label`, `id`.
        coarse (`datasets.Dataset`, *optional*): Columns `image`, `label`, `id`; for class-uniform sampling only.
        id2label (`dict[int, str]`): Train id -> name.
        palette (`np.ndarray`): (num_classes, 3) uint8 colors.
        license ([`License`], *optional*): A license that forbids redistribution.
    """

    labeled: datasets.Dataset
    unlabeled: datasets.Dataset
    evaluation: datasets.Dataset
    coarse: datasets.Dataset | None
    id2label: dict[int, str]
    palette: np.ndarray
    license: License | None = None


def load_data(args: DataArguments) -> SegmentationData:
    """
    Opens the labeled, unlabeled and evaluation images that a recipe names. No image is decoded.

    Args:
        args ([`DataArguments`]): The data fields of the recipe.
    """
    source = open_source(args)
    if is_main_process():
        for note in source.notes:
            logger.warning(note)
    open_split = functools.cache(source.open)

    # 1. The images that keep their labels
    train = {split: open_split(split, True).select_columns(_LABELED) for split in args.train_splits}
    if args.labeled_split:
        listed = read_ids(labeled_split_file(args.labeled_split))
        chosen = choose_listed(train, listed, f"labeled_split {args.labeled_split}")
    elif args.labeled_ids:
        chosen = choose_listed(train, read_ids(args.labeled_ids), args.labeled_ids)
    else:
        chosen = choose_fraction(train, args.labeled_fraction, args.labeled_seed)
    labeled = datasets.concatenate_datasets([dataset.select(chosen[split]) for split, dataset in train.items()])

    # 2. The unlabeled pool: images alone
    pool = {}
    for split in dict.fromkeys([*train, *(args.unlabeled_splits or source.unlabeled_splits)]):
        images = (train[split] if split in train else open_split(split)).select_columns(["image", "id"])
        if split in train and not args.unlabeled_includes_labeled:
            images = images.select(np.setdiff1d(np.arange(len(images)), chosen[split]))
        pool[split] = images
    for index, path in enumerate(dict.fromkeys(args.unlabeled_dirs)):
        pool[f"unlabeled_dirs {index}"] = open_images(path).cast_column("image", labeled.features["image"])
    if args.num_unlabeled is not None:
        on_top = chosen if args.unlabeled_includes_labeled else {}
        kept = choose_images(pool, args.num_unlabeled, args.labeled_seed, on_top)
        pool = {name: images.select(kept[name]) for name, images in pool.items()}
    unlabeled = datasets.concatenate_datasets(list(pool.values()))

    # 3. The images to evaluate on, none of them a labeled one
    evaluation = open_split(args.eval_split, True).select_columns(_LABELED)
    coarse = _with_coarse_labels(open_split("train_extra"), args.data_dir) if args.use_coarse_labels else None
    if not args.allow_shared_images:
        trained_on = datasets.concatenate_datasets([labeled, coarse]) if coarse else labeled
        _check_shared_images(trained_on, unlabeled, evaluation)
    for part, images in (("labeled", labeled), ("unlabeled", unlabeled)):  # evenly spaced ones, opened
        note = describe_values(images[:: len(images) // 8 + 1]["image"], images.features["image"])
        if note and is_main_process():
            logger.warning(f"{part} {note}")
    id2label, palette = source.labels.id2label, source.palette
    return SegmentationData(labeled, unlabeled, evaluation, coarse, id2label, palette, source.license)


def load_evaluation(args: DataArguments) -> tuple[datasets.Dataset, np.ndarray]:
    """
    Opens the evaluation split alone, as [`load_data`] does. No image is decoded.

    Args:
        args ([`DataArguments`]): The data fields of the recipe.

    Returns:
        `tuple[datasets.Dataset, np.ndarray]`: Columns `image`, `label`, `id`, and (num_classes, 3) uint8 colors.
    """
    source = open_source(args)
    evaluation = source.open(args.eval_split, True).select_columns(_LABELED)
    check_labels(evaluation, f"eval_split {args.eval_split}")
    return evaluation, source.palette


def _with_coarse_labels(dataset: datasets.Dataset, data_dir: str) -> datasets.Dataset:
    """Returns the examples of train_extra that have a coarse label."""
    annotated = np.flatnonzero(dataset.data.column("label").is_valid().to_numpy())
    if not len(annotated):
        raise InputError(
            f"{data_dir}: no coarse labels of train_extra, looked for gtCoarse/train_extra/<city>/"
            "*_gtCoarse_labelIds.png; unpack gtCoarse.zip, or set use_coarse_labels to false"
        )
    if len(annotated) < len(dataset):
        logger.warning(f"{len(dataset) - len(annotated)} of {len(dataset)} images of train_extra have no coarse label")
    return dataset.select(annotated).select_columns(_LABELED)


def _check_shared_images(labeled: datasets.Dataset, unlabeled: datasets.Dataset, evaluation: datasets.Dataset) -> None:
    if shared := find_shared_images(labeled, evaluation):
        pairs = first_few(own if own == twin else f"{own} (as {twin})" for twin, own in shared)
        raise InputError(
            f"train_splits and eval_split: {len(shared)} of the {len(evaluation)} evaluation images are labeled "
            f"training images, too: {pairs}; take them out of one of the two, or set allow_shared_images to true"
        )
    if shared := find_shared_images(unlabeled, evaluation):
        logger.warning(
            f"{len(shared)} of the {len(evaluation)} evaluation images are in the unlabeled pool, too, such as "
            f"{shared[0][1]}: their scores are not those of unseen images"
        )

"""From what a recipe names to the labeled, the unlabeled and the evaluation images."""

import functools
import logging
from dataclasses import dataclass

import datasets
import numpy as np

from ..errors import InputError, first_few
from .columns import check_labels, open_images
from .sources import cityscapes, folder, hf_dataset, mapillary
from .sources.base import DataArguments, License, Source
from .subsets import choose_fraction, choose_listed, choose_unlabeled, read_ids, shared_images

logger = logging.getLogger(__name__)

_KINDS = {"cityscapes": cityscapes.open_source, "mapillary": mapillary.open_source, "folder": folder.open_source}


def open_source(args: DataArguments) -> Source:
    """The data that a recipe names: one of three kinds, or else what `datasets` opens."""
    return _KINDS.get(args.dataset, hf_dataset.open_source)(args)


@dataclass
class SegmentationData:
    """
    What a run trains and evaluates on. No picture is decoded; each column `label` is a [`LabelImage`], which says what
    its ids mean.

    Args:
        labeled (`datasets.Dataset`): Columns `image`, `label`, `id`.
        unlabeled (`datasets.Dataset`): Columns `image`, `id`.
        evaluation (`datasets.Dataset`): Columns `image`, `label`, `id`.
        coarse (`datasets.Dataset`, *optional*): Columns `image`, `label`, `id`; for class-uniform sampling only.
        id2label (`dict[int, str]`): Train id -> name.
        palette (`np.ndarray`): (num_classes, 3) uint8 colors.
        license ([`License`], *optional*): One that forbids passing the pictures on.
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
    Opens the labeled, unlabeled and evaluation images that a recipe names. No picture is decoded.

    Args:
        args ([`DataArguments`]): The data fields of the recipe.
    """
    source = open_source(args)
    open_split = functools.cache(source.open)

    # 1. The images that keep their labels
    candidates = {split: _labeled(open_split(split, complete=True)) for split in args.train_splits}
    if source.subset:
        chosen = choose_listed(candidates, read_ids(source.subset), f"labeled_split {args.labeled_split}")
    elif args.labeled_ids:
        chosen = choose_listed(candidates, read_ids(args.labeled_ids), args.labeled_ids)
    else:
        chosen = choose_fraction(candidates, args.labeled_fraction, args.labeled_seed)
    labeled = datasets.concatenate_datasets([rows.select(chosen[split]) for split, rows in candidates.items()])

    # 2. The unlabeled pool: images alone
    pool = {}
    for split in dict.fromkeys([*candidates, *(args.unlabeled_splits or source.unlabeled_splits)]):
        images = candidates[split] if split in candidates else open_split(split)
        images = images.select_columns(["image", "id"])
        if split in candidates and not args.unlabeled_includes_labeled:
            images = images.select(np.setdiff1d(np.arange(len(images)), chosen[split]))
        pool[split] = images
    for index, path in enumerate(dict.fromkeys(args.unlabeled_dirs)):
        pool[f"unlabeled_dirs {index}"] = open_images(path)
    if args.num_unlabeled is not None:
        on_top = chosen if args.unlabeled_includes_labeled else {}
        kept = choose_unlabeled(pool, args.num_unlabeled, args.labeled_seed, on_top)
        pool = {name: images.select(kept[name]) for name, images in pool.items()}
    unlabeled = datasets.concatenate_datasets(list(pool.values()))

    # 3. The images to evaluate on, none of them a labeled one
    evaluation = _labeled(open_split(args.eval_split, complete=True))
    coarse = _annotated(open_split(source.coarse_split), args.data_dir) if args.use_coarse_labels else None
    if not args.allow_shared_images:
        trained_on = datasets.concatenate_datasets([labeled, coarse]) if coarse else labeled
        _check_shared_images(trained_on, unlabeled, evaluation)
    id2label, palette, license = source.labels.id2label, source.palette, source.license
    return SegmentationData(labeled, unlabeled, evaluation, coarse, id2label, palette, license)


def load_evaluation(args: DataArguments) -> tuple[datasets.Dataset, np.ndarray]:
    """
    Opens the evaluation split alone, as [`load_data`] does. No picture is decoded.

    Args:
        args ([`DataArguments`]): The data fields of the recipe.

    Returns:
        `tuple[datasets.Dataset, np.ndarray]`: The rows, with the columns `image`, `label` (a [`LabelImage`]) and `id`,
        and (num_classes, 3) uint8 colors of the classes.
    """
    source = open_source(args)
    rows = _labeled(source.open(args.eval_split, complete=True))
    check_labels(rows, f"eval_split {args.eval_split}")
    return rows, source.palette


def _labeled(rows: datasets.Dataset) -> datasets.Dataset:
    return rows.select_columns(["image", "label", "id"])


def _annotated(rows: datasets.Dataset, where: str) -> datasets.Dataset:
    """The rows that have a coarse label."""
    annotated = np.flatnonzero(rows.data.column("label").is_valid().to_numpy())
    if not len(annotated):
        raise InputError(
            f"{where}: no coarse labels of train_extra, looked for gtCoarse/train_extra/<city>/"
            "*_gtCoarse_labelIds.png; unpack gtCoarse.zip, or set use_coarse_labels to false"
        )
    if len(annotated) < len(rows):
        logger.warning(f"{len(rows) - len(annotated)} of {len(rows)} images of train_extra have no coarse label")
    return _labeled(rows.select(annotated))


def _check_shared_images(labeled: datasets.Dataset, unlabeled: datasets.Dataset, evaluation: datasets.Dataset) -> None:
    shared = shared_images(labeled, evaluation)
    if shared:
        pairs = first_few(own if own == twin else f"{own} (as {twin})" for twin, own in shared)
        raise InputError(
            f"train_splits and eval_split: {len(shared)} of the {len(evaluation)} evaluation images are labeled "
            f"training images, too: {pairs}; take them out of one of the two, or "
            "set allow_shared_images to true if that is meant"
        )
    shared = shared_images(unlabeled, evaluation)
    if shared:
        logger.warning(
            f"{len(shared)} of the {len(evaluation)} evaluation images are in the unlabeled pool, too, such as "
            f"{shared[0][1]}: their scores are not those of unseen images"
        )

"""From the data fields of a recipe to the labeled, the unlabeled and the evaluation images."""

import contextlib
import functools
import itertools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import datasets
import numpy as np

from ..errors import InputError, first_few
from .arguments import DataArguments
from .classes import missing_classes_problem
from .columns import check_labels, has_image
from .images import CorruptFileError, describe_values
from .labels import LabelImage, read_label
from .sources.base import License, log_notes, open_images, unlabeled_note
from .sources.cityscapes import labeled_split_file
from .sources.layouts import open_source
from .sources.lists import read_list
from .subsets import choose_images, choose_listed, find_shared_images, hold_out

logger = logging.getLogger(__name__)

_LABELED = ["image", "label", "id"]
_REMEDY = (
    "write validation_fraction: 0.2 to hold out labeled images, or eval_strategy: no to train without an evaluation, "
    "or correct eval_split"
)


@dataclass
class SegmentationData:
    """
    The data of a run. No image is decoded; each column `label` is a [`LabelImage`], which says what its ids mean.

    Args:
        labeled (`datasets.Dataset`): Columns `image`, `label`, `id`.
        unlabeled (`datasets.Dataset`): Columns `image`, `id`.
        evaluation (`datasets.Dataset`, *optional*): Columns `image`, `label`, `id`.
        coarse (`datasets.Dataset`, *optional*): Columns `image`, `label`, `id`; for class-uniform sampling only.
        id2label (`dict[int, str]`): Train id -> name.
        palette (`np.ndarray`): (num_classes, 3) uint8 colors.
        license ([`License`], *optional*): A license that forbids redistribution.
    """

    labeled: datasets.Dataset
    unlabeled: datasets.Dataset
    evaluation: datasets.Dataset | None
    coarse: datasets.Dataset | None
    id2label: dict[int, str]
    palette: np.ndarray
    license: License | None = None


def load_data(args: DataArguments, evaluate: bool = True) -> SegmentationData:
    """
    Opens the labeled, unlabeled and evaluation images that a recipe names. Labels are read until all classes are seen.

    Args:
        args ([`DataArguments`]): The data fields of the recipe.
        evaluate (`bool`, *optional*, defaults to `True`):
            Whether there must be images to evaluate on. Otherwise they are opened where there are some.
    """
    source = open_source(args)
    log_notes(source.notes)
    open_split = functools.cache(source.open)

    # 1. The images that keep their labels
    train = _open_train(args, open_split)
    candidates = {split: np.flatnonzero(train.has_label[split] & ~train.held_out[split]) for split in train.datasets}
    if args.labeled_split or args.labeled_ids:
        path = labeled_split_file(args.labeled_split) if args.labeled_split else args.labeled_ids
        name = f"labeled_split {args.labeled_split}" if args.labeled_split else args.labeled_ids
        listed = choose_listed(train.datasets, {*read_list(path, "labeled_ids", "id")}, name, train.has_label)
        chosen = {split: np.intersect1d(listed[split], own) for split, own in candidates.items()}
    else:
        few = {split: train.datasets[split].select(own) for split, own in candidates.items()}
        total = sum(map(len, few.values()))
        number = min(total, max(1, round(args.labeled_fraction * total)))
        found = choose_images(few, number, args.labeled_seed, {})
        chosen = {split: own[found[split]] for split, own in candidates.items()}
    labeled = datasets.concatenate_datasets([train.datasets[split].select(own) for split, own in chosen.items()])
    labeled = labeled.select_columns(_LABELED)

    # 2. The unlabeled pool: images alone
    pool, on_top = {}, {}
    for split in dict.fromkeys([*args.train_splits, *(args.unlabeled_splits or source.unlabeled_splits)]):
        pool[split] = open_split(split).select_columns(["image", "id"])
        if split in chosen:
            left_out = train.held_out[split].copy()
            left_out[[] if args.unlabeled_includes_labeled else chosen[split]] = True
            kept = np.flatnonzero(~left_out)
            pool[split] = pool[split].select(kept) if left_out.any() else pool[split]
            on_top[split] = np.flatnonzero(np.isin(kept, chosen[split])).tolist()
    for index, path in enumerate(dict.fromkeys(args.unlabeled_dirs)):
        pool[f"unlabeled_dirs {index}"] = open_images(path).cast_column("image", labeled.features["image"])
    if args.num_unlabeled is not None:
        kept = choose_images(pool, args.num_unlabeled, args.labeled_seed, on_top)
        pool = {name: images.select(kept[name]) for name, images in pool.items()}
    unlabeled = datasets.concatenate_datasets(list(pool.values()))

    # 3. The images to evaluate on, none of them a labeled one
    evaluation = None
    if evaluate or args.validation_fraction is not None or args.eval_split in source.splits:
        evaluation = _open_evaluation(args, open_split, train)
    coarse = _with_coarse_labels(open_split("train_extra"), args.data_dir) if args.use_coarse_labels else None
    if evaluation is not None and not args.allow_shared_images:
        trained_on = datasets.concatenate_datasets([labeled, coarse]) if coarse else labeled
        _check_shared_images(trained_on, unlabeled, evaluation)
    if source.own_classes:
        others = [train.datasets[split].select(own) for split, own in candidates.items()]
        _check_classes(source.labels, [labeled, *others, *([] if evaluation is None else [evaluation])])
    for part, images in (("labeled", labeled), ("unlabeled", unlabeled)):  # few, evenly spaced and the last
        note = describe_values(images[:: -(len(images) // 8 + 1)]["image"], images.features["image"])
        log_notes([f"{part} {note}"] if note else [])
    id2label, palette = source.labels.id2label, source.palette
    return SegmentationData(labeled, unlabeled, evaluation, coarse, id2label, palette, source.license)


def load_evaluation(args: DataArguments) -> tuple[datasets.Dataset, np.ndarray]:
    """
    Opens the images to evaluate on alone, as [`load_data`] does. No image is decoded.

    Args:
        args ([`DataArguments`]): The data fields of the recipe.

    Returns:
        `tuple[datasets.Dataset, np.ndarray]`: Columns `image`, `label`, `id`, and (num_classes, 3) uint8 colors.
    """
    source = open_source(args)
    train = _open_train(args, source.open) if args.validation_fraction is not None else None
    evaluation = _open_evaluation(args, source.open, train)
    check_labels(evaluation, "validation_fraction" if train else f"eval_split {args.eval_split}")
    return evaluation, source.palette


class _Train(NamedTuple):
    """The train_splits, and which of their images (N,) have a label, and which are held out."""

    datasets: dict[str, datasets.Dataset]
    has_label: dict[str, np.ndarray]
    held_out: dict[str, np.ndarray]


def _open_train(args: DataArguments, open_split: Callable[..., datasets.Dataset]) -> _Train:
    train = {split: open_split(split) for split in args.train_splits}
    has_label, units = {}, {}
    for split, dataset in train.items():
        found = has_image(dataset, "label") if "label" in dataset.column_names else np.zeros(len(dataset), bool)
        if not found.any():
            open_split(split, True)  # says what is missing
        has_label[split], units[split] = found, dataset["id"][:]
        if missing := np.count_nonzero(~found):
            log_notes([unlabeled_note(split, missing, len(dataset))])
        if args.validation_by == "folder":
            in_city = "city" in dataset.column_names
            units[split] = dataset["city"][:] if in_city else [name.rpartition("/")[0] for name in units[split]]
    if args.validation_fraction is None:
        return _Train(train, has_label, {split: np.zeros_like(found) for split, found in has_label.items()})
    held_out = hold_out(units, has_label, args.validation_fraction, args.labeled_seed)
    number = sum(np.count_nonzero(held_out[split] & found) for split, found in has_label.items())
    total = sum(map(np.count_nonzero, has_label.values()))
    log_notes([f"validation_fraction: {number:,} of {total:,} labeled images are held out to evaluate on"])
    return _Train(train, has_label, held_out)


def _open_evaluation(
    args: DataArguments, open_split: Callable[..., datasets.Dataset], train: _Train | None
) -> datasets.Dataset:
    """Returns the images to evaluate on, which have a label: those held out, or else those of eval_split."""
    if args.validation_fraction is None:
        return open_split(args.eval_split, True, _REMEDY).select_columns(_LABELED)
    held = [np.flatnonzero(train.held_out[split] & found) for split, found in train.has_label.items()]
    parts = [dataset.select(own) for dataset, own in zip(train.datasets.values(), held)]
    return datasets.concatenate_datasets(parts).select_columns(_LABELED)


def _check_classes(labels: LabelImage, parts: Sequence[datasets.Dataset]) -> None:
    """Rejects classes that no label shows, reading up to the first labels that show all."""
    shown, read = set(), []
    for label in itertools.chain.from_iterable(part.select_columns("label") for part in parts):
        with contextlib.suppress(CorruptFileError):  # `skip_corrupt` may allow it
            shown |= set(np.unique(read_label(label["label"], labels)).tolist())
        read.append(label["label"])
        if shown >= labels.id2label.keys():
            return
    if problem := missing_classes_problem(labels, shown, read):
        raise InputError(f"classes: {problem}")


def _with_coarse_labels(dataset: datasets.Dataset, data_dir: str) -> datasets.Dataset:
    """Returns the examples of train_extra that have a coarse label."""
    annotated = np.flatnonzero(has_image(dataset, "label"))
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

"""From what a recipe names to the labelled, the unlabelled and the evaluation images."""

import logging
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import datasets
import numpy as np

from ..errors import InputError
from . import cityscapes, mapillary
from .labels import NUM_IDS, Classes, LabelImage, make_label_table, read_id2label, read_label_map
from .palette import make_palette
from .pictures import IGNORE_INDEX
from .sources import find_id2label, open_dataset, open_folder, open_pictures, select_pictures
from .subsets import choose_fraction, choose_listed, cityscapes_split, read_ids, shared_images

logger = logging.getLogger(__name__)


@dataclass
class DataArguments:
    """
    Which data a run reads. The images of the labelled splits that are not chosen as labelled, by `labeled_fraction`,
    `labeled_split` or `labeled_ids`, are unlabelled.

    Args:
        dataset (`str`, *optional*, defaults to `"cityscapes"`): `"cityscapes"` (also for data drawn in its folder
            layout), `"mapillary"`, `"folder"` (`<split>/images`, `<split>/labels` and `id2label.json` in `data_dir`),
            or what `datasets` opens: a name on the Hub, or a local folder.
        dataset_config (`str`, *optional*): The annotations of Mapillary Vistas, `"v1.2"` (by default) or `"v2.0"`; or
            the configuration of a `datasets` data set.
        data_dir (`str`, *optional*): The folder of the data.
        train_splits (`list[str]`, *optional*, defaults to `["train"]`): The splits with labels to train on.
        unlabeled_splits (`list[str]`, *optional*): Splits whose images join the unlabelled pool besides those of
            `train_splits`. By default none; for Cityscapes `train_extra`, if it is there.
        unlabeled_dirs (`list[str]`, *optional*): Folders of pictures without labels that join the unlabelled pool, the
            folders in them included.
        eval_split (`str`, *optional*, defaults to `"validation"`): The split to evaluate on.
        image_column (`str`, *optional*, defaults to `"image"`): The images in a `datasets` data set.
        label_column (`str`, *optional*, defaults to `"label"`): The labels in a `datasets` data set.
        id2label (`str`, *optional*): A JSON file with the names of the classes, `{"0": "sky", …}`. By default
            `id2label.json` in `data_dir` or, for a `datasets` data set, beside its data, on disk or on the Hub.
            Cityscapes and Mapillary Vistas bring their own.
        label_map (`dict[int, int]`, *optional*): Id in a label file -> train id, a key of `id2label`; or 255 for an id
            whose pixels are ignored. By default label files hold train ids. JSON on the command line.
        ignore_index (`int`, *optional*, defaults to 255): The id in label files whose pixels are ignored.
        labeled_fraction (`float`, *optional*, defaults to 1.0): The share of the labelled splits that keeps its
            labels.
        labeled_seed (`int`, *optional*, defaults to 0): Which images `labeled_fraction` chooses. With one seed, a
            smaller share is part of a larger one.
        labeled_split (`str`, *optional*): A standard labelled subset of Cityscapes, `"1_2"`, `"1_4"`, `"1_8"`,
            `"1_16"` or `"1_30"`; in place of `labeled_fraction`.
        labeled_ids (`str`, *optional*): A text file with the ids of the labelled images, one a line; in place of
            `labeled_fraction`.
        unlabeled_includes_labeled (`bool`, *optional*, defaults to `True`): Whether the labelled images are in the
            unlabelled pool, too.
        use_coarse_labels (`bool`, *optional*, defaults to `False`): Whether to open the coarse annotations of
            Cityscapes' `train_extra`, for class-uniform sampling.
        allow_shared_images (`bool`, *optional*, defaults to `False`): Whether images that are trained on may be
            evaluated on, too.
        skip_corrupt (`bool`, *optional*, defaults to `False`): Whether training goes on with another image where one
            cannot be read; otherwise it stops and names the file. Evaluation images are never skipped, nor are files
            that are empty or missing at the start.
    """

    dataset: str = field(
        default="cityscapes",
        metadata={"help": "cityscapes, mapillary, folder, or what `datasets` opens (a Hub name or a local folder)."},
    )
    dataset_config: str | None = field(
        default=None, metadata={"help": "v1.2 or v2.0 of Mapillary Vistas, or a configuration of `datasets` data."}
    )
    data_dir: str | None = field(default=None, metadata={"help": "The folder of the data."})
    train_splits: list[str] = field(
        default_factory=lambda: ["train"], metadata={"help": "The splits with labels to train on."}
    )
    unlabeled_splits: list[str] = field(
        default_factory=list,
        metadata={"help": "Splits that join the unlabelled pool; default: train_extra of Cityscapes, if it is there."},
    )
    unlabeled_dirs: list[str] = field(
        default_factory=list, metadata={"help": "Folders of pictures without labels that join the unlabelled pool."}
    )
    eval_split: str = field(default="validation", metadata={"help": "The split to evaluate on."})
    image_column: str = field(default="image", metadata={"help": "The column of the images (`datasets` data only)."})
    label_column: str = field(default="label", metadata={"help": "The column of the labels (`datasets` data only)."})
    id2label: str | None = field(
        default=None, metadata={"help": "A JSON file with the class names; default: id2label.json in data_dir."}
    )
    label_map: dict | str | None = field(
        default=None, metadata={"help": "Id in a label file -> class, as JSON on the command line; default: the same."}
    )
    ignore_index: int = field(
        default=IGNORE_INDEX, metadata={"help": "The id in label files whose pixels are ignored."}
    )
    labeled_fraction: float = field(
        default=1.0, metadata={"help": "The share of the labelled splits that keeps its labels, above 0, at most 1."}
    )
    labeled_seed: int = field(default=0, metadata={"help": "Which images labeled_fraction chooses."})
    labeled_split: str | None = field(
        default=None, metadata={"help": "A standard labelled subset of Cityscapes: 1_2, 1_4, 1_8, 1_16 or 1_30."}
    )
    labeled_ids: str | None = field(
        default=None, metadata={"help": "A text file with the ids of the labelled images, one a line."}
    )
    unlabeled_includes_labeled: bool = field(
        default=True, metadata={"help": "Whether the labelled images are in the unlabelled pool, too."}
    )
    use_coarse_labels: bool = field(
        default=False, metadata={"help": "Whether to open Cityscapes' coarse labels, for class-uniform sampling."}
    )

    allow_shared_images: bool = field(
        default=False, metadata={"help": "Whether images that are trained on may be evaluated on, too."}
    )
    skip_corrupt: bool = field(
        default=False, metadata={"help": "Whether training goes on with another image where one cannot be read."}
    )

    def __post_init__(self):
        if not 0 < self.labeled_fraction <= 1:
            raise InputError(f"labeled_fraction: {self.labeled_fraction} is not a share; give a number in (0, 1]")
        chosen = {
            "labeled_fraction": self.labeled_fraction != 1,
            "labeled_split": self.labeled_split,
            "labeled_ids": self.labeled_ids,
        }
        chosen = [name for name, given in chosen.items() if given]
        if len(chosen) > 1:
            raise InputError(
                f"{' and '.join(chosen)}: give only one of them; --labeled_fraction 1, --labeled_split null and "
                "--labeled_ids null leave one out"
            )
        if self.image_column == self.label_column:
            raise InputError(f"label_column: is {self.label_column!r}, as image_column; name the column of the labels")
        if not self.train_splits:
            raise InputError("train_splits: is empty; name the split to train on, such as train")
        if self.label_map is not None:
            self.label_map = read_label_map(self.label_map)
        if not 0 <= self.ignore_index < NUM_IDS:
            raise InputError(f"ignore_index: {self.ignore_index} is not an id; give one of 0 to {NUM_IDS - 1}")

        if self.dataset == "cityscapes":
            if self.labeled_split:
                cityscapes_split(self.labeled_split)
        elif self.use_coarse_labels:
            raise InputError("use_coarse_labels: only Cityscapes has coarse labels; set it to false")
        elif self.labeled_split:
            raise InputError("labeled_split: only Cityscapes has such subsets; give labeled_fraction or labeled_ids")
        if self.dataset_config and self.dataset in ("cityscapes", "folder"):
            raise InputError(f"dataset_config: {self.dataset} has no configurations; leave the field out")
        if self.dataset in ("cityscapes", "mapillary"):
            name = {"cityscapes": "Cityscapes", "mapillary": "Mapillary Vistas"}[self.dataset]
            if self.id2label:
                raise InputError(
                    f"id2label: {name} brings its class names; leave the field out, or name another dataset"
                )
            if self.label_map or self.ignore_index != IGNORE_INDEX:
                field_name = "label_map" if self.label_map else "ignore_index"
                raise InputError(
                    f"{field_name}: {name} brings its table of ids; leave the field out, or name another dataset"
                )


@dataclass
class SegmentationData:
    """
    What a run trains and evaluates on. `image` and `label` are `Image(decode=False)` columns.

    Args:
        labeled (`datasets.Dataset`): Columns `image`, `label`, `id`.
        unlabeled (`datasets.Dataset`): Columns `image`, `id`.
        evaluation (`datasets.Dataset`): Columns `image`, `label`, `id`.
        coarse (`datasets.Dataset`, *optional*): Columns `image`, `label`, `id`; for class-uniform sampling only.
        id2label (`dict[int, str]`): Train id -> name.
        palette (`np.ndarray`): (num_classes, 3) uint8 colours.
        label_table (`np.ndarray`): Id in a label file -> train id, for [`~files.read_label`].
    """

    labeled: datasets.Dataset
    unlabeled: datasets.Dataset
    evaluation: datasets.Dataset
    coarse: datasets.Dataset | None
    id2label: dict[int, str]
    palette: np.ndarray
    label_table: np.ndarray


def load_data(args: DataArguments) -> SegmentationData:
    """
    Opens the data that a recipe names. No picture is decoded.

    Args:
        args (`DataArguments`): The data fields of the recipe.

    Returns:
        `SegmentationData`: The labelled, unlabelled and evaluation images, and what their labels mean.

    Raises:
        InputError: A folder, split, column, label or id is not there, a file is empty, the class names or the map of
            ids are unusable, or evaluation images are among the labelled ones.
    """
    # 1. All splits that the recipe names, and their classes
    unlabeled_splits = args.unlabeled_splits or _extra_splits(args)
    splits = _open_splits(args, dict.fromkeys([*args.train_splits, *unlabeled_splits, args.eval_split]))
    classes = _read_classes(args)

    # 2. The images that keep their labels
    candidates = {split: _with_labels(_split(splits, split, args), split, args) for split in args.train_splits}
    if args.labeled_split:
        listed = read_ids(cityscapes_split(args.labeled_split))
        chosen = choose_listed(candidates, listed, f"labeled_split {args.labeled_split}")
    elif args.labeled_ids:
        chosen = choose_listed(candidates, read_ids(args.labeled_ids), args.labeled_ids)
    else:
        chosen = choose_fraction(candidates, args.labeled_fraction, args.labeled_seed)
    labeled = datasets.concatenate_datasets([rows.select(chosen[split]) for split, rows in candidates.items()])

    # 3. The unlabelled pool: images alone
    pool = []
    for split in dict.fromkeys([*candidates, *unlabeled_splits]):
        images = _split(splits, split, args).select_columns(["image", "id"])
        if split in candidates and not args.unlabeled_includes_labeled:
            images = images.select(np.setdiff1d(np.arange(len(images)), chosen[split]))
        pool.append(images)
    pool += [open_pictures(folder) for folder in dict.fromkeys(args.unlabeled_dirs)]
    unlabeled = datasets.concatenate_datasets(pool)

    # 4. The images to evaluate on, none of them a labelled one
    evaluation = _with_labels(_split(splits, args.eval_split, args), args.eval_split, args)
    coarse = _annotated(_split(splits, "train_extra", args), args) if args.use_coarse_labels else None
    if not args.allow_shared_images:
        trained_on = datasets.concatenate_datasets([labeled, coarse]) if coarse else labeled
        _check_shared_images(trained_on, unlabeled, evaluation)
    return SegmentationData(labeled, unlabeled, _with_classes(evaluation, classes), coarse, *classes)


def load_evaluation(args: DataArguments) -> tuple[datasets.Dataset, np.ndarray]:
    """
    Opens the evaluation split alone, as [`load_data`] does. No picture is decoded.

    Args:
        args (`DataArguments`): The data fields of the recipe.

    Returns:
        `tuple[datasets.Dataset, np.ndarray]`: The rows, with the columns `image`, `label` (a [`LabelImage`]) and `id`,
        and the colours of their classes (num_classes, 3).

    Raises:
        InputError: The data is not there or has no labels, a file is empty, or the class names or the map of ids are
            unusable.
    """
    splits = _open_splits(args, [args.eval_split])
    rows = _with_labels(_split(splits, args.eval_split, args), args.eval_split, args)
    classes = _read_classes(args)
    return _with_classes(rows, classes), classes.palette


def _with_classes(rows: datasets.Dataset, classes: Classes) -> datasets.Dataset:
    train_ids = {id: int(train_id) for id, train_id in enumerate(classes.label_table) if train_id >= 0}
    return rows.cast_column("label", LabelImage(decode=False, names=[*classes.id2label.values()], train_ids=train_ids))


def _extra_splits(args: DataArguments) -> list[str]:
    if args.dataset == "cityscapes" and cityscapes.find_split(_data_dir(args), "leftImg8bit", "train_extra"):
        return ["train_extra"]
    return []


def _data_dir(args: DataArguments) -> str:
    if not args.data_dir:
        raise InputError("data_dir: is missing; name the folder of the data, as in --data_dir FOLDER")
    if not os.path.isdir(args.data_dir):
        raise InputError(f"data_dir: there is no folder {args.data_dir}; correct the path")
    return args.data_dir


def _open_splits(args: DataArguments, names: Collection[str]) -> Mapping[str, datasets.Dataset]:
    labeled = {*args.train_splits, args.eval_split}
    if args.dataset == "cityscapes":
        return _open_cityscapes(args, names)
    if args.dataset == "mapillary":
        return mapillary.load_mapillary(_data_dir(args), args.dataset_config or "v1.2")
    if args.dataset == "folder":
        return open_folder(_data_dir(args), names, labeled)
    splits = open_dataset(args.dataset, args.dataset_config, args.data_dir)
    return {
        split: select_pictures(
            _split(splits, split, args), split, args.image_column, args.label_column if split in labeled else None
        )
        for split in names
    }


def _open_cityscapes(args: DataArguments, names: Collection[str]) -> dict[str, datasets.Dataset]:
    data_dir = _data_dir(args)
    splits = dict(cityscapes.load_cityscapes(data_dir, "fine"))
    needed = args.use_coarse_labels or "train_extra" in names
    if needed and cityscapes.find_split(data_dir, "leftImg8bit", "train_extra"):
        coarse = cityscapes.load_cityscapes(data_dir, "coarse")
        splits |= {split: rows for split, rows in coarse.items() if split == "train_extra"}
    return splits


def _read_classes(args: DataArguments) -> Classes:
    if args.dataset == "cityscapes":
        return Classes(dict(cityscapes.ID2LABEL), cityscapes.PALETTE, cityscapes.LABEL_TABLE)
    if args.dataset == "mapillary":
        return mapillary.read_classes(_data_dir(args), args.dataset_config or "v1.2")
    if args.id2label:
        file = Path(args.id2label)
    elif args.dataset == "folder":
        file = Path(_data_dir(args), "id2label.json")
    else:
        file = find_id2label(args.dataset, args.data_dir)
    id2label = read_id2label(file)
    palette = cityscapes.PALETTE if id2label == cityscapes.ID2LABEL else make_palette(len(id2label))
    return Classes(id2label, palette, make_label_table(id2label, args.label_map, args.ignore_index))


def _split(splits: Mapping[str, datasets.Dataset], split: str, args: DataArguments) -> datasets.Dataset:
    if split not in splits:
        where, looked = args.dataset, ""
        if args.dataset in ("cityscapes", "mapillary"):
            where = args.data_dir
        if args.dataset == "cityscapes":
            folder = {"validation": "val"}.get(split, split)
            looked = f" (looked for leftImg8bit/{folder}/<city>/*_leftImg8bit.png)"
        raise InputError(
            f"{where}: no split {split}{looked}, only {', '.join(splits)}; "
            "correct train_splits, unlabeled_splits or eval_split, or complete the data"
        )
    return splits[split]


def _with_labels(rows: datasets.Dataset, split: str, args: DataArguments) -> datasets.Dataset:
    missing = rows.data.column("label").null_count
    if missing:
        raise InputError(
            f"{args.data_dir or args.dataset}: {missing} of the {len(rows)} images of split {split} have no label; "
            "name it in unlabeled_splits only"
        )
    return rows.select_columns(["image", "label", "id"])


def _annotated(train_extra: datasets.Dataset, args: DataArguments) -> datasets.Dataset:
    annotated = np.flatnonzero(train_extra.data.column("label").is_valid().to_numpy())
    if not len(annotated):
        raise InputError(
            f"{args.data_dir}: no coarse labels of train_extra, looked for gtCoarse/train_extra/<city>/"
            "*_gtCoarse_labelIds.png; unpack gtCoarse.zip, or set use_coarse_labels to false"
        )
    if len(annotated) < len(train_extra):
        missing = len(train_extra) - len(annotated)
        logger.warning(f"{missing} of {len(train_extra)} images of train_extra have no coarse label")
    return train_extra.select(annotated).select_columns(["image", "label", "id"])


def _check_shared_images(labeled: datasets.Dataset, unlabeled: datasets.Dataset, evaluation: datasets.Dataset) -> None:
    shared = shared_images(labeled, evaluation)
    if shared:
        pairs = ", ".join(own if own == twin else f"{own} (as {twin})" for twin, own in shared[:3])
        raise InputError(
            f"train_splits and eval_split: {len(shared)} of the {len(evaluation)} evaluation images are labelled "
            f"training images, too: {pairs}{', …' if len(shared) > 3 else ''}; take them out of one of the two, or "
            "set allow_shared_images to true if that is meant"
        )
    shared = shared_images(unlabeled, evaluation)
    if shared:
        logger.warning(
            f"{len(shared)} of the {len(evaluation)} evaluation images are in the unlabelled pool, too, such as "
            f"{shared[0][1]}: their scores are not those of unseen images"
        )

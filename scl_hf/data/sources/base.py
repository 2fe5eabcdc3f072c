"""What a recipe says about data, and the one form in which every kind of data is opened."""

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import datasets
import numpy as np

from ...errors import InputError
from ..images import IGNORE_INDEX
from ..labels import NUM_IDS, LabelImage, read_label_map


@dataclass
class DataArguments:
    """
    Which data a run reads. The images of the labeled splits that are not chosen as labeled, by `labeled_fraction`,
    `labeled_split` or `labeled_ids`, are unlabeled.

    Args:
        dataset (`str`, *optional*, defaults to `"cityscapes"`):
            `cityscapes`, `mapillary`, `folder`, or what `datasets` opens (a name on the Hub or a local folder).
            `cityscapes` is also for data drawn in its folder layout, `folder` for `<split>/images`, `<split>/labels`
            and `id2label.json` in `data_dir`.
        dataset_config (`str`, *optional*):
            v1.2 (by default) or v2.0 of Mapillary Vistas, or the configuration of a `datasets` data set.
        data_dir (`str`, *optional*): The folder of the data.
        train_splits (`list[str]`, *optional*, defaults to `["train"]`): The splits with labels to train on.
        unlabeled_splits (`list[str]`, *optional*):
            Splits whose images join the unlabeled pool, besides those of train_splits. By default none; for
            Cityscapes `train_extra`, if it is there.
        unlabeled_dirs (`list[str]`, *optional*):
            Folders of pictures without labels that join the unlabeled pool, the folders in them included.
        eval_split (`str`, *optional*, defaults to `"validation"`): The split to evaluate on.
        image_column (`str`, *optional*, defaults to `"image"`): The images in a `datasets` data set.
        label_column (`str`, *optional*, defaults to `"label"`): The labels in a `datasets` data set.
        id2label (`str`, *optional*):
            A JSON file with the names of the classes, `{"0": "sky", …}`. By default `id2label.json` in `data_dir` or,
            for a `datasets` data set, beside its data, on disk or on the Hub. Cityscapes and Mapillary Vistas bring
            their own.
        label_map (`dict[int, int]`, *optional*):
            Id in a label file -> class, as JSON on the command line; by default the files hold classes. A class is a
            key of `id2label`, or 255 for an id whose pixels are ignored.
        ignore_index (`int`, *optional*, defaults to 255): The id in label files whose pixels are ignored.
        labeled_fraction (`float`, *optional*, defaults to 1.0):
            The share of the labeled splits that keeps its labels, above 0, at most 1.
        labeled_seed (`int`, *optional*, defaults to 0):
            Which images labeled_fraction and num_unlabeled choose. With one seed, a smaller share is part of a larger
            one.
        labeled_split (`str`, *optional*):
            A standard labeled subset of Cityscapes: 1_2, 1_4, 1_8, 1_16 or 1_30. In place of `labeled_fraction`.
        labeled_ids (`str`, *optional*):
            A text file with the ids of the labeled images, one a line. In place of `labeled_fraction`.
        unlabeled_includes_labeled (`bool`, *optional*, defaults to `True`):
            Whether the labeled images are in the unlabeled pool, too.
        num_unlabeled (`int`, *optional*):
            How many unlabeled images the pool has, chosen at random. By default all of them; the labeled ones, with
            `unlabeled_includes_labeled`, come on top.
        use_coarse_labels (`bool`, *optional*, defaults to `False`):
            Whether to open the coarse labels of Cityscapes' train_extra, for class-uniform sampling.
        allow_shared_images (`bool`, *optional*, defaults to `False`):
            Whether images that are trained on may be evaluated on, too.
    """

    dataset: str = "cityscapes"
    dataset_config: str | None = None
    data_dir: str | None = None
    train_splits: list[str] = field(default_factory=lambda: ["train"])
    unlabeled_splits: list[str] = field(default_factory=list)
    unlabeled_dirs: list[str] = field(default_factory=list)
    eval_split: str = "validation"
    image_column: str = "image"
    label_column: str = "label"
    id2label: str | None = None
    label_map: dict | str | None = None
    ignore_index: int = IGNORE_INDEX
    labeled_fraction: float = 1.0
    labeled_seed: int = 0
    labeled_split: str | None = None
    labeled_ids: str | None = None
    unlabeled_includes_labeled: bool = True
    num_unlabeled: int | None = None
    use_coarse_labels: bool = False
    allow_shared_images: bool = False

    def __post_init__(self):
        if not self.dataset:
            raise InputError("dataset: is empty; give cityscapes, mapillary, folder, or what `datasets` opens")
        if not 0 < self.labeled_fraction <= 1:
            raise InputError(f"labeled_fraction: {self.labeled_fraction} is not a share; give a number in (0, 1]")
        defaults = {"labeled_fraction": 1, "labeled_split": None, "labeled_ids": None}
        chosen = [name for name, default in defaults.items() if getattr(self, name) != default]
        if len(chosen) > 1:
            raise InputError(
                f"{' and '.join(chosen)}: give only one of them; --labeled_fraction 1, --labeled_split null and "
                "--labeled_ids null leave one out"
            )
        if self.num_unlabeled is not None and self.num_unlabeled < 0:
            raise InputError(f"num_unlabeled: {self.num_unlabeled} is no number of images; give 0 or more")
        if self.image_column == self.label_column:
            raise InputError(f"label_column: is {self.label_column!r}, as image_column; name the column of the labels")
        if not self.train_splits:
            raise InputError("train_splits: is empty; name the split to train on, such as train")
        if self.label_map is not None:
            self.label_map = read_label_map(self.label_map)
        if not 0 <= self.ignore_index < NUM_IDS:
            raise InputError(f"ignore_index: {self.ignore_index} is not an id; give one of 0 to {NUM_IDS - 1}")

    @property
    def title(self) -> str:
        """What pages call the data: the name of its folder, or what `dataset` names."""
        return Path(self.data_dir).resolve().name if self.data_dir else self.dataset

    @property
    def hub_id(self) -> str | None:
        """The id of the data set on the Hub, if it is from there."""
        return self.dataset if "/" in self.dataset and not os.path.exists(self.dataset) else None


class License(NamedTuple):
    """
    A license that forbids passing data on, and commercial use: its name on the Hub, whose it is, where it is, and the
    BibTeX entry of the paper to cite.
    """

    key: str
    owner: str
    link: str
    citation: str


@dataclass
class Source:
    """
    One kind of data, opened: no row is made and no file looked at before its split is opened. What opens a split takes
    whether each image has to have a label, and gives rows that are not decoded: `image`, `label` (None where there is
    none; may be missing where no label is asked for) and `id`.
    """

    where: str  # what messages call it, such as its folder
    labels: LabelImage
    palette: np.ndarray  # (num_classes, 3) uint8
    splits: Mapping[str, Callable[[bool], datasets.Dataset]]
    labeled: Collection[str] = ()  # splits in which each image should have a label
    unlabeled_splits: Sequence[str] = ()  # those that join the unlabeled pool by default
    place: Callable[[str], str] | None = None  # split -> where in the data it should be, for messages
    coarse_split: str | None = None  # whose labels are coarse ones
    subset: Path | None = None  # the list of ids that `labeled_split` names
    license: License | None = None  # that forbids passing the data on

    def open(self, split: str, complete: bool = False) -> datasets.Dataset:
        """The rows of a split, their labels as [`LabelImage`]; `complete` if each has to have one."""
        if split not in self.splits:
            looked = f" (looked for {self.place(split)})" if self.place else ""
            there = f"only {', '.join(self.splits)}" if self.splits else "nor any other"
            raise InputError(
                f"{self.where}: no split {split}{looked}, {there}; "
                "correct train_splits, unlabeled_splits or eval_split, or complete the data"
            )
        rows = self.splits[split](complete)
        return rows.cast_column("label", self.labels) if "label" in rows.column_names else rows


def check_fields(args: DataArguments, owner: str | None = None) -> None:
    """Refuses fields that say nothing about this kind of data, whose `owner` brings its classes, and a lost folder."""
    remedy = "leave the field out, or name another dataset"
    reasons = {}
    if args.dataset != "cityscapes":
        reasons["use_coarse_labels"] = "only Cityscapes has coarse labels; set it to false"
        reasons["labeled_split"] = "only Cityscapes has such subsets; give labeled_fraction or labeled_ids"
    if args.dataset in ("cityscapes", "folder"):
        reasons["dataset_config"] = f"{args.dataset} has no configurations; leave the field out"
    if owner:
        reasons["id2label"] = f"{owner} brings its class names; {remedy}"
        reasons["label_map"] = reasons["ignore_index"] = f"{owner} brings its table of ids; {remedy}"
    for name, reason in reasons.items():
        if getattr(args, name) not in (getattr(DataArguments, name), ""):
            raise InputError(f"{name}: {reason}")
    if args.dataset in ("cityscapes", "mapillary", "folder"):
        if not args.data_dir:
            raise InputError("data_dir: is missing; name the folder of the data, as in --data_dir FOLDER")
        if not os.path.isdir(args.data_dir):
            raise InputError(f"data_dir: there is no folder {args.data_dir}; correct the path")

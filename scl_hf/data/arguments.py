"""The data fields of a recipe."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import InputError, check_field
from .classes import read_classes, read_id2label, read_label_map
from .images import IGNORE_INDEX, InputImage
from .labels import NUM_IDS, LabelImage

LABELED_SPLITS = ("1/2", "1/4", "1/8", "1/16", "1/30")


@dataclass
class DataArguments:
    """
    The data of a run. Images of `train_splits` that are not chosen to keep their labels are unlabeled.

    Args:
        dataset (`str`, *optional*, defaults to `"cityscapes"`):
            `cityscapes` and `mapillary` in their folder layouts, `folder` for images and labels in folders such as
            `train/images` and `train/labels`, or a dataset that `datasets` opens, on the Hub or in a local folder.
        dataset_config (`str`, *optional*):
            v1.2 (by default) or v2.0 of Mapillary Vistas, or the configuration of a `datasets` dataset.
        data_dir (`str`, *optional*): The folder of the data.
        train_splits (`list[str]`, *optional*, defaults to `["train"]`): The splits with labels to train on.
        unlabeled_splits (`list[str]`, *optional*):
            Splits that join the unlabeled pool besides train_splits. By default none; for Cityscapes `train_extra`.
        unlabeled_dirs (`list[str]`, *optional*):
            Folders, globs or zip files whose images, at any depth, join the unlabeled pool.
        eval_split (`str`, *optional*, defaults to `"validation"`): The split to evaluate on.
        image_column (`str`, *optional*, defaults to `"image"`):
            The images in a `datasets` dataset. Without a column `image`, the only other one that holds images.
        label_column (`str`, *optional*, defaults to `"label"`):
            The labels in a `datasets` dataset. Without a column `label`, likewise.
        train_images (`str`, *optional*):
            The images to train on where data_dir has no layout that is found by itself: a folder, a glob or a text
            file with an image, or an image and its label, a line. Paths begin in data_dir, if it is given. Images
            without a label are unlabeled.
        train_labels (`str`, *optional*):
            Their labels, a folder or a glob. They match by the path below the folder, or by what the wildcards match.
        validation_images (`str`, *optional*): The images to evaluate on, as train_images.
        validation_labels (`str`, *optional*): Their labels, as train_labels.
        label_suffix (`str`, *optional*):
            What the names of labels have after those of images, such as `_mask`. By default it is found.
        validation_fraction (`float`, *optional*):
            The share of the labeled images of train_splits to hold out and evaluate on, in place of eval_split. They
            are chosen by labeled_seed.
        validation_by (`str`, *optional*, defaults to `"image"`):
            `image`, or `folder` to hold out whole folders, such as drives or patients.
        classes (`dict`, *optional*):
            Name of a class -> what stands for it in label files: an id, a range `1-65535`, a color `"#ff0000"` or a
            list of these. Also a YAML or JSON file of that. In place of id2label and label_map.
        ignore (`list[str]`, *optional*): The values in label files whose pixels are ignored, in the forms of classes.
        reduce_labels (`bool`, *optional*, defaults to `False`):
            Whether 0 in label files is ignored and the others are classes + 1, as in ADE20K and `transformers`.
        value_range (`list[float]`, *optional*):
            The values in 16-bit and floating-point images that become black and white, such as 0 4095.
        bands (`list[int]`, *optional*):
            The three bands, counted from 0, of images with more than three that become red, green and blue.
        id2label (`dict[int, str]` or `str`, *optional*):
            The names of the classes, `{"0": "sky", …}`, or a JSON file of that. By default `id2label.json` in
            `data_dir` or, for a `datasets` dataset, beside its data. Cityscapes and Mapillary Vistas bring their own.
        label_map (`dict[int, int]`, *optional*):
            Id in a label file -> class in `id2label`, or 255 to ignore its pixels, as JSON on the command line. By
            default the files hold classes.
        ignore_index (`int`, *optional*, defaults to 255): The id in label files whose pixels are ignored.
        labeled_fraction (`float`, *optional*, defaults to 1.0):
            The share of the images of train_splits that keep their labels, above 0, at most 1.
        labeled_seed (`int`, *optional*, defaults to 0):
            The seed of labeled_fraction and num_unlabeled. With one seed, a smaller share is part of a larger one.
        labeled_split (`str`, *optional*):
            A standard labeled subset of Cityscapes: 1/2, 1/4, 1/8, 1/16 or 1/30. Replaces labeled_fraction.
        labeled_ids (`str`, *optional*):
            A text file with one labeled id, or file name of an image, a line. Replaces labeled_fraction.
        unlabeled_includes_labeled (`bool`, *optional*, defaults to `True`):
            Whether the unlabeled pool includes the labeled images.
        num_unlabeled (`int`, *optional*):
            The number of unlabeled images in the pool, chosen at random, besides the labeled ones. By default all.
        use_coarse_labels (`bool`, *optional*, defaults to `False`):
            Whether class-uniform sampling also uses the coarse labels of Cityscapes' train_extra.
        allow_shared_images (`bool`, *optional*, defaults to `False`):
            Whether labeled training images may be among the evaluation images.
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
    train_images: str | None = None
    train_labels: str | None = None
    validation_images: str | None = None
    validation_labels: str | None = None
    label_suffix: str | None = None
    validation_fraction: float | None = None
    validation_by: str = "image"
    classes: dict | str | None = None
    ignore: list[str] = field(default_factory=list)
    reduce_labels: bool = False
    value_range: list[float] = field(default_factory=list)
    bands: list[int] = field(default_factory=list)
    id2label: dict | str | None = None
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
        check_field(self, "dataset", self.dataset, "cityscapes, mapillary, folder, or what `datasets` opens")
        check_field(self, "train_splits", self.train_splits, "at least one split, such as train")
        check_field(self, "labeled_fraction", 0 < self.labeled_fraction <= 1, "a share in (0, 1]")
        held_out = self.validation_fraction is None or 0 < self.validation_fraction < 1
        check_field(self, "validation_fraction", held_out, "a share in (0, 1)")
        check_field(self, "validation_by", self.validation_by in ("image", "folder"), "image or folder")
        for name in ("train", "validation"):
            if getattr(self, f"{name}_labels") and not getattr(self, f"{name}_images"):
                raise InputError(f"{name}_labels: need {name}_images, too; name the folder of the images")
        check_field(self, "num_unlabeled", self.num_unlabeled is None or self.num_unlabeled >= 0, "0 or more")
        check_field(self, "ignore_index", 0 <= self.ignore_index < NUM_IDS, f"an id, 0 to {NUM_IDS - 1}")
        check_field(self, "label_column", self.label_column != self.image_column, "another column than image_column")
        defaults = {"labeled_fraction": 1, "labeled_split": None, "labeled_ids": None}
        given = [name for name, default in defaults.items() if getattr(self, name) != default]
        if len(given) > 1:
            off = "--labeled_fraction 1, --labeled_split null or --labeled_ids null"
            raise InputError(f"{' and '.join(given)}: give only one of them; {off} leaves one out")
        if self.labeled_split:
            self.labeled_split = self.labeled_split.replace("_", "/")  # 1_8, as it was written before
            known = self.labeled_split in LABELED_SPLITS
            check_field(self, "labeled_split", known, f"one of {', '.join(LABELED_SPLITS)}")
        ways = {"classes": None, "id2label": None, "label_map": None, "reduce_labels": False}
        given = [name for name, default in ways.items() if getattr(self, name) != default]
        if "classes" in given[:1] and len(given) > 1 or {"label_map", "reduce_labels"} <= {*given}:
            raise InputError(f"{' and '.join(given)}: say the same in two ways; leave one of them out")
        if self.classes is not None and self.ignore_index != IGNORE_INDEX:
            raise InputError(f"ignore_index: goes with id2label; with classes write ignore: [{self.ignore_index}]")
        if self.label_map is not None:
            self.label_map = read_label_map(self.label_map)
        InputImage.of(self)  # checks value_range and bands

    def labels(self, id2label: Path) -> LabelImage:
        """Returns what the values in label files mean: as the fields say or, without them, as the file `id2label`."""
        if self.classes is not None:
            return read_classes(self.classes, self.ignore)
        names = read_id2label(self.id2label or id2label)
        if self.ignore:
            raise InputError("ignore: goes with classes; with id2label, map the ids to 255 in label_map")
        label_map = {i + 1: i for i in names} | {0: IGNORE_INDEX} if self.reduce_labels else self.label_map
        return LabelImage.of(names, label_map, self.ignore_index)

    @property
    def title(self) -> str:
        """Returns the name of the dataset on model cards and pages: its folder's, or `dataset`."""
        return Path(self.data_dir).resolve().name if self.data_dir else self.dataset

    @property
    def hub_id(self) -> str | None:
        """Returns the id on the Hub of a dataset from there."""
        return self.dataset if "/" in self.dataset and not os.path.exists(self.dataset) else None

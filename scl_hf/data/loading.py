"""From what a recipe names to the labelled, the unlabelled and the evaluation images."""

import hashlib
import logging
import os
from dataclasses import dataclass, field
from pathlib import Path

import datasets
import numpy as np

from ..errors import InputError
from . import cityscapes
from .files import check_files
from .labels import identity_table, make_palette, read_id2label

logger = logging.getLogger(__name__)

_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}


@dataclass
class DataArguments:
    """
    Which data a run reads. The images of the labelled splits that are not chosen as labelled, by `labeled_fraction` or
    `labeled_ids`, are unlabelled.

    Args:
        dataset (`str`, *optional*, defaults to `"cityscapes"`): `"cityscapes"` (also for data drawn in its folder
            layout), `"folder"` (`<split>/images`, `<split>/labels` and `id2label.json` in `data_dir`), or what
            `datasets` opens: a name on the Hub, or a local folder.
        data_dir (`str`, *optional*): The folder of the data.
        train_splits (`list[str]`, *optional*, defaults to `["train"]`): The splits with labels to train on.
        unlabeled_splits (`list[str]`, *optional*): Splits whose images join the unlabelled pool besides those of
            `train_splits`. By default none; for Cityscapes `train_extra`, if it is there.
        eval_split (`str`, *optional*, defaults to `"validation"`): The split to evaluate on.
        image_column (`str`, *optional*, defaults to `"image"`): The images in a `datasets` data set.
        label_column (`str`, *optional*, defaults to `"label"`): The labels in a `datasets` data set.
        id2label (`str`, *optional*): A JSON file with the names of the classes, `{"0": "sky", …}`. By default
            `id2label.json` in `data_dir`; Cityscapes brings its own.
        labeled_fraction (`float`, *optional*, defaults to 1.0): The share of the labelled splits that keeps its
            labels.
        labeled_seed (`int`, *optional*, defaults to 0): Which images `labeled_fraction` chooses. With one seed, a
            smaller share is part of a larger one.
        labeled_ids (`str`, *optional*): A text file with the ids of the labelled images, one a line; in place of
            `labeled_fraction`.
        unlabeled_includes_labeled (`bool`, *optional*, defaults to `True`): Whether the labelled images are in the
            unlabelled pool, too.
        use_coarse_labels (`bool`, *optional*, defaults to `False`): Whether to open the coarse annotations of
            Cityscapes' `train_extra`, for class-uniform sampling.
    """

    dataset: str = field(
        default="cityscapes",
        metadata={"help": "cityscapes, folder, or a data set that `datasets` opens (a Hub name or a local folder)."},
    )
    data_dir: str | None = field(default=None, metadata={"help": "The folder of the data."})
    train_splits: list[str] = field(
        default_factory=lambda: ["train"], metadata={"help": "The splits with labels to train on."}
    )
    unlabeled_splits: list[str] = field(
        default_factory=list,
        metadata={"help": "Splits that join the unlabelled pool; default: train_extra of Cityscapes, if it is there."},
    )
    eval_split: str = field(default="validation", metadata={"help": "The split to evaluate on."})
    image_column: str = field(default="image", metadata={"help": "The column of the images (`datasets` data only)."})
    label_column: str = field(default="label", metadata={"help": "The column of the labels (`datasets` data only)."})
    id2label: str | None = field(
        default=None, metadata={"help": "A JSON file with the class names; default: id2label.json in data_dir."}
    )
    labeled_fraction: float = field(
        default=1.0, metadata={"help": "The share of the labelled splits that keeps its labels, above 0, at most 1."}
    )
    labeled_seed: int = field(default=0, metadata={"help": "Which images labeled_fraction chooses."})
    labeled_ids: str | None = field(
        default=None, metadata={"help": "A text file with the ids of the labelled images, one a line."}
    )
    unlabeled_includes_labeled: bool = field(
        default=True, metadata={"help": "Whether the labelled images are in the unlabelled pool, too."}
    )
    use_coarse_labels: bool = field(
        default=False, metadata={"help": "Whether to open Cityscapes' coarse labels, for class-uniform sampling."}
    )

    def __post_init__(self):
        if not 0 < self.labeled_fraction <= 1:
            raise InputError(f"labeled_fraction: {self.labeled_fraction} is not a share; give a number in (0, 1]")
        if self.labeled_ids and self.labeled_fraction != 1:
            raise InputError("labeled_fraction: give either labeled_fraction or labeled_ids, not both")
        if not self.train_splits:
            raise InputError("train_splits: is empty; name the split to train on, such as train")
        if self.use_coarse_labels and self.dataset != "cityscapes":
            raise InputError("use_coarse_labels: only Cityscapes has coarse labels; set it to false")
        if self.id2label and self.dataset == "cityscapes":
            raise InputError("id2label: Cityscapes brings its class names; leave the field out")


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
        InputError: A folder, split, column, label or id is not there, a file is empty, or the class names are
            unusable.
    """
    unlabeled_splits = list(args.unlabeled_splits)
    if args.dataset == "cityscapes":
        if not unlabeled_splits and cityscapes.find_split(_data_dir(args), "leftImg8bit", "train_extra"):
            unlabeled_splits = ["train_extra"]
        splits = _open_cityscapes(args, {*args.train_splits, *unlabeled_splits, args.eval_split})
        id2label, label_table = cityscapes.ID2LABEL, cityscapes.LABEL_TABLE
    else:
        names = list(dict.fromkeys([*args.train_splits, *unlabeled_splits, args.eval_split]))
        splits = _open_folder(args, names) if args.dataset == "folder" else _open_dataset(args, names)
        if not args.id2label and not args.data_dir:
            raise InputError("id2label: is missing; name a JSON file with the class names")
        id2label = read_id2label(Path(args.id2label or Path(args.data_dir, "id2label.json")))
        label_table = identity_table(len(id2label))

    labeled = {split: _with_labels(splits, split, args) for split in dict.fromkeys(args.train_splits)}
    rows = _listed_rows(labeled, args.labeled_ids) if args.labeled_ids else _fraction_rows(labeled, args)
    pool = []
    for split in dict.fromkeys([*labeled, *unlabeled_splits]):
        images = _split(splits, split, args).select_columns(["image", "id"])
        if split in labeled and not args.unlabeled_includes_labeled:
            images = images.select(np.setdiff1d(np.arange(len(images)), rows[split]))
        pool.append(images)
    return SegmentationData(
        labeled=datasets.concatenate_datasets([labeled[split].select(rows[split]) for split in labeled]),
        unlabeled=datasets.concatenate_datasets(pool),
        evaluation=_with_labels(splits, args.eval_split, args),
        coarse=_annotated(_split(splits, "train_extra", args), args) if args.use_coarse_labels else None,
        id2label=dict(id2label),
        palette=cityscapes.PALETTE if id2label == cityscapes.ID2LABEL else make_palette(len(id2label)),
        label_table=label_table,
    )


def _data_dir(args: DataArguments) -> str:
    if not args.data_dir:
        raise InputError("data_dir: is missing; name the folder of the data, as in --data_dir FOLDER")
    if not os.path.isdir(args.data_dir):
        raise InputError(f"data_dir: there is no folder {args.data_dir}; correct the path")
    return args.data_dir


def _open_cityscapes(args: DataArguments, names: set[str]) -> dict[str, datasets.Dataset]:
    data_dir = _data_dir(args)
    splits = dict(cityscapes.load_cityscapes(data_dir, "fine"))
    needed = args.use_coarse_labels or "train_extra" in names
    if needed and cityscapes.find_split(data_dir, "leftImg8bit", "train_extra"):
        coarse = cityscapes.load_cityscapes(data_dir, "coarse")
        splits |= {split: rows for split, rows in coarse.items() if split == "train_extra"}
    return splits


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


def _open_folder(args: DataArguments, names: list[str]) -> dict[str, datasets.Dataset]:
    labels_needed = {*args.train_splits, args.eval_split}
    return {split: _open_folder_split(Path(_data_dir(args), split), split in labels_needed) for split in names}


def _open_folder_split(folder: Path, labels_needed: bool) -> datasets.Dataset:
    folder = Path(os.path.abspath(folder))
    if not (folder / "images").is_dir():
        raise InputError(f"{folder / 'images'}: no such folder; a split needs its pictures there, or correct data_dir")
    images = {}
    for name in sorted(os.listdir(folder / "images")):
        stem, suffix = os.path.splitext(name)
        if suffix.lower() not in _SUFFIXES:
            continue
        if stem in images:
            raise InputError(f"{folder / 'images' / name}: a second image named {stem}; rename one of them")
        images[stem] = str(folder / "images" / name)
    if not images:
        raise InputError(f"{folder / 'images'}: holds no pictures ({', '.join(sorted(_SUFFIXES))})")
    columns = {"image": list(images.values()), "id": list(images)}
    if labels_needed:
        present = set(os.listdir(folder / "labels")) if (folder / "labels").is_dir() else set()
        missing = [stem for stem in images if f"{stem}.png" not in present]
        if missing:
            raise InputError(
                f"{images[missing[0]]}: its label is missing, looked for {folder / 'labels' / missing[0]}.png "
                f"({len(missing)} of {len(images)} images have none); add the labels, or move images without a label "
                "to a split of their own and name it in unlabeled_splits"
            )
        columns["label"] = [str(folder / "labels" / f"{stem}.png") for stem in images]
    check_files([path for column in ("image", "label") for path in columns.get(column, [])])
    features = {name: datasets.Value("string") if name == "id" else datasets.Image(decode=False) for name in columns}
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


def _open_dataset(args: DataArguments, names: list[str]) -> dict[str, datasets.Dataset]:
    saved = any(Path(args.dataset, name).is_file() for name in ("dataset_dict.json", "state.json"))
    try:
        if saved:
            splits = datasets.load_from_disk(args.dataset)
        else:
            splits = datasets.load_dataset(args.dataset, data_dir=args.data_dir)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"dataset: cannot open {args.dataset!r} ({reason}); give cityscapes, folder, a data set of the Hub or a "
            "local folder that `datasets` reads"
        ) from error
    if isinstance(splits, datasets.Dataset):
        splits = {"train": splits}
    labels_needed = {*args.train_splits, args.eval_split}
    return {
        split: _rename_columns(_split(splits, split, args), split, args, split in labels_needed) for split in names
    }


def _rename_columns(rows: datasets.Dataset, split: str, args: DataArguments, labels_needed: bool) -> datasets.Dataset:
    fields = {"image_column": "image"} | ({"label_column": "label"} if labels_needed else {})
    for name in fields:
        column = getattr(args, name)
        if column not in rows.column_names:
            raise InputError(
                f"{name}: {args.dataset} has no column {column!r} in split {split}, "
                f"only {', '.join(rows.column_names)}; name one of them"
            )
        if not isinstance(rows.features[column], datasets.Image):
            raise InputError(f"{name}: column {column!r} of {args.dataset} holds no pictures; name one that does")
        rows = rows.cast_column(column, datasets.Image(decode=False))
    if "id" in rows.column_names:
        rows = rows.cast_column("id", datasets.Value("string"))
    else:
        rows = rows.add_column("id", [f"{split}_{row}" for row in range(len(rows))])
    columns = {getattr(args, name): column for name, column in fields.items()}
    return rows.select_columns([*columns, "id"]).rename_columns(columns)


def _split(splits: dict[str, datasets.Dataset], split: str, args: DataArguments) -> datasets.Dataset:
    if split not in splits:
        where = args.dataset if args.dataset != "cityscapes" else args.data_dir
        looked = ""
        if args.dataset == "cityscapes":
            folder = {"validation": "val"}.get(split, split)
            looked = f" (looked for leftImg8bit/{folder}/<city>/*_leftImg8bit.png)"
        raise InputError(
            f"{where}: no split {split}{looked}, only {', '.join(splits)}; "
            "correct train_splits, unlabeled_splits or eval_split, or complete the data"
        )
    return splits[split]


def _with_labels(splits: dict[str, datasets.Dataset], split: str, args: DataArguments) -> datasets.Dataset:
    rows = _split(splits, split, args).select_columns(["image", "label", "id"])
    missing = rows.data.column("label").null_count
    if missing:
        raise InputError(
            f"{args.data_dir or args.dataset}: {missing} of the {len(rows)} images of split {split} have no label; "
            "name it in unlabeled_splits only"
        )
    return rows


def _fraction_rows(labeled: dict[str, datasets.Dataset], args: DataArguments) -> dict[str, list[int]]:
    # Ranked by a hash of the id, an image's choice depends on neither the order nor the number of the others' files.
    ranked = sorted(
        (hashlib.sha256(f"{args.labeled_seed}/{split}/{image_id}".encode()).digest(), split, row)
        for split, rows in labeled.items()
        for row, image_id in enumerate(rows["id"][:])
    )
    chosen = ranked[: max(1, round(args.labeled_fraction * len(ranked)))]
    return {split: sorted(row for _, other, row in chosen if other == split) for split in labeled}


def _listed_rows(labeled: dict[str, datasets.Dataset], path: str) -> dict[str, list[int]]:
    try:
        listed = {line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines()} - {""}
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"labeled_ids: cannot read {path} as text; name a file with one id a line") from error
    if not listed:
        raise InputError(f"{path}: holds no ids; write the id of one labelled image a line")
    ids = {split: rows["id"][:] for split, rows in labeled.items()}
    unknown = sorted(listed.difference(*ids.values()))
    if unknown:
        more = ", …" if len(unknown) > 5 else ""
        raise InputError(
            f"{path}: {len(unknown)} of {len(listed)} ids are not in the data ({', '.join(labeled)}): "
            f"{', '.join(unknown[:5])}{more}; correct them, an id is written like {next(iter(ids.values()))[0]}"
        )
    return {split: [row for row, image_id in enumerate(ids[split]) if image_id in listed] for split in labeled}

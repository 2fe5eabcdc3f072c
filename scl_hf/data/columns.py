"""Brings files in folders, and the columns of any dataset, to the columns `image`, `label` and `id`, not decoded."""

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import datasets
import numpy as np
import pyarrow.compute as pc

from ..errors import InputError
from .images import IGNORE_INDEX, SUFFIXES, CorruptFileError, check_files, find_images, read_label
from .labels import LabelImage

NO_IMAGES = f"holds no images ({', '.join(sorted(SUFFIXES))})"
_ENCODED = datasets.Image(decode=False)


class Frame(NamedTuple):
    """An image and its labels on disk, where they are or should be."""

    split: str  # the name of its folder
    id: str
    image: str
    labels: dict[str, str]  # kind -> path
    present: frozenset[str]  # those kinds, and "image", that are there
    city: str | None = None


def file_names(folder: str, ending: str) -> set[str]:
    """Returns the names, without `ending`, of the files in a folder that end so and are not hidden."""
    names = os.listdir(folder) if os.path.isdir(folder) else []
    return {name.removesuffix(ending) for name in names if name.endswith(ending) and name[0] != "."}


def by_split(frames: Sequence[Frame], folders: Mapping[str, str]) -> dict[str, list[Frame]]:
    """Returns the frames of each split that has images; `folders` is split -> name of its folder."""
    splits = {split: [frame for frame in frames if frame.split == folder] for split, folder in folders.items()}
    return {split: found for split, found in splits.items() if any("image" in frame.present for frame in found)}


def open_frames(
    frames: Sequence[Frame], kind: str | None, split: str, complete: bool, remedy: str
) -> datasets.Dataset:
    """
    Returns the columns `image`, `label` of this kind or None, `id`, and `city` if frames have one, of the frames with
    an image. If the split has to be `complete`, an image without a label is an error that ends with `remedy`.
    """
    frames = [frame for frame in frames if "image" in frame.present]
    labels = [frame.labels[kind] if kind in frame.present else None for frame in frames]
    missing = [frame for frame, label in zip(frames, labels) if label is None]
    if complete and missing:
        first = missing[0]
        looked = f", looked for {first.labels[kind]}" if kind in first.labels else ""
        raise InputError(
            f"{first.image}: its label is missing{looked} ({len(missing)} of the {len(frames)} images of split "
            f"{split} have no label); {remedy}"
        )
    columns = {"image": [frame.image for frame in frames], "label": labels, "id": [frame.id for frame in frames]}
    if any(frame.city for frame in frames):
        columns["city"] = [frame.city for frame in frames]
    return _open_paths(columns)


def open_images(folder: str | os.PathLike) -> datasets.Dataset:
    """Returns the columns `image` and `id`, the path within the folder, of all images in one of `unlabeled_dirs`."""
    names = list_images(folder)
    return _open_paths({"image": [os.path.abspath(os.path.join(folder, name)) for name in names], "id": names})


def list_images(folder: str | os.PathLike) -> list[str]:
    """Returns the paths within one of `unlabeled_dirs` of all images there, at least one."""
    if not os.path.isdir(folder):
        raise InputError(f"unlabeled_dirs: there is no folder {folder}; correct the path")
    names = find_images(folder)
    if not names:
        raise InputError(f"unlabeled_dirs: {folder} {NO_IMAGES}; correct the path")
    return names


def _open_paths(columns: Mapping[str, list[str | None]]) -> datasets.Dataset:
    check_files(path for name in ("image", "label") for path in columns.get(name, ()) if path is not None)
    features = datasets.Features(dict.fromkeys(columns, datasets.Value("string")))
    dataset = datasets.Dataset.from_dict(dict(columns), features=features)
    for name in {"image", "label"} & columns.keys():  # a cast of the column encodes all values at once
        dataset = dataset.cast_column(name, _ENCODED)
    return dataset


def image_dataset(dataset: datasets.Dataset, name: str, labels: LabelImage | None = None) -> datasets.Dataset:
    """
    Returns the columns `image`, `label` (if `labels` says what plain images there mean) and `id` (by default the
    number) of a user's dataset, not decoded. A [`LabelImage`] column keeps its meaning. Messages call the dataset
    `name`.
    """
    if not isinstance(dataset, datasets.Dataset):
        remedy = "give a datasets.Dataset"
        if isinstance(dataset, dict):
            remedy = f"give one of its splits, as in {name}=data[{next(iter(dataset), 'train')!r}]"
        elif isinstance(dataset, datasets.IterableDataset):
            remedy = "load it without streaming"
        raise InputError(f"{name}: is a {type(dataset).__name__}; {remedy}")
    if dataset.format["type"] == "custom":
        raise InputError(
            f"{name}: its transform (set_transform, with_transform) would be left out; put what it does into the data "
            "with map, or take it off with reset_format() and use the augmentation fields"
        )
    columns = {"image": "image"} if labels is None else {"image": "image", "label": "label"}
    remedy = "name the column of the {0}s so, with rename_column(…, {0!r})"
    return standard_columns(dataset, columns, labels, dict.fromkeys(columns, name), remedy)


def labeled_dataset(dataset: datasets.Dataset, name: str, id2label: dict[int, str]) -> datasets.Dataset:
    """Returns the columns of [`image_dataset`] of a dataset with the classes of the model."""
    dataset = image_dataset(dataset, name, LabelImage.of(id2label))
    theirs, remedy = dataset.features["label"].id2label, "give a model with the id2label of the data"
    if len(theirs) != len(id2label):
        raise InputError(f"{name}: has {len(theirs)} classes, the model {len(id2label)}; {remedy}.")
    for i, label in theirs.items():
        if id2label[i] not in (label, f"LABEL_{i}"):
            raise InputError(f"{name}: class {i} is {label!r}, that of the model {id2label[i]!r}; {remedy}.")
    return dataset


def standard_columns(
    dataset: datasets.Dataset,
    columns: Mapping[str, str],
    labels: LabelImage | None,
    fields: Mapping[str, str],
    remedy: str,
    where: str = "",
    id_prefix: str = "",
) -> datasets.Dataset:
    """
    Returns `columns` (`"image"` and perhaps `"label"` -> column) and `id` of a dataset, not decoded. `fields` (of the
    same keys), `remedy` (of a missing column) and `where` are for messages.
    """
    dataset = dataset.with_format(None)
    for name, column in columns.items():
        if column not in dataset.column_names:
            raise InputError(
                f"{fields[name]}: there is no column {column!r}{where}, only {', '.join(dataset.column_names)}; "
                f"{remedy.format(name)}"
            )
        feature = dataset.features[column]
        if not isinstance(feature, datasets.Image):
            what = f"{getattr(feature, 'dtype', None) or type(feature).__name__}; name one that does"
            if isinstance(feature, datasets.Value) and feature.dtype in ("string", "large_string"):
                what = (
                    "text; name one that does or, if it holds paths, cast it with cast_column(…, datasets.Image()) "
                    "and save the dataset with save_to_disk"
                )
            raise InputError(f"{fields[name]}: column {column!r} holds no images but {what}")
        outside = [path for path, size in zip(*stored_files(dataset, column)) if size is None]
        if missing := outside.count(None):
            what = {"image": "image; remove them", "label": "label; remove them, or use them unlabeled"}[name]
            raise InputError(f"{fields[name]}: {missing} of the {len(dataset)} examples{where} have no {what}")
        try:
            check_files(outside)
        except InputError as error:
            raise InputError(f"{fields[name]}: {error}") from None

    selected, ids, indices = list(columns.values()), None, dataset._indices
    if "id" not in selected and dataset.features.get("id") == datasets.Value("string"):
        selected.append("id")
    else:
        # A column that is added to selected examples copies their images: it is added to all, which are selected anew.
        dataset = datasets.Dataset(dataset.data, dataset.info, fingerprint=dataset._fingerprint)
        ids = [f"{id_prefix}{number}" for number in range(len(dataset))]
        if "id" in dataset.column_names and "id" not in selected:
            ids = [str(value) for value in dataset.data.column("id").to_pylist()]
    dataset = dataset.select_columns(selected).rename_columns({column: name for name, column in columns.items()})
    dataset = dataset.cast_column("image", _ENCODED)
    if "label" in columns:
        feature = dataset.features["label"]
        feature = replace(feature, decode=False) if isinstance(feature, LabelImage) else labels
        dataset = dataset.cast_column("label", feature)
    if ids is not None:
        dataset = dataset.add_column("id", ids, feature=datasets.Value("string"))
        dataset = dataset if indices is None else dataset.select(indices.column(0).to_numpy().astype(np.int64))
    return dataset


def check_labels(dataset: datasets.Dataset, name: str) -> None:
    """
    Refuses a dataset, called `name`, whose labels show no class anywhere: its loss would be 0. Labels are read up to
    the first that shows one; ones that cannot be read are left to whoever trains on them.
    """
    table, readable = dataset.features["label"].table, 0
    for example in dataset.select_columns("label"):
        with contextlib.suppress(CorruptFileError):
            if np.any(read_label(example["label"], table) != IGNORE_INDEX):
                return
            readable += 1
    if readable:
        raise InputError(
            f"{name}: no label of its {len(dataset)} images shows a class, all pixels are ignored; correct the labels "
            "or, in data of your own, label_map and ignore_index, which say what their ids mean"
        )


def stored_files(dataset: datasets.Dataset, column: str) -> tuple[list[str | None], list[int | None]]:
    """Returns the paths of the images in a column, and the bytes of those that the dataset itself holds."""
    images = dataset.data.column(column)
    stored = pc.struct_field(images, "path"), pc.binary_length(pc.struct_field(images, "bytes"))
    if dataset._indices is not None:
        stored = [values.take(dataset._indices.column(0)) for values in stored]
    return tuple(values.to_pylist() for values in stored)

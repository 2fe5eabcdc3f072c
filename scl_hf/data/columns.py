"""From the columns of any dataset to `image`, `label` and `id`, not decoded."""

import contextlib
from collections.abc import Mapping
from dataclasses import replace

import datasets
import numpy as np
import pyarrow.compute as pc

from ..errors import InputError
from .images import IGNORE_INDEX, CorruptFileError, InputImage, check_files
from .labels import LabelImage, read_label


def image_dataset(dataset: datasets.Dataset, name: str, labels: LabelImage | None = None) -> datasets.Dataset:
    """Returns `image`, `label` (with `labels` for plain images) and `id` of a user's dataset `name`, not decoded."""
    if not isinstance(dataset, datasets.Dataset):
        remedy = "give a datasets.Dataset"
        if isinstance(dataset, dict):
            remedy = f"give one of its splits, as in {name}=data[{next(iter(dataset), 'train')!r}]"
        elif isinstance(dataset, datasets.IterableDataset):
            remedy = "load it without streaming"
        raise InputError(f"{name}: is a {type(dataset).__name__}; {remedy}")
    if dataset.format["type"] == "custom":
        remedy = "apply it with map, or take it off with reset_format()"
        raise InputError(f"{name}: its transform (set_transform, with_transform) would be left out; {remedy}")
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
    Returns `columns` (`"image"` and perhaps `"label"` -> column) and `id` of a dataset, not decoded. A [`LabelImage`]
    column keeps its meaning. `fields` (of the same keys), `remedy` (of a missing column) and `where` are for messages.
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
            if what.startswith(("string", "large_string")):
                what = "text; name one that does or, if it holds paths, cast it with cast_column(…, datasets.Image())"
            raise InputError(f"{fields[name]}: column {column!r} holds no images but {what}")
        outside = [path for path, size in zip(*stored_files(dataset, column)) if size is None]
        if missing := outside.count(None):
            raise InputError(
                f"{fields[name]}: {missing} of the {len(dataset)} examples{where} have no {name}; remove them"
                f"{', or use them unlabeled' * (name == 'label')}"
            )
        try:
            check_files(outside)
        except InputError as error:
            raise InputError(f"{fields[name]}: {error}") from None

    selected, ids, indices = list(columns.values()), None, dataset._indices
    if "id" not in selected and dataset.features.get("id") == datasets.Value("string"):
        selected.append("id")
    else:
        # Adding a column to a selection would copy its images: add it to all examples, then select again.
        dataset = datasets.Dataset(dataset.data, dataset.info, fingerprint=dataset._fingerprint)
        ids = [f"{id_prefix}{number}" for number in range(len(dataset))]
        if "id" in dataset.column_names and "id" not in selected:
            ids = [str(value) for value in dataset.data.column("id").to_pylist()]
    dataset = dataset.select_columns(selected).rename_columns({column: name for name, column in columns.items()})
    own = dataset.features["image"]
    own = replace(own, decode=False) if isinstance(own, InputImage) else datasets.Image(decode=False)
    dataset = dataset.cast_column("image", own)
    if "label" in columns:
        feature = dataset.features["label"]
        own = isinstance(feature, LabelImage)
        dataset = dataset.cast_column("label", replace(feature, decode=False) if own else labels)
    if ids is not None:
        dataset = dataset.add_column("id", ids, feature=datasets.Value("string"))
        dataset = dataset if indices is None else dataset.select(indices.column(0).to_numpy().astype(np.int64))
    return dataset


def check_labels(dataset: datasets.Dataset, name: str) -> None:
    """Rejects a dataset whose labels show no class, reading up to the first that does, without unreadable ones."""
    labels, readable = dataset.features["label"], 0
    for example in dataset.select_columns("label"):
        with contextlib.suppress(CorruptFileError):
            if np.any(read_label(example["label"], labels) != IGNORE_INDEX):
                return
            readable += 1
    if readable:
        raise InputError(
            f"{name}: no label of its {len(dataset)} images shows a class, all pixels are ignored; correct the labels,"
            " or label_map and ignore_index, which say what their ids mean"
        )


def stored_files(dataset: datasets.Dataset, column: str) -> tuple[list[str | None], list[int | None]]:
    """Returns the paths of the images in a column, and the bytes of those that the dataset itself holds."""
    images = dataset.data.column(column)
    stored = pc.struct_field(images, "path"), pc.binary_length(pc.struct_field(images, "bytes"))
    if dataset._indices is not None:
        stored = [values.take(dataset._indices.column(0)) for values in stored]
    return tuple(values.to_pylist() for values in stored)

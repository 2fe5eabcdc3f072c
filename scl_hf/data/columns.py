"""From the columns of any dataset to `image`, `label` and `id`, not decoded."""

import contextlib
from collections.abc import Mapping
from dataclasses import replace

import datasets
import numpy as np
import pyarrow.compute as pc

from ..errors import InputError
from .images import IGNORE_INDEX, CorruptFileError, check_files, read_label
from .labels import LabelImage

_PICTURE = datasets.Image(decode=False)


def image_dataset(dataset: datasets.Dataset, name: str, labels: LabelImage | None = None) -> datasets.Dataset:
    """
    The columns `image`, `label` if `labels` says what plain pictures there mean, and `id`, by default its number, of a
    data set of one's own: not decoded. A label column that is a [`LabelImage`] keeps its meaning. `name` is what
    messages call the data set.
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
    """Rows `image`, `label` and `id` of a data set with the classes of the model."""
    rows = image_dataset(dataset, name, LabelImage.of(id2label))
    theirs, own, remedy = rows.features["label"].id2label, id2label, "give a model with the id2label of the data"
    if len(theirs) != len(own):
        raise InputError(f"{name}: has {len(theirs)} classes, the model {len(own)}; {remedy}.")
    for i, label in theirs.items():
        if own[i] not in (label, f"LABEL_{i}"):
            raise InputError(f"{name}: class {i} is {label!r}, that of the model {own[i]!r}; {remedy}.")
    return rows


def standard_columns(
    rows: datasets.Dataset,
    columns: Mapping[str, str],
    labels: LabelImage | None,
    fields: Mapping[str, str],
    remedy: str,
    where: str = "",
    id_prefix: str = "",
) -> datasets.Dataset:
    """
    `columns` (`"image"` and perhaps `"label"` -> column) and `id` of a data set of any columns, not decoded. `fields`
    (of the same keys), `remedy` (of a missing column) and `where` are for messages.
    """
    rows = rows.with_format(None)
    for name, column in columns.items():
        if column not in rows.column_names:
            raise InputError(
                f"{fields[name]}: there is no column {column!r}{where}, only {', '.join(rows.column_names)}; "
                f"{remedy.format(name)}"
            )
        feature = rows.features[column]
        if not isinstance(feature, datasets.Image):
            what = f"{getattr(feature, 'dtype', None) or type(feature).__name__}; name one that does"
            if isinstance(feature, datasets.Value) and feature.dtype in ("string", "large_string"):
                what = (
                    "text; name one that does or, if it holds paths, cast it with cast_column(…, datasets.Image()) "
                    "and save the data set with save_to_disk"
                )
            raise InputError(f"{fields[name]}: column {column!r} holds no pictures but {what}")
        paths, sizes = stored_files(rows, column)
        outside = [path for path, size in zip(paths, sizes) if size is None]
        if missing := outside.count(None):
            what = {"image": "picture; remove them", "label": "label; remove them, or use them unlabeled"}[name]
            raise InputError(f"{fields[name]}: {missing} of the {len(rows)} rows{where} have no {what}")
        try:
            check_files(outside)
        except InputError as error:
            raise InputError(f"{fields[name]}: {error}") from None

    selected, ids, indices = list(columns.values()), None, rows._indices
    if "id" not in selected and rows.features.get("id") == datasets.Value("string"):
        selected.append("id")
    else:
        # A column added to selected rows would have the pictures copied: it is added to all of them.
        rows = datasets.Dataset(rows.data, rows.info, fingerprint=rows._fingerprint)
        ids = [f"{id_prefix}{row}" for row in range(len(rows))]
        if "id" in rows.column_names and "id" not in selected:
            ids = [str(value) for value in rows.data.column("id").to_pylist()]
    rows = rows.select_columns(selected).rename_columns({old: new for new, old in columns.items()})
    rows = rows.cast_column("image", _PICTURE)
    if "label" in columns:
        feature = rows.features["label"]
        feature = replace(feature, decode=False) if isinstance(feature, LabelImage) else labels
        rows = rows.cast_column("label", feature)
    if ids is not None:
        rows = rows.add_column("id", ids, feature=datasets.Value("string"))
        rows = rows if indices is None else rows.select(indices.column(0).to_numpy())
    return rows


def check_labels(rows: datasets.Dataset, name: str) -> None:
    """
    Refuses rows whose [`LabelImage`]s show no class anywhere: training on them would look like a loss of 0. Labels are
    read up to the first that shows one; where none can be read, that is for others to say. `name` is what the message
    calls the rows.
    """
    table, readable = rows.features["label"].table, 0
    for row in rows.select_columns("label"):
        with contextlib.suppress(CorruptFileError):
            label = read_label(row["label"], table)
            if np.any(label != IGNORE_INDEX):
                return
            readable += 1
    if not readable:
        return
    raise InputError(
        f"{name}: no label of its {len(rows)} images shows a class, all pixels are ignored; correct the labels or, in "
        "data of your own, label_map and ignore_index, which say what their ids mean"
    )


def stored_files(rows: datasets.Dataset, column: str) -> tuple[list[str | None], list[int | None]]:
    """Paths of the pictures in a column, and the numbers of bytes of those that the data set itself holds."""
    pictures = rows.data.column(column)
    stored = pc.struct_field(pictures, "path"), pc.binary_length(pc.struct_field(pictures, "bytes"))
    if rows._indices is not None:
        stored = [values.take(rows._indices.column(0)) for values in stored]
    return tuple(values.to_pylist() for values in stored)

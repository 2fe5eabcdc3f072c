"""From the columns of any dataset to `image`, `label` and `id`, not decoded."""

import contextlib
from collections.abc import Mapping
from dataclasses import replace

import datasets
import numpy as np
import pyarrow.compute as pc

from ..errors import InputError, first_few
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
    remedy = f"{name}{{remove}}.rename_column({{column!r}}, {{name!r}})"
    dataset = standard_columns(dataset, columns, labels, dict.fromkeys(columns, name), remedy)
    if labels is not None and (missing := np.count_nonzero(~has_image(dataset, "label"))):
        raise InputError(
            f"{name}: {missing} of the {len(dataset)} examples have no label; leave them out with "
            f'{name}.filter(lambda label: label is not None, input_columns="label")'
        )
    return dataset


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
    column keeps its meaning; a label may be missing. `fields` (of the same keys), `remedy` (how to name another
    `{column}` for `{name}`, and `{remove}` one that is there) and `where` are for messages.
    """
    dataset = dataset.with_format(None)
    for name, column in columns.items():
        feature = dataset.features.get(column)
        if not holds_images(feature):
            problem = f"there is no column {column!r}{where}, only {first_few(dataset.column_names, 10)}"
            if feature is not None:
                problem = f"column {column!r}{where} holds no images but {_kind(feature)}"
            others = [other for other in image_columns(dataset.features) if other not in columns.values()]
            if others:
                problem += f"; {first_few(others)} hold{'s' * (len(others) == 1)} images"
            remove = "" if feature is None else f".remove_columns({column!r})"
            line = remedy.format(name=name, column=others[0] if len(others) == 1 else "COLUMN", remove=remove)
            if content := {"text": "paths", "arrays": "pixels"}.get(_kind(feature)):
                cast = f"cast_column({column!r}, datasets.Image()) if it holds {content}"
                line = f"{line} or {cast}" if others else cast
            raise InputError(f"{fields[name]}: {problem}; write {line}")
        if not isinstance(feature, datasets.Image):
            dataset = dataset.cast_column(column, datasets.Image(decode=False))
        files = list(zip(*stored_files(dataset, column)))
        if name == "image" and (missing := files.count((None, None))):
            raise InputError(f"{fields[name]}: {missing} of {len(dataset)} examples{where} have no image; remove them")
        try:
            check_files(path for path, size in files if size is None and path is not None)
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
    for name, own, other in ("image", InputImage, datasets.Image(decode=False)), ("label", LabelImage, labels):
        if name in columns:
            feature = dataset.features[name]
            feature = replace(feature, decode=False) if isinstance(feature, own) else other
            dataset = dataset.cast_column(name, feature)
    if ids is not None:
        dataset = dataset.add_column("id", ids, feature=datasets.Value("string"))
        dataset = dataset if indices is None else dataset.select(indices.column(0).to_numpy().astype(np.int64))
    return dataset


def check_labels(dataset: datasets.Dataset, name: str) -> None:
    """Rejects a dataset whose labels show no class, reading up to the first that does, without unreadable ones."""
    labels, readable = dataset.features["label"], 0
    for row, example in enumerate(dataset.select_columns(["label", "id"])):
        with contextlib.suppress(CorruptFileError):
            if np.any(read_label(with_names(example, row)["label"], labels) != IGNORE_INDEX):
                return
            readable += 1
    if readable:
        raise InputError(
            f"{name}: no label of its {len(dataset)} images shows a class, all pixels are ignored; correct the labels,"
            " or label_map and ignore_index, which say what their ids mean"
        )


def with_names(example: Mapping, row: int) -> dict:
    """Returns an example in which images that have no path are called by their number and id in messages."""
    kind, example = "labeled" if "label" in example else "unlabeled", dict(example)
    for name in example.keys() & {"image", "label"}:
        if not example[name]["path"]:
            path = f"the {name} of {kind} example {row} (id {example['id']})"
            example[name] = example[name] | {"path": path}
    return example


def image_columns(features: datasets.Features) -> list[str]:
    """Returns the columns that hold images."""
    return [column for column, feature in features.items() if holds_images(feature)]


def holds_images(feature: object) -> bool:
    """Returns whether a column is of images or of what their files hold, as pandas writes it."""
    contents = feature.get("bytes") if isinstance(feature, dict) else feature
    return isinstance(feature, datasets.Image) or getattr(contents, "dtype", None) in ("binary", "large_binary")


def _kind(feature: object) -> str:
    """Returns in a word what a column holds."""
    name = type(feature).__name__
    dtype = "arrays" if name.startswith(("List", "LargeList", "Array")) else getattr(feature, "dtype", name)
    return {"string": "text", "large_string": "text"}.get(dtype, dtype)


def has_image(dataset: datasets.Dataset, column: str) -> np.ndarray:
    """Returns whether each example has something in a column of images: (N,) bool."""
    return np.array([path is not None or size is not None for path, size in zip(*stored_files(dataset, column))], bool)


def stored_files(dataset: datasets.Dataset, column: str) -> tuple[list[str | None], list[int | None]]:
    """Returns the paths of the images in a column, and the bytes of those that the dataset itself holds."""
    images = dataset.data.column(column)
    stored = pc.struct_field(images, "path"), pc.binary_length(pc.struct_field(images, "bytes"))
    if dataset._indices is not None:
        stored = [values.take(dataset._indices.column(0)) for values in stored]
    return tuple(values.to_pylist() for values in stored)

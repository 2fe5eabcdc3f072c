"""Whatever `datasets` opens: a dataset of the Hub, or a local folder of files that it reads."""

import os
from functools import partial
from pathlib import Path

import datasets
import numpy as np
from huggingface_hub import hf_hub_download

from ...errors import InputError, first_line
from ...files import check_writable
from ..arguments import DataArguments
from ..columns import has_image, image_columns, standard_columns
from ..images import find_images
from ..palette import palette_of
from .base import Source, check_fields

_TABLES = (".parquet", ".arrow", ".tar", ".zip")  # of which `datasets` opens images and labels as columns


def open_source(args: DataArguments) -> Source:
    """Opens a dataset, with the classes in `id2label.json` beside it or in the file that `id2label` names."""
    check_fields(args)
    splits = open_splits(args.dataset, args.dataset_config, args.data_dir)
    given = args.classes is not None or args.id2label
    labels = args.labels(Path() if given else find_id2label(args.dataset, args.data_dir))
    fields = {"image": "image_column", "label": "label_column"}
    columns = {name: find_columns(dataset.features, args) for name, dataset in splits.items()}

    def open_split(split: str, require_labels: bool) -> datasets.Dataset:
        named, where = columns[split], f" in split {split}"
        if not require_labels and named["label"] not in image_columns(splits[split].features):
            named = {"image": named["image"]}
        remedy = "{name}_column: {column}"
        dataset = standard_columns(splits[split], named, labels, fields, remedy, where, f"{split}_")
        if require_labels and (missing := np.count_nonzero(~has_image(dataset, "label"))):
            problem = f"{missing} of the {len(dataset)} examples{where} have no label"
            raise InputError(f"label_column: {problem}; remove them, or use them unlabeled")
        return dataset

    opened = {name: partial(open_split, name) for name in splits}
    notes = dict.fromkeys(
        f"{fields[name]}: {column}, the only column left that holds images"
        for found in columns.values()
        for name, column in found.items()
        if column != getattr(args, fields[name])
    )
    return Source(args.dataset, labels, palette_of(labels.id2label), opened, notes=list(notes))


def find_columns(features: datasets.Features, args: DataArguments) -> dict[str, str]:
    """Returns the columns of images and labels: in place of a default that is not there, the only other of images."""
    columns = {"image": args.image_column, "label": args.label_column}
    for name, column in columns.items():
        others = [other for other in image_columns(features) if other not in columns.values()]
        if column == name and name not in features and len(others) == 1:
            columns[name] = others[0]
    return columns


def open_splits(name: str, config: str | None = None, data_dir: str | None = None) -> datasets.DatasetDict:
    """Opens a dataset, also one that `save_to_disk` wrote; without splits, all of it is `train`."""
    saved = any(os.path.isfile(os.path.join(name, file)) for file in ("dataset_dict.json", "state.json"))
    if saved and config:
        raise InputError(f"dataset_config: {name} was written by save_to_disk, which keeps one; leave the field out")
    # Images, but none in tables, nor the metadata.csv that names a label for each
    if not saved and find_images(name) and not find_images(name, _TABLES) and not any(Path(name).rglob("metadata.*")):
        raise InputError(f"dataset: {name} holds plain image files; write dataset: folder and data_dir: {name}")
    try:
        splits = datasets.load_from_disk(name) if saved else datasets.load_dataset(name, config, data_dir=data_dir)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        check_writable("HF_DATASETS_CACHE", datasets.config.HF_DATASETS_CACHE)  # `datasets` writes tables there
        reason = " ".join(str(error.__cause__ or error).split())
        raise InputError(
            f"dataset: cannot open {name!r} ({reason}); give cityscapes, mapillary, folder, a dataset of the Hub or "
            "a folder that `datasets` reads, and dataset_config where it has several"
        ) from error
    return splits if isinstance(splits, datasets.DatasetDict) else datasets.DatasetDict(train=splits)


def find_id2label(dataset: str, data_dir: str | None) -> Path:
    """Finds the `id2label.json` of a dataset: in `data_dir`, in its own folder, or in its repository on the Hub."""
    for folder in filter(None, (data_dir, dataset)):
        if os.path.isfile(os.path.join(folder, "id2label.json")):
            return Path(folder, "id2label.json")
    remedy = "name a JSON file with the class names, --id2label FILE"
    if os.path.isdir(dataset):
        raise InputError(f"id2label: there is no id2label.json in {dataset}; {remedy}")
    try:
        return Path(hf_hub_download(dataset, "id2label.json", repo_type="dataset"))
    except (OSError, ValueError) as error:
        reason = f"from the Hub ({first_line(error).rstrip('.')})"
        raise InputError(f"id2label: cannot get id2label.json of {dataset} {reason}; {remedy}") from None

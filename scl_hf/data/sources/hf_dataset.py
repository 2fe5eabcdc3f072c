"""What `datasets` opens: a data set of the Hub, or a local folder of files that it reads."""

import os
from functools import partial
from pathlib import Path

import datasets
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError

from ...errors import InputError, first_line
from ...files import check_writable
from ..columns import standard_columns
from ..labels import LabelImage, read_id2label
from ..palette import palette_of
from .base import DataArguments, Source, check_fields


def open_source(args: DataArguments) -> Source:
    """The splits that `datasets` opens, and the classes in `id2label.json` beside them or named by `id2label`."""
    check_fields(args)
    splits = open_splits(args.dataset, args.dataset_config, args.data_dir)
    id2label = read_id2label(Path(args.id2label) if args.id2label else find_id2label(args.dataset, args.data_dir))
    labels = LabelImage.of(id2label, args.label_map, args.ignore_index)

    def open_split(split: str, complete: bool) -> datasets.Dataset:
        columns = {"image": args.image_column} | ({"label": args.label_column} if complete else {})
        fields = {"image": "image_column", "label": "label_column"}
        return standard_columns(
            splits[split], columns, labels, fields, "name one of them", f" in split {split}", f"{split}_"
        )

    return Source(
        where=args.dataset,
        labels=labels,
        palette=palette_of(id2label),
        splits={split: partial(open_split, split) for split in splits},
    )


def open_splits(name: str, config: str | None = None, data_dir: str | None = None) -> datasets.DatasetDict:
    """The data set as it is, also one that was written by `save_to_disk`; without splits, all of it is `train`."""
    saved = any(os.path.isfile(os.path.join(name, file)) for file in ("dataset_dict.json", "state.json"))
    if saved and config:
        raise InputError(f"dataset_config: {name} was written by save_to_disk, which keeps one; leave the field out")
    try:
        splits = datasets.load_from_disk(name) if saved else datasets.load_dataset(name, config, data_dir=data_dir)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        check_writable("HF_DATASETS_CACHE", datasets.config.HF_DATASETS_CACHE)  # where tables are put
        reason = " ".join(str(error.__cause__ or error).split())
        raise InputError(
            f"dataset: cannot open {name!r} ({reason}); give cityscapes, mapillary, folder, a data set of the Hub or "
            "a local folder that `datasets` reads, and dataset_config where it has several configurations"
        ) from error
    return splits if isinstance(splits, datasets.DatasetDict) else datasets.DatasetDict(train=splits)


def find_id2label(dataset: str, data_dir: str | None) -> Path:
    """The `id2label.json` of a data set: in `data_dir`, in its own folder, or in its repository on the Hub."""
    for folder in filter(None, (data_dir, dataset)):
        if os.path.isfile(os.path.join(folder, "id2label.json")):
            return Path(folder, "id2label.json")
    remedy = "name a JSON file with the class names, --id2label FILE"
    if os.path.isdir(dataset):
        raise InputError(f"id2label: there is no id2label.json in {dataset}; {remedy}")
    try:
        return Path(hf_hub_download(dataset, "id2label.json", repo_type="dataset"))
    except (OSError, ValueError, EntryNotFoundError) as error:
        reason = first_line(error).rstrip(".")
        raise InputError(
            f"id2label: cannot get id2label.json of {dataset} from the Hub ({reason}); {remedy}"
        ) from None

"""A folder of your own: `<split>/images`, `<split>/labels` and `id2label.json`."""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import datasets

from ...errors import InputError
from ..arguments import DataArguments
from ..palette import palette_of
from . import cityscapes
from .base import NO_IMAGES, Example, Source, check_fields, match_files, open_examples

TITLE = "a folder"
_REMEDY = "add the labels, or move images without a label to a folder of their own and name it in unlabeled_dirs"


def is_layout(root: str | os.PathLike) -> bool:
    """Returns whether a folder has splits with images."""
    return bool(_split_folders(root))


def find_examples(root: str | os.PathLike) -> list[Example]:
    """Finds the images and labels of a folder, also those without a partner."""
    examples = []
    for split, folder in _split_folders(root).items():
        labels = {"labels": (f"{folder}/labels", ".png")} if os.path.isdir(f"{folder}/labels") else {}
        examples += match_files(split, {"image": (f"{folder}/images", ".*")} | labels)
    return examples


def _split_folders(root: str | os.PathLike) -> dict[str, str]:
    return {path.parent.name: str(path.parent) for path in sorted(Path(root).glob("*/images")) if path.is_dir()}


def _open(examples: Sequence[Example], folder: str, require_labels: bool) -> datasets.Dataset:
    """Opens a split; without `require_labels`, all labels are None."""
    split = os.path.basename(folder)
    examples = [example for example in examples if example.split == split and "image" in example.present]
    if not examples:
        raise InputError(f"{folder}/images: {NO_IMAGES}")
    for first, second in zip(examples, examples[1:]):
        if first.id == second.id:
            raise InputError(f"{second.image}: a second image named {second.id}; rename one of them")
    return open_examples(examples, "labels" if require_labels else None, split, require_labels, _REMEDY)


def open_source(args: DataArguments) -> Source:
    """Opens a folder, with the classes in its `id2label.json` or in the file that `id2label` names."""
    check_fields(args)
    root = os.path.abspath(args.data_dir)
    labels = args.labels(Path(args.data_dir, "id2label.json"))
    examples, splits = find_examples(root), _split_folders(root)
    copied = any(cityscapes.is_official_id(example.id) for example in examples)
    return Source(
        name=args.data_dir,
        labels=labels,
        palette=palette_of(labels.id2label),
        splits={split: partial(_open, examples, folder) for split, folder in splits.items()},
        labeled_splits=[split for split, folder in splits.items() if os.path.isdir(f"{folder}/labels")],
        expected_at=lambda split: f"{split}/images",
        license=cityscapes.LICENSE if copied else None,
        examples=examples,
    )

"""A folder of your own, in any layout that [`find_examples`] reads."""

import os
from collections.abc import Sequence
from functools import partial

import datasets

from ...errors import InputError, did_you_mean
from ..arguments import DataArguments
from ..images import is_image, walk
from ..palette import palette_of
from . import cityscapes
from .base import Example, Source, check_fields, log_notes, open_examples
from .class_files import find_labels
from .examples import FIELDS, Found, find_examples, no_labels_problem

TITLE = "a folder"


def is_layout(root: str | os.PathLike) -> bool:
    """Returns whether a folder holds images."""
    return any(is_image(name) for _, names in walk(os.fspath(root)) for name in names)


def open_source(args: DataArguments) -> Source:
    """Opens a folder, with the classes that the recipe or a file there names."""
    check_fields(args)
    found = find_examples(args)
    splits = {}
    for example in found.examples:
        splits.setdefault(example.split, []).append(example)
    try:
        labels, origin = find_labels(args, found)
    except InputError:
        log_notes(found.notes)  # what was found is half of the answer
        raise
    copied = any(cityscapes.is_official_id(example.id.rpartition("/")[2]) for example in found.examples)
    return Source(
        name=args.data_dir or "the data",
        labels=labels,
        palette=palette_of(labels.id2label),
        splits={split: partial(_open, examples, split, found) for split, examples in splits.items()},
        labeled_splits=[split for split, examples in splits.items() if any(example.labels for example in examples)],
        expected_at=lambda split: f"{split}/images",
        license=cityscapes.LICENSE if copied else None,
        own_classes=not origin,
        examples=found.examples,
        left_out=found.left_out,
        notes=[*found.notes, *([f"classes from {origin}"] if origin else [])],
    )


def _open(examples: Sequence[Example], split: str, found: Found, require_labels: bool) -> datasets.Dataset:
    """Opens a split, which must have an image for each label."""
    ids = {}
    for example in examples:
        if "image" in example.present and ids.setdefault(example.id, example.image) != example.image:
            hint = f"{example.image}: a second image named {example.id}; rename one of them"
            are_apart = os.path.dirname(ids[example.id]) != os.path.dirname(example.image)
            raise InputError(hint + f", or if it is a label, write {FIELDS}" * are_apart)
    images = [example for example in examples if "image" in example.present]
    if alone := [example for example in examples if "image" not in example.present]:
        near = [each.id for each in images if not each.labels] or [each.id for each in images]
        count = f"{len(alone)} labels of split {split} have no image" if len(alone) > 1 else "1 label has no image"
        where = f"{alone[0].labels['labels']}: its image is missing, looked for {alone[0].image}"
        raise InputError(f"{where} ({count}); rename or remove what has none.{did_you_mean(alone[0].id, near)}")
    if require_labels and not any(example.labels for example in images):
        raise InputError(no_labels_problem(images, split, found))
    return open_examples(examples, "labels", split, require_labels, "add it, or take the image out of the split")

"""A folder of one's own: `<split>/images`, `<split>/labels` and `id2label.json`."""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import datasets

from ...errors import InputError
from ..columns import NO_IMAGES, Frame, file_names, open_frames
from ..images import is_image
from ..labels import LabelImage, read_id2label
from ..palette import palette_of
from ..sources import cityscapes
from .base import DataArguments, Source, check_fields

_REMEDY = "add the labels, or move images without a label to a folder of their own and name it in unlabeled_dirs"


def find_frames(root: str | os.PathLike) -> list[Frame]:
    """All frames of a folder: each image or label that is there, and what it lacks."""
    frames = []
    for folder in _split_folders(root):
        labels = os.path.join(folder, "labels")
        images = {}
        for name in sorted(filter(is_image, os.listdir(os.path.join(folder, "images")))):
            images.setdefault(os.path.splitext(name)[0], []).append(name)
        labeled = file_names(labels, ".png")
        for stem in [*images, *sorted(labeled - images.keys())]:
            places = {"labels": os.path.join(labels, f"{stem}.png")} if os.path.isdir(labels) else {}
            present = frozenset(kind for kind, names in (("image", images), ("labels", labeled)) if stem in names)
            for name in images.get(stem, [f"{stem}.*"]):
                image = os.path.join(folder, "images", name)
                frames.append(Frame(os.path.basename(folder), stem, image, places, present))
    return frames


def _split_folders(root: str | os.PathLike) -> list[str]:
    return sorted(str(path.parent) for path in Path(root).glob("*/images") if path.is_dir())


def _open(frames: Sequence[Frame], folder: str, complete: bool) -> datasets.Dataset:
    """The rows of a split; labels are None throughout where not each image has to have one."""
    split = os.path.basename(folder)
    frames = [frame for frame in frames if frame.split == split and "image" in frame.present]
    if not frames:
        raise InputError(f"{folder}/images: {NO_IMAGES}")
    for first, second in zip(frames, frames[1:]):
        if first.id == second.id:
            raise InputError(f"{second.image}: a second image named {second.id}; rename one of them")
    return open_frames(frames, "labels" if complete else None, split, complete, _REMEDY)


def open_source(args: DataArguments) -> Source:
    """The splits of a folder, and the classes in its `id2label.json` or in the file that `id2label` names."""
    check_fields(args)
    root = os.path.abspath(args.data_dir)
    id2label = read_id2label(Path(args.id2label or os.path.join(args.data_dir, "id2label.json")))
    frames = find_frames(root)
    splits = {os.path.basename(folder): folder for folder in _split_folders(root)}
    copied = any(cityscapes.is_official_frame(frame.id) for frame in frames)
    return Source(
        where=args.data_dir,
        labels=LabelImage.of(id2label, args.label_map, args.ignore_index),
        palette=palette_of(id2label),
        splits={split: partial(_open, frames, folder) for split, folder in splits.items()},
        labeled=[split for split, folder in splits.items() if os.path.isdir(os.path.join(folder, "labels"))],
        place=lambda split: f"{split}/images",
        license=cityscapes.LICENSE if copied else None,
    )

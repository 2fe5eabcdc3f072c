"""The parts of every source: examples on disk, and `Source`, the form in which all datasets are opened."""

import glob
import hashlib
import logging
import os
import tempfile
import zipfile
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import datasets
import numpy as np

from ...errors import InputError, first_few, first_line
from ...files import check_writable
from ...processes import is_main_process
from ..arguments import DataArguments
from ..images import InputImage, check_files, files_of, find_images, is_image
from ..labels import LabelImage

logger = logging.getLogger(__name__)
NO_IMAGES = "holds no images (.jpg, .png, .tif or another suffix of those that Pillow opens)"


class License(NamedTuple):
    """A license that forbids redistribution and commercial use; `key` is its name on the Hub, `citation` BibTeX."""

    key: str
    owner: str
    link: str
    citation: str


class Example(NamedTuple):
    """An image and its labels: the paths where they are or should be."""

    split: str  # the name of its folder
    id: str
    image: str
    labels: dict[str, str]  # kind of label -> path
    present: frozenset[str]  # the kinds, and "image", whose files exist
    city: str | None = None


@dataclass
class Source:
    """
    An open dataset. `splits` opens a split on demand: each function takes whether all images need a label, and returns
    the columns `image`, `label` (None where there is none) and `id`, not decoded. `examples` are all images and labels
    on disk, also those without a partner, `left_out` what lies there besides, and `notes` say in a line each what was
    taken for what.
    """

    name: str  # what messages call it, such as its folder
    labels: LabelImage
    palette: np.ndarray  # (num_classes, 3) uint8
    splits: Mapping[str, Callable[[bool], datasets.Dataset]]
    labeled_splits: Collection[str] = ()
    unlabeled_splits: Sequence[str] = ()  # those that join the unlabeled pool by default
    expected_at: Callable[[str], str] | None = None  # split -> where its images should be, for messages
    license: License | None = None
    own_classes: bool = False  # the user's own: an error if no label shows one
    examples: Sequence[Example] = ()
    left_out: Sequence[str] = ()
    notes: Sequence[str] = ()
    input: InputImage | None = None  # how images are read, where a field says it

    def open(self, split: str, require_labels: bool = False, remedy: str | None = None) -> datasets.Dataset:
        """Opens a split: labels as [`LabelImage`], images as `input` says; `remedy` is what to do if it is missing."""
        if split not in self.splits:
            looked = f" (looked for {self.expected_at(split)})" if self.expected_at else ""
            others = f"only {first_few(self.splits, 5)}" if self.splits else "nor any other"
            raise InputError(
                f"{self.name}: no split {split}{looked}, {others}; "
                + (remedy or "correct train_splits, unlabeled_splits or eval_split, or complete the data")
            )
        dataset = self.splits[split](require_labels)
        dataset = dataset.cast_column("image", self.input) if self.input else dataset
        return dataset.cast_column("label", self.labels) if "label" in dataset.column_names else dataset


def log_notes(notes: Iterable[str]) -> None:
    """Says in a line each what was found, once."""
    if is_main_process():
        for note in notes:
            logger.warning(note)


def unlabeled_note(split: str, number: int, total: int) -> str:
    """Says how many images of a split have no label."""
    return f"{split}: {number:,} of its {total:,} images have no label: they are unlabeled images"


def check_fields(args: DataArguments, owner: str | None = None) -> None:
    """Rejects fields that this dataset type does not use (`owner` brings its own classes), and a missing folder."""
    reasons = {}
    if args.dataset != "cityscapes":
        reasons |= dict.fromkeys(("use_coarse_labels", "labeled_split"), "only Cityscapes has them")
    if args.dataset in ("cityscapes", "folder"):
        reasons["dataset_config"] = f"{args.dataset} has no configurations"
    if args.dataset != "folder":
        names = ("train_images", "train_labels", "validation_images", "validation_labels", "label_suffix")
        reasons |= dict.fromkeys(names, "only dataset: folder has it")
    if owner:
        names = ("id2label", "label_map", "ignore_index", "classes", "ignore", "reduce_labels")
        reasons |= dict.fromkeys(names, f"{owner} brings its classes and ids")
    defaults = DataArguments()
    for name, reason in reasons.items():
        if getattr(args, name) != getattr(defaults, name):
            raise InputError(f"{name}: {reason}; leave the field out, or name another dataset")
    if args.dataset in ("cityscapes", "mapillary", "folder"):
        if not args.data_dir and not args.train_images:
            raise InputError("data_dir: is missing; name the folder of the data, as in --data_dir FOLDER")
        if args.data_dir and not os.path.isdir(args.data_dir):
            raise InputError(f"data_dir: there is no folder {args.data_dir}; correct the path")


def match_files(
    split: str, files: Mapping[str, tuple[str, str]], city: str | None = None, expect_labels: bool = True
) -> list[Example]:
    """Matches files by their stems; `files` is `"image"` or kind of label -> (folder, ending), `.*` for any image."""
    names = {kind: _names_by_stem(folder, ending) for kind, (folder, ending) in files.items()}
    examples = []
    for stem in dict.fromkeys([*names["image"], *sorted(set().union(*names.values()))]):
        present = frozenset(kind for kind, found in names.items() if stem in found)
        kinds = [kind for kind in files if kind != "image" and (expect_labels or kind in present)]
        labels = {kind: f"{files[kind][0]}/{stem}{files[kind][1]}" for kind in kinds}
        folder, ending = files["image"]
        for name in names["image"].get(stem, [f"{stem}{ending}"]):
            examples.append(Example(split, stem, f"{folder}/{name}", labels, present, city))
    return examples


def _names_by_stem(folder: str, ending: str) -> dict[str, list[str]]:
    """Returns the names of the files in a folder with this ending; none if there is no folder."""
    found = {}
    for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
        if name[0] != "." and (is_image(name) if ending == ".*" else name.endswith(ending)):
            stem = os.path.splitext(name)[0] if ending == ".*" else name.removesuffix(ending)
            found.setdefault(stem, []).append(name)
    return found


def group_by_split(examples: Sequence[Example], folders: Mapping[str, str]) -> dict[str, list[Example]]:
    """Returns the examples of each split that has images; `folders` is split -> name of its folder."""
    groups = {split: [each for each in examples if each.split == folder] for split, folder in folders.items()}
    return {split: group for split, group in groups.items() if any("image" in example.present for example in group)}


def open_examples(
    examples: Iterable[Example], kind: str | None, split: str, require_labels: bool, remedy: str
) -> datasets.Dataset:
    """Opens the examples with an image: columns `image`, `label` of this `kind` or None, `id` and perhaps `city`."""
    examples = [example for example in examples if "image" in example.present]
    labels = [example.labels[kind] if kind in example.present else None for example in examples]
    if require_labels and None in labels:
        first = examples[labels.index(None)]
        looked = f", looked for {first.labels[kind]}" if kind in first.labels else ""
        raise InputError(
            f"{first.image}: its label is missing{looked} ({labels.count(None)} of the {len(examples)} images of "
            f"split {split} have no label); {remedy}"
        )
    columns = {name: [getattr(example, name) for example in examples] for name in ("image", "id", "city")}
    if not any(columns["city"]):
        del columns["city"]
    return _open_paths({"image": columns.pop("image"), "label": labels} | columns)


def open_images(path: str | os.PathLike) -> datasets.Dataset:
    """Opens all images of one of `unlabeled_dirs`: columns `image` and `id`, the path within it."""
    names = list_images(path)
    images = [os.path.abspath(os.path.join(path, name)) for name in names]
    if os.path.isabs(names[0]):
        top = os.path.commonpath([os.path.dirname(name) for name in names])
        names = [os.path.relpath(name, top) for name in names]
    return _open_paths({"image": images, "id": names})


def list_images(path: str | os.PathLike) -> list[str]:
    """Returns the paths of the images, at least one, in one of `unlabeled_dirs`; absolute ones of a glob or a zip."""
    if os.path.isdir(path):
        names = find_images(path)
    elif os.path.isfile(path) and str(path).lower().endswith(".zip"):
        folder = _unzip(path)
        names = [os.path.join(folder, name) for name in find_images(folder)]
    elif found := sorted(glob.glob(os.path.abspath(path), recursive=True)):
        files = dict.fromkeys(file for name in sorted(found, key=os.path.isdir) for file in files_of(name))
        names = [file for file in files if os.path.isfile(file) and is_image(os.path.basename(file))]
    else:
        raise InputError(f"unlabeled_dirs: there is no folder {path}; correct the path")
    if not names:
        raise InputError(f"unlabeled_dirs: {path} {NO_IMAGES}; correct the path")
    return names


def _unzip(path: str | os.PathLike) -> str:
    """Returns a folder in the cache of `datasets` with the images of a zip file, which are extracted once."""
    status = os.stat(path)
    version = f"{os.path.abspath(path)} {status.st_size} {status.st_mtime_ns}"
    folder = Path(datasets.config.HF_DATASETS_CACHE, "scl_hf_zips", hashlib.sha256(version.encode()).hexdigest()[:16])
    if not folder.is_dir():
        check_writable("HF_DATASETS_CACHE", folder)
        logger.warning(f"{path}: its images are extracted into {folder}")
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            with tempfile.TemporaryDirectory(dir=folder.parent) as temporary, zipfile.ZipFile(path) as archive:
                images = [name for name in archive.namelist() if is_image(name.rpartition("/")[2])]
                archive.extractall(f"{temporary}/images", images)  # leaves .. and / out of names
                Path(temporary, "images").mkdir(exist_ok=True)
                try:
                    os.rename(f"{temporary}/images", folder)
                except OSError:
                    if not folder.is_dir():  # otherwise another process was faster
                        raise
        except (OSError, RuntimeError, zipfile.BadZipFile) as error:
            reason = f"cannot extract {path} ({first_line(error)})"
            raise InputError(f"unlabeled_dirs: {reason}; unpack it yourself and name the folder") from error
    return str(folder)


def _open_paths(columns: Mapping[str, list[str | None]]) -> datasets.Dataset:
    files = [name for name in ("image", "label") if name in columns]
    check_files(path for name in files for path in columns[name] if path is not None)
    features = datasets.Features(dict.fromkeys(columns, datasets.Value("string")))
    dataset = datasets.Dataset.from_dict(dict(columns), features=features)
    for name in files:  # a cast of whole columns: as values, each path would be encoded by itself
        dataset = dataset.cast_column(name, datasets.Image(decode=False))
    return dataset

"""The files below a folder, and what the names of their folders say about them."""

import functools
import os
import re
import unicodedata
from collections.abc import Collection
from typing import NamedTuple

from ..images import is_image, walk

_SPLITS = {"train": "train training trainval tr", "validation": "val valid validation", "test": "test testing ts"}
_ROLES = {
    "image": "image images img imgs input inputs jpegimages original originals raw rgb sat",
    "label": "label labels lbl lbls mask masks annotation annotations ann anns annot annots gt gts groundtruth truth "
    "seg manual segmentation segmentations segmentationclass semantic target targets",
}
SPLIT_OF = {word: split for split, words in _SPLITS.items() for word in words.split()}
ROLE_OF = {word: role for role, words in _ROLES.items() for word in words.split()}
# What says nothing in the name of a folder
_FILLERS = frozenset(["", *"bmp class data dataset dir ground jpeg jpg nd png st tif tiff".split()])


class File(NamedTuple):
    """An image or a label. Two match if they have the same split, folder and stem."""

    path: str
    split: str | None
    role: str | None  # "image" or "label"; "" for one whose folder is named after something else
    folder: str  # below those that stand for split and role, with / after it
    stem: str


class Tree(NamedTuple):
    """The files of a folder: all that are images or labels, and the paths within it of all others."""

    files: list[File]
    others: list[str]


def file_at(path: str, split: str | None, role: str | None, below: str) -> File:
    """Returns a file by its path below the folders that stand for split and role."""
    folder, slash, name = unicodedata.normalize("NFC", below).rpartition("/")
    return File(path, split, role, folder + slash, name_stem(name))


@functools.cache
def read_name(name: str) -> tuple[str | None, str | None, bool]:
    """Returns the split and the role that a folder's name tells, and whether it holds words that are not known."""
    splits, roles, unknown = set(), set(), False
    for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[^\W\d_A-Z]+", name):
        split, role = _split_word(word.lower())
        splits |= {SPLIT_OF[split]} if split else set()
        roles |= {ROLE_OF[role]} if role in ROLE_OF else set()
        unknown |= role not in ROLE_OF and role not in _FILLERS
    splits -= {"validation"} if "train" in splits else set()  # TrainVal
    unknown |= len(splits) > 1 or "label" in roles and "rgb" in name.lower()
    role = "label" if "label" in roles else next(iter(roles), None)  # mask_images
    return next(iter(splits)) if len(splits) == 1 else None, role, unknown


def _split_word(word: str) -> tuple[str, str]:
    """Returns the words for split and role, of which one may be empty, in trainannot, train or masks."""
    rests = {split: word.removeprefix(split) for split in SPLIT_OF if word.startswith(split)}
    return next(((split, rest) for split, rest in rests.items() if not rest or rest in ROLE_OF), ("", word))


def name_stem(name: str) -> str:
    """Returns the name of an image without its suffix."""
    return name[: name.rfind(".")] if _is_suffix(name[name.rfind(".") :]) else name


def read_tree(root: str, train_splits: Collection[str], other_splits: Collection[str] = ()) -> Tree:
    """Finds the images and labels below a folder; one that is called like a split of the recipe is that split."""
    named = {*train_splits, *other_splits}
    own = {SPLIT_OF[name]: name for name in named if name in SPLIT_OF}  # val/ is validation, unless named itself
    found, others = [], []
    for parts, names in walk(root):
        images = [name for name in names if _is_suffix(name[name.rfind(".") :])]
        others += ["/".join([*parts, name]) for name in names if not _is_suffix(name[name.rfind(".") :])]
        if images:
            found.append((parts, images))
    depth = 0  # of folders around everything
    for name in os.path.commonprefix([parts for parts, _ in found]):
        split, role, unknown = read_name(name)
        if name in named or split or role and not unknown:
            break
        depth += 1
    read = [(parts, images, _read_folders(parts[depth:], named)) for parts, images in found]
    has_split = any(split for _, _, (split, *_) in read)
    has_train = any(own.get(split, split) in train_splits for _, _, (split, *_) in read)
    files = []
    for parts, images, (split, role, folders) in read:
        if split is None and has_split and len(folders) == 1 and folders != parts[depth:]:
            split, folders = folders[0], []  # extra/images
        elif split is None and has_train:
            role = None
        parent, split = "/".join([root, *parts]), own.get(split, split)
        below = "".join(f"{name}/" for name in folders)
        files += [file_at(f"{parent}/{name}", split, role, below + name) for name in images]
    return Tree(files, others)


@functools.cache
def _is_suffix(suffix: str) -> bool:
    return is_image(f"a{suffix}")


def _read_folders(parts: list[str], named: Collection[str]) -> tuple[str | None, str | None, list[str]]:
    """Returns split, role (None: left out) and the folders that stand for neither."""
    split, role, folders = None, "", []
    for index, name in enumerate(parts):
        own_split, own_role, unknown = read_name(name)
        if index == 0 and name in named:
            split, role = name, own_role or role
        elif unknown and own_role == "label" and not role and not (index == 0 and own_split):
            role = None  # SegmentationClassVisualization, semantic_rgb
        elif unknown and not (index == 0 and own_split) or not (own_split or own_role):
            folders.append(name)
        else:  # also stage1_train
            split, role = own_split or split, own_role or role
    return split, role, folders

"""Finds the examples of a folder of your own, by fields of the recipe or by the names of folders, files and lists."""

import os
import re
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from ...errors import InputError, counted, first_few
from ..arguments import DataArguments
from ..images import is_image
from .base import Example
from .lists import find_files, find_lists, read_images
from .matching import match, split_by_name
from .tree import SPLIT_OF, File, Tree, file_at, read_name, read_tree

FIELDS = "train_images: FOLDER and train_labels: FOLDER"
_TEXTS = frozenset(".txt .json .xml .csv .md .html .yaml .yml .db .ini .pdf .m .py .sh".split())  # beside images


class Found(NamedTuple):
    """All examples of a folder, also those without a partner; files that are in none; and the paths of other files."""

    examples: list[Example]
    left_out: list[str]
    notes: list[str]
    others: list[str]


def find_examples(args: DataArguments) -> Found:
    """Finds the images and labels that a recipe names."""
    root, train = os.path.abspath(args.data_dir or "."), args.train_splits[0]
    named = [args.eval_split, *args.unlabeled_splits]
    tree = read_tree(root, args.train_splits, named) if args.data_dir else Tree([], [])

    # 1. Images and labels, by the fields or else by the names of folders
    files, lists = _read_fields(args, root, tree)
    given, taken = {file.split for file in files}, {file.path for file in files}
    files += [file for file in tree.files if (file.split or train) not in given and file.path not in taken]
    files = _with_roles(files, args.label_suffix)
    images, labels = ([file for file in files if file.role == role] for role in ("image", "label"))
    if not images:
        there = first_few(sorted(os.listdir(root)), 5) or "nothing"
        what = "no folder whose name says that it has the images" if files else "no images"
        raise InputError(f"{args.data_dir}: holds {what}, but {there}; correct data_dir, or write {FIELDS}")

    # 2. The label of each image, by the names in folders of fields and those in other ones
    found, label_of = {}, {}
    for is_given in (False, True):
        own = ([file for file in group if (file.split in given) == is_given] for group in (images, labels))
        found[is_given] = match(*own, args.label_suffix)
    for label, image in (pair for each in found.values() for pair in each.pairs.items()):
        if label_of.setdefault(image, label.path) != label.path:
            few = f"{label_of[image]} and {label.path}"
            raise InputError(f"{image.path}: has two labels, {few}; remove the folder of one, or write {FIELDS}")

    # 3. Its split: where the folder is of none, by lists
    loose = [image.path for image in images if image.split is None]
    if loose and not lists:
        own = {SPLIT_OF[name]: name for name in (*named, *args.train_splits) if name in SPLIT_OF}
        for split, path in find_lists(tree.others).items():
            known = [file.path for file in files]
            lists[own.get(split, split)] = read_images(os.path.join(root, path), path, loose, known)
    by_path, splits, left_out = {file.path: file for file in files} if lists else {}, {}, []
    for split, entries in lists.items():
        below = (os.path.relpath(path, root) for path, _ in entries)
        splits[split] = [by_path.get(path) or file_at(path, split, "", key) for (path, _), key in zip(entries, below)]
        label_of |= {image: label for image, (_, label) in zip(splits[split], entries) if label}
    listed = {path for entries in lists.values() for entry in entries for path in entry}
    for image in images:
        split = image.split or train
        if image.path not in listed and split not in lists:
            splits.setdefault(split, []).append(image)
        elif image.path not in listed:
            left_out.append(image.path)

    # 4. What has no partner, and what is in no example
    examples, kinds = [], {False: frozenset({"image"}), True: frozenset({"image", "labels"})}
    for split, own in sorted(splits.items()):
        for image in own:
            labels = {"labels": label_of[image]} if image in label_of else {}
            examples.append(Example(split, image.folder + image.stem, image.path, labels, kinds[image in label_of]))
    alone = [label for each in found.values() for label in each.alone]
    matched = {*label_of.values()} if alone else ()
    for label in alone:
        split, stem = label.split or train, label.stem.removesuffix(found[label.split in given].affix)
        if split in lists:
            left_out.append(label.path)
        elif label.path not in matched:
            folder = os.path.join(root, split, "images")
            if split in splits:
                first = splits[split][0]
                folder = os.path.dirname(first.path).removesuffix(first.folder.rstrip("/"))
            image = os.path.join(folder, label.folder, f"{stem}.*")
            examples.append(Example(split, label.folder + stem, image, {"labels": label.path}, frozenset({"labels"})))
    left_out += [file.path for each in found.values() for file in each.left_out]
    left_out += [file.path for file in files if not file.role]
    places = {path.rpartition("/")[0] for example in examples for path in (example.image, *example.labels.values())}
    odd = [name for name in tree.others if os.path.splitext(name)[1].lower() not in _TEXTS]
    left_out += [path for path in (os.path.join(root, name) for name in odd) if os.path.dirname(path) in places]
    described = (_describe(root, split, examples, found[split in given].affix) for split in sorted(splits))
    notes = [note for note in described if note]
    pool = [os.path.join(os.path.abspath(folder), "") for folder in args.unlabeled_dirs]
    left_out = [path for path in left_out if path not in listed and not any(map(path.startswith, pool))]
    if left_out:
        first, of = os.path.relpath(min(left_out), root), "list" if lists else "split"
        count = counted(len(left_out), "file")
        notes.append(f"left out: {count} such as {first}: neither images nor labels of a {of}")
    return Found(examples, left_out, notes, tree.others)


def no_labels_problem(images: Sequence[Example], split: str, found: Found) -> str:
    """Says that no image of a split has a label, and where labels may be."""
    folder = os.path.dirname(images[0].image)
    others = dict.fromkeys(map(os.path.dirname, filter(is_image, found.left_out)))
    stems = {os.path.basename(os.path.splitext(example.image)[0]) for example in images}
    # COCO's single file, or a.json, a.jpg.json and a.npy
    coco = re.compile(r"(coco|instances|annotations|panoptic)[^/]*\.json$", re.IGNORECASE)
    named = {path: os.path.splitext(os.path.basename(path))[0] for path in found.others}
    drawn = [path for path, stem in named.items() if coco.search(path) or {stem, os.path.splitext(stem)[0]} & stems]
    own = [name for name in others if SPLIT_OF.get(split) in {read_name(part)[0] for part in name.split("/")}]
    folders = " or ".join([name for name in own or others if name != folder][:3])
    field = "train" if SPLIT_OF.get(split, "train") == "train" else "validation"
    hint = f"write {field}_images: {folder} and {field}_labels: {folders or 'FOLDER'}"
    hint += ", or validation_fraction: 0.2 to hold out labeled images" * (field != "train")
    if drawn and not folders:
        hint = f"{drawn[0]} is no image: draw the objects of COCO or labelme with scl-hf masks, or save labels as PNG"
    return f"{folder}: none of the {len(images)} images of split {split} has a label; {hint}"


def _describe(root: str, split: str, examples: Sequence[Example], affix: str) -> str | None:
    """Says what was taken for a split, if its folders are not called images and labels."""
    images = [example.image for example in examples if example.split == split and "image" in example.present]
    labels = [path for example in examples if example.split == split for path in example.labels.values()]
    usual = all(path.startswith(f"{root}/{split}/images/") for path in images)
    if usual and not affix and all(path.startswith(f"{root}/{split}/labels/") for path in labels):
        return None
    text = f"{split}: {counted(len(images), 'image')} such as {os.path.relpath(images[0], root)}"
    if labels:
        joined = ", the masks of an image joined" * os.path.isdir(labels[0])
        text += f", {counted(len(labels), 'label')} such as {os.path.relpath(labels[0], root)}{joined}"
    return text + f", with {affix} in their names" * bool(affix and labels)


def _read_fields(args: DataArguments, root: str, tree: Tree) -> tuple[list[File], dict[str, list]]:
    """Returns the files that the fields of the recipe name, and split -> images and labels of those that are lists."""
    files, lists = [], {}
    for split, name in ((args.train_splits[0], "train"), (args.eval_split, "validation")):
        images, labels = getattr(args, f"{name}_images"), getattr(args, f"{name}_labels")
        path = os.path.join(root, images or "")
        if images and os.path.isfile(path) and not is_image(path):
            known = dict.fromkeys(file.path for file in tree.files)
            no_labels = [file.path for file in tree.files if file.role != "label"]  # which may have the same names
            lists[split] = read_images(path, f"{name}_images", no_labels, [*known])
            own = [path for path, _ in lists[split] if labels or path not in known]
            top = os.path.commonpath([os.path.dirname(path) for path in own]) if own else ""
            files += [file_at(path, split, "image", os.path.relpath(path, top)) for path in own]
        elif images and os.path.isdir(path) and not labels:  # it may hold them, too
            found = read_tree(os.path.normpath(path), [split])
            files += [file._replace(split=split) for file in found.files]
        elif images:
            files += find_files(images, root, f"{name}_images", split, "image")
        if labels:
            files += find_files(labels, root, f"{name}_labels", split, "label")
    return files, lists


def _with_roles(files: Sequence[File], suffix: str | None) -> list[File]:
    """Tells images and labels of each split whose folders do not."""
    groups, result = defaultdict(list), []
    for file in files:
        groups[file.split].append(file)
    for group in groups.values():
        roles = {file.role for file in group}
        wanted = "image" if "image" in roles else ""
        plain = [file for file in group if file.role == wanted]
        result += [file for file in group if file.role != wanted]
        if "label" not in roles:
            plain = split_by_name(plain, suffix)
        elif not wanted:
            plain = [file._replace(role="image") for file in plain]
        result += plain
    return result

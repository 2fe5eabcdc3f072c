"""The names of classes in files that lie beside the data of common tools."""

import csv
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...errors import InputError, first_few, first_line
from ..arguments import DataArguments
from ..classes import read_classes
from ..images import IGNORE_INDEX, is_image
from ..labels import LabelImage, count_values
from .examples import Found, no_labels_problem

Classes = dict[str, Any]  # name -> what stands for it in label files, as in the field `classes`

VOC = (
    "background aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person "
    "pottedplant sheep sofa train tvmonitor"
).split()


def _hex(color: Sequence[str]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*map(int, color))


def _names(lines: Sequence[str]) -> Classes:
    """A name a line, with or without its id in front (class_names.txt of labelme, codes.txt of fast.ai)."""
    if any(is_image(line) for line in lines):
        return {}  # a list of files
    numbered = [re.fullmatch(r"(\d+)\s*[:,\s]\s*(.+)", line) for line in lines]
    if all(numbered):
        return {found[2]: int(found[1]) for found in numbered}
    return {name: i for i, name in enumerate(line for line in lines if line != "__ignore__")}


def _ade20k(lines: Sequence[str]) -> Classes:
    """Idx, ratio, train, val, stuff and name, of which the first synonym is enough if no other class has it."""
    rows = [line.split("\t") for line in lines[1:]]
    first = [row[-1].partition(",")[0].strip() for row in rows]
    return {row[-1].strip() if first.count(name) > 1 else name: int(row[0]) for row, name in zip(rows, first)}


def _cvat(lines: Sequence[str]) -> Classes:
    """name:r,g,b:parts:actions"""
    rows = [line.split(":") for line in lines if line[0] != "#"]
    return {row[0]: _hex(row[1].split(",")) for row in rows}


def _colors(lines: Sequence[str]) -> Classes:
    """name,r,g,b"""
    return {row[0].strip(): _hex(row[1:4]) for row in list(csv.reader(lines))[1:]}


def _roboflow(lines: Sequence[str]) -> Classes:
    """Pixel Value, Class"""
    return {row[1].strip(): int(row[0]) for row in list(csv.reader(lines))[1:]}


_READERS: dict[str, Callable[[Sequence[str]], Classes]] = {
    "class_names.txt": _names,
    "codes.txt": _names,
    "classes.txt": _names,
    "labels.txt": _names,
    "class_dict.csv": _colors,
    "label_class_dict.csv": _colors,
    "_classes.csv": _roboflow,
    "labelmap.txt": _cvat,
    "objectInfo150.txt": _ade20k,
}


def find_labels(args: DataArguments, found: Found) -> tuple[LabelImage, str]:
    """Returns what the values in labels mean, and what says so: a file, Pascal VOC, or "" for recipe and id2label."""
    root, examples = args.data_dir or ".", found.examples
    others = sorted(found.others, key=lambda path: -path.count("/"))
    paths = {path.rpartition("/")[2]: path for path in others}  # the topmost
    if args.classes is not None or args.id2label or "id2label.json" in paths:
        return args.labels(Path(root, paths.get("id2label.json", ""))), ""
    named = ((_read(Path(root, paths[name]), read), paths[name]) for name, read in _READERS.items() if name in paths)
    classes, origin = next((each for each in named if each[0]), ({}, ""))
    labels = [path for example in examples for path in example.labels.values()] if not classes else []
    if any("/SegmentationClass/" in path for path in labels[:1]) and "/JPEGImages/" in examples[0].image:
        classes, origin = {name: i for i, name in enumerate(VOC)}, "Pascal VOC"
    if not classes:
        if not labels:
            raise InputError(no_labels_problem(examples, examples[0].split, found))
        raise InputError(f"{args.data_dir or 'classes'}: {_describe_values(labels)}")
    if args.label_map or args.reduce_labels:
        return replace(args, id2label=dict(enumerate(classes))).labels(Path()), origin
    ids = [value for value in classes.values() if isinstance(value, int)]
    ignored = [value for value in (0, args.ignore_index) if ids and value not in ids]  # ADE20K begins with 1
    return read_classes(classes, [*ignored, *args.ignore], origin), origin


def _read(path: Path, read: Callable[[Sequence[str]], Classes]) -> Classes:
    try:
        return read([line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()])
    except (OSError, ValueError, IndexError) as error:
        raise InputError(f"{path}: cannot be read ({first_line(error)}); write classes: {{NAME: 0, …}}") from None


def _describe_values(labels: Sequence[str]) -> str:
    """Says what some labels hold, and how to name it."""
    some = labels[:: len(labels) // 20 + 1]
    found = Counter(value for path in some for value, _ in count_values(path, LabelImage(decode=False)))
    values = sorted(found, key=lambda value: (isinstance(value, str), value))
    ignored = [value for value in values if value == IGNORE_INDEX and len(values) > 2 and values[-1] == value]
    forms = [f'"{value}"' if isinstance(value, str) else str(value) for value in values]
    named = first_few((f"NAME: {form}" for form in forms if form not in map(str, ignored)), 20)
    named += ", NAME: a value of others" * (len(forms) == 1)
    named += "} or, for ids of instances, {NAME: 0, NAME: 1-65535" * (len(forms) > 20 and values[0] == 0)
    held = f"{len(some)} of its labels hold the values {first_few(forms, 20)}"
    remedy = f"write classes: {{{named}}}" + f", ignore: {ignored}" * bool(ignored)
    return f"no id2label.json or other file names the classes; {held}: {remedy}"

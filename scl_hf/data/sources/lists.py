"""Lists of files in text files, and files by the fields of a recipe: a folder, a glob or a list."""

import glob
import os
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from ...errors import InputError, first_few
from ..images import is_image, walk
from .tree import File, file_at, name_stem

# The name of a list -> the split of its images; the first one that is there
LISTS = {"train": "train trainval default", "validation": "val valid validation", "test": "test"}


def read_list(path: str | os.PathLike, field: str, content: str = "image") -> list[str]:
    """Reads the lines of a text file without empty ones and comments; `field` names it in messages."""
    try:
        if os.path.exists(path) and not os.path.isfile(path):  # reading a named pipe would wait for ever
            raise OSError(0, "it is no file")
        lines = [line.strip() for line in Path(path).read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise InputError(f"{field}: cannot open {path} ({reason}); name a file with one {content} a line") from error
    if not (lines := [line for line in lines if line and line[0] != "#"]):
        raise InputError(f"{path}: holds no {content}s; write one a line")
    return lines


class Names:
    """Finds files by the names that lists have for them: with suffix or without, also below folders elsewhere."""

    def __init__(self, paths: Sequence[str]):
        self._paths, self._indices = paths, defaultdict(list)
        for index, path in enumerate(paths):
            name = path.rpartition("/")[2]
            for each in {name, name_stem(name)}:
                self._indices[each].append(index)

    def find(self, name: str) -> list[int]:
        """Returns the indices of the paths that end like a name, as far as it goes."""
        *folders, last = name.replace("\\", "/").split("/")
        found = self._indices.get(last) or self._indices.get(name_stem(last), [])
        for depth in range(1, len(folders) + 1 if len(found) > 1 else 0):
            below = [index for index in found if self._paths[index].split("/")[-1 - depth : -1] == folders[-depth:]]
            if not below:
                break
            found = below
        return found

    def find_line(self, line: str) -> tuple[list[int], list[str]]:
        """Returns what the first column of a line finds, and the further columns that are no numbers."""
        line = line.replace("\\", "/")
        columns, words = re.split(r"\s*[,\t]\s*", line), re.split(r"\s+", line)
        whole = [line] if " " in line.rpartition("/")[2] else words  # a name with spaces
        for first, *others in (columns if len(columns) > 1 else whole, words, [line]):
            if found := self.find(first):
                return found, [other for other in others if not re.fullmatch(r"-?[\d.]*", other)]
        return [], []


def find_lists(paths: Sequence[str]) -> dict[str, str]:
    """Returns split -> the list of its images among the paths: those of ImageSets/Segmentation, or the topmost."""
    by_name = {}
    for path in sorted(paths, key=lambda path: ("Segmentation/" not in path, path.count("/"), path)):
        name = re.sub(r"[-_]?(list|ids?|files?|images?|set|names?)?\.txt$", ".txt", path.rpartition("/")[2].lower())
        by_name.setdefault(name, path)
    found = {split: [by_name.get(f"{name}.txt") for name in names.split()] for split, names in LISTS.items()}
    return {split: next(filter(None, paths)) for split, paths in found.items() if any(paths)}


def read_images(path: str, field: str, images: Sequence[str], files: Sequence[str]) -> list[tuple[str, str | None]]:
    """Returns the images that a list names, of `images` or beside it, and the label next to each, of all `files`."""
    names, of_labels, found, unknown = Names(images), Names(files), {}, []

    def look_up(name: str, among: Sequence[str], indices: Sequence[int]) -> str | None:
        if len(indices) > 1:
            few = first_few(among[index] for index in indices)
            raise InputError(f"{field}: {name} of {path} may be {few}; write it with its folder")
        beside = os.path.join(os.path.dirname(path), name)
        return among[indices[0]] if indices else beside if os.path.isfile(beside) else None

    for line in read_list(path, field):
        indices, others = names.find_line(line)
        if not indices:
            line, *others = [line] if look_up(line, (), ()) else re.split(r"[\s,]+", line)
        image = look_up(line, images, indices)
        label = look_up(others[0], files, of_labels.find(others[0])) if others else None
        if image is None or others and label is None:
            unknown.append(line if image is None else others[0])
        else:
            found[image] = label
    if unknown:
        raise InputError(
            f"{field}: {len(unknown)} of {len(unknown) + len(found)} lines of {path} name no file there: "
            f"{first_few(unknown)}; correct the names, or the folder"
        )
    return list(found.items())


def find_files(value: str, base: str, field: str, split: str, role: str) -> list[File]:
    """Finds the files of a field that names a folder or a glob. They match by what its wildcards do, and below."""
    path, keys = os.path.normpath(os.path.join(base, value)), {}  # of each file
    if os.path.isdir(path):
        roots = {path: ""}
    else:
        pattern = re.compile(re.sub(r"\*\*/|[*?]+|\[[^]]+\]|.", _to_regex, value))
        found = [(each, pattern.fullmatch(each)) for each in sorted(glob.glob(value, root_dir=base, recursive=True))]
        found = [(os.path.join(base, each), matched) for each, matched in found if matched]
        roots = {each: "/".join(filter(None, matched.groups())) for each, matched in found}
    for root, key in roots.items():
        if os.path.isdir(root):
            for parts, names in walk(root):
                for name in filter(is_image, names):
                    keys.setdefault("/".join([root, *parts, name]), "/".join([*filter(None, [key]), *parts, name]))
        elif is_image(root):
            keys.setdefault(root, key or os.path.basename(root))
    if not keys:
        raise InputError(f"{field}: {path} is no folder, glob or list of images; correct the path")
    return [file_at(path, split, role, key) for path, key in keys.items()]


def _to_regex(token: re.Match) -> str:
    """Turns a part of a glob into a regular expression; what wildcards match are its groups."""
    text = token[0]
    if text[0] in "*?":
        text = "(?:(.*)/)?" if text == "**/" else f"({text.replace('*', '[^/]*').replace('?', '[^/]')})"
        return text.replace("[^/]*[^/]*", ".*")
    return f"({text.replace('[!', '[^')})" if text[0] == "[" and len(text) > 1 else re.escape(text)

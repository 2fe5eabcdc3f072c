"""Checks a data set on disk: counts its files, finds those without a partner, and opens every one."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm.auto import tqdm

from ..errors import InputError
from . import cityscapes, mapillary
from .labels import make_label_table, read_id2label
from .pictures import IGNORE_INDEX, read_image, read_label
from .sources import find_pictures, is_picture

# fmt: off
# split -> city -> images. Of the cities of train_extra only the sum is known.
CITYSCAPES = {
    "train": {
        "aachen": 174, "bochum": 96, "bremen": 316, "cologne": 154, "darmstadt": 85, "dusseldorf": 221, "erfurt": 109,
        "hamburg": 248, "hanover": 196, "jena": 119, "krefeld": 99, "monchengladbach": 94, "strasbourg": 365,
        "stuttgart": 196, "tubingen": 144, "ulm": 95, "weimar": 142, "zurich": 122,
    },
    "val": {"frankfurt": 267, "lindau": 59, "munster": 174},
    "test": {"berlin": 544, "bielefeld": 181, "bonn": 46, "leverkusen": 58, "mainz": 298, "munich": 398},
    "train_extra": dict.fromkeys((
        "augsburg", "bad-honnef", "bamberg", "bayreuth", "dortmund", "dresden", "duisburg", "erlangen", "freiburg",
        "heidelberg", "heilbronn", "karlsruhe", "konigswinter", "konstanz", "mannheim", "muhlheim-ruhr", "nuremberg",
        "oberhausen", "saarbrucken", "schweinfurt", "troisdorf", "wuppertal", "wurzburg",
    )),
}
# fmt: on
CITYSCAPES_CITIES = frozenset(city for cities in CITYSCAPES.values() for city in cities)
CITYSCAPES_IMAGES = {"train": 2975, "val": 500, "test": 1525, "train_extra": 19998}
MAPILLARY_IMAGES = {"training": 18000, "validation": 2000, "testing": 5000}

_LISTED = 20  # Of files that are not there, which come in thousands when a zip is not unpacked.


class Frame(NamedTuple):
    """An image and its labels, where they should be: `labels` is kind -> path."""

    split: str
    city: str | None
    id: str
    image: str
    labels: dict[str, str]


class Found(NamedTuple):
    """What there is of a frame: counts of `"images"` and of each kind of label, and what is wrong."""

    counts: Counter
    missing: list[str]
    broken: list[str]


@dataclass
class Report:
    """
    What [`check_data`] found. `str(report)` is for a person.

    Args:
        title (`str`): What the data is, and where.
        kinds (`list[str]`): The kinds of labels.
        counts (`dict[tuple, Counter]`): (split, city or None for all of it) -> files of each kind, and `"problems"`.
        official (`dict[tuple, int]`): The same -> images that the official data has.
        missing (`dict[str, list[str]]`): Split -> a line for each file that is not there.
        broken (`list[str]`): A line for each file that cannot be used.
        differs (`list[str]`): A line for each official number that is not met.
        notes (`list[str]`): What is worth knowing and nothing to mend.
    """

    title: str
    kinds: list[str]
    counts: dict[tuple[str, str | None], Counter] = field(default_factory=dict)
    official: dict[tuple[str, str | None], int] = field(default_factory=dict)
    missing: dict[str, list[str]] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    differs: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Whether nothing is missing or broken."""
        return not (self.missing or self.broken or self.differs)

    def __str__(self) -> str:
        lines = [self.title, "", *self._table()]
        for note in self.notes:
            lines += ["", f"note: {note}"]
        missing = []
        for found in self.missing.values():
            missing += found[:_LISTED]
            if len(found) > _LISTED:
                missing.append(f"… and {len(found) - _LISTED} more of this split")
        for heading, problems in (
            ("differs from the official data", self.differs),
            ("missing", missing),
            ("broken", self.broken),
        ):
            if problems:
                lines += ["", f"{heading}:", *(f"  {problem}" for problem in problems)]
        return "\n".join([*lines, "", self._verdict()])

    def _verdict(self) -> str:
        splits = [counts for (_, city), counts in self.counts.items() if city is None]
        files = sum(counts[kind] for counts in splits for kind in ("images", *self.kinds))
        if self.sound:
            return f"Complete and sound: {files:,} files opened."
        parts = [
            (sum(map(len, self.missing.values())), "missing"),
            (len(self.broken), "broken"),
            (len(self.differs), "official numbers not met"),
        ]
        found = ", ".join(f"{count:,} {what}" for count, what in parts if count)
        return f"NOT sound: {found}; {files:,} files found."

    def _table(self) -> list[str]:
        rows = [["split", "images", *["official"] * bool(self.official), *self.kinds, "problems"]]
        for (split, city), counts in self.counts.items():
            rows.append([split if city is None else f"  {city}", f"{counts['images']:,}"])
            if self.official:
                number = self.official.get((split, city))
                rows[-1].append("–" if number is None else f"{number:,}")
            rows[-1] += [f"{counts[kind]:,}" if kind in counts else "–" for kind in self.kinds]
            rows[-1].append(f"{counts['problems']:,}")
        first, *others = [max(map(len, column)) for column in zip(*rows)]
        return ["  ".join([row[0].ljust(first), *map(str.rjust, row[1:], others)]) for row in rows]


def find_layout(data_dir: str | os.PathLike, id2label: str | os.PathLike | None = None) -> str:
    """
    How a data set is laid out, judged by its folders.

    Args:
        data_dir (`str`): The folder of the data.
        id2label (`str`, *optional*): The class names of a folder of one's own, if not in its `id2label.json`.

    Returns:
        `str`: `"cityscapes"`, `"mapillary"`, or `"folder"`: the `dataset` of a recipe.

    Raises:
        InputError: The folder is not there, or is none of them.
    """
    root = Path(data_dir)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; name the folder of the data")
    if any(cityscapes.find_split(root, "leftImg8bit", split) for split in CITYSCAPES_IMAGES):
        return "cityscapes"
    splits = {path.parent.name for path in root.glob("*/images") if path.is_dir()}
    if (id2label or (root / "id2label.json").is_file()) and splits:
        return "folder"
    if splits & {"training", "testing"}:
        return "mapillary"
    if splits:
        raise InputError(
            f'{root}: id2label.json is missing; put the names of the classes there, {{"0": "sky", "1": "road", …}}'
        )
    raise InputError(
        f"{root}: holds no data set; looked for leftImg8bit/train (Cityscapes), training/images (Mapillary Vistas) "
        "and <split>/images (a folder of your own): name the folder that has them (Parquet and other data of "
        "`datasets` is not checked)"
    )


def check_data(
    data_dir: str | os.PathLike,
    num_proc: int | None = None,
    label_map: Mapping[int, int] | None = None,
    ignore_index: int = IGNORE_INDEX,
    id2label: str | os.PathLike | None = None,
    unlabeled_dirs: Sequence[str | os.PathLike] = (),
) -> Report:
    """
    Counts the images and labels of a data set against the official numbers, where there are some, and opens every one
    of them: whether it can be read, whether image and label are of one size, whether a label holds unknown ids.

    Args:
        data_dir (`str`): Data in the layout of Cityscapes or of Mapillary Vistas, or a folder of one's own
            (`<split>/images`, `<split>/labels`, `id2label.json`).
        num_proc (`int`, *optional*): Number of processes; by default one for each core.
        label_map (`dict[int, int]`, *optional*): Of a folder of one's own: id in a label file -> train id.
        ignore_index (`int`, *optional*, defaults to 255): Of a folder of one's own: the id of ignored pixels.
        id2label (`str`, *optional*): Of a folder of one's own: the class names, if not in its `id2label.json`.
        unlabeled_dirs (`Sequence[str]`, *optional*): Plain folders of pictures, which are opened, too.

    Returns:
        [`Report`]: What was found.

    Raises:
        InputError: A folder holds no data, or the class names or the map of ids are unusable.
    """
    if num_proc is not None and num_proc < 1:
        raise InputError(f"num_proc: {num_proc} is too few processes; give 1 or more")
    layout = find_layout(data_dir, id2label)
    list_frames = {"cityscapes": _cityscapes_frames, "mapillary": _mapillary_frames, "folder": _folder_frames}[layout]
    frames = list(list_frames(Path(data_dir)))
    if not frames:
        raise InputError(f"{data_dir}: its folders hold no pictures; unpack the data there")
    for folder in unlabeled_dirs:
        frames += [Frame(str(folder), None, name, str(Path(folder, name)), {}) for name in find_pictures(folder)]
    kinds = list(dict.fromkeys(kind for frame in frames for kind in frame.labels))
    title = {"cityscapes": "the layout of Cityscapes", "mapillary": "Mapillary Vistas", "folder": "a folder"}[layout]
    report = Report(f"{data_dir}: {title}", kinds)
    tables = _label_tables(layout, data_dir, kinds, label_map, ignore_index, id2label)
    _count(report, frames, _open_all(frames, tables, num_proc))
    if layout == "cityscapes":
        _compare_cityscapes(report, {frame.id for frame in frames})
    elif layout == "mapillary":
        _compare(report, {(split, None): number for split, number in MAPILLARY_IMAGES.items()})
    else:
        splits = {frame.split for frame in frames} - set(map(str, unlabeled_dirs))
        unlabeled = sorted(splits - {frame.split for frame in frames if frame.labels})
        report.notes += [f"{split} has no folder labels: its images are unlabelled" for split in unlabeled]
    return report


def _cityscapes_frames(root: Path) -> Iterator[Frame]:
    for split in CITYSCAPES_IMAGES:
        images = cityscapes.find_split(root, "leftImg8bit", split)
        if images is None and split == "train_extra":  # gtCoarse.zip brings its labels to those who want train's alone
            continue
        labels = {kind: cityscapes.find_split(root, kind, split) for kind in ("gtFine", "gtCoarse")}
        if split in ("train", "val") and images is not None:
            labels["gtFine"] = labels["gtFine"] or root / "gtFine" / split
        images = images or root / "leftImg8bit" / split
        labels = {kind: folder for kind, folder in labels.items() if folder is not None}
        cities = {path.name for folder in (images, *labels.values()) for path in _entries(folder) if path.is_dir()}
        for city in sorted(cities):
            pictures = _files(images / city, "_leftImg8bit.png")
            annotations = {kind: _files(folder / city, f"_{kind}_labelIds.png") for kind, folder in labels.items()}
            for frame in sorted(set(pictures).union(*annotations.values())):
                # The label files of test are dummies, of which none is missed.
                places = {
                    kind: str(folder / city / f"{frame}_{kind}_labelIds.png")
                    for kind, folder in labels.items()
                    if split != "test" or frame in annotations[kind]
                }
                yield Frame(split, city, frame, str(images / city / f"{frame}_leftImg8bit.png"), places)


def _mapillary_frames(root: Path) -> Iterator[Frame]:
    for split in MAPILLARY_IMAGES:
        folder = root / split
        found = {
            version: next((folder / place for place in places if (folder / place).is_dir()), None)
            for version, places in mapillary.LABEL_FOLDERS.items()
        }
        found = {version: labels for version, labels in found.items() if labels is not None}
        if not found and split != "testing":
            found["v1.2"] = folder / "labels"
        pictures = _files(folder / "images", ".jpg")
        for frame in sorted(set(pictures).union(*(_files(labels, ".png") for labels in found.values()))):
            labels = {version: str(labels / f"{frame}.png") for version, labels in found.items()}
            yield Frame(split, None, frame, str(folder / "images" / f"{frame}.jpg"), labels)


def _folder_frames(root: Path) -> Iterator[Frame]:
    for folder in sorted(path.parent for path in root.glob("*/images") if path.is_dir()):
        labels = folder / "labels"
        pictures = [path for path in _entries(folder / "images") if is_picture(path.name)]
        alone = set(_files(labels, ".png")) - {path.stem for path in pictures}
        for path in [*pictures, *(folder / "images" / f"{stem}.*" for stem in sorted(alone))]:
            place = {"labels": str(labels / f"{path.stem}.png")} if labels.is_dir() else {}
            yield Frame(folder.name, None, path.stem, str(path), place)


def _entries(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.name[0] != ".") if folder.is_dir() else []


def _files(folder: Path, ending: str) -> dict[str, Path]:
    return {path.name.removesuffix(ending): path for path in _entries(folder) if path.name.endswith(ending)}


def _label_tables(
    layout: str,
    data_dir: str | os.PathLike,
    kinds: Iterable[str],
    label_map: Mapping[int, int] | None,
    ignore_index: int,
    id2label: str | os.PathLike | None,
) -> dict[str, np.ndarray]:
    if layout == "cityscapes":
        return dict.fromkeys(kinds, cityscapes.LABEL_TABLE)
    if layout == "mapillary":
        return {version: mapillary.read_classes(data_dir, version).label_table for version in kinds}
    names = read_id2label(Path(id2label or Path(data_dir, "id2label.json")))
    return dict.fromkeys(kinds, make_label_table(names, label_map, ignore_index))


def _open_all(frames: list[Frame], tables: dict[str, np.ndarray], num_proc: int | None) -> Iterator[Found]:
    processes = min(num_proc or os.cpu_count() or 1, len(frames))
    with ProcessPoolExecutor(processes) as executor:
        found = executor.map(partial(_open, tables=tables), frames, chunksize=min(16, -(-len(frames) // processes)))
        yield from tqdm(found, total=len(frames), desc="Opening every file", unit="image")


def _open(frame: Frame, tables: dict[str, np.ndarray]) -> Found:
    found = Found(Counter(), [], [])
    size = None
    image_there = os.path.isfile(frame.image)
    # The known broken frame is a picture like any other, but training leaves it out whatever it holds.
    if image_there and frame.id not in cityscapes.BROKEN_FRAMES:
        try:
            size = read_image(frame.image).shape[1::-1]
        except InputError as error:
            found.broken.append(str(error))
    found.counts["images"] += image_there
    for kind, path in frame.labels.items():
        there = os.path.isfile(path)
        found.counts[kind] += there
        if there and not image_there:
            found.missing.append(f"{path}: its image is missing, looked for {frame.image}")
        if image_there and not there:
            found.missing.append(f"{frame.image}: its label is missing, looked for {path}")
        if not there:
            continue
        try:
            label_size = read_label(path, tables[kind]).shape[::-1]
        except InputError as error:
            found.broken.append(str(error))
            continue
        if size is not None and label_size != size:
            found.broken.append(
                f"{path}: the label is {label_size[0]}×{label_size[1]} pixels, its image {size[0]}×{size[1]}"
            )
    return found


def _count(report: Report, frames: list[Frame], results: Iterable[Found]) -> None:
    seen = {}
    for frame, found in zip(frames, results):
        first = seen.setdefault((frame.split, frame.id), frame.image)
        if first != frame.image:
            found.broken.append(f"{frame.image}: a second image named {frame.id}, besides {first}; rename one of them")
        for key in dict.fromkeys([(frame.split, None), (frame.split, frame.city)]):
            counts = report.counts.setdefault(key, Counter())
            counts.update(found.counts)
            counts["problems"] += len(found.missing) + len(found.broken)
        if found.missing:
            report.missing.setdefault(frame.split, []).extend(found.missing)
        report.broken += found.broken


def _compare_cityscapes(report: Report, ids: set[str]) -> None:
    if ("train_extra", None) in report.counts and "gtCoarse" not in report.kinds:
        report.notes.append(
            "there are no coarse labels (gtCoarse.zip): set use_coarse_labels to false, or unpack them"
        )
    if not any(city in CITYSCAPES_CITIES for _, city in report.counts):
        report.notes.append("these are not the official cities: counted only")
        return
    report.title += ", the official data"
    official = {(split, None): number for split, number in CITYSCAPES_IMAGES.items()}
    for split, cities in CITYSCAPES.items():
        official |= {(split, city): number for city, number in cities.items() if number is not None}
    if ("train_extra", None) not in report.counts:
        del official["train_extra", None]
        report.notes.append(
            "train_extra is not there (leftImg8bit_trainextra.zip, gtCoarse.zip): the paper's unlabelled images"
        )
    _compare(report, official)
    for frame in sorted(cityscapes.BROKEN_FRAMES & ids):
        report.notes.append(f"{frame} of train_extra is a grey field in the official data: training leaves it out")


def _compare(report: Report, official: dict[tuple[str, str | None], int]) -> None:
    report.official = official
    for (split, city), number in official.items():
        there = (split, None) in report.counts
        images = report.counts.get((split, city), Counter())["images"]
        if images != number and (there or city is None):
            name = split if city is None else f"{split}/{city}"
            report.differs.append(f"{name}: {images:,} images, officially {number:,}")

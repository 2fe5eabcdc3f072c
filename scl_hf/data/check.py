"""Checks a data set on disk: counts its files, finds those without a partner, and opens every one."""

import os
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from ..errors import InputError, killed_workers
from .columns import Frame, list_images
from .images import read_image, read_label
from .load import open_source
from .sources import cityscapes, folder, mapillary
from .sources.base import DataArguments

_LISTED = 20  # Of files that are not there, which come in thousands when a zip is not unpacked.
_LAYOUTS = {  # dataset -> what lists its frames, and what the report calls it
    "cityscapes": (cityscapes.find_frames, "the layout of Cityscapes"),
    "mapillary": (mapillary.find_frames, "Mapillary Vistas"),
    "folder": (folder.find_frames, "a folder"),
}


@dataclass
class Report:
    """
    What [`check_data`] found; `str(report)` is for a person. Counts and official numbers are by (split, city), or
    (split, None) for all of it; `missing` by split. `notes` are worth knowing and nothing to mend.
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
        sections = {"differs from the official data": self.differs, "missing": missing, "broken": self.broken}
        for heading, problems in sections.items():
            if problems:
                lines += ["", f"{heading}:", *(f"  {problem}" for problem in problems)]
        return "\n".join([*lines, "", self._verdict()])

    def _verdict(self) -> str:
        splits = [counts for (_, city), counts in self.counts.items() if city is None]
        files = sum(counts[kind] for counts in splits for kind in ("images", *self.kinds))
        if self.sound:
            return f"Complete and sound: {files:,} files opened."
        problems = {"missing": sum(map(len, self.missing.values())), "broken": len(self.broken)}
        problems["official numbers not met"] = len(self.differs)
        found = ", ".join(f"{count:,} {what}" for what, count in problems.items() if count)
        return f"NOT sound: {found}; {files:,} files found."

    def _table(self) -> list[str]:
        columns = ["images", *["official"] * bool(self.official), *self.kinds, "problems"]
        rows = [["split", *columns]]
        for (split, city), counts in self.counts.items():
            numbers = {"official": self.official.get((split, city)), **counts}
            cells = ["–" if numbers.get(column) is None else f"{numbers[column]:,}" for column in columns]
            rows.append([split if city is None else f"  {city}", *cells])
        first, *others = [max(map(len, column)) for column in zip(*rows)]
        return ["  ".join([row[0].ljust(first), *map(str.rjust, row[1:], others)]) for row in rows]


def find_layout(data_dir: str | os.PathLike, recipe: DataArguments | None = None) -> DataArguments:
    """The data fields of what is in a folder, judged by its layout; a recipe has those of a folder of one's own."""
    own = {name: getattr(recipe or DataArguments(), name) for name in ("id2label", "label_map", "ignore_index")}
    root = Path(data_dir)
    if not os.path.isdir(root):
        raise InputError(f"{root}: no such folder; name the folder of the data")
    splits = {path.parent.name for path in root.glob("*/images") if path.is_dir()}
    if any(cityscapes.find_split(root, "leftImg8bit", split) for split in cityscapes.NUM_IMAGES):
        layout = "cityscapes"
    elif (own["id2label"] or (root / "id2label.json").is_file()) and splits:
        layout = "folder"
    elif splits & {"training", "testing"}:
        layout = "mapillary"
    elif splits:
        raise InputError(
            f'{root}: id2label.json is missing; put the names of the classes there, {{"0": "sky", "1": "road", …}}'
        )
    else:
        raise InputError(
            f"{root}: holds no data set; looked for leftImg8bit/train (Cityscapes), training/images (Mapillary "
            "Vistas) and <split>/images (a folder of your own): name the folder that has them (Parquet and other data "
            "of `datasets` is not checked)"
        )
    return DataArguments(dataset=layout, data_dir=str(data_dir), **own)


def check_data(
    data_dir: str | os.PathLike, num_proc: int | None = None, recipe: DataArguments | None = None
) -> Report:
    """
    Counts the images and labels of a data set against the official numbers, where there are some, and opens every one
    of them: whether it can be read, whether image and label are of one size, whether a label holds unknown ids. A
    recipe has the class names and the ids of a folder of one's own, and `unlabeled_dirs` to be opened, too.
    """
    if num_proc is not None and num_proc < 1:
        raise InputError(f"num_proc: {num_proc} is too few processes; give 1 or more")
    args = find_layout(data_dir, recipe)
    find_frames, title = _LAYOUTS[args.dataset]
    frames = find_frames(args.data_dir)
    if not frames:
        raise InputError(f"{data_dir}: its folders hold no pictures; unpack the data there")
    report = Report(f"{data_dir}: {title}", list(dict.fromkeys(kind for frame in frames for kind in frame.labels)))
    if args.dataset == "folder":
        unlabeled = sorted({frame.split for frame in frames} - {frame.split for frame in frames if frame.labels})
        report.notes += [f"{split} has no folder labels: its images are unlabeled" for split in unlabeled]
    tables = {}
    for kind in report.kinds:
        config = kind if args.dataset == "mapillary" else None
        tables[kind] = open_source(replace(args, dataset_config=config)).labels.table
    for pictures in recipe.unlabeled_dirs if recipe else ():
        for name in list_images(pictures):
            frames.append(Frame(pictures, name, os.path.join(pictures, name), {}, frozenset({"image"})))
    _open_all(report, frames, tables, num_proc)
    if args.dataset == "cityscapes":
        _compare_cityscapes(report, {frame.id for frame in frames})
    elif args.dataset == "mapillary":
        _compare(report, {(split, None): number for split, number in mapillary.NUM_IMAGES.items()})
    return report


@killed_workers()
def _open_all(report: Report, frames: list[Frame], tables: dict[str, np.ndarray], num_proc: int | None) -> None:
    """Opens what there is of the frames, and enters the counts and what is missing and broken into the report."""
    processes = min(num_proc or os.cpu_count() or 1, len(frames))
    images = {}
    with ProcessPoolExecutor(processes) as executor:
        found = executor.map(partial(_open, tables=tables), frames, chunksize=min(16, -(-len(frames) // processes)))
        found = tqdm(found, total=len(frames), desc="Opening every file", unit="image")
        for frame, (present, missing, broken) in zip(frames, found):
            first = images.setdefault((frame.split, frame.id), frame.image)
            if first != frame.image:
                broken.append(f"{frame.image}: a second image named {frame.id}, besides {first}; rename one of them")
            for city in dict.fromkeys([None, frame.city]):
                counts = report.counts.setdefault((frame.split, city), Counter())
                counts.update(present, problems=len(missing) + len(broken))
            if missing:
                report.missing.setdefault(frame.split, []).extend(missing)
            report.broken += broken


def _open(frame: Frame, tables: dict[str, np.ndarray]) -> tuple[dict[str, int], list[str], list[str]]:
    """Counts of `"images"` and of each kind of label of a frame, what of it is missing and what is broken."""
    image_there = "image" in frame.present
    present, missing, broken = {"images": int(image_there)}, [], []
    size = None
    # The known broken frame is a picture like any other, but training leaves it out whatever it holds.
    if image_there and frame.id not in cityscapes.BROKEN_FRAMES:
        try:
            size = read_image(frame.image).shape[1::-1]
        except InputError as error:
            broken.append(str(error))
    for kind, path in frame.labels.items():
        present[kind] = int(kind in frame.present)
        if not present[kind]:
            if image_there:
                missing.append(f"{frame.image}: its label is missing, looked for {path}")
            continue
        if not image_there:
            missing.append(f"{path}: its image is missing, looked for {frame.image}")
        try:
            label_size = read_label(path, tables[kind]).shape[::-1]
        except InputError as error:
            broken.append(str(error))
            continue
        if size not in (None, label_size):
            broken.append(
                f"{path}: the label is {label_size[0]}×{label_size[1]} pixels, its image {size[0]}×{size[1]}"
            )
    return present, missing, broken


def _compare_cityscapes(report: Report, ids: set[str]) -> None:
    if ("train_extra", None) in report.counts and "gtCoarse" not in report.kinds:
        report.notes.append(
            "there are no coarse labels (gtCoarse.zip): set use_coarse_labels to false, or unpack them"
        )
    if not any(city in cityscapes.ALL_CITIES for _, city in report.counts):
        report.notes.append("these are not the official cities: counted only")
        return
    report.title += ", the official data"
    official = {(split, None): number for split, number in cityscapes.NUM_IMAGES.items()}
    for split, cities in cityscapes.CITIES.items():
        official |= {(split, city): number for city, number in cities.items() if number is not None}
    if ("train_extra", None) not in report.counts:
        del official["train_extra", None]
        report.notes.append(
            "train_extra is not there (leftImg8bit_trainextra.zip, gtCoarse.zip): the paper's unlabeled images"
        )
    _compare(report, official)
    for frame in sorted(cityscapes.BROKEN_FRAMES & ids):
        report.notes.append(f"{frame} of train_extra is a gray field in the official data: training leaves it out")


def _compare(report: Report, official: dict[tuple[str, str | None], int]) -> None:
    report.official = official
    for (split, city), number in official.items():
        there = (split, None) in report.counts
        images = report.counts.get((split, city), Counter())["images"]
        if images != number and (there or city is None):
            name = split if city is None else f"{split}/{city}"
            report.differs.append(f"{name}: {images:,} images, officially {number:,}")

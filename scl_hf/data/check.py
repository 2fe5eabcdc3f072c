"""Checks a dataset on disk: counts its files, finds those without a partner, and opens every one."""

import contextlib
import itertools
import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial

import cv2
import numpy as np
from tqdm.auto import tqdm

from ..errors import InputError, did_you_mean, first_few, killed_workers
from .arguments import DataArguments
from .check_report import LISTED, Report, Sample
from .classes import missing_classes_problem
from .findings import TINY, is_map_like, palette_of_file, palettes_differ
from .images import IGNORE_INDEX, InputImage, describe_values, in_one_thread, read_bytes, read_image
from .labels import MANY_VALUES, LabelImage, check_sizes, count_values, read_label
from .sources import cityscapes, mapillary
from .sources.base import Example, Source, list_images, unlabeled_note
from .sources.layouts import LAYOUTS, find_layout, open_source

_SHOWN, _CANDIDATES = 6, 40  # examples to show, and to choose those with labels from
_SIDE = 480  # pixels of an image to show


@dataclass
class _Found:
    """What there is of an example. `pixels` is kind of label -> the number of pixels of each train id, (256,)."""

    present: dict[str, int]
    broken: list[str] = field(default_factory=list)
    pixels: dict[str, np.ndarray] = field(default_factory=dict)
    unknown: dict[str, list[int | str]] = field(default_factory=dict)  # kind of label -> values without a class
    palettes: dict[bytes | None, str] = field(default_factory=dict)  # palette -> file
    map_like: bool = False
    tiny: bool = False
    sample: Sample | None = None


Opened = Sequence[tuple[Example, _Found]]


def check_data(
    data_dir: str | os.PathLike | None = None, num_proc: int | None = None, recipe: DataArguments | None = None
) -> Report:
    """
    Opens every image and label once, and counts them; finds files that are missing or cannot be read, labels of
    another size than their image, unknown ids, classes that no label shows, and what is probably a mistake. By default
    `data_dir` is that of the recipe, and each core has a process.
    """
    if num_proc is not None and num_proc < 1:
        raise InputError(f"num_proc: {num_proc} is too few processes; give 1 or more")
    if not data_dir and recipe and recipe.dataset not in LAYOUTS:
        raise InputError(f"dataset: {recipe.dataset} is opened by `datasets`; check opens folders of files, name one")
    args = find_layout(data_dir, recipe)
    if args.dataset == "mapillary":  # each version of its labels is a source, of which a folder may have one
        examples = mapillary.find_examples(os.path.abspath(args.data_dir), args.dataset_config)
        sources = {kind: open_source(replace(args, dataset_config=kind)) for kind in _kinds(examples)}
        source = next(iter(sources.values()), None) or open_source(args)
    else:
        source = open_source(args)
        examples = list(source.examples)
        sources = dict.fromkeys(_kinds(examples), source)
    kinds, tables = list(sources), {kind: each.labels for kind, each in sources.items()}
    title = f"{args.data_dir}: {LAYOUTS[args.dataset].TITLE}"
    report = Report(args.title, args.data_dir or "", title, kinds, source.labels.id2label, source.palette)
    report.notes += source.notes
    for folder in args.unlabeled_dirs:
        for name in list_images(folder):
            examples.append(Example(folder, name, os.path.join(folder, name), {}, frozenset({"image"})))
    if not examples:
        raise InputError(f"{args.data_dir}: its folders hold no images; unpack the data there")
    opened = _open_all(examples, _candidates(examples, kinds), tables, source.input, num_proc)
    own = args if args.dataset == "folder" else None
    _enter_left_out(report, examples, source.left_out)
    _enter_files(report, opened, own, source)
    _enter_classes(report, opened, tables, own is not None, source.own_classes)
    _enter_notes(report, opened, tables, source.input)
    samples = [each.sample for _, each in opened if each.sample]
    report.labeled = _choose([sample for sample in samples if sample.label is not None])
    report.unlabeled = [sample for sample in samples if sample.label is None]
    if args.dataset == "cityscapes":
        _compare_cityscapes(report, {example.id for example in examples})
    elif args.dataset == "mapillary":
        _compare(report, {(split, None): number for split, number in mapillary.NUM_IMAGES.items()})
    return report


def _kinds(examples: Sequence[Example]) -> list[str]:
    return list(dict.fromkeys(kind for example in examples for kind in example.labels))


def _candidates(examples: Sequence[Example], kinds: Sequence[str]) -> set[int]:
    """Chooses examples to show, evenly: indices of some with a label of the first kind, and of some without."""
    shown = [i for i, each in enumerate(examples) if "image" in each.present and not each.split.startswith("test")]
    labeled = {i for i in shown if not examples[i].present.isdisjoint(kinds[:1])}
    plain = [i for i in shown if i not in labeled]
    return {*_evenly(sorted(labeled), _CANDIDATES), *_evenly(plain, _SHOWN)}


def _evenly(items: Sequence, number: int) -> list:
    return [items[i] for i in np.unique(np.linspace(0, len(items) - 1, min(number, len(items))).astype(int))]


@killed_workers()
def _open_all(
    examples: Sequence[Example],
    shown: Collection[int],
    tables: dict[str, LabelImage],
    form: InputImage | None,
    num_proc: int | None,
) -> Opened:
    """Opens all files; those examples `shown` are kept."""
    processes = min(num_proc or os.cpu_count() or 1, len(examples))
    chunk = min(16, -(-len(examples) // processes))
    with ProcessPoolExecutor(processes) as executor:
        keep = [index in shown for index in range(len(examples))]
        found = executor.map(partial(_open, tables=tables, form=form), examples, keep, chunksize=chunk)
        return list(zip(examples, list(tqdm(found, "Opening every file", len(examples)))))


def _open(example: Example, keep: bool, tables: dict[str, LabelImage], form: InputImage | None) -> _Found:
    has_image = "image" in example.present
    found = _Found({"images": int(has_image), **{kind: int(kind in example.present) for kind in example.labels}})
    image, labels = None, {}
    if has_image and example.id not in cityscapes.BROKEN_IMAGES:  # which training leaves out
        try:
            image = read_image(example.image, form)
            found.map_like = is_map_like(image)
            found.tiny = min(image.shape[:2]) < TINY
        except InputError as error:
            found.broken.append(str(error))
    for kind, path in example.labels.items():
        if kind in example.present:
            source = path
            try:
                if not os.path.isdir(path):
                    source = {"path": path, "bytes": read_bytes(path)[1]}
                    found.palettes[palette_of_file(source["bytes"])] = path
                label = labels[kind] = read_label(source, tables[kind])
                found.pixels[kind] = np.bincount(label.ravel(), minlength=IGNORE_INDEX + 1)
                if image is not None:
                    check_sizes({"image": example.image, "label": path}, image.shape[1::-1], label.shape[::-1])
            except InputError as error:
                found.broken.append(str(error))
                with contextlib.suppress(InputError):
                    values = [value for value, train_id in count_values(source, tables[kind]) if train_id < 0]
                    found.unknown[kind] = values if len(values) <= MANY_VALUES else []
    if keep and image is not None and not found.broken:
        label = labels.get(next(iter(tables), None))
        label = None if label is None else _reduce(label, cv2.INTER_NEAREST)
        found.sample = Sample(f"{example.split}/{example.id}", _reduce(image, cv2.INTER_AREA), label)
    return found


@in_one_thread()
def _reduce(pixels: np.ndarray, interpolation: int) -> np.ndarray:
    factor = min(1, _SIDE / max(pixels.shape[:2]))
    size = [max(1, round(factor * side)) for side in pixels.shape[1::-1]]
    return cv2.resize(pixels, size, interpolation=interpolation)


def _choose(samples: Sequence[Sample]) -> list[Sample]:
    """Chooses samples that together show as many classes as possible, and others evenly."""
    classes = [set(np.unique(sample.label)) for sample in samples]
    chosen, seen = [], set()
    while len(chosen) < min(_SHOWN, len(samples)):
        best = max(range(len(samples)), key=lambda i: len(classes[i] - seen))
        if not classes[best] - seen:
            break
        chosen.append(best)
        seen |= classes[best]
    others = [i for i in range(len(samples)) if i not in chosen]
    return [samples[i] for i in sorted([*chosen, *_evenly(others, _SHOWN - len(chosen))])]


def _enter_files(report: Report, opened: Opened, own: DataArguments | None, source: Source) -> None:
    """Enters counts, broken and missing files; of a folder of one's `own`, images without a label may be unlabeled."""
    images = Counter(example.split for example, _ in opened if "image" in example.present)
    files, alone = {}, {split: [] for split in images}  # ids of images without a label
    for example, _ in opened:
        if example.present == {"image"}:
            alone[example.split].append(example.id)
    evaluated = [own.eval_split] if own and own.validation_fraction is None else []
    for example, each in opened:
        split, has_image = example.split, "image" in example.present
        missing = report.missing.setdefault(split, [])
        before = len(missing) + len(report.broken)
        report.broken += each.broken
        if example.image != files.setdefault((split, example.id), example.image):
            report.broken.append(f"{example.image}: a second image named {example.id}; rename one of them")
        complete = not own or split in evaluated and len(alone[split]) < images[split]
        for kind in report.kinds if own else example.labels:
            path = example.labels.get(kind)
            if has_image and kind not in example.present and complete:
                missing.append(f"{example.image}: its label is missing" + f", looked for {path}" * (path is not None))
            elif not has_image and kind in example.present:
                hint = did_you_mean(example.id, alone.get(split, ())) if len(missing) < LISTED else ""
                looked = f", looked for {example.image}"
                missing.append(f"{path}: its image is missing{f'.{hint}' if hint else looked}")
        for city in dict.fromkeys([None, example.city]):
            counts = report.counts.setdefault((split, city), Counter())
            counts.update(each.present, problems=len(missing) + len(report.broken) - before)
    report.missing = {split: missing for split, missing in report.missing.items() if missing}
    if not own:
        return
    if all(len(alone[split]) == number for split, number in images.items()):
        try:
            source.open(next(split for split in (*own.train_splits, *images) if split in images), require_labels=True)
        except InputError as error:  # also of a label without an image
            report.problems.append(f"no image has a label: {error}")
        return
    for split in dict.fromkeys([*own.train_splits, *evaluated, *images]):
        number, unlabeled = images[split], len(alone.get(split, ()))
        if not number and split == own.eval_split:
            remedy = "write validation_fraction: 0.2, a part of train, or eval_strategy: no, no evaluation"
            report.notes.append(f"{split}: there is no such split to evaluate on; in a recipe {remedy}")
        elif unlabeled == number and split in (*own.train_splits, *evaluated):
            report.problems.append(f"{split}: none of its {number:,} images has a label")
        elif unlabeled and split not in (*evaluated, *own.unlabeled_dirs):
            report.notes.append(unlabeled_note(split, unlabeled, number))


def _enter_left_out(report: Report, examples: Sequence[Example], left_out: Sequence[str]) -> None:
    """Enters that most files are in no example; of images in one folder, a list may choose some."""
    folders = {os.path.dirname(example.image) for example in examples}
    others = [path for path in left_out if os.path.dirname(path) not in folders]
    if len(others) > (used := sum(len(example.present) for example in examples)):
        report.problems.append(
            f"{len(others):,} files, such as {others[0]}, are neither images nor labels, but only {used:,} are; move "
            "them elsewhere, or write train_images and train_labels without data_dir"
        )


def _enter_classes(
    report: Report, opened: Opened, tables: Mapping[str, LabelImage], is_folder: bool, own: bool
) -> None:
    """Enters the shares of classes, and those that no label shows, which is wrong where they are the user's `own`."""
    for kind, labels in tables.items():
        values = [each.unknown[kind] for _, each in opened if kind in each.unknown]
        unknown = Counter(itertools.chain(*values))
        if len(unknown) > min(5, max(map(len, values), default=5)):  # more than the first problem names
            listed = first_few((f"{value} ({count:,})" for value, count in unknown.most_common()), LISTED)
            report.problems.append(f"values without a class, and how many labels hold them: {listed}")
        totals = {}  # of each split: (2, 256), of pixels and of labels that show them
        for example, each in opened:
            if kind in each.pixels:
                total = totals.setdefault(example.split, np.zeros((2, IGNORE_INDEX + 1), np.int64))
                total += each.pixels[kind], each.pixels[kind] > 0
        totals = {split: total for split, total in totals.items() if is_folder or total[0, :IGNORE_INDEX].any()}
        if not totals:
            continue
        total = sum(totals.values())
        if kind == report.kinds[0]:
            num_labels = sum(kind in each.pixels and example.split in totals for example, each in opened)
            report.shares = total / [[total[0].sum()], [num_labels]]
        if any(each.broken for _, each in opened):  # what cannot be read may show more
            continue
        if own or not total[0, :IGNORE_INDEX].any():
            paths = (example.labels[kind] for example, _ in opened if kind in example.present)
            problem = missing_classes_problem(labels, np.flatnonzero(total[1]), paths)
            report.problems += [problem] if problem else []
        for split, (_, images) in totals.items() if kind == report.kinds[0] else ():
            if absent := [name for i, name in labels.id2label.items() if not images[i] and (total[1, i] or not own)]:
                report.notes.append(f"{split}: no label shows {first_few(absent, 5)}")


def _enter_notes(report: Report, opened: Opened, tables: Mapping[str, LabelImage], form: InputImage | None) -> None:
    """Enters what is unusual, and may be right."""
    if tiny := [example.image for example, each in opened if each.tiny]:
        report.problems.append(f"{_such_as(tiny)}: smaller than {TINY} pixels; remove it")
    if map_like := [example.image for example, each in opened if each.map_like]:
        report.notes.append(f"{_such_as(map_like)}: few colors in flat areas, as in a label; is it an image?")
    names = {}  # of files -> names of the images
    for example, _ in opened:
        if "image" in example.present:
            names.setdefault(os.path.basename(example.image), []).append(f"{example.split}/{example.id}")
    if twice := [of for of in names.values() if len(of) > 1]:
        what = "name occurs" if len(twice) == 1 else "names occur"
        pair = " and ".join(twice[0][:2])
        report.notes.append(f"{len(twice):,} {what} in several folders, such as {pair}, taken for different images")
    palettes = dict(item for _, each in opened for item in each.palettes.items() if item[0])
    if palettes_differ({*palettes}) and not any(labels.colors for labels in tables.values()):
        files = first_few(palettes.values(), 2)
        report.notes.append(
            f"palettes of label files differ, as in {files}: a pixel's class is its number, not its color"
        )
    for part, labeled in (("labeled", True), ("unlabeled", False)):
        own = (example for example, each in opened if bool(each.pixels) == labeled)
        paths = [example.image for example in own if "image" in example.present]
        with contextlib.suppress(InputError):  # it is named as broken
            if note := describe_values(_evenly(paths, 8), form):
                report.notes.append(f"{part} {note}")


def _such_as(files: Sequence[str]) -> str:
    return files[0] if len(files) == 1 else f"{len(files):,} images, such as {files[0]}"


def _compare_cityscapes(report: Report, ids: set[str]) -> None:
    has_extra = ("train_extra", None) in report.counts
    if has_extra and "gtCoarse" not in report.kinds:
        report.notes.append("there are no coarse labels (gtCoarse.zip): set use_coarse_labels to false or unpack them")
    if not any(city in cityscapes.ALL_CITIES for _, city in report.counts):
        report.notes.append("these are not the official cities: counted only")
        return
    report.title += ", the official data"
    if not has_extra:
        report.notes.append("train_extra, the paper's unlabeled images, is not there (leftImg8bit_trainextra.zip)")
    official = {(split, None): number for split, number in cityscapes.NUM_IMAGES.items()}
    for split, cities in cityscapes.CITIES.items():
        official |= {(split, city): number for city, number in cities.items() if number is not None}
    _compare(report, {key: number for key, number in official.items() if has_extra or key[0] != "train_extra"})
    for image_id in sorted(cityscapes.BROKEN_IMAGES & ids):
        report.notes.append(f"{image_id} of train_extra is a gray field in the official data: training leaves it out")


def _compare(report: Report, official: dict[tuple[str, str | None], int]) -> None:
    report.official = official
    for (split, city), number in official.items():
        images = report.counts.get((split, city), Counter())["images"]
        if images != number and ((split, None) in report.counts or city is None):
            name = split if city is None else f"{split}/{city}"
            report.differs.append(f"{name}: {images:,} images, officially {number:,}")

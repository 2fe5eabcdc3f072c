"""Chooses labeled and unlabeled images, and finds images that two datasets share."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import datasets
import numpy as np

from ..errors import InputError, first_few
from .columns import stored_files
from .images import check_files, read_bytes
from .sources.lists import Names


def choose_images(
    parts: dict[str, datasets.Dataset], number: int, seed: int, on_top: dict[str, list[int]]
) -> dict[str, list[int]]:
    """Chooses `number` images at random, and those `on_top`: part -> sorted indices. Smaller numbers are nested."""
    chosen = {(part, index) for part, indices in on_top.items() for index in indices}
    available = sum(map(len, parts.values())) - len(chosen)
    if number > available:
        raise InputError(f"num_unlabeled: {number}, but there are {available} unlabeled images; leave it out for all")
    # By a hash of its id, the rank of an image does not depend on which other images there are
    ranked = sorted(
        (hashlib.sha256(f"{seed}/{part}/{image_id}".encode()).digest(), part, index)
        for part, images in parts.items()
        for index, image_id in enumerate(images["id"][:])
        if (part, index) not in chosen
    )
    chosen.update((part, index) for _, part, index in ranked[:number])
    return {part: sorted(index for other, index in chosen if other == part) for part in parts}


def choose_listed(
    train: dict[str, datasets.Dataset], listed: set[str], source: str, labeled: Mapping[str, np.ndarray] | None = None
) -> dict[str, list[int]]:
    """Chooses the images that `source` lists, by ids or file names: split -> indices; all must be `labeled` (N,)."""
    places = [(split, index) for split, dataset in train.items() for index in range(len(dataset))]
    ids = [image_id for dataset in train.values() for image_id in dataset["id"][:]]
    by_id, chosen, unknown = defaultdict(list), set(), listed.difference(ids)
    for position, image_id in enumerate(ids):
        by_id[image_id].append(position)
    if unknown and all("image" in dataset.column_names for dataset in train.values()):
        paths = [path for dataset in train.values() for path in stored_files(dataset, "image")[0]]
        names = Names([path or image_id for path, image_id in zip(paths, ids)])
        by_id |= {name: names.find_line(name)[0] for name in unknown}
        unknown = {name for name in unknown if not by_id[name]}
    if unknown:
        raise InputError(
            f"{source}: {len(unknown)} of {len(listed)} ids are not in the data ({', '.join(train)}): "
            f"{first_few(sorted(unknown), 5)}; complete the data, or write ids like {ids[0]}"
        )
    for name in listed:
        if len({ids[position] for position in by_id[name]}) > 1:
            few = first_few(ids[position] for position in by_id[name])
            raise InputError(f"{source}: {name} may be {few}; write it with its folder")
        chosen |= {places[position] for position in by_id[name]}
    bare = [place for place in sorted(chosen) if labeled is not None and not labeled[place[0]][place[1]]]
    if bare:
        few = first_few(train[split]["id"][index] for split, index in bare)
        raise InputError(f"{source}: {len(bare)} of {len(listed)} are images without a label: {few}; take them out")
    return {split: sorted(index for other, index in chosen if other == split) for split in train}


def hold_out(
    units: Mapping[str, Sequence[str]], labeled: Mapping[str, np.ndarray], fraction: float, seed: int
) -> dict[str, np.ndarray]:
    """Chooses units, such as folders, until they have a share of the labels: part -> which images are of them (N,)."""
    counts = Counter(
        (part, unit) for part, names in units.items() for unit, has_label in zip(names, labeled[part]) if has_label
    )
    if len(counts) < 2:
        raise InputError(
            f"validation_fraction: all {counts.total()} labeled images are of one folder, or one image; write "
            "validation_by: image, or give more labels"
        )
    ranked = sorted(counts, key=lambda each: hashlib.sha256(f"{seed}/{each[0]}/{each[1]}".encode()).digest())
    chosen, number = set(), 0
    for each in ranked[:-1]:
        if number >= max(1, round(fraction * counts.total())):
            break
        chosen.add(each)
        number += counts[each]
    return {part: np.array([(part, unit) in chosen for unit in names], bool) for part, names in units.items()}


def find_shared_images(dataset: datasets.Dataset, evaluation: datasets.Dataset) -> list[tuple[str, str]]:
    """Returns pairs of names (there, in the evaluation) of images in both: the same path, or the same content."""
    theirs, own = _stored(dataset), _stored(evaluation)
    paths = {path for path, _ in theirs if path}
    sizes = {size for path, size in own if path not in paths}
    twins = {_digest(dataset[index]["image"]): index for index, (_, size) in enumerate(theirs) if size in sizes}
    sizes = {size for _, size in theirs}
    shared = []
    for index, (path, size) in enumerate(own):
        if path in paths:
            shared.append((path, path))
        elif size in sizes and (twin := twins.get(_digest(evaluation[index]["image"]))) is not None:
            shared.append((theirs[twin][0] or dataset[twin]["id"], path or evaluation[index]["id"]))
    return shared


def _stored(dataset: datasets.Dataset) -> list[tuple[str | None, int]]:
    """Returns path and size of each image; no path if the dataset holds the image itself."""
    paths, sizes = stored_files(dataset, "image")
    outside = iter(check_files(path for path, size in zip(paths, sizes) if size is None))
    return [(path, next(outside)) if size is None else (None, size) for path, size in zip(paths, sizes)]


def _digest(image: dict) -> bytes:
    return hashlib.sha256(read_bytes(image)[1]).digest()

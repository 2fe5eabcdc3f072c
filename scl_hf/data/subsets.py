"""Chooses labeled and unlabeled images, and finds images that two datasets share."""

import hashlib
import os
from pathlib import Path

import datasets

from ..errors import InputError, first_few
from .columns import stored_files
from .images import check_files, read_bytes


def choose_fraction(labeled: dict[str, datasets.Dataset], fraction: float, seed: int) -> dict[str, list[int]]:
    """Chooses a share of all images at random, at least one, as [`choose_images`] does."""
    total = sum(map(len, labeled.values()))
    return choose_images(labeled, min(total, max(1, round(fraction * total))), seed, {})


def choose_images(
    parts: dict[str, datasets.Dataset], number: int, seed: int, on_top: dict[str, list[int]]
) -> dict[str, list[int]]:
    """Chooses `number` images at random, and those `on_top`: part -> sorted indices. Smaller numbers are nested."""
    chosen = {(part, index) for part, indices in on_top.items() for index in indices}
    available = sum(map(len, parts.values())) - len(chosen)
    if number > available:
        raise InputError(
            f"num_unlabeled: {number}, but the pool has {available} unlabeled images; leave the field out for all"
        )
    # By a hash of its id, the rank of an image does not depend on which other images there are
    ranked = sorted(
        (hashlib.sha256(f"{seed}/{part}/{image_id}".encode()).digest(), part, index)
        for part, images in parts.items()
        for index, image_id in enumerate(images["id"][:])
        if (part, index) not in chosen
    )
    chosen.update((part, index) for _, part, index in ranked[:number])
    return {part: sorted(index for other, index in chosen if other == part) for part in parts}


def choose_listed(labeled: dict[str, datasets.Dataset], listed: set[str], source: str) -> dict[str, list[int]]:
    """Chooses the listed ids: split -> sorted indices. `source` names the list in messages."""
    ids = {split: dataset["id"][:] for split, dataset in labeled.items()}
    unknown = sorted(listed.difference(*ids.values()))
    if unknown:
        raise InputError(
            f"{source}: {len(unknown)} of {len(listed)} ids are not in the data ({', '.join(labeled)}): "
            f"{first_few(unknown, 5)}; complete the data, or write ids like {next(iter(ids.values()))[0]}"
        )
    return {split: [index for index, image_id in enumerate(ids[split]) if image_id in listed] for split in labeled}


def read_ids(path: str | os.PathLike) -> set[str]:
    """Reads the ids in a text file, one a line."""
    try:
        if os.path.exists(path) and not os.path.isfile(path):  # reading a named pipe would wait for ever
            raise OSError(0, "it is no file")
        listed = {line.strip() for line in Path(path).read_text(encoding="utf-8-sig").splitlines()} - {""}
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise InputError(f"labeled_ids: cannot open {path} ({reason}); name a file with one id a line") from error
    if not listed:
        raise InputError(f"{path}: holds no ids; write the id of one labeled image a line")
    return listed


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

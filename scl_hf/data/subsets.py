"""Which labeled images keep their labels, and which images are in two places."""

import hashlib
import os
from pathlib import Path

import datasets

from ..errors import InputError, first_few
from .columns import stored_files
from .images import check_files, read_bytes


def choose_fraction(labeled: dict[str, datasets.Dataset], fraction: float, seed: int) -> dict[str, list[int]]:
    """
    The rows of each split, in order, that are a share of all rows at random, at least one. With one seed, a smaller
    share is part of a larger one.
    """
    ranked = _ranked(labeled, seed)
    chosen = ranked[: max(1, round(fraction * len(ranked)))]
    return {split: sorted(row for other, row in chosen if other == split) for split in labeled}


def choose_unlabeled(
    pool: dict[str, datasets.Dataset], number: int, seed: int, on_top: dict[str, list[int]]
) -> dict[str, list[int]]:
    """
    The rows of each part of the pool, in order, that are `number` of its images at random and those `on_top`. With one
    seed, a smaller number is part of a larger one.
    """
    besides = {(part, row) for part, rows in on_top.items() for row in rows}
    ranked = [image for image in _ranked(pool, seed) if image not in besides]
    if number > len(ranked):
        raise InputError(
            f"num_unlabeled: {number}, but the pool has {len(ranked)} unlabeled images; leave the field out for all"
        )
    chosen = besides.union(ranked[:number])
    return {part: sorted(row for other, row in chosen if other == part) for part in pool}


def _ranked(images: dict[str, datasets.Dataset], seed: int) -> list[tuple[str, int]]:
    """Name of the part and row of each image, in an order that a seed draws."""
    # By a hash of the id, an image's place depends on neither the order nor the number of the others' files.
    ranked = sorted(
        (hashlib.sha256(f"{seed}/{part}/{image_id}".encode()).digest(), part, row)
        for part, rows in images.items()
        for row, image_id in enumerate(rows["id"][:])
    )
    return [(part, row) for _, part, row in ranked]


def choose_listed(labeled: dict[str, datasets.Dataset], listed: set[str], source: str) -> dict[str, list[int]]:
    """The rows of the listed ids in each split, in order; `source` is where they come from, for the message."""
    ids = {split: rows["id"][:] for split, rows in labeled.items()}
    unknown = sorted(listed.difference(*ids.values()))
    if unknown:
        raise InputError(
            f"{source}: {len(unknown)} of {len(listed)} ids are not in the data ({', '.join(labeled)}): "
            f"{first_few(unknown, 5)}; correct them or complete the data, "
            f"an id is written like {next(iter(ids.values()))[0]}"
        )
    return {split: [row for row, image_id in enumerate(ids[split]) if image_id in listed] for split in labeled}


def read_ids(path: str | os.PathLike) -> set[str]:
    """The ids in a text file, one a line."""
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


def shared_images(rows: datasets.Dataset, evaluation: datasets.Dataset) -> list[tuple[str, str]]:
    """
    For each evaluation image that is among the rows, by its file or its content, the name of its twin and its own:
    path, or id where the data set holds the image itself. Only files whose size occurs on both sides are read.
    """
    theirs, own = _stored(rows), _stored(evaluation)
    paths = {path for path, _ in theirs if path}
    sizes = {size for path, size in own if path not in paths}
    twins = {_digest(rows[row]["image"]): row for row, (_, size) in enumerate(theirs) if size in sizes}
    sizes = {size for _, size in theirs}
    shared = []
    for row, (path, size) in enumerate(own):
        if path in paths:
            shared.append((path, path))
        elif size in sizes and (twin := twins.get(_digest(evaluation[row]["image"]))) is not None:
            shared.append((theirs[twin][0] or rows[twin]["id"], path or evaluation[row]["id"]))
    return shared


def _stored(rows: datasets.Dataset) -> list[tuple[str | None, int]]:
    """Path and size of each image; no path where the data set holds the image itself."""
    paths, sizes = stored_files(rows, "image")
    outside = iter(check_files(path for path, size in zip(paths, sizes) if size is None))
    return [(path, next(outside)) if size is None else (None, size) for path, size in zip(paths, sizes)]


def _digest(image: dict) -> bytes:
    return hashlib.sha256(read_bytes(image)[1]).digest()

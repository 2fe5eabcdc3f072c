"""Which labelled images keep their labels, and which images are in two places."""

import hashlib
import os
from pathlib import Path

import datasets
import pyarrow.compute as pc

from ..errors import InputError
from .pictures import check_files

CITYSCAPES_SPLITS = Path(__file__).with_name("cityscapes_splits")


def choose_fraction(labeled: dict[str, datasets.Dataset], fraction: float, seed: int) -> dict[str, list[int]]:
    """
    Chooses a share of all rows at random. With one seed, a smaller share is part of a larger one.

    Args:
        labeled (`dict[str, datasets.Dataset]`): The splits with labels; column `id`.
        fraction (`float`): The share of all rows together, at least one row.
        seed (`int`): Which ones.

    Returns:
        `dict[str, list[int]]`: The chosen rows of each split, in order.
    """
    # Ranked by a hash of the id, an image's choice depends on neither the order nor the number of the others' files.
    ranked = sorted(
        (hashlib.sha256(f"{seed}/{split}/{image_id}".encode()).digest(), split, row)
        for split, rows in labeled.items()
        for row, image_id in enumerate(rows["id"][:])
    )
    chosen = ranked[: max(1, round(fraction * len(ranked)))]
    return {split: sorted(row for _, other, row in chosen if other == split) for split in labeled}


def choose_listed(labeled: dict[str, datasets.Dataset], listed: set[str], source: str) -> dict[str, list[int]]:
    """
    Chooses the rows of the listed ids.

    Args:
        labeled (`dict[str, datasets.Dataset]`): The splits with labels; column `id`.
        listed (`set[str]`): The ids.
        source (`str`): Where they come from, for the message.

    Returns:
        `dict[str, list[int]]`: The chosen rows of each split, in order.

    Raises:
        InputError: An id is not in the data; names the first five and their number.
    """
    ids = {split: rows["id"][:] for split, rows in labeled.items()}
    unknown = sorted(listed.difference(*ids.values()))
    if unknown:
        more = ", …" if len(unknown) > 5 else ""
        raise InputError(
            f"{source}: {len(unknown)} of {len(listed)} ids are not in the data ({', '.join(labeled)}): "
            f"{', '.join(unknown[:5])}{more}; correct them or complete the data, "
            f"an id is written like {next(iter(ids.values()))[0]}"
        )
    return {split: [row for row, image_id in enumerate(ids[split]) if image_id in listed] for split in labeled}


def read_ids(path: str | os.PathLike) -> set[str]:
    """
    Reads a list of ids.

    Args:
        path (`str`): A text file with one id a line.

    Returns:
        `set[str]`: The ids.

    Raises:
        InputError: It cannot be read, or holds none.
    """
    try:
        listed = {line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines()} - {""}
    except OSError as error:
        raise InputError(
            f"labeled_ids: cannot open {path} ({error.strerror}); name a file with one id a line"
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(f"labeled_ids: {path} is not text; name a file with one id a line") from error
    if not listed:
        raise InputError(f"{path}: holds no ids; write the id of one labelled image a line")
    return listed


def cityscapes_split(name: str) -> Path:
    """
    The list of a standard labelled subset of Cityscapes.

    Args:
        name (`str`): Its name, such as `"1_8"`.

    Returns:
        `pathlib.Path`: A text file with one id a line.

    Raises:
        InputError: There is no such subset.
    """
    names = sorted((path.stem for path in CITYSCAPES_SPLITS.glob("*.txt")), key=lambda stem: (len(stem), stem))
    if name not in names:
        raise InputError(f"labeled_split: there is no split {name!r}; give one of {', '.join(names)}")
    return CITYSCAPES_SPLITS / f"{name}.txt"


def shared_images(rows: datasets.Dataset, evaluation: datasets.Dataset) -> list[tuple[str, str]]:
    """
    Which evaluation images are among other rows as well: the same file, or one of the same content. Only files whose
    size occurs on both sides are read.

    Args:
        rows (`datasets.Dataset`): Columns `image`, not decoded, and `id`.
        evaluation (`datasets.Dataset`): The same.

    Returns:
        `list[tuple[str, str]]`: For each shared evaluation image the name of its twin and its own: path, or id where
        the data set holds the image itself.
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
    stored = []
    for batch in rows.select_columns("image").with_format("arrow").iter(batch_size=100):
        images = batch["image"]
        lengths = pc.binary_length(pc.struct_field(images, "bytes")).to_pylist()
        paths = pc.struct_field(images, "path").to_pylist()
        stored += [(path if length is None else None, length) for path, length in zip(paths, lengths)]
    sizes = iter(check_files(path for path, length in stored if length is None))
    return [(path, next(sizes) if length is None else length) for path, length in stored]


def _digest(image: dict) -> bytes:
    if image["bytes"] is not None:
        return hashlib.sha256(image["bytes"]).digest()
    with open(image["path"], "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()

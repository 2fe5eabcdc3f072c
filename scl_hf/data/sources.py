"""Data of one's own: folders with labels, plain folders of pictures, and what `datasets` opens."""

import os
from collections.abc import Collection, Iterable
from pathlib import Path

import datasets
import pyarrow.compute as pc
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError

from ..errors import InputError, first_line
from .paths import open_paths
from .pictures import check_files

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}
_NO_PICTURES = f"holds no pictures ({', '.join(sorted(SUFFIXES))})"


def open_folder(
    data_dir: str | os.PathLike, splits: Iterable[str], labeled: Collection[str]
) -> dict[str, datasets.Dataset]:
    """
    Opens splits of a folder, `<split>/images` and `<split>/labels`.

    Args:
        data_dir (`str`): The folder.
        splits (`Iterable[str]`): The splits to open.
        labeled (`Collection[str]`): Those that need labels, `<split>/labels/<name>.png` for each image.

    Returns:
        `dict[str, datasets.Dataset]`: For each split `image`, `label` (None throughout where none is needed) and `id`,
        the name of the image file without its suffix.

    Raises:
        InputError: A folder, the pictures or a label is missing, a file is empty, or two images have one name.
    """
    return {split: _open_split(Path(data_dir, split), split in labeled) for split in splits}


def find_pictures(folder: str | os.PathLike) -> list[str]:
    """
    Lists all pictures in a folder and the folders in it, but hidden ones.

    Args:
        folder (`str`): The folder.

    Returns:
        `list[str]`: Their paths within the folder, sorted.

    Raises:
        InputError: The folder or the pictures are missing.
    """
    if not os.path.isdir(folder):
        raise InputError(f"unlabeled_dirs: there is no folder {folder}; correct the path")
    names = []
    seen = set()  # links may lead back
    for parent, folders, files in os.walk(folder, followlinks=True):
        if os.path.realpath(parent) in seen:
            folders.clear()
            continue
        seen.add(os.path.realpath(parent))
        folders[:] = [name for name in folders if not name.startswith(".")]
        names += [os.path.relpath(os.path.join(parent, name), folder) for name in files if is_picture(name)]
    if not names:
        raise InputError(f"unlabeled_dirs: {folder} {_NO_PICTURES}; correct the path")
    return sorted(names)


def open_pictures(folder: str | os.PathLike) -> datasets.Dataset:
    """
    Opens all pictures that [`find_pictures`] finds in a folder.

    Args:
        folder (`str`): The folder.

    Returns:
        `datasets.Dataset`: `image` and `id`, the path within the folder.

    Raises:
        InputError: The folder or the pictures are missing, or a file is empty.
    """
    return _open_rows(folder, [{"image": name, "id": name} for name in find_pictures(folder)])


def open_dataset(name: str, config: str | None = None, data_dir: str | None = None) -> datasets.DatasetDict:
    """
    Opens a data set of the Hub or a local folder.

    Args:
        name (`str`): What `datasets.load_dataset` opens, or a folder written by `save_to_disk`.
        config (`str`, *optional*): Which of the data set's configurations.
        data_dir (`str`, *optional*): The folder within the data set.

    Returns:
        `datasets.DatasetDict`: The data set as it is; if it has no splits, all of it is `train`.

    Raises:
        InputError: It cannot be opened.
    """
    saved = any(Path(name, file).is_file() for file in ("dataset_dict.json", "state.json"))
    if saved and config:
        raise InputError(f"dataset_config: {name} was written by save_to_disk, which keeps one; leave the field out")
    try:
        if saved:
            splits = datasets.load_from_disk(name)
        else:
            splits = datasets.load_dataset(name, config, data_dir=data_dir)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = " ".join(str(error.__cause__ or error).split())
        raise InputError(
            f"dataset: cannot open {name!r} ({reason}); give cityscapes, mapillary, folder, a data set of the Hub or "
            "a local folder that `datasets` reads, and dataset_config where it has several configurations"
        ) from error
    return splits if isinstance(splits, datasets.DatasetDict) else datasets.DatasetDict(train=splits)


def select_pictures(
    rows: datasets.Dataset, split: str, image_column: str, label_column: str | None
) -> datasets.Dataset:
    """
    The columns of a `datasets` data set that training reads, not decoded and under the names that it uses.

    Args:
        rows (`datasets.Dataset`): A split of any columns.
        split (`str`): Its name.
        image_column (`str`): Its images.
        label_column (`str`, *optional*): Its labels; by default they are not needed.

    Returns:
        `datasets.Dataset`: `image`, `label` if it is needed, and `id`, which is made up where there is none.

    Raises:
        InputError: A column is missing or holds no pictures, or a file that it names is missing or empty.
    """
    columns = {"image": image_column} | ({"label": label_column} if label_column else {})
    for name, column in columns.items():
        if column not in rows.column_names:
            raise InputError(
                f"{name}_column: there is no column {column!r} in split {split}, "
                f"only {', '.join(rows.column_names)}; name one of them"
            )
        feature = rows.features[column]
        if not isinstance(feature, datasets.Image):
            raise InputError(f"{name}_column: column {column!r} holds no pictures but {_other_than_pictures(feature)}")
        rows = rows.cast_column(column, datasets.Image(decode=False))
        stored = rows.data.column(column).drop_null()
        if name == "image" and len(stored) < len(rows):
            raise InputError(
                f"image_column: {len(rows) - len(stored)} of the {len(rows)} rows of split {split} have no "
                "picture; remove those rows from the data set"
            )
        paths = pc.struct_field(stored, "path").filter(pc.is_null(pc.struct_field(stored, "bytes")))
        check_files(paths.to_pylist())
    brings_ids = "id" in rows.column_names and "id" not in columns.values()
    rows = rows.select_columns([*columns.values(), *["id"] * brings_ids])
    rows = rows.rename_columns({old: new for new, old in columns.items()})
    if not brings_ids:
        return rows.add_column("id", [f"{split}_{row}" for row in range(len(rows))])
    if rows.features["id"] == datasets.Value("string"):  # casting rewrites all columns, pictures included
        return rows
    return rows.cast_column("id", datasets.Value("string"))


def find_id2label(dataset: str, data_dir: str | None) -> Path:
    """
    The `id2label.json` of a `datasets` data set: in `data_dir`, in its folder, or in its repository on the Hub.

    Args:
        dataset (`str`): The data set, as in [`open_dataset`].
        data_dir (`str`, *optional*): A folder that is looked at first.

    Returns:
        `pathlib.Path`: The file.

    Raises:
        InputError: There is none, or the Hub cannot be reached.
    """
    for folder in filter(None, (data_dir, dataset)):
        if Path(folder, "id2label.json").is_file():
            return Path(folder, "id2label.json")
    remedy = "name a JSON file with the class names, --id2label FILE"
    if os.path.isdir(dataset):
        raise InputError(f"id2label: there is no id2label.json in {dataset}; {remedy}")
    try:
        return Path(hf_hub_download(dataset, "id2label.json", repo_type="dataset"))
    except (OSError, ValueError, EntryNotFoundError) as error:
        reason = first_line(error).rstrip(".")
        raise InputError(
            f"id2label: cannot get id2label.json of {dataset} from the Hub ({reason}); {remedy}"
        ) from None


def is_picture(name: str) -> bool:
    """Whether a file is one, judged by its name; hidden files are not."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES


def _open_split(folder: Path, labels_needed: bool) -> datasets.Dataset:
    if not (folder / "images").is_dir():
        there = ", ".join(sorted(path.parent.name for path in folder.parent.glob("*/images"))) or "none"
        raise InputError(
            f"{folder / 'images'}: no such folder; the splits there are {there}: correct train_splits, "
            "unlabeled_splits, eval_split or data_dir"
        )
    images = {}
    for name in sorted(filter(is_picture, os.listdir(folder / "images"))):
        stem = os.path.splitext(name)[0]
        if stem in images:
            raise InputError(f"{folder / 'images' / name}: a second image named {stem}; rename one of them")
        images[stem] = name
    if not images:
        raise InputError(f"{folder / 'images'}: {_NO_PICTURES}")
    if labels_needed:
        present = set(os.listdir(folder / "labels")) if (folder / "labels").is_dir() else set()
        missing = [stem for stem in images if f"{stem}.png" not in present]
        if missing:
            raise InputError(
                f"{folder / 'images' / images[missing[0]]}: its label is missing, looked for "
                f"{folder / 'labels' / missing[0]}.png ({len(missing)} of {len(images)} images have none); add the "
                "labels, or move images without a label to a folder of their own and name it in unlabeled_dirs"
            )
    labels = {stem: f"labels/{stem}.png" if labels_needed else None for stem in images}
    rows = [{"image": f"images/{name}", "label": labels[stem], "id": stem} for stem, name in images.items()]
    return _open_rows(folder, rows)


def _open_rows(folder: str | os.PathLike, rows: list[dict[str, str | None]]) -> datasets.Dataset:
    """A table of its own for each folder: a file added to one leaves the others' as they are."""
    return open_paths("pictures", folder, {"train": rows})["train"]


def _other_than_pictures(feature: object) -> str:
    if isinstance(feature, datasets.Value) and feature.dtype in ("string", "large_string"):
        return (
            "text; name one that does or, if it holds paths, cast it with cast_column(…, datasets.Image()) and save "
            "the data set with save_to_disk"
        )
    return f"{getattr(feature, 'dtype', None) or type(feature).__name__}; name one that does"

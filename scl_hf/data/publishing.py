"""Writes a data set as Parquet with the pictures in it, and pushes it to the Hub where its licence allows that."""

import json
import math
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import datasets
import numpy as np
import yaml
from datasets.arrow_writer import ParquetWriter
from datasets.info import DatasetInfosDict
from huggingface_hub import DatasetCardData, HfApi, constants, get_token
from huggingface_hub.errors import HFValidationError, HTTPError
from tqdm.auto import tqdm

from ..errors import InputError, first_line
from . import cityscapes, mapillary
from .checking import CITYSCAPES_CITIES, find_layout
from .labels import make_label_table, read_id2label
from .pictures import IGNORE_INDEX
from .sources import open_folder

SHARD_BYTES = 500_000_000
ROW_GROUP = 32  # pictures that are in memory at a time, and that a reader fetches at a time

# Data that may not be passed on: its name, and where the terms are.
_LICENSES = {
    "cityscapes": ("Cityscapes", "https://www.cityscapes-dataset.com/license"),
    "mapillary": ("Mapillary Vistas", "https://www.mapillary.com/dataset/vistas"),
}

_CARD = """---
{metadata}
---

# {name}

Images and their labels for semantic segmentation of {num_classes} classes.

{splits}

The columns are {columns}. The files are embedded as they were, byte by byte. A label picture holds one id a
pixel{ids}; `id2label.json` has the names of the classes.

```python
from datasets import load_dataset

data = load_dataset("{repo}")
```

In a recipe of scl_hf:

```yaml
{recipe}
```
{terms}"""


class Rows(NamedTuple):
    """
    A data set to be published.

    Args:
        splits (`dict[str, datasets.Dataset]`): Columns `image`, `label` (if any has labels), `id` and further ones.
        id2label (`dict[int, str]`): Train id -> name.
        label_map (`dict[int, int]`): Id in a label file -> train id; empty where they are the same.
        owner (`str` or None): Whose licence forbids passing the data on, a key of `_LICENSES`.
    """

    splits: dict[str, datasets.Dataset]
    id2label: dict[int, str]
    label_map: dict[int, int]
    owner: str | None


def push_data(
    data_dir: str | os.PathLike,
    output_dir: str | os.PathLike,
    repo: str | None = None,
    private: bool = False,
    accept_license: bool = False,
    license: str | None = None,
    label_map: Mapping[int, int] | None = None,
    ignore_index: int = IGNORE_INDEX,
    id2label: str | os.PathLike | None = None,
) -> str:
    """
    Writes a data set into a folder that `datasets.load_dataset` opens: Parquet files with the pictures in them, the
    names of the classes, and a card. Then pushes that folder, if a repository is named. In a repository that exists,
    the Parquet files of an earlier push are replaced.

    Args:
        data_dir (`str`): Data in the layout of Cityscapes or Mapillary Vistas, or a folder of one's own.
        output_dir (`str`): Where to write it: a folder that does not exist yet or is empty.
        repo (`str`, *optional*): The data set on the Hub, `user/name`. By default nothing is sent.
        private (`bool`, *optional*, defaults to `False`): Whether it is created private, and refused if it is not.
        accept_license (`bool`, *optional*, defaults to `False`): Cityscapes and Mapillary Vistas may not be passed on.
            This says that all who can see the private repository have a licence of their own.
        license (`str`, *optional*): The licence of the data, such as `"cc-by-4.0"`, for its card. A public repository
            needs one.
        label_map (`dict[int, int]`, *optional*): Of a folder of one's own: id in a label file -> train id. The files
            stay as they are, the card gives the map.
        ignore_index (`int`, *optional*, defaults to 255): Of a folder of one's own: the id of ignored pixels.
        id2label (`str`, *optional*): Of a folder of one's own: the class names, if not in its `id2label.json`.

    Returns:
        `str`: Where it is now, for a person to read.

    Raises:
        InputError: The data is incomplete, may not be pushed there, or cannot be written or sent.
    """
    output = Path(output_dir)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InputError(f"{output}: exists and is not an empty folder; remove it or name another one")
    rows = open_rows(data_dir, label_map, ignore_index, id2label)
    if repo is not None:
        _check_terms(rows.owner, data_dir, repo, private, accept_license, license)
        _prepare_repo(repo, private)
    try:
        write_parquet(rows, output, repo or output.resolve().name, license)
    except BaseException as error:
        shutil.rmtree(output, ignore_errors=True)
        if isinstance(error, OSError):
            raise InputError(f"{output}: cannot be written ({error}); choose another folder") from error
        raise
    if repo is None:
        return f"written to {output}; nothing was sent (--repo user/name pushes it)"
    _prepare_repo(repo, private)  # once more: writing takes hours, in which somebody may have made it public
    return f"written to {output} and pushed to {_upload(output, repo)}"


def open_rows(
    data_dir: str | os.PathLike,
    label_map: Mapping[int, int] | None = None,
    ignore_index: int = IGNORE_INDEX,
    id2label: str | os.PathLike | None = None,
) -> Rows:
    """
    Opens a data set in any of its layouts, to be published.

    Args:
        data_dir (`str`): Its folder.
        label_map (`dict[int, int]`, *optional*): As in [`push_data`].
        ignore_index (`int`, *optional*, defaults to 255): As in [`push_data`].
        id2label (`str`, *optional*): As in [`push_data`].

    Returns:
        [`Rows`]: All splits: of Cityscapes the fine labels and, in `train_extra`, the coarse ones; of Mapillary Vistas
        v1.2.

    Raises:
        InputError: There is no data set, or a file is missing.
    """
    layout = find_layout(data_dir, id2label)
    if layout == "cityscapes":
        splits = dict(cityscapes.load_cityscapes(data_dir, "fine"))
        if cityscapes.find_split(data_dir, "leftImg8bit", "train_extra"):
            splits["train_extra"] = cityscapes.load_cityscapes(data_dir, "coarse")["train_extra"]
        cities = {city for rows in splits.values() for city in rows.unique("city")}
        drawn = Path(data_dir, cityscapes.DRAWN_MARKER).is_file() and not cities & CITYSCAPES_CITIES
        label_map = _label_map(cityscapes.LABEL_TABLE)
        return Rows(splits, cityscapes.ID2LABEL, label_map, None if drawn else "cityscapes")
    if layout == "mapillary":
        classes = mapillary.read_classes(data_dir)
        splits = dict(mapillary.load_mapillary(data_dir))
        return Rows(splits, classes.id2label, _label_map(classes.label_table), "mapillary")
    names = sorted(path.parent.name for path in Path(data_dir).glob("*/images") if path.is_dir())
    wrong = next((name for name in names if not re.fullmatch(r"\w+(\.\w+)*", name)), None)
    if wrong is not None:
        raise InputError(
            f"{Path(data_dir, wrong)}: a split of `datasets` has a name of letters, digits, _ and .; rename the folder"
        )
    labeled = [name for name in names if Path(data_dir, name, "labels").is_dir()]
    splits = open_folder(data_dir, names, labeled)
    if not labeled:
        splits = {name: rows.remove_columns("label") for name, rows in splits.items()}
    copied = any(_is_cityscapes(image_id) for rows in splits.values() for image_id in rows["id"])
    class_names = read_id2label(Path(id2label or Path(data_dir, "id2label.json")))
    table = make_label_table(class_names, label_map, ignore_index)
    own_ids = label_map is not None or ignore_index != IGNORE_INDEX
    return Rows(splits, class_names, _label_map(table) if own_ids else {}, "cityscapes" if copied else None)


def write_parquet(rows: Rows, output: Path, name: str, license: str | None = None) -> None:
    """
    Writes `data/<split>-00000-of-00001.parquet`, …, `id2label.json` and the card.

    Args:
        rows ([`Rows`]): The data set.
        output (`pathlib.Path`): The folder.
        name (`str`): The data set's name, for the card.
        license (`str`, *optional*): Its licence.
    """
    (output / "data").mkdir(parents=True)
    columns = next(iter(rows.splits.values())).column_names
    features = datasets.Features(
        {name: datasets.Image() if name in ("image", "label") else datasets.Value("string") for name in columns}
    )
    infos = datasets.SplitDict()
    with tqdm(total=sum(map(len, rows.splits.values())), desc="Writing Parquet", unit="image") as progress:
        for split, table in rows.splits.items():
            shards = max(1, math.ceil(_stored_bytes(table) / SHARD_BYTES))
            num_bytes = 0
            for shard in range(shards):
                path = output / f"data/{split}-{shard:05d}-of-{shards:05d}.parquet"
                part = table.shard(shards, shard).with_format("arrow")
                writer = ParquetWriter(
                    path=str(path), features=features, writer_batch_size=ROW_GROUP, embed_local_files=True
                )
                for batch in part.iter(ROW_GROUP):
                    writer.write_table(batch)
                    progress.update(len(batch))
                num_bytes += writer.finalize()[1]
            infos[split] = datasets.SplitInfo(split, num_bytes=num_bytes, num_examples=len(table))
    names = json.dumps(rows.id2label, indent=2, ensure_ascii=False)
    (output / "id2label.json").write_text(names + "\n", encoding="utf-8")
    download_size = sum(path.stat().st_size for path in (output / "data").iterdir())
    info = datasets.DatasetInfo(
        features=features,
        splits=infos,
        download_size=download_size,
        dataset_size=sum(split.num_bytes for split in infos.values()),
    )
    (output / "README.md").write_text(_card(rows, info, name, license), encoding="utf-8")


def _stored_bytes(table: datasets.Dataset) -> int:
    columns = [name for name in ("image", "label") if name in table.column_names]
    return sum(os.path.getsize(file["path"]) for name in columns for file in table[name] if file is not None)


def _label_map(table: np.ndarray) -> dict[int, int]:
    return {label_id: int(table[label_id]) for label_id in np.flatnonzero(table >= 0).tolist()}


def _is_cityscapes(image_id: str) -> bool:
    """Whether an image bears a name of Cityscapes, `aachen_000000_000019…`, wherever it lies now."""
    city, *rest = re.split(r"_(?=\d{6}_\d{6})", image_id, maxsplit=1)
    return bool(rest) and city in CITYSCAPES_CITIES


def _card(rows: Rows, info: datasets.DatasetInfo, repo: str, license: str | None) -> str:
    labels = {
        name: len(table) - table.data.column("label").null_count if "label" in table.column_names else 0
        for name, table in rows.splits.items()
    }
    labeled = [name for name, table in rows.splits.items() if labels[name] == len(table)]
    # Another split than these is there for its images; test is nobody's to train on.
    train = [name for name in labeled if name == "train"] or labeled[:1]
    pool = [name for name in rows.splits if name not in (*train, "train", "validation", "val", "test")]
    recipe = {"dataset": repo, "train_splits": train}
    recipe |= {"unlabeled_splits": pool} if pool else {}
    recipe |= {"eval_split": next((name for name in ("validation", "val", "test") if name in labeled), "validation")}
    recipe |= {"label_map": rows.label_map} if rows.label_map else {}
    data = DatasetCardData(
        license=license,
        pretty_name=repo.split("/")[-1],
        task_categories=["image-segmentation"],
        task_ids=["semantic-segmentation"],
        configs=[
            {
                "config_name": "default",
                "data_files": [{"split": name, "path": f"data/{name}-*"} for name in rows.splits],
            }
        ],
    )
    terms = ""
    if rows.owner:
        name, link = _LICENSES[rows.owner]
        data.license, data.license_name, data.license_link = "other", rows.owner, link
        terms = (
            f"\nThis is {name}, under [its own licence]({link}), which forbids passing it on. Keep this repository\n"
            "private, and open it only to people who have accepted that licence.\n"
        )
    DatasetInfosDict({"default": info}).to_dataset_card_data(data)
    return _CARD.format(
        metadata=data.to_yaml(),
        name=repo.split("/")[-1],
        num_classes=len(rows.id2label),
        splits="\n".join(
            f"- `{name}`: {len(table):,} images, {labels[name]:,} labels" for name, table in rows.splits.items()
        ),
        ids=" (`label_map` below says which is which class, 255 is ignored)" if rows.label_map else ", 255 is ignored",
        columns=", ".join(f"`{name}`" for name in info.features),
        repo=repo,
        recipe=yaml.safe_dump(recipe, default_flow_style=None, sort_keys=False, width=100).strip(),
        terms=terms,
    )


def _check_terms(
    owner: str | None,
    data_dir: str | os.PathLike,
    repo: str,
    private: bool,
    accept_license: bool,
    license: str | None,
) -> None:
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        raise InputError(f"repo: {repo!r} is no name of a data set on the Hub; write it as user/name")
    if owner is not None and not (private and accept_license):
        name, link = _LICENSES[owner]
        missing = " and ".join(
            flag for flag, given in (("--private", private), ("--accept_license", accept_license)) if not given
        )
        raise InputError(
            f"{data_dir}: is taken for {name}, whose licence forbids passing it on ({link}); add {missing} to keep it "
            "in a private repository for people who have accepted that licence"
        )
    if owner is None and not private and license is None:
        raise InputError(
            "license: is missing; a public data set needs one that its pictures may have, as in --license cc-by-4.0, "
            "or add --private"
        )


def _prepare_repo(repo: str, private: bool) -> None:
    """Makes sure that the repository is there and, if it has to be, private."""
    if get_token() is None:
        raise InputError("you are not logged in to the Hub; run `hf auth login` with a token that may write")
    api = HfApi()
    try:
        if not api.repo_exists(repo, repo_type="dataset"):
            api.create_repo(repo, repo_type="dataset", private=private)
        public = not api.repo_info(repo, repo_type="dataset").private
    except HFValidationError as error:
        raise InputError(f"repo: {error}") from error
    except (OSError, HTTPError) as error:
        raise InputError(f"{repo}: {_reason(error)}") from error
    if private and public:
        raise InputError(
            f"{repo}: is public, so nothing was sent; make it private in its settings or name another one"
        )


def _upload(output: Path, repo: str) -> str:
    try:
        HfApi().upload_folder(
            repo_id=repo,
            repo_type="dataset",
            folder_path=output,
            commit_message="Upload the data set",
            delete_patterns="data/*.parquet",
        )
    except (OSError, HTTPError) as error:
        raise InputError(
            f"{repo}: {_reason(error)}; the files are in {output}, go on with: "
            f"hf upload {repo} {output} . --repo-type dataset"
        ) from error
    return f"{constants.ENDPOINT}/datasets/{repo}"


def _reason(error: Exception) -> str:
    return f"the Hub cannot be reached or refused ({first_line(error).strip()})"

"""Writes a data set as Parquet with the pictures in it, and pushes it to the Hub where its license allows that."""

import math
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import datasets
import yaml
from datasets.table import embed_table_storage
from huggingface_hub import DatasetCardData, HfApi, constants
from huggingface_hub.errors import HFValidationError, HTTPError
from tqdm.auto import tqdm

from ..errors import InputError, first_few
from ..files import check_writable, write_json
from ..hub import check_token, quiet_hub, reason_of
from .check import check_data, find_layout
from .columns import stored_files
from .images import check_files
from .labels import LabelImage
from .load import open_source
from .sources.base import DataArguments, Source

SHARD_BYTES = 500_000_000  # as push_to_hub

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


def push_data(
    data_dir: str | os.PathLike,
    output_dir: str | os.PathLike,
    repo: str | None = None,
    private: bool = False,
    accept_license: bool = False,
    license: str | None = None,
    recipe: DataArguments | None = None,
) -> str:
    """
    Writes a data set into a folder that `datasets.load_dataset` opens: Parquet files with the pictures in them, the
    names of the classes, and a card. Then pushes that folder, if a repository is named, in place of an earlier push.
    `accept_license` says that all who can see the repository have a license of their own for data that may not be
    passed on. A recipe has the class names and ids of a folder of one's own. Returns where the data is, in words.
    """
    check_writable("output_dir", output_dir)
    output = Path(output_dir)
    if output.exists() and any(output.iterdir()):
        raise InputError(f"{output}: exists and is not an empty folder; remove it or name another one")
    source = open_source(find_layout(data_dir, recipe))
    splits = _open_splits(source)
    if repo is not None:
        _check_terms(source, repo, private, accept_license, license)
        _prepare_repo(repo, private)
    if broken := check_data(data_dir, recipe=recipe and replace(recipe, unlabeled_dirs=[])).broken:
        count = "1 file is" if len(broken) == 1 else f"{len(broken)} files are"
        raise InputError(f"{count} broken, so nothing was written: {first_few(broken)}; `check` lists all of them")
    try:
        _write_parquet(splits, output / "data")
        write_json(output / "id2label.json", source.labels.id2label)
        card = _card(source, splits, repo or output.resolve().name, license)
        (output / "README.md").write_text(card, encoding="utf-8")
    except BaseException as error:
        shutil.rmtree(output, ignore_errors=True)
        if isinstance(error, OSError):
            raise InputError(f"{output}: cannot be written ({error}); choose another folder") from error
        raise
    if repo is None:
        return f"written to {output}; nothing was sent (--repo user/name pushes it)"
    _prepare_repo(repo, private)  # once more: writing takes hours, in which somebody may have made it public
    try:
        with quiet_hub():
            HfApi().upload_folder(
                repo_id=repo,
                repo_type="dataset",
                folder_path=output,
                commit_message="Upload the data set",
                delete_patterns="data/*.parquet",
            )
    except (OSError, HTTPError) as error:
        command = f"hf upload {repo} {output} . --repo-type dataset"
        raise InputError(f"{repo}: {reason_of(error)}; the files are in {output}, go on with: {command}") from error
    return f"written to {output} and pushed to {constants.ENDPOINT}/datasets/{repo}"


def _open_splits(source: Source) -> dict[str, datasets.Dataset]:
    """All splits of the data as plain `datasets.Image` columns: nobody else knows a [`LabelImage`]."""
    splits = {}
    for split in source.splits:
        if not re.fullmatch(r"\w+(\.\w+)*", split):
            raise InputError(
                f"{Path(source.where, split)}: a split of `datasets` has a name of letters, digits, _ and .; rename "
                "the folder"
            )
        rows = source.open(split, complete=split in source.labeled)
        rows = rows.cast_column("image", datasets.Image()).cast_column("label", datasets.Image())
        splits[split] = rows if source.labeled else rows.remove_columns("label")
    return splits


def _write_parquet(splits: Mapping[str, datasets.Dataset], folder: Path) -> None:
    """Writes `<split>-00000-of-00001.parquet`, …, with the pictures in them."""
    folder.mkdir(parents=True)
    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()  # each shard would have two
    try:
        with tqdm(total=sum(map(len, splits.values())), desc="Writing Parquet", unit="image") as progress:
            for split, rows in splits.items():
                columns = [stored_files(rows, name)[0] for name in ("image", "label") if name in rows.column_names]
                size = sum(check_files(path for paths in columns for path in paths if path is not None))
                shards = max(1, math.ceil(size / SHARD_BYTES))
                for shard in range(shards):
                    part = rows.shard(shards, shard).with_format("arrow")
                    path = folder / f"{split}-{shard:05d}-of-{shards:05d}.parquet"
                    # All pictures of a shard are in memory, and gone before the next one.
                    part.map(embed_table_storage, batched=True, batch_size=32, keep_in_memory=True).to_parquet(path)
                    progress.update(len(part))
    finally:
        if shown:
            datasets.enable_progress_bars()


def _card(source: Source, splits: Mapping[str, datasets.Dataset], repo: str, license: str | None) -> str:
    """The README of the data set, with the recipe fields that read it."""
    labels = {
        name: len(rows) - rows.data.column("label").null_count if source.labeled else 0
        for name, rows in splits.items()
    }
    labeled = [name for name, rows in splits.items() if labels[name] == len(rows)]
    # Another split than these is there for its images; test is nobody's to train on.
    train = [name for name in labeled if name == "train"] or labeled[:1]
    pool = [name for name in splits if name not in (*train, "train", "validation", "val", "test")]
    recipe = {"dataset": repo, "train_splits": train}
    recipe |= {"unlabeled_splits": pool} if pool else {}
    recipe |= {"eval_split": next((name for name in ("validation", "val", "test") if name in labeled), "validation")}
    own_ids = source.labels.train_ids != LabelImage.of(source.labels.id2label).train_ids
    recipe |= {"label_map": dict(sorted(source.labels.train_ids.items()))} if own_ids else {}
    files = [{"split": name, "path": f"data/{name}-*"} for name in splits]
    data = DatasetCardData(
        license=license,
        pretty_name=repo.split("/")[-1],
        task_categories=["image-segmentation"],
        task_ids=["semantic-segmentation"],
        configs=[{"config_name": "default", "data_files": files}],
    )
    terms = ""
    if source.license:
        own = source.license
        data.license, data.license_name, data.license_link = "other", own.key, own.link
        terms = (
            f"\nThis is {own.owner}, under [its own license]({own.link}), which forbids passing it on. "
            "Keep this repository\nprivate, and open it only to people who have accepted that license.\n"
        )
    return _CARD.format(
        metadata=data.to_yaml(),
        name=repo.split("/")[-1],
        num_classes=len(source.labels.names),
        splits="\n".join(f"- `{name}`: {len(splits[name]):,} images, {labels[name]:,} labels" for name in splits),
        ids=" (`label_map` below says which is which class, 255 is ignored)" if own_ids else ", 255 is ignored",
        columns=", ".join(f"`{name}`" for name in next(iter(splits.values())).column_names),
        repo=repo,
        recipe=yaml.safe_dump(recipe, default_flow_style=None, sort_keys=False, width=100).strip(),
        terms=terms,
    )


def _check_terms(source: Source, repo: str, private: bool, accepted: bool, license: str | None) -> None:
    """Refuses to send what may not be sent there."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        raise InputError(f"repo: {repo!r} is no name of a data set on the Hub; write it as user/name")
    if source.license is not None and not (private and accepted):
        missing = " and ".join(["--private"] * (not private) + ["--accept_license"] * (not accepted))
        raise InputError(
            f"{source.where}: is taken for {source.license.owner}, whose license forbids passing it on "
            f"({source.license.link}); add {missing} to keep it in a private repository for people who have accepted "
            "that license"
        )
    if source.license is None and not private and license is None:
        raise InputError(
            "license: is missing; a public data set needs one that its pictures may have, as in --license cc-by-4.0, "
            "or add --private"
        )


def _prepare_repo(repo: str, private: bool) -> None:
    """Makes sure that the repository is there and, if it has to be, private."""
    check_token(None)
    api = HfApi()
    try:
        with quiet_hub():
            if not api.repo_exists(repo, repo_type="dataset"):
                api.create_repo(repo, repo_type="dataset", private=private)
            public = not api.repo_info(repo, repo_type="dataset").private
    except HFValidationError as error:
        raise InputError(f"repo: {error}") from error
    except (OSError, HTTPError) as error:
        raise InputError(f"{repo}: {reason_of(error)}") from error
    if private and public:
        raise InputError(
            f"{repo}: is public, so nothing was sent; make it private in its settings or name another one"
        )

"""Writes a dataset as Parquet with embedded images, and pushes it to the Hub where its license allows that."""

import math
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from datasets.arrow_writer import get_parquet_column_options
from datasets.table import embed_table_storage
from huggingface_hub import DatasetCardData, HfApi, constants
from huggingface_hub.errors import HFValidationError, HTTPError
from tqdm.auto import tqdm

from ..errors import InputError, first_few
from ..files import check_writable, write_json
from ..hub import check_token, quiet_hub, reason_of
from .arguments import DataArguments
from .check import check_data
from .classes import fields_of
from .columns import stored_files
from .labels import LabelImage, label_bytes
from .sources.base import Source
from .sources.layouts import find_layout, open_source

SHARD_BYTES = 500_000_000  # as in push_to_hub

_CARD = """---
{metadata}
---

# {name}

Images and labels for semantic segmentation of {num_classes} classes: {splits}. The files are embedded byte by byte.
A label image holds one value a pixel{ids}; `id2label.json` has the names of the classes.

In a recipe of scl_hf:

```yaml
{recipe}
```
{terms}"""
_TERMS = """
This is {owner}, under [its own license]({link}), which forbids redistribution. Keep this repository
private, and open it only to people who have accepted that license.
"""


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
    Writes a dataset into a folder that `datasets.load_dataset` opens, and pushes it to the Hub if `repo` is given, in
    place of an earlier push. The options are those of `prepare_dataset.py push`. Returns where the data is, in words.
    """
    check_writable("output_dir", output_dir, empty=True)
    output = Path(output_dir)
    args = find_layout(data_dir, recipe)
    source = open_source(args)
    splits = _open_splits(source, args)
    if repo is not None:
        _check_repo(source, repo, private, accept_license, license)
    if broken := check_data(data_dir, recipe=recipe and replace(recipe, unlabeled_dirs=[])).broken:
        count = "1 file is" if len(broken) == 1 else f"{len(broken)} files are"
        raise InputError(f"{count} broken, so nothing was written: {first_few(broken)}; `check` lists all of them")
    try:
        _write_parquet(splits, output / "data")
        write_json(output / "id2label.json", source.labels.id2label)
        card = _card(source, args, splits, repo or output.resolve().name, license)
        (output / "README.md").write_text(card, encoding="utf-8")
    except BaseException as error:
        shutil.rmtree(output, ignore_errors=True)
        if isinstance(error, OSError):
            raise InputError(f"{output}: cannot be written ({error}); choose another folder") from error
        raise
    if repo is None:
        return f"written to {output}; nothing was sent (--repo user/name pushes it)"
    _check_repo(source, repo, private, accept_license, license)  # writing takes hours: it may be public by now
    with _hub_errors(repo, f"; {output} has the files, push them: hf upload {repo} {output} . --repo-type dataset"):
        options = {"commit_message": "Upload the dataset", "delete_patterns": "data/*.parquet"}
        HfApi().upload_folder(repo_id=repo, repo_type="dataset", folder_path=output, **options)
    return f"written to {output} and pushed to {constants.ENDPOINT}/datasets/{repo}"


@contextmanager
def _hub_errors(repo: str, remedy: str = "") -> Iterator[None]:
    try:
        with quiet_hub():
            yield
    except (OSError, HTTPError, HFValidationError) as error:
        raise InputError(f"{repo}: {reason_of(error)}{remedy}") from error


def _open_splits(source: Source, args: DataArguments) -> datasets.DatasetDict:
    """Opens all splits with plain `datasets.Image` columns, which can be read without this package."""
    splits = datasets.DatasetDict()
    for split in source.splits:
        if not re.fullmatch(r"\w+(\.\w+)*", split):
            remedy = "`datasets` allows only letters, digits, _ and . in a split; rename the folder"
            raise InputError(f"{Path(source.name, split)}: {remedy}")
        needed = args.dataset != "folder" or split == args.eval_split  # elsewhere an image may be unlabeled
        dataset = source.open(split, require_labels=needed and split in source.labeled_splits)
        splits[split] = dataset.cast_column("image", datasets.Image()).cast_column("label", datasets.Image())
    return splits


def _write_parquet(splits: datasets.DatasetDict, folder: Path) -> None:
    """Writes `<split>-00000-of-00001.parquet`, …, with the images in them."""
    # Dataset.to_parquet would keep paths, and push_to_hub holds a whole shard in memory
    folder.mkdir(parents=True)
    with tqdm(total=sum(map(len, splits.values())), desc="Writing Parquet", unit="image") as progress:
        for split, dataset in splits.items():
            paths = (path for name in ("image", "label") for path in stored_files(dataset, name)[0] if path)
            shards = max(1, math.ceil(sum(map(os.path.getsize, paths)) / SHARD_BYTES))
            schema = dataset.features.arrow_schema
            options = get_parquet_column_options(dataset.features, schema)
            for shard in range(shards):
                path = folder / f"{split}-{shard:05d}-of-{shards:05d}.parquet"
                with pq.ParquetWriter(path, schema, use_content_defined_chunking=True, **options) as writer:
                    for batch in dataset.shard(shards, shard).with_format("arrow").iter(32):
                        writer.write_table(embed_table_storage(_join(batch)))
                        progress.update(len(batch))


def _join(batch: pa.Table) -> pa.Table:
    """Puts labels that are folders, of a mask for each instance, into a batch as PNG."""
    labels = batch["label"].to_pylist()
    for label, image_id in zip(labels, batch["id"].to_pylist()):
        if label and os.path.isdir(label["path"]):
            label |= {"bytes": label_bytes(label)[1], "path": f"{image_id}.png"}
    position, kind = batch.schema.get_field_index("label"), batch.schema.field("label")
    return batch.set_column(position, kind, pa.array(labels, kind.type))


def _card(source: Source, args: DataArguments, splits: datasets.DatasetDict, repo: str, license: str | None) -> str:
    """Returns the README of the dataset, with the recipe fields that read it."""
    labeled = [split for split in splits if split in source.labeled_splits]
    train = [split for split in labeled if split == "train"] or labeled[:1]
    # Splits of other names are unlabeled images; test is never trained on
    pool = [split for split in splits if split not in (*train, "train", "validation", "val", "test")]
    recipe = {"dataset": repo, "train_splits": train}
    recipe |= {"unlabeled_splits": pool} if pool else {}
    evaluated = next((split for split in ("validation", "val", "test") if split in labeled), None)
    if evaluated and args.validation_fraction is None:
        recipe["eval_split"] = evaluated
    else:
        recipe |= {"validation_fraction": args.validation_fraction or 0.2, "validation_by": args.validation_by}
    own_ids = source.labels.train_ids != LabelImage.of(source.labels.id2label).train_ids
    recipe |= fields_of(source.labels) if own_ids else {}
    recipe |= source.input.given if source.input else {}
    metadata = {"license": license, "pretty_name": repo.split("/")[-1]}
    metadata |= {"task_categories": ["image-segmentation"], "task_ids": ["semantic-segmentation"]}
    if own := source.license:
        metadata |= {"license": "other", "license_name": own.key, "license_link": own.link}
    return _CARD.format(
        metadata=DatasetCardData(**metadata).to_yaml(),
        name=metadata["pretty_name"],
        num_classes=len(source.labels.names),
        splits=", ".join(f"`{split}` ({len(dataset):,} images)" for split, dataset in splits.items()),
        ids=", as `classes` below says" if own_ids else ", 255 is ignored",
        recipe=yaml.safe_dump(recipe, default_flow_style=None, sort_keys=False, width=100).strip(),
        terms=_TERMS.format(owner=own.owner, link=own.link) if own else "",
    )


def _check_repo(source: Source, repo: str, private: bool, accepted: bool, license: str | None) -> None:
    """Raises if the data may not be sent to this repository, which is created if it does not exist."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        raise InputError(f"repo: {repo!r} is no name of a dataset on the Hub; write it as user/name")
    if source.license is not None and not (private and accepted):
        missing = " and ".join(["--private"] * (not private) + ["--accept_license"] * (not accepted))
        raise InputError(
            f"{source.name}: is taken for {source.license.owner}, whose license forbids redistribution "
            f"({source.license.link}); add {missing} to keep it private, for people who have accepted that license"
        )
    if source.license is None and not private and license is None:
        raise InputError("license: is missing; name that of a public dataset, --license cc-by-4.0, or add --private")
    check_token(None)
    with _hub_errors(repo):
        if not HfApi().repo_exists(repo, repo_type="dataset"):
            HfApi().create_repo(repo, repo_type="dataset", private=private)
        public = not HfApi().repo_info(repo, repo_type="dataset").private
    if private and public:
        raise InputError(f"{repo}: is public, so nothing was sent; make it private or name another one")

"""Reads a table (YAML) into its runs: each row at each label share with each seed, one scripts/train.py each."""

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from scl_hf.cli import RecipeParser, read_yaml, recipe_file
from scl_hf.config import TRAINING_RECIPE, other_fields
from scl_hf.data import DataArguments
from scl_hf.errors import InputError, did_you_mean
from scl_hf.pretrained import ModelArguments

KEYS = ("title", "shares", "seeds", "baseline", "rows", "gpus")
# Fields that each run gets from the table's seeds and --output_dir
OWN_FIELDS = ("seed", "labeled_seed", "output_dir", "resume_from_checkpoint", "overwrite_output_dir", "disable_tqdm")


@dataclass(frozen=True, eq=False)
class Run:
    """A row at a label share with a seed."""

    share: str
    row: str
    seed: int
    folder: Path
    arguments: tuple[str, ...]  # of scripts/train.py
    settings: dict[str, Any]  # all of the recipe, as parsed
    model: ModelArguments
    data: DataArguments
    semi_supervised: bool  # as of the config

    def __str__(self) -> str:
        return f"{self.share}, {self.row}, seed {self.seed}"

    @property
    def steps(self) -> int | None:
        """`max_steps`, or None where the recipe counts in epochs."""
        return self.settings["max_steps"] if self.settings["max_steps"] > 0 else None


@dataclass(frozen=True)
class Table:
    """A table's file. The other rows are compared with the better one of those in `baseline`."""

    path: Path
    title: str
    shares: tuple[str, ...]
    seeds: tuple[int, ...]
    baseline: tuple[str, ...]
    rows: tuple[str, ...]
    gpus: int  # of one run
    runs: tuple[Run, ...]


def read_table(path: Path, output_dir: Path, command_line: Sequence[str]) -> Table:
    """
    Reads and checks a table. Later fields override earlier ones, in the order: recipe of the share, the share's own
    fields, command line, row.
    """
    values = read_yaml(path)
    for key in values:
        if key not in KEYS:
            raise InputError(f"{path}: unknown field '{key}'.{_like_one_of(key, KEYS)}")
    shares = {str(name): _share(path, name, share) for name, share in _mapping(path, values, "shares").items()}
    rows = {str(name): row or {} for name, row in _mapping(path, values, "rows").items()}
    seeds = _seeds(path, values)
    baseline = values.get("baseline") or next(iter(rows))
    baseline = tuple(map(str, baseline)) if isinstance(baseline, list) else (str(baseline),)
    for name in baseline:
        if name not in rows:
            raise InputError(f"{path}: baseline: '{name}' is no row.{_like_one_of(name, rows)}")
    gpus = values.get("gpus", 1)
    if not isinstance(gpus, int) or gpus < 1:
        raise InputError(f"{path}: gpus: must be 1 or more, got {gpus!r}.")
    _check_names(path, [*shares], [*rows])
    given = [argument[2:].partition("=")[0] for argument in command_line if argument.startswith("--")]
    _check_fields("command line", given)

    runs = []
    for share, (recipe, own) in shares.items():
        where = f"{path}: shares: {share}"
        _check_fields(where, own)
        common = [str(recipe), *as_arguments(own), *command_line]
        plain = _parse(where, common)
        for seed, (row, fields) in product(seeds, rows.items()):  # finishes a share before the next one begins
            where = f"{path}: rows: {row}"
            if not isinstance(fields, dict):
                raise InputError(f"{where}: expected `field: value` lines, got {fields!r}.")
            _check_fields(where, fields)
            fields = {name: _times(where, name, value, plain.settings) for name, value in fields.items()}
            fields |= {"seed": seed, "labeled_seed": seed}
            folder = output_dir / _folder_name(share) / _folder_name(row) / f"seed_{seed}"
            fields |= {"output_dir": str(folder / "run"), "overwrite_output_dir": True, "disable_tqdm": True}
            run = _parse(where, [*common, *as_arguments(fields)])
            runs.append(replace(run, share=share, row=row, seed=seed, folder=folder))
    title = str(values.get("title", path.stem))
    return Table(path, title, tuple(shares), seeds, baseline, tuple(rows), gpus, tuple(runs))


def as_arguments(fields: Mapping[str, Any]) -> Iterator[str]:
    """Yields fields as arguments of a command line."""
    for name, value in fields.items():
        yield f"--{name}"
        for item in value if isinstance(value, list) else [value]:
            plain = isinstance(item, (str, int, float)) and not isinstance(item, bool)
            yield str(item) if plain else json.dumps(item)


def _parse(where: str, arguments: Sequence[str]) -> Run:
    """Parses a command line into a run without share, row, seed and folder."""
    try:
        model, data, args = RecipeParser(TRAINING_RECIPE).parse_recipe(arguments)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    settings = json.loads(json.dumps(asdict(model) | asdict(data) | args.to_dict()))
    return Run("", "", 0, Path(), tuple(arguments), settings, model, data, args.semi_supervised)


def _mapping(path: Path, values: Mapping[str, Any], key: str) -> Mapping[Any, Any]:
    found = values.get(key)
    if not isinstance(found, dict) or not found:
        raise InputError(f"{path}: {key}: must be `name: …` lines, one or more.")
    return found


def _share(path: Path, name: Any, value: Any) -> tuple[Path, dict[str, Any]]:
    """Returns the recipe of a share, and the fields that the share replaces."""
    fields = dict(value) if isinstance(value, dict) else {"recipe": value}
    if not isinstance(fields.get("recipe"), str):
        raise InputError(f"{path}: shares: {name}: has no recipe; name one by its path from the table's folder.")
    recipe = Path(os.path.normpath(recipe_file(fields.pop("recipe"), path.parent)))
    if not recipe.is_file():
        raise InputError(
            f"{path}: shares: {name}: there is no {recipe}; name a recipe by its path from the table's folder."
        )
    return recipe, fields


def _seeds(path: Path, values: Mapping[str, Any]) -> tuple[int, ...]:
    seeds = values.get("seeds")
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int and seed >= 0 for seed in seeds):
        raise InputError(f"{path}: seeds: must be a list of whole numbers such as [0, 1, 2], got {seeds!r}.")
    for seed in seeds:
        if seeds.count(seed) > 1:
            raise InputError(f"{path}: seeds: {seed} is given twice; each seed is one run, take another number.")
    return tuple(seeds)


def _check_names(path: Path, shares: list[str], rows: list[str]) -> None:
    """Raises where two shares or two rows would get the same folder."""
    for key, names in (("shares", shares), ("rows", rows)):
        folders = [_folder_name(name).lower() for name in names]
        for name, folder in zip(names, folders):
            if not folder.strip("._"):
                raise InputError(f"{path}: {key}: '{name}' has neither letter nor digit; take another name.")
            if folders.count(folder) > 1:
                raise InputError(f"{path}: {key}: '{name}' is too similar to another name; take another one.")


def _check_fields(where: str, names: Sequence[str] | Mapping[str, Any]) -> None:
    known = other_fields()  # all
    for name in names:
        if name in OWN_FIELDS:
            raise InputError(f"{where}: {name}: each run has its own, from the table's seeds and --output_dir.")
        if name not in known:  # argparse would take the beginning of a name, too
            raise InputError(f"{where}: unknown field '{name}'.{did_you_mean(name, known)}")


def _times(where: str, name: str, value: Any, recipe: Mapping[str, Any]) -> Any:
    """Returns a value; `x2` becomes twice the recipe's."""
    factor = re.fullmatch(r"x(\d+\.?\d*|\.\d+)", value) if isinstance(value, str) else None
    if factor is None:
        return value
    if name not in recipe or not isinstance(recipe[name], (int, float)) or recipe[name] <= 0:
        raise InputError(f"{where}: {name}: {value} needs a number above 0 in the recipe.")
    product = float(factor[1]) * recipe[name]
    return round(product) if isinstance(recipe[name], int) else product


def _folder_name(name: str) -> str:
    return re.sub(r"[^\w.+-]+", "_", name)


def _like_one_of(name: Any, known: Sequence[str] | Mapping[str, Any]) -> str:
    return did_you_mean(name, known) or f" There are {', '.join(known)}."

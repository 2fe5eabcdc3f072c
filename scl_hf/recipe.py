"""A recipe (YAML) and the command line on top of it -> dataclasses."""

import argparse
import difflib
import itertools
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn, get_args, get_origin, get_type_hints

import yaml
from transformers import HfArgumentParser

from .checkpoints import ModelArguments
from .config import SemiSupervisedConfig
from .data import AugmentationArguments, DataArguments, SamplingArguments
from .errors import InputError, first_line

TRAINING_RECIPE = (ModelArguments, DataArguments, SamplingArguments, AugmentationArguments, SemiSupervisedConfig)


def other_fields(*taken: type) -> set[str]:
    """
    The fields of a training recipe that another script leaves aside, also where it has some of the same name.

    Args:
        taken (`type`): The dataclasses whose fields it takes from the recipe.

    Returns:
        `set[str]`: The names of all other fields.
    """
    names = {field.name for group in TRAINING_RECIPE for field in fields(group)}
    return names - {field.name for group in taken for field in fields(group)}


# The core schema of YAML 1.2
_NUMBERS = {
    "tag:yaml.org,2002:int": r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+",
    "tag:yaml.org,2002:float": r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
}


class _RecipeLoader(yaml.SafeLoader):
    """
    Reads the numbers of YAML 1.2. By those of YAML 1.1, which PyYAML reads, 1_8 is 18, 1:30 is 90, 010 is 8 and 1e-2
    is text.
    """

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in _NUMBERS]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_int(self, node: yaml.ScalarNode) -> int:
        text = self.construct_scalar(node)
        return int(text, 0) if text.startswith(("0o", "0x")) else int(text)


for _tag, _pattern in _NUMBERS.items():
    _RecipeLoader.add_implicit_resolver(_tag, re.compile(rf"(?:{_pattern})$"), list("-+.0123456789"))
_RecipeLoader.add_constructor("tag:yaml.org,2002:int", _RecipeLoader.construct_int)


def split_command_line(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """What stands before the first `--field`, and the rest."""
    leading = list(itertools.takewhile(lambda argument: not argument.startswith("-"), argv))
    return leading, list(argv[len(leading) :])


class RecipeParser(HfArgumentParser):
    """
    Parses `script.py recipe.yaml --field value …`: the recipe's values replace the dataclasses' defaults and the
    command line replaces both. Every value goes through the same conversion, so `1e-2` is a number in either place.
    """

    source = "command line"  # what error messages name

    def parse_recipe(self, argv: Sequence[str], ignored: Collection[str] = ()) -> tuple[Any, ...]:
        """
        Args:
            argv (`Sequence[str]`): Command line without the script's name.
            ignored (`Collection[str]`, *optional*): Fields that the recipe may hold for another script.

        Returns:
            `tuple`: One instance per dataclass.

        Raises:
            [`InputError`]: An unknown field, a value of the wrong type or out of its range, an unreadable recipe.
        """
        argv = list(argv)
        for action in self._actions:
            if action.dest != "help" and type(None) in _alternatives(self.dataclass_types, action.dest):
                action.type = _or_null(action.type)
        if argv and not argv[0].startswith("-"):
            self.source = argv.pop(0)
            values = self._read(Path(self.source))
            self._set_recipe_defaults({name: value for name, value in values.items() if name not in ignored})
            # argparse converts text defaults too late to know where they came from: convert them here, by themselves.
            self.parse_known_args([])
            self.source += " or command line"
        try:
            *parsed, unknown = self.parse_args_into_dataclasses(
                argv, look_for_args_file=False, return_remaining_strings=True
            )
        except InputError:
            raise
        except (ValueError, TypeError) as error:  # a dataclass's own checks
            self.error(first_line(error))
        if unknown:
            self._unknown_field(unknown[0].removeprefix("--"))
        return tuple(parsed)

    def error(self, message: str) -> NoReturn:
        message = re.sub(r"(argument )?--(\w+)(/--[\w-]+)?: ", r"\2: ", message)
        raise InputError(f"{self.source}: {message}")

    def _known_fields(self) -> list[str]:
        return [f.name for dataclass_type in self.dataclass_types for f in fields(dataclass_type) if f.init]

    def _unknown_field(self, name: str) -> NoReturn:
        close = difflib.get_close_matches(name, self._known_fields(), n=1)
        self.error(f"unknown field '{name}'." + (f" Did you mean '{close[0]}'?" if close else ""))

    def _read(self, path: Path) -> dict[str, Any]:
        if not path.is_file():
            raise InputError(f"{path}: no such recipe. The recipes of this project are in recipes/.")
        try:
            values = yaml.load(path.read_text(encoding="utf-8"), Loader=_RecipeLoader)
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
        if not isinstance(values, dict):
            raise InputError(f"{path}: a recipe is a list of `field: value` lines.")
        return values

    def _set_recipe_defaults(self, values: dict[str, Any]) -> None:
        # `--no_x` shares its destination with `--x`; only `--x` has the conversion.
        actions = {a.dest: a for a in reversed(self._actions) if not isinstance(a, argparse._StoreFalseAction)}
        known = self._known_fields()
        for name, value in values.items():
            if name not in known:
                self._unknown_field(str(name))
            action = actions[name]
            takes_list = action.nargs == "+"
            alternatives = _alternatives(self.dataclass_types, name)
            if value is None:
                if type(None) not in alternatives:
                    self.error(f"{name}: expected a value, got none.")
            elif isinstance(value, dict):
                if dict not in alternatives:
                    self.error(f"{name}: expected {'a list' if takes_list else 'one value'}, got a mapping.")
            elif takes_list:
                items = value if isinstance(value, list) else [value]
                try:
                    value = [self._get_value(action, str(item)) for item in items]
                except argparse.ArgumentError as error:
                    self.error(str(error))
            elif isinstance(value, list):
                self.error(f"{name}: expected one value, got {value!r}.")
            else:
                value = str(value)
            for same in self._actions:
                if same.dest == name:
                    same.default = value


def _alternatives(dataclass_types: Sequence[type], name: str) -> set[type]:
    # HfArgumentParser overwrites `field.type`; the annotations keep what was declared.
    hint = next(hints[name] for t in dataclass_types if name in (hints := get_type_hints(t)))
    return {get_origin(alternative) or alternative for alternative in get_args(hint)}


def _or_null(convert: Callable[[str], Any] | None) -> Callable[[str], Any]:
    """The conversion of a field that may be left out: `null` leaves it out."""

    def or_null(text: str) -> Any:
        return None if text.lower() == "null" else (convert or str)(text)

    or_null.__name__ = getattr(convert, "__name__", "str")  # argparse names it in its messages
    return or_null

"""Scripts: a recipe (YAML) and a command line become dataclasses; exit codes."""

import argparse
import inspect
import itertools
import json
import logging
import os
import re
import sys
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn, get_args, get_origin, get_type_hints

import yaml
from tqdm.auto import tqdm
from transformers import HfArgumentParser
from transformers.hf_argparser import string_to_bool

from .checkpointing.signals import Interrupted, leaving
from .errors import RESUME_HINT, InputError, SharedError, did_you_mean, first_line
from .files import disk_full, is_disk_full
from .processes import are_several, is_main_process

logger = logging.getLogger(__name__)

RENAMED = {"teacher_renewal_steps": "teacher_update_interval"}  # old name -> new one; still read in this version
# Prefixes of fields about one start of a run or its user; a published recipe leaves them out
NOT_PASSED_ON = tuple(
    "allow_changed_recipe dry_run hub_ model_card_template overwrite_output_dir project push_to_hub report_to "
    "resume_from_checkpoint run_name trackio_".split()
)
# The wheel carries scripts/ and recipes/ within the package; a checkout has them beside it.
HOME = Path(__file__).resolve().parents[0 if (Path(__file__).parent / "recipes").is_dir() else 1]
RECIPES = {path.stem: path for glob in ("*.yaml", "tables/*.yaml") for path in sorted((HOME / "recipes").glob(glob))}


def split_command_line(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Splits a command line before its first `--field`."""
    leading = list(itertools.takewhile(lambda argument: not argument.startswith("-"), argv))
    return leading, list(argv[len(leading) :])


def field_help(dataclass_type: type) -> dict[str, str]:
    """Returns field -> its text, in one line, from the docstring of its class or of the nearest base."""
    described = {}
    for owner in reversed(dataclass_type.__mro__):
        text = inspect.cleandoc(owner.__doc__ or "")
        entries = re.findall(r"^    (\w+) ?\(.*?\):?((?: .*)?(?:\n(?: {8}.*)?)*)$", text, re.MULTILINE)
        described |= {name: " ".join(entry.split()) for name, entry in entries}
    return {field.name: described[field.name] for field in fields(dataclass_type) if field.name in described}


def first_sentence(text: str) -> str:
    """Returns the first sentence of a text, without its full stop."""
    return re.split(r"(?<!e\.g)(?<!i\.e)(?<!et al)\.(?:\s|$)", text, maxsplit=1)[0].strip()


# The core schema of YAML 1.2
_SCALARS = {
    "tag:yaml.org,2002:bool": r"true|True|TRUE|false|False|FALSE",
    "tag:yaml.org,2002:int": r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+",
    "tag:yaml.org,2002:float": r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
}


class _RecipeLoader(yaml.SafeLoader):
    """Reads scalars as YAML 1.2 (by 1.1, 1_8 is 18, 1e-2 is text and no is false), and rejects a field given twice."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in _SCALARS]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        counts = Counter(key.value for key in keys)
        for key in keys:
            if counts[key.value] > 1:
                raise yaml.constructor.ConstructorError(None, None, f"'{key.value}' is given twice", key.start_mark)
        return super().construct_mapping(node, deep)


for _tag, _pattern in _SCALARS.items():
    _RecipeLoader.add_implicit_resolver(_tag, re.compile(rf"(?:{_pattern})$"), list("-+.0123456789tTfF"))
_RecipeLoader.add_constructor(
    "tag:yaml.org,2002:int", lambda loader, node: int(node.value, 0 if node.value.startswith(("0o", "0x")) else 10)
)


class _RecipeDumper(yaml.SafeDumper):
    """Writes what [`_RecipeLoader`] reads back unchanged, with each list on one line."""

    yaml_implicit_resolvers = _RecipeLoader.yaml_implicit_resolvers

    def represent_sequence(self, tag: str, sequence: Iterable, flow_style: bool | None = None) -> yaml.SequenceNode:
        return super().represent_sequence(tag, sequence, flow_style=True)


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows one spelling of each field with its type, and no `(default: None)`."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        arguments = self._format_args(action, getattr(action.type, "__name__", "str"))
        return f"{action.option_strings[0]} {arguments}".rstrip()

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None else super()._get_help_string(action)


class RecipeParser(HfArgumentParser):
    """
    Parses `script.py recipe.yaml --field value …`: the recipe's values replace the dataclasses' defaults, and the
    command line replaces both. A recipe with `base: other.yaml`, a path from its own folder, holds only what differs
    from that one. This project's recipes go by their names. In all texts `~` and variables such as `$HOME` are
    replaced. `--help` shows the first sentence of each field's docstring.
    """

    def __init__(self, dataclass_types: type | Iterable[type], usage: str = "[RECIPE.yaml] [--field value …]"):
        self.source = "command line"  # named in error messages
        self.alternatives: dict[str, set[type]] = {}  # field -> the types that it may have
        self.given: dict[str, Any] = {}  # fields in the recipe or not at their defaults, as parsed
        super().__init__(dataclass_types, usage=f"%(prog)s {usage}", formatter_class=_HelpFormatter)
        self.own_defaults = {  # of the dataclasses, before a recipe replaces them
            action.dest: self._get_value(action, action.default) if isinstance(action.default, str) else action.default
            for action in reversed(self._actions)  # `--no_x` comes after `--x`
        }

    def parse_recipe(self, argv: Sequence[str], ignored: Collection[str] = ()) -> tuple[Any, ...]:
        """Returns one instance per dataclass; `ignored` are fields that the recipe may hold for another script."""
        argv = [re.sub(r"(?<=^--)\w+", lambda name: self._current(name[0]), word) for word in argv]
        in_recipe = set()
        if argv and not argv[0].startswith("-"):
            recipe = argv.pop(0)
            for self.source, values in _read_with_bases(recipe_file(recipe)):
                values = {now: v for name, v in values.items() if (now := self._current(str(name))) not in ignored}
                self._set_recipe_defaults(values)
                in_recipe |= values.keys()
            self.source = f"{recipe} or command line"
        namespace, unknown = self.parse_known_args(argv)
        values = vars(namespace)
        self.given = {
            name: value for name, value in values.items() if name in in_recipe or value != self.own_defaults[name]
        }
        try:
            values = {name: _expanded(value, f"{self.source}: {name}") for name, value in values.items()}
            parsed = [
                group(**{field.name: values[field.name] for field in fields(group) if field.init})
                for group in self.dataclass_types
            ]
        except InputError:
            raise
        except (ValueError, TypeError, OSError) as error:  # a dataclass's own checks, and files that it reads
            self.error(first_line(error))
        if unknown:
            self._unknown_field(unknown[0].removeprefix("--"))
        return tuple(parsed)

    def portable_recipe(self) -> str:
        """Returns what was parsed as one recipe without a base, with only the names of paths on this machine."""
        parts = []
        for group in self._action_groups:
            names = dict.fromkeys(action.dest for action in group._group_actions if action.dest in self.given)
            values = {name: _portable(self.given[name]) for name in names if not name.startswith(NOT_PASSED_ON)}
            if values:
                text = yaml.dump(values, Dumper=_RecipeDumper, sort_keys=False, allow_unicode=True, width=100)
                parts.append(f"# {group.title}\n{text}")
        return "\n".join(parts)

    def error(self, message: str) -> NoReturn:
        message = re.sub(r"(argument )?--(\w+)(/--[\w-]+)?: ", r"\2: ", message)
        raise InputError(f"{self.source}: {message}")

    def _add_dataclass_arguments(self, dtype: type) -> None:
        """As upstream, with a group for each class that defines fields, bases last, and the docstrings' texts."""
        hints, texts = get_type_hints(dtype), field_help(dtype)
        left = {field.name: field for field in fields(dtype) if field.init}
        for owner in dtype.__mro__:
            group = self.add_argument_group(owner.__name__)
            for name in [name for name in inspect.get_annotations(owner) if name in left]:
                field = left.pop(name)
                field.type = hints[name]  # upstream reads it there
                self.alternatives[name] = {get_origin(kind) or kind for kind in get_args(hints[name])}
                self._parse_dataclass_field(group, field)
                for action in (action for action in self._actions if action.dest == name):
                    if name in texts:
                        action.help = first_sentence(texts[name]).replace("%", "%%")
                    if isinstance(action, argparse._StoreFalseAction):  # `--no_x` is `--x false`
                        action.help = argparse.SUPPRESS
                    if action.type is string_to_bool:
                        action.metavar = "true|false"
                    action.type = _conversion(action.type, self.alternatives[name])

    @staticmethod
    def _current(name: str) -> str:
        """Returns the present name of a field, with a warning if another one is given."""
        if name in RENAMED and is_main_process():
            logger.warning("%s is now called %s; the next version will not read the old name", name, RENAMED[name])
        return RENAMED.get(name, name)

    def _unknown_field(self, name: str) -> NoReturn:
        self.error(f"unknown field '{name}'.{did_you_mean(name, self.alternatives)}")

    def _set_recipe_defaults(self, values: dict[str, Any]) -> None:
        for name, value in values.items():
            if name not in self.alternatives:
                self._unknown_field(str(name))
            action = self._option_string_actions[f"--{name}"]
            kinds, takes_list = self.alternatives[name], action.nargs == "+"
            if value is None and type(None) not in kinds:
                self.error(f"{name}: expected a value, got none.")
            if isinstance(value, list) and not takes_list or isinstance(value, dict) and dict not in kinds:
                self.error(f"{name}: expected {'a list' if takes_list else 'one value'}, got {value!r}.")
            if value is not None and not isinstance(value, dict):
                # Not left to argparse, which converts defaults when the name of the file is no longer known.
                items = value if isinstance(value, list) else [value]
                try:
                    value = self._get_values(action, [str(item) for item in items])
                except argparse.ArgumentError as error:
                    self.error(str(error))
            self.set_defaults(**{name: value})
            action.required = False


def parse_leading(groups: type | Sequence[type], usage: str, first: str, least: int = 1, most: float = 1) -> list[Any]:
    """Returns the words before the first `--field`, which `first` describes in a message, and the parsed groups."""
    leading, fields = split_command_line(sys.argv[1:])
    if not least <= len(leading) <= most and not {"-h", "--help"} & set(fields):
        raise InputError(f"{first}: {usage}")
    return [leading, *RecipeParser(groups, usage).parse_recipe(fields)]


def _read_with_bases(path: Path, above: Sequence[Path] = ()) -> list[tuple[str, dict[str, Any]]]:
    """Returns (file, fields) of a recipe, after those of the bases that it names; `above` are those that name it."""
    values = read_yaml(path)
    if "base" not in values:
        return [(str(path), values)]
    base = recipe_file(_expanded(str(values.pop("base")), f"{path}: base"), path.parent)
    if not os.path.isfile(base):
        raise InputError(f"{path}: base: there is no {base}. Name a recipe by its path from this one's folder.")
    if any(os.path.samefile(base, recipe) for recipe in (path, *above)):
        raise InputError(f"{path}: base: {base} is based on this recipe itself. Name another one.")
    return [*_read_with_bases(base, (path, *above)), (str(path), values)]


def recipe_file(name: str, folder: Path = Path()) -> Path:
    """Returns the file of a recipe or table: a path from a folder, or the name of one of this project's."""
    return RECIPES.get(name, folder / name) if not os.path.isfile(folder / name) else folder / name


def read_yaml(path: Path) -> dict[str, Any]:
    """Reads the fields of a recipe file."""
    if not os.path.isfile(path):
        raise InputError(f"{path}: no such recipe.{did_you_mean(path.stem, RECIPES, 3)} See {HOME}/recipes.")
    try:
        values = yaml.load(path.read_text(encoding="utf-8-sig"), Loader=_RecipeLoader)
        json.dumps(values, default=str, skipkeys=True)  # finds an alias within its own anchor
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}). Check who may read it.") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise InputError(f"{path}: a recipe is a list of `field: value` lines.")
    return values


def _expanded(value: Any, where: str) -> Any:
    """Returns a value with `~` and variables such as `$HOME` replaced in its texts."""
    if isinstance(value, list):
        return [_expanded(item, where) for item in value]
    if not isinstance(value, str):
        return value
    for name in re.findall(r"\$\{?([A-Za-z_]\w*)", value):
        if not os.environ.get(name):
            raise InputError(f"{where}: {value!r} needs ${name}, which is not set. Set it, or write the path.")
    return os.path.expanduser(os.path.expandvars(value))


def _portable(value: Any) -> Any:
    """Returns a value as a recipe holds it, without folders of this machine."""
    if isinstance(value, list):
        return [_portable(item) for item in value]
    if not isinstance(value, str):
        return int(value) if isinstance(value, float) and value.is_integer() else value
    if value.startswith("{"):
        return json.loads(value)
    here = os.path.isabs(value) or value.startswith("~") or ".." in Path(value).parts
    return Path(os.path.abspath(value)).name if here else value


def _conversion(convert: Callable[[str], Any] | None, kinds: set[type]) -> Callable[[str], Any] | None:
    """Returns the conversion of a text on the command line: a field may also be `null`, or a mapping in JSON."""
    if not kinds & {dict, type(None)}:
        return convert

    def from_text(text: str) -> Any:
        if text.lower() == "null" and type(None) in kinds:
            return None
        if dict not in kinds:
            return (convert or str)(text)
        if text.startswith("{"):
            json.loads(text)  # a check; the field reads it
        return text

    from_text.__name__ = "JSON" if dict in kinds else getattr(convert, "__name__", "str")  # in messages and help
    return from_text


def run_script(main: Callable[[], int | None]) -> NoReturn:
    """Exits with what `main` returns, or 0; with 2 and one line for wrong input or a full disk; or 128 + a signal."""
    # TensorBoard's thread, for one: its error is raised again where the writer is used.
    threading.excepthook = lambda args: None if is_disk_full(args.exc_value) else threading.__excepthook__(args)
    line, is_main = None, is_main_process()
    try:
        code = main() or 0
    except Interrupted as stop:
        leaving()
        code = stop.code
        if is_main:
            line = stop.line or f"stopped by {stop.signal_name}: {RESUME_HINT} resumes it"
    except Exception as error:
        code, problem = 2, str(error)  # the error itself would keep its frames, and what they hold, alive
        if not isinstance(error, InputError):
            if is_disk_full(error):
                name = str(getattr(error, "filename", None) or "")
                problem = disk_full(error, name or "a file", os.path.dirname(name) or ".", "Free some space.")
            elif isinstance(error, OSError):
                problem = f"a file cannot be read or written ({first_line(error)})"
            else:
                raise
        if is_main or not isinstance(error, SharedError):
            line = f"error: {problem}"
    if line is not None:
        tqdm.write(line, file=sys.stderr)  # on a line of its own, below a progress bar
    if are_several():
        sys.stdout.flush()
        os._exit(code)  # the threads of its connections would abort the process
    sys.exit(code)

"""The classes of a dataset and what stands for them in label files, as a recipe or a file of the dataset says it."""

import contextlib
import itertools
import json
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from PIL import ImageColor

from ..errors import InputError, first_few, first_line
from .images import IGNORE_INDEX, Source
from .labels import LARGEST_ID, NUM_IDS, LabelImage, check_count, count_values, id_bounds

_MOST_LABELS = 20  # to look at for what their values may mean
_MOST_NAMES = 8  # in a line to write
_FORM = 'write it as {sky: 0, road: [1, 2], car: 3-9, tree: "#00ff00"}'


def read_classes(classes: Mapping[str, Any] | str, ignore: Any = None, where: str = "classes") -> LabelImage:
    """
    Returns the feature, not decoded, of labels with `classes` and `ignore` as in [`DataArguments`]: no other values
    may occur. A color may also be `[255, 0, 0]`; a file may hold both fields. Messages call the mapping `where`.
    """
    if isinstance(classes, str) and not classes.lstrip().startswith("{"):
        where, classes = classes, _read_yaml(classes)
        if isinstance(classes, dict) and isinstance(classes.get("classes"), dict):
            classes, ignore = classes["classes"], classes.get("ignore", ignore)
    elif isinstance(classes, str):
        classes = json.loads(classes)
    if not isinstance(classes, Mapping):
        raise InputError(f"{where}: {classes!r} is no mapping of names to values; {_FORM}")
    for name in classes:
        if not isinstance(name, str) or not name.strip():
            raise InputError(f"{where}: {name!r} is no name of a class; {_FORM}, unusual names in quotes")
    value = next(iter(classes.values()), None)
    check_count(where, list(classes), IGNORE_INDEX if value == 0 else 0, value)
    values = {name: _values_of(value, f"{where}: {name}") for name, value in classes.items()}
    ignored = [] if ignore is None else _values_of(ignore, "ignore")
    # Three numbers are a color, or three ids. They are both while nothing speaks against ids.
    items = [item for items in (*values.values(), ignored) for item in items]
    numbers = [number for item in items for number in (item if isinstance(item, tuple) else [item])]
    are_colors = len(set(numbers)) < len(numbers) or any(str(item).startswith("#") for item in items)
    train_ids, owners = {}, []
    for train_id, (name, items) in [*enumerate(values.items()), (IGNORE_INDEX, ("", ignored))]:
        for item in items:
            keys = [item]
            if isinstance(item, tuple):
                keys = [f"#{bytes(item).hex()}", *([] if are_colors else item)]
            train_ids |= dict.fromkeys(keys, train_id)
            owners += [(id_bounds(key), key, name) for key in keys]
    for (bounds, key, name), ((first, _), other_key, other) in itertools.pairwise(sorted(owners, key=lambda x: x[0])):
        if first <= bounds[1] and name != other:
            raise InputError(_twice(where, key, name, other_key, other))
    return LabelImage(decode=False, names=list(values), train_ids=train_ids)


def _read_yaml(path: str) -> Any:
    try:
        return yaml.safe_load(Path(path).read_text(encoding="utf-8-sig"))  # JSON is YAML
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"classes: cannot read {path} ({first_line(error)}); correct the path, or {_FORM}") from None


def _values_of(value: Any, where: str) -> list[int | str | tuple[int, int, int]]:
    """Returns the ids, ranges `"1-9"`, colors `"#ff0000"` and triples of numbers in a value."""
    if isinstance(value, list) and len(value) == 3 and all(str(item).isdigit() and int(item) < 256 for item in value):
        return [tuple(map(int, value))]
    if isinstance(value, list):
        return list(dict.fromkeys(item for each in value for item in _values_of(each, where)))
    text = str(value).strip().lower()
    if type(value) in (int, str) and re.fullmatch(r"\d+", text) and int(text) <= LARGEST_ID:
        return [int(text)]
    if (found := re.fullmatch(r"(\d+) ?[-–] ?(\d+)", text)) and int(found[1]) <= int(found[2]) <= LARGEST_ID:
        return [f"{int(found[1])}-{int(found[2])}"]
    if text.startswith("#"):
        with contextlib.suppress(ValueError):
            return ["#{:02x}{:02x}{:02x}".format(*ImageColor.getrgb(text)[:3])]
    if text.startswith("["):  # of the command line
        with contextlib.suppress(yaml.YAMLError):
            return _values_of(yaml.safe_load(text), where)
    hint = "; YAML takes # for a comment, so write colors in quotes" if value is None else ""
    raise InputError(f"{where}: {value!r} is no id, range or color{hint}; {_FORM}")


def _twice(where: str, key: int | str, name: str, other_key: int | str, other: str) -> str:
    if not (name and other):
        class_, value = (name, key) if name else (other, other_key)
        return (
            f"{where}: {value} stands for {class_!r} and is ignored, too; take it out of one: either "
            f"classes: {{{class_}: {value}, …}} and no {value} in ignore, or ignore: [{value}] and no {value} there"
        )
    return f"{where}: {key} of {name!r} and {other_key} of {other!r} overlap; give each value to one class"


def read_id2label(source: Mapping[int, str] | str | os.PathLike) -> dict[int, str]:
    """Reads train id -> name, in the order of the ids, from a mapping, its JSON or a file `{"0": "sky", …}` of it."""
    form = 'write it as {"0": "sky", "1": "road", …}'
    is_file = not isinstance(source, Mapping) and not str(source).startswith("{")
    where = str(source) if is_file else "id2label"
    if is_file and not os.path.isfile(source):
        raise InputError(f"id2label: there is no file {source}; name the JSON file with the class names")
    try:
        # As pairs, an id that is given twice stays twice
        text = Path(source).read_text(encoding="utf-8-sig") if is_file else source
        pairs = source.items() if isinstance(source, Mapping) else json.loads(text, object_pairs_hook=list)
        names = dict(sorted((int(str(key)), name) for key, name in pairs))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{where}: is not a table of class names ({error}); {form}") from error
    if len(names) < len(pairs):
        raise InputError(f"{where}: an id is given twice; give each class its own id")
    for key, name in names.items():
        if not isinstance(name, str) or not name.strip():
            raise InputError(f"{where}: the name of class {key} is no text; {form}")
    check_count(where, list(names.values()))
    if list(names) != list(range(len(names))):
        renumbered = ", ".join(f'"{i}": "{name}"' for i, name in enumerate([*names.values()][:2]))
        label_map = ", ".join(f"{key}: {i}" for i, key in enumerate([*names][:2]))
        raise InputError(
            f"{where}: the ids must be 0, 1, 2, … without a gap; number the classes anew, {{{renumbered}, …}}, with "
            f"the ids in label files as label_map: {{{label_map}, …}}"
        )
    name, count = Counter(names.values()).most_common(1)[0]
    if count > 1:
        raise InputError(f"{where}: {name!r} is the name of two classes; give each class its own name")
    return names


def read_label_map(value: dict | str) -> dict[int, int]:
    """Reads the `label_map` of a recipe, id in a label file -> train id, and checks all but the train ids."""
    form = 'write it as {7: 0, 8: 1}, or as \'{"7": 0, "8": 1}\' on the command line'
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise InputError(f"label_map: is not JSON ({error}); {form}") from None
    if not isinstance(value, dict) or not value:
        raise InputError(f"label_map: {value!r} is not a mapping of ids; {form}")
    try:
        ids = {int(str(key)): int(str(train_id)) for key, train_id in value.items()}
    except ValueError as error:
        raise InputError(f"label_map: holds something other than whole numbers ({error}); {form}") from None
    if len(ids) < len(value):
        raise InputError("label_map: names an id twice; leave one of them")
    if unknown := sorted(ids.keys() - range(NUM_IDS)):
        raise InputError(f"label_map: no label file can hold the id {unknown[0]}, only 0 to {NUM_IDS - 1}; correct it")
    return ids


def fields_of(labels: LabelImage) -> dict[str, Any]:
    """Returns the fields of a recipe that say what a feature says: `classes` and, if values are ignored, `ignore`."""
    values = {train_id: [] for train_id in (*labels.id2label, IGNORE_INDEX)}
    for key, train_id in labels.train_ids.items():
        values[train_id].append(key)
    ignored = values.pop(IGNORE_INDEX)
    forms = (each[0] if len(each) == 1 else _no_color(each) for each in values.values())
    return {"classes": dict(zip(labels.names, forms))} | ({"ignore": _no_color(ignored)} if ignored else {})


def _no_color(ids: list[int | str]) -> list[int | str]:
    """Returns ids in a form that is no color either, as three numbers would be."""
    return [*ids[:2], f"{ids[2]}-{ids[2]}"] if len(ids) == 3 and isinstance(ids[2], int) else ids


def missing_classes_problem(labels: LabelImage, shown: Collection[int], sources: Iterable[Source]) -> str | None:
    """Says which classes are not among those `shown` by labels, and what to write by the values in some `sources`."""
    missing = [name for i, name in labels.id2label.items() if i not in shown]
    if not missing:
        return None
    found = Counter()
    for source in itertools.islice(sources, _MOST_LABELS):
        with contextlib.suppress(InputError):  # it is named elsewhere
            found.update(count_values(source, labels))
    fields = {"ignore": [], **fields_of(labels)}
    classes, ignored = fields["classes"], [value for value, train_id in found if train_id == IGNORE_INDEX]
    held = [f"{n / found.total():.0%} are {v}{' (ignored)' * (v in ignored)}" for (v, _), n in found.most_common()]
    absent = {name: value for name, value in classes.items() if name in missing}
    remedies = []
    if len(missing) == len(ignored) == 1 and ignored[0] in fields["ignore"]:
        rest = _no_color([value for value in fields["ignore"] if value != ignored[0]])
        line = _recipe_line(classes | {missing[0]: ignored[0]}, rest)
        remedies.append(f"if {ignored[0]} is {missing[0]}, write {line} in place of label_map and ignore_index")
    if len(classes) - len(missing) > 1:
        line = _recipe_line({name: value for name, value in classes.items() if name not in missing}, fields["ignore"])
        remedies.append(f"leave out what is not there, {line}")
    remedy = ", or ".join([*remedies, "correct the labels"])
    return f"no label shows {{{_flow(absent)}}}; of the pixels {first_few(held, 6)}; {remedy}"


def _recipe_line(classes: Mapping[str, Any], ignored: list[int | str]) -> str:
    """Returns `classes`, the first few, and what is ignored as they stand in a recipe."""
    return f"classes: {{{_flow(classes)}}}" + f", ignore: {ignored}" * bool(ignored)


def _flow(items: Mapping[str, Any]) -> str:
    """Returns the first few items of a mapping as YAML has them."""
    options = {"default_flow_style": True, "sort_keys": False, "allow_unicode": True, "width": float("inf")}
    written = yaml.safe_dump(dict(itertools.islice(items.items(), _MOST_NAMES)), **options).strip()[1:-1]
    return written + ", …" * (len(items) > _MOST_NAMES)

"""What the ids in label files mean: names, train ids, colours."""

import colorsys
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..errors import InputError
from .files import IGNORE_INDEX


class Classes(NamedTuple):
    """
    The classes of a data set.

    Args:
        id2label (`dict[int, str]`): Train id -> name.
        palette (`np.ndarray`): (num_classes, 3) uint8 colours.
        label_table (`np.ndarray`): Id in a label file -> train id, for [`~files.read_label`].
    """

    id2label: dict[int, str]
    palette: np.ndarray
    label_table: np.ndarray


def make_palette(num_classes: int) -> np.ndarray:
    """
    Colours for classes that bring none: the seven of Okabe and Ito, which colour-blind people tell apart, then hues
    in three brightnesses. Black is left to ignored pixels.

    Args:
        num_classes (`int`): Number of colours.

    Returns:
        `np.ndarray`: (num_classes, 3) uint8.
    """
    colors = [
        (230, 159, 0),
        (86, 180, 233),
        (0, 158, 115),
        (240, 228, 66),
        (0, 114, 178),
        (213, 94, 0),
        (204, 121, 167),
    ]
    for index in range(num_classes - len(colors)):
        # Steps of the golden ratio never meet an earlier hue again.
        red_green_blue = colorsys.hsv_to_rgb(index * 0.618034 % 1, 0.65, (0.55, 1.0, 0.8)[index % 3])
        colors.append(tuple(round(255 * value) for value in red_green_blue))
    return np.array(colors[:num_classes], np.uint8).reshape(num_classes, 3)


def read_id2label(path: Path) -> dict[int, str]:
    """
    Reads the names of the classes.

    Args:
        path (`pathlib.Path`): A JSON file, `{"0": "sky", "1": "road", …}`.

    Returns:
        `dict[int, str]`: Train id -> name, in the order of the ids.

    Raises:
        InputError: There is no such file, or it is not such a table.
    """
    form = 'write it as {"0": "sky", "1": "road", …}'
    if not path.is_file():
        raise InputError(f"id2label: there is no file {path}; name the JSON file with the class names, {form}")
    try:
        names = {int(key): str(name) for key, name in json.loads(path.read_text(encoding="utf-8")).items()}
    except (ValueError, AttributeError) as error:
        raise InputError(f"{path}: is not a table of class names ({error}); {form}") from error
    if not names or sorted(names) != list(range(len(names))) or len(names) > IGNORE_INDEX:
        raise InputError(f"{path}: the ids must be 0, 1, 2, … without a gap, at most {IGNORE_INDEX} of them; {form}")
    if len(set(names.values())) < len(names):
        twice = next(name for name in names.values() if list(names.values()).count(name) > 1)
        raise InputError(f"{path}: '{twice}' is the name of two classes; give each class its own name")
    return dict(sorted(names.items()))


def identity_table(num_classes: int) -> np.ndarray:
    """The table of labels that hold train ids, and 255 where pixels are ignored: (65536,) int16, see `read_label`."""
    table = np.full(65536, -1, np.int16)
    table[:num_classes] = np.arange(num_classes)
    table[IGNORE_INDEX] = IGNORE_INDEX
    return table

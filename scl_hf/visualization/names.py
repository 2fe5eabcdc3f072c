"""Names of runs and checkpoints in tables, legends and folders."""

import re
from collections.abc import Sequence
from pathlib import Path

from ..errors import InputError


def short_names(checkpoints: Sequence[str], suffix: str = "") -> list[str]:
    """Returns unique names: the end of each path, two parts long for `demo/checkpoint-500`, and the suffix."""
    paths = [Path(checkpoint).resolve() for checkpoint in checkpoints]
    twice = next((given for given, path in zip(checkpoints, paths) if paths.count(path) > 1), None)
    if twice is not None:
        raise InputError(f"{twice}: is given twice; name it once.")
    names = ["/".join(path.parts[-2 if path.name.startswith("checkpoint-") else -1 :]) for path in paths]
    return [name + suffix for name in (names if len(set(names)) == len(names) else checkpoints)]


def folder_names(names: Sequence[str]) -> list[str]:
    """Returns names as unique names of folders: those of `run` and `../run` are numbered."""
    folders = [re.sub(r"[^\w.+-]+", "-", name).strip("-.") for name in names]
    if len({folder.lower() for folder in folders}) < len(folders):
        folders = [f"{number}-{folder}" for number, folder in enumerate(folders, start=1)]
    return folders

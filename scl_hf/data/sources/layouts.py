"""The table of all sources: which one a recipe names, and which layout a folder has."""

import os
from dataclasses import replace
from pathlib import Path

from ...errors import InputError
from ..arguments import DataArguments
from ..images import InputImage
from . import cityscapes, folder, hf_dataset, mapillary
from .base import Source

# `dataset` -> a module with TITLE, is_layout, find_examples and open_source; `folder` is the most general layout.
LAYOUTS = {"cityscapes": cityscapes, "mapillary": mapillary, "folder": folder}


def open_source(args: DataArguments) -> Source:
    """Opens the data that a recipe names: files in one of the layouts, or else whatever `datasets` opens."""
    source = LAYOUTS.get(args.dataset, hf_dataset).open_source(args)
    source.input = InputImage.of(args)
    return source


def find_layout(data_dir: str | os.PathLike, recipe: DataArguments | None = None) -> DataArguments:
    """Returns the data fields of a folder by its layout; `recipe` has the classes and ids of a folder of your own."""
    if not os.path.isdir(data_dir):
        raise InputError(f"{data_dir}: no such folder; name the folder of the data")
    recipe = recipe or DataArguments()
    named = bool(recipe.id2label) or Path(data_dir, "id2label.json").is_file()
    layouts = [name for name, layout in LAYOUTS.items() if layout.is_layout(data_dir)]
    if not layouts:
        raise InputError(
            f"{data_dir}: holds no dataset; looked for leftImg8bit/train (Cityscapes), training/images (Mapillary "
            "Vistas) and <split>/images (a folder of your own); name the folder that has them"
        )
    layout = "folder" if named and "cityscapes" not in layouts else layouts[0]
    if layout == "folder" and not named:
        raise InputError(f'{data_dir}: id2label.json is missing; write it as {{"0": "sky", "1": "road", …}}')
    return replace(recipe, dataset=layout, data_dir=str(data_dir))

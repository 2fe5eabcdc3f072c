"""The table of all sources: which one a recipe names, and which layout a folder has."""

import os
from dataclasses import replace

from ...errors import InputError, first_few
from ..arguments import DataArguments
from ..images import InputImage
from . import cityscapes, folder, hf_dataset, mapillary
from .base import Source

# `dataset` -> a module with TITLE, is_layout and open_source; `folder` is the most general layout.
LAYOUTS = {"cityscapes": cityscapes, "mapillary": mapillary, "folder": folder}


def open_source(args: DataArguments) -> Source:
    """Opens the data that a recipe names: files in one of the layouts, or else whatever `datasets` opens."""
    source = LAYOUTS.get(args.dataset, hf_dataset).open_source(args)
    source.input = InputImage.of(args)
    return source


def find_layout(data_dir: str | os.PathLike | None, recipe: DataArguments | None = None) -> DataArguments:
    """Returns the data fields of a folder, by default that of `recipe`, by its layout; `recipe` has all the others."""
    recipe = recipe or DataArguments()
    data_dir = recipe.data_dir if data_dir is None else str(data_dir)
    if data_dir is not None and not os.path.isdir(data_dir):
        raise InputError(f"{data_dir}: no such folder; name the folder of the data")
    if recipe.train_images or data_dir is None:
        return replace(recipe, dataset="folder", data_dir=data_dir)
    own = recipe.classes is not None or recipe.id2label or os.path.isfile(os.path.join(data_dir, "id2label.json"))
    names = ("folder",) if recipe.dataset == "folder" else ("cityscapes", "folder") if own else LAYOUTS
    layout = next((name for name in names if LAYOUTS[name].is_layout(data_dir)), None)
    inside = [entry.path for entry in os.scandir(data_dir) if entry.is_dir() and entry.name[0] != "."]
    for official in (cityscapes, mapillary):
        if layout == "folder" and len(inside) == 1 and official.is_layout(inside[0]):
            raise InputError(f"{data_dir}: {official.TITLE} lies in {inside[0]}; name that folder")
    if layout is None:
        there = first_few(sorted(os.listdir(data_dir)), 5) or "nothing"
        raise InputError(f"{data_dir}: holds no images, but {there}; name the folder that has images and labels")
    return replace(recipe, dataset=layout, data_dir=data_dir)

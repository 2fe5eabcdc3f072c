"""The classes of a checkpoint's head, and those of the data."""

import copy
import re

import torch
from transformers import PreTrainedModel

from .errors import first_few


def plain(name: str) -> str:
    """Returns the name of a class in lower case, with one space for each run of spaces, hyphens and underscores."""
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()


def match_head(model: PreTrainedModel, id2label: dict[int, str], new: list[str]) -> str:
    """
    Puts the rows of a model's head, which are those of a checkpoint's classes `id2label`, in the order of its own, the
    data's. With other classes the head is drawn anew, and its tensors join the `new` ones, which are not the
    checkpoint's. `LABEL_0`, … name none. Returns what a line on the weights adds.
    """
    named, ours = [name for _, name in sorted(id2label.items())], [*model.config.id2label.values()]
    key = plain if len({*map(plain, ours)}) == len(ours) else str
    wanted = [key(name) for name in ours]
    known = [own if name == f"LABEL_{i}" else key(name) for i, (name, own) in enumerate(zip(named, wanted))]
    if known == wanted:
        return ""
    config, state = copy.deepcopy(model.config), model.state_dict()
    config.num_labels += 1
    with torch.device("meta"):
        larger = type(model)(config).state_dict()
    head = [name for name in state if state[name].shape != larger[name].shape and name not in new]
    if not head:
        return ""
    if {*known} == {*wanted}:
        rows = [known.index(name) for name in wanted]
        model.load_state_dict({name: state[name][rows] for name in head}, strict=False)
        return f"; {first_few(head, 4)} put in the order of the data's classes, by name"
    fresh = type(model)(model.config).state_dict()
    model.load_state_dict({name: fresh[name] for name in head}, strict=False)
    new += head
    others = first_few(name for name, own in zip(named, known) if own not in wanted)
    return f" (the data have no {others}; with the checkpoint's names in id2label its head is taken over)"

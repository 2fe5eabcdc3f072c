"""The processes of a run, as their launcher has started them."""

import os
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from .errors import InputError

Found = TypeVar("Found")


def are_several() -> bool:
    """Whether this process has met others, so that collective operations are possible, and due in all of them."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def is_main_process() -> bool:
    """Whether this is the first process of a run, or its only one; before they have met, as the launcher says."""
    return torch.distributed.get_rank() == 0 if are_several() else os.environ.get("RANK", "0") == "0"


def on_main_process(find: Callable[[], Found]) -> Found:
    """What the main process finds, in every process; what it refuses, each of them refuses."""
    found: list[Any] = [None]
    if is_main_process():
        try:
            found = [find()]
        except InputError as error:
            found = [error]
    if are_several():
        torch.distributed.broadcast_object_list(found)
    if isinstance(found[0], InputError):
        raise found[0]
    return found[0]

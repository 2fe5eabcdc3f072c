"""The processes of a run, as their launcher started them."""

import os
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from .errors import InputError

Found = TypeVar("Found")


def are_several() -> bool:
    """Returns whether this process has joined others, which all take part in each collective operation."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def is_main_process() -> bool:
    """Returns whether this is the first or only process. Before the processes meet, the launcher's RANK decides."""
    return torch.distributed.get_rank() == 0 if are_several() else os.environ.get("RANK", "0") == "0"


def on_main_process(find: Callable[[], Found]) -> Found:
    """Calls `find` in the main process; every process returns its result, or raises its InputError."""
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


def is_out_of_memory(error: BaseException | None) -> bool:
    """Returns whether memory ran out; PyTorch has an exception of its own for that on the GPU only."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)

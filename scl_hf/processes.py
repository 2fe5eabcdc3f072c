"""The processes of a run, as their launcher started them."""

import os
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from accelerate import PartialState

from .errors import InputError, SharedError

Found = TypeVar("Found")


def are_several() -> bool:
    """Returns whether this process has joined others, which all take part in each collective operation."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def check_joined() -> None:
    """Raises an error if a launcher started several processes and they have not joined: each would run alone."""
    started = int(os.environ.get("WORLD_SIZE", 1))
    # Without a GPU and `use_cpu`, Accelerate lets torch join them and then takes each for the only one.
    if started > 1 and PartialState._shared_state.get("num_processes", 1) < started:
        remedy = "Add --use_cpu true, make a GPU visible to each, or start one process with python."
        raise SharedError(f"WORLD_SIZE: the {started} processes of this launch work alone, without a GPU. {remedy}")


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

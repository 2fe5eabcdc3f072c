"""The processes of a run, as their launcher has started them."""

import os

import torch


def are_several() -> bool:
    """Whether this process has met others, so that collective operations are possible, and due in all of them."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def is_main_process() -> bool:
    """Whether this is the first process of a run, or its only one; before they have met, as the launcher says."""
    return torch.distributed.get_rank() == 0 if are_several() else os.environ.get("RANK", "0") == "0"

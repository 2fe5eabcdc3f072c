"""The processes of a run, as their launcher has started them."""

import os

import torch


def is_main_process() -> bool:
    """Whether this is the first process of a run, or its only one; known before any of them have met."""
    return os.environ.get("RANK", "0") == "0"


def are_several() -> bool:
    """Whether this process has met others, so that collective operations are possible, and due in all of them."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()

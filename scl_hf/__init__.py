"""Structured consistency loss for semi-supervised semantic segmentation, in the Hugging Face ecosystem."""

import importlib
from typing import TYPE_CHECKING, Any

from .models import DeepLabV3PlusConfig, DeepLabV3PlusForSemanticSegmentation

if TYPE_CHECKING:
    from .config import SemiSupervisedConfig
    from .trainer import SemiSupervisedTrainer

__version__ = "0.1.0"

__all__ = [
    "DeepLabV3PlusConfig",
    "DeepLabV3PlusForSemanticSegmentation",
    "SemiSupervisedConfig",
    "SemiSupervisedTrainer",
]


def __getattr__(name: str) -> Any:
    # What trains is imported when it is asked for: whoever loads a model needs neither OpenCV nor the data sets.
    modules = {"SemiSupervisedConfig": ".config", "SemiSupervisedTrainer": ".trainer"}
    if name not in modules:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(modules[name], __name__), name)

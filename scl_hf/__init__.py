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
    # The trainer is imported on first use: loading a model needs neither OpenCV nor `datasets`.
    modules = {"SemiSupervisedConfig": ".config", "SemiSupervisedTrainer": ".trainer"}
    if name not in modules:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(modules[name], __name__), name)

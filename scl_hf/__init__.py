"""Structured consistency loss for semi-supervised semantic segmentation, in the Hugging Face ecosystem."""

from .config import SemiSupervisedConfig
from .models import DeepLabV3PlusConfig, DeepLabV3PlusForSemanticSegmentation
from .trainer import SemiSupervisedTrainer

__all__ = [
    "DeepLabV3PlusConfig",
    "DeepLabV3PlusForSemanticSegmentation",
    "SemiSupervisedConfig",
    "SemiSupervisedTrainer",
]

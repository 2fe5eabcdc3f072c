"""Columns → samples → crops → batches."""

from .arguments import DataArguments
from .augmentation import AugmentationArguments
from .images import InputImage
from .labels import LabelImage
from .load import SegmentationData, load_data, load_evaluation
from .sampler import SamplingArguments

__all__ = [
    "AugmentationArguments",
    "DataArguments",
    "InputImage",
    "LabelImage",
    "SamplingArguments",
    "SegmentationData",
    "load_data",
    "load_evaluation",
]

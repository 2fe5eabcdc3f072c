"""Rows → draws → crops → batches."""

from .augmentation import AugmentationArguments
from .cityscapes import load_cityscapes
from .draws import SamplingArguments
from .labels import LabelImage
from .loading import SegmentationData, load_data, load_evaluation
from .mapillary import load_mapillary
from .source import DataArguments

__all__ = [
    "AugmentationArguments",
    "DataArguments",
    "LabelImage",
    "SamplingArguments",
    "SegmentationData",
    "load_cityscapes",
    "load_data",
    "load_evaluation",
    "load_mapillary",
]

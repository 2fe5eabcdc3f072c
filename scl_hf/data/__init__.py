"""Columns → samples → crops → batches."""

from .augmentation import AugmentationArguments
from .labels import LabelImage
from .load import SegmentationData, load_data, load_evaluation
from .sampler import SamplingArguments
from .sources.base import DataArguments
from .sources.cityscapes import load_cityscapes
from .sources.mapillary import load_mapillary

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

"""Rows → draws → crops → batches."""

from .augmentation import Augmentation, AugmentationArguments
from .cityscapes import load_cityscapes
from .class_index import ClassIndex
from .crops import DrawSampler, EvaluationImages, LabeledCrops, PairCollator, PairedCrops, UnlabeledCrops
from .draws import LabeledDraws, SamplingArguments
from .labels import LabelImage
from .loading import SegmentationData, load_data, load_evaluation
from .mapillary import load_mapillary
from .rows import picture_rows
from .source import DataArguments

__all__ = [
    "Augmentation",
    "AugmentationArguments",
    "ClassIndex",
    "DataArguments",
    "DrawSampler",
    "EvaluationImages",
    "LabelImage",
    "LabeledCrops",
    "LabeledDraws",
    "PairCollator",
    "PairedCrops",
    "SamplingArguments",
    "SegmentationData",
    "UnlabeledCrops",
    "load_cityscapes",
    "load_data",
    "load_evaluation",
    "load_mapillary",
    "picture_rows",
]

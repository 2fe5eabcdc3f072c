"""Rows → draws → crops → batches."""

from .augmentation import Augmentation, AugmentationArguments
from .batches import DrawSampler, EvaluationImages, LabeledCrops, PairCollator, PairedCrops, UnlabeledCrops
from .cityscapes import load_cityscapes
from .class_index import ClassIndex
from .class_uniform import LabeledDraws, SamplingArguments
from .loading import DataArguments, SegmentationData, load_data, load_evaluation
from .mapillary import load_mapillary
from .streets import draw_streets

__all__ = [
    "Augmentation",
    "AugmentationArguments",
    "ClassIndex",
    "DataArguments",
    "DrawSampler",
    "EvaluationImages",
    "LabeledCrops",
    "LabeledDraws",
    "PairCollator",
    "PairedCrops",
    "SamplingArguments",
    "SegmentationData",
    "UnlabeledCrops",
    "draw_streets",
    "load_cityscapes",
    "load_data",
    "load_evaluation",
    "load_mapillary",
]

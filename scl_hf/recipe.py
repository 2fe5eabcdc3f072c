"""What a training recipe is made of."""

from .arguments import ModelArguments
from .config import SemiSupervisedConfig
from .data import AugmentationArguments, DataArguments, SamplingArguments

TRAINING_RECIPE = (ModelArguments, DataArguments, SamplingArguments, AugmentationArguments, SemiSupervisedConfig)

"""What a training recipe is made of."""

from dataclasses import fields

from .arguments import ModelArguments
from .config import SemiSupervisedConfig
from .data import AugmentationArguments, DataArguments, SamplingArguments

TRAINING_RECIPE = (ModelArguments, DataArguments, SamplingArguments, AugmentationArguments, SemiSupervisedConfig)


def other_fields(*taken: type) -> set[str]:
    """
    The fields of a training recipe that another script leaves aside, also where it has some of the same name.

    Args:
        taken (`type`): The dataclasses whose fields it takes from the recipe.

    Returns:
        `set[str]`: The names of all other fields.
    """
    names = {field.name for group in TRAINING_RECIPE for field in fields(group)}
    return names - {field.name for group in taken for field in fields(group)}

"""What a model brings to the Hub beside its weights."""

from transformers import PreTrainedModel


def brings_code(model: PreTrainedModel) -> bool:
    """Whether `save_pretrained` puts the model's own code beside its weights."""
    return getattr(model, "_auto_class", None) is not None

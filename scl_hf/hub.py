"""What a run gives to the Hub beside its weights: the model's own code."""

from transformers import PreTrainedModel, TrainerCallback
from transformers.dynamic_module_utils import custom_object_save


def brings_code(model: PreTrainedModel) -> bool:
    """Whether `save_pretrained` puts the model's own code beside its weights."""
    return getattr(model, "_auto_class", None) is not None


class CodeBesideWeights(TrainerCallback):
    """Puts the model's own code into what the Trainer is about to push: it copies weights alone while training."""

    def on_push_begin(self, args, state, control, model=None, **kwargs):
        if brings_code(model):
            custom_object_save(model, args.output_dir, config=model.config)

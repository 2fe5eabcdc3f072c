"""The network, registered with the Auto classes. Its two files travel with the weights: no imports from scl_hf."""

from transformers import AutoConfig, AutoModelForSemanticSegmentation

from .configuration_deeplabv3plus import DeepLabV3PlusConfig
from .modeling_deeplabv3plus import DeepLabV3PlusForSemanticSegmentation

# Where this package is imported, the Auto classes find the classes above and ask for no trust in remote code.
AutoConfig.register("deeplabv3plus", DeepLabV3PlusConfig)
AutoModelForSemanticSegmentation.register(DeepLabV3PlusConfig, DeepLabV3PlusForSemanticSegmentation)

# Where it is not, `save_pretrained` has put the two files beside the weights.
DeepLabV3PlusConfig.register_for_auto_class()
DeepLabV3PlusForSemanticSegmentation.register_for_auto_class("AutoModelForSemanticSegmentation")

__all__ = ["DeepLabV3PlusConfig", "DeepLabV3PlusForSemanticSegmentation"]

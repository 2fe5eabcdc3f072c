"""The networks, registered with the Auto classes. Their files travel with the weights: no imports from scl_hf."""

from transformers import AutoBackbone, AutoConfig, AutoModelForSemanticSegmentation

from .configuration_backbone_dpt import BackboneDPTConfig
from .configuration_deeplabv3plus import DeepLabV3PlusConfig
from .modeling_backbone_dpt import BackboneDPTForSemanticSegmentation
from .modeling_deeplabv3plus import DeepLabV3PlusForSemanticSegmentation
from .modeling_efficientnet_lite import EfficientNetLiteBackbone, EfficientNetLiteConfig

# Where this package is imported, the Auto classes find the classes above and ask for no trust in remote code.
AutoConfig.register("deeplabv3plus", DeepLabV3PlusConfig)
AutoModelForSemanticSegmentation.register(DeepLabV3PlusConfig, DeepLabV3PlusForSemanticSegmentation)
AutoConfig.register("backbone_dpt", BackboneDPTConfig)
AutoModelForSemanticSegmentation.register(BackboneDPTConfig, BackboneDPTForSemanticSegmentation)
AutoBackbone.register(EfficientNetLiteConfig, EfficientNetLiteBackbone)

# Where it is not, `save_pretrained` has put the two files of a class beside the weights.
DeepLabV3PlusConfig.register_for_auto_class()
DeepLabV3PlusForSemanticSegmentation.register_for_auto_class("AutoModelForSemanticSegmentation")
BackboneDPTConfig.register_for_auto_class()
BackboneDPTForSemanticSegmentation.register_for_auto_class("AutoModelForSemanticSegmentation")

__all__ = [
    "BackboneDPTConfig",
    "BackboneDPTForSemanticSegmentation",
    "DeepLabV3PlusConfig",
    "DeepLabV3PlusForSemanticSegmentation",
]

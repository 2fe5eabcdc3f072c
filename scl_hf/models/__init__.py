"""The networks, registered with the Auto classes. Their files are copied beside the weights: relative imports only."""

from transformers import AutoBackbone, AutoConfig, AutoModelForSemanticSegmentation

from .configuration_backbone_dpt import BackboneDPTConfig
from .configuration_deeplabv3plus import DeepLabV3PlusConfig
from .modeling_backbone_dpt import BackboneDPTForSemanticSegmentation
from .modeling_deeplabv3plus import DeepLabV3PlusForSemanticSegmentation
from .modeling_efficientnet_lite import EfficientNetLiteBackbone, EfficientNetLiteConfig

# With this package imported, the Auto classes find these classes without trust in remote code.
AutoConfig.register("deeplabv3plus", DeepLabV3PlusConfig)
AutoModelForSemanticSegmentation.register(DeepLabV3PlusConfig, DeepLabV3PlusForSemanticSegmentation)
AutoConfig.register("backbone_dpt", BackboneDPTConfig)
AutoModelForSemanticSegmentation.register(BackboneDPTConfig, BackboneDPTForSemanticSegmentation)
AutoBackbone.register(EfficientNetLiteConfig, EfficientNetLiteBackbone)

# Without it they open the files that `save_pretrained` copies beside the weights.
DeepLabV3PlusConfig.register_for_auto_class()
DeepLabV3PlusForSemanticSegmentation.register_for_auto_class("AutoModelForSemanticSegmentation")
BackboneDPTConfig.register_for_auto_class()
BackboneDPTForSemanticSegmentation.register_for_auto_class("AutoModelForSemanticSegmentation")

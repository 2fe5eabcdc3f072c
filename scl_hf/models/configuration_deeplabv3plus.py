"""DeepLabV3+ model configuration."""

import copy
from collections.abc import Sequence

from huggingface_hub.dataclasses import strict
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig

from .configuration_efficientnet_lite import EfficientNetLiteConfig

# Not in `__init__.py`, which `save_pretrained` does not copy beside the weights.
AutoConfig.register(EfficientNetLiteConfig.model_type, EfficientNetLiteConfig, exist_ok=True)


@strict
class DeepLabV3PlusConfig(PreTrainedConfig):
    r"""
    Configuration of a [`DeepLabV3PlusForSemanticSegmentation`]. The defaults give the network of Zhu et al. (2019) for
    Cityscapes: WideResNet-38 at output stride 8, a skip connection at stride 2. Fields with one entry per module
    describe its residual modules mod2 to mod7. With `backbone_config` an encoder of the library takes its place, and
    `stem_channels`, `depths`, `channels`, `dilations` and `dropout_probs` are not used.

    Args:
        backbone_config (`dict` or `PreTrainedConfig`, *optional*):
            Encoder under the head, one that `AutoBackbone` opens: ResNet, ConvNeXt, Swin, DINOv2 and others, as a
            `dict` by its `model_type`. The head takes the first (skip connection) and the last (pyramid pooling) of
            its `out_features` or, if it names fewer than two, of all its stages. Its weights are random.
        output_stride (`int`, *optional*):
            Stride of the backbone's last map, 8 or 16, for encoders with stages of convolutions (ResNet, ConvNeXt):
            late strides become dilations, the weights stay. Defaults to the encoder's own, 32 for most.
        num_labels (`int`, *optional*, defaults to 19): Number of classes, unless `id2label` is given.
        num_channels (`int`, *optional*, defaults to 3): Number of input channels; a backbone brings its own.
        stem_channels (`int`, *optional*, defaults to 64): Channels of the stem, a 3×3 convolution at full resolution.
        depths (`Sequence[int]`, *optional*, defaults to `(3, 3, 6, 3, 1, 1)`): Residual blocks of each module.
        channels (`Sequence[Sequence[int]]`, *optional*, defaults to those of WideResNet-38):
            Output channels of the convolutions in a block of each module: two for two 3×3 convolutions, three for a
            bottleneck of 1×1, 3×3 and 1×1.
        dilations (`Sequence[int]`, *optional*, defaults to `(1, 1, 1, 2, 4, 4)`): Those of the 3×3 convolutions.
        dropout_probs (`Sequence[float]`, *optional*, defaults to `(0.0, 0.0, 0.0, 0.0, 0.3, 0.5)`):
            Probability of dropping a whole channel before the last convolution of a block, for each module.
        aspp_channels (`int`, *optional*, defaults to 256): Channels of each branch of the ASPP, and of its output.
        aspp_dilations (`Sequence[int]`, *optional*, defaults to `(12, 24, 36)`): Those of the ASPP's 3×3 branches.
        skip_channels (`int`, *optional*, defaults to 48): Channels to which the skip connection is reduced.
        decoder_channels (`int`, *optional*, defaults to 256): Channels of the decoder's two 3×3 convolutions.
        semantic_loss_ignore_index (`int`, *optional*, defaults to 255): Label of the pixels that the loss ignores.

    Raises:
        `ValueError`: `backbone_config` names no encoder of the library, or one without such feature maps.
        `huggingface_hub.errors.StrictDataclassError`: A field has a wrong type, or the fields do not fit together.

    Example:

    ```python
    >>> from scl_hf import DeepLabV3PlusConfig, DeepLabV3PlusForSemanticSegmentation

    >>> model = DeepLabV3PlusForSemanticSegmentation(DeepLabV3PlusConfig(num_labels=11))

    >>> resnet50 = {"model_type": "resnet"}
    >>> config = DeepLabV3PlusConfig(backbone_config=resnet50, output_stride=16, aspp_dilations=(6, 12, 18))
    >>> model = DeepLabV3PlusForSemanticSegmentation(config)
    ```"""

    model_type = "deeplabv3plus"
    sub_configs = {"backbone_config": AutoConfig}

    backbone_config: dict | PreTrainedConfig | None = None
    output_stride: int | None = None
    num_channels: int = 3
    stem_channels: int = 64
    depths: Sequence[int] = (3, 3, 6, 3, 1, 1)
    channels: Sequence[Sequence[int]] = (
        (128, 128),
        (256, 256),
        (512, 512),
        (512, 1024),
        (512, 1024, 2048),
        (1024, 2048, 4096),
    )
    dilations: Sequence[int] = (1, 1, 1, 2, 4, 4)
    dropout_probs: Sequence[float | int] = (0.0, 0.0, 0.0, 0.0, 0.3, 0.5)
    aspp_channels: int = 256
    aspp_dilations: Sequence[int] = (12, 24, 36)
    skip_channels: int = 48
    decoder_channels: int = 256
    semantic_loss_ignore_index: int = 255

    def __post_init__(self, **kwargs):
        # JSON has lists only: with tuples a configuration equals the one it was saved from.
        for name in ("depths", "dilations", "dropout_probs", "aspp_dilations"):
            setattr(self, name, tuple(getattr(self, name)))
        self.channels = tuple(tuple(module) for module in self.channels)
        if self.id2label is None:
            kwargs.setdefault("num_labels", 19)
        if self.backbone_config is not None:
            self._open_backbone_config()
        super().__post_init__(**kwargs)

    def _open_backbone_config(self):
        """Makes `backbone_config` a configuration with the two `out_features` that the head takes."""
        backbone = self.backbone_config
        if isinstance(backbone, dict):
            kind = backbone.get("model_type")
            if kind not in CONFIG_MAPPING:
                raise ValueError(f"backbone_config: model_type must be one of transformers, as resnet is, got {kind}")
            backbone = CONFIG_MAPPING[kind].from_dict(backbone)
        else:
            backbone = copy.deepcopy(backbone)
        stages = [name for name in getattr(backbone, "stage_names", None) or () if name != "stem"]
        if not stages:
            remedy = "take an encoder that AutoBackbone opens, such as resnet, convnext, swin or dinov2"
            raise ValueError(f"backbone_config: {backbone.model_type} gives no feature maps; {remedy}")
        # A single one, the library's default, leaves no map for the skip connection.
        names = backbone.out_features if len(backbone.out_features) > 1 else stages
        backbone.out_features = list(dict.fromkeys((names[0], names[-1])))
        self.backbone_config = backbone
        self.num_channels = getattr(backbone, "num_channels", 3)

    @property
    def stride(self) -> int:
        """`int`: Stride of the deepest map, which no side of an image may be below."""
        if self.backbone_config is None:
            return 8
        stages = len(getattr(self.backbone_config, "depths", (1,)))
        own = getattr(self.backbone_config, "deepest_stride", None)  # EfficientNet-Lite knows
        stem = getattr(self.backbone_config, "patch_size", None) or 4  # ResNet's stem has no patches
        return self.output_stride or own or (stem if isinstance(stem, int) else max(stem)) * 2 ** (stages - 1)

    def to_diff_dict(self):
        # The library omits its default of two classes, which would be read as 19 here.
        return super().to_diff_dict() | {"id2label": self.id2label, "label2id": self.label2id}

    def validate_architecture(self):
        """Part of `@strict`-powered validation. Validates the architecture of the config."""
        if self.output_stride not in (None, 8, 16):
            raise ValueError(f"output_stride must be 8 or 16, or left out, got {self.output_stride}")
        if self.output_stride is not None and self.backbone_config is None:
            raise ValueError("output_stride needs a backbone: WideResNet-38 has stride 8 and `dilations` of its own")
        for name in ("depths", "channels", "dilations", "dropout_probs"):
            if len(value := getattr(self, name)) != 6:
                raise ValueError(f"{name} must have 6 entries, one for each of mod2 to mod7, got {value}")
        if any(len(module) not in (2, 3) or min(module) < 1 for module in self.channels):
            raise ValueError(f"each entry of channels must hold 2 or 3 numbers of at least 1, got {self.channels}")
        if not all(0 <= probability < 1 for probability in self.dropout_probs):
            raise ValueError(f"dropout_probs must be at least 0 and less than 1, got {self.dropout_probs}")
        for name in ("num_channels", "stem_channels", "aspp_channels", "skip_channels", "decoder_channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("depths", "dilations", "aspp_dilations"):
            if min(getattr(self, name), default=1) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

"""DeepLabV3+ model configuration"""

from collections.abc import Sequence

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


@strict
class DeepLabV3PlusConfig(PreTrainedConfig):
    r"""
    Configuration of a [`DeepLabV3PlusForSemanticSegmentation`]. The defaults give the network of Zhu et al. (2019) for
    the 19 classes of Cityscapes: a WideResNet-38 trunk at output stride 8, a skip connection at stride 2. Fields given
    once per module name the trunk's six residual modules, mod2 to mod7 (mod1 is the stem, a single convolution).

    Args:
        num_labels (`int`, *optional*, defaults to 19):
            Number of classes. Not needed where `id2label` is given.
        num_channels (`int`, *optional*, defaults to 3):
            Number of input channels.
        stem_channels (`int`, *optional*, defaults to 64):
            Channels of the stem, a 3×3 convolution at full resolution.
        depths (`Sequence[int]`, *optional*, defaults to `(3, 3, 6, 3, 1, 1)`):
            Number of residual blocks of each module.
        channels (`Sequence[Sequence[int]]`, *optional*, defaults to `((128, 128), (256, 256), (512, 512), (512, 1024), (512, 1024, 2048), (1024, 2048, 4096))`):
            Output channels of the convolutions in a block of each module. Two: a basic block of two 3×3 convolutions.
            Three: a bottleneck of 1×1, 3×3 and 1×1.
        dilations (`Sequence[int]`, *optional*, defaults to `(1, 1, 1, 2, 4, 4)`):
            Dilation of the 3×3 convolutions of each module.
        dropout_probs (`Sequence[float]`, *optional*, defaults to `(0.0, 0.0, 0.0, 0.0, 0.3, 0.5)`):
            Probability of dropping a whole channel before the last convolution of a block, for each module.
        aspp_channels (`int`, *optional*, defaults to 256):
            Channels of each branch of the atrous spatial pyramid pooling, and of its output.
        aspp_dilations (`Sequence[int]`, *optional*, defaults to `(12, 24, 36)`):
            Dilations of the 3×3 branches of the atrous spatial pyramid pooling.
        skip_channels (`int`, *optional*, defaults to 48):
            Channels to which the decoder reduces mod2's output.
        decoder_channels (`int`, *optional*, defaults to 256):
            Channels of the decoder's two 3×3 convolutions.
        semantic_loss_ignore_index (`int`, *optional*, defaults to 255):
            Label of the pixels that the loss ignores.

    Raises:
        `huggingface_hub.errors.StrictDataclassError`: A field has a wrong type, or the fields do not fit together.

    Example:

    ```python
    >>> from scl_hf import DeepLabV3PlusConfig, DeepLabV3PlusForSemanticSegmentation

    >>> model = DeepLabV3PlusForSemanticSegmentation(DeepLabV3PlusConfig(num_labels=11))
    ```"""  # noqa: E501

    model_type = "deeplabv3plus"

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
        # JSON and YAML know lists only: tuples make a configuration equal to the one it was saved from.
        self.depths = tuple(self.depths)
        self.channels = tuple(tuple(module) for module in self.channels)
        self.dilations = tuple(self.dilations)
        self.dropout_probs = tuple(self.dropout_probs)
        self.aspp_dilations = tuple(self.aspp_dilations)
        if self.id2label is None:
            kwargs.setdefault("num_labels", 19)
        super().__post_init__(**kwargs)

    def to_diff_dict(self):
        # The library leaves its own default of two classes out of the file: here it would be read as 19.
        return super().to_diff_dict() | {"id2label": self.id2label, "label2id": self.label2id}

    def validate_architecture(self):
        """Part of `@strict`-powered validation. Validates the architecture of the config."""
        for name in ("depths", "channels", "dilations", "dropout_probs"):
            if len(getattr(self, name)) != 6:
                raise ValueError(
                    f"{name} must have 6 entries, one for each of mod2 to mod7, got {getattr(self, name)}"
                )
        if any(len(module) not in (2, 3) for module in self.channels):
            raise ValueError(f"each entry of channels must hold 2 or 3 numbers, got {self.channels}")
        if not all(0 <= probability < 1 for probability in self.dropout_probs):
            raise ValueError(f"dropout_probs must be at least 0 and less than 1, got {self.dropout_probs}")
        for name in ("num_channels", "stem_channels", "aspp_channels", "skip_channels", "decoder_channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("depths", "dilations", "aspp_dilations"):
            if min(getattr(self, name), default=1) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if min(min(module) for module in self.channels) < 1:
            raise ValueError(f"channels must be at least 1, got {self.channels}")


__all__ = ["DeepLabV3PlusConfig"]

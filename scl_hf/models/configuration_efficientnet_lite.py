"""EfficientNet-Lite encoder configuration"""

import math
from collections.abc import Sequence

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.backbone_utils import BackboneConfigMixin


@strict
class EfficientNetLiteConfig(BackboneConfigMixin, PreTrainedConfig):
    r"""
    Configuration of an [`EfficientNetLiteBackbone`]. The defaults give EfficientNet-Lite0: EfficientNet-B0 without
    squeeze-and-excitation and with ReLU6 (Tan and Le, 2019; Liu, 2020), an encoder of 3.4 M parameters that trains on
    a CPU. Its stages 1 to 7 give maps at strides 2, 4, 8, 16, 16, 32 and 32.

    Args:
        num_channels (`int`, *optional*, defaults to 3):
            Number of input channels.
        stem_channels (`int`, *optional*, defaults to 32):
            Channels of the stem, a 3×3 convolution of stride 2.
        stage_channels (`Sequence[int]`, *optional*, defaults to `(16, 24, 40, 80, 112, 192, 320)`):
            Output channels of each stage.
        num_block_repeats (`Sequence[int]`, *optional*, defaults to `(1, 2, 2, 3, 3, 4, 1)`):
            Number of blocks of each stage.
        strides (`Sequence[int]`, *optional*, defaults to `(1, 2, 2, 2, 1, 2, 1)`):
            Stride of each stage's first block.
        kernel_sizes (`Sequence[int]`, *optional*, defaults to `(3, 3, 5, 3, 5, 5, 3)`):
            Side of the depthwise kernels of each stage.
        expand_ratios (`Sequence[int]`, *optional*, defaults to `(1, 6, 6, 6, 6, 6, 6)`):
            Factor by which a block of each stage widens its input.
        batch_norm_eps (`float`, *optional*, defaults to 0.001):
            Added to the variance by BatchNorm.
        batch_norm_momentum (`float`, *optional*, defaults to 0.01):
            Weight of a batch in BatchNorm's running statistics.

    Example:

    ```python
    >>> from transformers import AutoBackbone

    >>> config = EfficientNetLiteConfig(out_features=["stage2", "stage5"])
    >>> model = AutoBackbone.from_config(config)
    ```"""

    model_type = "efficientnet_lite"

    num_channels: int = 3
    stem_channels: int = 32
    stage_channels: Sequence[int] = (16, 24, 40, 80, 112, 192, 320)
    num_block_repeats: Sequence[int] = (1, 2, 2, 3, 3, 4, 1)
    strides: Sequence[int] = (1, 2, 2, 2, 1, 2, 1)
    kernel_sizes: Sequence[int] = (3, 3, 5, 3, 5, 5, 3)
    expand_ratios: Sequence[int] = (1, 6, 6, 6, 6, 6, 6)
    batch_norm_eps: float = 0.001
    batch_norm_momentum: float = 0.01

    def __post_init__(self, **kwargs):
        for name in ("stage_channels", "num_block_repeats", "strides", "kernel_sizes", "expand_ratios"):
            setattr(self, name, tuple(getattr(self, name)))  # JSON knows lists only
        self.stage_names = ["stem"] + [f"stage{number}" for number in range(1, len(self.stage_channels) + 1)]
        self.set_output_features_output_indices(
            out_indices=kwargs.pop("out_indices", None), out_features=kwargs.pop("out_features", None)
        )
        super().__post_init__(**kwargs)

    @property
    def deepest_stride(self) -> int:
        """`int`: Stride of the last of `out_features`, the stem's two included."""
        return 2 * math.prod(self.strides[: self.out_indices[-1]])

    def validate_architecture(self):
        """Part of `@strict`-powered validation. Validates the architecture of the config."""
        stages = len(self.stage_channels)
        for name in ("num_block_repeats", "strides", "kernel_sizes", "expand_ratios"):
            if len(getattr(self, name)) != stages:
                raise ValueError(f"{name} must have {stages} entries, one for each stage, got {getattr(self, name)}")


__all__ = ["EfficientNetLiteConfig"]

"""PyTorch EfficientNet-Lite encoder: inverted residual blocks, feature maps for segmentation heads"""

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.backbone_utils import BackboneMixin
from transformers.modeling_outputs import BackboneOutput
from transformers.utils import can_return_tuple

from .configuration_efficientnet_lite import EfficientNetLiteConfig


class EfficientNetLiteConvLayer(nn.Module):
    """
    Convolution, BatchNorm and, unless it ends a block, ReLU6. The published weights were trained with TensorFlow's
    padding: the map of stride s has ⌈side / s⌉ pixels, and an odd pixel of padding is at the right and the bottom.
    """

    def __init__(
        self,
        config: EfficientNetLiteConfig,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        groups: int = 1,
        activation: bool = True,
    ):
        super().__init__()
        self.kernel_size, self.stride = kernel_size, stride
        padding = kernel_size // 2 if stride == 1 else 0
        self.convolution = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride=stride, padding=padding, groups=groups, bias=False
        )
        self.normalization = nn.BatchNorm2d(
            out_channels, eps=config.batch_norm_eps, momentum=config.batch_norm_momentum
        )
        self.activation = nn.ReLU6() if activation else nn.Identity()

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        if self.stride > 1:
            height, width = hidden_states.shape[-2:]
            down, right = (max(0, self.kernel_size - self.stride + -side % self.stride) for side in (height, width))
            hidden_states = F.pad(hidden_states, (right // 2, right - right // 2, down // 2, down - down // 2))
        return self.activation(self.normalization(self.convolution(hidden_states)))


class EfficientNetLiteBlock(nn.Module):
    """Inverted residual: widen, convolve each channel for itself, narrow; the input is added where shapes agree."""

    def __init__(
        self,
        config: EfficientNetLiteConfig,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int,
        expand_ratio: int,
    ):
        super().__init__()
        channels = in_channels * expand_ratio
        expansion = [EfficientNetLiteConvLayer(config, in_channels, channels, 1)] if expand_ratio > 1 else []
        self.layers = nn.Sequential(
            *expansion,
            EfficientNetLiteConvLayer(config, channels, channels, kernel_size, stride, groups=channels),
            EfficientNetLiteConvLayer(config, channels, out_channels, 1, activation=False),
        )
        self.is_residual = stride == 1 and in_channels == out_channels

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        transformed = self.layers(hidden_states)
        return hidden_states + transformed if self.is_residual else transformed


class EfficientNetLiteBackbone(BackboneMixin, PreTrainedModel):
    """
    The encoder without its classifier, for heads that take feature maps. Nothing is computed beyond the last stage of
    `config.out_features`, and the model does not hold it.

    Args:
        config ([`EfficientNetLiteConfig`]): Widths, depths and `out_features`.
    """

    config: EfficientNetLiteConfig
    base_model_prefix = "efficientnet_lite"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    has_attentions = False

    def __init__(self, config: EfficientNetLiteConfig):
        super().__init__(config)
        self.num_features = [config.stem_channels, *config.stage_channels]
        self.stem = EfficientNetLiteConvLayer(config, config.num_channels, config.stem_channels, 3, stride=2)
        self.stages = nn.ModuleList()
        in_channels = config.stem_channels
        for out_channels, repeats, stride, kernel_size, expand_ratio in zip(
            config.stage_channels, config.num_block_repeats, config.strides, config.kernel_sizes, config.expand_ratios
        ):
            if len(self.stages) == max(self.out_indices):
                break
            blocks = nn.Sequential()
            for _ in range(repeats):
                sizes = (in_channels, out_channels, kernel_size, stride, expand_ratio)
                blocks.append(EfficientNetLiteBlock(config, *sizes))
                in_channels, stride = out_channels, 1  # of all blocks but the first
            self.stages.append(blocks)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module):
        if isinstance(module, nn.Conv2d):
            init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        else:
            super()._init_weights(module)

    @can_return_tuple
    def forward(
        self, pixel_values: torch.Tensor, output_hidden_states: bool | None = None, **kwargs
    ) -> BackboneOutput:
        r"""
        Args:
            pixel_values (`torch.Tensor` of shape `(batch_size, num_channels, height, width)`):
                Normalized images.
            output_hidden_states (`bool`, *optional*, defaults to `config.output_hidden_states`):
                Whether to return the maps of all stages, too.
            return_dict (`bool`, *optional*, defaults to `config.return_dict`):
                Whether to return a [`~transformers.modeling_outputs.BackboneOutput`] instead of a tuple.

        Returns:
            `BackboneOutput` or `tuple`: `feature_maps`, one of shape `(batch_size, channels, ⌈height / stride⌉,
            ⌈width / stride⌉)` for each of `config.out_features`.
        """
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        hidden_states = [self.stem(pixel_values)]
        for stage in self.stages:
            hidden_states.append(stage(hidden_states[-1]))
        feature_maps = tuple(hidden_states[index] for index in self.out_indices)
        all_maps = tuple(hidden_states) if output_hidden_states else None
        return BackboneOutput(feature_maps=feature_maps, hidden_states=all_maps)


__all__ = ["EfficientNetLiteBackbone"]

"""PyTorch DeepLabV3+ model: WideResNet-38 or a backbone, atrous spatial pyramid pooling (ASPP), decoder."""

import itertools
import math
import operator
from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoBackbone, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import SemanticSegmenterOutput
from transformers.utils import can_return_tuple

from .configuration_deeplabv3plus import DeepLabV3PlusConfig
from .modeling_efficientnet_lite import EfficientNetLiteBackbone


def resize(hidden_states: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Resizes bilinearly, corner pixels on corner pixels."""
    return F.interpolate(hidden_states, size=size, mode="bilinear", align_corners=True)


class DeepLabV3PlusConvLayer(nn.Module):
    """Convolution, BatchNorm, ReLU at the resolution of the input."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, dilation: int = 1):
        super().__init__()
        spacing = {"padding": dilation * (kernel_size // 2), "dilation": dilation}
        self.convolution = nn.Conv2d(in_channels, out_channels, kernel_size, bias=False, **spacing)
        self.normalization = nn.BatchNorm2d(out_channels)
        self.activation = nn.ReLU(inplace=True)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.activation(self.normalization(self.convolution(hidden_states)))


class DeepLabV3PlusBlock(nn.Module):
    """
    Pre-activation residual block. Two `channels` give two 3×3 convolutions, three a bottleneck of 1×1, 3×3 and 1×1;
    the first convolution is the strided one. Where the shape changes, the shortcut is a 1×1 convolution.
    """

    def __init__(self, in_channels: int, channels: tuple[int, ...], stride: int, dilation: int, dropout_prob: float):
        super().__init__()
        kernel_sizes = (3, 3) if len(channels) == 2 else (1, 3, 1)
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.relu1 = nn.ReLU(inplace=True)
        self.projection = None
        if stride != 1 or in_channels != channels[-1]:
            self.projection = nn.Conv2d(in_channels, channels[-1], kernel_size=1, stride=stride, bias=False)

        layers = OrderedDict()
        for n, (kernel_size, out_channels) in enumerate(zip(kernel_sizes, channels), start=1):
            if n > 1:
                layers[f"norm{n}"] = nn.BatchNorm2d(in_channels)
                layers[f"relu{n}"] = nn.ReLU(inplace=True)
            if n == len(channels):
                layers["dropout"] = nn.Dropout2d(dropout_prob)
            spacing = {"padding": dilation, "dilation": dilation} if kernel_size == 3 else {}
            conv_stride = stride if n == 1 else 1
            layers[f"conv{n}"] = nn.Conv2d(in_channels, out_channels, kernel_size, conv_stride, bias=False, **spacing)
            in_channels = out_channels
        self.residual = nn.Sequential(layers)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        preactivated = self.relu1(self.norm1(hidden_states))
        shortcut = hidden_states if self.projection is None else self.projection(preactivated)
        return shortcut + self.residual(preactivated)


def recomputable(block: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """Wraps a block for gradient checkpointing, which calls it twice: only the first call updates BatchNorm."""
    calls = itertools.count()

    def forward(hidden_states: torch.Tensor) -> torch.Tensor:
        if next(calls) == 0:
            return block(hidden_states)
        throwaway_statistics = {name: buffer.clone() for name, buffer in block.named_buffers()}
        return torch.func.functional_call(block, throwaway_statistics, (hidden_states,))

    return forward


class DeepLabV3PlusModule(nn.Sequential):
    """Residual blocks in a row: one of mod2 to mod7."""

    gradient_checkpointing = False

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        for block in self:
            if self.gradient_checkpointing and self.training:
                hidden_states = self._gradient_checkpointing_func(recomputable(block), hidden_states)
            else:
                hidden_states = block(hidden_states)
        return hidden_states


class DeepLabV3PlusTrunk(nn.Module):
    """WideResNet-38: the stem mod1, mod2 at stride 2, mod3 at stride 4, mod4 to mod7 at stride 8, dilated."""

    def __init__(self, config: DeepLabV3PlusConfig):
        super().__init__()
        self.mod1 = nn.Conv2d(config.num_channels, config.stem_channels, kernel_size=3, padding=1, bias=False)
        self.pool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)

        modules = []
        in_channels = config.stem_channels
        strides = (1, 1, 2, 1, 1, 1)  # mod2 and mod3 follow a pooling, mod4 has a strided first block
        for depth, channels, stride, dilation, dropout_prob in zip(
            config.depths, config.channels, strides, config.dilations, config.dropout_probs
        ):
            blocks = [DeepLabV3PlusBlock(in_channels, channels, stride, dilation, dropout_prob)]
            for _ in range(depth - 1):
                blocks.append(DeepLabV3PlusBlock(channels[-1], channels, 1, dilation, dropout_prob))
            modules.append(DeepLabV3PlusModule(*blocks))
            in_channels = channels[-1]
        self.mod2, self.mod3, self.mod4, self.mod5, self.mod6, self.mod7 = modules

    def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the outputs of mod2 (stride 2, the decoder's skip connection) and mod7 (without BatchNorm)."""
        skip = self.mod2(self.pool(self.mod1(pixel_values)))
        hidden_states = self.mod4(self.mod3(self.pool(skip)))
        return skip, self.mod7(self.mod6(self.mod5(hidden_states)))


def stride_of(layer: nn.Module) -> int:
    """Returns the stride of a convolution or pooling, 1 for other layers."""
    stride = getattr(layer, "stride", 1)
    return stride if isinstance(stride, int) else max(stride)


def pad_right_and_down(convolution: nn.Conv2d, inputs: tuple[torch.Tensor]) -> torch.Tensor:
    """Pre-hook: keeps the size under an even kernel at stride 1, such as ConvNeXt's 2×2."""
    rows, columns = (
        d * (k - 1) - 2 * p for d, k, p in zip(convolution.dilation, convolution.kernel_size, convolution.padding)
    )
    return F.pad(inputs[0], (0, columns, 0, rows))


def dilate_late_stages(backbone: PreTrainedModel, output_stride: int) -> None:
    """
    Replaces strides beyond `output_stride` by dilations of the convolutions after them. The weights stay, and the old
    map is every second (fourth) pixel of the new one, except where a layer pools the whole map (ConvNeXtV2).
    """
    stages = next((module for name, module in backbone.named_modules() if name.endswith("stages")), nn.ModuleList())
    in_stages = set(stages.modules())
    stride = math.prod(stride_of(layer) for layer in backbone.modules() if layer not in in_stages)
    stages = [
        [layer for layer in stage.modules() if isinstance(layer, nn.Conv2d) or stride_of(layer) > 1]
        for stage in stages[: backbone.out_indices[-1]]
    ]
    strides = [max(map(stride_of, layers), default=1) for layers in stages]
    are_plain = all(type(layer) is nn.Conv2d for layers in stages for layer in layers)
    if not stages or not are_plain or output_stride not in itertools.accumulate([stride, *strides], operator.mul):
        raise ValueError(
            f"output_stride: {backbone.config.model_type} cannot give a map at stride {output_stride}, for it has no "
            "late stages that stride by plain convolutions, as ResNet and ConvNeXt have; leave it out"
        )
    dilation = 1
    for layers, stage_stride in zip(stages, strides):
        stride *= stage_stride
        if stride <= output_stride:
            continue
        dilation_before = dilation
        for convolution in layers:
            # A shortcut strides beside the block's convolution: both have the dilation before.
            is_strided = stride_of(convolution) > 1
            dilation = dilation_before * stage_stride if is_strided else dilation
            spacing = dilation_before if is_strided else dilation
            convolution.stride = (1, 1)
            convolution.dilation = tuple(spacing * d for d in convolution.dilation)
            convolution.padding = tuple(spacing * p for p in convolution.padding)
            if is_strided and convolution.kernel_size[0] % 2 == 0:
                convolution.register_forward_pre_hook(pad_right_and_down)


class DeepLabV3PlusASPP(nn.Module):
    """Image pooling, a 1×1 and dilated 3×3 convolutions side by side, concatenated in this order and projected."""

    def __init__(self, config: DeepLabV3PlusConfig, in_channels: int):
        super().__init__()
        channels = config.aspp_channels
        self.image_pooling = DeepLabV3PlusConvLayer(in_channels, channels, kernel_size=1)
        self.branches = nn.ModuleList([DeepLabV3PlusConvLayer(in_channels, channels, kernel_size=1)])
        for dilation in config.aspp_dilations:
            self.branches.append(DeepLabV3PlusConvLayer(in_channels, channels, kernel_size=3, dilation=dilation))
        self.projection = nn.Conv2d((1 + len(self.branches)) * channels, channels, kernel_size=1, bias=False)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        pooled = self.image_pooling(hidden_states.mean(dim=(2, 3), keepdim=True))
        branches = [branch(hidden_states) for branch in self.branches]
        # Resizing one pixel repeats it. A sum keeps the memory format, which `expand` would lose, and can be exported.
        pooled = torch.zeros_like(branches[0]) + pooled
        return self.projection(torch.cat([pooled, *branches], dim=1))


class DeepLabV3PlusDecoder(nn.Module):
    """Joins the upsampled ASPP to the reduced skip connection and classifies at the skip's stride."""

    def __init__(self, config: DeepLabV3PlusConfig, in_channels: int):
        super().__init__()
        self.skip_projection = nn.Conv2d(in_channels, config.skip_channels, kernel_size=1, bias=False)
        joined, channels = config.skip_channels + config.aspp_channels, config.decoder_channels
        self.layers = nn.Sequential(
            DeepLabV3PlusConvLayer(joined, channels, kernel_size=3),
            DeepLabV3PlusConvLayer(channels, channels, kernel_size=3),
        )
        self.classifier = nn.Conv2d(channels, config.num_labels, kernel_size=1, bias=False)

    def forward(self, skip: torch.Tensor, hidden_states: torch.Tensor) -> torch.Tensor:
        skip = self.skip_projection(skip)
        hidden_states = torch.cat([skip, resize(hidden_states, skip.shape[-2:])], dim=1)
        return self.classifier(self.layers(hidden_states))


class DeepLabV3PlusForSemanticSegmentation(PreTrainedModel):
    """
    DeepLabV3+ (Chen et al., 2018) over WideResNet-38, as in Zhu et al. (2019), or over `config.backbone_config`.

    `model.backbone` is then built by `AutoBackbone` with random weights; load pre-trained ones by
    `model.backbone.load_state_dict`. A saved model holds them. Gradient checkpointing is the backbone's own: Swin and
    vision transformers have it, ResNet and ConvNeXt have none, and asking for it is a `ValueError`.

    Args:
        config ([`DeepLabV3PlusConfig`]): Widths, depths and classes of the network, and its backbone.

    Raises:
        `ValueError`: The backbone has no class for feature maps, or cannot have `config.output_stride`.

    Example:

    ```python
    >>> from transformers import AutoBackbone

    >>> encoder = AutoBackbone.from_pretrained("microsoft/resnet-101", out_features=["stage1", "stage4"])
    >>> config = DeepLabV3PlusConfig(backbone_config=encoder.config, output_stride=16, aspp_dilations=(6, 12, 18))
    >>> model = DeepLabV3PlusForSemanticSegmentation(config)
    >>> model.backbone.load_state_dict(encoder.state_dict())
    ```
    """

    config: DeepLabV3PlusConfig
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    _no_split_modules = ["DeepLabV3PlusBlock"]

    def __init__(self, config: DeepLabV3PlusConfig):
        super().__init__(config)
        if config.backbone_config is None:
            self.trunk = DeepLabV3PlusTrunk(config)
            skip_channels, channels = config.channels[0][-1], config.channels[-1][-1]
        else:
            # AutoBackbone knows EfficientNet-Lite only where its package is imported.
            is_own = config.backbone_config.model_type == EfficientNetLiteBackbone.config_class.model_type
            build = EfficientNetLiteBackbone._from_config if is_own else AutoBackbone.from_config
            # By default the backbone would keep the dtype of its checkpoint under a head in another.
            self.backbone = build(config.backbone_config, dtype=torch.get_default_dtype())
            if config.output_stride is not None:
                dilate_late_stages(self.backbone, config.output_stride)
            self.supports_gradient_checkpointing = self.backbone.supports_gradient_checkpointing
            skip_channels, channels = self.backbone.channels[0], self.backbone.channels[-1]
        self.aspp = DeepLabV3PlusASPP(config, channels)
        self.decoder = DeepLabV3PlusDecoder(config, skip_channels)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module):
        if isinstance(module, nn.Conv2d):
            init.kaiming_normal_(module.weight, nonlinearity="relu")
        else:
            super()._init_weights(module)

    @can_return_tuple
    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None) -> SemanticSegmenterOutput:
        r"""
        Args:
            pixel_values (`torch.Tensor` of shape `(batch_size, num_channels, height, width)`):
                Normalized images, at least `config.stride` pixels on each side (8 for WideResNet-38); over a plain
                vision transformer, pixels beyond a multiple of its patch size are not seen.
            labels (`torch.Tensor` of shape `(batch_size, height, width)`, *optional*):
                Class of each pixel, 0 to `config.num_labels - 1`, or `config.semantic_loss_ignore_index`.
            return_dict (`bool`, *optional*, defaults to `config.return_dict`):
                Whether to return a [`~transformers.modeling_outputs.SemanticSegmenterOutput`] instead of a tuple.

        Returns:
            `SemanticSegmenterOutput` or `tuple`: `logits` of shape `(batch_size, num_labels, height, width)` and, with
            `labels`, `loss`: their mean cross-entropy over the pixels that are not ignored.

        Raises:
            `ValueError`: `pixel_values` or `labels` have a wrong shape, an image is too small, a label is no class
            (checked on CPU only), or a training batch holds a single image.
        """
        self._check_pixel_values(pixel_values)
        if labels is not None:
            self._check_labels(labels, pixel_values)

        if self.config.backbone_config is None:
            skip, hidden_states = self.trunk(pixel_values)
        else:
            feature_maps = self.backbone(pixel_values).feature_maps
            skip, hidden_states = feature_maps[0], feature_maps[-1]
        logits = resize(self.decoder(skip, self.aspp(hidden_states)), pixel_values.shape[-2:])

        loss = None
        if labels is not None:
            ignored = self.config.semantic_loss_ignore_index
            loss = F.cross_entropy(logits.float(), labels.long(), ignore_index=ignored)
        return SemanticSegmenterOutput(loss=loss, logits=logits)

    def _check_pixel_values(self, pixel_values: torch.Tensor) -> None:
        shape, channels, stride = tuple(pixel_values.shape), self.config.num_channels, self.config.stride
        if len(shape) != 4 or shape[1] != channels:
            raise ValueError(f"pixel_values must be of shape (batch_size, {channels}, height, width), got {shape}")
        if min(shape[2:]) < stride:
            given = f"pixel_values of {shape[2]}x{shape[3]} pixels are too small for the output stride"
            raise ValueError(f"{given}: height and width must be at least {stride}")
        pooled_norm = self.aspp.image_pooling.normalization
        if pooled_norm.training and shape[0] == 1 and not isinstance(pooled_norm, nn.SyncBatchNorm):
            raise ValueError(
                "one image is too few for a training step: the ASPP pools it to one value per channel, which "
                "BatchNorm cannot normalize. Give two images or more a step, or convert the model to SyncBatchNorm"
            )

    def _check_labels(self, labels: torch.Tensor, pixel_values: torch.Tensor) -> None:
        expected = (pixel_values.shape[0], *pixel_values.shape[-2:])
        if tuple(labels.shape) != expected or labels.is_floating_point():
            given = f"{labels.dtype} of {tuple(labels.shape)}"
            raise ValueError(f"labels must be integers of the shape {expected}, one for each pixel, got {given}")
        if labels.device.type != "cpu" or torch.compiler.is_compiling():
            return  # on a GPU the check would make the host wait in every step
        labels, classes, ignored = labels.long(), self.config.num_labels, self.config.semantic_loss_ignore_index
        wrong = labels[(labels != ignored) & ((labels < 0) | (labels >= classes))]
        if wrong.numel() > 0:
            known = f"the classes 0 to {classes - 1} ({ignored} is ignored)"
            raise ValueError(f"labels hold class {wrong[0].item()}, but the model has {known}")

"""PyTorch DPT for semantic segmentation over a plain vision transformer of the library."""

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoBackbone, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import SemanticSegmenterOutput
from transformers.models.dpt.modeling_dpt import DPTFeatureFusionStage, DPTReassembleLayer, DPTSemanticSegmentationHead
from transformers.utils import can_return_tuple

from .configuration_backbone_dpt import BackboneDPTConfig


class BackboneDPTForSemanticSegmentation(PreTrainedModel):
    """
    DPT (Ranftl et al., 2021) for semantic segmentation over DINOv2 and its like, of the library's parts. The library's
    own `DPTForSemanticSegmentation` ignores `backbone_config` and takes squares only.

    Args:
        config ([`BackboneDPTConfig`]): The encoder, and the widths of the head.
    """

    config: BackboneDPTConfig
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True

    def __init__(self, config: BackboneDPTConfig):
        super().__init__(config)
        self.backbone = AutoBackbone.from_config(config.backbone_config)
        self.reassemble = nn.ModuleList(
            DPTReassembleLayer(config, channels, factor)
            for channels, factor in zip(config.neck_hidden_sizes, config.reassemble_factors)
        )
        self.projections = nn.ModuleList(
            nn.Conv2d(channels, config.fusion_hidden_size, kernel_size=3, padding=1, bias=False)
            for channels in config.neck_hidden_sizes
        )
        self.fusion = DPTFeatureFusionStage(config)
        self.fusion.layers[0].residual_layer1 = None  # the deepest map has nothing to join
        self.head = DPTSemanticSegmentationHead(config)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module):
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            # PyTorch's default, as in UniMatch V2: at the library's 0.02 the deep maps fade.
            init.kaiming_uniform_(module.weight, a=5**0.5)
            if module.bias is not None:
                init.zeros_(module.bias)
        else:
            super()._init_weights(module)

    @can_return_tuple
    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None) -> SemanticSegmenterOutput:
        r"""
        Args:
            pixel_values (`torch.Tensor` of shape `(batch_size, num_channels, height, width)`):
                Normalized images. Sides that are no multiples of the patch size are padded with zeros, the mean.
            labels (`torch.Tensor` of shape `(batch_size, height, width)`, *optional*):
                Class of each pixel, 0 to `config.num_labels - 1`, or `config.semantic_loss_ignore_index`.
            return_dict (`bool`, *optional*, defaults to `config.return_dict`):
                Whether to return a [`~transformers.modeling_outputs.SemanticSegmenterOutput`] instead of a tuple.

        Returns:
            `SemanticSegmenterOutput` or `tuple`: `logits` of shape `(batch_size, num_labels, height, width)` and, with
            `labels`, `loss`: their mean cross-entropy over the pixels that are not ignored.
        """
        height, width = pixel_values.shape[-2:]
        right, below = -width % self.config.size_divisor, -height % self.config.size_divisor
        padded = F.pad(pixel_values, (0, right, 0, below))

        maps = self.backbone(padded).feature_maps
        maps = [
            projection(reassemble(hidden_states))
            for projection, reassemble, hidden_states in zip(self.projections, self.reassemble, maps)
        ]
        logits = self.head(self.fusion(maps))
        logits = F.interpolate(logits, size=padded.shape[-2:], mode="bilinear", align_corners=False)
        logits = F.pad(logits, (0, -right, 0, -below))  # a slice would bind an export to the traced size

        loss = None
        if labels is not None:
            ignored = self.config.semantic_loss_ignore_index
            loss = F.cross_entropy(logits.float(), labels.long(), ignore_index=ignored)
        return SemanticSegmenterOutput(loss=loss, logits=logits)

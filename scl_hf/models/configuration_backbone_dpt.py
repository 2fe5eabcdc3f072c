"""Configuration of DPT over a plain vision transformer."""

import copy
from collections.abc import Sequence

from huggingface_hub.dataclasses import strict
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig


def four_stages(backbone_config: PreTrainedConfig) -> list[str]:
    """Returns the names of the stages after each quarter of an encoder's depth."""
    names = [name for name in getattr(backbone_config, "stage_names", None) or () if name != "stem"]
    return [names[i] for i in sorted({max(1, len(names) * n // 4) - 1 for n in (1, 2, 3, 4)})] if names else []


@strict
class BackboneDPTConfig(PreTrainedConfig):
    r"""
    Configuration of a [`BackboneDPTForSemanticSegmentation`]. The default widths are those of UniMatch V2 (Yang et
    al., 2025) for DINOv2-small and base.

    Args:
        backbone_config (`dict` or `PreTrainedConfig`, *optional*):
            Plain vision transformer that `AutoBackbone` opens: DINOv2 (base by default), DINOv3, BEiT and others.
            Without two `out_features` of its own the maps after each quarter of its layers are taken.
        neck_hidden_sizes (`Sequence[int]`, *optional*):
            Channels to which each map is reduced. By default an eighth, a quarter, half and all of the encoder's.
        reassemble_factors (`Sequence[float]`, *optional*, defaults to `(4, 2, 1, 0.5)`): Enlargement of each map.
        fusion_hidden_size (`int`, *optional*):
            Channels of the fusion. By default a sixth of the encoder's (64 for small, 128 for base), a multiple of 8.
        use_batch_norm_in_fusion_residual (`bool`, *optional*, defaults to `False`):
            Whether the fusion's residual units have BatchNorm.
        semantic_classifier_dropout (`float`, *optional*, defaults to 0.1): Dropout before the classification.
        semantic_loss_ignore_index (`int`, *optional*, defaults to 255): Label of the pixels that the loss ignores.

    Raises:
        `ValueError`: `backbone_config` is no plain vision transformer, or has no stages of these `out_features`.
        `huggingface_hub.errors.StrictDataclassError`: A field has a wrong type, or the fields do not fit together.
    """

    model_type = "backbone_dpt"
    sub_configs = {"backbone_config": AutoConfig}

    backbone_config: dict | PreTrainedConfig | None = None
    neck_hidden_sizes: Sequence[int] | None = None
    reassemble_factors: Sequence[float | int] = (4, 2, 1, 0.5)
    fusion_hidden_size: int | None = None
    use_batch_norm_in_fusion_residual: bool = False
    semantic_classifier_dropout: float | int = 0.1
    semantic_loss_ignore_index: int = 255
    # Read by the parts of the library's DPT
    use_bias_in_fusion_residual: bool | None = None
    head_in_index: int = -1

    def __post_init__(self, **kwargs):
        backbone = self.backbone_config if self.backbone_config is not None else {"model_type": "dinov2"}
        if isinstance(backbone, dict):
            if backbone.get("model_type") not in CONFIG_MAPPING:
                raise ValueError(f"backbone_config: transformers has no model_type {backbone.get('model_type')!r}")
            backbone = CONFIG_MAPPING[backbone["model_type"]].from_dict(backbone)
        else:
            backbone = copy.deepcopy(backbone)
        if hasattr(backbone, "depths") or not (hasattr(backbone, "patch_size") and four_stages(backbone)):
            raise ValueError(f"backbone_config: {backbone.model_type} is no plain vision transformer such as dinov2")
        if len(backbone.out_features) < 2:
            backbone.out_features = four_stages(backbone)
        if hasattr(backbone, "reshape_hidden_states"):
            backbone.reshape_hidden_states = True  # as maps, without class and register tokens
        self.backbone_config = backbone

        width = backbone.hidden_size
        self.neck_hidden_sizes = tuple(self.neck_hidden_sizes or (width // 8, width // 4, width // 2, width))
        self.fusion_hidden_size = self.fusion_hidden_size or max(8, width // 48 * 8)
        self.reassemble_factors = tuple(self.reassemble_factors)
        super().__post_init__(**kwargs)

    @property
    def size_divisor(self) -> int:
        """`int`: The patch size of the encoder; other sides are padded to multiples of it."""
        patch_size = self.backbone_config.patch_size
        return patch_size if isinstance(patch_size, int) else max(patch_size)

    def validate_architecture(self):
        """Part of `@strict`-powered validation. Validates the architecture of the config."""
        maps = len(self.backbone_config.out_features)
        for name in ("neck_hidden_sizes", "reassemble_factors"):
            value = getattr(self, name)
            if len(value) != maps or min(value) <= 0:
                raise ValueError(f"{name} must hold a number above 0 for each of the {maps} maps, got {value}")
        if self.fusion_hidden_size < 1:
            raise ValueError(f"fusion_hidden_size must be at least 1, got {self.fusion_hidden_size}")

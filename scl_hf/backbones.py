"""From the name of a pre-trained encoder to a segmentation model with the encoder's weights in it."""

import contextlib
import inspect
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import CONFIG_MAPPING, PreTrainedConfig, PreTrainedModel, UperNetForSemanticSegmentation
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_BACKBONE_MAPPING,
    MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING,
)

from .errors import InputError, first_few, first_line
from .inference import patch_size, smallest_side
from .models import BackboneDPTForSemanticSegmentation, DeepLabV3PlusForSemanticSegmentation
from .models.configuration_backbone_dpt import four_stages

HEADS = ("deeplabv3plus", "upernet", "dpt")
TRUNK_FIELDS = {"stem_channels", "depths", "channels", "dilations", "dropout_probs"}  # of WideResNet-38
LABEL_FIELDS = {"id2label", "label2id", "num_labels"}
NEW_NORMS = "hidden_states_norms."  # what backbone classes put on their maps; weight 1, bias 0
ANOTHER = "take one that AutoBackbone opens, such as resnet, convnext, swin or dinov2"


def load_on_backbone(
    backbone: str, head: str | None, output_stride: int | None, head_config: dict[str, Any], labels: dict[str, Any]
) -> tuple[PreTrainedModel, str]:
    """
    A segmentation model over a pre-trained encoder: the encoder's weights are in it, the head is new. Parameters that
    no gradient reaches, such as a mask token, are frozen: training on several processes would wait for one.

    Args:
        backbone (`str`):
            Hub id or folder of an encoder that `AutoBackbone` opens, or of a classifier over one. Code that comes
            with it is never run.
        head (`str`, *optional*):
            One of `HEADS`. By default `"dpt"` for plain vision transformers, whose feature maps are all of one stride
            (DINOv2, BEiT), and `"deeplabv3plus"` for pyramids (ResNet, ConvNeXt, Swin).
        output_stride (`int`, *optional*):
            8 or 16, for `"deeplabv3plus"` over ResNet and ConvNeXt. By default the encoder's own, 32.
        head_config (`dict`):
            Further fields of the head's config, and `out_features`: the stages whose maps it takes, by default at a
            quarter, half, three quarters and the whole of the depth. DeepLabV3+ takes the first and the last of them.
        labels (`dict`): `id2label` and `label2id`, or nothing.

    Returns:
        `tuple[PreTrainedModel, str]`: The model in float32 and evaluation mode; a line on what is taken over and new.
    """
    field = f"backbone {backbone}"
    encoder_config = _encoder_config(field, backbone)
    head = head or ("dpt" if patch_size(encoder_config) else "deeplabv3plus")
    _check_fit(encoder_config, head, output_stride)
    config, head_class = _head_config(encoder_config, head, output_stride, head_config, labels)
    encoder, norms = _open_encoder(field, backbone, config.backbone_config)

    weights = {f"backbone.{name}": tensor for name, tensor in encoder.state_dict().items()}
    try:
        with no_load_report():  # initializes the head, and nothing of the encoder
            model, report = head_class.from_pretrained(
                None, config=config, state_dict=weights, dtype=torch.float32, output_loading_info=True
            )
    except (TypeError, ValueError, RuntimeError) as error:
        raise _config_error(error, "model_config") from error
    if astray := {key for key in report["missing_keys"] if key in weights} | report["unexpected_keys"]:
        raise RuntimeError(f"{field}: weights of the encoder did not get into the model: {first_few(astray)}")
    model.config.name_or_path = backbone  # where its image processor is
    _freeze_unused(model)

    inside, total = (sum(p.numel() for p in part.parameters()) / 1e6 for part in (model.backbone, model))
    line = f"{backbone}: {len(weights) - norms} tensors of the encoder taken over ({inside:.1f} M parameters); new: "
    line += f"{head} head ({total - inside:.1f} M)" + (" and the norms of the encoder's maps" if norms else "")
    return model, line


def is_local(field: str, name: str | Path) -> bool:
    """Whether it is a folder, and no Hub id."""
    if os.path.isdir(name):
        return True
    if str(name).count("/") > 1 or str(name).startswith((".", "/", "~")):
        raise InputError(f"{field}: no such folder")
    return False


def check_model_config(given: dict[str, Any], config_class: type, left_out: set[str], reason: str) -> None:
    """Refuses fields of `model_config` that its class does not have, or that are `left_out` for a `reason`."""
    if taken := set(given) & left_out:
        raise InputError(f"model_config: leave out '{min(taken)}': {reason}.")
    if unknown := set(given) - set(inspect.signature(config_class).parameters):
        raise InputError(f"model_config: unknown field '{min(unknown)}'; see {config_class.__name__} for the fields.")


@contextlib.contextmanager
def no_load_report() -> Iterator[None]:
    """Keeps transformers' table of missing and unexpected keys from the log, where a line says it."""

    def no_table(record: logging.LogRecord) -> bool:
        return "LOAD REPORT" not in record.getMessage()

    logger = logging.getLogger("transformers.modeling_utils")
    logger.addFilter(no_table)
    try:
        yield
    finally:
        logger.removeFilter(no_table)


def _encoder_config(field: str, backbone: str) -> PreTrainedConfig:
    """The config of an encoder, without its classes."""
    is_local(field, backbone)
    try:
        values, _ = PreTrainedConfig.get_config_dict(backbone)
    except Exception as error:  # what others wrote may hold anything
        raise InputError(f"{field}: no encoder that can be opened ({first_line(error)})") from error
    kind = values.get("model_type")
    config_class = CONFIG_MAPPING[kind] if kind in CONFIG_MAPPING else None
    if kind is None:
        raise InputError(f"{field}: has no config.json that names its model_type; {ANOTHER}.")
    if config_class not in MODEL_FOR_BACKBONE_MAPPING:
        if config_class in MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING:
            raise InputError(f"{field}: a {kind} is a segmentation model already; give it as model_name_or_path.")
        if config_class is None and "auto_map" in values:
            raise InputError(f"{field}: needs code of its own, and a model over it would not open again; {ANOTHER}.")
        raise InputError(f"{field}: transformers has no backbone class for model_type {kind!r}; {ANOTHER}.")
    try:
        left_out = LABEL_FIELDS | {"architectures", "auto_map", "dtype", "torch_dtype"}  # of its own use
        config = config_class.from_dict({name: value for name, value in values.items() if name not in left_out})
    except Exception as error:
        raise _config_error(error, f"{field}: its config.json") from error
    if not four_stages(config):
        raise InputError(f"{field}: a {kind} gives no feature maps; {ANOTHER}.")
    return config


def _check_fit(encoder_config: PreTrainedConfig, head: str, output_stride: int | None) -> None:
    """Refuses what does not go together, as far as the config of the encoder tells."""
    kind = encoder_config.model_type
    if head not in HEADS:
        raise InputError(f"head: must be one of {', '.join(HEADS)}, got {head!r}.")
    if head == "dpt" and not patch_size(encoder_config):
        raise InputError(f"head: dpt is for plain ViTs such as DINOv2, {kind} is none; take deeplabv3plus or upernet.")
    if head == "upernet" and not type(encoder_config).__module__.startswith("transformers."):
        raise InputError(
            f"head: upernet over {kind} would not open where scl_hf is not installed, for it brings no code; take "
            "deeplabv3plus."
        )
    if output_stride is not None and head != "deeplabv3plus":
        raise InputError(f"output_stride: is for deeplabv3plus; leave it out with the {head} head.")


def _head_config(
    encoder_config: PreTrainedConfig, head: str, output_stride: int | None, fields: dict, labels: dict
) -> tuple[PreTrainedConfig, type[PreTrainedModel]]:
    """The config of the whole model, and the model's class."""
    fields = dict(fields)
    encoder_config.out_features = _out_features(encoder_config, fields.pop("out_features", None))
    if head == "deeplabv3plus":
        head_class, own = DeepLabV3PlusForSemanticSegmentation, {"output_stride": output_stride}
    elif head == "upernet":
        head_class, own = UperNetForSemanticSegmentation, {"use_auxiliary_head": False}
    else:
        head_class, own = BackboneDPTForSemanticSegmentation, {}
    config_class = head_class.config_class
    left_out = LABEL_FIELDS | TRUNK_FIELDS | {"backbone_config", "output_stride"}
    check_model_config(fields, config_class, left_out, "it is no field of the head")
    try:
        return config_class(backbone_config=encoder_config, **own | fields | labels), head_class
    except (TypeError, ValueError, StrictDataclassError) as error:
        raise _config_error(error, "model_config") from error


def _out_features(encoder_config: PreTrainedConfig, wanted: list[str] | None) -> list[str]:
    """Names of the stages whose maps the head takes."""
    if wanted is None:
        return four_stages(encoder_config)
    names = encoder_config.stage_names
    if not isinstance(wanted, list) or len(wanted) < 2 or [name for name in names if name in wanted] != wanted:
        among = first_few(names, 6)
        raise InputError(f"model_config: out_features must name two or more of {among} in order, got {wanted!r}.")
    return wanted


def _open_encoder(field: str, backbone: str, config: PreTrainedConfig) -> tuple[PreTrainedModel, int]:
    """The encoder with all of its weights, in float32, and how many tensors of norms are new in it."""
    # Not AutoBackbone.from_pretrained: that asks the Hub first, and opens no folder.
    try:
        with no_load_report():
            encoder, report = MODEL_FOR_BACKBONE_MAPPING[type(config)].from_pretrained(
                backbone, config=config, dtype=torch.float32, ignore_mismatched_sizes=True, output_loading_info=True
            )
    except Exception as error:  # what others wrote may hold anything
        raise InputError(f"{field}: its weights cannot be read ({first_line(error)})") from error
    lost = {key for key in report["missing_keys"] if not key.startswith(NEW_NORMS)}
    if lost := lost | {key for key, *_ in report["mismatched_keys"]}:
        raise InputError(
            f"{field}: {len(lost)} of the encoder's {len(encoder.state_dict())} tensors are missing or of another "
            f"size ({first_few(sorted(lost), 2)}); name one whose weights are whole and belong to its config.json."
        )
    config.name_or_path = ""  # it would be saved with the model, and may be a folder of this machine
    return encoder, len(report["missing_keys"])


def _freeze_unused(model: PreTrainedModel) -> None:
    """Freezes what the logits of a small picture do not depend on."""
    side = max(2 * (patch_size(model.config.backbone_config) or 16), smallest_side(model))
    nodes = [model(torch.zeros(1, model.backbone.config.num_channels, side, side)).logits.grad_fn]
    seen = set()
    while nodes:  # the graph is enough: a backward pass would take longer than loading
        if (node := nodes.pop()) is not None and node not in seen:
            seen.add(node)
            nodes += [following for following, _ in node.next_functions]
    reached = {id(node.variable) for node in seen if hasattr(node, "variable")}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in reached)


def _config_error(error: Exception, field: str) -> InputError:
    """What is wrong with a config, in one line: the checks of its class say it in their last one."""
    line = str(error).strip().split("\n")[-1].strip().removeprefix("ValueError: ").removeprefix("TypeError: ")
    return InputError(line if line.startswith("output_stride") else f"{field}: {line}")

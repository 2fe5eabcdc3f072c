"""Opens checkpoints and pre-trained encoders."""

import contextlib
import hashlib
import inspect
import json
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForSemanticSegmentation,
    PreTrainedConfig,
    PreTrainedModel,
    UperNetForSemanticSegmentation,
)
from transformers.models.auto import modeling_auto
from transformers.utils import CONFIG_NAME

from .checkpointing.finite import check_weights
from .data.images import InputImage
from .data.normalization import Normalization
from .data.palette import palette_of
from .errors import InputError, first_few, first_line
from .heads import match_head
from .hub import on_the_hub
from .image_processors import is_folder, open_processor
from .inference import patch_size, smallest_side
from .models import BackboneDPTForSemanticSegmentation, DeepLabV3PlusForSemanticSegmentation
from .models.configuration_backbone_dpt import four_stages
from .processes import is_main_process

logger = logging.getLogger(__name__)

HEADS = {
    "deeplabv3plus": DeepLabV3PlusForSemanticSegmentation,
    "upernet": UperNetForSemanticSegmentation,
    "dpt": BackboneDPTForSemanticSegmentation,
}
LABEL_FIELDS = {"id2label", "label2id", "num_labels"}  # the classes are those of the data
# Fields of `DeepLabV3PlusConfig` that are WideResNet-38's, or set elsewhere
TRUNK_FIELDS = set("stem_channels depths channels dilations dropout_probs backbone_config output_stride".split())


@dataclass
class ModelArguments:
    """
    Which model is trained.

    Args:
        model_name_or_path (`str`, *optional*): Hub id or folder of the starting weights, any that
            `AutoModelForSemanticSegmentation` opens. The rows of its head are put in the order of the data's classes,
            by name; a head for other classes is replaced. Without it a DeepLabV3+ with random weights is built.
        backbone (`str`, *optional*): Hub id or folder of a pre-trained encoder, under a new head. Any that
            `AutoBackbone` opens, such as ResNet, ConvNeXt, Swin or DINOv2; in place of `model_name_or_path`. Code that
            comes with it is never run.
        head (`str`, *optional*): The head over `backbone`: deeplabv3plus, upernet or dpt. By default dpt for plain
            vision transformers such as DINOv2, deeplabv3plus for the others.
        output_stride (`int`, *optional*): 8 or 16, for deeplabv3plus over ResNet and ConvNeXt: late strides become
            dilations, the weights stay. By default the encoder's own, 32.
        model_config (`dict`, *optional*): Fields of [`DeepLabV3PlusConfig`] or, over a `backbone`, of its head's
            config, as JSON on the command line. Over a `backbone` also `out_features`, the stages whose maps the head
            takes: by default at each quarter.
        trust_remote_code (`bool`, *optional*, defaults to `False`): Whether the checkpoint at `model_name_or_path` may
            run its own code.
    """

    model_name_or_path: str | None = None
    backbone: str | None = None
    head: str | None = None
    output_stride: int | None = None
    model_config: dict | str | None = None
    trust_remote_code: bool = False

    def __post_init__(self):
        if isinstance(self.model_config, str):
            try:
                self.model_config = json.loads(self.model_config)
            except json.JSONDecodeError as error:
                raise InputError(f"model_config: not JSON ({error}), such as '{{\"stem_channels\": 16}}'.") from None
        if self.model_config is not None and not isinstance(self.model_config, dict):
            raise InputError(f"model_config: expected a mapping of fields, got {self.model_config!r}.")
        if self.backbone and self.model_name_or_path:
            raise InputError("backbone and model_name_or_path: both name weights. Add --model_name_or_path null.")
        for name in ("head", "output_stride"):
            if getattr(self, name) is not None and not self.backbone:
                raise InputError(f"{name}: is for a model over a backbone; name one, or leave the field out.")
        if self.model_config and self.model_name_or_path:
            raise InputError("model_config: model_name_or_path brings its own config. Add --model_config null.")

    @property
    def origin(self) -> str | None:
        """Hub id or folder of the weights, if any."""
        return self.model_name_or_path or self.backbone


@dataclass
class Checkpoint:
    """A trained model in float32, its path or Hub id, its normalization, and how it reads images where it says so."""

    name: str
    model: PreTrainedModel
    normalization: Normalization = Normalization()
    input: InputImage | None = None

    @property
    def id2label(self) -> dict[int, str]:
        """Train id -> name, in the order of the ids."""
        return dict(sorted(self.model.config.id2label.items()))

    @property
    def palette(self) -> np.ndarray:
        """(num_classes, 3) uint8: Cityscapes' colors for its classes, else color-blind-safe ones."""
        return palette_of(self.id2label)

    def digest(self) -> str:
        """Returns a digest of the weights, the same for one model in two places."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.cpu().contiguous().numpy())
        return digest.hexdigest()[:16]


def load_model(args: ModelArguments, id2label: dict[int, str] | None) -> PreTrainedModel:
    """
    Returns the model that a run starts from, in float32, and logs in one line which weights it takes over.

    Args:
        args ([`ModelArguments`]): Names a checkpoint, an encoder under a new head, or nothing: random weights.
        id2label (`dict[int, str]`, *optional*): The classes of the head; by default the checkpoint's own.
    """
    labels = {} if id2label is None else {"id2label": id2label, "label2id": {name: i for i, name in id2label.items()}}
    if args.backbone is not None:
        model, line = load_on_backbone(args, labels)
    elif args.model_name_or_path is not None:
        model, line = _load_start(args, labels)
    else:
        model_class = DeepLabV3PlusForSemanticSegmentation
        return model_class(_make_config(model_class.config_class, args.model_config or {}, LABEL_FIELDS, labels))
    if is_main_process():
        logger.warning(line)
    return model


def load_checkpoint(name: str, trust_remote_code: bool = False, subfolder: str = "") -> Checkpoint:
    """
    Opens a trained model in evaluation mode.

    Args:
        name (`str`): A folder, or a model on the Hub: user/repo or user/repo@revision.
        trust_remote_code (`bool`, *optional*, defaults to `False`): Whether it may run its own code.
        subfolder (`str`, *optional*): Where the weights are; the image processor is at the root.
    """
    field = f"checkpoint {name}"
    repo, revision = on_the_hub(name) or (name, None)
    options = {"trust_remote_code": trust_remote_code, "revision": revision or "main"}
    model, report = _open_weights(field, repo, subfolder=subfolder, **options)
    if missing := sorted(report["missing_keys"]):
        problem = f"is not a trained segmentation model, {len(missing)} of its tensors are missing ({missing[0]}, …)"
        raise InputError(f"{field}: {problem}. Train it first, or name another checkpoint.")
    _check_ids(field, model)
    names = list(model.config.id2label.values())
    if report["mismatched_keys"]:
        key, stored, expected = min(report["mismatched_keys"])
        problem = f"its {key} has the shape {list(stored)}, but {list(expected)} belongs to the {len(names)} classes"
        raise InputError(f"{field}: {problem} of id2label in its {CONFIG_NAME}. Write all class names into that.")
    if all(label == f"LABEL_{i}" for i, label in enumerate(names)):
        problem = f"brings no class names, only {names[0]}, …"
        raise InputError(f"{field}: {problem}. Write them into id2label of its {CONFIG_NAME}.")
    processor, normalization = open_processor(field, repo, **options)
    return Checkpoint(name, model.eval(), normalization, InputImage.of(processor))


def load_weights(folder: Path, model: PreTrainedModel) -> None:
    """Loads the weights that `save_pretrained` wrote into a model of the same architecture."""
    field = f"resume_from_checkpoint {folder}"
    # Through `from_pretrained`: transformers renames some keys when it saves.
    saved, report = _open_weights(field, folder, type(model), "cannot be read; take an older one", config=model.config)
    different = {*report["missing_keys"], *report["unexpected_keys"], *(key for key, *_ in report["mismatched_keys"])}
    if different:
        other = f"of another architecture than this recipe's {model.config.model_type} ({min(different)} differs)"
        raise InputError(f"{field}: {other}. Resume with the recipe that wrote it, or start in another output_dir.")
    model.load_state_dict(saved.state_dict())


def _load_start(args: ModelArguments, labels: dict[str, Any]) -> tuple[PreTrainedModel, str]:
    """Opens `model_name_or_path` with a head for the classes in `labels`; returns it and the line on its weights."""
    field = f"model_name_or_path {args.model_name_or_path}"
    model, report = _open_weights(field, args.model_name_or_path, trust_remote_code=args.trust_remote_code, **labels)
    total, new, remark = len(model.state_dict()), sorted(report["missing_keys"]), ""
    # The config is the checkpoint's own but for the classes: tensors of another size are the head's.
    new += [f"{key} ({old[0]} → {now[0]} classes)" for key, old, now in sorted(report["mismatched_keys"])]
    if labels and not report["mismatched_keys"]:
        config = AutoConfig.from_pretrained(args.model_name_or_path, trust_remote_code=args.trust_remote_code)
        remark = match_head(model, config.id2label, new)
    if not labels:
        if new:
            raise InputError(
                f"{field}: its head would be new, and train_dataset names no classes; name them, as in "
                "train_dataset.cast_column('label', LabelImage.of({0: 'sky', 1: 'road'}))."
            )
        _check_ids(field, model)
    if len(new) >= total:
        problem = f"its weights share no tensor with {type(model).__name__}, which its {CONFIG_NAME} names"
        raise InputError(f"{field}: {problem}; take a folder where both belong together.")
    line = f"{args.model_name_or_path}: {total - len(new)} of {total} tensors taken over"
    if new:
        line += f"; new: {first_few(new, 4)}"
    line += remark
    if unused := sorted(report["unexpected_keys"]):
        line += f"; {len(unused)} not used: {first_few(unused, 4)}"
    return model, line


def _open_weights(
    field: str, name: str | Path, model_class: type = AutoModelForSemanticSegmentation, problem: str = "", **options
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Returns the model in float32 and transformers' report on its keys; raises `problem` if it cannot be opened."""
    if not problem:
        problem = "" if is_folder(field, name) else "there is no such folder, and on the Hub it is "
        problem += "not a semantic-segmentation checkpoint that can be loaded"
    options |= {"dtype": torch.float32, "ignore_mismatched_sizes": True, "output_loading_info": True}
    with _one_line(f"{field}: {problem}"):
        model, report = model_class.from_pretrained(name, **options)
    check_weights(field, model, "Its training went wrong; take an older checkpoint, or another one.")
    return model, report


@contextlib.contextmanager
def _one_line(problem: str) -> Iterator[None]:
    """Turns any error of foreign files into one line; hides transformers' table of missing keys."""

    def is_no_table(record: logging.LogRecord) -> bool:
        return "LOAD REPORT" not in record.getMessage()

    theirs = logging.getLogger("transformers.modeling_utils")
    theirs.addFilter(is_no_table)
    try:
        yield
    except Exception as error:
        # A config's class puts the reason in the last line.
        lines = str(error).strip().splitlines() if isinstance(error, StrictDataclassError) else [first_line(error)]
        reason = re.sub(r"^\s*(\w+Error: )?", "", lines[-1])
        raise InputError(f"{problem} ({reason})") from error
    finally:
        theirs.removeFilter(is_no_table)


def _check_ids(field: str, model: PreTrainedModel) -> None:
    if (ids := sorted(model.config.id2label)) != list(range(len(ids))):
        problem = f"id2label of its {CONFIG_NAME} has the ids {first_few(map(str, ids), 5)}"
        raise InputError(f"{field}: {problem}; number the classes 0, 1, 2, … without a gap.")


def _make_config(config_class: type, fields: dict[str, Any], reserved: set[str], values: dict) -> PreTrainedConfig:
    """Makes a config of the user's `fields` and of `values`; rejects unknown and `reserved` fields."""
    if taken := set(fields) & reserved:
        raise InputError(f"model_config: leave out '{min(taken)}', which is no field of the head or set elsewhere.")
    if unknown := set(fields) - set(inspect.signature(config_class).parameters):
        raise InputError(f"model_config: unknown field '{min(unknown)}'; see {config_class.__name__} for the fields.")
    with _one_line("model_config: no config of a model"):
        return config_class(**fields, **values)


def load_on_backbone(args: ModelArguments, labels: dict[str, Any]) -> tuple[PreTrainedModel, str]:
    """Returns a float32 model with the weights of a pre-trained encoder, and the line on its weights."""
    field = f"backbone {args.backbone}"
    encoder_config = _encoder_config(field, args.backbone)
    head = args.head or ("dpt" if patch_size(encoder_config) else "deeplabv3plus")
    config = _head_config(encoder_config, head, args, labels)
    encoder, norms = _open_encoder(field, args.backbone, config.backbone_config)

    weights = {f"backbone.{name}": tensor for name, tensor in encoder.state_dict().items()}
    options = {"dtype": torch.float32, "output_loading_info": True}
    with _one_line("model_config: no such model over this backbone"):
        # Initializes the head, and nothing of the encoder.
        model, report = HEADS[head].from_pretrained(None, config=config, state_dict=weights, **options)
    if astray := {key for key in report["missing_keys"] if key in weights} | report["unexpected_keys"]:
        raise RuntimeError(f"{field}: weights of the encoder did not get into the model: {first_few(astray)}")
    model.config.name_or_path = args.backbone  # where its image processor is
    _freeze_unused(model)

    inside, total = (sum(p.numel() for p in part.parameters()) / 1e6 for part in (model.backbone, model))
    line = f"{args.backbone}: {len(weights) - norms} tensors of the encoder taken over ({inside:.1f} M parameters); "
    line += f"new: {head} head ({total - inside:.1f} M)" + (" and the norms of the encoder's maps" if norms else "")
    return model, line


def _encoder_config(field: str, backbone: str) -> PreTrainedConfig:
    """Reads the config of an encoder, without its classes."""
    is_folder(field, backbone)
    with _one_line(f"{field}: no encoder that can be opened"):
        values, _ = PreTrainedConfig.get_config_dict(backbone)
    kind = values.get("model_type")
    config_class = CONFIG_MAPPING[kind] if kind in CONFIG_MAPPING else None
    if config_class in modeling_auto.MODEL_FOR_BACKBONE_MAPPING:
        own = LABEL_FIELDS | {"architectures", "auto_map", "dtype", "torch_dtype"}
        with _one_line(f"{field}: its {CONFIG_NAME} cannot be used"):
            config = config_class.from_dict({name: value for name, value in values.items() if name not in own})
        if four_stages(config):
            return config
    elif config_class in modeling_auto.MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING:
        raise InputError(f"{field}: a {kind} is a segmentation model already; give it as model_name_or_path.")
    remedy = "take one that AutoBackbone opens, such as resnet, convnext, swin or dinov2"
    raise InputError(f"{field}: transformers has no backbone class for model_type {kind!r}; {remedy}.")


def _head_config(encoder: PreTrainedConfig, head: str, args: ModelArguments, labels: dict) -> PreTrainedConfig:
    """Makes the config of the whole model; rejects what does not go together."""
    if head not in HEADS:
        raise InputError(f"head: must be one of {', '.join(HEADS)}, got {head!r}.")
    kind, fields = encoder.model_type, dict(args.model_config or {})
    if head == "dpt" and not patch_size(encoder):
        raise InputError(f"head: dpt is for plain ViTs such as DINOv2, {kind} is none; take deeplabv3plus or upernet.")
    if head == "upernet" and not type(encoder).__module__.startswith("transformers."):
        raise InputError(f"head: upernet over {kind} would not open without scl_hf; take deeplabv3plus.")
    if args.output_stride is not None and head != "deeplabv3plus":
        raise InputError(f"output_stride: is for deeplabv3plus; leave it out with the {head} head.")
    names, wanted = encoder.stage_names, fields.pop("out_features", None) or four_stages(encoder)
    if not isinstance(wanted, list) or len(wanted) < 2 or [name for name in names if name in wanted] != wanted:
        known = first_few(names, 6)
        raise InputError(f"model_config: out_features must name two or more of {known} in order, got {wanted!r}.")
    encoder.out_features = wanted
    values = {"deeplabv3plus": {"output_stride": args.output_stride}, "upernet": {"use_auxiliary_head": False}}
    values = values.get(head, {}) | labels | {"backbone_config": encoder}
    return _make_config(HEADS[head].config_class, fields, LABEL_FIELDS | TRUNK_FIELDS, values)


def _open_encoder(field: str, backbone: str, config: PreTrainedConfig) -> tuple[PreTrainedModel, int]:
    """Returns the encoder with all of its weights in float32, and the number of new norm tensors in it."""
    # Not AutoBackbone.from_pretrained: it asks the Hub first, and opens no folder.
    model_class = modeling_auto.MODEL_FOR_BACKBONE_MAPPING[type(config)]
    encoder, report = _open_weights(field, backbone, model_class, "its weights cannot be read", config=config)
    # Backbone classes put new norms on their maps, with weight 1 and bias 0.
    lost = {key for key in report["missing_keys"] if not key.startswith("hidden_states_norms.")}
    if lost := lost | {key for key, *_ in report["mismatched_keys"]}:
        raise InputError(
            f"{field}: {len(lost)} of the encoder's {len(encoder.state_dict())} tensors are missing or of another "
            f"size ({first_few(sorted(lost), 2)}); name one with all weights of its {CONFIG_NAME}."
        )
    config.name_or_path = ""  # it would be saved with the model, and may be a folder of this machine
    return encoder, len(report["missing_keys"])


def _freeze_unused(model: PreTrainedModel) -> None:
    """Freezes parameters that no gradient reaches, such as a mask token: several processes would wait for them."""
    side = max(2 * (patch_size(model.config.backbone_config) or 16), smallest_side(model))
    nodes = [model(torch.zeros(1, model.backbone.config.num_channels, side, side)).logits.grad_fn]
    seen = set()
    while nodes:  # walks the graph: a backward pass would take longer than loading
        if (node := nodes.pop()) is not None and node not in seen:
            seen.add(node)
            nodes += [following for following, _ in node.next_functions]
    reached = {id(node.variable) for node in seen if hasattr(node, "variable")}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in reached)

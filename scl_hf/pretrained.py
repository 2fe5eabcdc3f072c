"""Every way in which weights are opened, and how a checkpoint wants its pixels."""

import copy
import hashlib
import itertools
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoModelForSemanticSegmentation,
    PreTrainedModel,
    SegformerImageProcessorPil,
)
from transformers.image_processing_utils import BaseImageProcessor
from transformers.utils import CONFIG_NAME, IMAGE_PROCESSOR_NAME, PROCESSOR_NAME
from transformers.utils.hub import has_file

from .backbones import LABEL_FIELDS, check_model_config, is_local, load_on_backbone, no_load_report
from .checkpointing.finite import check_weights
from .data.normalization import Normalization
from .data.palette import palette_of
from .data.sources import cityscapes
from .errors import InputError, first_few, first_line
from .hub import on_the_hub
from .models import DeepLabV3PlusConfig, DeepLabV3PlusForSemanticSegmentation
from .processes import is_main_process

logger = logging.getLogger(__name__)

TRIAL = np.random.default_rng(0).integers(0, 256, (8, 32, 3), np.uint8)  # a picture to try image processors on


@dataclass
class ModelArguments:
    """
    Which model is trained.

    Args:
        model_name_or_path (`str`, *optional*):
            Hub id or folder of the starting weights. Any checkpoint that `AutoModelForSemanticSegmentation` opens; a
            head for another number of classes is replaced by a new one. Without it a
            `DeepLabV3PlusForSemanticSegmentation` is built from `model_config`, with random weights.
        backbone (`str`, *optional*):
            Hub id or folder of a pre-trained encoder, under a new head. Any that `AutoBackbone` opens, such as ResNet,
            ConvNeXt, Swin or DINOv2; in place of `model_name_or_path`.
        head (`str`, *optional*):
            The head over `backbone`: deeplabv3plus, upernet or dpt. By default dpt for plain vision transformers such
            as DINOv2, deeplabv3plus for the others.
        output_stride (`int`, *optional*):
            8 or 16, for deeplabv3plus over ResNet and ConvNeXt. Late strides become dilations, the weights stay; by
            default the encoder's own stride, 32.
        model_config (`dict`, *optional*):
            Fields of the model's config that differ from its defaults, as JSON on the command line. Those of
            [`DeepLabV3PlusConfig`] or, over a `backbone`, of its head; there also `out_features`.
        trust_remote_code (`bool`, *optional*, defaults to `False`):
            Whether the checkpoint at `model_name_or_path` may run its own code.
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
                raise InputError(
                    f"model_config: not JSON ({error}). Give it as '{{\"stem_channels\": 16}}'."
                ) from None
        if self.model_config is not None and not isinstance(self.model_config, dict):
            raise InputError(f"model_config: expected a mapping of fields, got {self.model_config!r}.")
        if self.backbone and self.model_name_or_path:
            raise InputError("backbone and model_name_or_path: both name weights. Add --model_name_or_path null.")
        for name in ("head", "output_stride"):
            if getattr(self, name) is not None and not self.backbone:
                raise InputError(f"{name}: is for a model over a backbone; name one, or leave the field out.")
        if self.model_config and self.model_name_or_path:
            raise InputError(
                "model_config and model_name_or_path: a checkpoint brings its own config. Add --model_config null."
            )

    @property
    def origin(self) -> str | None:
        """Where weights are taken from, if anywhere."""
        return self.model_name_or_path or self.backbone


@dataclass
class Checkpoint:
    """A trained model in float32, its path or Hub id, and how it wants its pixels; ImageNet's way by default."""

    name: str
    model: PreTrainedModel
    normalization: Normalization = Normalization()

    @property
    def id2label(self) -> dict[int, str]:
        """Train id -> name, in the order of the ids."""
        return dict(sorted(self.model.config.id2label.items()))

    @property
    def is_cityscapes(self) -> bool:
        """Whether the classes are the 19 of Cityscapes, in their order."""
        return cityscapes.is_cityscapes(self.id2label)

    @property
    def palette(self) -> np.ndarray:
        """(num_classes, 3) uint8: Cityscapes' colors where the classes are its own, else color-blind-safe ones."""
        return palette_of(self.id2label)

    def digest(self) -> str:
        """A digest of the weights: whether two checkpoints are one model, wherever they lie."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.cpu().contiguous().numpy())
        return digest.hexdigest()[:16]


def load_model(args: ModelArguments, id2label: dict[int, str] | None) -> PreTrainedModel:
    """The model that a run starts from, with a head for these classes, or with the checkpoint's own for `None`."""
    labels = {} if id2label is None else {"id2label": id2label, "label2id": {name: i for i, name in id2label.items()}}
    if args.backbone is not None:
        model, line = load_on_backbone(args.backbone, args.head, args.output_stride, args.model_config or {}, labels)
        _say_once(line)
        return model
    if args.model_name_or_path is None:
        return _new_model(args.model_config or {}, labels)
    field = f"model_name_or_path {args.model_name_or_path}"
    model, report = _open_weights(field, args.model_name_or_path, trust_remote_code=args.trust_remote_code, **labels)
    total = len(model.state_dict())
    new = {key: "" for key in sorted(report["missing_keys"])}
    # The config is the checkpoint's own but for the classes, so that a tensor of another size is one of the head.
    new |= {key: f" ({old[0]} → {now[0]} classes)" for key, old, now in sorted(report["mismatched_keys"])}
    if new and id2label is None:
        raise InputError(
            f"{field}: its head would be new, and train_dataset names no classes; name them, as in "
            "train_dataset.cast_column('label', LabelImage.of({0: 'sky', 1: 'road'}))."
        )
    if id2label is None:
        _check_ids(field, model)
    if len(new) >= total:
        raise InputError(
            f"{field}: its weights share no tensor with {type(model).__name__}, which its "
            f"{CONFIG_NAME} names; take a folder whose weights and {CONFIG_NAME} belong together."
        )
    taken_over = f"{total - len(new)} of {total} tensors taken over"
    if new:
        taken_over += f"; new: {first_few((key + note for key, note in new.items()), 4)}"
    if unused := sorted(report["unexpected_keys"]):
        taken_over += f"; {len(unused)} not used: {first_few(unused, 4)}"
    _say_once(f"{args.model_name_or_path}: {taken_over}")
    return model


def _check_ids(field: str, model: PreTrainedModel) -> None:
    ids = sorted(model.config.id2label)
    if ids != list(range(len(ids))):
        raise InputError(
            f"{field}: id2label of its {CONFIG_NAME} has the ids {first_few(map(str, ids), 5)}, but classes are "
            "numbered 0, 1, 2, … without a gap. Number them anew."
        )


def _say_once(line: str) -> None:
    if is_main_process():  # one process says it for all
        logger.warning(line)


def load_checkpoint(name: str, trust_remote_code: bool = False, subfolder: str = "") -> Checkpoint:
    """
    A trained model in evaluation mode: of a folder, or of the Hub by user/repo or user/repo@revision; perhaps in a
    `subfolder`. Its image processor is at the root.
    """
    field = f"checkpoint {name}"
    repo, revision = on_the_hub(name) or (name, None)
    options = {"trust_remote_code": trust_remote_code, "revision": revision or "main"}
    model, report = _open_weights(field, repo, subfolder=subfolder, **options)
    if report["missing_keys"]:
        raise InputError(
            f"{field}: is not a trained segmentation model, {len(report['missing_keys'])} of its tensors "
            f"are missing ({min(report['missing_keys'])}, …). Train it first, or name another checkpoint."
        )
    _check_ids(field, model)
    names = list(model.config.id2label.values())
    if report["mismatched_keys"]:
        key, stored, expected = min(report["mismatched_keys"])
        raise InputError(
            f"{field}: its {key} has the shape {list(stored)}, but {list(expected)} belongs to the "
            f"{len(names)} classes of id2label in its {CONFIG_NAME}. Write all class names into that."
        )
    if all(label == f"LABEL_{i}" for i, label in enumerate(names)):
        raise InputError(
            f"{field}: brings no class names, only {names[0]}, …. Write them into id2label of its {CONFIG_NAME}."
        )
    _, pixels = _open_processor(field, repo, **options)
    return Checkpoint(name, model.eval(), pixels)


def load_weights(folder: Path, model: PreTrainedModel) -> None:
    """Puts the weights that `save_pretrained` wrote into a model of the same architecture."""
    field = f"resume_from_checkpoint {folder}"
    if not folder.is_dir():
        raise InputError(
            f"{field}: no such folder; resume with the ema_validation that wrote it, and not from save_only_model."
        )
    # Not by the file's keys: transformers renames some of them when it saves.
    saved, report = _open_weights(field, folder, type(model), "cannot be read; take an older one", config=model.config)
    different = sorted([*report["missing_keys"], *report["unexpected_keys"]])
    different += [key for key, *_ in report["mismatched_keys"]]
    if different:
        raise InputError(
            f"{field}: of another architecture than this recipe's {model.config.model_type} ({different[0]} differs)."
            " Resume with the recipe that wrote it, or start anew in another output_dir."
        )
    model.load_state_dict(saved.state_dict())


def load_processor(name: str | None, trust_remote_code: bool = False) -> BaseImageProcessor:
    """
    The image processor to be saved beside a model that starts from a checkpoint: the checkpoint's own, as [`own_size`]
    gives it. Without one, or where it cannot make label maps of logits as `pipeline` wants them, SegFormer's.
    """
    processor, pixels = None, Normalization()
    if name is not None:
        processor, pixels = _open_processor(f"model_name_or_path {name}", name, trust_remote_code)
    if hasattr(processor, "post_process_semantic_segmentation") or pixels.blue_first:
        return own_size(processor)
    values = {"image_mean": list(pixels.image_mean), "image_std": list(pixels.image_std)}
    return SegformerImageProcessorPil(do_resize=False, do_convert_rgb=True, **values)


def brings_code(model: PreTrainedModel) -> bool:
    """Whether `save_pretrained` puts the model's own code beside its weights."""
    return getattr(model, "_auto_class", None) is not None


def own_size(processor: BaseImageProcessor) -> BaseImageProcessor:
    """A copy of an image processor that leaves pictures at their size and labels as they are."""
    own = copy.deepcopy(processor)
    for name in ("do_resize", "do_center_crop", "do_pad", "do_reduce_labels"):
        if hasattr(own, name):
            setattr(own, name, False)
    for name in ("do_rescale", "do_normalize", "do_flip_channel_order"):
        if getattr(own, name, False) is None:  # no when it is applied, but the class's default when it is loaded again
            setattr(own, name, False)
    if hasattr(own, "do_convert_rgb"):
        own.do_convert_rgb = True
    return own


def normalization_of(processor: BaseImageProcessor) -> Normalization:
    """
    How a checkpoint wants its pixels, by its image processor. That is tried on a picture: some classes never look at
    some of their fields (MobileViT at `do_normalize`). A size that it resizes or crops to is left aside.
    """
    own, name = own_size(processor), type(processor).__name__
    try:
        with np.errstate(all="ignore"):
            given = own(Image.fromarray(TRIAL), return_tensors="pt")["pixel_values"][0].float()
            if not given.isfinite().all():
                raise ValueError("image_mean or image_std make pixels that are no finite numbers")
            # Pixels are in 0 … 1 here, and in 0 … 255 · rescale_factor there.
            scale = 255 * own.rescale_factor if getattr(own, "do_rescale", False) else 255
            values = [(own.image_mean, own.image_std)] if getattr(own, "do_normalize", False) else []
            for pair, blue_first in itertools.product([*values, (0, 1)], (False, True)):
                mean, std = (tuple(np.broadcast_to(np.divide(value, scale), 3).tolist()) for value in pair)
                expected = Normalization(mean, std, blue_first).of(TRIAL)
                if torch.allclose(given, expected, rtol=0, atol=1e-4 * float(expected.abs().max())):
                    return Normalization(mean, std, blue_first)
    except Exception as error:  # what others wrote may hold anything
        raise InputError(f"image processor {name}: cannot be applied to a picture ({first_line(error)})") from error
    raise InputError(f"image processor {name}: does more to pixels than rescale, normalize and turn RGB to BGR")


def _open_weights(
    field: str,
    name: str | Path,
    model_class: type = AutoModelForSemanticSegmentation,
    wrong: str = "not a semantic-segmentation checkpoint that can be loaded",
    **options: Any,
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """The model in float32, and the report of what was loaded; `wrong` says what it is where that fails."""
    hub = "" if is_local(field, name) else "there is no such folder, and on the Hub it is "
    try:
        with no_load_report():
            model, report = model_class.from_pretrained(
                name, dtype=torch.float32, ignore_mismatched_sizes=True, output_loading_info=True, **options
            )
    except Exception as error:  # what others wrote may hold anything
        raise InputError(f"{field}: {hub}{wrong} ({first_line(error)})") from error
    check_weights(field, model, "Its training went wrong; take an older checkpoint, or another one.")
    return model, report


def _open_processor(
    field: str, name: str, trust_remote_code: bool, revision: str = "main"
) -> tuple[BaseImageProcessor | None, Normalization]:
    """The image processor of a checkpoint and its pixels; `None` and ImageNet's where it brings none."""
    is_local(field, name)
    options = {"trust_remote_code": trust_remote_code, "revision": revision}
    try:
        if any(has_file(name, file, revision) for file in (IMAGE_PROCESSOR_NAME, PROCESSOR_NAME)):
            processor = AutoImageProcessor.from_pretrained(name, **options)
            return processor, normalization_of(processor)
    except Exception as error:  # what others wrote may hold anything
        raise InputError(
            f"{field}: its {IMAGE_PROCESSOR_NAME} is not that of an image processor ({first_line(error)}). "
            "Write it anew, or remove it to take ImageNet's mean and std."
        ) from error
    logger.warning("%s brings no image processor: ImageNet's mean and std are used.", name)
    return None, Normalization()


def _new_model(model_config: dict[str, Any], labels: dict[str, Any]) -> PreTrainedModel:
    """A DeepLabV3+ with random weights."""
    check_model_config(model_config, DeepLabV3PlusConfig, LABEL_FIELDS, "the classes are those of the data")
    try:
        config = DeepLabV3PlusConfig(**model_config, **labels)
    except (TypeError, ValueError, StrictDataclassError) as error:
        raise InputError(f"model_config: {str(error).strip().splitlines()[-1].strip()}") from error
    return DeepLabV3PlusForSemanticSegmentation(config)

"""A trained model, and how it wants its pictures."""

import hashlib
import json
import logging
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation, PreTrainedModel
from transformers.utils import CONFIG_NAME, IMAGE_PROCESSOR_NAME, PROCESSOR_NAME
from transformers.utils.hub import has_file

from .data import cityscapes
from .data.palette import make_palette
from .data.pixels import Pixels
from .errors import InputError, first_line

logger = logging.getLogger(__name__)


@dataclass
class ModelArguments:
    """
    Which model is trained.

    Args:
        model_name_or_path (`str`, *optional*):
            Hub id or folder of any semantic-segmentation checkpoint (`AutoModelForSemanticSegmentation`). A head for
            another number of classes is replaced by a new one. Without it a `DeepLabV3PlusForSemanticSegmentation` is
            built from `model_config`, with random weights.
        model_config (`dict`, *optional*):
            Fields of [`DeepLabV3PlusConfig`] that differ from the full-size model.
        trust_remote_code (`bool`, *optional*, defaults to `False`):
            Whether the checkpoint at `model_name_or_path` may run its own code.
    """

    model_name_or_path: str | None = field(default=None, metadata={"help": "Hub id or folder of the starting weights"})
    model_config: dict | str | None = field(
        default=None, metadata={"help": "fields of DeepLabV3PlusConfig, as JSON on the command line"}
    )
    trust_remote_code: bool = field(default=False, metadata={"help": "let the checkpoint run its own code"})

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
        if self.model_config and self.model_name_or_path:
            raise InputError(
                "model_config and model_name_or_path: a checkpoint brings its own config. Add --model_config null."
            )


@dataclass
class Checkpoint:
    """
    A trained model, and how it wants its pictures.

    Args:
        name (`str`): Path or Hub id.
        model ([`~transformers.PreTrainedModel`]): A semantic-segmentation model, in float32.
        pixels ([`~scl_hf.data.pixels.Pixels`], *optional*): How it wants its pixels.
    """

    name: str
    model: PreTrainedModel
    pixels: Pixels = Pixels()
    id2label: dict[int, str] = field(init=False)

    def __post_init__(self):
        self.id2label = dict(sorted(self.model.config.id2label.items()))

    @property
    def is_cityscapes(self) -> bool:
        """Whether the classes are the 19 of Cityscapes, in their order."""
        return cityscapes.is_cityscapes(self.id2label)

    @property
    def palette(self) -> np.ndarray:
        """(num_classes, 3) uint8: Cityscapes' colours where the classes are its own, else colour-blind-safe ones."""
        return cityscapes.PALETTE if self.is_cityscapes else make_palette(len(self.id2label))

    def pixel_values(self, picture: Image.Image | np.ndarray) -> torch.Tensor:
        """
        A picture as the model wants it, at the picture's own size.

        Args:
            picture (`PIL.Image.Image` or `np.ndarray`): RGB, (H, W, 3) uint8.

        Returns:
            `torch.Tensor`: (3, H, W), normalised.
        """
        return self.pixels.of(np.asarray(picture))

    def digest(self) -> str:
        """A digest of the weights: whether two checkpoints are one model, wherever they lie."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.cpu().contiguous().numpy())
        return digest.hexdigest()[:16]


def load_checkpoint(name: str, trust_remote_code: bool = False, subfolder: str = "") -> Checkpoint:
    """
    Loads a trained semantic-segmentation model to predict with. Its image processor gives the normalisation
    (ImageNet's, where there is none at all). A size that the processor resizes pictures to is left aside: pictures are
    seen at their own size, at the scales and in the tiles that are asked for.

    Args:
        name (`str`): Path or Hub id.
        trust_remote_code (`bool`, *optional*, defaults to `False`): Whether the checkpoint may run its own code.
        subfolder (`str`, *optional*): Where in it the model is; the image processor is at its root.

    Returns:
        [`Checkpoint`]: The model on the CPU, in float32 and evaluation mode.

    Raises:
        [`InputError`]: There is no such checkpoint, it is not a trained semantic-segmentation model, its classes have
            no names, or its image processor cannot be read.
    """
    if not Path(name).is_dir() and (name.count("/") > 1 or name.startswith((".", "/", "~"))):
        raise InputError(f"checkpoint {name}: no such folder")
    try:
        model, report = AutoModelForSemanticSegmentation.from_pretrained(
            name,
            subfolder=subfolder,
            trust_remote_code=trust_remote_code,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are named below
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise InputError(
            f"checkpoint {name}: is not a semantic-segmentation model that can be loaded ({first_line(error)})"
        ) from error
    if report["missing_keys"]:
        raise InputError(
            f"checkpoint {name}: is not a trained segmentation model, {len(report['missing_keys'])} of its tensors "
            f"are missing ({min(report['missing_keys'])}, …). Train it first, or name another checkpoint."
        )
    names = list(model.config.id2label.values())
    if report["mismatched_keys"]:
        key, stored, expected = min(report["mismatched_keys"])
        raise InputError(
            f"checkpoint {name}: its {key} has the shape {list(stored)}, but {list(expected)} belongs to the "
            f"{len(names)} classes of id2label in its {CONFIG_NAME}. Write all class names into that."
        )
    if all(label == f"LABEL_{i}" for i, label in enumerate(names)):
        raise InputError(
            f"checkpoint {name}: brings no class names, only {names[0]}, …. Write them into id2label of its "
            f"{CONFIG_NAME}."
        )
    return Checkpoint(name, model.eval(), _pixels(name, trust_remote_code))


def _pixels(name: str, trust_remote_code: bool) -> Pixels:
    try:
        processor = AutoImageProcessor.from_pretrained(name, trust_remote_code=trust_remote_code)
        # Pixels are in 0 … 1 here, and in 0 … 255 · rescale_factor there.
        scale = 255 * processor.rescale_factor if getattr(processor, "do_rescale", None) else 255
        normalizes = getattr(processor, "do_normalize", None)
        mean, std = (processor.image_mean, processor.image_std) if normalizes else (0, 1)
        mean, std = (tuple(np.broadcast_to(np.divide(values, scale), 3).tolist()) for values in (mean, std))
        return Pixels(mean, std, bool(getattr(processor, "do_flip_channel_order", False)))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError) as error:
        if any(has_file(name, file) for file in (IMAGE_PROCESSOR_NAME, PROCESSOR_NAME)):
            raise InputError(
                f"checkpoint {name}: its {IMAGE_PROCESSOR_NAME} is not that of an image processor "
                f"({first_line(error)}). Write it anew, or remove it to take ImageNet's mean and std."
            ) from error
    logger.warning("%s brings no image processor: ImageNet's mean and std are used.", name)
    return Pixels()

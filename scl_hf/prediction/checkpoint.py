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
from transformers.utils import CONFIG_NAME
from transformers.utils.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from ..data import cityscapes
from ..data.augmentation import normalize, to_tensor
from ..data.palette import make_palette
from ..errors import InputError

logger = logging.getLogger(__name__)


@dataclass
class Checkpoint:
    """
    A trained model, and how it wants its pictures.

    Args:
        name (`str`): Path or Hub id.
        model ([`~transformers.PreTrainedModel`]): A semantic-segmentation model, in float32.
        image_mean (`tuple[float, ...]`): Mean of each channel, in 0 … 1.
        image_std (`tuple[float, ...]`): Standard deviation of each channel, in 0 … 1.
        blue_first (`bool`, *optional*, defaults to `False`): Whether the model takes BGR.
    """

    name: str
    model: PreTrainedModel
    image_mean: tuple[float, ...] = tuple(IMAGENET_DEFAULT_MEAN)
    image_std: tuple[float, ...] = tuple(IMAGENET_DEFAULT_STD)
    blue_first: bool = False
    id2label: dict[int, str] = field(init=False)

    def __post_init__(self):
        self.id2label = dict(sorted(self.model.config.id2label.items()))

    @property
    def is_cityscapes(self) -> bool:
        """Whether the classes are the 19 of Cityscapes, in their order."""
        return [name.lower() for name in self.id2label.values()] == list(cityscapes.ID2LABEL.values())

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
        pixels = to_tensor(picture)
        return normalize(pixels.flip(0) if self.blue_first else pixels, self.image_mean, self.image_std)

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
    (ImageNet's, where there is none). A size that the processor resizes pictures to is left aside: pictures are seen
    at their own size, at the scales and in the tiles that are asked for.

    Args:
        name (`str`): Path or Hub id.
        trust_remote_code (`bool`, *optional*, defaults to `False`): Whether the checkpoint may run its own code.
        subfolder (`str`, *optional*): Where in it the model is; the image processor is at its root.

    Returns:
        [`Checkpoint`]: The model on the CPU, in float32 and evaluation mode.

    Raises:
        [`InputError`]: There is no such checkpoint, it is not a trained semantic-segmentation model, or its classes
            have no names.
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
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"checkpoint {name}: is not a semantic-segmentation model that can be loaded ({reason})"
        ) from error
    if report["missing_keys"]:
        raise InputError(
            f"checkpoint {name}: is not a trained segmentation model, {len(report['missing_keys'])} of its tensors "
            f"are missing ({min(report['missing_keys'])}, …). Train it first, or name another checkpoint."
        )
    names = list(model.config.id2label.values())
    if all(label == f"LABEL_{i}" for i, label in enumerate(names)):
        raise InputError(
            f"checkpoint {name}: brings no class names, only {names[0]}, …. Write them into id2label of its "
            f"{CONFIG_NAME}."
        )
    return Checkpoint(name, model.eval(), **_normalization(name, trust_remote_code))


def _normalization(name: str, trust_remote_code: bool) -> dict:
    try:
        processor = AutoImageProcessor.from_pretrained(name, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, json.JSONDecodeError):
        logger.warning("%s brings no image processor: ImageNet's mean and std are used.", name)
        return {}
    blue_first = bool(getattr(processor, "do_flip_channel_order", False))
    if not getattr(processor, "do_normalize", False):
        return {"image_mean": (0.0,) * 3, "image_std": (1.0,) * 3, "blue_first": blue_first}
    return {
        "image_mean": tuple(processor.image_mean),
        "image_std": tuple(processor.image_std),
        "blue_first": blue_first,
    }

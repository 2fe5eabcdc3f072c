"""Opens image processors, and finds the normalization that they apply."""

import copy
import itertools
import logging
import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import AutoImageProcessor, SegformerImageProcessorPil
from transformers.image_processing_utils import BaseImageProcessor
from transformers.utils import IMAGE_PROCESSOR_NAME, PROCESSOR_NAME
from transformers.utils.hub import has_file

from .data.normalization import Normalization
from .errors import InputError, first_line

logger = logging.getLogger(__name__)


def load_processor(name: str | None, trust_remote_code: bool = False) -> BaseImageProcessor:
    """Returns the processor to save: the checkpoint's at [`own_size`], or SegFormer's if `pipeline` cannot use it."""
    processor, normalization = None, Normalization()
    if name is not None:
        processor, normalization = open_processor(f"model_name_or_path {name}", name, trust_remote_code)
    if hasattr(processor, "post_process_semantic_segmentation") or normalization.blue_first:
        return own_size(processor)
    values = {"image_mean": list(normalization.image_mean), "image_std": list(normalization.image_std)}
    return SegformerImageProcessorPil(do_resize=False, do_convert_rgb=True, **values)


def open_processor(
    field: str, name: str, trust_remote_code: bool, revision: str = "main"
) -> tuple[BaseImageProcessor | None, Normalization]:
    """Returns the image processor of a checkpoint and its normalization; `None` and ImageNet's if it has none."""
    is_folder(field, name)
    try:
        if any(has_file(name, file, revision) for file in (IMAGE_PROCESSOR_NAME, PROCESSOR_NAME)):
            options = {"trust_remote_code": trust_remote_code, "revision": revision}
            processor = AutoImageProcessor.from_pretrained(name, **options)
            return processor, normalization_of(processor)
    except Exception as error:  # files of others may hold anything
        problem = f"its {IMAGE_PROCESSOR_NAME} is not that of an image processor ({first_line(error)})"
        remedy = "Write it again, or remove it to take ImageNet's mean and std."
        raise InputError(f"{field}: {problem}. {remedy}") from error
    logger.warning("%s brings no image processor: ImageNet's mean and std are used.", name)
    return None, Normalization()


def record_input(processor: BaseImageProcessor, image: object) -> None:
    """Notes how a feature of images (`InputImage`, or one without these fields) reads them, to be saved."""
    for name in ("value_range", "bands"):
        vars(processor).pop(name, None)  # of the checkpoint that training starts from
        if value := getattr(image, name, None):
            setattr(processor, name, value)


def is_folder(field: str, name: str | Path) -> bool:
    """Returns whether `name` is a folder and not a Hub id; raises if it can be neither."""
    there = os.path.isdir(name)
    if not there and (str(name).count("/") > 1 or str(name).startswith((".", "/", "~"))):
        raise InputError(f"{field}: no such folder")
    return there


def own_size(processor: BaseImageProcessor) -> BaseImageProcessor:
    """Returns a copy of an image processor that keeps the size of images and the ids of labels."""
    own = copy.deepcopy(processor)
    switched_off = ("do_resize", "do_center_crop", "do_pad", "do_reduce_labels")
    for name in (*switched_off, "do_rescale", "do_normalize", "do_flip_channel_order"):
        # None is applied as no, but loaded again as the class's default.
        if hasattr(own, name) and (name in switched_off or getattr(own, name) is None):
            setattr(own, name, False)
    if hasattr(own, "do_convert_rgb"):
        own.do_convert_rgb = True
    return own


def normalization_of(processor: BaseImageProcessor) -> Normalization:
    """Returns the normalization of an image processor, tried on an image: some classes ignore some of their fields."""
    own, name = own_size(processor), type(processor).__name__
    image = np.random.default_rng(0).integers(0, 256, (8, 32, 3), np.uint8)
    try:
        with np.errstate(all="ignore"):
            given = own(Image.fromarray(image), return_tensors="pt")["pixel_values"][0].float()
            if not given.isfinite().all():
                raise ValueError("image_mean or image_std make pixels that are no finite numbers")
            # Pixels are in 0 … 1 here, and in 0 … 255 · rescale_factor there.
            scale = 255 * own.rescale_factor if getattr(own, "do_rescale", False) else 255
            values = [(own.image_mean, own.image_std)] if getattr(own, "do_normalize", False) else []
            for pair, blue_first in itertools.product([*values, (0, 1)], (False, True)):
                mean, std = (tuple(np.broadcast_to(np.divide(value, scale), 3).tolist()) for value in pair)
                expected = Normalization(mean, std, blue_first).of(image)
                if torch.allclose(given, expected, rtol=0, atol=1e-4 * float(expected.abs().max())):
                    return Normalization(mean, std, blue_first)
    except Exception as error:  # files of others may hold anything
        raise InputError(f"image processor {name}: cannot be applied to an image ({first_line(error)})") from error
    raise InputError(f"image processor {name}: does more to pixels than rescale, normalize and turn RGB to BGR")

"""Joint geometric and photometric augmentation of an image and its label."""

import math
from dataclasses import dataclass, field

import cv2
import numpy as np
import torch

from ..errors import check_field
from .images import IGNORE_INDEX, in_one_thread
from .normalization import Normalization
from .sampler import Sample

GRAY_WEIGHTS = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601, for contrast and saturation


@dataclass
class AugmentationArguments:
    """
    Random changes of a crop, as in the baseline (Zhu et al., 2019), whose crops have 896 pixels and whose hue is 0.25.

    Args:
        crop_size (`list[int]`, *optional*, defaults to `[512, 512]`):
            Height and width of the crops in pixels, or one number for both.
        scale_range (`list[float]`, *optional*, defaults to `[0.5, 2.0]`):
            Smallest and largest factor by which the image is scaled, 0.01 to 100.
        flip_probability (`float`, *optional*, defaults to 0.5): Probability of a left-right flip.
        brightness (`float`, *optional*, defaults to 0.25): Brightness is multiplied by 1 ± this at most.
        contrast (`float`, *optional*, defaults to 0.25): Contrast is multiplied by 1 ± this at most.
        saturation (`float`, *optional*, defaults to 0.25): Saturation is multiplied by 1 ± this at most.
        hue (`float`, *optional*, defaults to 0.05): Hue is turned by ± this part of the color circle at most.
        blur_probability (`float`, *optional*, defaults to 1.0): Probability of a Gaussian blur.
        blur_sigma (`list[float]`, *optional*, defaults to `[0.15, 1.3]`):
            Smallest and largest standard deviation of the blur in pixels of the crop, up to 100.
    """

    crop_size: list[int] = field(default_factory=lambda: [512, 512])
    scale_range: list[float] = field(default_factory=lambda: [0.5, 2.0])
    flip_probability: float = 0.5
    brightness: float = 0.25
    contrast: float = 0.25
    saturation: float = 0.25
    hue: float = 0.05
    blur_probability: float = 1.0
    blur_sigma: list[float] = field(default_factory=lambda: [0.15, 1.3])

    def __post_init__(self):
        size = [self.crop_size] if isinstance(self.crop_size, int) else list(self.crop_size)
        self.crop_size = size * 2 if len(size) == 1 else size
        fits = len(self.crop_size) == 2 and min(size) >= 8
        check_field(self, "crop_size", fits, "height and width, or one number, of 8 or more")
        for name, least in (("scale_range", 0.01), ("blur_sigma", 0)):  # no crop takes all memory
            limits = getattr(self, name)
            rising = len(limits) == 2 and 0 < limits[0] <= limits[1] <= 100 and limits[0] >= least
            check_field(self, name, rising, f"two numbers above 0, of {least} to 100, the smaller one first")
        for name in ("flip_probability", "brightness", "contrast", "saturation", "hue", "blur_probability"):
            largest = 0.5 if name == "hue" else 1
            check_field(self, name, 0 <= getattr(self, name) <= largest, f"0 to {largest}")


def crop_interval(
    length: int, crop: int, scale: float, offset: float, center: float | None = None
) -> tuple[float, float, int, int]:
    """
    Returns, along an axis of `length` pixels, the part of the image that a crop shows (from, to), and the part of the
    crop that it fills (from, to). `offset` is random in [0, 1); a `center` is put at 0.25 + 0.5·`offset` of the crop.
    """
    extent = crop / scale
    # Whole pixels, so that a crop at scale 1 is a copy; below 0 where the image is smaller than the crop
    slack = math.trunc(length - extent)
    if center is None:
        start = math.copysign(math.floor(offset * (abs(slack) + 1)), slack)
    else:
        start = min(max(round(center - (0.25 + 0.5 * offset) * extent), min(slack, 0)), max(slack, 0))
    image_from, image_to = max(start, 0.0), min(start + extent, float(length))
    crop_from = min(round((image_from - start) * scale), crop - 1)
    crop_to = min(max(round((image_to - start) * scale), crop_from + 1), crop)
    return image_from, image_to, crop_from, crop_to


@dataclass
class Augmentation:
    """
    Cuts a random crop out of an image and its label: scale and crop at once, flip, brightness, contrast, saturation
    and hue in random order, blur, normalization. The sample's seed decides each, whatever others are switched off.
    """

    args: AugmentationArguments
    normalization: Normalization

    @in_one_thread()
    def __call__(self, image: np.ndarray, label: np.ndarray | None, sample: Sample) -> dict[str, torch.Tensor]:
        """
        Returns, of an image (H, W, 3) uint8 in RGB and its label (H, W) uint8, "pixel_values" (3, h, w) float32,
        "valid" (h, w) bool and "labels" (h, w) int64. Padding is 0 (the mean color), False and 255 in them.
        """
        args = self.args
        rng = np.random.default_rng(sample.seed)
        scale, offset_x, offset_y, flip, blur, sigma = rng.random(6).tolist()
        strengths, order = rng.uniform(-1, 1, 4).tolist(), rng.permutation(4)

        scale = args.scale_range[0] + scale * (args.scale_range[1] - args.scale_range[0])
        height, width = args.crop_size
        center_x, center_y = sample.center or (None, None)
        left, right, first_x, last_x = crop_interval(image.shape[1], width, scale, offset_x, center_x)
        top, bottom, first_y, last_y = crop_interval(image.shape[0], height, scale, offset_y, center_y)
        rows, columns = last_y - first_y, last_x - first_x
        if flipped := flip < args.flip_probability:
            first_x, last_x = width - last_x, width - first_x
        filled = slice(first_y, last_y), slice(first_x, last_x)

        # Colors and blur see the image only, so that the padding does not bleed into it
        window = image[int(top) : math.ceil(bottom), int(left) : math.ceil(right)]  # left and top are whole pixels
        scale_x, scale_y = columns / (right - left), rows / (bottom - top)  # without a size, OpenCV keeps them exactly
        interpolation = cv2.INTER_AREA if max(scale_x, scale_y) <= 1 else cv2.INTER_LINEAR
        pixels = cv2.resize(window, None, fx=scale_x, fy=scale_y, interpolation=interpolation)[:rows, :columns]
        pixels = np.divide(cv2.flip(pixels, 1) if flipped else pixels, np.float32(255), dtype=np.float32)
        changes = (
            (_adjust_brightness, args.brightness, 1 + args.brightness * strengths[0]),
            (_adjust_contrast, args.contrast, 1 + args.contrast * strengths[1]),
            (_adjust_saturation, args.saturation, 1 + args.saturation * strengths[2]),
            (_adjust_hue, args.hue, 360 * args.hue * strengths[3]),
        )
        for change, limit, amount in (changes[i] for i in order):
            if limit > 0:
                change(pixels, amount)
        if blur < args.blur_probability:
            _blur(pixels, args.blur_sigma[0] + sigma * (args.blur_sigma[1] - args.blur_sigma[0]))
        crop = {"pixel_values": torch.zeros(3, height, width), "valid": torch.zeros(height, width, dtype=torch.bool)}
        shown = crop["pixel_values"][:, *filled]
        shown.copy_(torch.from_numpy(pixels).permute(2, 0, 1))  # first: it is slow to normalize (H, W, 3)
        shown.copy_(self.normalization.normalize(shown))
        crop["valid"][filled] = True
        if label is not None:
            ids = label.take(_nearest(top, bottom, rows), axis=0).take(_nearest(left, right, columns), axis=1)
            ids = cv2.flip(ids, 1) if flipped else ids
            crop["labels"] = torch.full((height, width), IGNORE_INDEX, dtype=torch.int64)
            crop["labels"][filled] = torch.from_numpy(ids)
        return crop


def _nearest(start: float, stop: float, count: int) -> np.ndarray:
    """Returns the pixels in which the middles of `count` equal parts of an interval lie."""
    return (start + (np.arange(count) + 0.5) * ((stop - start) / count)).astype(np.intp)


# Colors and blur work in place, on (H, W, 3) float32 in [0, 1]: new memory costs as much as the arithmetic


def _adjust_brightness(pixels: np.ndarray, factor: float) -> None:
    pixels *= np.float32(factor)
    pixels.clip(0, 1, out=pixels)


def _adjust_contrast(pixels: np.ndarray, factor: float) -> None:
    """Moves all colors away from, or towards, the mean gray of the crop."""
    mean = GRAY_WEIGHTS @ cv2.mean(pixels)[:3]
    pixels *= np.float32(factor)
    pixels += np.float32((1 - factor) * mean)
    pixels.clip(0, 1, out=pixels)


def _adjust_saturation(pixels: np.ndarray, factor: float) -> None:
    """Moves each color away from, or towards, its own gray."""
    cv2.transform(pixels, factor * np.eye(3, dtype=np.float32) + (1 - factor) * GRAY_WEIGHTS, dst=pixels)
    pixels.clip(0, 1, out=pixels)


def _adjust_hue(pixels: np.ndarray, degrees: float) -> None:
    hsv = cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV)
    hsv[..., 0] += np.float32(degrees % 360)  # up to 720, which OpenCV takes; below 0 it is wrong
    cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB, dst=pixels)


def _blur(pixels: np.ndarray, sigma: float) -> None:
    side = 2 * max(1, math.ceil(3 * sigma)) + 1
    # Replicated borders: reflected ones would need an image larger than the kernel.
    cv2.GaussianBlur(pixels, (side, side), sigma, dst=pixels, borderType=cv2.BORDER_REPLICATE)

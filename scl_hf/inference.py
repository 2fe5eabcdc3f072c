"""Prediction at test time: whole images or overlapping tiles, several scales, flipped."""

import contextlib
import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import nn


@torch.no_grad()
def predict_probs(
    model: nn.Module,
    pixel_values: torch.Tensor,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    tile: int | tuple[int, int] | None = None,
    overlap: float = 1 / 3,
) -> torch.Tensor:
    """
    Class probabilities of images, by the paper's test protocol (section 4): the logits are averaged in float32 over
    overlapping tiles, over the image and its mirror image, and over scales (each brought back to the size of the
    input), and the softmax of the average is returned. The model runs in evaluation mode and is left as it was.

    Args:
        model (`nn.Module`):
            Any semantic-segmentation model: `model(pixel_values=…).logits` is (B, C, h, w) at any resolution.
        pixel_values (`torch.Tensor`):
            Normalised images (B, 3, H, W), on the device and of the floating type of the model.
        scales (`Sequence[float]`, *optional*, defaults to `(1.0,)`):
            Factors by which the images are resized; the paper's are 0.5, 1 and 2.
        flip (`bool`, *optional*, defaults to `False`):
            Average with the prediction of the mirrored image.
        tile (`int` or `tuple[int, int]`, *optional*):
            Size of a tile, (height, width) or the side of a square, in pixels of the input. At a scale s > 1 tiles
            grow with the image to tile·s, at s < 1 they keep their size, as in the baseline's evaluation. A tile
            larger than the image is cut to it. Whole images by default.
        overlap (`float`, *optional*, defaults to `1/3`):
            The least share of a tile that it has in common with its neighbour, in [0, 1).

    Returns:
        `torch.Tensor`: probabilities (B, C, H, W), float32.

    Raises:
        `ValueError`: no scale or one that is not positive, a tile below one pixel, an overlap outside [0, 1), or
        `pixel_values` without four dimensions.
    """
    if pixel_values.dim() != 4:
        raise ValueError(f"pixel_values must have the shape (B, 3, H, W), not {tuple(pixel_values.shape)}.")
    if len(scales) == 0 or not all(0 < scale < math.inf for scale in scales):
        raise ValueError(f"scales must hold at least one number, each above 0; they are {scales}.")
    if not 0 <= overlap < 1:
        raise ValueError(f"overlap must be at least 0 and below 1, it is {overlap}.")
    size = pixel_values.shape[-2:]
    tile = size if tile is None else (tile, tile) if isinstance(tile, int) else tuple(tile)
    if len(tile) != 2 or min(tile) < 1:
        raise ValueError(f"tile must be a side or (height, width) of at least one pixel, it is {tile}.")

    total = None
    with evaluation_mode(model):
        for scale in scales:
            scaled_tile = tuple(round(side * max(1.0, scale)) for side in tile)
            logits = _tiled_logits(model, _rescale(pixel_values, scale), flip, scaled_tile, overlap)
            logits = upsample_logits(logits, size)
            total = logits if total is None else total + logits
    return torch.softmax(total / len(scales), dim=1)


def upsample_logits(logits: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """
    Logits at the size of the labels, in float32: bilinear with `align_corners=False`, as the image processors of
    `transformers` do it. Logits that have the size are returned as they are.

    Args:
        logits (`torch.Tensor`):
            (B, C, h, w), any floating type.
        size (`tuple[int, int]`):
            (height, width).

    Returns:
        `torch.Tensor`: (B, C, height, width), float32.
    """
    logits = logits.float()
    if tuple(logits.shape[-2:]) == tuple(size):
        return logits
    return F.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=False)


def tile_starts(length: int, tile: int, overlap: float) -> list[int]:
    """
    Where tiles begin along one side of an image: as few as cover it with at least the overlap, at even distances.

    Args:
        length (`int`):
            Side of the image in pixels.
        tile (`int`):
            Side of a tile in pixels.
        overlap (`float`):
            The least share of a tile in common with the next one, in [0, 1).

    Returns:
        `list[int]`: first pixel of each tile; the last tile ends with the image. `[0]` where one tile holds it all.
    """
    if tile >= length:
        return [0]
    # Rounded first: 0.14 * 50 is a little more than 7 in floating point, but seven pixels are what is asked for.
    step = max(1, tile - math.ceil(round(overlap * tile, 6)))
    gaps = math.ceil((length - tile) / step)
    return [index * (length - tile) // gaps for index in range(gaps + 1)]


def _tiled_logits(
    model: nn.Module, images: torch.Tensor, flip: bool, tile: tuple[int, int], overlap: float
) -> torch.Tensor:
    """The logits (B, C, H, W) of images (B, 3, H, W), averaged over tiles; one tile that holds all is the image."""
    height, width = images.shape[-2:]
    tile_height, tile_width = min(tile[0], height), min(tile[1], width)
    corners = [
        (top, left)
        for top in tile_starts(height, tile_height, overlap)
        for left in tile_starts(width, tile_width, overlap)
    ]
    total, count = None, torch.zeros(height, width, device=images.device)
    for top, left in corners:
        window = (..., slice(top, top + tile_height), slice(left, left + tile_width))
        logits = upsample_logits(_logits(model, images[window], flip), (tile_height, tile_width))
        if len(corners) == 1:
            return logits
        if total is None:
            total = logits.new_zeros(*logits.shape[:2], height, width)
        total[window] += logits
        count[window] += 1
    return total / count


def _logits(model: nn.Module, images: torch.Tensor, flip: bool) -> torch.Tensor:
    """Logits at the model's resolution, averaged with those of the mirror image if `flip`."""
    logits = model(pixel_values=images).logits.float()
    if not flip:
        return logits
    return (logits + model(pixel_values=images.flip(-1)).logits.float().flip(-1)) / 2


def _rescale(images: torch.Tensor, scale: float) -> torch.Tensor:
    height, width = (max(1, round(side * scale)) for side in images.shape[-2:])
    if (height, width) == tuple(images.shape[-2:]):
        return images
    # Antialiasing changes nothing when images grow; when they shrink, thin things would flicker without it.
    resized = F.interpolate(images.float(), (height, width), mode="bilinear", align_corners=False, antialias=True)
    return resized.to(images.dtype)


@contextlib.contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Runs a model in evaluation mode and leaves it as it was."""
    # Module by module, because part of a model in training may be frozen in evaluation mode.
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True

"""Prediction at test time: sliding windows, several scales, flips."""

import contextlib
import itertools
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
    max_tiles_per_batch: int = 1,
) -> torch.Tensor:
    """
    Predicts class probabilities with the paper's test-time augmentation (section 4): averages the logits in float32
    over overlapping tiles, mirror images and scales (each resized back to the input), and returns the softmax. The
    model runs in evaluation mode and is left as it was. Memory does not grow with the number of tiles.

    Args:
        model (`nn.Module`): Any semantic-segmentation model: `model(pixel_values=…).logits` is (B, C, h, w) at any
            resolution.
        pixel_values (`torch.Tensor`): Normalized images (B, 3, H, W), with the model's device and floating type.
        scales (`Sequence[float]`, *optional*, defaults to `(1.0,)`): Factors by which the images are resized.
        flip (`bool`, *optional*, defaults to `False`): Average with the prediction of the mirrored image.
        tile (`int` or `tuple[int, int]`, *optional*): Height and width of a tile, or the side of a square, in pixels
            of the input, cut to the image. At scales s > 1 it grows to tile·s, at others it keeps its size, as in the
            baseline. Whole images by default.
        overlap (`float`, *optional*, defaults to `1/3`): Least share of a tile in common with its neighbor, in [0, 1).
        max_tiles_per_batch (`int`, *optional*, defaults to 1): Tiles in one forward pass, mirrored ones included.

    Returns:
        `torch.Tensor`: Probabilities (B, C, H, W), float32.
    """
    if pixel_values.dim() != 4:
        raise ValueError(f"pixel_values must have the shape (B, 3, H, W), not {tuple(pixel_values.shape)}.")
    if len(scales) == 0 or not all(0 < scale < math.inf for scale in scales):
        raise ValueError(f"scales must hold at least one number, each above 0; they are {scales}.")
    if not 0 <= overlap < 1:
        raise ValueError(f"overlap must be at least 0 and below 1, it is {overlap}.")
    if max_tiles_per_batch < 1:
        raise ValueError(f"max_tiles_per_batch must be at least 1, it is {max_tiles_per_batch}.")
    size = pixel_values.shape[-2:]
    tile = size if tile is None else (tile, tile) if isinstance(tile, int) else tuple(tile)
    if len(tile) != 2 or min(tile) < 1:
        raise ValueError(f"tile must be a side or (height, width) of at least one pixel, it is {tile}.")

    total = None
    with evaluation_mode(model):
        for scale in scales:
            scaled = tuple(max(1, round(side * scale)) for side in size)
            scaled_tile = tuple(min(round(side * max(1.0, scale)), whole) for side, whole in zip(tile, scaled))
            logits = _tiled_logits(model, pixel_values, scaled, scaled_tile, overlap, flip, max_tiles_per_batch)
            logits = upsample_logits(logits, size)
            total = logits if total is None else total.add_(logits)
    return torch.softmax(total.div_(len(scales)), dim=1)


def _tiled_logits(
    model: nn.Module,
    images: torch.Tensor,
    size: tuple[int, int],
    tile: tuple[int, int],
    overlap: float,
    flip: bool,
    max_tiles_per_batch: int,
) -> torch.Tensor:
    """Returns logits (B, C, H, W) of images resized to `size`, averaged over tiles and their mirror images."""
    if size != tuple(images.shape[-2:]):
        # Without antialiasing thin things would flicker in images that shrink.
        images = F.interpolate(images.float(), size, mode="bilinear", antialias=True).to(images.dtype)
    tops, lefts = (tile_starts(length, side, overlap) for length, side in zip(size, tile))
    positions = list(itertools.product(range(len(images)), tops, lefts, (False, True)[: 1 + flip]))
    total = None
    for first in range(0, len(positions), max_tiles_per_batch):
        batch = positions[first : first + max_tiles_per_batch]
        tiles = [images[i, :, top : top + tile[0], left : left + tile[1]] for i, top, left, _ in batch]
        tiles = [pixels.flip(-1) if mirrored else pixels for pixels, (*_, mirrored) in zip(tiles, batch)]
        batch_logits = logits_of_any_size(model, channels_last(torch.stack(tiles)))
        for (i, top, left, mirrored), logits in zip(batch, batch_logits):
            logits = upsample_logits(logits.unsqueeze(0), tile)[0]
            if total is None:
                total = logits.new_zeros(len(images), len(logits), *size)
            total[i, :, top : top + tile[0], left : left + tile[1]] += logits.flip(-1) if mirrored else logits
    counts = total.new_zeros(size)
    for top, left in itertools.product(tops, lefts):
        counts[top : top + tile[0], left : left + tile[1]] += 1 + flip
    return total.div_(counts)


def upsample_logits(logits: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Resizes logits (B, C, h, w) to (H, W) in float32, bilinear as the image processors of `transformers` do it."""
    logits = logits.float()
    if tuple(logits.shape[-2:]) == tuple(size):
        return logits
    return F.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=False)


def channels_last(pixel_values: torch.Tensor) -> torch.Tensor:
    """Returns images (B, 3, H, W) in channels-last layout, in which convolutions are faster and which they keep."""
    return pixel_values.contiguous(memory_format=torch.channels_last)


def tile_starts(length: int, tile: int, overlap: float) -> list[int]:
    """Returns the first pixel of each tile along a side: the fewest that cover it with this overlap, evenly spaced."""
    if tile >= length:
        return [0]
    # Rounded first: 0.14 * 50 is a little more than 7 in floating point.
    step = max(1, tile - math.ceil(round(overlap * tile, 6)))
    gaps = math.ceil((length - tile) / step)
    return [index * (length - tile) // gaps for index in range(gaps + 1)]


def logits_of_any_size(model: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    """Predicts (B, 3, h, w), padded below and right with zeros, the mean color, to sides that the model takes."""
    height, width = pixels.shape[-2:]
    divisor, least = math.lcm(size_divisor(model), aligned_stride(model)), smallest_side(model)
    if divisor == least == 1:
        return model(pixel_values=pixels).logits
    # Nothing but arithmetic: an export follows one way through this function, for all sizes.
    below, right = (-side % divisor if least == 1 else max(-side % divisor, least - side) for side in (height, width))
    logits = model(pixel_values=F.pad(pixels, (0, right, 0, below))).logits
    return F.pad(upsample_logits(logits, (height + below, width + right)), (0, -right, 0, -below))


def size_divisor(model: nn.Module) -> int:
    """Returns the divisor of both sides: the patch size of a plain vision transformer (14 for DINOv2), or 1."""
    config = getattr(model, "config", None)
    return patch_size(config) or patch_size(getattr(config, "backbone_config", None)) or 1


def aligned_stride(model: nn.Module) -> int:
    """Returns the stride of a DeepLabV3+ over a backbone, 1 for other models."""
    # It resizes corner on corner: at other sides its two maps part by up to 16 pixels, 2 of 44 points of mean IoU.
    config = getattr(model, "config", None)
    has_backbone = getattr(config, "backbone_config", None) is not None
    return config.stride if has_backbone and config.model_type == "deeplabv3plus" else 1


def smallest_side(model: nn.Module) -> int:
    """Returns the shortest side of an input: for Swin a pixel more than a window of the deepest map, otherwise 1."""
    # At the first smaller input transformers shrinks Swin's windows for good. Windows of 7 need 225 pixels.
    config = getattr(model, "config", None)
    for part in (config, getattr(config, "backbone_config", None)):
        window, patch = getattr(part, "window_size", None), getattr(part, "patch_size", None)
        if isinstance(window, int) and isinstance(patch, int) and hasattr(part, "depths"):
            return patch * 2 ** (len(part.depths) - 1) * window + 1
    return 1


def patch_size(config: object) -> int | None:
    """Returns the patch size of a plain vision transformer, whose layers have no `depths`; `None` for others."""
    size = getattr(config, "patch_size", None)
    if size is None or hasattr(config, "depths") or not hasattr(config, "num_hidden_layers"):
        return None
    return size if isinstance(size, int) else math.lcm(*size)


@contextlib.contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Runs a model in evaluation mode and restores the mode of each module: some may be frozen."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True

"""Prediction at test time: whole images or overlapping tiles, several scales, flipped."""

import contextlib
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

Span = tuple[int, int]  # first pixel, and the pixel after the last


@torch.no_grad()
def predict_probs(
    model: nn.Module,
    pixel_values: torch.Tensor,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    tile: int | tuple[int, int] | None = None,
    overlap: float = 1 / 3,
    border: Literal["average", "trim"] = "average",
    max_tiles_per_batch: int = 1,
) -> torch.Tensor:
    """
    Class probabilities of images, by the paper's test protocol (section 4): the logits are averaged in float32 over
    overlapping tiles, over the image and its mirror image, and over scales (each brought back to the size of the
    input), and the softmax of the average is returned. The model runs in evaluation mode and is left as it was.

    Besides the batch in the model, memory holds the average at the size of the input and the sum over tiles at the
    size of the scale at hand (of each scale that has tiles in the batch), however many tiles there are.

    Args:
        model (`nn.Module`): Any semantic-segmentation model: `model(pixel_values=…).logits` is (B, C, h, w) at any
            resolution.
        pixel_values (`torch.Tensor`): Normalized images (B, 3, H, W), on the device and of the floating type of the
            model.
        scales (`Sequence[float]`, *optional*, defaults to `(1.0,)`): Factors by which the images are resized; the
            paper's are 0.5, 1 and 2.
        flip (`bool`, *optional*, defaults to `False`): Average with the prediction of the mirrored image.
        tile (`int` or `tuple[int, int]`, *optional*): Size of a tile, (height, width) or the side of a square, in
            pixels of the input. At a scale s > 1 tiles grow with the image to tile·s, at s < 1 they keep their size,
            as in the baseline's evaluation. A tile larger than the image is cut to it. Whole images by default.
        overlap (`float`, *optional*, defaults to `1/3`): The least share of a tile that it has in common with its
            neighbor, in [0, 1).
        border (`str`, *optional*, defaults to `"average"`): What counts where tiles overlap. `"average"`, the paper's
            protocol: all of them alike. `"trim"`: each pixel is taken from the tile that has it farther inside, so
            that a tile's outer half of an overlap of o pixels counts nothing; the result is then that of the whole
            image for a model that sees no farther than ⌊o/2⌋ pixels (and, if it has strides, for tiles that begin at
            multiples of them).
        max_tiles_per_batch (`int`, *optional*, defaults to 1): Tiles that go through the model at once; mirrored tiles
            and those of each image count. Tiles of one shape share batches, whatever their scale.

    Returns:
        `torch.Tensor`: Probabilities (B, C, H, W), float32.
    """
    if pixel_values.dim() != 4:
        raise ValueError(f"pixel_values must have the shape (B, 3, H, W), not {tuple(pixel_values.shape)}.")
    if len(scales) == 0 or not all(0 < scale < math.inf for scale in scales):
        raise ValueError(f"scales must hold at least one number, each above 0; they are {scales}.")
    if not 0 <= overlap < 1:
        raise ValueError(f"overlap must be at least 0 and below 1, it is {overlap}.")
    if border not in ("average", "trim"):
        raise ValueError(f"border must be 'average' or 'trim', it is {border!r}.")
    if max_tiles_per_batch < 1:
        raise ValueError(f"max_tiles_per_batch must be at least 1, it is {max_tiles_per_batch}.")
    size = pixel_values.shape[-2:]
    tile = size if tile is None else (tile, tile) if isinstance(tile, int) else tuple(tile)
    if len(tile) != 2 or min(tile) < 1:
        raise ValueError(f"tile must be a side or (height, width) of at least one pixel, it is {tile}.")

    same_shape: dict[tuple[int, ...], list[_Grid]] = {}
    for scale in scales:
        scaled_size = tuple(max(1, round(side * scale)) for side in size)
        shape = tuple(min(round(side * max(1.0, scale)), whole) for side, whole in zip(tile, scaled_size))
        kept = [kept_spans(whole, side, overlap, border) for whole, side in zip(scaled_size, shape)]
        same_shape.setdefault(shape, []).append(_Grid(scaled_size, shape, *kept))

    total = None
    with evaluation_mode(model):
        for grids in same_shape.values():
            for logits in _logits_of_grids(model, pixel_values, grids, flip, max_tiles_per_batch):
                logits = upsample_logits(logits, size)
                total = logits if total is None else total.add_(logits)
    return torch.softmax(total.div_(len(scales)), dim=1)


def upsample_logits(logits: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """
    Logits (B, C, h, w) of any floating type at the size of the labels (H, W), in float32: bilinear with
    `align_corners=False`, as the image processors of `transformers` do it.
    """
    logits = logits.float()
    if tuple(logits.shape[-2:]) == tuple(size):
        return logits
    return F.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=False)


def channels_last(pixel_values: torch.Tensor) -> torch.Tensor:
    """Images (B, 3, H, W), the channels of a pixel side by side in memory."""
    # Convolutions keep this layout to the end, and are faster in it on CPUs and with half precision on GPUs.
    return pixel_values.contiguous(memory_format=torch.channels_last)


def tile_starts(length: int, tile: int, overlap: float) -> list[int]:
    """The first pixel of each tile along a side: as few as cover it with the overlap (a share), at even distances."""
    if tile >= length:
        return [0]
    # Rounded first: 0.14 * 50 is a little more than 7 in floating point, but seven pixels are what is asked for.
    step = max(1, tile - math.ceil(round(overlap * tile, 6)))
    gaps = math.ceil((length - tile) / step)
    return [index * (length - tile) // gaps for index in range(gaps + 1)]


def kept_spans(length: int, tile: int, overlap: float, border: Literal["average", "trim"]) -> list[tuple[int, Span]]:
    """Of each tile along a side the first pixel, and the span of pixels (first, last + 1) that it predicts."""
    starts = tile_starts(length, tile, overlap)
    ends = [min(start + tile, length) for start in starts]
    if border == "average":
        return list(zip(starts, zip(starts, ends)))
    # "trim": up to the middle of what it shares with its neighbors
    cuts = [0, *((start + end) // 2 for start, end in zip(starts[1:], ends)), length]
    return list(zip(starts, itertools.pairwise(cuts)))


@dataclass
class _Grid:
    """The tiles of images at one scale, and the sum of their logits so far."""

    size: tuple[int, ...]
    tile: tuple[int, ...]
    rows: list[tuple[int, Span]]
    columns: list[tuple[int, Span]]
    total: torch.Tensor | None = None
    tiles_left: int = 0

    def tiles(self, images: torch.Tensor, flip: bool) -> Iterator[tuple["_Grid", tuple, torch.Tensor]]:
        """This grid, place and pixels (3, h, w) of each tile of the images, followed by its mirror image if `flip`."""
        if self.size != tuple(images.shape[-2:]):
            # Antialiasing changes nothing when images grow; when they shrink, thin things would flicker without it.
            images = F.interpolate(images.float(), self.size, mode="bilinear", antialias=True).to(images.dtype)
        height, width = self.tile
        places = list(itertools.product(range(len(images)), self.rows, self.columns, (False, True)[: 1 + flip]))
        self.tiles_left = len(places)
        for place in places:
            image, (top, _), (left, _), mirrored = place
            pixels = images[image, :, top : top + height, left : left + width]
            yield self, place, pixels.flip(-1) if mirrored else pixels

    def add(self, place: tuple, logits: torch.Tensor, num_images: int) -> None:
        """Adds the logits (C, h, w) of a tile, at any resolution, where the tile is kept."""
        image, (top, (y0, y1)), (left, (x0, x1)), mirrored = place
        logits = upsample_logits(logits.unsqueeze(0), self.tile)[0]
        if mirrored:
            logits = logits.flip(-1)
        if self.total is None:
            self.total = logits.new_zeros(num_images, len(logits), *self.size)
        self.total[image, :, y0:y1, x0:x1] += logits[:, y0 - top : y1 - top, x0 - left : x1 - left]
        self.tiles_left -= 1

    def average(self, flip: bool) -> torch.Tensor:
        """The logits (B, C, H, W) of the images at this scale; the sum is given away."""
        total, self.total = self.total, None
        counts = total.new_zeros(self.size)
        for (_, (y0, y1)), (_, (x0, x1)) in itertools.product(self.rows, self.columns):
            counts[y0:y1, x0:x1] += 1 + flip
        return total.div_(counts)


def _logits_of_grids(
    model: nn.Module, pixel_values: torch.Tensor, grids: list[_Grid], flip: bool, max_tiles_per_batch: int
) -> Iterator[torch.Tensor]:
    """The logits (B, C, H, W) of one scale after the other; the tiles of all of them have one shape."""
    tiles = itertools.chain.from_iterable(grid.tiles(pixel_values, flip) for grid in grids)
    while batch := list(itertools.islice(tiles, max_tiles_per_batch)):
        pixels = channels_last(torch.stack([tile for _, _, tile in batch]))
        logits = _logits_of_any_size(model, pixels)
        for index, (grid, place, _) in enumerate(batch):
            grid.add(place, logits[index], len(pixel_values))
        del pixels, logits
        for grid in grids:
            if grid.total is not None and grid.tiles_left == 0:
                yield grid.average(flip)


def _logits_of_any_size(model: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    """Logits of (B, 3, h, w); where the model wants other sides, of zeros, the mean, below and right, and cut off."""
    height, width = pixels.shape[-2:]
    divisor, least = math.lcm(size_divisor(model), aligned_stride(model)), smallest_side(model)
    below, right = (max(-side % divisor, least - side) for side in (height, width))
    if not (below or right):
        return model(pixel_values=pixels).logits
    logits = model(pixel_values=F.pad(pixels, (0, right, 0, below))).logits
    return upsample_logits(logits, (height + below, width + right))[..., :height, :width]


def size_divisor(model: nn.Module) -> int:
    """
    What the sides of an input must be multiples of: the patch size where the model or its `backbone_config` is a plain
    vision transformer (14 for DINOv2), 1 for all others.
    """
    config = getattr(model, "config", None)
    return patch_size(config) or patch_size(getattr(config, "backbone_config", None)) or 1


def aligned_stride(model: nn.Module) -> int:
    """
    The stride of a DeepLabV3+ over a backbone, 1 for all others. It resizes corner on corner, so at sides that are no
    multiples of the stride its two maps part, by up to 16 pixels: that cost 2 of 44 points of mean IoU at 240×180.
    """
    config = getattr(model, "config", None)
    has_backbone = getattr(config, "backbone_config", None) is not None
    return config.stride if has_backbone and config.model_type == "deeplabv3plus" else 1


def smallest_side(model: nn.Module) -> int:
    """
    The shortest side that an input may have. Swin's windows, in transformers, shrink for good at the first input that
    is not larger than one in the deepest map: 225 pixels for windows of 7. 1 for all others.
    """
    config = getattr(model, "config", None)
    for part in (config, getattr(config, "backbone_config", None)):
        window, patch = getattr(part, "window_size", None), getattr(part, "patch_size", None)
        if isinstance(window, int) and isinstance(patch, int) and hasattr(part, "depths"):
            return patch * 2 ** (len(part.depths) - 1) * window + 1
    return 1


def patch_size(config: object) -> int | None:
    """The patch size of a plain vision transformer, whose layers are not grouped into `depths`; `None` for others."""
    size = getattr(config, "patch_size", None)
    if size is None or hasattr(config, "depths") or not hasattr(config, "num_hidden_layers"):
        return None
    return size if isinstance(size, int) else math.lcm(*size)


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

"""CutMix for dense prediction: a map of pasted boxes, and mixing two images, predictions or label maps by it."""

import torch
from torch import Tensor


def sample_boxes(height: int, width: int, num_boxes: int, ratio: float, generator: torch.Generator) -> Tensor:
    """
    Samples the CutMix boxes of one image, with the geometry of French et al. (2019). Each box covers
    `ratio / num_boxes` of the image: its height and width are the shares `ratio**u` and `ratio / ratio**u` (u uniform
    in 0 to 1) of the image's, both times `sqrt(1 / num_boxes)`. Its corner is uniform over where it fits. A later box
    covers an earlier one, so their union is smaller than `ratio`: 32 boxes cover 0.51 of the image at 0.77 (mean of
    1,000 maps; standard deviation 0.03), 0.38 at 0.5.

    Args:
        height (`int`): Height of the image in pixels.
        width (`int`): Width of the image in pixels.
        num_boxes (`int`): Number of boxes N, at least 1.
        ratio (`float`): Sum of the boxes' areas as a share of the image, in (0, 1].
        generator (`torch.Generator`): A CPU generator. The same state gives the same boxes.

    Returns:
        `torch.Tensor`: Box ids (height, width), int64, on the CPU: 0 for image a, n in 1 to N for the box on top.

    Raises:
        `ValueError`: if a size or `num_boxes` is below 1, or `ratio` is not in (0, 1].
    """
    if min(height, width, num_boxes) < 1:
        raise ValueError(f"height, width and num_boxes must be at least 1, got {height}, {width} and {num_boxes}")
    if not 0 < ratio <= 1:
        raise ValueError(f"ratio must be above 0 and at most 1, got {ratio}")
    aspect, top, left = torch.rand(3, num_boxes, generator=generator, dtype=torch.float64)
    height_share = ratio**aspect
    width_share = ratio / height_share
    box_heights = (height_share * height * num_boxes**-0.5).round().clamp(1, height)
    box_widths = (width_share * width * num_boxes**-0.5).round().clamp(1, width)
    tops = (top * (height - box_heights + 1)).floor()
    lefts = (left * (width - box_widths + 1)).floor()

    box_ids = torch.zeros(height, width, dtype=torch.int64)
    boxes = torch.stack([tops, lefts, tops + box_heights, lefts + box_widths], dim=1).long()
    for box_id, (y0, x0, y1, x1) in enumerate(boxes.tolist(), start=1):
        box_ids[y0:y1, x0:x1] = box_id
    return box_ids


def mix(a: Tensor, b: Tensor, box_ids: Tensor) -> Tensor:
    """
    Pastes the boxes of `b` over `a` at the same place.

    Args:
        a (`torch.Tensor`): (B, C, H, W) or (C, H, W), images or probabilities, or (B, H, W) or (H, W), maps.
        b (`torch.Tensor`): The same shape and dtype as `a`.
        box_ids (`torch.Tensor`): Integers (H, W), shared by the batch, or (B, H, W). See [`sample_boxes`].

    Returns:
        `torch.Tensor`: `b` where `box_ids` is above 0, else `a`. A `ValueError` names shapes that do not fit.
    """
    if a.shape != b.shape:
        raise ValueError(f"a and b must have the same shape, got {tuple(a.shape)} and {tuple(b.shape)}")
    pasted = box_ids > 0
    if pasted.dim() == 3 and a.dim() == 4:
        pasted = pasted.unsqueeze(1)
    fits = pasted.dim() in (2, a.dim()) and pasted.shape[-2:] == a.shape[-2:]
    if not fits or (pasted.dim() > 2 and pasted.shape[0] != a.shape[0]):
        raise ValueError(f"box_ids of shape {tuple(box_ids.shape)} do not fit tensors of shape {tuple(a.shape)}")
    return torch.where(pasted, b, a)

"""The visible pixels T_n of each box, which the structured loss compares, and pairs of them, equation (9)."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


def visible_pixels(box_ids: Tensor, num_boxes: int, num_loss_boxes: int) -> Tensor:
    """
    Finds the sets T_n of equations (8) and (10): the pixels of each of the last `num_loss_boxes` of `num_boxes` boxes
    that no later box covers. This waits for the device of `box_ids`, so batches do it on the CPU.

    Args:
        box_ids (`torch.Tensor`): The top-most box of each pixel, integers of shape (B, H, W), 0 at padding. See
            [`~scl_hf.cutmix.sample_boxes`].
        num_boxes (`int`): N, the number of boxes that were pasted.
        num_loss_boxes (`int`): N_box, how many of them, counted from the last one pasted; in 1 to `num_boxes`.

    Returns:
        `torch.Tensor`: Flat indices into H·W, int64 of shape (B, N_box, P), P the size of the largest set; smaller
        ones are filled up with -1.
    """
    if not 1 <= num_loss_boxes <= num_boxes:
        raise ValueError(f"num_loss_boxes must be in 1 to num_boxes={num_boxes}, got {num_loss_boxes}")
    batch_size, first_box = box_ids.shape[0], num_boxes - num_loss_boxes + 1
    box_ids = box_ids.flatten(1)
    images, pixels = ((box_ids >= first_box) & (box_ids <= num_boxes)).nonzero(as_tuple=True)
    box_of_pixel = images * num_loss_boxes + box_ids[images, pixels] - first_box
    order = box_of_pixel.argsort(stable=True)
    sizes = torch.bincount(box_of_pixel, minlength=batch_size * num_loss_boxes)
    sets = pad_sequence(pixels[order].split(sizes.tolist()), batch_first=True, padding_value=-1)
    return sets.view(batch_size, num_loss_boxes, -1)


def sample_pairs(box_pixels: Tensor, num_pairs: int, generators: Sequence[torch.Generator | None]) -> Tensor:
    """
    Samples pairs of pixels by equation (9) for each box of a batch.

    Args:
        box_pixels (`torch.Tensor`): What [`visible_pixels`] returns, shape (B, N_box, P).
        num_pairs (`int`): N_pair, the most pairs of a box, at least 1.
        generators (`Sequence[torch.Generator]`): One for each image; `None` is the default one.

    Returns:
        `torch.Tensor`: The pixels i and j of each pair, flat indices into H·W, int64 of shape (B, N_box, 2, M), M the
        most pairs of a box; boxes with fewer are filled up with -1.
    """
    if num_pairs < 1:
        raise ValueError(f"num_pairs must be at least 1, or None for all pairs, got {num_pairs}")
    pairs = []
    for image, sizes, generator in zip(box_pixels, (box_pixels >= 0).sum(dim=-1).tolist(), generators):
        # (M, 2), because `pad_sequence` fills up the first dimension
        pairs += [box[drop(size, num_pairs, generator, box.device)].T for box, size in zip(image, sizes)]
    pairs = pad_sequence(pairs, batch_first=True, padding_value=-1)
    return pairs.transpose(1, 2).unflatten(0, box_pixels.shape[:2])


def drop(num_pixels: int, num_pairs: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
    """
    Equation (9), Drop<·, N_pair>: a uniformly random set of `num_pairs` of the |T_n|² = num_pixels² ordered pairs
    (i, j) of a box, without replacement; all of them if there are no more. Samples on the device of `generator` and
    returns int64 (2, min(num_pairs, num_pixels²)) on `device`.
    """
    total = num_pixels**2
    source = device if generator is None else generator.device
    if total <= num_pairs:
        pairs = torch.arange(total, device=source)
    elif total <= 8 * num_pairs:
        pairs = torch.randperm(total, generator=generator, device=source)[:num_pairs]
    else:
        # |T_n|² may be 10¹¹: sample with repeats until enough are distinct. No pair is preferred, so they are a
        # uniformly random set, and so is a random part of them.
        pairs = torch.empty(0, dtype=torch.int64, device=source)
        while len(pairs) < num_pairs:
            more = torch.randint(total, (num_pairs + num_pairs // 4 + 8,), generator=generator, device=source)
            pairs = torch.cat([pairs, more]).unique()
        pairs = pairs[torch.randperm(len(pairs), generator=generator, device=source)[:num_pairs]]
    pairs = pairs.to(device)
    divisor = max(num_pixels, 1)
    return torch.stack([pairs // divisor, pairs % divisor])

"""
The losses of the paper, one function per equation, and logit adjustment for rare classes, which is not the paper's.

All compute in float32, or in float64 if given that, whatever the precision of their inputs and under autocast.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .pairs import sample_pairs, visible_pixels

CLASSES_PER_WORD = 31  # bits of an int32 but its sign


def relaxed_cross_entropy(logits: Tensor, labels: Tensor, window: int = 3, ignore_index: int = 255) -> Tensor:
    """
    Equation (2), cross-entropy with boundary label relaxation (Zhu et al., 2019): -log of the summed probability of
    all classes in the `window` by `window` pixels around a pixel, averaged over the pixels that are not ignored. The
    window ends at the image border, and ignored pixels add no class to it. With `window=1` it is `cross_entropy`.

    Args:
        logits (`torch.Tensor`): Scores before the softmax, shape (B, C, H, W).
        labels (`torch.Tensor`): Class ids, integers of shape (B, H, W).
        window (`int`, *optional*, defaults to 3): Side w of the window in pixels, odd.
        ignore_index (`int`, *optional*, defaults to 255): The id of pixels that do not count.

    Returns:
        `torch.Tensor`: A scalar in nats; 0 with a gradient of 0 if no pixel counts.

    Raises:
        `ValueError`: if `window` is even or below 1, shapes do not fit, or (on the CPU) a class id is out of range.
    """
    if window < 1 or window % 2 == 0:
        raise ValueError(f"window must be odd and at least 1, got {window}")
    if logits.dim() != 4 or labels.shape != (logits.shape[0], *logits.shape[2:]):
        raise ValueError(
            f"expected logits (B, C, H, W) and labels (B, H, W), got {tuple(logits.shape)} and {tuple(labels.shape)}"
        )
    counted = labels != ignore_index
    class_sets = window_class_sets(labels, logits.shape[1], window, ignore_index)
    log_probs = F.log_softmax(_at_least_float32(logits), dim=1)
    losses = -_LogProbabilityOfSet.apply(log_probs, *class_sets)
    return torch.where(counted, losses, 0.0).sum() / counted.sum().clamp(min=1)


def adjust_logits(logits: Tensor, class_shares: Tensor, strength: float) -> Tensor:
    """
    Logit adjustment (Menon et al., 2021): logits + τ log(share of the class), for the loss of labeled pixels. Without
    the term the trained model predicts as if the classes were closer to equally frequent.

    Args:
        logits (`torch.Tensor`): Scores before the softmax, shape (B, C, H, W).
        class_shares (`torch.Tensor`): Share of each class in the pixels of the labels, shape (C,).
        strength (`float`): τ; 0 leaves the logits as they are, 1 makes all classes equally frequent.
    """
    shares = class_shares.to(logits.device, logits.dtype)
    # A class without labels, or a very rare one, counts as one pixel of a thousand.
    return logits + strength * (shares + 1e-3).log().view(1, -1, 1, 1)


def window_class_sets(labels: Tensor, num_classes: int, window: int = 3, ignore_index: int = 255) -> list[Tensor]:
    """
    Finds the set N_w of equation (2): the classes, without the ignored one, in the window around each pixel of
    `labels` (B, H, W). Returns ceil(C / 31) int32 tensors (B, H, W): bit `c % 31` of tensor `c // 31` is class c.
    """
    ignored = labels == ignore_index
    class_ids = labels.long().masked_fill(ignored, 0)
    # On other devices this would wait, and `gather` below asserts the range.
    if labels.device.type == "cpu" and class_ids.numel():
        low, high = (bound.item() for bound in class_ids.aminmax())
        if low < 0 or high >= num_classes:
            raise ValueError(
                f"labels hold the class id {low if low < 0 else high}, but there are {num_classes} classes "
                f"(ids 0 to {num_classes - 1}; {ignore_index} is ignored)"
            )
    class_sets = []
    for first in range(0, num_classes, CLASSES_PER_WORD):
        shift = torch.arange(num_classes, device=labels.device) - first
        in_word = (shift >= 0) & (shift < CLASSES_PER_WORD)
        bit_of_class = torch.where(in_word, 1 << shift.clamp(0, CLASSES_PER_WORD - 1), 0).int()
        own_class = bit_of_class.gather(0, class_ids.flatten()).view_as(class_ids).masked_fill(ignored, 0)
        class_sets.append(_union_over_lines(_union_over_lines(own_class, window, dim=1), window, dim=2))
    return class_sets


def _union_over_lines(class_set: Tensor, window: int, dim: int) -> Tensor:
    """Joins the sets of the `window` pixels around each pixel along one dimension."""
    union = class_set.clone()
    size = class_set.shape[dim]
    for step in range(1, min(window // 2, size - 1) + 1):
        union.narrow(dim, step, size - step).bitwise_or_(class_set.narrow(dim, 0, size - step))
        union.narrow(dim, 0, size - step).bitwise_or_(class_set.narrow(dim, step, size - step))
    return union


class _LogProbabilityOfSet(torch.autograd.Function):
    """
    log of the sum of P(c) over each pixel's set: log-probabilities (B, C, H, W) -> (B, H, W), -inf with a gradient of
    0 where the set is empty. Shifted by the set's greatest value, value and gradient stay finite where the set is very
    unlikely. One class at a time stays in the cache; autograd over a masked copy takes twice the time.
    """

    @staticmethod
    def forward(ctx, log_probs: Tensor, *class_sets: Tensor) -> Tensor:
        greatest = torch.full_like(log_probs[:, 0], torch.finfo(log_probs.dtype).min)
        for c, log_prob in enumerate(log_probs.unbind(1)):
            greatest = torch.where(_contains(class_sets, c), torch.maximum(greatest, log_prob), greatest)
        total = torch.zeros_like(greatest)
        for c, log_prob in enumerate(log_probs.unbind(1)):
            total += torch.where(_contains(class_sets, c), (log_prob - greatest).exp_(), 0.0)
        log_prob_of_set = total.log_().add_(greatest)
        ctx.save_for_backward(log_probs, log_prob_of_set, *class_sets)
        return log_prob_of_set

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        log_probs, log_prob_of_set, *class_sets = ctx.saved_tensors
        grad_log_probs = torch.empty_like(log_probs)
        for c, log_prob in enumerate(log_probs.unbind(1)):
            share = (log_prob - log_prob_of_set).exp_().mul_(grad)
            grad_log_probs[:, c] = torch.where(_contains(class_sets, c), share, 0.0)
        return grad_log_probs, *[None] * len(class_sets)


def _contains(class_sets: tuple[Tensor, ...] | list[Tensor], class_id: int) -> Tensor:
    return (class_sets[class_id // CLASSES_PER_WORD] & (1 << class_id % CLASSES_PER_WORD)).bool()


def consistency_loss(student_probs: Tensor, teacher_probs: Tensor, valid: Tensor | None = None) -> Tensor:
    """
    Equation (4), L_c: the squared L2 distance of the student's and the teacher's probability vectors, averaged over
    the valid pixels of the whole batch. The gradient flows to the student only.

    Args:
        student_probs (`torch.Tensor`): p_s(u_m), softmax probabilities of shape (B, C, H, W).
        teacher_probs (`torch.Tensor`): p_mt(u'_a, u'_b), the same shape.
        valid (`torch.Tensor`, *optional*): Bool map of shape (B, H, W), False at padding.

    Returns:
        `torch.Tensor`: A scalar between 0 and 2; 0 with a gradient of 0 if no pixel is valid.

    Raises:
        `ValueError`: if the shapes do not fit each other.
    """
    _check_probs(student_probs, teacher_probs)
    pixels_shape = (student_probs.shape[0], *student_probs.shape[2:])
    if valid is not None and valid.shape != pixels_shape:
        raise ValueError(f"valid must have the shape {pixels_shape}, got {tuple(valid.shape)}")
    student, teacher = _at_least_float32(student_probs), _at_least_float32(teacher_probs.detach())
    distances = F.mse_loss(student, teacher, reduction="none").sum(dim=1)
    if valid is None:
        return distances.mean()
    return torch.where(valid, distances, 0.0).sum() / valid.sum().clamp(min=1)


def structured_consistency_loss(
    student_probs: Tensor,
    teacher_probs: Tensor,
    box_ids: Tensor,
    num_boxes: int,
    num_loss_boxes: int,
    num_pairs: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """
    Equations (8) and (10), L_sc: the squared gap between the student's and the teacher's inter-pixel similarities (7),
    averaged over the pixel pairs of a box's visible part, summed over the last `num_loss_boxes` boxes, averaged over
    the batch. The gradient flows to the student only, through the norms of its vectors too.

    By default it is exact, over all pairs, in linear time (see [`mean_squared_gaps`]); with `num_pairs` it samples
    pairs as in the paper. Finding the boxes' pixels waits for the device: a training step gets them in its batch and
    calls [`loss_of_all_pairs`] or [`loss_of_pairs`].

    Args:
        student_probs (`torch.Tensor`): p_s(u_m), softmax probabilities of shape (B, C, H, W).
        teacher_probs (`torch.Tensor`): p_mt(u'_a, u'_b), the same shape.
        box_ids (`torch.Tensor`): The top-most box of each pixel, integers of shape (B, H, W), or (H, W) for all
            images (see [`~scl_hf.cutmix.sample_boxes`]), 0 at padding.
        num_boxes (`int`): N, the number of boxes that were pasted.
        num_loss_boxes (`int`): N_box, how many of them, counted from the last one pasted, have a loss.
        num_pairs (`int`, *optional*): N_pair, the most pairs per box (9), or `None` for all.
        generator (`torch.Generator`, *optional*): Samples the pairs; by default that of the device of `box_ids`.

    Returns:
        `torch.Tensor`: A scalar between 0 and `num_loss_boxes`. A box with no visible pixel adds 0.

    Raises:
        `ValueError`: if the shapes do not fit, `num_loss_boxes` is not in 1 to `num_boxes`, or `num_pairs` is below 1.
    """
    _check_probs(student_probs, teacher_probs)
    batch_size, _, height, width = student_probs.shape
    shared, own = (height, width), (batch_size, height, width)
    if box_ids.shape not in (shared, own):
        raise ValueError(f"box_ids must have the shape {own} or {shared}, got {tuple(box_ids.shape)}")
    box_pixels = visible_pixels(box_ids.expand(own), num_boxes, num_loss_boxes)
    if num_pairs is None:
        return loss_of_all_pairs(student_probs, teacher_probs, box_pixels)
    pairs = sample_pairs(box_pixels, num_pairs, [generator] * batch_size)
    return loss_of_pairs(student_probs, teacher_probs, pairs)


def loss_of_all_pairs(student_probs: Tensor, teacher_probs: Tensor, box_pixels: Tensor) -> Tensor:
    """Returns equation (8) over all pairs of `box_pixels` (B, N_box, P) of [`~scl_hf.pairs.visible_pixels`]."""
    student, teacher = _gather_both(student_probs, teacher_probs, box_pixels)
    # Half precision is too coarse for small gaps.
    with torch.autocast(device_type=student_probs.device.type, enabled=False):
        return mean_squared_gaps(student, teacher, box_pixels >= 0).sum() / len(student_probs)


def loss_of_pairs(student_probs: Tensor, teacher_probs: Tensor, pairs: Tensor) -> Tensor:
    """Returns equation (10) over the `pairs` (B, N_box, 2, M) of [`~scl_hf.pairs.sample_pairs`]."""
    both = _gather_both(student_probs, teacher_probs, pairs)
    with torch.autocast(device_type=student_probs.device.type, enabled=False):
        student, teacher = (F.normalize(vectors, dim=-1) for vectors in both)
        gaps = (cosine_similarity(*student.unbind(2)) - cosine_similarity(*teacher.unbind(2))).square()
        kept = pairs[:, :, 0] >= 0
        means = torch.where(kept, gaps, 0.0).sum(dim=-1) / kept.sum(dim=-1).clamp(min=1)
        return means.sum() / len(student_probs)


def gather(probs: Tensor, pixels: Tensor) -> Tensor:
    """
    Returns the vectors p_i (B, ..., C) of `probs` (B, C, H, W) at `pixels` (B, ...), flat indices into H·W; any vector
    at -1. Of all boxes at once: the backward pass of a slice per box would write a whole map for each.
    """
    maps, flat = probs.flatten(2), pixels.flatten(1)
    images = torch.arange(len(probs), device=probs.device)[:, None]
    # Distinct pixels at -1: CUDA adds up the gradients of one pixel one after the other, be they 0.
    spread = torch.arange(flat.shape[1], device=probs.device) % maps.shape[2]
    return maps[images, :, torch.where(flat >= 0, flat, spread)].view(*pixels.shape, probs.shape[1])


def _gather_both(student_probs: Tensor, teacher_probs: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the student's and the teacher's vectors at `pixels`; the latter have no gradient."""
    _check_probs(student_probs, teacher_probs)
    # Before gathering: a pixel's gradient is a sum over its pairs in this precision.
    student, teacher = _at_least_float32(student_probs), _at_least_float32(teacher_probs.detach())
    return gather(student, pixels), gather(teacher, pixels)


def cosine_similarity(first: Tensor, second: Tensor) -> Tensor:
    """Equation (7): a_ij = p_i·p_j / (||p_i|| ||p_j||) (...) of unit vectors p / ||p|| (..., C) of i and of j."""
    return (first * second).sum(dim=-1)


def mean_squared_gaps(student: Tensor, teacher: Tensor, visible: Tensor) -> Tensor:
    """
    The terms of equation (8): for each box the exact mean of (a_ij^s - a_ij^t)² over all |T_n|² ordered pairs of its
    `visible` (..., P) pixels, in O(|T_n|·C²) time: the vectors p_i (..., P, C) of both -> (...), 0 for a box without
    pixels. The gradient flows to `student` only.
    """
    weights = visible.sum(dim=-1).clamp(min=1).to(student.dtype).square().reciprocal()
    return _SquaredGaps.apply(student, teacher.detach(), visible) * weights


class _SquaredGaps(torch.autograd.Function):
    """
    Sum of (a_ij^s - a_ij^t)² over all pairs of each box: two (..., P, C), (..., P) bool -> (...).

    With the unit vectors as the rows of S and T, D = S - T and M = S + T, the matrix of gaps is G = SSᵀ - TTᵀ =
    (DMᵀ + MDᵀ) / 2, so its squared norm is (<DᵀD, MᵀM> + <MᵀD, (MᵀD)ᵀ>) / 2. Unlike ||SᵀS||² - 2||SᵀT||² + ||TᵀT||²,
    this does not cancel as S goes to T. Its gradient by S is 4GS = 2 (D(SᵀM)ᵀ + M(SᵀD)ᵀ); from there to p_i it loses
    its part along p_i and is divided by ||p_i||. Autograd over the same steps takes half as much time again.
    """

    @staticmethod
    def forward(ctx, student: Tensor, teacher: Tensor, visible: Tensor) -> Tensor:
        inverse_norms = _inverse_norms(student, visible)
        difference, total = student * inverse_norms, teacher * _inverse_norms(teacher, visible)  # S and T at first
        difference -= total
        total *= 2
        total += difference
        grams = difference.mT @ difference, total.mT @ total, total.mT @ difference
        ctx.save_for_backward(difference, total, inverse_norms, *grams)
        of_difference, of_total, cross = grams
        return 0.5 * (of_difference * of_total + cross * cross.mT).sum(dim=(-2, -1))

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        difference, total, inverse_norms, of_difference, of_total, cross = ctx.saved_tensors
        unit, factor = (difference + total) / 2, grad[..., None, None]  # S, and so MᵀS = (MᵀM + MᵀD) / 2
        grad_unit = difference @ (factor * (of_total + cross)) + total @ (factor * (of_difference + cross.mT))
        along = (unit * grad_unit).sum(dim=-1, keepdim=True)
        return torch.addcmul(grad_unit, unit, along, value=-1).mul_(inverse_norms), None, None


def _inverse_norms(vectors: Tensor, visible: Tensor) -> Tensor:
    """1 / ||p_i|| (..., P, 1) of vectors (..., P, C), and 0 for those that do not count."""
    norms = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True).clamp(min=1e-12)
    return torch.where(visible[..., None], norms.reciprocal(), 0.0)


def _check_probs(student_probs: Tensor, teacher_probs: Tensor) -> None:
    if student_probs.dim() != 4 or student_probs.shape != teacher_probs.shape:
        got = f"got {tuple(student_probs.shape)} and {tuple(teacher_probs.shape)}"
        raise ValueError(f"student_probs and teacher_probs must have the same shape (B, C, H, W), {got}")


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()

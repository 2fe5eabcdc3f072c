"""Equation (1) with (3): L_x + λ_c L_c + λ_sc L_sc of a batch, from the predictions of student and teacher."""

from collections.abc import Mapping

import torch

from .config import SemiSupervisedConfig
from .losses import adjust_logits, consistency_loss, loss_of_all_pairs, loss_of_pairs, relaxed_cross_entropy


def training_loss(
    logits: torch.Tensor,
    inputs: Mapping[str, torch.Tensor],
    teacher_probs: torch.Tensor | None,
    class_shares: torch.Tensor | None,
    args: SemiSupervisedConfig,
    ramp: float,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """
    Returns the loss and its terms.

    Args:
        logits (`torch.Tensor`):
            The student's, (B, C, H, W): first of the labeled images, then, if there are `teacher_probs`, of the mixed.
        inputs (`Mapping[str, torch.Tensor]`): A batch of [`~scl_hf.data.batch.PairCollator`].
        teacher_probs (`torch.Tensor`, *optional*): (B, C, H, W) of the mixed images; without them the loss is L_x.
        class_shares (`torch.Tensor`, *optional*): (C,) of the labels, for `logit_adjustment`.
        args ([`SemiSupervisedConfig`]): Weights and options of the losses.
        ramp (`float`): Factor of λ_c and λ_sc.
    """
    labels = inputs["labels"]
    labeled_logits = logits[: len(labels)]
    if class_shares is not None:
        labeled_logits = adjust_logits(labeled_logits, class_shares, args.logit_adjustment)
    loss = relaxed_cross_entropy(labeled_logits, labels, window=args.relaxation_window)
    terms = {"loss_x": loss}
    if teacher_probs is not None:
        student_probs = logits[len(labels) :].softmax(dim=1)
        if args.consistency_weight > 0:
            terms["loss_c"] = consistency_loss(student_probs, teacher_probs, inputs["valid"])
            loss = loss + ramp * args.consistency_weight * terms["loss_c"]
        if args.structured_consistency_weight > 0:
            sampled = args.num_pairs is not None
            loss_of, compared = (loss_of_pairs, "pairs") if sampled else (loss_of_all_pairs, "box_pixels")
            terms["loss_sc"] = loss_of(student_probs, teacher_probs, inputs[compared])
            loss = loss + ramp * args.structured_consistency_weight * terms["loss_sc"]
    return loss, terms

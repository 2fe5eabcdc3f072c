"""The training step written down plainly, to compare with."""

import copy

import torch
from torch import nn
from transformers import Trainer

from scl_hf import SemiSupervisedConfig
from scl_hf.inference import upsample_logits
from scl_hf.losses import relaxed_cross_entropy

from .case import bytes_of, bytes_of_state, most_bytes

NUM_PAIRS = 9000  # the paper's


class PlainStep:
    """
    float32, contiguous layout, the labeled and the mixed images each through the student, `a` and `b` each through
    the teacher, pairs sampled box by box, the average taken parameter by parameter. L_x, the optimizer and its
    settings are the trainer's; data, its transfer and logs are left out. One labeled and one mixed image go through
    the student together: BatchNorm over the one value of DeepLabV3+'s image pooling needs two.
    """

    def __init__(self, model: nn.Module, args: SemiSupervisedConfig):
        self.args = args
        self.student = copy.deepcopy(model).to(args.device, memory_format=torch.contiguous_format).train()
        self.teacher = copy.deepcopy(self.student).eval().requires_grad_(False)
        optimizer_class, settings = Trainer.get_optimizer_cls_and_kwargs(args, self.student)
        settings |= {"weight_decay": args.weight_decay}
        self.optimizer = optimizer_class(self.student.parameters(), **settings)

    def __call__(self, batch: dict[str, torch.Tensor]) -> None:
        args, labels, box_ids, valid = self.args, batch["labels"], batch["box_ids"], batch["valid"]
        a, b = batch["unlabeled_a"], batch["unlabeled_b"]
        pasted = box_ids > 0
        mixed = torch.where(pasted[:, None], b, a)
        with torch.no_grad():
            probs_a, probs_b = (self.logits(self.teacher, images).softmax(dim=1) for images in (a, b))
            teacher_probs = torch.where(pasted[:, None], probs_b, probs_a)

        images = [batch["pixel_values"], mixed]
        if len(labels) == 1:
            logits, mixed_logits = self.logits(self.student, torch.cat(images)).chunk(2)
        else:
            logits, mixed_logits = (self.logits(self.student, part) for part in images)
        loss_x = relaxed_cross_entropy(logits, labels, args.relaxation_window)
        student_probs = mixed_logits.softmax(dim=1)
        distances = (student_probs - teacher_probs).square().sum(dim=1)
        loss_c = distances[valid].mean()
        loss_sc = self.structured_loss(student_probs, teacher_probs, box_ids.where(valid, 0))
        loss = loss_x + args.consistency_weight * loss_c + args.structured_consistency_weight * loss_sc
        loss.backward()

        self.optimizer.step()
        self.optimizer.zero_grad()
        with torch.no_grad():
            for averaged, now in zip(self.tensors(self.teacher), self.tensors(self.student)):
                averaged.mul_(args.ema_decay).add_(now, alpha=1 - args.ema_decay)

    def logits(self, model: nn.Module, images: torch.Tensor) -> torch.Tensor:
        return upsample_logits(model(pixel_values=images).logits, images.shape[-2:])

    def structured_loss(self, student: torch.Tensor, teacher: torch.Tensor, box_ids: torch.Tensor) -> torch.Tensor:
        total = 0.0
        for image in range(len(student)):
            for box in range(self.args.num_boxes - self.args.num_loss_boxes + 1, self.args.num_boxes + 1):
                pixels = (box_ids[image] == box).flatten().nonzero()[:, 0]
                if not len(pixels):
                    continue
                # With replacement, which is cheaper
                i, j = pixels[torch.randint(len(pixels), (2, NUM_PAIRS), device=pixels.device)]
                similarity = [
                    torch.cosine_similarity(probs[image].flatten(1)[:, i], probs[image].flatten(1)[:, j], dim=0)
                    for probs in (student, teacher)
                ]
                total = total + (similarity[0] - similarity[1]).square().mean()
        return total / len(student)

    def tensors(self, model: nn.Module) -> list[torch.Tensor]:
        return [tensor for tensor in model.state_dict().values() if tensor.is_floating_point()]

    def peak_bytes(self, batch: dict[str, torch.Tensor]) -> int:
        """Returns the peak of a step, with what lives between steps."""
        between_steps = bytes_of(self.student) + bytes_of(self.teacher) + bytes_of_state(self.optimizer)
        return between_steps + most_bytes(lambda: self(batch))

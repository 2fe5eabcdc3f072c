"""The classes in the teacher's pseudo-labels: a class that fades from them is lost to the student, too."""

import logging
from collections.abc import Callable, Mapping

import torch
from accelerate import Accelerator
from torch import Tensor

from ..errors import first_few
from ..progress import write
from .scoring import iou_name

logger = logging.getLogger(__name__)

FADED = 0.1  # of a class's share in the labels


class PseudoLabelShares:
    """Counts classes in the pseudo-labels since the last report, relative to their share in the labels: 1 if equal."""

    def __init__(self, label_shares: Callable[[], Tensor], id2label: Mapping[int, str]):
        self.label_shares, self.id2label = label_shares, id2label
        self._pixels: Tensor | None = None
        self._warned: set[str] = set()

    def add(self, classes: Tensor, valid: Tensor) -> None:
        """Counts the valid pixels of each class: classes (B, H, W), valid (B, H, W)."""
        num_classes = len(self.id2label)
        classes = classes.masked_fill(~valid, num_classes).flatten()  # a boolean mask would wait for the device
        pixels = torch.zeros(num_classes + 1, dtype=torch.int64, device=classes.device)
        pixels.scatter_add_(0, classes, torch.ones_like(classes))
        self._pixels = pixels[:-1] if self._pixels is None else self._pixels + pixels[:-1]

    def report(self, accelerator: Accelerator) -> dict[str, float]:
        """Returns `pseudo_label_share_{class}` over all processes, prints the lowest, warns of classes that fade."""
        if self._pixels is None:  # in no process: all of them take the same steps
            return {}
        pixels, self._pixels = accelerator.reduce(self._pixels).cpu().double(), None
        shares = (pixels / pixels.sum().clamp(min=1)).tolist()
        labels = self.label_shares().tolist()
        ratios = {self.id2label[i]: share / of for i, (share, of) in enumerate(zip(shares, labels)) if of > 0}
        faded = [name for name, ratio in ratios.items() if ratio < FADED and name not in self._warned]
        self._warned.update(faded)
        if accelerator.is_main_process:
            if faded:
                logger.warning(
                    f"The pseudo-labels hardly show {first_few(faded, 5)}: less than {100 * FADED:.0f} % of their "
                    "share in the labels. The unlabeled images may cost these classes; docs/unlabeled_images.md says "
                    "what helps."
                )
            lowest = (f"{name} {ratios[name]:.2f}" for name in sorted(ratios, key=ratios.get))
            write(f"\nshare in the pseudo-labels over share in the labels, lowest first: {first_few(lowest, 5)}")
        return {f"pseudo_label_share_{iou_name(name).removeprefix('iou_')}": ratio for name, ratio in ratios.items()}

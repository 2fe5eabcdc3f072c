"""Colors for classes that bring none."""

import colorsys
from collections.abc import Mapping

import numpy as np

from .sources import cityscapes

# The seven colors of Okabe and Ito, which color-blind people tell apart
OKABE_ITO = np.frombuffer(bytes.fromhex("e69f00 56b4e9 009e73 f0e442 0072b2 d55e00 cc79a7"), np.uint8).reshape(7, 3)
GOLDEN_RATIO = 0.618034  # steps of this share of the color circle keep hues apart
SATURATIONS, VALUES = (0.7, 0.45, 1.0), (1.0, 0.5, 0.75)


def palette_of(id2label: Mapping[int, str]) -> np.ndarray:
    """Returns (num_classes, 3) uint8, one color for each class: Cityscapes' own for its classes."""
    return cityscapes.PALETTE if cityscapes.is_cityscapes(id2label) else make_palette(len(id2label))


def make_palette(num_classes: int) -> np.ndarray:
    """
    Returns (num_classes, 3) uint8, distinct colors for up to 255 classes: the seven of Okabe and Ito, then hues a
    golden ratio apart, in three saturations and three brightnesses. None is close to black (ignored pixels) or white.
    """
    further = [
        colorsys.hsv_to_rgb((0.7 + i * GOLDEN_RATIO) % 1, SATURATIONS[i % 3], VALUES[i // 3 % 3])
        for i in range(num_classes - len(OKABE_ITO))
    ]
    return np.concatenate([OKABE_ITO, np.rint(255 * np.array(further).reshape(-1, 3)).astype(np.uint8)])[:num_classes]

"""Colors for classes that bring none."""

from collections.abc import Mapping

import numpy as np

from .sources import cityscapes

# The seven colors of Okabe and Ito, which color-blind people tell apart.
OKABE_ITO = np.frombuffer(bytes.fromhex("e69f00 56b4e9 009e73 f0e442 0072b2 d55e00 cc79a7"), np.uint8).reshape(7, 3)
# Linear RGB as it is seen without color blindness, with protanopia and with deuteranopia (Machado et al. 2009).
VISIONS = np.array(
    [
        [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    ]
)


def palette_of(id2label: Mapping[int, str]) -> np.ndarray:
    """(num_classes, 3) uint8, one color for each class: Cityscapes' own for its classes."""
    return cityscapes.PALETTE if cityscapes.is_cityscapes(id2label) else make_palette(len(id2label))


def make_palette(num_classes: int) -> np.ndarray:
    """
    (num_classes, 3) uint8: the seven of Okabe and Ito, then, one after another, the color that is farthest from all
    before it for whoever tells it least well, color-blind people included. Black is left to ignored pixels, white to
    the page.
    """
    levels = np.arange(0, 256, 17)
    candidates = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    seen = _seen_colors(candidates)
    readable = (seen[0, :, 0] > 30) & (seen[0, :, 0] < 96)  # neither nearly black nor nearly white
    candidates, seen = candidates[readable], seen[:, readable]
    taken = _seen_colors(np.array([*OKABE_ITO, (0, 0, 0), (255, 255, 255)]))
    distances = np.linalg.norm(seen[:, :, None] - taken[:, None], axis=-1).min(axis=(0, 2))
    colors = list(OKABE_ITO)
    while len(colors) < num_classes:
        farthest = distances.argmax()
        colors.append(candidates[farthest])
        distances = np.minimum(distances, np.linalg.norm(seen - seen[:, [farthest]], axis=-1).min(axis=0))
    return np.array(colors[:num_classes], np.uint8).reshape(num_classes, 3)


def _seen_colors(colors: np.ndarray) -> np.ndarray:
    """sRGB colors (N, 3) in CIELAB as each of `VISIONS` sees them: (3, N, 3)."""
    srgb = colors / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    linear = np.clip(linear @ VISIONS.transpose(0, 2, 1), 0, 1)
    # Relative to white, which is (1, 1, 1).
    to_xyz = np.array([[0.4339, 0.3762, 0.1899], [0.2127, 0.7152, 0.0722], [0.0178, 0.1095, 0.8730]])
    xyz = linear @ to_xyz.T
    x, y, z = np.moveaxis(np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116), -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)

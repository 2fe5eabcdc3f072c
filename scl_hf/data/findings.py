"""What `check` finds besides errors: masks among the images, tiny images, palettes that differ."""

import io

import numpy as np
from PIL import Image

TINY = 8  # the smallest side that a crop may have; a smaller image is a placeholder


def is_map_like(image: np.ndarray) -> bool:
    """Returns whether an image (H, W, 3) uint8 is a mask, few colors in flat areas; no photo, and no blank frame."""
    if min(image.shape[:2]) < TINY:
        return False
    if np.mean((image[::8, 1:] == image[::8, :-1]).all(axis=2)) < 0.75:  # nearly all photos leave here
        return False
    colors = image @ np.array([65536, 256, 1], np.int32)
    inner = colors[1:-1, 1:-1]
    around = (colors[:-2, 1:-1], colors[2:, 1:-1], colors[1:-1, :-2], colors[1:-1, 2:])
    equal = np.sum([inner == other for other in around], axis=0)
    edges = np.count_nonzero(equal < 4)
    # In the dark and in overexposed parts a photo is flat, too, but its noise leaves single pixels.
    is_clean = np.count_nonzero(equal == 0) <= 0.06 * edges
    return bool(0 < edges < 0.25 * inner.size and is_clean and len(np.unique(colors)) <= 256)


def palette_of_file(content: bytes) -> bytes | None:
    """Returns the palette of an image file, red, green and blue for each index; None where it has none."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            return bytes(image.getpalette("RGB")) if image.mode == "P" else None
    except Exception:  # a damaged file, which reading it names
        return None


def palettes_differ(palettes: set[bytes]) -> bool:
    """Returns whether palettes give an index different colors; a longer one may go on where another one ends."""
    longest = max(palettes, key=len, default=b"")
    return not all(longest.startswith(palette) for palette in palettes)

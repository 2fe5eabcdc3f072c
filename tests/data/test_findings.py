"""What `check` finds: masks among the images, tiny images, palettes that differ."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from scl_hf.data.findings import is_map_like, palette_of_file, palettes_differ

RNG = np.random.default_rng(0)
IDS = cv2.resize(RNG.integers(0, 5, (6, 8), np.uint8), (160, 120), interpolation=cv2.INTER_NEAREST)
cv2.circle(IDS, (60, 50), 30, 4, -1)
COLORS = RNG.integers(0, 256, (5, 3), np.uint8)[IDS]
NOISE = RNG.normal(0, 1, (120, 160, 1))
BLURRED = cv2.GaussianBlur(COLORS, (31, 31), 8)


@pytest.mark.parametrize(
    "image", [COLORS, IDS, IDS * 51, (IDS == 4) * np.uint8(255)], ids=["rgb", "ids", "gray", "01"]
)
def test_masks_are_found(image):
    assert is_map_like(image if image.ndim == 3 else image[..., None].repeat(3, axis=2))


@pytest.mark.parametrize(
    "image",
    [
        BLURRED + NOISE,  # a photo
        BLURRED,
        (IDS[..., None] == 4) * 200 + 20 + NOISE,  # drawn, seen by a camera
        4 + NOISE,  # a dark frame
        4 + 0.4 * NOISE,
        1000 * (BLURRED > 250) + 252 + 2 * NOISE,  # overexposed
        np.zeros((120, 160, 1)),  # blank
        np.ones((1, 1, 1)),
    ],
)
def test_photos_are_none(image):
    assert not is_map_like(np.broadcast_to(image.clip(0, 255).astype(np.uint8), (*image.shape[:2], 3)))


def test_palettes():
    def content(colors, kind="PNG", mode="P"):
        image, stream = Image.fromarray(np.uint8([[0, 1]])), io.BytesIO()
        if mode == "P":
            image.putpalette(colors)
        image.save(stream, kind)
        return stream.getvalue()

    black_red = palette_of_file(content([0, 0, 0, 255, 0, 0]))
    assert black_red.startswith(bytes([0, 0, 0, 255, 0, 0]))
    longer = palette_of_file(content([0, 0, 0, 255, 0, 0, 9, 9, 9], "TIFF"))
    other = palette_of_file(content([255, 0, 0, 0, 0, 0]))
    assert palettes_differ({black_red, other}) and not palettes_differ({black_red}) and not palettes_differ(set())
    assert not palettes_differ({bytes(6), bytes(9)}) and longer[:6] == black_red[:6]
    assert palette_of_file(content(None, mode="L")) is None and palette_of_file(b"damaged") is None

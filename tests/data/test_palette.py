import numpy as np
import pytest

from scl_hf.data.palette import make_palette

# What people with protanopia and deuteranopia see, in linear RGB (Viénot et al. 1999).
PROTANOPIA = [[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]]
DEUTERANOPIA = [[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]]


def least_distance(colors, vision):
    """Of any two colors, in CIELAB."""
    srgb = colors / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4) @ np.transpose(vision)
    to_xyz = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    xyz = linear.clip(0, 1) @ np.transpose(to_xyz) / [0.95047, 1, 1.08883]
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116).T
    lab = np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)
    distances = np.linalg.norm(lab[:, None] - lab, axis=-1)
    return distances[np.triu_indices(len(lab), 1)].min()


@pytest.mark.parametrize("vision", [np.eye(3), PROTANOPIA, DEUTERANOPIA])
def test_color_blind_people_tell_the_palette_apart(vision):
    # A distance of 2.3 is just noticeable. The seven colors of Okabe and Ito keep one of 17.
    for num_classes, least in [(7, 17), (11, 17), (19, 17), (65, 7)]:
        colors = make_palette(num_classes)
        assert least_distance(colors, vision) > least
        assert least_distance(np.concatenate([colors, [[0, 0, 0], [255, 255, 255]]]), vision) > min(least, 10)


def test_palette_has_distinct_colors():
    colors = make_palette(200)
    assert colors.dtype == np.uint8 and len(np.unique(colors, axis=0)) == 200 and (colors.max(axis=1) > 80).all()
    assert make_palette(2).shape == (2, 3)

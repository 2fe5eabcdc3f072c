import numpy as np

from scl_hf.data.palette import OKABE_ITO, make_palette


def test_palette_has_distinct_colors_neither_black_nor_white():
    colors = make_palette(255)
    assert colors.dtype == np.uint8 and len(np.unique(colors, axis=0)) == 255
    assert (colors.max(axis=1) > 80).all() and (colors.min(axis=1) < 180).all()
    assert make_palette(2).shape == (2, 3)


def test_palette_begins_with_the_colors_of_okabe_and_ito_and_keeps_them_as_classes_join():
    np.testing.assert_array_equal(make_palette(7), OKABE_ITO)
    np.testing.assert_array_equal(make_palette(65)[:20], make_palette(20))


def test_colors_are_told_apart():
    def lab(colors):
        srgb = colors / 255
        linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
        to_xyz = [[0.4125, 0.3576, 0.1804], [0.2127, 0.7152, 0.0722], [0.0193, 0.1192, 0.9503]]
        x, y, z = np.cbrt(linear @ np.transpose(to_xyz) / [0.9505, 1, 1.0888]).T
        return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)

    # In CIELAB a distance of 2.3 is just noticeable.
    for num_classes, least in ((12, 17), (19, 17), (65, 7)):
        colors = lab(np.concatenate([make_palette(num_classes), [[0, 0, 0], [255, 255, 255]]]))
        distances = np.linalg.norm(colors[:, None] - colors, axis=-1)
        assert distances[np.triu_indices(len(colors), 1)].min() > least

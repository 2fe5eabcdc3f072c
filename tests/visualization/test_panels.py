import numpy as np
import pytest
import torch
from PIL import ImageFont

from scl_hf.data.normalization import Normalization
from scl_hf.visualization.panels import _shorten, colorize, comparison_panel, error_map, overlay, panel, training_panel

PALETTE = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)


def test_colorize():
    label = np.array([[0, 1], [2, 255]])
    expected = [[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [0, 0, 0]]]
    for dtype in (np.uint8, np.int64):
        colors = colorize(label.astype(dtype), PALETTE)
        assert colors.dtype == np.uint8
        np.testing.assert_array_equal(colors, expected)
    for unknown in (3, -1, 300):
        with pytest.raises(ValueError, match=rf"\[{unknown}\] have no color in a palette of 3"):
            colorize(np.array([[0, unknown]]), PALETTE)


def test_overlay_keeps_the_image_where_labels_are_ignored():
    image = np.full((1, 3, 3), 100, np.uint8)
    mixed = overlay(image, np.array([[0, 1, 255]], np.uint8), PALETTE, alpha=0.5)
    assert mixed.dtype == np.uint8
    np.testing.assert_array_equal(mixed, [[[178, 50, 50], [50, 178, 50], [100, 100, 100]]])


def test_error_map():
    image = np.array([[[0, 0, 0], [255, 255, 255], [9, 9, 9], [9, 9, 9]]], np.uint8)
    errors = error_map(np.array([[0, 1, 2, 1]]), np.array([[0, 1, 1, 255]]), image)
    assert errors.dtype == np.uint8 and errors.shape == (1, 4, 3)
    assert (np.ptp(errors[0, :2], axis=-1) == 0).all() and errors[0, :2].min() >= 160  # right: pale and gray
    np.testing.assert_array_equal(errors[0, 2:], [[213, 94, 0], [0, 0, 0]])
    assert errors[0, 0, 0] < errors[0, 1, 0]  # the image shows through


def colors_of(image):
    return {color for _, color in image.getcolors(image.width * image.height)}


def test_panel_enlarges_small_images_and_shrinks_large_ones():
    small = np.zeros((96, 192, 3), np.uint8)
    small[:, :, 0] = np.arange(192)  # a color for each column
    canvas = panel([[("image", small), ("label", small)], [("image", small)]])
    assert canvas.width > 2 * 2 * 192 and canvas.height > 2 * 2 * 96
    row = np.asarray(canvas)[canvas.height // 4]
    start = np.flatnonzero((row != 255).any(1))[0]
    np.testing.assert_array_equal(row[start : start + 8, 0], [0, 0, 1, 1, 2, 2, 3, 3])  # twice, and sharp
    assert panel([[("image", np.zeros((1024, 2048, 3), np.uint8))]]).width < 800


def test_panel_shows_captions_and_legend():
    image = np.full((96, 192, 3), 200, np.uint8)
    plain, captioned = panel([[("", image)]]), panel([[("label", image)]])
    assert captioned.height > plain.height
    assert colors_of(plain) == {(255, 255, 255), (200, 200, 200)}
    assert len(colors_of(captioned)) > 2
    # a caption wider than its image is cut, it does not run into the next
    assert panel([[("a very long caption " * 20, image)]]).size == captioned.size

    legend = [(f"class {index}", PALETTE[index]) for index in range(3)]
    with_legend = panel([[("", image)]], legend)
    assert with_legend.width == plain.width and with_legend.height > plain.height
    assert {(255, 0, 0), (0, 255, 0), (0, 0, 255)} <= colors_of(with_legend)
    # more names than fit into one line continue in the next
    assert panel([[("", image)]], legend * 10).height > with_legend.height
    assert panel([[("", image)]], [("n" * 300, (1, 2, 3))]).width == plain.width


def test_panel_of_many_columns_stays_readable():
    images = [("", np.zeros((1024, 2048, 3), np.uint8))] * 7
    assert panel([images[:3]]).width > 2000 and panel([images]).width < 3000


def test_captions_are_cut_in_the_middle():
    font = ImageFont.load_default(16)
    short = _shorten("runs/supervised/checkpoint-400", 150, font)
    assert short.startswith("runs/") and short.endswith("-400") and "…" in short and font.getlength(short) <= 150
    assert _shorten("image", 150, font) == "image"
    assert _shorten("image", 1, font) == "…"


def test_comparison_panel(monkeypatch):
    shown = []
    monkeypatch.setattr("scl_hf.visualization.panels.panel", lambda *args: shown.append(args) or panel(*args))
    image, label = np.full((30, 60, 3), 90, np.uint8), np.zeros((30, 60), np.uint8)
    label[:, 30:], label[:3] = 1, 255
    guesses = {"a": [label, np.where(label == 255, 0, label)], "b": [np.zeros_like(label)] * 2}
    id2label = {0: "road", 1: "sky", 2: "car"}
    canvas = comparison_panel([image, image], [label, label], guesses, id2label, PALETTE)
    assert {(213, 94, 0), (255, 0, 0), (0, 255, 0)} <= colors_of(canvas)
    rows, legend = shown[0]
    assert len(rows) == 4
    assert [caption for caption, _ in rows[2]] == ["image", "a", "b", "ground truth"]
    assert [caption for caption, _ in rows[3]] == ["", "0.0 % wrong (orange)", "50.0 % wrong (orange)", ""]
    np.testing.assert_array_equal(rows[2][3][1], colorize(label, PALETTE))
    np.testing.assert_array_equal(rows[3][2][1], error_map(guesses["b"][1], label, image))
    assert [name for name, _ in legend] == ["road", "sky", "ignored"]  # no car occurs
    with pytest.raises(ValueError, match="argument 4 is shorter"):
        comparison_panel([image] * 2, [label] * 2, guesses | {"b": [label]}, id2label, PALETTE)


def test_training_panel(monkeypatch):
    shown = []
    monkeypatch.setattr("scl_hf.visualization.panels.panel", lambda *args, **kwargs: shown.append((args, kwargs)))
    normalization = Normalization((0.5, 0.4, 0.3), (0.2, 0.3, 0.4), blue_first=True)
    image = np.random.default_rng(0).integers(0, 256, (4, 6, 3)).astype(np.uint8)
    label, guess = torch.zeros(4, 6, dtype=torch.int64), torch.ones(4, 6, dtype=torch.int64)
    label[0] = 255
    valid = torch.ones(4, 6, dtype=torch.bool)
    valid[1] = False
    pair = {"image": normalization.of(image), "pseudo_label": guess, "student": label.clamp(max=2), "valid": valid}
    id2label = {0: "road", 1: "sky", 2: "car"}
    for last_pair in (None, pair):
        training_panel(
            [(normalization.of(image), label, guess)], last_pair, normalization, PALETTE, id2label, "EMA model"
        )
    (((first,), _), ((rows,), legend)) = shown[0], shown[1]
    assert len(first) == 1 and len(rows) == 2
    assert [caption for caption, _ in rows[0]] == ["image", "label", "prediction (EMA model)"]
    assert [caption for caption, _ in rows[1]] == [
        "unlabeled, CutMix",
        "pseudo-label (teacher)",
        "prediction (student)",
    ]
    np.testing.assert_array_equal(rows[0][0][1], image)
    np.testing.assert_array_equal(rows[0][1][1], colorize(label.numpy(), PALETTE))
    np.testing.assert_array_equal(rows[1][1][1], colorize(np.where(valid, 1, 255), PALETTE))
    assert (rows[1][2][1][1] == 0).all() and [name for name, _ in legend["legend"]] == ["road", "sky", "car"]

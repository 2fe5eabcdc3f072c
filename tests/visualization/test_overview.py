import numpy as np
import pytest

from scl_hf.data.palette import make_palette
from scl_hf.visualization.overview import _draw, plot_overview

IMAGE = np.full((8, 16, 3), 200, np.uint8)
LABEL = np.repeat(np.uint8([0, 1, 255, 255]), 4)[None].repeat(8, 0)


def shares(**values):
    """Equal shares of pixels and labels, train ids as `_0`, `_1`, …."""
    both = np.zeros((2, 256))
    for name, share in values.items():
        both[:, int(name[1:])] = share
    return both


def test_overview(tmp_path, figures):
    samples = [(f"train/{'long_name_' * 9}{number}", IMAGE, LABEL) for number in range(4)]
    names = {0: "a$b$", 1: "_road", 2: "car"}
    totals = shares(_0=0.25, _1=0.00001, _255=0.5)
    path = plot_overview(samples, [("b", IMAGE, None)], names, make_palette(3), totals, tmp_path / "runs/check.png")
    assert path.stat().st_size > 1000
    labeled, unlabeled, bars = figures[0].subfigs
    assert [sum(bool(axes.images) for axes in part.axes) for part in (labeled, unlabeled, bars)] == [4, 1, 0]
    assert len(labeled.axes[0].get_title(loc="left")) <= 50
    left, right = bars.axes
    assert [text.get_text() for text in left.get_yticklabels()] == ["a$b$", "_road", "car", "(ignored)"]
    assert [text.get_text().strip() for text in left.texts] == ["25", "< 0.01", "none: no label shows it", "50"]
    assert [bar.get_width() for bar in right.patches] == pytest.approx([25, 0.001, 0, 50])


def test_of_many_classes_the_commonest_are_shown_in_order(tmp_path, figures):
    names = {number: f"class {number}" for number in range(150)}
    totals = shares(**{f"_{number}": (number % 5 == 0) / 30 for number in range(150)})
    plot_overview([("a", IMAGE, LABEL)], [], names, make_palette(150), totals, tmp_path / "a.png")
    labels = [text.get_text() for text in figures[0].subfigs[1].axes[0].get_yticklabels()]
    assert labels == [f"class {number}" for number in range(0, 150, 5)]
    assert "and 120 more classes" in figures[0].subfigs[1].get_supxlabel()


def test_unlabeled_images_alone(tmp_path, figures):
    plot_overview([], [("b", IMAGE, None)] * 6, {0: "a", 1: "b"}, make_palette(2), shares(), tmp_path / "a.png")
    assert len(figures[0].subfigs) == 1


def test_labels_lie_over_images():
    palette = make_palette(2)
    drawn = _draw(IMAGE, LABEL, palette)
    assert drawn.shape == (240, 480, 3)  # each pixel as a square
    assert (drawn[100, 50] == np.rint(0.6 * IMAGE[0, 0] + 0.4 * palette[0])).all()
    assert (drawn[100, 120] == palette[1]).all()  # a border
    assert {*np.unique(drawn[:, 250:])} == {0, 100}  # ignored: hatched
    assert (_draw(IMAGE, None, palette) == IMAGE[0, 0]).all()

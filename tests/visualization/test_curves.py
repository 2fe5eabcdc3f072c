"""Losses and mean IoU as curves."""

import numpy as np
import pytest
from PIL import Image

from scl_hf.errors import InputError
from scl_hf.visualization.curves import plot_curves

BLUE, VERMILION = (0, 114, 178), (213, 94, 0)


def make_log(start=20, last=60, student=True):
    """As the trainer logs: unlabeled images join after step `start`."""
    log = []
    for step in range(10, last + 1, 10):
        log.append({"step": step, "loss": 10 / step, "loss_x": 9 / step, "learning_rate": 0.1})
        log[-1] |= {"loss_c": 0.1, "loss_sc": 0.2} if step > start else {}
        if step % 20 == 0:
            log.append({"step": step, "eval_mean_iou": step / 100, "eval_runtime": 1.0})
            log[-1] |= {"eval_student_mean_iou": step / 120} if student else {}
    return log + [{"step": last, "train_loss": 0.3}]


def shows(path, color):
    return (np.asarray(Image.open(path).convert("RGB")) == color).all(axis=-1).any()


def named_axes(figure):
    return {axes.get_title(loc="left").split(",")[0]: axes for axes in figure.axes}


def test_curves_show_the_log(tmp_path, figures):
    path = plot_curves({"demo": make_log()}, tmp_path / "new" / "curves.png")
    assert list(path.parent.iterdir()) == [path] and shows(path, BLUE)
    (figure,) = figures
    axes = named_axes(figure)
    assert list(axes) == ["loss", "$L_x$", "mean IoU (%)", "$L_c$", "$L_{sc}$"]
    line, join = axes["$L_c$"].lines
    np.testing.assert_array_equal(line.get_xydata(), [[30, 0.1], [40, 0.1], [50, 0.1], [60, 0.1]])
    assert join.get_xdata() == [20, 20]  # the last step without unlabeled images
    ema, student = axes["mean IoU (%)"].lines[:2]
    np.testing.assert_allclose(ema.get_ydata(), [20, 40, 60])
    np.testing.assert_allclose(student.get_ydata(), [100 / 6, 200 / 6, 50])
    assert ema.get_linestyle() == "-" and student.get_linestyle() == "--"
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["demo, EMA model: 60.0 %", "demo, student: 50.0 %", "unlabeled images join"]


def test_curves_of_several_runs(tmp_path, figures):
    long = [{"step": step, "loss": 50.0} for step in range(200)]  # as high as no other, many values, never evaluated
    runs = {"full $1": make_log(student=False), "supervised": make_log(start=99, student=False), "long": long}
    path = plot_curves(runs, tmp_path / "curves.png")
    assert shows(path, BLUE) and shows(path, VERMILION)
    axes = named_axes(figures[0])
    assert [text.get_text() for text in figures[0].legends[0].get_texts()] == [
        "full $1: 60.0 %",
        "supervised: 60.0 %",
        "long",
        "unlabeled images join",
    ]
    assert axes["loss"].get_ylim()[0] == 0 and axes["loss"].get_ylim()[1] > 50
    assert len({axis.get_xlim() for axis in axes.values()}) == 1
    pale, mean = axes["loss"].lines[3:5]
    assert len(pale.get_xdata()) == 200 and pale.get_alpha() < 1
    np.testing.assert_allclose(mean.get_xydata()[0], [1.5, 50])  # of the first four


@pytest.mark.parametrize("keys", [("loss",), ("eval_mean_iou",)])
def test_curves_of_a_log_that_lacks_the_rest(tmp_path, figures, keys):
    log = [{"step": step, **dict.fromkeys(keys, 0.5 + 0.02 * step)} for step in (1, 2)]
    plot_curves({"run": log}, tmp_path / "curves.svg")
    (axes,) = figures[0].axes
    assert keys == ("loss",) or all(tick == round(tick) for tick in axes.get_yticks())  # in whole percent


def test_files_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file").write_text("")
    for path, message in [
        ("curves.xyz", "ends with .png"),
        ("curves", "ends with .png"),
        ("folder.png", r"cannot be written \(Is a directory\)"),
        ("file/curves.png", "cannot be written"),
    ]:
        with pytest.raises(InputError, match=message):
            plot_curves({"run": make_log()}, tmp_path / path)
    old = tmp_path / "curves.png"
    old.write_bytes(b"old")
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda self, path, **kwargs: path.write_bytes(b"half") / 0)
    with pytest.raises(ZeroDivisionError):
        plot_curves({"run": make_log()}, old)
    assert old.read_bytes() == b"old" and not list(tmp_path.glob(".*"))


def test_a_log_with_nothing_to_draw(tmp_path):
    with pytest.raises(InputError, match="demo: has logged neither a loss nor a mean IoU"):
        plot_curves({"demo": [{"step": 1, "train_runtime": 2.0}]}, tmp_path / "curves.png")

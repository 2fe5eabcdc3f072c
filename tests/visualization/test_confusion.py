import numpy as np

from scl_hf.visualization.confusion import plot_confusion_matrix


def test_confusion_matrix(tmp_path, figures):
    matrix = np.array([[75, 25, 0], [0, 0, 0], [1, 0, 999]])
    path = plot_confusion_matrix(matrix, {0: "a$b$", 1: "_bus", 2: "car"}, tmp_path / "matrix.png")
    assert list(tmp_path.iterdir()) == [path]
    axes = figures[0].axes[0]
    np.testing.assert_allclose(axes.images[0].get_array(), [[75, 25, 0], [0, 0, 0], [0.1, 0, 99.9]])
    assert [text.get_text() for text in axes.get_yticklabels()] == ["a$b$", "_bus (absent)", "car"]
    assert [text.get_text() for text in axes.texts] == ["75", "25", "100"]
    plot_confusion_matrix(np.eye(65), {i: f"class {i}" for i in range(65)}, path)
    assert not figures[-1].axes[0].texts and len(figures[-1].axes[0].get_xticklabels()) == 65

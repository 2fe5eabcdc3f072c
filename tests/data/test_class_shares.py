import numpy as np
import pytest
from test_class_index import label_rows, stripes

from scl_hf.data import class_shares
from scl_hf.data.class_shares import class_shares as shares_of


def test_pixels_of_each_class_without_the_ignored_ones(tmp_path):
    rows = label_rows(tmp_path / "labels", [stripes(0, 0, 1, 255), stripes(0, 3, 255, 255)])
    np.testing.assert_allclose(shares_of(rows), [3 / 5, 1 / 5, 0, 1 / 5])
    rows = label_rows(tmp_path / "void", [stripes(255, 255)])
    assert shares_of(rows).tolist() == [0, 0, 0, 0]


def test_of_many_labels_some_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(class_shares, "MOST_LABELS", 2)
    rows = label_rows(tmp_path / "labels", [stripes(0), stripes(1), stripes(1), stripes(2)])
    assert shares_of(rows).tolist() == [0.5, 0, 0.5, 0]


def test_a_label_that_cannot_be_read_is_left_out(tmp_path):
    rows = label_rows(tmp_path / "labels", [stripes(0), stripes(1)])
    (tmp_path / "labels" / "1.png").write_bytes(b"no picture")
    assert shares_of(rows)[0] == pytest.approx(1)

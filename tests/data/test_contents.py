import shutil

import datasets
import numpy as np
import pytest
from PIL import Image

from scl_hf.data.contents import labels_of, sizes_of
from scl_hf.data.labels import LabelImage


def labels(*paths):
    labels = LabelImage.of({0: "a", 1: "b"})
    return datasets.Dataset.from_dict({"label": [str(path) for path in paths]}).cast_column("label", labels)


@pytest.fixture
def files(tmp_path):
    for i in range(2):
        Image.fromarray(np.full((4, 4), i, np.uint8)).save(tmp_path / f"{i}.png")
    return [tmp_path / "0.png", tmp_path / "1.png"]


def test_neither_place_nor_time_nor_whether_a_dataset_holds_them_matters(files, tmp_path):
    (tmp_path / "copy").mkdir()
    copies = [shutil.copyfile(file, tmp_path / "copy" / file.name) for file in files]
    stored = [{"bytes": file.read_bytes(), "path": None} for file in files]
    table = datasets.Dataset.from_dict({"label": stored}).cast_column("label", labels(*files).features["label"])
    assert labels_of(labels(*files)) == labels_of(labels(*copies)) == labels_of(table)
    assert sizes_of(labels(*files), "label") == sizes_of(labels(*copies), "label") == sizes_of(table, "label")
    chosen = table.select([1])
    assert labels_of(chosen) == labels_of(labels(files[1])) and labels_of(chosen).startswith("1 files ")


def test_content_and_order_matter(files):
    before = labels_of(labels(*files)), sizes_of(labels(*files), "label")
    assert labels_of(labels(*files[::-1])) != before[0]
    files[0].write_bytes(files[0].read_bytes()[::-1])  # of the same size
    assert labels_of(labels(*files)) != before[0] and sizes_of(labels(*files), "label") == before[1]
    files[0].write_bytes(files[0].read_bytes() + b" ")
    assert sizes_of(labels(*files), "label") != before[1]


def test_a_folder_of_masks_is_one_label(files, tmp_path):
    before = labels_of(labels(tmp_path))
    Image.fromarray(np.full((4, 4), 1, np.uint8)).save(tmp_path / "2.png")
    assert labels_of(labels(tmp_path)) != before


def test_a_label_that_cannot_be_read_is_left_to_skip_corrupt(files, tmp_path):
    assert labels_of(labels(tmp_path / "gone.png")).startswith("1 files")

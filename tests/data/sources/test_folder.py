"""A folder of your own: what it opens, and what is wrong with it."""

import json

import pytest
from PIL import Image

from scl_hf.data import DataArguments
from scl_hf.data.sources.folder import open_source
from scl_hf.errors import InputError


def put(path, size=(6, 4)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size).save(path)


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "data"
    for name in ("a", "b"):
        put(root / "train/images" / f"{name}.jpg")
        put(root / "train/labels" / f"{name}.png")
        put(root / "more/images" / f"{name}.jpg")
        put(root / "val/images" / f"{name}.jpg")
    (root / "train/images/Thumbs.db").write_text("not an image")
    put(root / "train/images/._a.jpg")
    (root / "id2label.json").write_text(json.dumps({"0": "sky", "1": "road"}))
    return root


def open_split(root, split, require_labels):
    return open_source(DataArguments(dataset="folder", data_dir=str(root))).open(split, require_labels)


def test_splits_with_and_without_labels(folder):
    wanted = (("train", True), ("more", False), ("train", False))
    train, more, images = (open_split(folder, split, require_labels) for split, require_labels in wanted)
    assert train["id"][:] == more["id"][:] == images["id"][:] == ["a", "b"]
    assert train[1]["label"] == {"bytes": None, "path": str(folder / "train/labels/b.png")}
    assert more["label"][:] == [None, None] and images["label"][:] == train["label"][:]
    assert open_source(DataArguments(dataset="folder", data_dir=str(folder))).labeled_splits == ["train"]


def test_labels_without_an_image_are_counted(folder):
    for path in (folder / "train/images").glob("*.jpg"):
        path.unlink()
    message = (
        "labels/a.png: its image is missing, looked for .*train/images/a.* .2 labels of split train have no image"
    )
    with pytest.raises(InputError, match=message):
        open_split(folder, "train", require_labels=True)

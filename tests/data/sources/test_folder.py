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


def break_folder(root, what):
    if what == "label":
        (root / "train/labels/b.png").unlink()
    elif what == "labels":
        (root / "train/labels").rename(root / "train/masks_old")
    elif what == "empty":
        (root / "train/labels/b.png").write_bytes(b"")
    elif what == "twin":
        put(root / "train/images/b.png")
    elif what == "split":
        (root / "train").rename(root / "first")
    elif what == "no images":
        for path in (root / "train/images").glob("*.jpg"):
            path.unlink()


@pytest.mark.parametrize(
    "what, message",
    [
        ("label", "b.jpg: its label is missing .1 of the 2 images of split train have no label.; add it, or take"),
        (
            "labels",
            "train/images: none of the 2 images of split train has a label; write train_images: .*train/masks_old",
        ),
        ("empty", "1 file is empty.*b.png"),
        ("twin", "b.png: a second image named b"),
        (
            "split",
            "data: no split train .looked for train/images., only first, more, validation; correct train_splits",
        ),
        (
            "no images",
            "labels/a.png: its image is missing, looked for .*train/images/a.* .2 labels of split train have",
        ),
    ],
)
def test_bad_folder_is_named(folder, what, message):
    break_folder(folder, what)
    with pytest.raises(InputError, match=message) as error:
        open_split(folder, "train", require_labels=True)
    assert "\n" not in str(error.value)

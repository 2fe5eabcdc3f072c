"""Examples on disk, and folders of images without labels."""

import datasets
import pytest
from PIL import Image

from scl_hf.data.images import read_image
from scl_hf.data.sources.base import Example, open_examples, open_images
from scl_hf.errors import InputError


def put(path, size=(6, 4)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size).save(path)


def example(root, name, kinds=("image", "labels")):
    """An example of which only these kinds exist."""
    paths = {"image": str(root / f"{name}.jpg"), "labels": str(root / f"{name}.png")}
    for kind in kinds:
        put(root / paths[kind])
    return Example("train", name, paths["image"], {"labels": paths["labels"]}, frozenset(kinds), "ulm")


def test_examples_become_paths(tmp_path):
    examples = [example(tmp_path, "a"), example(tmp_path, "b", ["image"]), example(tmp_path, "c", ["labels"])]
    dataset = open_examples(examples, "labels", "train", require_labels=False, remedy="")
    image, text = datasets.Image(decode=False), datasets.Value("string")
    assert dataset.features == {"image": image, "label": image, "id": text, "city": text}
    assert dataset[0] == {
        "image": {"path": str(tmp_path / "a.jpg"), "bytes": None},
        "label": {"path": str(tmp_path / "a.png"), "bytes": None},
        "id": "a",
        "city": "ulm",
    }
    assert dataset["id"][:] == ["a", "b"] and dataset["label"][1] is None
    assert open_examples(examples, None, "train", require_labels=False, remedy="")["label"][:] == [None, None]
    with pytest.raises(InputError, match=r"b.jpg: its label is missing, looked for .*b.png \(1 of the 2 .*; copy it"):
        open_examples(examples, "labels", "train", require_labels=True, remedy="copy it")


def test_a_file_that_is_missing_is_named(tmp_path):
    found = example(tmp_path, "a")
    (tmp_path / "a.png").unlink()
    with pytest.raises(InputError, match=r"1 file is empty or missing: .*/a.png \(missing\)"):
        open_examples([found], "labels", "train", require_labels=True, remedy="")


def test_images_in_folders_of_folders(tmp_path):
    for name in ("b.png", "a/c.JPG", "a/a.webp", ".cache/d.png", "a/._c.jpg"):
        put(tmp_path / "images" / name)
    (tmp_path / "images/notes.txt").write_text("x")
    assert open_images(tmp_path / "images")["id"][:] == ["a/a.webp", "a/c.JPG", "b.png"]


def test_images_that_are_not_there(tmp_path):
    with pytest.raises(InputError, match="unlabeled_dirs: there is no folder .*nowhere; correct"):
        open_images(tmp_path / "nowhere")
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="unlabeled_dirs: .*none holds no images"):
        open_images(tmp_path / "none")


def test_linked_folders_are_followed_once(tmp_path):
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "photos/a.jpg")
    (tmp_path / "all").mkdir()
    (tmp_path / "all/link").symlink_to(tmp_path / "photos")
    (tmp_path / "photos/back").symlink_to(tmp_path / "all")
    assert open_images(tmp_path / "all")["id"][:] == ["link/a.jpg"]


def test_images_are_found_from_another_working_directory(tmp_path, monkeypatch):
    put(tmp_path / "images/a.png")
    monkeypatch.chdir(tmp_path)
    dataset = open_images("images")
    monkeypatch.chdir(tmp_path.parent)
    assert read_image(dataset[0]["image"]).shape == (4, 6, 3)

"""The report on a dataset: what it counts, and every kind of damage by its file."""

import json
import os
import shutil
import signal

import numpy as np
import pytest
from PIL import Image

from scl_hf.data import check
from scl_hf.data.check import check_data, find_layout
from scl_hf.data.sources import cityscapes, mapillary
from scl_hf.errors import InputError

CITYSCAPES = {"leftImg8bit": "leftImg8bit", "gtFine": "gtFine_labelIds", "gtCoarse": "gtCoarse_labelIds"}


def put(path, value=7, size=(8, 4), mode="L"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, value).convert(mode).save(path)


def put_frame(root, split, frame, kinds=("leftImg8bit", "gtFine")):
    for kind in kinds:
        mode = "RGB" if kind == "leftImg8bit" else "L"
        put(root / kind / split / frame.split("_")[0] / f"{frame}_{CITYSCAPES[kind]}.png", mode=mode)


def test_official_numbers_add_up():
    for split in ("train", "val", "test"):
        assert sum(cityscapes.CITIES[split].values()) == cityscapes.NUM_IMAGES[split]
    assert sum(map(len, cityscapes.CITIES.values())) == 50


def test_sound_dataset(toy_dataset):
    report = check_data(toy_dataset, num_proc=1)
    assert report.sound and not report.official and "not the official cities" in str(report)
    assert {split: counts["images"] for (split, city), counts in report.counts.items() if city is None} == {
        "train": 5,
        "val": 3,
        "test": 1,
        "train_extra": 6,
    }
    assert report.counts["train", None]["gtFine"] == report.counts["train", None]["gtCoarse"] == 5
    assert str(report).endswith("Complete and sound: 38 files opened.")


def test_every_damage_is_named(toy_dataset, tmp_path):
    root = tmp_path / "hurt"
    shutil.copytree(toy_dataset, root)
    gone, cut, small, odd, *_ = sorted(root.glob("gtFine/train/*/*_labelIds.png"))
    gone.unlink()
    cut.write_bytes(cut.read_bytes()[:80])
    put(small, size=(40, 20))
    label = Image.open(odd)
    label.putpixel((0, 0), 77)
    label.save(odd)
    lost, empty, *_ = sorted(root.glob("leftImg8bit/train_extra/*/*.png"))
    lost.unlink()
    empty.write_bytes(b"")
    report = check_data(root, num_proc=2)
    text = str(report)
    assert not report.sound and text.endswith("NOT sound: 2 missing, 4 broken; 36 files found.")
    assert len(report.missing["train"]) == 1 and f"looked for {gone}" in report.missing["train"][0]
    assert len(report.missing["train_extra"]) == 1 and f"looked for {lost}" in report.missing["train_extra"][0]
    for path, reason in ((cut, "cannot be read"), (small, "40×20"), (odd, "77"), (empty, "not an image")):
        assert any(line.startswith(f"{path}: ") and reason in line for line in report.broken), path
    assert report.counts["train", None]["gtFine"] == 4 and report.counts["train", None]["problems"] == 4
    assert report.counts["train", gone.parent.name]["problems"] >= 1


def test_a_killed_process_is_one_line(toy_dataset, monkeypatch):
    monkeypatch.setattr(check, "read_image", lambda path: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(InputError, match="num_proc: a process that reads images was killed") as error:
        check_data(toy_dataset, num_proc=2)
    assert "\n" not in str(error.value)


def test_official_cities_are_counted_against_the_official_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(cityscapes, "NUM_IMAGES", {"train": 3, "val": 1, "test": 1, "train_extra": 2})
    monkeypatch.setattr(cityscapes, "CITIES", {"train": {"ulm": 2, "jena": 1}, "val": {"lindau": 1}})
    for frame in ("ulm_000000_000019", "ulm_000001_000019", "jena_000000_000019"):
        put_frame(tmp_path, "train", frame)
    put_frame(tmp_path, "val", "lindau_000000_000019")
    put_frame(tmp_path, "test", "bonn_000000_000019", kinds=["leftImg8bit"])  # its labels are dummies
    assert check_data(tmp_path, num_proc=1).sound  # without train_extra, which is a download of its own
    put_frame(tmp_path, "train_extra", "troisdorf_000000_000073", kinds=["leftImg8bit", "gtCoarse"])
    (tmp_path / "leftImg8bit/train/ulm/ulm_000001_000019_leftImg8bit.png").unlink()
    report = check_data(tmp_path, num_proc=1)
    assert report.differs == [
        "train: 2 images, officially 3",
        "train_extra: 1 images, officially 2",
        "train/ulm: 1 images, officially 2",
    ]
    assert "troisdorf_000000_000073 of train_extra is a gray field" in report.notes[-1]
    assert "  ulm" in str(report) and len(report.missing["train"]) == 1


def test_long_lists_of_missing_files_are_cut(tmp_path):
    for index in range(25):
        put_frame(tmp_path, "train", f"city_{index:06d}_000019", kinds=["leftImg8bit"])
    report = check_data(tmp_path, num_proc=1)
    assert len(report.missing["train"]) == 25 and "… and 5 more of this split" in str(report)
    assert str(report).count("its label is missing") == 20


def test_folder_of_ones_own(tmp_path):
    (tmp_path / "id2label.json").write_text(json.dumps({"0": "sky", "1": "road"}))
    put(tmp_path / "train/images/a.jpg", mode="RGB")
    put(tmp_path / "train/labels/a.png", 1)
    put(tmp_path / "more/images/b.jpg")
    report = check_data(tmp_path, num_proc=1)
    assert report.sound and report.notes == ["more has no folder labels: its images are unlabeled"]
    put(tmp_path / "train/images/a.png", mode="RGB")
    put(tmp_path / "train/labels/c.png", 5)
    report = check_data(tmp_path, num_proc=1)
    assert "a second image named a" in report.broken[0] and "unknown class id 5" in report.broken[1]
    assert f"{tmp_path / 'train/images/c.*'}" in report.missing["train"][0]


@pytest.mark.parametrize("place", ["labels", "v1.2/labels"])
def test_mapillary(tmp_path, monkeypatch, place):
    monkeypatch.setattr(mapillary, "NUM_IMAGES", {"training": 2, "validation": 1, "testing": 1})
    labels = [{"name": n, "readable": n, "evaluate": n != "void", "color": [9, 9, 9]} for n in ("bird", "sky", "void")]
    (tmp_path / "config.json").write_text(json.dumps({"labels": labels}))
    for split, name in (("training", "a"), ("training", "b"), ("validation", "c"), ("testing", "d")):
        put(tmp_path / split / f"images/{name}.jpg", mode="RGB")
        if split != "testing":
            put(tmp_path / split / place / f"{name}.png", value=2)
    report = check_data(tmp_path, num_proc=1)
    assert report.sound and report.kinds == ["v1.2"] and report.counts["training", None]["v1.2"] == 2
    put(tmp_path / "training" / place / "a.png", value=3)
    (tmp_path / "testing/images/d.jpg").unlink()
    report = check_data(tmp_path, num_proc=1)
    assert report.differs == ["testing: 0 images, officially 1"] and "unknown class id 3" in report.broken[0]


def test_what_is_no_dataset(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        find_layout(tmp_path / "nowhere")
    with pytest.raises(InputError, match="holds no dataset; looked for"):
        find_layout(tmp_path)
    put(tmp_path / "train/images/a.png")
    with pytest.raises(InputError, match="id2label.json is missing"):
        find_layout(tmp_path)
    (tmp_path / "leftImg8bit/train").mkdir(parents=True)
    with pytest.raises(InputError, match="hold no images"):
        check_data(tmp_path)
    with pytest.raises(InputError, match="num_proc"):
        check_data(tmp_path, num_proc=0)


def test_sizes_are_compared_as_seen(tmp_path):
    """A phone's image lies on its side in the file; its label is upright."""
    (tmp_path / "id2label.json").write_text(json.dumps({"0": "sky"}))
    put(tmp_path / "train/labels/a.png", 0, size=(4, 8))
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "train/images").mkdir()
    Image.fromarray(np.zeros((4, 8, 3), np.uint8)).save(tmp_path / "train/images/a.jpg", exif=exif)
    assert check_data(tmp_path, num_proc=1).sound

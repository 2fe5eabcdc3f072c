"""The report on a dataset: what it counts, and every kind of damage by its file."""

import json
import os
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scl_hf.data import DataArguments, check
from scl_hf.data.check import check_data, find_layout
from scl_hf.data.check_report import Sample
from scl_hf.data.sources import cityscapes, mapillary
from scl_hf.errors import InputError

CITYSCAPES = {"leftImg8bit": "leftImg8bit", "gtFine": "gtFine_labelIds", "gtCoarse": "gtCoarse_labelIds"}


def put(path, value=7, size=(16, 8), mode="L"):
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
    monkeypatch.setattr(check, "read_image", lambda *source: os.kill(os.getpid(), signal.SIGKILL))
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
    assert len(report.missing["train"]) == 25 and "… and 5 more files of train" in str(report)
    assert str(report).count("its label is missing") == 20


@pytest.fixture
def own(tmp_path):
    """A folder of your own: sky and road in two labels, an image without a label elsewhere."""
    root = tmp_path / "own"
    for split, name in (("train", "a"), ("validation", "b"), ("more", "c")):
        put(root / split / "images" / f"{name}.jpg", mode="RGB")
    for split, name in (("train", "a"), ("validation", "b")):
        put_label(root / split / "labels" / f"{name}.png", (0, 1))
    (root / "id2label.json").write_text(json.dumps({"0": "sky", "1": "road"}))
    return root


def put_label(path, values):
    """Writes a label with a column for each value."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.tile(np.repeat(np.uint8(values), 16 // len(values)), (8, 1))).save(path)


def test_folder_of_ones_own(own):
    report = check_data(own, num_proc=1)
    assert report.sound and report.notes == ["more: 1 of its 1 images have no label: they are unlabeled images"]
    np.testing.assert_allclose(report.shares[:, :2], [[0.5, 0.5], [1, 1]])
    assert [sample.name for sample in report.labeled] == ["train/a", "validation/b"]
    assert [sample.name for sample in report.unlabeled] == ["more/c"]
    put(own / "train/images/a.png", mode="RGB")
    put(own / "train/labels/c.png", 5)
    report = check_data(own, num_proc=1)
    assert "a second image named a" in report.broken[0] and "unknown class id 5" in report.broken[1]
    assert f"{own / 'train/images/c.*'}" in report.missing["train"][0]


def test_each_label_is_read_once(own, monkeypatch):
    monkeypatch.setattr(check, "ProcessPoolExecutor", ThreadPoolExecutor)
    read, read_bytes = [], Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda self: read.append(self.name) or read_bytes(self))
    assert check_data(own, num_proc=1).sound
    assert read.count("b.png") == 1 and read.count("b.jpg") <= 2  # once more of a few, for the range of values


def zero_and_255(root):
    for path in root.glob("*/labels/*.png"):
        put_label(path, (0, 255))


def all_ignored(root):
    for path in root.glob("*/labels/*.png"):
        put_label(path, (255,))
    (root / "id2label.json").unlink()
    (root / "class_names.txt").write_text("sky\nroad\n")


def no_road(root):
    for path in root.glob("*/labels/*.png"):
        put_label(path, (0, 2))
    (root / "id2label.json").write_text(json.dumps({"0": "sky", "1": "road", "2": "car"}))


def rename_label(root):
    (root / "train/labels/a.png").rename(root / "train/labels/aa.png")


def many_others(root):
    for number in range(9):
        put(root / f"train/depth/{number}.png")


DAMAGES = [
    (many_others, "  9 files, such as train/depth/0.png, are neither images nor labels, but only 5 are; move"),
    (lambda root: [shutil.rmtree(path) for path in root.glob("*/labels")], "wrong:\n  no image has a label: "),
    (lambda root: shutil.rmtree(root / "train/labels"), "  train: none of its 1 images has a label"),
    (lambda root: shutil.rmtree(root / "validation/labels"), "  validation: none of its 1 images has a label"),
    (zero_and_255, "50% are 255 (ignored); if 255 is road, write classes: {sky: 0, road: 255} in place of label_map"),
    (
        no_road,
        "no label shows {road: 1}; of the pixels 50% are 0, 50% are 2; leave out what is not there, classes: {sky",
    ),
    (all_ignored, "no label shows {sky: 0, road: 1}; of the pixels 100% are 255 (ignored)"),
    (lambda root: put(root / "more/images/d.png", size=(1, 1)), "  more/images/d.png: smaller than 8 pixels; remove"),
    (rename_label, "missing:\n  train/labels/aa.png: its image is missing. Did you mean 'a'?"),
    (lambda root: put(root / "validation/images/z.png"), "  validation/images/z.png: its label is missing"),
]


@pytest.mark.parametrize("damage, said", DAMAGES)
def test_what_is_not_sound(own, damage, said):
    damage(own)
    report = check_data(own, num_proc=1)
    assert not report.sound and said in str(report)


def no_car(root):
    (root / "id2label.json").unlink()
    (root / "class_names.txt").write_text("sky\nroad\ncar\n")  # of more data than these


def mask_among_images(root):
    put_label(root / "more/images/m.png", (0, 200))


def other_palette(root):
    for number, path in enumerate(root.glob("*/labels/*.png")):
        label = Image.open(path).convert("P")
        label.putdata(list(Image.open(path).getdata()))
        label.putpalette([number, 1, 2, 3, 4, 5])
        label.save(path)


def dark(root):
    image = np.linspace(0, 4000, 128).reshape(8, 16).astype(np.uint16)
    Image.fromarray(image).save(root / "more/images/c.png")
    (root / "more/images/c.jpg").unlink()


ODDITIES = [
    (
        lambda root: put(root / "train/images/x.png"),
        "train: 1 of its 2 images have no label: they are unlabeled images",
    ),
    (
        lambda root: shutil.rmtree(root / "validation"),
        "validation: there is no such split to evaluate on; in a recipe",
    ),
    (lambda root: put(root / "more/images/a.jpg"), "1 name occurs in several folders, such as more/a and train/a"),
    (lambda root: put_label(root / "validation/labels/b.png", (0, 0)), "validation: no label shows road"),
    (no_car, "train: no label shows car"),
    (mask_among_images, "more/images/m.png: few colors in flat areas, as in a label; is it an image?"),
    (other_palette, "palettes of label files differ, as in"),
    (dark, "unlabeled images are of 16 bits, but the values seen in 1 of them are 0 to 4000"),
]


@pytest.mark.parametrize("change, said", ODDITIES)
def test_what_is_said_of_sound_data(own, change, said):
    change(own)
    report = check_data(own, num_proc=1)
    assert report.sound and f"note: {said}" in str(report)


def test_equal_problems_are_joined(own):
    for number in range(25):
        put(own / f"train/images/{number}.png")
        put_label(own / f"train/labels/{number}.png", (number % 2, 60 + number))
    text = str(check_data(own, num_proc=1))
    assert "broken:\n  25 files, such as train/labels/0.png: unknown class id 60 (64 pixels); the classes have" in text
    assert "values without a class, and how many labels hold them: 60 (1), 61 (1), " in text


def test_fields_of_the_recipe(own, tmp_path):
    recipe = DataArguments(data_dir=str(own), classes={"sky": 0, "road": [1, 2]}, unlabeled_dirs=[str(tmp_path / "x")])
    put_label(own / "train/labels/a.png", (0, 2))
    put(tmp_path / "x/deep/y.jpg")
    report = check_data(recipe=recipe)
    assert report.sound and report.counts[str(tmp_path / "x"), None]["images"] == 1
    with pytest.raises(InputError, match="dataset: user/name is opened by `datasets`; check opens folders of files"):
        check_data(recipe=DataArguments(dataset="user/name"))


def test_samples_show_all_classes():
    samples = [Sample(str(i), None, np.full((2, 2), max(0, i - 30))) for i in range(35)]
    chosen = check._choose(samples)
    assert len(chosen) == 6 and {sample.label[0, 0] for sample in chosen} == {0, 1, 2, 3, 4}


@pytest.mark.parametrize(
    "place, version, config",
    [
        ("labels", "v1.2", "config.json"),
        ("v1.2/labels", "v1.2", "config.json"),
        ("v2.0/labels", "v2.0", "config_v2.0.json"),  # alone, without a class table of v1.2
    ],
)
def test_mapillary(tmp_path, monkeypatch, place, version, config):
    monkeypatch.setattr(mapillary, "NUM_IMAGES", {"training": 2, "validation": 1, "testing": 1})
    labels = [{"name": n, "readable": n, "evaluate": n != "void", "color": [9, 9, 9]} for n in ("bird", "sky", "void")]
    (tmp_path / config).write_text(json.dumps({"labels": labels}))
    for split, name in (("training", "a"), ("training", "b"), ("validation", "c"), ("testing", "d")):
        put(tmp_path / split / f"images/{name}.jpg", mode="RGB")
        if split != "testing":
            put(tmp_path / split / place / f"{name}.png", value=2)
    report = check_data(tmp_path, num_proc=1)
    assert report.sound and report.kinds == [version] and report.counts["training", None][version] == 2
    put(tmp_path / "training" / place / "a.png", value=3)
    (tmp_path / "testing/images/d.jpg").unlink()
    report = check_data(tmp_path, num_proc=1)
    assert report.differs == ["testing: 0 images, officially 1"] and "unknown class id 3" in report.broken[0]


def test_what_is_no_dataset(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        find_layout(tmp_path / "nowhere")
    with pytest.raises(InputError, match="holds no images, but nothing"):
        find_layout(tmp_path)
    put(tmp_path / "train/images/a.png")
    with pytest.raises(InputError, match="none of the 1 images of split train has a label; write train_images"):
        check_data(tmp_path)
    (tmp_path / "leftImg8bit/train").mkdir(parents=True)
    with pytest.raises(InputError, match="hold no images"):
        check_data(tmp_path)
    with pytest.raises(InputError, match="num_proc"):
        check_data(tmp_path, num_proc=0)


def test_sizes_are_compared_as_seen(own):
    """A phone's image lies on its side in the file; its label is upright."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(own / "train/labels/a.png").rotate(90, expand=True).save(own / "train/labels/a.png")
    Image.new("RGB", (16, 8)).save(own / "train/images/a.jpg", exif=exif)
    assert check_data(own, num_proc=1).sound

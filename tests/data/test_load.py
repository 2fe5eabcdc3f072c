import json
import logging
import os
import shutil
import zipfile
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image
from transformers import HfArgumentParser

from scl_hf.data import AugmentationArguments, DataArguments, InputImage, load_data, load_evaluation
from scl_hf.data.augmentation import Augmentation
from scl_hf.data.crops import Crops
from scl_hf.data.images import read_image
from scl_hf.data.labels import read_label, read_pair
from scl_hf.data.normalization import Normalization
from scl_hf.data.sampler import Sample
from scl_hf.data.sources import cityscapes
from scl_hf.errors import InputError

NAMES = {"0": "sky", "1": "road", "2": "car"}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def folder(tmp_path):
    """Sixteen images to train on, four to evaluate on, three without labels; no two are the same."""
    root = tmp_path / "data"
    for split, count, green in (("train", 16, 0), ("validation", 4, 90), ("more", 3, 180)):
        for kind in ("images", "labels")[: 1 if split == "more" else 2]:
            (root / split / kind).mkdir(parents=True)
        for index in range(count):
            Image.new("RGB", (6, 4), (15 * index, green, 0)).save(root / split / "images" / f"{split}{index:02}.jpg")
            if split != "more":
                label = np.full((4, 6), index % 3, np.uint8)
                label[0, 0] = 255
                Image.fromarray(label).save(root / split / "labels" / f"{split}{index:02}.png")
    (root / "id2label.json").write_text(json.dumps(NAMES))
    return root


def toy_dataset(root: Path, splits=("train", "val", "train_extra"), coarse=True):
    def put(path, value=7):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 2), value).save(path)

    for number, split in enumerate(splits):
        for index in range(4):
            frame = f"ulm_000000_00000{index}"
            put(root / "leftImg8bit" / split / "ulm" / f"{frame}_leftImg8bit.png", 10 * number + index)
            if split != "train_extra":
                put(root / "gtFine" / split / "ulm" / f"{frame}_gtFine_labelIds.png")
            elif coarse and index:
                put(root / "gtCoarse" / split / "ulm" / f"{frame}_gtCoarse_labelIds.png")
    return str(root)


def open_folder(root, evaluate=True, **fields):
    return load_data(DataArguments(dataset="folder", data_dir=str(root), **fields), evaluate)


def test_folder(folder):
    data = open_folder(folder)
    assert (len(data.labeled), len(data.unlabeled), len(data.evaluation), data.coarse) == (16, 16, 4, None)
    assert sorted(data.labeled.column_names) == sorted(data.evaluation.column_names) == ["id", "image", "label"]
    assert sorted(data.unlabeled.column_names) == ["id", "image"]
    assert data.id2label == {0: "sky", 1: "road", 2: "car"} and data.palette.shape == (3, 3)
    row = data.labeled[4]
    assert row["id"] == "train04" and row["image"]["bytes"] is None
    image, label = read_pair(row, data.labeled.features)
    assert image.shape == (4, 6, 3) and label[0, 0] == 255 and (label.flat[1:] == 1).all()


def test_16_bit_images(folder, tmp_path, caplog):
    for path in [*folder.glob("*/images/*.jpg"), tmp_path / "pool/a.tif"]:
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((4, 6), len(path.name) * 100, np.uint16)).save(path.with_suffix(".tif"))
        path.unlink() if path.suffix == ".jpg" else None
    pool = [str(tmp_path / "pool")]
    open_folder(folder, unlabeled_dirs=pool, allow_shared_images=True)
    starts = [line.partition(", nearly")[0] for line in caplog.messages if "16 bits" in line]
    seen = "images are of 16 bits, but the values seen in 6 of them are"
    assert starts == [f"labeled {seen} 1100 to 1100", f"unlabeled {seen} 500 to 1100"]
    caplog.clear()
    data = open_folder(folder, unlabeled_dirs=pool, value_range=[0, 2200], allow_shared_images=True)
    assert "16 bits" not in caplog.text
    for dataset in (data.labeled, data.unlabeled, data.evaluation):
        assert dataset.features["image"] == InputImage(decode=False, value_range=[0, 2200])
    assert read_pair(data.labeled[0], data.labeled.features)[0].max() == 128
    Image.fromarray(np.zeros((4, 6), np.float32)).save(tmp_path / "pool/a.tif")
    with pytest.raises(InputError, match="a.tif: holds floating-point values"):
        open_folder(folder, unlabeled_dirs=pool, allow_shared_images=True)


def test_labeled_images_can_be_kept_out_of_the_pool(folder):
    data = open_folder(folder, labeled_fraction=0.25, unlabeled_includes_labeled=False, unlabeled_splits=["more"])
    assert len(data.labeled) == 4
    assert len(data.unlabeled) == 15 and not set(data.labeled["id"]) & set(data.unlabeled["id"])
    assert len(open_folder(folder, unlabeled_includes_labeled=False).unlabeled) == 0


def test_a_part_of_the_unlabeled_images(folder):
    fields = {"labeled_fraction": 0.25, "unlabeled_splits": ["more"], "num_unlabeled": 6}
    data = open_folder(folder, **fields)
    assert len(data.unlabeled) == 10 and set(data.labeled["id"]) <= set(data.unlabeled["id"])
    without = open_folder(folder, **fields, unlabeled_includes_labeled=False)
    assert len(without.unlabeled) == 6 and set(without.unlabeled["id"]) == set(data.unlabeled["id"]) - set(
        data.labeled["id"]
    )
    extra = {"unlabeled_dirs": [str(folder / "more")], "labeled_fraction": 1.0, "num_unlabeled": 2}
    assert len(open_folder(folder, **extra).unlabeled) == 18
    with pytest.raises(InputError, match="num_unlabeled: 16, but there are 15 unlabeled images"):
        open_folder(folder, **fields | {"num_unlabeled": 16})
    with pytest.raises(InputError, match="num_unlabeled: must be 0 or more, got -1"):
        open_folder(folder, num_unlabeled=-1)


def test_two_labeled_splits(folder):
    fields = {"train_splits": ["train", "validation"], "unlabeled_splits": ["train"], "labeled_fraction": 0.5}
    data = open_folder(folder, **fields, allow_shared_images=True)
    assert len(data.labeled) == 10 and len(data.unlabeled) == 20


def strip_labels(folder, names):
    for name in names:
        (folder / f"train/labels/{name}.png").unlink()


def test_images_without_a_label_are_unlabeled(folder, caplog):
    strip_labels(folder, [f"train{index:02}" for index in range(6, 16)])
    data = open_folder(folder)
    assert data.labeled["id"][:] == [f"train{index:02}" for index in range(6)] and len(data.unlabeled) == 16
    assert "train: 10 of its 16 images have no label: they are unlabeled images" in caplog.text
    data = open_folder(folder, unlabeled_includes_labeled=False)
    assert data.unlabeled["id"][:] == [f"train{index:02}" for index in range(6, 16)]
    half = open_folder(folder, labeled_fraction=0.5, num_unlabeled=4)
    assert len(half.labeled) == 3 and {*half.labeled["id"]} <= {*half.unlabeled["id"]} and len(half.unlabeled) == 7
    listed = folder / "ids.txt"
    listed.write_text("train00\ntrain07\n")
    with pytest.raises(InputError, match="ids.txt: 1 of 2 are images without a label: train07; take them out"):
        open_folder(folder, labeled_ids=str(listed))
    strip_labels(folder, ["train00"])
    (folder / "validation/labels/validation01.png").unlink()
    with pytest.raises(InputError, match="validation01.jpg: its label is missing .1 of the 4 images of split valid"):
        open_folder(folder)


def ids(*parts):
    return [{*part["id"]} for part in parts]


def test_labeled_images_are_held_out(folder, caplog):
    assert len(open_folder(folder, evaluate=False).evaluation) == 4  # not needed, but there
    shutil.rmtree(folder / "validation")
    with pytest.raises(InputError, match="no split validation .*write validation_fraction: 0.2 .*eval_strategy: no"):
        open_folder(folder)
    assert open_folder(folder, evaluate=False).evaluation is None
    data = open_folder(folder, validation_fraction=0.25)
    labeled, unlabeled, held = ids(data.labeled, data.unlabeled, data.evaluation)
    assert len(held) == 4 and len(labeled) == 12 and labeled == unlabeled and not held & labeled
    assert "validation_fraction: 4 of 16 labeled images are held out to evaluate on" in caplog.text
    assert data.evaluation.column_names == ["image", "label", "id"]
    fields = {"validation_fraction": 0.25, "labeled_fraction": 0.5, "unlabeled_includes_labeled": False}
    data = open_folder(folder, **fields, num_unlabeled=3)
    assert ids(data.evaluation) == [held] and len(data.labeled) == 6 and len(data.unlabeled) == 3
    assert {*data.unlabeled["id"]}.isdisjoint(held | {*data.labeled["id"]})
    args = DataArguments(dataset="folder", data_dir=str(folder), **fields)
    assert load_evaluation(args)[0]["id"][:] == data.evaluation["id"][:]
    (folder / "ids.txt").write_text("\n".join(f"train{index:02}" for index in range(16)))
    listed = open_folder(folder, validation_fraction=0.25, labeled_ids=str(folder / "ids.txt"))
    assert ids(listed.labeled, listed.evaluation) == [labeled, held]
    other = open_folder(folder, validation_fraction=0.25, labeled_seed=1)
    assert ids(other.evaluation) != [held]


def test_whole_folders_are_held_out(folder):
    with pytest.raises(InputError, match="validation_fraction: all 16 labeled images are of one folder.*_by: image"):
        open_folder(folder, validation_fraction=0.2, validation_by="folder")
    for index in range(16):
        for kind, suffix in (("images", "jpg"), ("labels", "png")):
            (folder / f"train/{kind}/drive{index % 4}").mkdir(exist_ok=True)
            name = f"train{index:02}.{suffix}"
            (folder / f"train/{kind}/{name}").rename(folder / f"train/{kind}/drive{index % 4}/{name}")
    strip_labels(folder, ["drive0/train00", "drive1/train01", "drive2/train02", "drive3/train03"])
    data = open_folder(folder, validation_fraction=0.3, validation_by="folder")
    drives = [{name.partition("/")[0] for name in part} for part in ids(data.labeled, data.unlabeled, data.evaluation)]
    assert (
        len(drives[2]) == 2 and len(data.evaluation) == 6 and len(data.unlabeled) == 8
    )  # 2 without a label left, too
    assert drives[0] == drives[1] and not drives[0] & drives[2]


def test_cities_are_held_out(tmp_path):
    root = toy_dataset(tmp_path)
    for kind in ("leftImg8bit", "gtFine"):
        for path in (tmp_path / kind / "train/ulm").glob("*2*"):
            path.rename((tmp_path / kind / "train/jena").mkdir(exist_ok=True) or path.parents[1] / "jena" / path.name)
    data = load_data(DataArguments(data_dir=root, validation_fraction=0.1, validation_by="folder"))
    assert (len(data.labeled), len(data.evaluation)) in ((1, 3), (3, 1))


@pytest.mark.parametrize(
    "lines",
    [["train03.jpg", "train01.jpg"], ["C:\\data\\train01.jpg", "images/train03"], ["train01.jpg l/x.png", "train03"]],
)
def test_listed_file_names(folder, lines):
    (folder / "ids.txt").write_text("# chosen by hand\n" + "\r\n".join(lines))
    data = open_folder(folder, labeled_ids=str(folder / "ids.txt"))
    assert data.labeled["id"][:] == ["train01", "train03"]


def test_globs_and_zips_of_unlabeled_images(folder, tmp_path, caplog):
    with zipfile.ZipFile(tmp_path / "phone.ZIP", "w") as archive:
        for name in ("a/1.jpg", "../2.jpg", "3.txt", "b/4.PNG", "__MACOSX/a/._1.jpg"):
            archive.write(folder / "more/images/more00.jpg", name)
    fields = {"unlabeled_includes_labeled": False, "allow_shared_images": True}
    data = open_folder(folder, **fields, unlabeled_dirs=[str(tmp_path / "phone.ZIP")])
    assert sorted(data.unlabeled["id"]) == ["2.jpg", "a/1.jpg", "b/4.PNG"] and "phone.ZIP: its images" in caplog.text
    assert not (tmp_path.parent / "2.jpg").exists() and not (tmp_path / "2.jpg").exists()
    caplog.clear()
    again = open_folder(folder, **fields, unlabeled_dirs=[str(tmp_path / "phone.ZIP")])
    assert again.unlabeled["image"][:] == data.unlabeled["image"][:] and "phone.ZIP" not in caplog.text
    for pattern in ("more*", "*/images/more*.jpg", "**/more/**"):
        data = open_folder(folder, **fields, unlabeled_dirs=[str(folder / pattern)])
        assert [Path(image["path"]).name for image in data.unlabeled["image"]] == [f"more0{i}.jpg" for i in range(3)]
    (tmp_path / "cut.zip").write_bytes((tmp_path / "phone.ZIP").read_bytes()[:300])
    with pytest.raises(InputError, match="unlabeled_dirs: cannot extract .*cut.zip .*unpack it yourself"):
        open_folder(folder, unlabeled_dirs=[str(tmp_path / "cut.zip")])


def test_another_process_extracts_the_same_zip(folder, tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "phone.zip", "w") as archive:
        archive.write(folder / "more/images/more00.jpg", "1.jpg")

    def rename_later(own, folder, rename=os.rename):
        shutil.copytree(own, folder)  # the other process was faster
        rename(own, folder)

    monkeypatch.setattr(os, "rename", rename_later)
    data = open_folder(folder, unlabeled_includes_labeled=False, unlabeled_dirs=[str(tmp_path / "phone.zip")])
    assert data.unlabeled["id"][:] == ["1.jpg"]


def test_listed_ids(folder, tmp_path):
    listed = tmp_path / "ids.txt"
    listed.write_text("train03\n\ntrain01\r\n")
    data = open_folder(folder, labeled_ids=str(listed), unlabeled_includes_labeled=False)
    assert data.labeled["id"][:] == ["train01", "train03"] and len(data.unlabeled) == 14


def test_labeled_and_evaluation_images_that_are_the_same_are_refused(folder):
    copy = folder / "validation/images/validation02.jpg"
    copy.write_bytes((folder / "train/images/train05.jpg").read_bytes())
    message = r"train_splits and eval_split: 1 of the 4 .*validation02.jpg \(as .*train05.jpg\);.*allow_shared_images"
    with pytest.raises(InputError, match=message) as error:
        open_folder(folder)
    assert "\n" not in str(error.value)
    assert len(open_folder(folder, allow_shared_images=True).evaluation) == 4
    with pytest.raises(InputError, match=r"4 of the 4 .*validation00.jpg, .*validation02.jpg, …;"):
        open_folder(folder, train_splits=["validation"])


def test_evaluation_images_with_coarse_labels_to_train_on_are_refused(tmp_path):
    toy_dataset(tmp_path)
    fields = {"data_dir": str(tmp_path), "use_coarse_labels": True}
    coarse = load_data(DataArguments(**fields)).coarse
    for row in coarse:  # the same image among those to evaluate on
        shutil.copy(row["image"]["path"], tmp_path / "leftImg8bit/val/ulm/ulm_000000_000000_leftImg8bit.png")
    with pytest.raises(InputError, match="1 of the 4 evaluation images are labeled training images"):
        load_data(DataArguments(**fields))


def test_evaluation_images_in_the_pool_are_counted_in_a_warning(folder, caplog):
    with caplog.at_level(logging.WARNING):
        open_folder(folder, unlabeled_splits=["more"])
        assert not caplog.records
        open_folder(folder, unlabeled_splits=["validation"])
    assert "4 of the 4 evaluation images are in the unlabeled pool" in caplog.text


def phone_images(root: Path):
    """The same field, 6 wide and 4 high with a white top left corner, in the ways that images are stored."""
    root.mkdir(parents=True)
    gray = np.full((48, 72), 60, np.uint8)
    gray[:8, :8] = 240
    image = Image.fromarray(gray).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    image.transpose(Image.Transpose.ROTATE_90).save(root / "a turned.jpg", exif=exif, quality=95)
    Image.fromarray(gray.astype(np.uint16) * 257).save(root / "b 16 bits.png")
    image.convert("RGBA").save(root / "c alpha.PNG")
    Image.fromarray(gray).save(root / "d gray.png")
    image.convert("CMYK").save(root / "e print.tif")
    image.quantize(4).save(root / "f palette.png")
    return np.stack([gray] * 3)


def test_unlabeled_folders_of_any_images_are_upright_and_rgb(folder, tmp_path):
    expected = phone_images(tmp_path / "phone/deeper")
    Image.new("RGB", (5, 9)).save(tmp_path / "phone/.hidden.png")
    Image.new("L", (200, 90), 77).save(folder / "more/large.png")
    dirs = [str(tmp_path / "phone"), str(folder / "more")]
    data = open_folder(folder, unlabeled_dirs=dirs, unlabeled_includes_labeled=False)
    assert data.unlabeled["id"][5:8] == ["deeper/f palette.png", "images/more00.jpg", "images/more01.jpg"]
    assert len(data.unlabeled) == 10 and sorted(data.unlabeled.column_names) == ["id", "image"]
    unchanged = {name: 0 for name in ("flip_probability", "brightness", "contrast", "saturation", "hue")}
    arguments = AugmentationArguments(crop_size=[48, 72], scale_range=[1, 1], blur_probability=0, **unchanged)
    augmentation = Augmentation(arguments, Normalization((0, 0, 0), (1, 1, 1)))
    crops = Crops(data.unlabeled, augmentation)
    for row in range(6):
        crop = crops[Sample(row, seed=1)]
        assert crop["valid"].all()
        assert np.abs(crop["pixel_values"].numpy() * 255 - expected).mean() < 2, data.unlabeled[row]["id"]
    assert crops[Sample(9, seed=1)]["pixel_values"].shape == (3, 48, 72)


def test_unlabeled_folders_join_every_dataset(tmp_path):
    phone_images(tmp_path / "phone")
    data = load_data(
        DataArguments(data_dir=toy_dataset(tmp_path / "toy_dataset"), unlabeled_dirs=[str(tmp_path / "phone")])
    )
    assert len(data.labeled) == 4 and len(data.unlabeled) == 14


def test_labels_with_ids_of_their_own(folder):
    Image.fromarray(np.array([[40000] * 6, [300] * 6, [2, 0, 0, 0, 0, 0], [9] * 6], np.uint16)).save(
        folder / "train/labels/train00.png"
    )
    data = open_folder(folder, label_map={40000: 0, 300: 1, 2: 2, 9: 255}, ignore_index=0)
    label = read_label(data.labeled[0]["label"], data.labeled.features["label"])
    assert label[:, 0].tolist() == [0, 1, 2, 255] and label[2, 1] == 255
    message = r"train01.png: unknown class id 1 \(23 pixels\), 255 \(1 pixel\); the classes have the ids 2, 300, 40000"
    with pytest.raises(InputError, match=message):
        read_label(data.labeled[1]["label"], data.labeled.features["label"])


def test_a_class_that_no_label_shows(folder):
    (folder / "id2label.json").write_text(json.dumps(NAMES | {"3": "tree"}))
    with pytest.raises(InputError, match=r"^classes: no label shows {tree: 3}; of the pixels .*leave out what is not"):
        open_folder(folder)
    for path in folder.glob("train/labels/*.png"):  # only labels to evaluate on show the sky
        label = np.asarray(Image.open(path))
        Image.fromarray(np.where(label == 0, 1, label)).save(path)
    (folder / "id2label.json").write_text(json.dumps(NAMES))
    assert open_folder(folder, labeled_fraction=0.1).id2label[0] == "sky"
    for path in folder.glob("*/labels/*.png"):
        Image.fromarray(np.where(np.asarray(Image.open(path)) == 1, 255, 0).astype(np.uint8)).save(path)
    (folder / "id2label.json").write_text('{"0": "background", "1": "nucleus"}')
    with pytest.raises(InputError, match=r"if 255 is nucleus, write classes: {background: 0, nucleus: 255}"):
        open_folder(folder)


def test_cityscapes(tmp_path):
    data = load_data(DataArguments(data_dir=toy_dataset(tmp_path), use_coarse_labels=True))
    assert (len(data.labeled), len(data.unlabeled), len(data.evaluation)) == (4, 8, 4)
    assert sorted(data.unlabeled.column_names) == ["id", "image"]
    assert data.coarse["id"][:] == [f"ulm_000000_00000{index}" for index in (1, 2, 3)]
    assert data.id2label == cityscapes.ID2LABEL and (data.palette == cityscapes.PALETTE).all()
    assert (read_pair(data.coarse[0], data.coarse.features)[1] == 0).all()  # 7 on disk is road
    only_train = load_data(DataArguments(data_dir=str(tmp_path), unlabeled_splits=["train"]))
    assert len(only_train.unlabeled) == 4 and only_train.coarse is None


def test_mapillary(tmp_path):
    labels = [{"name": f"object--{name}", "readable": name, "color": [9, 9, 9]} for name in ("Bird", "Void", "Road")]
    labels = [label | {"evaluate": label["readable"] != "Void", "instances": False} for label in labels]
    for config in ("config_v1.2.json", "config_v2.0.json"):
        count = 3 if "v1" in config else 2
        (tmp_path / config).write_text(json.dumps({"labels": labels[:count]}))
    for number, split in enumerate(("training", "validation", "testing")):
        for folder in ("images", "v1.2/labels", "v2.0/labels"):
            (tmp_path / split / folder).mkdir(parents=True)
            suffix = "jpg" if folder == "images" else "png"
            Image.new("L", (4, 2), 100 * number if folder == "images" else 2).save(
                tmp_path / split / folder / f"a.{suffix}"
            )
    data = load_data(DataArguments(dataset="mapillary", data_dir=str(tmp_path), unlabeled_splits=["test"]))
    assert (len(data.labeled), len(data.unlabeled), len(data.evaluation)) == (1, 2, 1)
    assert data.id2label == {0: "Bird", 1: "Road"}
    assert (read_pair(data.labeled[0], data.labeled.features)[1] == 1).all()  # 2 on disk
    newer = load_data(DataArguments(dataset="mapillary", data_dir=str(tmp_path), dataset_config="v2.0"))
    assert newer.id2label == {0: "Bird"} and "v2.0" in newer.labeled[0]["label"]["path"]
    with pytest.raises(InputError, match="dataset_config: .*not v3"):
        load_data(DataArguments(dataset="mapillary", data_dir=str(tmp_path), dataset_config="v3"))


def test_a_standard_subset_of_cityscapes_by_its_name(tmp_path):
    root = toy_dataset(tmp_path, splits=("val",))
    listed = ("jena_000078_000019", "ulm_000001_000019")  # of 1/16; the third is of none
    for index, frame in enumerate((*listed, "ulm_000000_000019")):
        for kind, suffix in (("leftImg8bit", "leftImg8bit"), ("gtFine", "gtFine_labelIds")):
            path = tmp_path / kind / "train" / frame.split("_")[0] / f"{frame}_{suffix}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (4, 2), 7 + index).save(path)
    message = r"labeled_split 1/16: 184 of 186 ids are not in the data \(train\): aachen_000002_000019, .*, …;"
    with pytest.raises(InputError, match=message):
        load_data(DataArguments(data_dir=root, labeled_split="1_16"))


def test_cityscapes_without_the_extra_images(tmp_path):
    root = toy_dataset(tmp_path, splits=("train", "val"))
    assert len(load_data(DataArguments(data_dir=root)).unlabeled) == 4
    with pytest.raises(InputError, match=f"{root}: no split train_extra .looked for leftImg8bit/train_extra"):
        load_data(DataArguments(data_dir=root, use_coarse_labels=True))


def test_cityscapes_without_a_split_or_labels(tmp_path):
    root = toy_dataset(tmp_path, splits=("train", "train_extra"), coarse=False)
    with pytest.raises(InputError, match=f"{root}: no split validation .looked for leftImg8bit/val"):
        load_data(DataArguments(data_dir=root))
    with pytest.raises(InputError, match="4 of the 4 images of split train_extra have no label"):
        load_data(DataArguments(data_dir=root, train_splits=["train_extra"], eval_split="train"))
    toy_dataset(tmp_path, splits=("train", "val"))
    with pytest.raises(InputError, match="no coarse labels of train_extra"):
        load_data(DataArguments(data_dir=root, use_coarse_labels=True))


@pytest.mark.parametrize("stored", ["disk", "parquet"])
def test_dataset_of_any_columns(folder, tmp_path, stored):
    source = open_folder(folder)
    splits = {"train": source.labeled, "validation": source.evaluation}
    splits = datasets.DatasetDict({name: dataset.remove_columns("id") for name, dataset in splits.items()})
    splits = splits.rename_columns({"image": "photo", "label": "mask"}).cast_column("photo", datasets.Image())
    splits = splits.cast_column("mask", datasets.Image(decode=False))
    root = tmp_path / "stored"
    if stored == "disk":
        splits.save_to_disk(root)  # paths
    else:
        root.mkdir()
        for name, dataset in splits.items():
            dataset = dataset.map(
                lambda example: {"mask": {"bytes": Path(example["mask"]["path"]).read_bytes(), "path": "m.png"}}
            )
            dataset.to_parquet(root / f"{name}-00000-of-00001.parquet")
    (root / "id2label.json").write_text(json.dumps(NAMES))
    fields = {"dataset": str(root), "image_column": "photo", "label_column": "mask"}
    data = load_data(DataArguments(**fields, labeled_fraction=0.125))
    assert len(data.labeled) == 2 and len(data.unlabeled) == 16 and len(data.evaluation) == 4
    assert data.unlabeled.column_names == ["image", "id"] and not data.unlabeled.features["image"].decode
    assert read_pair(data.evaluation[1], data.evaluation.features)[1][1, 1] == 1
    assert read_image(data.unlabeled[0]["image"]).shape == (4, 6, 3)
    assert data.labeled["id"][0].startswith("train_") and data.id2label[2] == "car"
    with pytest.raises(InputError, match="no split test, only train, validation"):
        load_data(DataArguments(**fields, eval_split="test"))


def test_examples_without_labels(folder, tmp_path):
    dataset = datasets.Dataset.from_dict(
        {"image": [str(folder / "train/images/train00.jpg")] * 2, "label": [None, None]},
        features=datasets.Features(image=datasets.Image(), label=datasets.Image()),
    )
    dataset.save_to_disk(tmp_path / "stored")
    with pytest.raises(InputError, match="2 of the 2 examples in split train have no label"):
        load_data(
            DataArguments(dataset=str(tmp_path / "stored"), id2label=str(folder / "id2label.json"), eval_split="train")
        )


@pytest.mark.parametrize("dataset", ["folder", "cityscapes", "mapillary"])
def test_missing_data_dir_is_named(tmp_path, dataset):
    with pytest.raises(InputError, match="data_dir: is missing"):
        load_data(DataArguments(dataset=dataset))
    with pytest.raises(InputError, match="data_dir: there is no folder .*nowhere"):
        load_data(DataArguments(dataset=dataset, data_dir=str(tmp_path / "nowhere")))


def test_evaluation_needs_its_own_split_alone(folder):
    expected = open_folder(folder)
    for split in ("train", "more"):
        for file in folder.glob(f"{split}/*/*"):
            file.write_bytes(b"")
    dataset, palette = load_evaluation(DataArguments(dataset="folder", data_dir=str(folder)))
    assert dataset["id"] == expected.evaluation["id"] and dataset.column_names == ["image", "label", "id"]
    assert dataset.features == expected.evaluation.features and (palette == expected.palette).all()


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"labeled_fraction": 0.0}, r"labeled_fraction: must be a share in \(0, 1\], got 0.0"),
        ({"labeled_fraction": 1.5}, r"labeled_fraction: must be a share in \(0, 1\], got 1.5"),
        ({"labeled_fraction": 0.5, "labeled_ids": "ids.txt"}, "labeled_fraction and labeled_ids: give only one"),
        ({"labeled_split": "1_8", "labeled_ids": "ids.txt"}, "labeled_split and labeled_ids: give only one"),
        ({"labeled_split": "18"}, "labeled_split: must be one of 1/2, 1/4, 1/8, 1/16, 1/30, got '18'"),
        ({"dataset": "folder", "labeled_split": "1_8"}, "labeled_split: only Cityscapes"),
        (
            {"image_column": "mask", "label_column": "mask"},
            "label_column: must be another column than image_column, got 'mask'",
        ),
        ({"value_range": [9, 1]}, r"value_range: must be two numbers, .*, got \[9, 1\]"),
        ({"bands": [0, 1]}, "bands: must be three numbers"),
        ({"train_splits": []}, "train_splits: must be at least one split"),
        ({"dataset": "folder", "use_coarse_labels": True}, "use_coarse_labels: only Cityscapes"),
        ({"dataset": "folder", "dataset_config": "v2.0"}, "dataset_config: folder has no configurations"),
        ({"id2label": "names.json"}, "id2label: Cityscapes brings"),
        ({"label_map": {7: 0}}, "label_map: Cityscapes brings"),
        ({"dataset": "mapillary", "ignore_index": 0}, "ignore_index: Mapillary Vistas brings"),
        ({"dataset": "folder", "label_map": "7: 0"}, "label_map: is not JSON"),
        ({"dataset": "folder", "ignore_index": -1}, "ignore_index: must be an id, 0 to 65535, got -1"),
    ],
)
def test_fields_out_of_range(fields, message):
    with pytest.raises(InputError, match=f"^{message}"):
        load_data(DataArguments(**fields))


def test_arguments_parse_from_the_command_line():
    line = "--train_splits train validation --labeled_fraction 1e-1 --unlabeled_includes_labeled false".split()
    line += ["--dataset", "folder", "--label_map", '{"7": 0}']
    (args,) = HfArgumentParser(DataArguments).parse_args_into_dataclasses(line)
    assert args.train_splits == ["train", "validation"] and args.labeled_fraction == 0.1
    assert args.unlabeled_includes_labeled is False and args.unlabeled_splits == [] and args.label_map == {7: 0}

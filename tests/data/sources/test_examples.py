"""Fields of a recipe that name images and labels, and what is said of those that do not match."""

import os

import pytest
from test_layouts import put, read, splits_of

from scl_hf.data import DataArguments
from scl_hf.data.sources.layouts import open_source
from scl_hf.errors import InputError

FILES = ["raw/x/deep/a.jpg", "raw/x/b.jpg", "raw/y/c.jpg", "drawn/deep/a.png", "v/c.png", "raw/x/x_b_gt.png"]
FILES += ["both/images/a.jpg", "both/masks/a_m.png"]
FILES += [
    "list.txt=raw/x/deep/a.jpg|b",
    "pairs.txt=raw/x/deep/a.jpg drawn/deep/a.png|# none|raw/x/b.jpg raw/x/x_b_gt.png",
]
TWO = {"deep/a": "drawn/deep/a.png", "b": None}
# data_dir, fields, split -> {id: label}
FIELDS = [
    (
        None,
        {"train_images": "raw/x", "train_labels": "drawn", "validation_images": "raw/y", "validation_labels": "v"},
        {"train": {"deep/a": "drawn/deep/a.png", "b": None, "x_b_gt": None}, "validation": {"c": "v/c.png"}},
    ),
    (None, {"train_images": "raw/x/**/*.jpg", "train_labels": "drawn/**/*.png"}, {"train": TWO}),
    (
        ".",
        {"train_images": "raw/*/[bc].jpg", "train_labels": "raw/*/x_?_gt.png"},
        {"train": {"x/b": "raw/x/x_b_gt.png", "y/c": None}},
    ),
    ("raw", {"train_images": "x/*.jpg", "train_labels": "x/x_*_gt.png"}, {"train": {"b": "raw/x/x_b_gt.png"}}),
    (".", {"train_images": "list.txt", "train_labels": "drawn"}, {"train": TWO}),
    (".", {"train_images": "pairs.txt"}, {"train": {"x/deep/a": "drawn/deep/a.png", "x/b": "raw/x/x_b_gt.png"}}),
    (None, {"train_images": "both"}, {"train": {"a": "both/masks/a_m.png"}}),
    (None, {"train_images": "pairs.txt"}, {"train": {"deep/a": "drawn/deep/a.png", "b": "raw/x/x_b_gt.png"}}),
]


@pytest.mark.parametrize("data_dir, fields, expected", FIELDS)
def test_fields(tmp_path, monkeypatch, data_dir, fields, expected):
    put(tmp_path, FILES)
    monkeypatch.chdir(tmp_path)
    args = DataArguments(dataset="folder", data_dir=data_dir, classes={"a": 0, "b": 1}, **fields)
    splits = splits_of(open_source(args), tmp_path)
    assert {split: splits[split] for split in expected} == expected


# files, fields, and what the error says
MESSAGES = {
    "labels that are no images, classes unknown": (
        ["images/a.jpg", "coco/instances.json={}"],
        {"classes": None},
        "none of the 1 images of split train has a label; coco/instances.json is no image: draw the objects of COCO",
    ),
    "two annotators": (
        ["1L.jpg", "1L_1stHO.png", "1L_2ndHO.png", "1R.jpg", "1R_1stHO.png", "1R_2ndHO.png"],
        {},
        r"label_suffix: .* several, _1stHO \(2\), _2ndHO \(2\), such as .*label_suffix: _1stHO$",
    ),
    "nothing": ([], {}, "data: holds no images, but nothing; name the folder"),
    "only labels": (
        ["train/labels/a.png"],
        {},
        "data: holds no folder whose .*, but train; correct data_dir, or write train_images",
    ),
    "two kinds of labels": (
        ["images/a.jpg", "masks/a.png", "gt/a.png"],
        {},
        "images/a.jpg: has two labels, .*/gt/a.png and .*/masks/a.png; remove the folder of one, or write",
    ),
    "several suffixes": (
        ["images/a.jpg", "masks/a_color.png", "masks/a_label.png", "masks/a_edge.png"],
        {},
        r"label_suffix: .* several, _color \(1\), _edge \(1\), _label \(1\), such as .*label_suffix: _label$",
    ),
    "label without an image": (
        ["train/images/cat.jpg", "train/images/dog.jpg", "train/labels/cat.png", "train/labels/dig.png"],
        {},
        r"labels/dig.png: its image is missing, looked for .*images/dig.\* \(1 label has no image\).* mean 'dog'\?",
    ),
    "no labels to evaluate on": (
        ["train/images/a.jpg", "train/labels/a.png", "validation/images/a.jpg"],
        {},
        "none of the 1 images of split validation has a label; write validation_images: .* and validation_labels",
    ),
    "another image": (["images/IMG_1.jpg", "labels/IMG_7.png"], {}, "labels/IMG_7.png: its image is missing"),
    "another number": (
        ["images/a.jpg", "images/bird.jpg", "labels/a.png", "labels/bird_2.png"],
        {},
        "labels/bird_2.png: its image is missing, looked for .*images/bird_2.*mean 'bird'",
    ),
    "DRIVE": (
        ["training/images/1_training.tif", "training/1st_manual/1_manual1.gif", "training/mask/1_training_mask.gif"],
        {},
        "1_manual1.gif: its image is missing",
    ),
    "labels in another folder": (
        ["train/images/a.jpg", "train/masks_old/a.png"],
        {},
        "none of the 1 images of split train has a label; write train_images: .*/train/images and train_labels: "
        ".*/train/masks_old$",
    ),
    "folders of other names": (
        ["2_Ortho_RGB/top_2_10_RGB.tif", "5_Labels_all/top_2_10_label.tif"],
        {},
        "none of the 1 images of split train has a label; write train_images: .*RGB and train_labels: .*/5_Labels_all",
    ),
    "folders of other names in each split": (
        ["train/rgb/1_Clipped.jpg", "train/GT_color/1_mask.png", "val/rgb/2_Clipped.jpg", "val/GT_color/2_mask.png"],
        {},
        "write train_images: .*/train/rgb and train_labels: .*/train/GT_color$",
    ),
    "two folders without a role": (
        ["X_train/a.png", "y_train/a.png"],
        {},
        "y_train/a.png: a second image named a; rename one of them, or if it is a label, write train_images",
    ),
    "labels that are no images": (
        ["images/a.jpg", "masks/a.npy"],
        {},
        "none of the 1 images of split train has a label; masks/a.npy is no image: draw .*, or save labels as PNG",
    ),
    "unknown lines": (
        ["images/a.jpg", "masks/a.png", "train.txt=a|b|c|d|e"],
        {},
        r"train.txt: 4 of 5 lines of .*train.txt name no file there: b, c, d, …; correct",
    ),
    "ambiguous lines": (
        ["images/x/a.jpg", "images/y/a.jpg", "masks/x/a.png", "masks/y/a.png", "train.txt=a"],
        {},
        "a of .*train.txt may be .*x/a.jpg, .*y/a.jpg; write it with its folder",
    ),
    "empty list": (["images/a.jpg", "train.txt="], {}, "train.txt: holds no images; write one a line"),
    "no such folder": (["images/a.jpg"], {"train_images": "imgs"}, "train_images: .*/imgs is no folder, glob or list"),
    "labels alone": ([], {"train_labels": "masks"}, "train_labels: need train_images, too"),
    "a share of all": ([], {"validation_fraction": 1.0}, r"validation_fraction: must be a share in \(0, 1\)"),
    "other units": ([], {"validation_by": "drive"}, "validation_by: must be image or folder, got 'drive'"),
    "fields of Cityscapes": (
        ["leftImg8bit/train/ulm/a.png"],
        {"label_suffix": "_mask"},
        "label_suffix: only dataset: folder has it",
    ),
}


@pytest.mark.parametrize("case", MESSAGES)
def test_messages(tmp_path, case):
    files, fields, message = MESSAGES[case]
    (tmp_path / "data").mkdir()
    put(tmp_path / "data", files)
    with pytest.raises(InputError, match=message) as error:
        _, source = read(tmp_path / "data", **fields)
        for split in source.splits:
            source.open(split, True)
    assert "\n" not in str(error.value)


def test_labels_of_another_suffix_are_no_images(tmp_path):
    put(tmp_path, ["1L.jpg", "1L_1stHO.png", "1L_2ndHO.png", "1R.jpg", "1R_1stHO.png", "1R_2ndHO.png"])
    splits, source = read(tmp_path, label_suffix="_1stHO")
    assert splits == {"train": {"1L": "1L_1stHO.png", "1R": "1R_1stHO.png"}}
    assert sorted(map(os.path.basename, source.left_out)) == ["1L_2ndHO.png", "1R_2ndHO.png"]


def test_names_of_other_splits_do_not_matter_to_fields(tmp_path):
    drive = [
        f"training/{name}" for i in (1, 2) for name in (f"images/{i}_training.tif", f"1st_manual/{i}_manual1.png")
    ]
    masks = [f"test/{name}" for i in (3, 4) for name in (f"images/{i}_test.tif", f"mask/{i}_test_mask.png")]
    put(tmp_path, drive + masks)
    fields = {"train_images": "training/images", "train_labels": "training/1st_manual"}
    splits, source = read(tmp_path, **fields)
    assert splits["train"] == {f"{i}_training": f"training/1st_manual/{i}_manual1.png" for i in (1, 2)}
    assert splits["test"] == {f"{i}_test": f"test/mask/{i}_test_mask.png" for i in (3, 4)}


def test_images_to_evaluate_on_without_labels(tmp_path):
    put(tmp_path, ["train/images/a.jpg", "train/masks/a.png", "val/images/b.jpg"])
    with pytest.raises(
        InputError, match="write validation_images: .*val/images and validation_labels: FOLDER, or valid"
    ):
        read(tmp_path)[1].open("validation", True)

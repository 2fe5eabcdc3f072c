"""Layouts as people have them: what is taken for an image, its label and its split."""

import os

import numpy as np
import pytest
from PIL import Image

from scl_hf.data import DataArguments
from scl_hf.data.sources.layouts import find_layout, open_source
from scl_hf.errors import InputError


def put(root, names):
    """Makes files: images of 4×2 pixels, tables of class names, and lists, which hold their text after `=`."""
    for name in names:
        name, _, text = name.partition("=")
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix in (".txt", ".csv", ".json", ".npy", ".md"):
            path.write_text(text.replace("|", "\n"))
        else:
            is_label = any(
                word in name.lower() for word in ("mask", "label", "gt", "annot", "ann_dir", "segmentation")
            )
            Image.fromarray(np.array([[0, 1] * 2] * 2, np.uint8) if is_label else np.zeros((2, 4), np.uint8)).save(
                path
            )


def read(root, **fields):
    """Opens a folder as `check` does: split -> {id: label}, notes, what was left out."""
    fields = {"classes": {"a": 0, "b": 1}} | fields
    source = open_source(find_layout(root, DataArguments(**fields)))
    return splits_of(source, root), source


def splits_of(source, root):
    """Returns split -> {id: label}, and opens all splits."""
    splits = {}
    for example in source.examples:
        label = example.labels.get("labels")
        splits.setdefault(example.split, {})[example.id] = label and os.path.relpath(label, root)
    for split in source.splits:
        assert len(source.open(split)) == len(splits[split])
    return splits


# name -> files, split -> {id: label}, and a part of the notes
LAYOUTS = {
    "this project's": (
        ["train/images/a.jpg", "train/labels/a.png", "validation/images/b.png", "validation/labels/b.png"],
        {"train": {"a": "train/labels/a.png"}, "validation": {"b": "validation/labels/b.png"}},
        "",
    ),
    "more splits": (
        ["train/images/a.jpg", "train/labels/a.png", "extra/images/b.png", "val/images/c.png", "val/labels/c.png"],
        {"train": {"a": "train/labels/a.png"}, "extra": {"b": None}, "validation": {"c": "val/labels/c.png"}},
        "validation: 1 image such as val/images/c.png, 1 label such as val/labels/c.png",
    ),
    "capitals": (
        ["Train/Images/a.JPG", "Train/Labels/a.PNG", "Valid/Images/b.TIF", "Valid/Labels/b.TIF"],
        {"train": {"a": "Train/Labels/a.PNG"}, "validation": {"b": "Valid/Labels/b.TIF"}},
        "train: 1 image such as Train/Images/a.JPG, 1 label such as Train/Labels/a.PNG",
    ),
    "mmsegmentation": (
        ["img_dir/train/a.png", "img_dir/val/b.png", "ann_dir/train/a.png", "ann_dir/val/b.png"],
        {"train": {"a": "ann_dir/train/a.png"}, "validation": {"b": "ann_dir/val/b.png"}},
        "train: 1 image such as img_dir/train/a.png, 1 label such as ann_dir/train/a.png",
    ),
    "nested": (
        ["train/images/ulm/a.jpg", "train/images/b.jpg", "train/labels/ulm/a.png", "train/labels/b.png"],
        {"train": {"b": "train/labels/b.png", "ulm/a": "train/labels/ulm/a.png"}},
        "",
    ),
    "flat": (["image/a.jpg", "mask/a.png"], {"train": {"a": "mask/a.png"}}, "1 image such as image/a.jpg"),
    "in a folder": (
        ["archive/Kvasir-SEG/images/a.jpg", "archive/Kvasir-SEG/masks/a.png"],
        {"train": {"a": "archive/Kvasir-SEG/masks/a.png"}},
        "such as archive/Kvasir-SEG/images/a.jpg",
    ),
    "Carvana": (
        [
            "train/a_01.jpg",
            "train/a_02.jpg",
            "train_masks/a_01_mask.gif",
            "train_masks/a_02_mask.gif",
            "test/b_01.jpg",
        ],
        {"train": {"a_01": "train_masks/a_01_mask.gif", "a_02": "train_masks/a_02_mask.gif"}, "test": {"b_01": None}},
        "with _mask in their names",
    ),
    "SegNet's CamVid": (
        ["train/a.png", "trainannot/a.png", "val/b.png", "valannot/b.png", "test/c.png", "testannot/c.png"]
        + ["train.txt=/SegNet/CamVid/train/a.png /SegNet/CamVid/trainannot/a.png"],
        {"train": {"a": "trainannot/a.png"}, "validation": {"b": "valannot/b.png"}, "test": {"c": "testannot/c.png"}},
        "",
    ),
    "CamVid of Kaggle": (
        ["CamVid/train/a_1.png", "CamVid/train_labels/a_1_L.png", "CamVid/val/b.png", "CamVid/val_labels/b_L.png"],
        {"train": {"a_1": "CamVid/train_labels/a_1_L.png"}, "validation": {"b": "CamVid/val_labels/b_L.png"}},
        "with _L in their names",
    ),
    "fast.ai's CamVid": (
        [f"images/{name}.png" for name in "abc"] + [f"labels/{name}_P.png" for name in "abc"] + ["valid.txt=b.png"],
        {"train": {"a": "labels/a_P.png", "c": "labels/c_P.png"}, "validation": {"b": "labels/b_P.png"}},
        "with _P in their names",
    ),
    "one folder": (
        ["a.jpg", "a_mask.png", "b.jpg", "b_mask.png", "c.jpg"],
        {"train": {"a": "a_mask.png", "b": "b_mask.png", "c": None}},
        "with _mask in their names",
    ),
    "Roboflow": (
        ["train/a_jpg.rf.01.jpg", "train/a_jpg.rf.01_mask.png", "valid/b_jpg.rf.02.jpg", "valid/b_jpg.rf.02_mask.png"],
        {
            "train": {"a_jpg.rf.01": "train/a_jpg.rf.01_mask.png"},
            "validation": {"b_jpg.rf.02": "valid/b_jpg.rf.02_mask.png"},
        },
        "with _mask in their names",
    ),
    "DeepGlobe": (
        ["train/1_sat.jpg", "train/1_mask.png", "train/12_sat.jpg", "train/12_mask.png", "valid/3_sat.jpg"],
        {"train": {"12_sat": "train/12_mask.png", "1_sat": "train/1_mask.png"}, "validation": {"3_sat": None}},
        "with _mask in their names",
    ),
    "instances": (
        ["stage1_train/x1/images/x1.png", "stage1_train/x1/masks/p.png", "stage1_train/x1/masks/q.png"]
        + ["stage1_train/x2/images/x2.png", "stage1_train/x2/masks/r.png", "stage1_test/x3/images/x3.png"],
        {"train": {"x1/x1": "stage1_train/x1/masks", "x2/x2": "stage1_train/x2/masks"}, "test": {"x3/x3": None}},
        "the masks of an image joined",
    ),
    "instances, in one of the folders": (
        ["x1/images/x1.png", "x1/masks/p.png", "x1/masks/q.png", "x2/images/x2.png", "x2/masks/r.png"],
        {"train": {"x1/x1": "x1/masks", "x2/x2": "x2/masks"}},
        "the masks of an image joined",
    ),
    "instances by name": (
        ["train/images/a.png", "train/masks/a/1.png", "train/masks/a/2.png"],
        {"train": {"a": "train/masks/a"}},
        "the masks of an image joined",
    ),
    "Pascal VOC": (
        [f"VOC2012/JPEGImages/{name}.jpg" for name in "abcd"]
        + [f"VOC2012/SegmentationClass/{name}.png" for name in "abc"]
        + [f"VOC2012/SegmentationObject/{name}.png" for name in "abc"]
        + ["VOC2012/ImageSets/Segmentation/train.txt=a", "VOC2012/ImageSets/Segmentation/val.txt=b|c"]
        + ["VOC2012/ImageSets/Segmentation/trainval.txt=a|b|c", "VOC2012/ImageSets/Main/train.txt=a|d"],
        {
            "train": {"a": "VOC2012/SegmentationClass/a.png"},
            "validation": {"b": "VOC2012/SegmentationClass/b.png", "c": "VOC2012/SegmentationClass/c.png"},
        },
        "left out: 4 files such as VOC2012/JPEGImages/d.jpg",
    ),
    "labelme's export": (
        [
            "JPEGImages/a.jpg",
            "SegmentationClass/a.png",
            "SegmentationClassNpy/a.npy",
            "SegmentationClassVisualization/a.jpg",
        ],
        {"train": {"a": "SegmentationClass/a.png"}},
        "left out: 1 file such as SegmentationClassVisualization/a.jpg",
    ),
    "labelme's former export": (
        ["JPEGImages/a.jpg", "SegmentationClassPNG/a.png", "SegmentationClass/a.npy"],
        {"train": {"a": "SegmentationClassPNG/a.png"}},
        "",
    ),
    "CVAT": (
        ["JPEGImages/a.jpg", "SegmentationClass/a.png", "ImageSets/Segmentation/default.txt=a"],
        {"train": {"a": "SegmentationClass/a.png"}},
        "",
    ),
    "ADE20K": (
        ["ADE/images/training/a.jpg", "ADE/annotations/training/a.png", "ADE/images/validation/b.jpg"]
        + ["ADE/annotations/validation/b.png"],
        {
            "train": {"a": "ADE/annotations/training/a.png"},
            "validation": {"b": "ADE/annotations/validation/b.png"},
        },
        "train: 1 image such as ADE/images/training/a.jpg",
    ),
    "Oxford pets": (
        ["images/Abyssinian_1.jpg", "images/pug_2.jpg", "annotations/trimaps/Abyssinian_1.png"]
        + ["annotations/trimaps/pug_2.png", "annotations/list.txt=#x", "annotations/trainval.txt=Abyssinian_1 1 1 1"]
        + ["annotations/test.txt=pug_2 2 1 1"],
        {
            "train": {"Abyssinian_1": "annotations/trimaps/Abyssinian_1.png"},
            "test": {"pug_2": "annotations/trimaps/pug_2.png"},
        },
        "",
    ),
    "LoveDA": (
        ["Train/Urban/images_png/3.png", "Train/Urban/masks_png/3.png", "Train/Rural/images_png/3.png"]
        + ["Train/Rural/masks_png/3.png"],
        {"train": {"Rural/3": "Train/Rural/masks_png/3.png", "Urban/3": "Train/Urban/masks_png/3.png"}},
        "",
    ),
    "UAVid": (
        ["uavid_train/seq1/Images/000.png", "uavid_train/seq1/Labels/000.png", "uavid_val/seq2/Images/000.png"]
        + ["uavid_val/seq2/Labels/000.png", "uavid_test/seq3/Images/000.png"],
        {
            "train": {"seq1/000": "uavid_train/seq1/Labels/000.png"},
            "validation": {"seq2/000": "uavid_val/seq2/Labels/000.png"},
            "test": {"seq3/000": None},
        },
        "",
    ),
    "ISIC": (
        ["ISIC2018_Task1-2_Training_Input/I_1.jpg", "ISIC2018_Task1_Training_GroundTruth/I_1_segmentation.png"],
        {"train": {"I_1": "ISIC2018_Task1_Training_GroundTruth/I_1_segmentation.png"}},
        "with _segmentation in their names",
    ),
    "KITTI": (
        ["training/image_2/a.png", "training/semantic/a.png", "training/semantic_rgb/a.png", "testing/image_2/b.png"],
        {"train": {"a": "training/semantic/a.png"}, "test": {"b": None}},
        "left out: 1 file such as training/semantic_rgb/a.png",
    ),
    "several suffixes of Cityscapes": (
        ["train/images/u_leftImg8bit.png"]
        + [f"train/labels/u_gtFine_{kind}.png" for kind in ("color", "instanceIds", "labelIds")],
        {"train": {"u_leftImg8bit": "train/labels/u_gtFine_labelIds.png"}},
        "left out: 2 files",
    ),
    "prefixes": (
        ["images/img_1.png", "images/img_12.png", "masks/mask_1.png", "masks/mask_12.png"],
        {"train": {"img_1": "masks/mask_1.png", "img_12": "masks/mask_12.png"}},
        "with mask_ in their names",
    ),
    "suffix of two suffixes": (
        ["images/a.jpg", "masks/a.jpg.png"],
        {"train": {"a": "masks/a.jpg.png"}},
        "with .jpg in",
    ),
    "lists of folders elsewhere": (
        ["x/0001.png", "y/0001.png", "z/0002.png", "gt/x/0001.png", "gt/y/0001.png", "gt/z/0002.png"]
        + ["splits/train.txt=C:\\data\\x\\0001.png|0002", "splits/val.txt=/home/me/y/0001.png"],
        {"train": {"x/0001": "gt/x/0001.png", "z/0002": "gt/z/0002.png"}, "validation": {"y/0001": "gt/y/0001.png"}},
        "",
    ),
    "the same name in every folder": (
        ["train/p1/s1/image.png", "train/p1/s1/mask.png", "train/p1/s2/image.png", "train/p1/s2/mask.png"],
        {"train": {"p1/s1/image": "train/p1/s1/mask.png", "p1/s2/image": "train/p1/s2/mask.png"}},
        "",
    ),
    "one folder, one name": (["a.jpg", "a.png", "b.jpg"], {"train": {"a": "a.png", "b": None}}, ""),
    "one folder with drawings": (
        ["a.jpg", "a_mask.png", "a_overlay.png", "b.jpg"],
        {"train": {"a": "a_mask.png", "b": None}},
        "left out: 1 file such as a_overlay.png",
    ),
    "Massachusetts": (
        ["tiff/train/a.tiff", "tiff/train_labels/a.tif", "tiff/val/b.tiff", "tiff/val_labels/b.tif"],
        {"train": {"a": "tiff/train_labels/a.tif"}, "validation": {"b": "tiff/val_labels/b.tif"}},
        "",
    ),
    "drones": (
        ["original_images/1.jpg", "label_images_semantic/1.png", "RGB_color_image_masks/1.png"],
        {"train": {"1": "label_images_semantic/1.png"}},
        "left out: 1 file such as RGB_color_image_masks/1.png",
    ),
    "DAVIS": (
        ["JPEGImages/480p/bear/0.jpg", "Annotations/480p/bear/0.png", "JPEGImages/480p/cow/0.jpg"]
        + [
            "Annotations/480p/cow/0.png",
            "ImageSets/480p/val.txt=/JPEGImages/480p/cow/0.jpg /Annotations/480p/cow/0.png",
        ],
        {
            "train": {"480p/bear/0": "Annotations/480p/bear/0.png"},
            "validation": {"480p/cow/0": "Annotations/480p/cow/0.png"},
        },
        "",
    ),
    "Keras": (
        ["images_prepped_train/a.png", "annotations_prepped_train/a.png", "images_prepped_test/b.png"],
        {"train": {"a": "annotations_prepped_train/a.png"}, "test": {"b": None}},
        "",
    ),
    "SUIM": (
        ["train_val/images/a.jpg", "train_val/masks/a.png", "TEST/images/b.jpg", "TEST/masks/b.png"],
        {"train": {"a": "train_val/masks/a.png"}, "test": {"b": "TEST/masks/b.png"}},
        "",
    ),
    "CVC": (["PNG/Original/1.png", "PNG/Ground Truth/1.png"], {"train": {"1": "PNG/Ground Truth/1.png"}}, ""),
    "CXR": (["CXR_png/a.png", "mask/a_mask.png"], {"train": {"CXR_png/a": "mask/a_mask.png"}}, ""),
    "nnU-Net": (
        ["imagesTr/a_0000.png", "imagesTr/b_0000.png", "labelsTr/a.png"],
        {"train": {"a_0000": "labelsTr/a.png", "b_0000": None}},
        "",
    ),
    "LandCover.ai": (
        [
            "output/M-1_0.jpg",
            "output/M-1_0_m.png",
            "output/M-1_1.jpg",
            "output/M-1_1_m.png",
            "train.txt=M-1_0",
            "val.txt=M-1_1",
        ],
        {"train": {"M-1_0": "output/M-1_0_m.png"}, "validation": {"M-1_1": "output/M-1_1_m.png"}},
        "with _m in their names",
    ),
    "Potsdam": (
        ["2_Ortho_RGB/top_2_10_RGB.tif", "5_Labels_all/top_2_10_label.tif"],
        {"train": {"2_Ortho_RGB/top_2_10_RGB": None}},
        "left out: 1 file such as 5_Labels_all/top_2_10_label.tif",
    ),
    "a single image in a folder": (
        ["train/images/1.jpg", "train/images/2.jpg", "train/masks/1_mask.png", "train/masks/2_mask.png"]
        + ["val/easy/images/3.jpg", "val/easy/masks/3_mask.png", "val/hard/images/4.jpg", "val/hard/masks/4_mask.png"],
        {
            "train": {"1": "train/masks/1_mask.png", "2": "train/masks/2_mask.png"},
            "validation": {"easy/3": "val/easy/masks/3_mask.png", "hard/4": "val/hard/masks/4_mask.png"},
        },
        "with _mask in their names",
    ),
    "words in front": (
        ["P0/img_0.png", "P0/seg_0.png", "P1/img_1.png", "P1/seg_1.png"],
        {"train": {"P0/img_0": "P0/seg_0.png", "P1/img_1": "P1/seg_1.png"}},
        "with seg_ in their names",
    ),
    "a word of labels in all names": (["mask_a.jpg", "mask_a.png"], {"train": {"mask_a": "mask_a.png"}}, ""),
    "umlauts of macOS": (["images/u\u0308.jpg", "masks/ü.png"], {"train": {"ü": "masks/ü.png"}}, ""),
    "lists of pairs": (
        ["p/a.png", "p/b c.png", "q/1.png", "q/2.png", "train.txt=p/a.png\tq/1.png|p/b c.png,q/2.png"],
        {"train": {"p/a": "q/1.png", "p/b c": "q/2.png"}},
        "",
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout(tmp_path, layout):
    files, expected, note = LAYOUTS[layout]
    put(tmp_path, files)
    splits, source = read(tmp_path)
    assert splits == expected
    assert note in "\n".join(source.notes)


def test_training_images_of_ade20k_are_not_taken_for_mapillary(tmp_path):
    put(tmp_path, ["images/training/a.jpg", "annotations/training/a.png"])
    assert find_layout(tmp_path).dataset == "folder"
    put(tmp_path, ["training/images/a.jpg", "training/labels/a.png"])
    assert find_layout(tmp_path).dataset == "folder"
    put(tmp_path, ["config_v1.2.json={}"])
    assert find_layout(tmp_path).dataset == "mapillary"
    assert find_layout(tmp_path, DataArguments(dataset="folder")).dataset == "folder"
    put(tmp_path / "unpacked", ["cs/leftImg8bit/train/ulm/a.png"])
    with pytest.raises(InputError, match="unpacked: the layout of Cityscapes lies in .*unpacked/cs; name that folder"):
        find_layout(tmp_path / "unpacked")


def test_the_names_of_splits_are_those_of_the_recipe(tmp_path):
    put(tmp_path, ["training/images/a.jpg", "training/labels/a.png", "val/images/b.png", "val/labels/b.png"])
    fields = {"train_splits": ["training"], "eval_split": "val"}
    splits, _ = read(tmp_path, **fields)
    assert splits == {"training": {"a": "training/labels/a.png"}, "val": {"b": "val/labels/b.png"}}
    (tmp_path / "val").rename(tmp_path / "seq1")
    splits, _ = read(tmp_path, train_splits=["seq1"])
    assert splits == {"train": {"a": "training/labels/a.png"}, "seq1": {"b": "seq1/labels/b.png"}}

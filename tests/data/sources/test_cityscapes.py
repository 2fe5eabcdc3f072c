import logging
from pathlib import Path

import numpy as np
import pytest

from scl_hf.data import DataArguments
from scl_hf.data.sources.cityscapes import ID2LABEL, LABEL_IMAGE, LABELS, PALETTE, open_source
from scl_hf.errors import InputError

ONE_ROOT = {"leftImg8bit": "leftImg8bit", "extra": "leftImg8bit", "gtFine": "gtFine", "gtCoarse": "gtCoarse"}
OWN_FOLDERS = {
    "leftImg8bit": "leftImg8bit_trainvaltest/leftImg8bit",
    "extra": "leftImg8bit_trainextra/leftImg8bit",
    "gtFine": "gtFine_trainvaltest/gtFine",
    "gtCoarse": "gtCoarse/gtCoarse",
}


def put(path: Path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"stands for an image")


def make_tree(root: Path, form=ONE_ROOT, splits=("train", "val", "test", "train_extra"), coarse=True):
    for split in splits:
        for city in ("ulm", "bonn"):
            for frame in (f"{city}_000000_00000{index}" for index in range(2)):
                images = form["extra" if split == "train_extra" else "leftImg8bit"]
                put(root / images / split / city / f"{frame}_leftImg8bit.png")
                if split != "train_extra":
                    put(root / form["gtFine"] / split / city / f"{frame}_gtFine_labelIds.png")
                    put(root / form["gtFine"] / split / city / f"{frame}_gtFine_color.png")
                if coarse and split != "test":
                    put(root / form["gtCoarse"] / split / city / f"{frame}_gtCoarse_labelIds.png")
    return root


def test_label_table():
    assert len(LABELS) == 35 and len({label.id for label in LABELS}) == 35
    assert list(ID2LABEL) == list(range(19)) and ID2LABEL[0] == "road" and ID2LABEL[18] == "bicycle"
    assert PALETTE.shape == (19, 3) and PALETTE[10].tolist() == [70, 130, 180]  # sky
    assert LABEL_IMAGE.table[[0, 7, 33, 29]].tolist() == [255, 0, 18, 255]
    assert (LABEL_IMAGE.table[34:] == -1).all() and (LABEL_IMAGE.table[:34] >= 0).all()
    assert sorted(set(LABEL_IMAGE.table[LABEL_IMAGE.table >= 0].tolist())) == [*range(19), 255]


def open_splits(root: Path):
    source = open_source(DataArguments(data_dir=str(root)))
    return {split: source.open(split, split in source.labeled_splits) for split in source.splits}


@pytest.mark.parametrize("form", [ONE_ROOT, OWN_FOLDERS])
def test_both_folder_forms(tmp_path, form):
    root = make_tree(tmp_path / "data", form)
    splits = open_splits(root)
    assert set(splits) == {"train", "validation", "test", "train_extra"}
    row = splits["validation"][0]
    assert (row["id"], row["city"]) == ("bonn_000000_000000", "bonn")
    image = root / form["leftImg8bit"] / "val/bonn/bonn_000000_000000_leftImg8bit.png"
    label = root / form["gtFine"] / "val/bonn/bonn_000000_000000_gtFine_labelIds.png"
    assert row["image"] == {"path": str(image), "bytes": None} and row["label"] == {"path": str(label), "bytes": None}
    assert all(Path(row["label"]["path"]).is_file() for row in splits["train_extra"])
    assert splits["test"]["label"][:] == [None] * 4


def test_labels_of_train_ids_alone(tmp_path):
    root = make_tree(tmp_path, coarse=False)
    args = DataArguments(data_dir=str(root))
    assert open_source(args).labels == LABEL_IMAGE and open_source(args).notes == []
    for path in root.glob("gtFine/*/*/*_labelIds.png"):
        path.rename(path.with_name(path.name.replace("labelIds", "labelTrainIds")))
    source = open_source(args)
    assert source.labels.table[[0, 18, 255]].tolist() == [0, 18, 255] and source.labels.table[19] == -1
    assert source.notes == ["labels of *_gtFine_labelTrainIds.png: there are no *_gtFine_labelIds.png"]
    assert source.open("train", True)[0]["label"]["path"].endswith("bonn_000000_000000_gtFine_labelTrainIds.png")


def test_only_splits_that_exist(tmp_path):
    assert list(open_splits(make_tree(tmp_path, splits=("val",), coarse=False))) == ["validation"]


def test_extra_images_need_no_label(tmp_path):
    extra = open_splits(make_tree(tmp_path, splits=("train", "train_extra"), coarse=False))["train_extra"]
    assert extra["label"][:] == [None] * 4


def test_missing_label_is_named(tmp_path):
    root = make_tree(tmp_path)
    (root / "gtFine/train/ulm/ulm_000000_000001_gtFine_labelIds.png").unlink()
    with pytest.raises(InputError, match="ulm_000000_000001_leftImg8bit.png: .*ulm_000000_000001_gtFine_labelIds.png"):
        open_splits(root)


def test_empty_file_is_found_at_the_start(tmp_path):
    root = make_tree(tmp_path)
    (root / "leftImg8bit/val/ulm/ulm_000000_000000_leftImg8bit.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"1 file is empty.*val/ulm/ulm_000000_000000_leftImg8bit.png \(empty\)"):
        open_splits(root)


def test_broken_image_is_skipped_and_named(tmp_path, caplog):
    root = make_tree(tmp_path)
    put(root / "leftImg8bit/train_extra/troisdorf/troisdorf_000000_000073_leftImg8bit.png")
    with caplog.at_level(logging.WARNING):
        assert len(open_splits(root)["train_extra"]) == 4
    assert "troisdorf_000000_000073_leftImg8bit.png: skipped, a broken image of the official data" in caplog.text


def test_examples_are_in_a_fixed_order(tmp_path):
    ids = open_splits(make_tree(tmp_path))["train"]["id"][:]
    assert ids == sorted(ids) and len(np.unique(ids)) == 4

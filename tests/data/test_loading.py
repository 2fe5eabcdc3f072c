import json
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image
from transformers import HfArgumentParser

from scl_hf.data import cityscapes
from scl_hf.data.files import read_pair
from scl_hf.data.labels import make_palette
from scl_hf.data.loading import DataArguments, load_data
from scl_hf.errors import InputError

NAMES = {"0": "sky", "1": "road", "2": "car"}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def folder(tmp_path):
    """Sixteen images to train on, four to evaluate on, three without labels."""
    root = tmp_path / "data"
    for split, count in (("train", 16), ("validation", 4), ("more", 3)):
        for kind in ("images", "labels")[: 1 if split == "more" else 2]:
            (root / split / kind).mkdir(parents=True)
        for index in range(count):
            Image.new("RGB", (6, 4)).save(root / split / "images" / f"{split}{index:02}.jpg")
            if split != "more":
                label = np.full((4, 6), index % 3, np.uint8)
                label[0, 0] = 255
                Image.fromarray(label).save(root / split / "labels" / f"{split}{index:02}.png")
    (root / "id2label.json").write_text(json.dumps(NAMES))
    (root / "train/images/Thumbs.db").write_text("not an image")
    return root


def town(root: Path, splits=("train", "val", "train_extra"), coarse=True):
    def put(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 2), 7).save(path)

    for split in splits:
        for index in range(4):
            frame = f"ulm_000000_00000{index}"
            put(root / "leftImg8bit" / split / "ulm" / f"{frame}_leftImg8bit.png")
            if split != "train_extra":
                put(root / "gtFine" / split / "ulm" / f"{frame}_gtFine_labelIds.png")
            elif coarse and index:
                put(root / "gtCoarse" / split / "ulm" / f"{frame}_gtCoarse_labelIds.png")
    return str(root)


def open_folder(root, **fields):
    return load_data(DataArguments(dataset="folder", data_dir=str(root), **fields))


def test_folder(folder):
    data = open_folder(folder)
    assert (len(data.labeled), len(data.unlabeled), len(data.evaluation), data.coarse) == (16, 16, 4, None)
    assert sorted(data.labeled.column_names) == sorted(data.evaluation.column_names) == ["id", "image", "label"]
    assert sorted(data.unlabeled.column_names) == ["id", "image"]
    assert data.id2label == {0: "sky", 1: "road", 2: "car"} and data.palette.shape == (3, 3)
    row = data.labeled[4]
    assert row["id"] == "train04" and row["image"]["bytes"] is None
    image, label = read_pair(row, data.label_table)
    assert image.size == (6, 4) and label[0, 0] == 255 and (label.flat[1:] == 1).all()


def test_fraction_is_rounded_reproducible_and_nested(folder):
    halves, quarter = open_folder(folder, labeled_fraction=0.47), open_folder(folder, labeled_fraction=0.25)
    assert len(halves.labeled) == 8 and len(halves.unlabeled) == 16 and len(quarter.labeled) == 4
    assert open_folder(folder, labeled_fraction=0.25).labeled["id"][:] == quarter.labeled["id"][:]
    assert set(quarter.labeled["id"]) < set(halves.labeled["id"])
    assert open_folder(folder, labeled_fraction=0.25, labeled_seed=1).labeled["id"][:] != quarter.labeled["id"][:]
    assert len(open_folder(folder, labeled_fraction=0.001).labeled) == 1


def test_labelled_images_can_be_kept_out_of_the_pool(folder):
    data = open_folder(folder, labeled_fraction=0.25, unlabeled_includes_labeled=False, unlabeled_splits=["more"])
    assert len(data.unlabeled) == 15 and not set(data.labeled["id"]) & set(data.unlabeled["id"])
    assert len(open_folder(folder, unlabeled_includes_labeled=False).unlabeled) == 0


def test_two_labelled_splits(folder):
    data = open_folder(folder, train_splits=["train", "validation"], unlabeled_splits=["train"], labeled_fraction=0.5)
    assert len(data.labeled) == 10 and len(data.unlabeled) == 20


def test_listed_ids(folder, tmp_path):
    listed = tmp_path / "ids.txt"
    listed.write_text("train03\n\ntrain01\r\n")
    data = open_folder(folder, labeled_ids=str(listed), unlabeled_includes_labeled=False)
    assert data.labeled["id"][:] == ["train01", "train03"] and len(data.unlabeled) == 14
    listed.write_text("\n".join(["train03", *(f"other{index}" for index in range(7))]))
    with pytest.raises(InputError, match=r"ids.txt: 7 of 8 ids are not in the data.*other0, .*other4, …") as error:
        open_folder(folder, labeled_ids=str(listed))
    assert "other5" not in str(error.value)
    for content, message in (("\n", "holds no ids"), (None, "cannot read")):
        listed.unlink() if content is None else listed.write_text(content)
        with pytest.raises(InputError, match=message):
            open_folder(folder, labeled_ids=str(listed))


def test_cityscapes(tmp_path):
    data = load_data(DataArguments(data_dir=town(tmp_path), use_coarse_labels=True))
    assert (len(data.labeled), len(data.unlabeled), len(data.evaluation)) == (4, 8, 4)
    assert sorted(data.unlabeled.column_names) == ["id", "image"]
    assert data.coarse["id"][:] == [f"ulm_000000_00000{index}" for index in (1, 2, 3)]
    assert data.id2label == cityscapes.ID2LABEL and (data.palette == cityscapes.PALETTE).all()
    assert (read_pair(data.coarse[0], data.label_table)[1] == 0).all()  # 7 on disk is road
    only_train = load_data(DataArguments(data_dir=str(tmp_path), unlabeled_splits=["train"]))
    assert len(only_train.unlabeled) == 4 and only_train.coarse is None


def test_cityscapes_without_the_extra_images(tmp_path):
    root = town(tmp_path, splits=("train", "val"))
    assert len(load_data(DataArguments(data_dir=root)).unlabeled) == 4
    with pytest.raises(InputError, match=f"{root}: no split train_extra .looked for leftImg8bit/train_extra"):
        load_data(DataArguments(data_dir=root, use_coarse_labels=True))


def test_cityscapes_without_a_split_or_labels(tmp_path):
    root = town(tmp_path, splits=("train", "train_extra"), coarse=False)
    with pytest.raises(InputError, match=f"{root}: no split validation .looked for leftImg8bit/val"):
        load_data(DataArguments(data_dir=root))
    with pytest.raises(InputError, match="no coarse labels of train_extra"):
        load_data(DataArguments(data_dir=root, eval_split="train", use_coarse_labels=True))
    with pytest.raises(InputError, match="4 of the 4 images of split train_extra have no label"):
        load_data(DataArguments(data_dir=root, train_splits=["train_extra"], eval_split="train"))


@pytest.mark.parametrize("stored", ["disk", "parquet"])
def test_data_set_of_any_columns(folder, tmp_path, stored):
    source = open_folder(folder)
    columns = {"image": "photo", "label": "mask"}
    splits = {"train": source.labeled, "validation": source.evaluation}
    splits = datasets.DatasetDict({name: rows.remove_columns("id") for name, rows in splits.items()})
    splits = splits.rename_columns(columns).cast_column("photo", datasets.Image())
    root = tmp_path / "stored"
    if stored == "disk":
        splits.save_to_disk(root)
    else:
        root.mkdir()
        for name, rows in splits.items():
            rows.map(
                lambda row: {"mask": {"bytes": Path(row["mask"]["path"]).read_bytes(), "path": "m.png"}}
            ).to_parquet(root / f"{name}-00000-of-00001.parquet")
    fields = {"dataset": str(root), "image_column": "photo", "id2label": str(folder / "id2label.json")}
    data = load_data(DataArguments(**fields, label_column="mask", labeled_fraction=0.125))
    assert len(data.labeled) == 2 and len(data.unlabeled) == 16 and len(data.evaluation) == 4
    assert data.unlabeled.column_names == ["image", "id"] and not data.unlabeled.features["image"].decode
    assert read_pair(data.evaluation[1], data.label_table)[1][1, 1] == 1
    assert data.labeled["id"][0].startswith("train_")
    with pytest.raises(InputError, match="label_column: .* no column 'segmentation'.*photo, mask"):
        load_data(DataArguments(**fields, label_column="segmentation"))
    with pytest.raises(InputError, match="no split test, only train, validation"):
        load_data(DataArguments(**fields, label_column="mask", eval_split="test"))


def test_column_without_pictures_and_rows_without_labels(folder, tmp_path):
    rows = datasets.Dataset.from_dict(
        {"image": [str(folder / "train/images/train00.jpg")] * 2, "label": [None, None], "name": ["a", "b"]},
        features=datasets.Features(image=datasets.Image(), label=datasets.Image(), name=datasets.Value("string")),
    )
    rows.save_to_disk(tmp_path / "stored")
    fields = {"dataset": str(tmp_path / "stored"), "id2label": str(folder / "id2label.json"), "eval_split": "train"}
    with pytest.raises(InputError, match="label_column: column 'name' .* holds no pictures"):
        load_data(DataArguments(**fields, label_column="name"))
    with pytest.raises(InputError, match="2 of the 2 images of split train have no label"):
        load_data(DataArguments(**fields))


def test_data_set_that_cannot_be_opened(tmp_path):
    with pytest.raises(InputError, match="dataset: cannot open") as error:
        load_data(DataArguments(dataset=str(tmp_path)))
    assert "\n" not in str(error.value)


def break_folder(root, what):
    if what == "label":
        (root / "train/labels/train03.png").unlink()
    elif what == "labels":
        (root / "train/labels").rename(root / "train/masks")
    elif what == "empty":
        (root / "validation/labels/validation01.png").write_bytes(b"")
    elif what == "twin":
        Image.new("RGB", (6, 4)).save(root / "train/images/train03.png")
    elif what == "split":
        (root / "validation").rename(root / "val")
    elif what == "names":
        (root / "id2label.json").write_text('{"0": "sky", "2": "car"}')
    elif what == "json":
        (root / "id2label.json").write_text("sky, road")
    elif what == "no names":
        (root / "id2label.json").unlink()


@pytest.mark.parametrize(
    "what, message",
    [
        ("label", "train03.jpg: its label is missing, looked for .*labels/train03.png .1 of 16"),
        ("labels", "train00.jpg: its label is missing.*16 of 16"),
        ("empty", "1 file is empty.*validation01.png"),
        ("twin", "train03.png: a second image named train03"),
        ("split", "validation/images: no such folder"),
        ("names", "id2label.json: the ids must be 0, 1, 2"),
        ("json", "id2label.json: is not a table"),
        ("no names", "id2label: there is no file"),
    ],
)
def test_bad_folder_is_named(folder, what, message):
    break_folder(folder, what)
    with pytest.raises(InputError, match=message) as error:
        open_folder(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("dataset", ["folder", "cityscapes"])
def test_missing_data_dir_is_named(tmp_path, dataset):
    with pytest.raises(InputError, match="data_dir: is missing"):
        load_data(DataArguments(dataset=dataset))
    with pytest.raises(InputError, match="data_dir: there is no folder .*nowhere"):
        load_data(DataArguments(dataset=dataset, data_dir=str(tmp_path / "nowhere")))


@pytest.mark.parametrize(
    "fields, name",
    [
        ({"labeled_fraction": 0.0}, "labeled_fraction"),
        ({"labeled_fraction": 1.5}, "labeled_fraction"),
        ({"labeled_fraction": 0.5, "labeled_ids": "ids.txt"}, "labeled_fraction"),
        ({"train_splits": []}, "train_splits"),
        ({"dataset": "folder", "use_coarse_labels": True}, "use_coarse_labels"),
        ({"id2label": "names.json"}, "id2label"),
    ],
)
def test_fields_out_of_range(fields, name):
    with pytest.raises(InputError, match=f"^{name}: "):
        DataArguments(**fields)


def test_arguments_parse_from_the_command_line():
    line = "--train_splits train validation --labeled_fraction 1e-1 --unlabeled_includes_labeled false".split()
    (args,) = HfArgumentParser(DataArguments).parse_args_into_dataclasses(line)
    assert args.train_splits == ["train", "validation"] and args.labeled_fraction == 0.1
    assert args.unlabeled_includes_labeled is False and args.unlabeled_splits == []


def test_palette_has_distinct_colours():
    colors = make_palette(200)
    assert colors.dtype == np.uint8 and len(np.unique(colors, axis=0)) == 200 and (colors.max(axis=1) > 80).all()
    assert make_palette(2).shape == (2, 3)

"""What `datasets` opens: its columns, and its class names."""

import json
import shutil

import datasets
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError
from PIL import Image

from scl_hf.data import DataArguments
from scl_hf.data.columns import standard_columns
from scl_hf.data.labels import read_label
from scl_hf.data.sources import hf_dataset
from scl_hf.data.sources.hf_dataset import find_id2label, open_splits
from scl_hf.errors import InputError


@pytest.fixture
def path(tmp_path):
    Image.new("L", (6, 4)).save(tmp_path / "a.jpg")
    return str(tmp_path / "a.jpg")


def table(path, **columns):
    features = datasets.Features(image=datasets.Image(), text=datasets.Value("string"), kind=datasets.ClassLabel(2))
    return datasets.Dataset.from_dict(
        {"image": [str(path)] * 2, "text": ["a.png"] * 2, "kind": [0, 1]} | columns, features=features
    )


def select(dataset, image, label):
    """As `open_source` does for the split train."""
    columns = {"image": image} | ({"label": label} if label else {})
    fields = {"image": "image_column", "label": "label_column"}
    return standard_columns(dataset, columns, None, fields, "{name}_column: {column}", " in split train", "train_")


@pytest.mark.parametrize(
    "columns, message",
    [
        (
            ("photo", None),
            "^image_column: there is no column 'photo' in split train, only image, text, kind; "
            "image holds images; write image_column: image$",
        ),
        (("image", "mask"), "^label_column: there is no column 'mask' .*; write label_column: COLUMN$"),
        (
            ("text", None),
            "^image_column: column 'text' in split train holds no images but text; image holds images; write "
            r"image_column: image or cast_column\('text', datasets.Image\(\)\) if it holds paths$",
        ),
        (
            ("image", "kind"),
            "^label_column: column 'kind' in split train holds no images but int64; write label_column",
        ),
    ],
)
def test_columns_that_are_no_images(path, columns, message):
    with pytest.raises(InputError, match=message):
        select(table(path), *columns)


def test_examples_whose_image_is_missing(path):
    with pytest.raises(InputError, match="1 of 2 examples in split train have no image"):
        select(table(path, image=[path, None]), "image", None)
    with pytest.raises(InputError, match="^image_column: 1 file is empty or missing: gone.png"):
        select(table(path, image=[path, "gone.png"]), "image", None)


def test_ids_of_ones_own_are_kept(path):
    dataset = table(path).rename_column("kind", "id")
    assert select(dataset, "image", None)["id"][:] == ["0", "1"]


def test_images_in_a_column_named_id(path):
    dataset = table(path).rename_column("image", "id")
    dataset = select(dataset, "id", None)
    assert dataset.column_names == ["image", "id"] and dataset["id"][:] == ["train_0", "train_1"]


@pytest.fixture
def saved(tmp_path):
    """Opens splits of a dataset, image and label (color or None) in the columns named, from Parquet or from disk."""

    def open_saved(splits, image="image", label="label", form="parquet", **fields):
        folder, found = tmp_path / "saved", datasets.DatasetDict()
        for split, labels in splits.items():
            columns = {image: [Image.new("RGB", (6, 4), (number, 0, 0)) for number in range(len(labels))]}
            columns[label] = [color if color is None else Image.new("RGB", (6, 4), color) for color in labels]
            features = datasets.Features(dict.fromkeys(columns, datasets.Image()))
            found[split] = datasets.Dataset.from_dict(columns, features=features)
        if form == "disk":
            found.save_to_disk(folder)
        for split, dataset in found.items() if form != "disk" else ():
            if form == "pandas":  # nothing says that the columns hold images
                dataset = datasets.Dataset(dataset.data.table.replace_schema_metadata(None))
            dataset.to_parquet(folder / f"{split}.parquet")
        (tmp_path / "id2label.json").write_text(json.dumps({0: "sky", 1: "road"}))
        fields = {"id2label": str(tmp_path / "id2label.json")} | fields
        return hf_dataset.open_source(DataArguments(dataset=str(folder), **fields))

    return open_saved


@pytest.mark.parametrize("form", ["parquet", "pandas", "disk"])
def test_a_label_may_be_missing(saved, form):
    source = saved({"train": [(0, 0, 0), None, (1, 1, 1)], "test": [None, None]}, form=form)
    dataset = source.open("train")
    assert dataset.features["label"] == source.labels and dataset["id"][:] == ["train_0", "train_1", "train_2"]
    assert [label is None for label in dataset["label"]] == [False, True, False]
    assert read_label(dataset[2]["label"], source.labels)[0, 0] == 1
    with pytest.raises(
        InputError, match="^label_column: 1 of the 3 examples in split train have no label; remove them"
    ):
        source.open("train", require_labels=True)
    assert source.open("test")["label"][:] == [None, None]


@pytest.mark.parametrize(
    "image, label, fields, note",
    [
        ("image", "annotation", {}, "label_column: annotation, the only column left that holds images"),
        ("pixel_values", "label", {}, "image_column: pixel_values, the only column left that holds images"),
        ("photo", "mask", {"image_column": "photo"}, "label_column: mask, the only column left that holds images"),
        ("photo", "mask", {"image_column": "photo", "label_column": "mask"}, None),
        ("image", "mask", {"label_column": "msk"}, "write label_column: mask"),
        (
            "photo",
            "mask",
            {},
            "no column 'image' in split train, only photo, mask; photo, mask hold images; write image",
        ),
    ],
)
def test_the_only_other_column_of_images_is_the_one(saved, image, label, fields, note):
    source = saved({"train": [(1, 1, 1)], "test": [(1, 1, 1)]}, image, label, **fields)
    if note and "write" in note:
        with pytest.raises(InputError, match=note):
            source.open("train", require_labels=True)
        return
    assert source.notes == ([note] if note else [])
    assert read_label(source.open("train", require_labels=True)[0]["label"], source.labels).max() == 1


def test_a_split_without_labels(path, tmp_path):
    splits = datasets.DatasetDict(
        train=table(path).remove_columns("kind"), extra=table(path).rename_column("kind", "label")
    )
    splits.save_to_disk(tmp_path / "saved")
    classes = {"sky": 0, "road": 1}
    source = hf_dataset.open_source(DataArguments(dataset=str(tmp_path / "saved"), classes=classes))
    for split, message in (
        ("train", "there is no column 'label'"),
        ("extra", "'label' in split extra holds no images"),
    ):
        assert source.open(split).column_names == ["image", "id"]
        with pytest.raises(InputError, match=f"^label_column: .*{message}"):
            source.open(split, require_labels=True)


@pytest.mark.parametrize("form", ["parquet", "pandas"])
def test_labels_of_colors(saved, form):
    classes = {"sky": "#0000ff", "road": ["#ff0000", "#800000"]}
    colors = [(255, 0, 0), (0, 0, 255), (128, 0, 0), (0, 0, 0)]
    source = saved({"train": colors}, form=form, id2label=None, classes=classes, ignore=["#000000"])
    dataset = source.open("train", require_labels=True)
    assert [read_label(label, source.labels)[0, 0] for label in dataset["label"]] == [1, 0, 1, 255]


def test_dataset_that_cannot_be_opened(tmp_path):
    with pytest.raises(InputError, match="dataset: cannot open") as error:
        open_splits(str(tmp_path))
    assert "\n" not in str(error.value)


def test_a_folder_of_plain_files_is_no_dataset(own_folder, tmp_path):
    with pytest.raises(
        InputError, match=f"^dataset: {own_folder} holds .*write dataset: folder and data_dir: {own_folder}$"
    ):
        open_splits(str(own_folder))
    shutil.rmtree(own_folder / "validation")
    names = '"file_name": "images/frame0.png", "label_file_name": "labels/frame0.png"'
    (own_folder / "train/metadata.jsonl").write_text(f"{{{names}}}\n")
    assert open_splits(str(own_folder))["train"].features == dict.fromkeys(("image", "label"), datasets.Image())
    datasets.Dataset.from_dict({"image": ["a"]}).to_parquet(tmp_path / "data/train.parquet")
    Image.new("L", (6, 4)).save(tmp_path / "data/figure.png")
    assert open_splits(str(tmp_path / "data"))["train"].column_names == ["image"]


def test_class_names_in_the_folders_then_on_the_hub(tmp_path, monkeypatch):
    asked = []

    def download(repo_id, filename, repo_type):
        asked.append((repo_id, filename, repo_type))
        if repo_id == "me/none":
            raise LocalEntryNotFoundError("Not in the cache.\n\nEntry Not Found")
        return str(tmp_path / "downloaded.json")

    monkeypatch.setattr(hf_dataset, "hf_hub_download", download)
    (tmp_path / "id2label.json").write_text("{}")
    assert find_id2label("me/mine", str(tmp_path)) == find_id2label(str(tmp_path), None) == tmp_path / "id2label.json"
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="id2label: there is no id2label.json in .*empty; name a JSON file"):
        find_id2label(str(tmp_path / "empty"), None)
    assert not asked
    assert find_id2label("me/mine", None) == tmp_path / "downloaded.json"
    assert asked == [("me/mine", "id2label.json", "dataset")]
    with pytest.raises(
        InputError, match=r"id2label: cannot get .* of me/none from the Hub \(Not in the cache\); name"
    ):
        find_id2label("me/none", None)


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    dataset = datasets.Dataset.from_dict({"image": ["a"]})
    dataset.to_parquet(tmp_path / "data/train.parquet")
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "file/cache")
    with pytest.raises(InputError, match="^HF_DATASETS_CACHE .*file/cache: .*file is a file. Name another folder"):
        open_splits(str(tmp_path / "data"))

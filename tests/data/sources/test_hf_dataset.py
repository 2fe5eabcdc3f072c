"""What `datasets` opens: its columns, and its class names."""

import shutil

import datasets
import pytest
from huggingface_hub.errors import EntryNotFoundError
from PIL import Image

from scl_hf.data.columns import standard_columns
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
    return standard_columns(dataset, columns, None, fields, "name one of them", " in split train", "train_")


@pytest.mark.parametrize(
    "columns, message",
    [
        (
            ("photo", None),
            "^image_column: there is no column 'photo' in split train, only image, text, kind; name one",
        ),
        (("image", "mask"), "^label_column: there is no column 'mask'"),
        (("text", None), r"^image_column: column 'text' holds no images but text; .*cast_column\(…, datasets.Image"),
        (("image", "kind"), "^label_column: column 'kind' holds no images but int64; name one that does"),
    ],
)
def test_columns_that_are_no_images(path, columns, message):
    with pytest.raises(InputError, match=message):
        select(table(path), *columns)


def test_examples_whose_image_is_missing(path):
    with pytest.raises(InputError, match="1 of the 2 examples in split train have no image"):
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
            raise EntryNotFoundError("404 Client Error.\n\nEntry Not Found")
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
        InputError, match=r"id2label: cannot get .* of me/none from the Hub \(404 Client Error\); name"
    ):
        find_id2label("me/none", None)


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    dataset = datasets.Dataset.from_dict({"image": ["a"]})
    dataset.to_parquet(tmp_path / "data/train.parquet")
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "file/cache")
    with pytest.raises(InputError, match="^HF_DATASETS_CACHE .*file/cache: .*file is a file. Name another folder"):
        open_splits(str(tmp_path / "data"))

"""The columns of a dataset of your own."""

import datasets
import numpy as np
import pytest
from PIL import Image

from scl_hf.data import LabelImage
from scl_hf.data.columns import image_dataset
from scl_hf.data.images import read_image, read_label
from scl_hf.errors import InputError

LABELS = LabelImage.of({0: "sky", 1: "road", 2: "car"}, {7: 0, 8: 1, 9: 2})
CHECK_NAME = "^train_dataset: "


@pytest.fixture
def own():
    """Five decoded pairs of a user's own; the image holds its number, the label an id of `LABELS`."""
    images = [Image.new("RGB", (6, 4), (number, 0, 0)) for number in range(5)]
    labels = [Image.new("L", (6, 4), 7 + number % 3) for number in range(5)]
    features = datasets.Features(image=datasets.Image(), label=datasets.Image(), n=datasets.Value("int64"))
    return datasets.Dataset.from_dict({"image": images, "label": labels, "n": range(5)}, features=features)


def contents(rows):
    """Number, id and class of each row."""
    table = rows.features["label"].table
    return [(read_image(row["image"])[0, 0, 0], row["id"], read_label(row["label"], table)[0, 0]) for row in rows]


@pytest.mark.parametrize("decode", [True, False])
def test_rows_of_ones_own(own, decode):
    for column in ("image", "label"):
        own = own.cast_column(column, datasets.Image(decode=decode))
    rows = image_dataset(own, "train_dataset", LABELS)
    assert rows.column_names == ["image", "label", "id"] and rows.features["label"] == LABELS
    assert contents(rows) == [(number, str(number), number % 3) for number in range(5)]
    assert image_dataset(own.with_format("numpy"), "x", LABELS).features == rows.features
    images = image_dataset(own.remove_columns("label"), "unlabeled_dataset")
    assert images.column_names == ["image", "id"] and len(images) == 5


def test_rows_of_ones_own_that_were_selected(own):
    rows = image_dataset(own.select([4, 0, 3]), "train_dataset", LABELS)
    assert contents(rows) == [(4, "4", 1), (0, "0", 0), (3, "3", 0)]
    assert contents(image_dataset(own.rename_column("n", "id").select([2]), "x", LABELS)) == [(2, "2", 2)]
    filtered = own.filter(lambda row: row["n"] > 2)
    assert contents(image_dataset(filtered, "train_dataset", LABELS)) == [(3, "3", 0), (4, "4", 1)]
    without = own.map(lambda row: {"label": None if row["n"] == 0 else row["label"]})
    assert len(image_dataset(without.select([1, 2]), "x", LABELS)) == 2  # no other row matters


def test_rows_that_went_through_once_may_go_through_again(own, tmp_path):
    own.save_to_disk(tmp_path / "saved")
    once = image_dataset(datasets.load_from_disk(tmp_path / "saved"), "train_dataset", LABELS)
    assert image_dataset(once, "train_dataset", LABELS)[:] == once[:]
    assert image_dataset(once.select([1, 0]), "train_dataset")["id"][:] == [once["id"][1], once["id"][0]]


def test_labels_that_say_what_they_mean_are_kept(own):
    theirs = LabelImage.of({0: "a"}, {7: 0, 8: 0, 9: 0})
    rows = image_dataset(own.cast_column("label", theirs), "train_dataset", LABELS)
    assert rows.features["label"] == theirs and not np.any([row[2] for row in contents(rows)])


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda own: datasets.DatasetDict(train=own), r"is a DatasetDict; .*train_dataset=data\['train'\]"),
        (lambda own: own.to_iterable_dataset(), "is a IterableDataset; load it without streaming"),
        (lambda own: list(own), "is a list; give a datasets.Dataset"),
        (
            lambda own: own.rename_column("image", "photo"),
            r"no column 'image', only photo, .*rename_column\(…, 'image'",
        ),
        (lambda own: own.remove_columns("label"), r"no column 'label', only image, n; .*rename_column\(…, 'label'"),
        (
            lambda own: own.remove_columns("label").rename_column("n", "label"),
            "column 'label' holds no images but int",
        ),
        (lambda own: own.with_transform(lambda row: row), "its transform .* would be left out"),
        (
            lambda own: own.map(lambda row: {"image": None if row["n"] else row["image"]}),
            "4 of the 5 examples have no ima",
        ),
        (lambda own: own.map(lambda row: {"label": None}), "5 of the 5 examples have no label; remove them, or use"),
        (lambda own: own.map(lambda row: {"image": {"path": "gone.png", "bytes": None}}), "5 files are empty or miss"),
    ],
)
def test_rows_of_ones_own_that_cannot_be_used(own, change, message):
    with pytest.raises(InputError, match=CHECK_NAME + f".*{message}") as error:
        image_dataset(change(own), "train_dataset", LABELS)
    assert "\n" not in str(error.value)

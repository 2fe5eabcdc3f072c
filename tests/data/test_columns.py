"""The columns of a dataset of your own."""

import datasets
import numpy as np
import pytest
from PIL import Image

from scl_hf.data import LabelImage
from scl_hf.data.columns import image_dataset
from scl_hf.data.images import read_image
from scl_hf.data.labels import read_label
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


def contents(dataset):
    """Number, id and class of each example."""
    labels = dataset.features["label"]
    return [
        (read_image(example["image"])[0, 0, 0], example["id"], read_label(example["label"], labels)[0, 0])
        for example in dataset
    ]


@pytest.mark.parametrize("decode", [True, False])
def test_dataset_of_ones_own(own, decode):
    for column in ("image", "label"):
        own = own.cast_column(column, datasets.Image(decode=decode))
    dataset = image_dataset(own, "train_dataset", LABELS)
    assert dataset.column_names == ["image", "label", "id"] and dataset.features["label"] == LABELS
    assert contents(dataset) == [(number, str(number), number % 3) for number in range(5)]
    assert image_dataset(own.with_format("numpy"), "x", LABELS).features == dataset.features
    images = image_dataset(own.remove_columns("label"), "unlabeled_dataset")
    assert images.column_names == ["image", "id"] and len(images) == 5


def test_selected_examples_of_ones_own(own):
    dataset = image_dataset(own.select([4, 0, 3]), "train_dataset", LABELS)
    assert contents(dataset) == [(4, "4", 1), (0, "0", 0), (3, "3", 0)]
    assert contents(image_dataset(own.rename_column("n", "id").select([2]), "x", LABELS)) == [(2, "2", 2)]
    filtered = own.filter(lambda example: example["n"] > 2)
    assert contents(image_dataset(filtered, "train_dataset", LABELS)) == [(3, "3", 0), (4, "4", 1)]
    without = own.map(lambda example: {"label": None if example["n"] == 0 else example["label"]})
    assert len(image_dataset(without.select([1, 2]), "x", LABELS)) == 2  # no other example matters


def test_a_converted_dataset_may_be_converted_again(own, tmp_path):
    own.save_to_disk(tmp_path / "saved")
    once = image_dataset(datasets.load_from_disk(tmp_path / "saved"), "train_dataset", LABELS)
    assert image_dataset(once, "train_dataset", LABELS)[:] == once[:]
    assert image_dataset(once.select([1, 0]), "train_dataset")["id"][:] == [once["id"][1], once["id"][0]]


def test_labels_that_say_what_they_mean_are_kept(own):
    theirs = LabelImage.of({0: "a", 1: "b"}, {7: 0, 8: 0, 9: 0, 1: 1})
    dataset = image_dataset(own.cast_column("label", theirs), "train_dataset", LABELS)
    assert dataset.features["label"] == theirs and not np.any([example[2] for example in contents(dataset)])


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
        (lambda own: own.with_transform(lambda example: example), "its transform .* would be left out"),
        (
            lambda own: own.map(lambda example: {"image": None if example["n"] else example["image"]}),
            "4 of the 5 examples have no ima",
        ),
        (
            lambda own: own.map(lambda example: {"label": None}),
            "5 of the 5 examples have no label; remove them, or use",
        ),
        (
            lambda own: own.map(lambda example: {"image": {"path": "gone.png", "bytes": None}}),
            "5 files are empty or miss",
        ),
    ],
)
def test_dataset_of_ones_own_that_cannot_be_used(own, change, message):
    with pytest.raises(InputError, match=CHECK_NAME + f".*{message}") as error:
        image_dataset(change(own), "train_dataset", LABELS)
    assert "\n" not in str(error.value)

"""The columns of a dataset of your own."""

import datasets
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from scl_hf.data import LabelImage
from scl_hf.data.columns import check_labels, image_columns, image_dataset, with_names
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


@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize(
    "choose",
    [
        lambda own: own.filter(lambda n: 0 < n < 4, input_columns="n"),
        lambda own: own.filter(lambda n: n != 2, input_columns="n"),
        lambda own: own.filter(lambda n: True, input_columns="n"),
        lambda own: own.select(range(1, 4)),
        lambda own: own.select(np.array([3, 0], np.uint64)).select([1]),
        lambda own: own.shuffle(seed=0),
        lambda own: own.sort("n", reverse=True),
        lambda own: own.shard(2, 1),
        lambda own: own.train_test_split(0.4, seed=0)["test"],
        lambda own: own.train_test_split(0.4, shuffle=False)["train"].skip(1),
        lambda own: datasets.concatenate_datasets([own, own.shuffle(seed=1)]).filter(lambda example: example["n"] > 1),
        lambda own: datasets.concatenate_datasets([own.select([4, 2]), own.filter(lambda example: not example["n"])]),
    ],
)
def test_what_was_chosen_in_any_way(own, tmp_path, choose, saved):
    if saved:
        own.save_to_disk(tmp_path / "saved")
        own = datasets.load_from_disk(tmp_path / "saved")
    chosen = choose(own)
    found = contents(image_dataset(chosen, "train_dataset", LABELS))
    assert [(n, label) for n, _, label in found] == [(n, n % 3) for n in chosen["n"]]


@pytest.mark.parametrize(
    "kind",
    [
        pa.struct({"bytes": pa.binary(), "path": pa.string()}),
        pa.struct({"path": pa.null(), "bytes": pa.large_binary(), "height": pa.int64()}),
        pa.struct({"bytes": pa.binary()}),
        pa.binary(),
        pa.large_binary(),
    ],
)
def test_bytes_are_images(own, kind):
    files = [
        {"bytes": example[name]["bytes"], "path": None, "height": 4}
        for name in ("image", "label")
        for example in own.cast_column(name, datasets.Image(decode=False))
    ]
    if pa.types.is_struct(kind):
        files = [{field.name: file[field.name] for field in kind} for file in files]
    else:
        files = [file["bytes"] for file in files]
    table = pa.table({"image": pa.array(files[:5], kind), "label": pa.array([*files[5:9], None], kind)})
    dataset = datasets.Dataset(table)
    assert image_columns(dataset.features) == ["image", "label"]
    assert contents(image_dataset(dataset.select([3, 1]), "x", LABELS)) == [(3, "3", 0), (1, "1", 1)]
    with pytest.raises(InputError, match="^x: 1 of the 5 examples have no label"):
        image_dataset(dataset, "x", LABELS)


def test_the_lines_that_messages_name_work(own):
    some = own.map(lambda example: {"label": None if example["n"] == 1 else example["label"]})
    some = some.filter(lambda label: label is not None, input_columns="label")
    assert [n for n, _, _ in contents(image_dataset(some, "x", LABELS))] == [0, 2, 3, 4]
    arrays = own.remove_columns("label").add_column("label", [[[7 + n % 3] * 6] * 4 for n in range(5)])
    cast = arrays.cast_column("label", datasets.Image())
    assert contents(image_dataset(cast, "x", LABELS)) == contents(image_dataset(own, "x", LABELS))


def test_images_without_a_path_are_named_by_number_and_id():
    example = {"image": {"path": None, "bytes": b""}, "label": {"path": "a.png", "bytes": b""}, "id": "train_7"}
    named = with_names(example, 3)
    assert named["image"]["path"] == "the image of labeled example 3 (id train_7)" and example["image"]["path"] is None
    assert named["label"] == example["label"]
    del example["label"]
    assert with_names(example, 3)["image"]["path"] == "the image of unlabeled example 3 (id train_7)"


def test_labels_that_show_nothing(own):
    dataset = image_dataset(own, "x", LabelImage.of({0: "sky", 1: "road"}, {1: 0, 2: 1}))
    with pytest.raises(InputError, match=r"^the label of labeled example 0 \(id 0\): unknown class id 7"):
        check_labels(dataset, "x")


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
            r"no column 'image', only photo, .*; photo holds images; write train_dataset.rename_column\('photo', 'im",
        ),
        (
            lambda own: own.remove_columns("label"),
            r"no column 'label', only image, n; write train_dataset.rename_column\('COLUMN', 'label'",
        ),
        (
            lambda own: own.rename_columns({"label": "mask", "n": "label"}),
            "column 'label' holds no images but int64; mask holds images; write "
            r"train_dataset.remove_columns\('label'\).rename_column\('mask', 'label'\)$",
        ),
        (
            lambda own: own.cast_column("n", datasets.ClassLabel(5)).rename_columns({"label": "a", "n": "label"}),
            "'label' holds no images but int64; a holds images",
        ),
        (
            lambda own: own.map(lambda example: {"b": example["image"]}).rename_column("label", "a"),
            r"no column 'label', only image, a, n, b; a, b hold images; write train_dataset.rename_column\('COLUMN'",
        ),
        (
            lambda own: own.remove_columns("label").add_column("label", [[[7] * 6] * 4] * 5),
            r"'label' holds no images but arrays; write cast_column\('label', datasets.Image\(\)\) if it holds pix",
        ),
        (
            lambda own: own.remove_columns("label").add_column("label", ["a.png"] * 5),
            r"'label' holds no images but text; write cast_column\('label', datasets.Image\(\)\) if it holds paths$",
        ),
        (lambda own: own.with_transform(lambda example: example), "its transform .* would be left out"),
        (
            lambda own: own.map(lambda example: {"image": None if example["n"] else example["image"]}),
            "4 of 5 examples have no ima",
        ),
        (
            lambda own: own.map(lambda example: {"label": None if example["n"] else example["label"]}),
            "4 of the 5 examples have no label; leave them out with train_dataset.filter",
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

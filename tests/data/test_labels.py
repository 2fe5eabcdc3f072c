import dataclasses
import json

import datasets
import numpy as np
import pytest
from PIL import Image

from scl_hf.data.labels import LabelImage, read_id2label, read_label_map
from scl_hf.errors import InputError

CLASSES = {0: "sky", 1: "road", 2: "car"}


@pytest.mark.parametrize(
    "names, message",
    [
        ({"7": "road", "11": "car"}, r'gap; .*{"0": "road", "1": "car", …}.*label_map: {7: 0, 11: 1, …}'),
        ({"1": "road"}, r"label_map: {1: 0, …}"),
        ({}, "holds 0 classes"),
        ({str(index): str(index) for index in range(256)}, "holds 256 classes, there can be 1 to 255"),
        ({"0": "road", "1": "road"}, "'road' is the name of two classes"),
        (["road"], "is not a table of class names"),
        ({"0": None}, "the name of class 0 is no text"),
        ({"0": " "}, "the name of class 0 is no text"),
        ({"road": 0}, "is not a table of class names"),
        (None, "id2label: there is no file"),
    ],
)
def test_class_names_that_are_no_use(tmp_path, names, message):
    path = tmp_path / "id2label.json"
    if names is not None:
        path.write_text(json.dumps(names))
    with pytest.raises(InputError, match=message) as error:
        read_id2label(path)
    assert "\n" not in str(error.value) and "id2label" in str(error.value)


def test_a_class_that_is_named_twice(tmp_path):
    (tmp_path / "names.json").write_text('{"0": "sky", "1": "road", "0": "car"}')
    with pytest.raises(InputError, match="names.json: an id is given twice"):
        read_id2label(tmp_path / "names.json")


def test_class_names_may_begin_with_a_byte_order_mark(tmp_path):
    (tmp_path / "names.json").write_text('{"0": "sky", "1": "road"}', encoding="utf-8-sig")
    assert read_id2label(tmp_path / "names.json") == {0: "sky", 1: "road"}


def test_class_names_are_in_the_order_of_their_ids(tmp_path):
    (tmp_path / "id2label.json").write_text('{"2": "car", "0": "sky", "1": "road"}')
    assert list(read_id2label(tmp_path / "id2label.json").items()) == list(CLASSES.items())


def test_label_map_of_yaml_and_of_the_command_line():
    assert read_label_map({7: 0, "8": 1}) == read_label_map('{"7": 0, "8": 1}') == {7: 0, 8: 1}


@pytest.mark.parametrize(
    "value, message",
    [
        ("{7: 0}", "is not JSON"),
        ("[1]", r"\[1\] is not a mapping"),
        ({}, "{} is not a mapping"),
        ({"road": 0}, "whole numbers"),
        ({7: 0.5}, "whole numbers"),
        ({7: True}, "whole numbers"),
        ({7: 0, "7": 1}, "names an id twice"),
        ({65536: 0}, "no label file can hold the id 65536, only 0 to 65535"),
    ],
)
def test_label_map_that_is_none(value, message):
    with pytest.raises(InputError, match=f"^label_map: .*{message}"):
        read_label_map(value)


def test_table_of_labels_with_train_ids():
    table = LabelImage.of(CLASSES).table
    assert table[[0, 1, 2, 255]].tolist() == [0, 1, 2, 255] and (np.delete(table, [0, 1, 2, 255]) == -1).all()
    assert LabelImage.of(CLASSES, ignore_index=9).table[[9, 255]].tolist() == [255, -1]


def test_table_of_labels_with_other_ids():
    table = LabelImage.of(CLASSES, {65535: 0, 255: 1, 8: 2, 9: 2, 10: 255}, ignore_index=0).table
    assert table[[65535, 255, 8, 9, 10, 0]].tolist() == [0, 1, 2, 2, 255, 255] and (table >= 0).sum() == 6


@pytest.mark.parametrize(
    "label_map, ignore_index, message",
    [
        ({7: 0, 8: 1, 9: 3}, 255, "^label_map: maps 9 to 3, but the classes are 0 to 2; .*map 9 to 255"),
        ({7: 0, 8: 1, 9: -1}, 255, "^label_map: maps 9 to -1"),
        ({7: 0, 8: 1}, 255, r"^label_map: no id is mapped to class 2 \('car'\); .* ID: 2"),
        ({0: 0, 1: 1, 2: 2}, 0, "^ignore_index: 0 is the id of class 'sky', too; take 0 out of label_map"),
        ({1: 0, 2: 1, 255: 2}, 255, "^ignore_index: 255 is the id of class 'car', too; .*an id that no class has"),
        (None, 0, r"^ignore_index: 0 is the id of class 'sky', too; .*label_map: {1: 0, 2: 1, …}"),
    ],
)
def test_ids_that_contradict_the_classes(label_map, ignore_index, message):
    with pytest.raises(InputError, match=message) as error:
        LabelImage.of(CLASSES, label_map, ignore_index)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("classes", [0, 256])
def test_as_many_classes_as_a_byte_holds(classes):
    with pytest.raises(InputError, match=f"^id2label: holds {classes} classes, there can be 1 to 255"):
        LabelImage.of({i: f"class {i}" for i in range(classes)})


def test_a_column_of_labels_knows_its_classes(tmp_path):
    labels = LabelImage.of(CLASSES, {7: 0, 8: 1, 9: 2})
    for value in (7, 9):
        Image.new("L", (2, 2), value).save(tmp_path / f"{value}.png")
    dataset = datasets.Dataset.from_dict({"label": [str(tmp_path / f"{value}.png") for value in (7, 9)]})
    dataset = dataset.cast_column("label", labels)
    dataset.save_to_disk(tmp_path / "saved")
    dataset = datasets.load_from_disk(tmp_path / "saved")
    assert dataset.features["label"] == labels and dataset.features["label"].id2label == CLASSES
    assert dataset[0]["label"] == {"path": "7.png", "bytes": (tmp_path / "7.png").read_bytes()}
    decoded = dataset.cast_column("label", dataclasses.replace(labels, decode=True))
    assert [np.asarray(label)[0, 0] for label in decoded["label"]] == [0, 2]

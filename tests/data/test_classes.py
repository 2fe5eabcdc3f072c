import json

import numpy as np
import pytest
import yaml
from PIL import Image

from scl_hf.data.classes import fields_of, missing_classes_problem, read_classes, read_id2label, read_label_map
from scl_hf.data.labels import LabelImage
from scl_hf.errors import InputError

CLASSES = {0: "sky", 1: "road", 2: "car"}


@pytest.mark.parametrize(
    "classes, ignore, train_ids",
    [
        ({"background": 0, "nucleus": 255}, None, {0: 0, 255: 1}),
        ({"background": "0", "nucleus": "1-65535"}, [], {0: 0, "1-65535": 1}),
        ({"sky": 0, "road": [1, 2, 7, 8]}, ["254", "#000"], {0: 0, 1: 1, 2: 1, 7: 1, 8: 1, 254: 255, "#000000": 255}),
        ({"sky": [0, 0, 0], "road": [128, 64, 32]}, None, {"#000000": 0, "#804020": 1}),
        ({"sky": [1, 2, 3], "road": 9}, 255, {"#010203": 0, 1: 0, 2: 0, 3: 0, 9: 1, 255: 255}),
        (
            {"sky": ["#F00", "#00ff00"], "road": "#0000FF"},
            "[1, 2, 3]",
            {"#ff0000": 0, "#00ff00": 0, "#0000ff": 1, "#010203": 255},
        ),
        ({"sky": [[1, 2, 3], [3, 2, 1]], "road": 9}, None, {"#010203": 0, "#030201": 0, 9: 1}),
    ],
)
def test_what_stands_for_a_class(tmp_path, classes, ignore, train_ids):
    assert read_classes(classes, ignore).train_ids == train_ids
    assert read_classes(json.dumps(classes), ignore).names == list(classes)
    (tmp_path / "classes.json").write_text(json.dumps({"classes": classes, "ignore": ignore}))
    assert read_classes(str(tmp_path / "classes.json")).train_ids == train_ids


@pytest.mark.parametrize(
    "classes, ignore, message",
    [
        ({"road": 0}, None, r"holds 1 class, 'road', .*classes: {background: 255, road: 0}"),
        ({"road": 7}, None, r"holds 1 class, 'road', .*classes: {background: 0, road: 7}"),
        ({}, None, "holds 0 classes"),
        ([1, 2], None, "no mapping of names"),
        ({0: "sky", 1: "road"}, None, "0 is no name of a class; write it as {sky: 0"),
        ({"sky": None, "road": 1}, None, "sky: None is no id.*colors in quotes"),
        ({"sky": "blue", "road": 1}, None, "sky: 'blue' is no id, range or color"),
        ({"sky": True, "road": 1}, None, "sky: True is no id"),
        ({"sky": -1, "road": 1}, None, "sky: -1 is no id"),
        ({"sky": "9-1", "road": 0}, None, "sky: '9-1' is no id"),
        ({"sky": "#ggg", "road": 0}, None, "sky: '#ggg' is no id"),
        ({"sky": 0, "road": "0-9"}, None, "0 of 'sky' and 0-9 of 'road' overlap"),
        ({"sky": "#f00", "road": "#ff0000"}, None, "#ff0000 of 'sky' and #ff0000 of 'road' overlap"),
        (
            {"sky": 0, "road": 255},
            [255],
            r"255 .* is ignored, too; .*{road: 255, …}.*ignore: \[255\]",
        ),
        ("gone.yaml", None, "cannot read gone.yaml"),
    ],
)
def test_classes_that_are_none(classes, ignore, message):
    with pytest.raises(InputError, match=f"classes: .*{message}|gone.yaml") as error:
        read_classes(classes, ignore)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "names, message",
    [
        ({"7": "road", "11": "car"}, r'gap; .*{"0": "road", "1": "car", …}.*label_map: {7: 0, 11: 1, …}'),
        ({"1": "road", "2": "car"}, r"label_map: {1: 0, 2: 1, …}"),
        ({}, "holds 0 classes"),
        ({str(index): str(index) for index in range(256)}, "holds 256 classes, there can be 2 to 255"),
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
    for given in (path, names, names and json.dumps(names)) if isinstance(names, dict) else (path,):
        with pytest.raises(InputError, match=message) as error:
            read_id2label(given)
        assert "\n" not in str(error.value) and "id2label" in str(error.value)


def test_a_class_that_is_named_twice(tmp_path):
    (tmp_path / "names.json").write_text('{"0": "sky", "1": "road", "0": "car"}')
    with pytest.raises(InputError, match="names.json: an id is given twice"):
        read_id2label(tmp_path / "names.json")


def test_class_names_of_yaml_and_of_the_command_line():
    assert (
        read_id2label({1: "road", "0": "sky"}) == read_id2label('{"1": "road", "0": "sky"}') == {0: "sky", 1: "road"}
    )
    for twice in ({0: "sky", "0": "road"}, '{"0": "sky", "0": "road"}'):
        with pytest.raises(InputError, match="^id2label: an id is given twice"):
            read_id2label(twice)
    with pytest.raises(InputError, match="^id2label: is not a table of class names"):
        read_id2label({True: "sky", False: "road"})


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


@pytest.mark.parametrize(
    "classes, ignore",
    [
        ({"sky": 7, "road": [8, 9]}, None),
        ({"a: b": [1, 5, 9], "yes": "#ff0000", "1": "20-90000"}, ["#000000", 10]),
        ({"sky": 0, "road": 1}, [4, 5, 6]),
    ],
)
def test_fields_of_a_feature_read_as_the_feature(classes, ignore):
    labels = read_classes(classes, ignore)
    fields = yaml.safe_load(yaml.safe_dump(fields_of(labels), sort_keys=False))
    again = read_classes(fields["classes"], fields.get("ignore"))
    assert again.names == labels.names and again.colors == labels.colors
    assert (again.table == labels.table).all() and fields_of(again) == fields


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_missing_classes_and_what_to_write(tmp_path, mode):
    pixels = np.repeat(np.uint8([0, 255]), 50).reshape(10, 10)
    Image.fromarray(pixels).convert(mode).save(tmp_path / "a.png")
    labels, paths = LabelImage.of({0: "sky", 1: "car", 2: "bus"}), [tmp_path / "a.png", tmp_path / "none.png"]
    assert missing_classes_problem(labels, [0, 1, 2, 255], paths) is None
    assert missing_classes_problem(labels, [0, 1], paths) == (
        "no label shows {bus: 2}; of the pixels 50% are 0, 50% are 255 (ignored); if 255 is bus, write "
        "classes: {sky: 0, car: 1, bus: 255} in place of label_map and ignore_index, or leave out what is not there, "
        "classes: {sky: 0, car: 1}, ignore: [255], or correct the labels"
    )
    many = LabelImage.of({i: f"c{i}" for i in range(20)})
    problem = missing_classes_problem(many, range(10), paths)
    assert "{c10: 10, c11: 11, " in problem and "c17: 17, …}" in problem and "write classes" not in problem

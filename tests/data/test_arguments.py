import pytest

from scl_hf.cli import RecipeParser
from scl_hf.data import DataArguments
from scl_hf.errors import InputError

RECIPE = """
classes:
  background: 0
  nucleus: [255, 7-9, "#ff0000", [0, 255, 0]]
ignore: {}
"""


@pytest.mark.parametrize(
    "ignore, ignored",
    [("254", [254]), ("[254, 3]", [254, 3]), ('["#000"]', ["#000000"]), ("[[1, 2, 3]]", ["#010203"])],
)
def test_classes_of_a_recipe(tmp_path, ignore, ignored):
    (tmp_path / "mine.yaml").write_text(RECIPE.format(ignore))
    (args,) = RecipeParser((DataArguments,)).parse_recipe([str(tmp_path / "mine.yaml")])
    labels = args.labels(tmp_path)
    assert labels.names == ["background", "nucleus"]
    nucleus = {255: 1, "7-9": 1, "#ff0000": 1, "#00ff00": 1}
    assert labels.train_ids == {0: 0} | nucleus | dict.fromkeys(ignored, 255)


def test_classes_of_a_command_line():
    words = ["--classes", '{"sky": 0, "road": [1, 2]}', "--ignore", "9", "#00f"]
    (args,) = RecipeParser((DataArguments,)).parse_recipe(words)
    assert args.labels(None).train_ids == {0: 0, 1: 1, 2: 1, 9: 255, "#0000ff": 255}


def test_reduced_labels(tmp_path):
    (tmp_path / "names.json").write_text('{"0": "wall", "1": "tree"}')
    args = DataArguments(id2label=str(tmp_path / "names.json"), reduce_labels=True)
    assert args.labels(None).train_ids == {1: 0, 2: 1, 0: 255, 255: 255}


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"classes": {"a": 0, "b": 1}, "id2label": "x.json"}, "classes and id2label: .*leave one of them out"),
        ({"classes": {"a": 0, "b": 1}, "label_map": {1: 0}}, "classes and label_map: "),
        ({"classes": {"a": 0, "b": 1}, "reduce_labels": True}, "classes and reduce_labels: "),
        ({"id2label": "x.json", "label_map": {1: 0}, "reduce_labels": True}, "label_map and reduce_labels: "),
        ({"classes": {"a": 0, "b": 1}, "ignore_index": 9}, r"ignore_index: .*classes write ignore: \[9\]"),
    ],
)
def test_classes_that_are_said_twice(fields, message):
    with pytest.raises(InputError, match=message):
        DataArguments(**fields)

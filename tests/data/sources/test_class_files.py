"""Files of class names as common tools write them, and what is said where there is none."""

import numpy as np
import pytest
from PIL import Image

from scl_hf.data import DataArguments
from scl_hf.data.labels import read_label
from scl_hf.data.sources.layouts import open_source
from scl_hf.errors import InputError

# The file, the pixels of a label, the names, and what the pixels are read as
FILES = {
    "class_names.txt": ("__ignore__\n_background_\ncat\n", [255, 0, 1], ["_background_", "cat"], [255, 0, 1]),
    "classes.txt": ("1: sky\n2: road\n", [2, 1, 0], ["sky", "road"], [1, 0, 255]),
    "codes.txt": ("Sky\r\nRoad\r\n\r\nVoid\r\n", [0, 2, 255], ["Sky", "Road", "Void"], [0, 2, 255]),
    "labels.txt": ("1: sky\n0: road\n", [1, 0, 255], ["sky", "road"], [0, 1, 255]),
    "class_dict.csv": (
        "name, r, g, b\nsky,128,128,128\nroad,128,64,128\n",
        [(128, 64, 128), (128, 128, 128)],
        ["sky", "road"],
        [1, 0],
    ),
    "train/_classes.csv": ("Pixel Value, Class\n0, background\n 2, cell\n", [2, 0], ["background", "cell"], [1, 0]),
    "labelmap.txt": (
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncar:128,0,0::wheels\n",
        [(128, 0, 0), (0, 0, 0)],
        ["background", "car"],
        [1, 0],
    ),
    "objectInfo150.txt": (
        "Idx\tRatio\tTrain\tVal\tStuff\tName\n1\t0.1\t9\t1\t1\twall\n2\t0.1\t9\t1\t1\tbuilding, edifice\n"
        "3\t0.1\t9\t1\t1\tscreen, door\n4\t0.1\t9\t1\t0\tscreen, silver screen\n",
        [0, 2, 4],
        ["wall", "building", "screen, door", "screen, silver screen"],
        [255, 1, 3],
    ),
}


def put_label(root, pixels, folder="masks"):
    for kind, array in ((folder, np.array([pixels], np.uint8)), ("images", np.zeros((1, len(pixels)), np.uint8))):
        (root / "train" / kind).mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(root / "train" / kind / "a.png")


def open_labels(root, **fields):
    source = open_source(DataArguments(dataset="folder", data_dir=str(root), **fields))
    label = source.open("train")[0]["label"]
    return source, read_label(label, source.labels)[0].tolist()


@pytest.mark.parametrize("file", FILES)
def test_file(tmp_path, file):
    text, pixels, names, expected = FILES[file]
    put_label(tmp_path, pixels)
    (tmp_path / file).write_text(text)
    source, label = open_labels(tmp_path)
    assert source.labels.names == names and label == expected and source.notes[-1] == f"classes from {file}"


def test_precedence(tmp_path):
    put_label(tmp_path, [0, 1, 7])
    (tmp_path / "classes.txt").write_text("sky\nroad\n")
    (tmp_path / "labels.txt").write_text("images/a.png\n")
    (tmp_path / "class_dict.csv").write_text("name,r,g,b\nother,1,2,3\nmore,4,5,6\n")
    source, label = open_labels(tmp_path, ignore=[7])
    assert source.labels.names == ["sky", "road"] and label == [0, 1, 255]
    source, label = open_labels(tmp_path, label_map={0: 1, 1: 0, 7: 255})
    assert source.labels.names == ["sky", "road"] and label == [1, 0, 255]
    (tmp_path / "id2label.json").write_text('{"0": "a", "1": "b"}')
    assert open_source(DataArguments(dataset="folder", data_dir=str(tmp_path))).labels.names == ["a", "b"]
    classes = {"x": 0, "y": [1, 7]}
    assert open_labels(tmp_path, classes=classes)[1] == [0, 1, 1]
    (tmp_path / "id2label.json").unlink()
    (tmp_path / "classes.txt").unlink()
    (tmp_path / "class_dict.csv").write_text("name,r,g,b\nother,1\n")
    with pytest.raises(InputError, match=r"class_dict.csv: cannot be read \(.*\); write classes: \{NAME: 0, …\}"):
        open_labels(tmp_path)


def test_pascal_voc(tmp_path):
    for folder in ("JPEGImages", "SegmentationClass"):
        (tmp_path / folder).mkdir()
        Image.fromarray(np.array([[0, 20, 255]], np.uint8)).save(tmp_path / folder / "a.png")
    source, label = open_labels(tmp_path)
    assert label == [0, 20, 255] and source.labels.names[20] == "tvmonitor"
    assert source.notes[-1] == "classes from Pascal VOC"


@pytest.mark.parametrize(
    "pixels, said",
    [
        ([0, 3, 255], "1 of its labels hold the values 0, 3, 255: write classes: {NAME: 0, NAME: 3}, ignore: [255]"),
        ([0, 255], "hold the values 0, 255: write classes: {NAME: 0, NAME: 255}"),
        ([255], "hold the values 255: write classes: {NAME: 255, NAME: a value of others}"),
        ([(0, 0, 255), (255,) * 3], 'values 255, "#0000ff": write classes: {NAME: 255, NAME: "#0000ff"}'),
        ([(255, 0, 0), (0, 0, 0)], 'hold the values 0, "#ff0000": write classes: {NAME: 0, NAME: "#ff0000"}'),
    ],
)
def test_without_a_file(tmp_path, caplog, pixels, said):
    put_label(tmp_path, pixels)
    with pytest.raises(InputError) as error:
        open_labels(tmp_path)
    assert "train: 1 image such as train/images/a.png, 1 label such as train/masks/a.png" in caplog.text
    assert said in str(error.value) and str(error.value).startswith(
        f"{tmp_path}: no id2label.json or other file names"
    )

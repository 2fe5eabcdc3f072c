import json

import numpy as np
import pytest
from PIL import Image

from scl_hf.data import DataArguments
from scl_hf.data.labels import read_pair
from scl_hf.data.sources.mapillary import open_source, read_classes
from scl_hf.errors import InputError

# As in the official files: ids are positions, and a readable name may occur twice.
LABELS = [
    ("animal--bird", "Bird", [165, 42, 42], True),
    ("construction--barrier--ambiguous", "Barrier", [90, 120, 150], False),
    ("construction--barrier--wall", "Barrier", [102, 102, 156], True),
    ("nature--sky", "Sky", [70, 130, 180], True),
    ("void--unlabeled", "Unlabeled", [0, 0, 0], False),
]
FIRST = {"v1.2": ("labels", "config.json")}
SECOND = {version: (f"{version}/labels", f"config_{version}.json") for version in ("v1.2", "v2.0")}


def make_tree(root, form):
    for folder, names in {"training": "ba", "validation": "c", "testing": "d"}.items():
        (root / folder / "images").mkdir(parents=True)
        for name in names:
            Image.new("RGB", (6, 4)).save(root / folder / "images" / f"{name}.jpg")
            for labels, _ in form.values() if folder != "testing" else ():
                (root / folder / labels).mkdir(parents=True, exist_ok=True)
                label = Image.fromarray(np.arange(24, dtype=np.uint8).reshape(4, 6) % len(LABELS), "P")
                label.putpalette([channel for *_, color, _ in LABELS for channel in color])
                label.save(root / folder / labels / f"{name}.png")
    for _, config in form.values():
        labels = [dict(zip(("name", "readable", "color", "evaluate"), row), instances=False) for row in LABELS]
        (root / config).write_text(json.dumps({"labels": labels, "version": "1.2"}))
    return root


def open_splits(root, version="v1.2"):
    source = open_source(DataArguments(dataset="mapillary", dataset_config=version, data_dir=str(root)))
    return {split: source.open(split, split in source.labeled_splits) for split in source.splits}


@pytest.mark.parametrize(("form", "version"), [(FIRST, "v1.2"), (SECOND, "v1.2"), (SECOND, "v2.0")])
def test_both_releases(tmp_path, form, version):
    root = make_tree(tmp_path, form)
    splits, (labels, _) = open_splits(root, version), read_classes(root, version)
    assert {split: dataset["id"][:] for split, dataset in splits.items()} == {
        "train": ["a", "b"],
        "validation": ["c"],
        "test": ["d"],
    }
    row = splits["train"][1]
    assert row["image"]["path"] == str(root / "training/images/b.jpg")
    assert row["label"]["path"] == str(root / "training" / form[version][0] / "b.png")
    assert splits["test"]["label"][:] == [None]
    _, label = read_pair(row, {"label": labels})
    assert label.ravel()[:6].tolist() == [0, 255, 1, 2, 255, 0]


def test_the_classes_are_those_evaluated(tmp_path):
    labels, palette = read_classes(make_tree(tmp_path, FIRST))
    assert labels.id2label == {0: "Bird", 1: "construction--barrier--wall", 2: "Sky"}
    assert palette.dtype == np.uint8 and palette.tolist() == [LABELS[i][2] for i in (0, 2, 3)]
    assert labels.table[:5].tolist() == [0, 255, 1, 2, 255] and (labels.table[5:] == -1).all()


def test_a_missing_label_is_named(tmp_path):
    root = make_tree(tmp_path, FIRST)
    (root / "config_v2.0.json").write_text((root / "config.json").read_text())
    with pytest.raises(InputError, match="a.jpg: its label is missing, looked for .*training/v2.0/labels/a.png"):
        open_splits(root, "v2.0")
    (root / "validation/labels/c.png").unlink()
    with pytest.raises(InputError, match="c.jpg: its label is missing, looked for .*validation/labels/c.png"):
        open_splits(root)


def test_missing_folders_and_versions_are_named(tmp_path):
    with pytest.raises(InputError, match="there is no folder .*nowhere"):
        open_splits(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"looked for {training,validation,testing}/images/\*.jpg"):
        open_splits(tmp_path)
    with pytest.raises(InputError, match="dataset_config: .*the versions v1.2 and v2.0, not v3"):
        open_splits(tmp_path, "v3")


def test_a_class_table_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match="looked for .*config_v1.2.json and .*config.json"):
        read_classes(tmp_path)
    for text in ("no JSON", "[]", '{"labels": [{"name": "sky"}]}', '{"labels": []}', '{"labels": [7]}'):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(InputError, match="config.json: is not the class table of Mapillary Vistas") as error:
            read_classes(tmp_path)
        assert "\n" not in str(error.value)

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import toy_dataset as streets
from PIL import Image
from toy_dataset import coarsen, draw_toy_dataset

from scl_hf.data.sources.cityscapes import DRAWN_MARKER

SCRIPT = Path(__file__).parents[2] / "scripts" / "prepare_dataset.py"
TRAINED = {7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33}
COUNTS = {"num_train": 10, "num_train_extra": 12, "num_val": 6, "num_test": 2}
SMALL = {"width": 96, "height": 48, "num_train": 2, "num_train_extra": 1, "num_val": 1, "num_test": 1}


def contents(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*.png"))}


@pytest.fixture(scope="module")
def toy_dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "streets"
    draw_toy_dataset(root, **COUNTS)
    return root


def labels(toy_dataset, pattern):
    return {path.name.split("_gt")[0]: np.asarray(Image.open(path)) for path in sorted(toy_dataset.glob(pattern))}


def test_layout_names_and_formats_are_those_of_cityscapes(toy_dataset):
    for split in ("train", "val", "test", "train_extra"):
        images = sorted((toy_dataset / "leftImg8bit" / split).glob("*/*_leftImg8bit.png"))
        assert len(images) == COUNTS[f"num_{split}"]
        for path in images:
            city, sequence, frame, _ = path.stem.split("_")
            assert city == path.parent.name and len(sequence) == len(frame) == 6
            with Image.open(path) as image:
                assert (image.format, image.mode, image.size) == ("PNG", "RGB", (160, 80))
            for kind, present in (("gtFine", split != "train_extra"), ("gtCoarse", split != "test")):
                label = toy_dataset / kind / split / city / f"{city}_{sequence}_{frame}_{kind}_labelIds.png"
                assert label.exists() == present
                if present:
                    with Image.open(label) as image:
                        assert (image.format, image.mode, image.size) == ("PNG", "L", (160, 80))
    assert {path.name for path in toy_dataset.iterdir()} == {"leftImg8bit", "gtFine", "gtCoarse", DRAWN_MARKER}
    assert [path.name for path in toy_dataset.parent.iterdir()] == ["streets"]  # the unfinished folder is gone


def test_no_city_is_in_two_splits(toy_dataset):
    cities = [path.name for path in (toy_dataset / "leftImg8bit").glob("*/*")]
    assert len(cities) == len(set(cities)) > 10


def test_training_images_show_one_city_on_clear_days(toy_dataset, tmp_path, monkeypatch):
    assert len([*(toy_dataset / "leftImg8bit/train").iterdir()]) == 1
    kinds, sample_light = [], streets.sample_light
    monkeypatch.setattr(streets, "sample_light", lambda rng, given: kinds.append(given) or sample_light(rng, given))
    draw_toy_dataset(tmp_path / "a", **SMALL)
    assert kinds == [["clear"]] * 2 + [streets.LIGHT] * 3


def test_all_classes_occur_and_only_ids_of_cityscapes(toy_dataset):
    drawn = [set(np.unique(label).tolist()) for label in labels(toy_dataset, "gtFine/train/*/*").values()]
    ids = set().union(*drawn)
    assert TRAINED <= ids <= set(range(34)) and ids - TRAINED
    for rare in (25, 27, 28, 31, 32):
        assert 0 < sum(rare in found for found in drawn) <= 4
    # Thin things keep their pixels: they are drawn at least one pixel wide.
    assert sum((label == 17).sum() for label in labels(toy_dataset, "gtFine/train/*/*").values()) > 500


def test_labels_of_the_test_split_are_dummies(toy_dataset):
    for label in labels(toy_dataset, "gtFine/test/*/*").values():
        assert set(np.unique(label).tolist()) <= {0, 1}


def test_edges_of_the_labels_are_edges_of_the_image(toy_dataset):
    for path in (toy_dataset / "gtFine/train").glob("*/*.png"):
        label = np.asarray(Image.open(path))
        name = path.name.replace("gtFine_labelIds", "leftImg8bit")
        image = np.asarray(Image.open(toy_dataset / "leftImg8bit/train" / path.parent.name / name))
        step = np.abs(np.diff(image.astype(float), axis=1)).sum(-1)
        border = label[:, 1:] != label[:, :-1]
        assert step[border].mean() > 1.3 * step[~border].mean()


def test_coarse_labels_are_sparser_and_agree_with_the_fine_ones(toy_dataset):
    fine, coarse = labels(toy_dataset, "gtFine/[tv]*/*/*"), labels(toy_dataset, "gtCoarse/[tv]*/*/*")
    for key in fine.keys() & coarse.keys():
        annotated = coarse[key] > 0
        assert 0.2 < annotated.mean() < 0.85
        assert (coarse[key] == fine[key])[annotated].mean() > 0.97
    poles = [sum((label == 17).sum() for label in kind.values()) for kind in (fine, coarse)]
    assert poles[1] < 0.1 * poles[0]


def test_coarsen_keeps_the_insides_only():
    label = np.full((96, 192), 7, np.uint8)
    label[20:60, 40:100] = 26
    label[:, 150] = 17
    coarse = coarsen(np.random.default_rng(0), label)
    assert coarse[40, 70] == 26 and coarse[80, 20] == 7
    assert not (coarse == 17).any() and (coarse[:, 148:153] == 0).all()


def test_same_seed_same_bytes_other_seed_other_bytes(tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        draw_toy_dataset(tmp_path / name, seed=seed, **SMALL)
    first, again, other = (contents(tmp_path / name) for name in "abc")
    assert first == again
    assert first.keys() == other.keys()
    assert all(first[name] != other[name] for name in first if "leftImg8bit" in name)


def test_an_image_does_not_depend_on_the_others(tmp_path):
    draw_toy_dataset(tmp_path / "a", **SMALL)
    draw_toy_dataset(tmp_path / "b", **{**SMALL, "num_val": 0, "num_train_extra": 0, "num_test": 0})
    all_images, train_only = contents(tmp_path / "a"), contents(tmp_path / "b")
    assert train_only == {name: data for name, data in all_images.items() if "/train/" in name}


def test_any_size(tmp_path):
    draw_toy_dataset(tmp_path / "a", **{**SMALL, "width": 250, "height": 171})
    images = [Image.open(path) for path in (tmp_path / "a").rglob("*.png")]
    assert {image.size for image in images} == {(250, 171)}


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "empty").mkdir()
    draw_toy_dataset(tmp_path / "empty", **SMALL)
    assert (tmp_path / "empty" / "leftImg8bit").is_dir()


def test_nothing_is_left_behind_when_drawing_fails(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(streets, "coarsen", interrupt)
    with pytest.raises(KeyboardInterrupt):
        draw_toy_dataset(tmp_path / "streets", **SMALL)
    assert list(tmp_path.iterdir()) == []


def test_command_line(tmp_path, monkeypatch):
    options = [text for name, value in SMALL.items() for text in (f"--{name}", str(value))]
    monkeypatch.setattr(sys, "argv", ["prepare_dataset.py", "streets", str(tmp_path / "a"), "--seed", "5", *options])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert end.value.code == 0
    draw_toy_dataset(tmp_path / "b", seed=5, **SMALL)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")

import logging
import os
from dataclasses import replace

import datasets
import numpy as np
import pytest
from datasets import Dataset, Features, Value
from PIL import Image as PILImage

from scl_hf.data import LabelImage, class_index, images
from scl_hf.data.class_index import ClassIndex, class_shares, tile_centroids
from scl_hf.errors import InputError

NAMES = ["road", "wall", "train", "bus"]
LABEL = LabelImage(decode=False, names=NAMES, train_ids={0: 0, 1: 1, 2: 2, 3: 3, 255: 255})
FEATURES = Features({"label": LABEL, "id": Value("string")})


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The folder of the cached index, one of each test's own."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "cache/class_index"


@pytest.fixture
def reads(monkeypatch):
    """The labels that were read, by file name."""
    names, read_label = [], class_index.read_label

    def recorded(source, table):
        names.append(os.path.basename(source["path"] or "embedded"))
        return read_label(source, table)

    monkeypatch.setattr(class_index, "read_label", recorded)
    return names


def write_labels(folder, labels):
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{i}.png" for i in range(len(labels))]
    for path, label in zip(paths, labels):
        PILImage.fromarray(label).save(path)
    return paths


def dataset_of(paths, embedded=False):
    labels = [{"path": None if embedded else str(p), "bytes": p.read_bytes() if embedded else None} for p in paths]
    return Dataset.from_dict({"label": labels, "id": [path.stem for path in paths]}, features=FEATURES)


def label_dataset(folder, labels):
    return dataset_of(write_labels(folder, labels))


def stripes(*ids, height=8, width=8):
    return np.repeat(np.array(ids, np.uint8), width)[None].repeat(height, 0)


def build(dataset, tile=8, **options):
    return ClassIndex.build(dataset, tile=tile, **options)


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one.fine, other.fine, strict=True))


@pytest.mark.parametrize("kind", ["noise", "areas", "one class", "all ignored"])
def test_tile_centroids_equal_those_of_a_plain_loop(kind):
    label = np.random.default_rng(0).choice([0, 1, 2, 255], (13, 21)).astype(np.uint8)
    label[8:, 16:] = 255
    if kind == "areas":
        label = label.repeat(5, axis=0).repeat(7, axis=1)
    elif kind != "noise":
        label[:] = 1 if kind == "one class" else 255
    found = tile_centroids(label, num_classes=4, tile=8)
    expected = []
    for top in range(0, label.shape[0], 8):
        for left in range(0, label.shape[1], 8):
            for category in range(4):
                y, x = np.nonzero(label[top : top + 8, left : left + 8] == category)
                if len(x):
                    expected.append((category, left + x.mean(), top + y.mean()))
    found = np.stack([found["category"], found["x"], found["y"]], 1)
    np.testing.assert_allclose(found, np.array(expected).reshape(-1, 3), rtol=1e-14)


def test_index_holds_fine_labels_and_the_coarse_ones_of_the_chosen_classes(tmp_path, caplog):
    fine = label_dataset(tmp_path / "fine", [stripes(0, 1), stripes(0, 255)])
    coarse = label_dataset(tmp_path / "coarse", [stripes(1, 2, height=6)])
    with caplog.at_level(logging.WARNING):
        index = ClassIndex.build(fine, coarse, tile=16, coarse_classes=[2])
    assert [len(records) for records in index.fine] == [2, 1, 0, 0]
    assert [len(records) for records in index.coarse] == [0, 0, 1, 0]
    assert index.centroid(1, 0) == (0, (11.5, 3.5), False)
    assert index.centroid(2, 0) == (0, (11.5, 2.5), True)
    assert "bus" in caplog.text and "train" not in caplog.text


def test_index_maps_ids(tmp_path):
    label = LabelImage(decode=False, names=NAMES, train_ids={7: 3, 9: 255})
    index = ClassIndex.build(label_dataset(tmp_path / "labels", [stripes(7, 9)]).cast_column("label", label))
    assert [len(records) for records in index.fine] == [0, 0, 0, 1]


@pytest.mark.parametrize("embedded", [False, True])
def test_labels_are_read_once_for_each_setting(tmp_path, reads, embedded):
    paths = write_labels(tmp_path / "labels", [stripes(0, 1), stripes(0, 0), stripes(1, 1, 2), stripes(3, 1)])
    dataset = dataset_of(paths, embedded)
    whole, half = build(dataset), build(dataset.select([3, 1]))
    assert len(reads) == 6
    assert [whole.fine[i]["row"].tolist() for i in range(4)] == [[0, 1, 1], [0, 2, 2, 3], [2], [3]]
    assert [half.fine[i]["row"].tolist() for i in range(4)] == [[1, 1], [0], [], [0]]
    assert whole.fine[2]["x"].tolist() == [19.5] and half.fine[1]["x"].tolist() == [11.5]
    assert same(whole, build(dataset_of(paths, embedded))) and same(half, build(dataset.select([3, 1])))
    assert len(reads) == 6
    build(dataset, tile=16)
    build(dataset.cast_column("label", replace(LABEL, train_ids=LABEL.train_ids | {9: 0})))
    build(dataset.cast_column("label", replace(LABEL, names=[*NAMES, "sky"])))
    assert len(reads) == 18
    build(dataset)
    assert len(reads) == 18


def test_after_a_label_is_edited_labels_are_read_again(tmp_path, reads):
    paths = write_labels(tmp_path / "labels", [stripes(0, 1), stripes(0, 0), stripes(1, 1)])
    build(dataset_of(paths))
    PILImage.fromarray(stripes(3, 3)).save(paths[2])
    os.utime(paths[2], (1, 1))  # the size may be the same, and so may a coarse clock's time
    edited = build(dataset_of(paths))
    assert len(reads) == 6
    assert len(edited.fine[3]) == 2 and len(edited.fine[1]) == 1


@pytest.mark.parametrize("damage", [lambda content: content[:400], lambda content: b"", lambda content: b"x" * 99])
def test_a_damaged_cache_is_made_anew(tmp_path, cache, reads, damage):
    dataset = label_dataset(tmp_path / "labels", [stripes(0, 1), stripes(2, 2)])
    first = build(dataset)
    (path,) = cache.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    assert same(build(dataset), first) and len(reads) == 4
    assert same(build(dataset), first) and len(reads) == 4
    assert list(cache.iterdir()) == [path]


def test_index_is_the_same_from_two_processes(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(class_index, "_LABELS_PER_PROCESS", 2)
    paths = write_labels(tmp_path / "labels", [stripes(0, i) for i in (1, 2, 3, 1, 2)])
    two = build(dataset_of(paths), num_proc=2)
    for path in cache.iterdir():
        path.unlink()
    assert same(build(dataset_of(paths)), two)
    paths[3].write_bytes(paths[3].read_bytes()[:-30])
    with pytest.raises(InputError, match=r"^[^\n]*3.png: cannot be read[^\n]*$"):
        build(dataset_of(paths), tile=4, num_proc=2)


def test_skip_corrupt_leaves_unreadable_labels_out_until_they_can_be_read(tmp_path, reads, caplog):
    paths = write_labels(tmp_path / "labels", [stripes(0, 1), stripes(2, 1), stripes(3, 1)])
    complete = paths[1].read_bytes()
    paths[1].write_bytes(complete[:-30])
    gone = tmp_path / "labels/gone.png"
    dataset = Dataset.from_dict(
        {"label": [{"path": str(p), "bytes": None} for p in [*paths, gone]], "id": list("abcd")}, features=FEATURES
    )
    for _ in range(2):  # an index from the cache says so, too
        caplog.clear()
        index = build(dataset, skip_corrupt=True)
        assert [records["row"].tolist() for records in index.fine] == [[0], [0, 2], [], [2]]
        assert (
            f"2 labels that cannot be read are left out of class-uniform sampling: {paths[1]}, {gone}" in caplog.text
        )
    assert reads == ["0.png", "1.png", "2.png", "gone.png"] + 2 * ["1.png", "gone.png"]
    with pytest.raises(InputError, match="1.png: cannot be read"):
        build(dataset)
    paths[1].write_bytes(complete)
    assert build(dataset, skip_corrupt=True).fine[2]["row"].tolist() == [1]


def test_a_label_that_could_not_be_read_for_a_moment_is_in_the_next_index(tmp_path, reads, monkeypatch):
    paths = write_labels(tmp_path / "labels", [stripes(0, 1), stripes(2, 1)])
    with monkeypatch.context() as patched:
        patched.setattr(images.Path, "read_bytes", lambda path: path.open("x"))
        assert build(dataset_of(paths), skip_corrupt=True).counts() == [0, 0, 0, 0]
    for _ in range(2):
        assert build(dataset_of(paths), skip_corrupt=True).counts() == [1, 2, 1, 0]
    assert reads[4:] == ["0.png", "0.png", "1.png"]  # the index of nothing is replaced


def test_an_edited_mask_of_an_instance_is_read_again(tmp_path):
    paths = write_labels(tmp_path / "masks", [stripes(0, 1), stripes(0, 0)])
    dataset = Dataset.from_dict({"label": [{"path": str(tmp_path / "masks"), "bytes": None}], "id": ["a"]}, FEATURES)
    assert build(dataset).counts() == [1, 1, 0, 0]
    PILImage.fromarray(stripes(3, 0)).save(paths[1])
    os.utime(paths[1], (1, 1))
    assert build(dataset).counts() == [0, 1, 0, 1]


def test_a_label_without_a_file_is_named_by_its_example(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"no image")
    with pytest.raises(InputError, match=r"^the label of labeled example 0 \(id a\): is not an image"):
        build(dataset_of([path], embedded=True))


def test_coarse_class_out_of_range_is_refused(tmp_path):
    dataset = label_dataset(tmp_path / "labels", [stripes(0)])
    with pytest.raises(InputError, match="coarse_classes.*\\[9\\]"):
        ClassIndex.build(dataset, dataset, coarse_classes=[9])


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "file/cache")
    with pytest.raises(InputError, match="^HF_DATASETS_CACHE .*file/cache/class_index: ") as error:
        build(label_dataset(tmp_path / "labels", [stripes(0, 1)]))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("indexed", [False, True])
def test_shares_are_those_of_the_pixels_that_are_not_ignored(tmp_path, reads, indexed):
    dataset = label_dataset(tmp_path / "labels", [stripes(0, 0, 1, 255), stripes(0, 3, 255, 255)])
    index = build(dataset) if indexed else None
    reads.clear()
    assert class_shares(dataset, index).tolist() == [3 / 5, 1 / 5, 0, 1 / 5] and len(reads) == (0 if indexed else 2)
    dataset = label_dataset(tmp_path / "void", [stripes(255, 255)])
    assert class_shares(dataset, build(dataset) if indexed else None).tolist() == [0, 0, 0, 0]


def test_without_an_index_some_of_many_labels_have_a_share(tmp_path, monkeypatch):
    monkeypatch.setattr(class_index, "_MOST_LABELS", 2)
    dataset = label_dataset(tmp_path / "labels", [stripes(0), stripes(1), stripes(1), stripes(2)])
    assert class_shares(dataset).tolist() == [0.5, 0, 0.5, 0]
    assert class_shares(dataset, build(dataset)).tolist() == [0.25, 0.5, 0.25, 0]


@pytest.mark.parametrize("indexed", [False, True])
def test_a_label_that_cannot_be_read_has_no_share(tmp_path, indexed):
    dataset = label_dataset(tmp_path / "labels", [stripes(0), stripes(1)])
    (tmp_path / "labels" / "1.png").write_bytes(b"no image")
    assert class_shares(dataset, build(dataset, skip_corrupt=True) if indexed else None).tolist() == [1, 0, 0, 0]

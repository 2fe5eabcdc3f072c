import logging
import os
from collections import Counter

import numpy as np
import pytest
from datasets import Dataset, Features, Image, Value
from PIL import Image as PILImage

from scl_hf.data import class_uniform
from scl_hf.data.class_uniform import (
    CENTROID,
    UNLABELED_A,
    UNLABELED_B,
    ClassIndex,
    LabeledDraws,
    SamplingArguments,
    UnlabeledDraws,
    shuffled_rows,
    tile_centroids,
)
from scl_hf.errors import InputError

ID2LABEL = {0: "road", 1: "wall", 2: "train", 3: "bus"}
FEATURES = Features({"label": Image(decode=False), "id": Value("string")})


def label_rows(folder, labels):
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{i}.png" for i in range(len(labels))]
    for path, label in zip(paths, labels):
        PILImage.fromarray(label).save(path)
    columns = {"label": [{"path": str(path), "bytes": None} for path in paths], "id": [path.stem for path in paths]}
    return Dataset.from_dict(columns, features=FEATURES), paths


def stripes(*ids, height=8, width=8):
    return np.repeat(np.array(ids, np.uint8), width)[None].repeat(height, 0)


def places(*rows):
    return np.array([(row, row + 0.5, 1.0) for row in rows], CENTROID)


@pytest.fixture
def index():
    # Class 0 is common, 1 rare, 2 only in the coarse labels, 3 nowhere.
    return ClassIndex([places(*range(20)), places(7), places(), places()], [places(), places(), places(4), places()])


def test_tile_centroids_equal_those_of_a_plain_loop():
    label = np.random.default_rng(0).choice([0, 1, 2, 255], (13, 21)).astype(np.uint8)
    label[8:, 16:] = 255
    found = tile_centroids(label, num_classes=4, tile=8)
    expected = []
    for top in range(0, 13, 8):
        for left in range(0, 21, 8):
            for category in range(4):
                y, x = np.nonzero(label[top : top + 8, left : left + 8] == category)
                if len(x):
                    expected.append((category, left + x.mean(), top + y.mean()))
    np.testing.assert_allclose(np.stack([found["category"], found["x"], found["y"]], 1), expected)


def test_index_holds_fine_labels_and_the_coarse_ones_of_the_chosen_classes(tmp_path, caplog):
    fine, _ = label_rows(tmp_path / "fine", [stripes(0, 1), stripes(0, 255)])
    coarse, _ = label_rows(tmp_path / "coarse", [stripes(1, 2, height=6)])
    with caplog.at_level(logging.WARNING):
        index = ClassIndex.build(fine, coarse, None, ID2LABEL, tile=16, coarse_classes=[2])
    assert [len(records) for records in index.fine] == [2, 1, 0, 0]
    assert [len(records) for records in index.coarse] == [0, 0, 1, 0]
    assert index.place(1, 0) == (0, (11.5, 3.5), False)
    assert index.place(2, 0) == (0, (11.5, 2.5), True)
    assert "bus" in caplog.text and "train" not in caplog.text


def test_index_maps_ids_and_reads_embedded_labels(tmp_path):
    _, (path,) = label_rows(tmp_path, [stripes(7, 9)])
    rows = Dataset.from_dict({"label": [{"path": None, "bytes": path.read_bytes()}], "id": ["a"]}, features=FEATURES)
    table = np.full(256, -1, np.int16)
    table[[7, 9]] = 3, 255
    index = ClassIndex.build(rows, None, table, ID2LABEL)
    assert [len(records) for records in index.fine] == [0, 0, 0, 1]


def test_index_is_cached_until_a_label_or_a_setting_changes(tmp_path, monkeypatch):
    in_memory, paths = label_rows(tmp_path / "labels", [stripes(0, 1), stripes(0, 0), stripes(1, 1)])

    def on_disk():
        return Dataset.from_generator(
            lambda: iter(in_memory), features=FEATURES, cache_dir=tmp_path, fingerprint="rows"
        )

    rows = on_disk()
    reads = []
    read_label = class_uniform.read_label
    monkeypatch.setattr(class_uniform, "read_label", lambda *args: reads.append(1) or read_label(*args))

    first = ClassIndex.build(rows, None, None, ID2LABEL, tile=8)
    assert len(reads) == 3
    again = ClassIndex.build(on_disk(), None, None, ID2LABEL, tile=8)
    assert len(reads) == 3
    np.testing.assert_array_equal(again.fine[0], first.fine[0])
    ClassIndex.build(rows, None, None, ID2LABEL, tile=16)
    assert len(reads) == 6
    PILImage.fromarray(stripes(3, 3)).save(paths[2])
    os.utime(paths[2], (1, 1))
    edited = ClassIndex.build(rows, None, None, ID2LABEL, tile=8)
    assert len(reads) == 9
    assert len(edited.fine[3]) == 2 and len(edited.fine[1]) == 1


def test_index_is_the_same_from_two_processes(tmp_path):
    rows, _ = label_rows(tmp_path, [stripes(0, i) for i in (1, 2, 3, 1)])
    one, two = (ClassIndex.build(rows, None, None, ID2LABEL, tile=8, num_proc=n) for n in (None, 2))
    for a, b in zip(one.fine, two.fine):
        np.testing.assert_array_equal(a, b)


def test_coarse_class_out_of_range_is_refused(tmp_path):
    rows, _ = label_rows(tmp_path, [stripes(0)])
    with pytest.raises(InputError, match="coarse_classes.*\\[9\\]"):
        ClassIndex.build(rows, rows, None, ID2LABEL, coarse_classes=[9])


def test_stream_shows_every_row_before_it_repeats_one():
    whole = shuffled_rows(7, 0, 21, seed=3, stream=1)
    for cycle in np.split(whole, 3):
        assert sorted(cycle) == list(range(7))
    assert list(whole[:7]) != list(whole[7:14])
    np.testing.assert_array_equal(shuffled_rows(7, 5, 16, seed=3, stream=1), whole[5:16])
    assert len(shuffled_rows(7, 5, 5, seed=3, stream=1)) == 0


def test_draws_depend_on_seed_and_epoch_alone(index):
    draws = LabeledDraws(20, seed=1, class_index=index)
    expected = draws(5)
    assert expected == LabeledDraws(20, seed=1, class_index=index)(5)
    assert expected != draws(6) and expected != LabeledDraws(20, seed=2, class_index=index)(5)
    assert len({draw.seed for epoch in range(3) for draw in draws(epoch)}) == 60
    assert all(0 <= draw.seed < 2**63 for draw in expected)


def test_without_an_index_an_epoch_is_every_row_once():
    assert sorted(draw.row for draw in LabeledDraws(11, seed=0)(3)) == list(range(11))


def test_an_epoch_is_rounded_up_to_whole_batches():
    draws = LabeledDraws(11, seed=0).in_whole_batches(4)
    assert len(draws) == len(draws(0)) == 12
    # The stream goes on over the end of an epoch: 11 epochs of 12 draws show each of the 11 rows 12 times.
    assert set(Counter(draw.row for epoch in range(11) for draw in draws(epoch)).values()) == {12}
    assert len(LabeledDraws(2, seed=0).in_whole_batches(8)(0)) == 8


def test_half_of_an_epoch_is_spread_evenly_over_the_classes(index):
    draws = LabeledDraws(20, seed=0, class_index=index, class_uniform_share=0.45, coarse_until_epoch=2)
    for epoch in range(2):
        centered = [draw for draw in draws(epoch) if draw.center]
        kinds = Counter("coarse" if d.coarse else "rare" if (d.row, d.center[0]) == (7, 7.5) else "" for d in centered)
        assert len(draws(epoch)) == 20 and len(centered) == 9
        assert kinds["coarse"] == 3 and kinds["rare"] >= 3
    late = [draw for draw in draws(2) if draw.center]
    assert len(late) == 9 and not any(draw.coarse for draw in late)


def test_uniform_draws_go_through_all_rows_in_two_epochs(index):
    draws = LabeledDraws(20, seed=0, class_index=index, class_uniform_share=0.5)
    rows = [draw.row for epoch in (0, 1) for draw in draws(epoch) if draw.center is None]
    assert sorted(rows) == list(range(20))


def test_unlabeled_streams_go_on_from_epoch_to_epoch_and_differ():
    a, b = (UnlabeledDraws(10, length=4, seed=0, stream=stream) for stream in (UNLABELED_A, UNLABELED_B))
    rows_a, rows_b = ([draw.row for epoch in range(5) for draw in draws(epoch)] for draws in (a, b))
    assert sorted(rows_a[:10]) == sorted(rows_a[10:]) == list(range(10))
    assert rows_a != rows_b
    assert {draw.seed for draw in a(0)}.isdisjoint(draw.seed for draw in b(0))


def test_more_draws_than_unlabeled_rows_repeat_them():
    assert Counter(d.row for d in UnlabeledDraws(3, length=9, seed=0, stream=UNLABELED_A)(1)) == {0: 3, 1: 3, 2: 3}


def test_empty_data_sets_are_refused():
    with pytest.raises(InputError, match="labelled"):
        LabeledDraws(0, seed=0)
    with pytest.raises(InputError, match="unlabelled"):
        UnlabeledDraws(0, length=3, seed=0, stream=UNLABELED_A)


@pytest.mark.parametrize(
    "name, value",
    [("class_uniform_share", 1.5), ("class_uniform_tile", 0), ("coarse_classes", [-1]), ("coarse_until_epoch", -1)],
)
def test_sampling_fields_out_of_range_are_named(name, value):
    with pytest.raises(InputError, match=f"^{name}: "):
        SamplingArguments(**{name: value})

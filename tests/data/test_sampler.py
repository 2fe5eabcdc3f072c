from collections import Counter

import numpy as np
import pytest
from accelerate.data_loader import BatchSamplerShard
from torch.utils.data import BatchSampler

from scl_hf.data.class_index import CENTROID, ClassIndex
from scl_hf.data.sampler import (
    UNLABELED_A,
    UNLABELED_B,
    LabeledSampler,
    PairSampler,
    SamplingArguments,
    UnlabeledSampler,
    shuffled_indices,
)
from scl_hf.errors import InputError


def places(*rows):
    return np.array([(row, row + 0.5, 1.0) for row in rows], CENTROID)


@pytest.fixture
def index():
    # Class 0 is common, 1 rare, 2 only in the coarse labels, 3 nowhere.
    return ClassIndex([places(*range(20)), places(7), places(), places()], [places(), places(), places(4), places()])


def test_stream_shows_every_row_before_it_repeats_one():
    whole = shuffled_indices(7, 0, 21, seed=3, stream=1)
    for cycle in np.split(whole, 3):
        assert sorted(cycle) == list(range(7))
    assert list(whole[:7]) != list(whole[7:14])
    np.testing.assert_array_equal(shuffled_indices(7, 5, 16, seed=3, stream=1), whole[5:16])
    assert len(shuffled_indices(7, 5, 5, seed=3, stream=1)) == 0


def test_draws_depend_on_seed_and_epoch_alone(index):
    draws = LabeledSampler(20, seed=1, class_index=index)
    expected = draws(5)
    assert expected == LabeledSampler(20, seed=1, class_index=index)(5)
    assert expected != draws(6) and expected != LabeledSampler(20, seed=2, class_index=index)(5)
    assert len({draw.seed for epoch in range(3) for draw in draws(epoch)}) == 60
    assert all(0 <= draw.seed < 2**63 for draw in expected)


def test_without_an_index_an_epoch_is_every_row_once():
    assert sorted(draw.row for draw in LabeledSampler(11, seed=0)(3)) == list(range(11))


def test_an_epoch_is_rounded_up_to_whole_batches():
    draws = LabeledSampler(11, seed=0, batch_size=4)
    assert len(draws) == len(draws(0)) == 12
    # The stream goes on over the end of an epoch: 11 epochs of 12 draws show each of the 11 rows 12 times.
    assert set(Counter(draw.row for epoch in range(11) for draw in draws(epoch)).values()) == {12}
    assert len(LabeledSampler(2, seed=0, batch_size=8)(0)) == 8


def test_half_of_an_epoch_is_spread_evenly_over_the_classes(index):
    draws = LabeledSampler(20, seed=0, class_index=index, class_uniform_share=0.45, coarse_until_epoch=2)
    for epoch in range(2):
        centered = [draw for draw in draws(epoch) if draw.center]
        kinds = Counter("coarse" if d.coarse else "rare" if (d.row, d.center[0]) == (7, 7.5) else "" for d in centered)
        assert len(draws(epoch)) == 20 and len(centered) == 9
        assert kinds["coarse"] == 3 and kinds["rare"] >= 3
    late = [draw for draw in draws(2) if draw.center]
    assert len(late) == 9 and not any(draw.coarse for draw in late)


def test_uniform_draws_go_through_all_rows_in_two_epochs(index):
    draws = LabeledSampler(20, seed=0, class_index=index, class_uniform_share=0.5)
    rows = [draw.row for epoch in (0, 1) for draw in draws(epoch) if draw.center is None]
    assert sorted(rows) == list(range(20))


def test_unlabeled_streams_go_on_from_epoch_to_epoch_and_differ():
    a, b = (UnlabeledSampler(10, length=4, seed=0, stream=stream) for stream in (UNLABELED_A, UNLABELED_B))
    rows_a, rows_b = ([draw.row for epoch in range(5) for draw in draws(epoch)] for draws in (a, b))
    assert sorted(rows_a[:10]) == sorted(rows_a[10:]) == list(range(10))
    assert rows_a != rows_b
    assert {draw.seed for draw in a(0)}.isdisjoint(draw.seed for draw in b(0))


def test_the_labeled_rows_do_not_decide_what_the_unlabeled_streams_show(index):
    a, b = (UnlabeledSampler(10, length=length, seed=0, stream=UNLABELED_A) for length in (4, 6))
    assert a(0) == b(0)[:4]
    # An epoch's length moves its end in the stream of rows, and nothing else.
    rows_a, rows_b = ([draw.row for epoch in range(5) for draw in draws(epoch)] for draws in (a, b))
    assert rows_a == rows_b[:20]
    labeled, centered = LabeledSampler(20, seed=0), LabeledSampler(20, seed=0, class_index=index)
    assert [draw.seed for draw in labeled(3)] == [draw.seed for draw in centered(3)]


def test_more_draws_than_unlabeled_rows_repeat_them():
    assert Counter(d.row for d in UnlabeledSampler(3, length=9, seed=0, stream=UNLABELED_A)(1)) == {0: 3, 1: 3, 2: 3}


def test_empty_data_sets_are_refused():
    with pytest.raises(InputError, match="labeled"):
        LabeledSampler(0, seed=0)
    with pytest.raises(InputError, match="unlabeled"):
        UnlabeledSampler(0, length=3, seed=0, stream=UNLABELED_A)


@pytest.mark.parametrize(
    "name, value",
    [("class_uniform_share", 1.5), ("class_uniform_tile", 0), ("coarse_classes", [-1]), ("coarse_until_epoch", -1)],
)
def test_sampling_fields_out_of_range_are_named(name, value):
    with pytest.raises(InputError, match=f"^{name}: must be"):
        SamplingArguments(**{name: value})


def sampler(seed=0):
    return PairSampler(LabeledSampler(6, seed=seed), num_unlabeled=6, seed=seed)


def test_two_processes_together_draw_what_one_draws():
    one = list(BatchSampler(sampler(), batch_size=2, drop_last=True))
    ranks = [BatchSamplerShard(BatchSampler(sampler(), 1, drop_last=True), 2, rank) for rank in range(2)]
    two = [a + b for a, b in zip(*ranks)]
    assert one == two


def test_sampler_yields_the_draws_of_its_epoch():
    draws = sampler()
    first = list(draws)
    assert len(first) == len(draws) == 6
    assert first == list(draws)
    draws.set_epoch(1)
    second = list(draws)
    assert [pair.labeled for pair in second] == LabeledSampler(6, seed=0)(1)
    seeds = [pair.cutmix_seed for pair in first + second]
    seeds += [draw.seed for pair in first + second for draw in (pair.labeled, pair.unlabeled_a, pair.unlabeled_b)]
    assert len(set(seeds)) == 4 * 12


def test_one_stream_leaves_image_b_out_and_draws_the_same_images_a():
    both = list(sampler())
    alone = list(PairSampler(LabeledSampler(6, seed=0), num_unlabeled=6, unlabeled_per_mix=1))
    assert all(pair.unlabeled_b is None for pair in alone)
    assert [pair._replace(unlabeled_b=None) for pair in both] == alone


def test_a_sampler_that_goes_on_yields_nothing_for_what_is_skipped():
    whole, rest = sampler(), sampler()
    steps = len(whole) // whole.batch_size
    for epoch, step in ((0, 1), (1, steps + 1), (1, steps), (2, 2 * steps)):
        whole.set_epoch(epoch)
        rest.set_epoch(epoch, step)
        skipped = (step - epoch * steps) * rest.batch_size
        rest.set_epoch(epoch)  # as accelerate does once more
        draws = list(rest)
        assert draws[:skipped] == [None] * skipped and draws[skipped:] == list(whole)[skipped:]
    rest.set_epoch(3)
    whole.set_epoch(3)
    assert list(rest) == list(whole)


def test_sampler_rounds_up_to_batches_and_starts_with_labels_alone():
    draws = PairSampler(LabeledSampler(5, seed=0), num_unlabeled=9, batch_size=2, start_step=4)
    assert len(draws) == 6  # 3 steps an epoch: the fifth step is the second of the second epoch
    assert all(pair.unlabeled_a is None and pair.unlabeled_b is None for pair in draws)
    draws.set_epoch(1)
    assert [pair.unlabeled_a is not None for pair in draws] == [False] * 2 + [True] * 4

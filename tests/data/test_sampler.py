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
    shuffled_indices,
    unlabeled_samples,
)
from scl_hf.errors import InputError


def centroids(*rows):
    return np.array([(row, row + 0.5, 1.0, 9) for row in rows], CENTROID)


@pytest.fixture
def index():
    # Class 0 is common, 1 rare, 2 only in the coarse labels, 3 nowhere.
    return ClassIndex(
        [centroids(*range(20)), centroids(7), centroids(), centroids()],
        [centroids(), centroids(), centroids(4), centroids()],
    )


def test_stream_shows_every_index_before_it_repeats_one():
    whole = shuffled_indices(7, 0, 21, seed=3, stream=1)
    for cycle in np.split(whole, 3):
        assert sorted(cycle) == list(range(7))
    assert list(whole[:7]) != list(whole[7:14])
    np.testing.assert_array_equal(shuffled_indices(7, 5, 16, seed=3, stream=1), whole[5:16])
    assert len(shuffled_indices(7, 5, 5, seed=3, stream=1)) == 0


def test_samples_depend_on_seed_and_epoch_alone(index):
    sampled = LabeledSampler(20, seed=1, class_index=index)
    expected = sampled(5)
    assert expected == LabeledSampler(20, seed=1, class_index=index)(5)
    assert expected != sampled(6) and expected != LabeledSampler(20, seed=2, class_index=index)(5)
    assert len({sample.seed for epoch in range(3) for sample in sampled(epoch)}) == 60
    assert all(0 <= sample.seed < 2**63 for sample in expected)


def test_without_an_index_an_epoch_is_every_image_once():
    assert sorted(sample.row for sample in LabeledSampler(11, seed=0)(3)) == list(range(11))


def test_an_epoch_is_rounded_up_to_whole_batches():
    sampled = LabeledSampler(11, seed=0, batch_size=4)
    assert len(sampled) == len(sampled(0)) == 12
    # The stream continues over the end of an epoch: 11 epochs of 12 samples show each of the 11 images 12 times.
    assert set(Counter(sample.row for epoch in range(11) for sample in sampled(epoch)).values()) == {12}
    assert len(LabeledSampler(2, seed=0, batch_size=8)(0)) == 8


def test_half_of_an_epoch_is_spread_evenly_over_the_classes(index):
    sampled = LabeledSampler(20, seed=0, class_index=index, class_uniform_share=0.45, coarse_until_epoch=2)
    for epoch in range(2):
        centered = [sample for sample in sampled(epoch) if sample.center]
        kinds = Counter("coarse" if d.coarse else "rare" if (d.row, d.center[0]) == (7, 7.5) else "" for d in centered)
        assert len(sampled(epoch)) == 20 and len(centered) == 9
        assert kinds["coarse"] == 3 and kinds["rare"] >= 3
    late = [sample for sample in sampled(2) if sample.center]
    assert len(late) == 9 and not any(sample.coarse for sample in late)


def test_uniform_samples_go_through_all_images_in_two_epochs(index):
    sampled = LabeledSampler(20, seed=0, class_index=index, class_uniform_share=0.5)
    rows = [sample.row for epoch in (0, 1) for sample in sampled(epoch) if sample.center is None]
    assert sorted(rows) == list(range(20))


def test_unlabeled_streams_continue_from_epoch_to_epoch_and_differ():
    a, b = (
        [sample for epoch in range(5) for sample in unlabeled_samples(10, 4, 0, stream, epoch)]
        for stream in (UNLABELED_A, UNLABELED_B)
    )
    rows_a, rows_b = ([sample.row for sample in samples] for samples in (a, b))
    assert sorted(rows_a[:10]) == sorted(rows_a[10:]) == list(range(10))
    assert rows_a != rows_b
    assert {sample.seed for sample in a}.isdisjoint(sample.seed for sample in b)


def test_the_labeled_images_do_not_decide_what_the_unlabeled_streams_show(index):
    a, b = ([unlabeled_samples(10, length, 0, UNLABELED_A, epoch) for epoch in range(5)] for length in (4, 6))
    assert a[0] == b[0][:4]
    # An epoch's length moves its end in the stream of images, and nothing else.
    rows_a, rows_b = ([sample.row for samples in epochs for sample in samples] for epochs in (a, b))
    assert rows_a == rows_b[:20]
    labeled, centered = LabeledSampler(20, seed=0), LabeledSampler(20, seed=0, class_index=index)
    assert [sample.seed for sample in labeled(3)] == [sample.seed for sample in centered(3)]


def test_more_samples_than_unlabeled_images_repeat_them():
    assert Counter(sample.row for sample in unlabeled_samples(3, 9, 0, UNLABELED_A, epoch=1)) == {0: 3, 1: 3, 2: 3}


def test_an_empty_dataset_is_refused():
    with pytest.raises(InputError, match="labeled"):
        LabeledSampler(0, seed=0)


@pytest.mark.parametrize(
    "name, value",
    [("class_uniform_share", 1.5), ("class_uniform_tile", 0), ("coarse_classes", [-1]), ("coarse_until_epoch", -1)],
)
def test_sampling_fields_out_of_range_are_named(name, value):
    with pytest.raises(InputError, match=f"^{name}: must be"):
        SamplingArguments(**{name: value})


def sampler(seed=0):
    return PairSampler(LabeledSampler(6, seed=seed), num_unlabeled=6)


def test_two_processes_together_sample_what_one_samples():
    one = list(BatchSampler(sampler(), batch_size=2, drop_last=True))
    ranks = [BatchSamplerShard(BatchSampler(sampler(), 1, drop_last=True), 2, rank) for rank in range(2)]
    two = [a + b for a, b in zip(*ranks)]
    assert one == two


def test_sampler_yields_the_samples_of_its_epoch():
    samples = sampler()
    first = list(samples)
    assert len(first) == len(samples) == 6
    assert first == list(samples)
    samples.set_epoch(1)
    second = list(samples)
    assert [pair.labeled for pair in second] == LabeledSampler(6, seed=0)(1)
    seeds = [pair.cutmix_seed for pair in first + second]
    seeds += [sample.seed for pair in first + second for sample in (pair.labeled, pair.unlabeled_a, pair.unlabeled_b)]
    assert len(set(seeds)) == 4 * 12


def test_samples_of_a_step_are_those_of_its_position_in_an_epoch():
    samples = PairSampler(LabeledSampler(5, seed=0), num_unlabeled=9, batch_size=2)
    samples.set_epoch(1)
    assert samples.of_step(4) == list(samples)[2:4]


def test_sampler_rounds_up_to_batches_and_starts_supervised():
    samples = PairSampler(LabeledSampler(5, seed=0), num_unlabeled=9, batch_size=2, start_step=4)
    assert len(samples) == 6  # 3 steps an epoch: the fifth step is the second of the second epoch
    assert all(pair.unlabeled_a is None and pair.unlabeled_b is None for pair in samples)
    samples.set_epoch(1)
    assert [pair.unlabeled_a is not None for pair in samples] == [False] * 2 + [True] * 4

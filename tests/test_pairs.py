import math

import pytest
import torch

from scl_hf.cutmix import sample_boxes
from scl_hf.pairs import drop, sample_pairs, visible_pixels


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_visible_pixels_are_those_of_the_last_boxes():
    box_ids = torch.stack([sample_boxes(12, 9, 5, 0.77, generator(seed)) for seed in range(3)])
    box_ids[1] = 0
    visible = visible_pixels(box_ids, 5, 3)
    assert visible.shape[:2] == (3, 3)
    for image in range(3):
        for box in range(3):
            pixels = visible[image, box]
            expected = (box_ids[image].flatten() == box + 3).nonzero().flatten()
            assert torch.equal(pixels[: len(expected)], expected)
            assert (pixels[len(expected) :] == -1).all()
    assert visible_pixels(torch.zeros(2, 4, 4, dtype=torch.int64), 5, 3).shape == (2, 3, 0)


def test_pairs_of_each_box_are_of_its_pixels():
    box_ids = torch.stack([sample_boxes(12, 9, 5, 0.77, generator(seed)) for seed in range(2)])
    box_ids[1, box_ids[1] == 5] = 0
    box_ids[1, 3, 4] = 5
    pairs = sample_pairs(visible_pixels(box_ids, 5, 3), 40, [generator(1), generator(2)])
    assert pairs.shape == (2, 3, 2, 40)
    for image in range(2):
        for box in range(3):
            kept = pairs[image, box][:, pairs[image, box, 0] >= 0]
            size = int((box_ids[image] == box + 3).sum())
            assert kept.shape == (2, min(40, size**2))
            assert (pairs[image, box] >= 0).sum() == kept.numel()  # both ends, or none
            assert (box_ids[image].flatten()[kept] == box + 3).all()
    alone = sample_pairs(visible_pixels(box_ids[:1], 5, 3), 40, [generator(1)])
    assert torch.equal(pairs[:1], alone)  # an image's pairs depend on its own generator only


@pytest.mark.parametrize(
    "num_pixels, num_pairs", [(0, 5), (1, 5), (4, 16), (4, 15), (9, 30), (50, 100), (700_000, 40)]
)
def test_drop_keeps_distinct_pairs(num_pixels, num_pairs):
    pairs = drop(num_pixels, num_pairs, generator(), torch.device("cpu"))
    assert pairs.shape == (2, min(num_pairs, num_pixels**2))
    assert pairs.unique(dim=1).shape == pairs.shape
    assert ((pairs >= 0) & (pairs < num_pixels)).all()


@pytest.mark.parametrize("num_pixels, num_pairs", [(4, 5), (5, 2)])
def test_drop_prefers_no_pair(num_pixels, num_pairs):
    # The first case permutes all pairs, the second samples until enough are distinct.
    trials, source, counts = 4000, generator(), torch.zeros(num_pixels**2)
    for _ in range(trials):
        first, second = drop(num_pixels, num_pairs, source, torch.device("cpu"))
        counts[first * num_pixels + second] += 1
    share = num_pairs / num_pixels**2
    deviation = math.sqrt(trials * share * (1 - share))
    assert (counts - trials * share).abs().max() < 4.5 * deviation

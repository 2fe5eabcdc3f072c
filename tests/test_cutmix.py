import pytest
import torch

from scl_hf.cutmix import mix, sample_boxes


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_boxes_are_rectangles_that_later_boxes_cover():
    box_ids = sample_boxes(60, 90, 5, 0.6, generator())
    assert box_ids.shape == (60, 90)
    assert box_ids.dtype == torch.int64
    assert box_ids.min() == 0
    assert box_ids.max() == 5
    for box_id in range(1, 6):
        rows, columns = (box_ids == box_id).nonzero(as_tuple=True)
        # Inside the bounding box of what is visible lie only this box and those pasted after it.
        inside = box_ids[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert (inside >= box_id).all()


def test_each_box_covers_its_share_of_the_area():
    ratio, sides = 0.5, []
    for seed in range(200):
        rows, columns = (sample_boxes(400, 800, 1, ratio, generator(seed)) == 1).nonzero(as_tuple=True)
        sides.append([rows.max() - rows.min() + 1, columns.max() - columns.min() + 1])
    height_share, width_share = (torch.tensor(sides, dtype=torch.float64) / torch.tensor([400, 800])).T
    assert (height_share * width_share - ratio).abs().max() < 2 / 400
    # y = ratio**u: from `ratio` to 1, and log y uniform.
    assert height_share.min() < 0.53 and height_share.max() > 0.97
    assert abs(height_share.log().mean() - 0.5 * torch.tensor(ratio).log()) < 0.05


def test_union_of_the_papers_boxes_is_half_the_image():
    covered = [(sample_boxes(256, 256, 32, 0.77, generator(seed)) > 0).double().mean() for seed in range(100)]
    assert abs(torch.stack(covered).mean() - 0.507) < 0.015


def test_corners_reach_every_border_and_never_cross_it():
    touched = torch.zeros(4, dtype=torch.bool)
    for seed in range(100):
        mask = sample_boxes(6, 8, 1, 0.3, generator(seed)) == 1
        top, bottom, left, right = (side.any() for side in (mask[0], mask[-1], mask[:, 0], mask[:, -1]))
        # Boxes that span the image say nothing.
        touched |= torch.stack([top & ~bottom, bottom & ~top, left & ~right, right & ~left])
    assert touched.all()


def test_same_generator_state_same_boxes():
    first = sample_boxes(40, 40, 8, 0.77, generator(3))
    torch.manual_seed(1)  # the global state has no part in it
    assert torch.equal(first, sample_boxes(40, 40, 8, 0.77, generator(3)))
    assert not torch.equal(first, sample_boxes(40, 40, 8, 0.77, generator(4)))


def test_a_crop_smaller_than_its_boxes_still_gets_boxes():
    assert (sample_boxes(2, 1, 64, 0.5, generator()) > 0).any()
    assert (sample_boxes(5, 7, 1, 1.0, generator()) == 1).all()


@pytest.mark.parametrize("height, num_boxes, ratio", [(0, 4, 0.5), (8, 0, 0.5), (8, 4, 0.0), (8, 4, 1.5)])
def test_sizes_that_make_no_sense_are_named(height, num_boxes, ratio):
    with pytest.raises(ValueError, match="must be"):
        sample_boxes(height, 8, num_boxes, ratio, generator())


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 4, 5), (4, 5)])
def test_mix_with_a_shared_map(shape):
    a, b = torch.zeros(shape), torch.ones(shape)
    box_ids = sample_boxes(4, 5, 2, 0.5, generator())
    assert torch.equal(mix(a, b, box_ids), (box_ids > 0).float().expand(shape))


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 4, 5)])
def test_mix_with_a_map_per_image(shape):
    a, b = torch.zeros(shape, dtype=torch.int64), torch.full(shape, 7)
    box_ids = torch.stack([sample_boxes(4, 5, 2, 0.5, generator(seed)) for seed in (0, 1)])
    mixed = mix(a, b, box_ids)
    assert mixed.dtype == torch.int64
    for image in (0, 1):
        assert torch.equal(mixed[image], (7 * (box_ids[image] > 0)).expand(shape[1:]))


def test_mix_of_valid_maps_stays_bool():
    a, b = torch.ones(2, 4, 5, dtype=torch.bool), torch.zeros(2, 4, 5, dtype=torch.bool)
    assert mix(a, b, torch.ones(4, 5, dtype=torch.int64)).dtype == torch.bool


@pytest.mark.parametrize(
    "a, b, box_ids",
    [
        ((2, 3, 4, 5), (2, 3, 4, 6), (4, 5)),
        ((2, 3, 4, 5), (2, 3, 4, 5), (5, 4)),
        ((2, 3, 4, 5), (2, 3, 4, 5), (3, 4, 5)),
        ((3, 4, 5), (3, 4, 5), (2, 4, 5)),
        ((3, 4, 5), (3, 4, 5), (1, 4, 5)),
        ((4, 5), (4, 5), (2, 4, 5)),
    ],
)
def test_shapes_that_do_not_fit_are_named(a, b, box_ids):
    with pytest.raises(ValueError, match="shape"):
        mix(torch.zeros(a), torch.zeros(b), torch.zeros(box_ids, dtype=torch.int64))

"""What holds for every input, tried on many: CutMix maps, losses, tiles, the metric, recipes."""

import functools
import math
import tempfile
from pathlib import Path

import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from scl_hf.cli import RecipeParser
from scl_hf.config import TRAINING_RECIPE
from scl_hf.cutmix import mix, sample_boxes
from scl_hf.inference import tile_starts
from scl_hf.losses import consistency_loss, relaxed_cross_entropy, structured_consistency_loss
from scl_hf.metrics import MeanIoU

tried = settings(max_examples=30, deadline=None, derandomize=True, database=None)
sides, seeds = st.integers(1, 24), st.integers(0, 2**32 - 1)


def generator(seed):
    return torch.Generator().manual_seed(seed)


# CutMix


@st.composite
def box_maps(draw, side=sides):
    """N and a map of N boxes."""
    num_boxes, ratio = draw(st.integers(1, 12)), draw(st.floats(1e-3, 1))
    return num_boxes, sample_boxes(draw(side), draw(side), num_boxes, ratio, generator(draw(seeds)))


@tried
@given(box_maps())
def test_box_ids_are_within_n_and_the_last_box_is_complete(boxes):
    num_boxes, box_ids = boxes
    assert 0 <= box_ids.min() and box_ids.max() == num_boxes
    rows, columns = (box_ids == num_boxes).nonzero(as_tuple=True)
    last = box_ids[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    assert (last == num_boxes).all()


@tried
@given(box_maps(), seeds)
def test_mixing_is_a_partition(boxes, seed):
    box_ids = boxes[1]
    a, b = torch.randint(-99, 99, (2, 3, *box_ids.shape), generator=generator(seed))
    mixed, rest = mix(a, b, box_ids), mix(b, a, box_ids)
    assert torch.equal(mixed + rest, a + b)  # each pixel of each is in one of the two, once
    assert torch.equal(mixed[:, box_ids == 0], a[:, box_ids == 0])
    assert torch.equal(mixed[:, box_ids > 0], b[:, box_ids > 0])


# Losses


@st.composite
def predictions(draw):
    """Student, teacher (B, C, H, W) and box ids (B, H, W) with N."""
    shape = [draw(st.integers(low, high)) for low, high in ((1, 2), (2, 6), (1, 6), (1, 6))]
    rng, sharpness, num_boxes = generator(draw(seeds)), draw(st.floats(0.1, 8)), draw(st.integers(1, 4))
    student, teacher = torch.randn(2, *shape, generator=rng, dtype=torch.float64).mul(sharpness).softmax(dim=2)
    box_ids = [sample_boxes(*shape[2:], num_boxes, draw(st.floats(0.1, 1)), rng) for _ in range(shape[0])]
    return student, teacher, torch.stack(box_ids), num_boxes


def shuffled(dim, seed, *tensors):
    """The same permutation along a dimension, or of the pixels (`None`), of all tensors."""
    if dim is not None:
        order = torch.randperm(tensors[0].shape[dim], generator=generator(seed))
        return [tensor.index_select(dim, order) for tensor in tensors]
    order = torch.randperm(math.prod(tensors[0].shape[-2:]), generator=generator(seed))
    return [tensor.flatten(-2)[..., order].view_as(tensor) for tensor in tensors]


@tried
@given(predictions(), seeds)
def test_consistency(sampled, seed):
    student, teacher, box_ids, _ = sampled
    valid = box_ids > 0
    loss = consistency_loss(student, teacher, valid)
    assert 0 <= loss <= 2
    same = functools.partial(torch.testing.assert_close, loss, rtol=1e-9, atol=1e-15)
    same(consistency_loss(teacher, student, valid))
    same(consistency_loss(*shuffled(1, seed, student, teacher), valid))
    same(consistency_loss(*shuffled(None, seed, student, teacher, valid)))
    assert consistency_loss(student, student, valid) == 0
    differs = ((student - teacher).abs().amax(dim=1) > 1e-9) & valid
    assert (loss > 0) == differs.any()


@tried
@given(predictions(), seeds)
def test_structured_consistency(sampled, seed):
    student, teacher, box_ids, num_boxes = sampled
    loss_of = functools.partial(structured_consistency_loss, num_boxes=num_boxes, num_loss_boxes=num_boxes)
    loss = loss_of(student, teacher, box_ids)
    rounding = 1e-14
    assert -rounding <= loss <= num_boxes
    same = functools.partial(torch.testing.assert_close, loss, rtol=1e-7, atol=rounding)
    same(loss_of(teacher, student, box_ids))
    same(loss_of(*shuffled(1, seed, student, teacher), box_ids))
    same(loss_of(*shuffled(None, seed, student, teacher, box_ids)))
    same(loss_of(student, teacher, box_ids, num_pairs=10**6))  # more than there are

    # Zero if and only if the similarities agree: other classes in the same places are no other similarities.
    assert loss_of(student, *shuffled(1, seed, student), box_ids) < rounding
    unit = [torch.nn.functional.normalize(probs, dim=1).flatten(2) for probs in (student, teacher)]
    gaps = (torch.einsum("bci,bcj->bij", unit[0], unit[0]) - torch.einsum("bci,bcj->bij", unit[1], unit[1])).abs()
    box_ids = box_ids.flatten(1)
    together = (box_ids[:, :, None] == box_ids[:, None, :]) & (box_ids[:, :, None] > 0)
    largest = gaps[together].max()
    assert largest**2 / box_ids.numel() ** 2 - rounding <= loss <= num_boxes * largest**2 + rounding


@st.composite
def labeled_logits(draw):
    shape = [draw(st.integers(low, high)) for low, high in ((1, 2), (2, 40), (1, 6), (1, 6))]
    rng = generator(draw(seeds))
    logits = torch.randn(shape, generator=rng, dtype=torch.float64) * draw(st.floats(0.1, 50))
    labels = torch.randint(0, shape[1], (shape[0], *shape[2:]), generator=rng)
    labels[torch.rand(labels.shape, generator=rng) < 0.2] = 255
    return logits, labels


@tried
@given(labeled_logits(), st.sampled_from([1, 3, 5]), seeds)
def test_relaxed_cross_entropy(sampled, window, seed):
    logits, labels = sampled
    loss = relaxed_cross_entropy(logits, labels, window)
    # A larger window has more classes, whose probability is larger.
    assert -1e-12 <= relaxed_cross_entropy(logits, labels, window + 2) <= loss + 1e-12
    order = torch.randperm(logits.shape[1], generator=generator(seed))
    renamed = torch.where(labels == 255, 255, order.argsort()[labels.clamp(max=logits.shape[1] - 1)])
    torch.testing.assert_close(relaxed_cross_entropy(logits[:, order], renamed, window), loss)
    torch.testing.assert_close(relaxed_cross_entropy(logits.flip(-1), labels.flip(-1), window), loss)
    if window == 1:
        torch.testing.assert_close(relaxed_cross_entropy(*shuffled(None, seed, logits, labels), window), loss)


@settings(tried, max_examples=8)
@given(predictions())
def test_gradients_of_the_consistency_losses(sampled):
    student, teacher, box_ids, num_boxes = sampled
    student = student.requires_grad_()
    assert gradcheck(lambda probs: consistency_loss(probs, teacher, box_ids > 0), student)
    boxes = {"box_ids": box_ids, "num_boxes": num_boxes, "num_loss_boxes": num_boxes}
    assert gradcheck(lambda probs: structured_consistency_loss(probs, teacher, **boxes), student)
    sampled = lambda probs: structured_consistency_loss(probs, teacher, **boxes, num_pairs=5, generator=generator(0))  # noqa: E731
    assert gradcheck(sampled, student)


@settings(tried, max_examples=8)
@given(labeled_logits(), st.sampled_from([1, 3]))
def test_gradients_of_the_relaxed_loss(sampled, window):
    logits, labels = sampled
    logits = (logits[:, :5] / 10).clone().requires_grad_()
    labels = torch.where(labels < logits.shape[1], labels, 255)
    assert gradcheck(lambda scores: relaxed_cross_entropy(scores, labels, window), logits)


# Tiles


@settings(tried, max_examples=200)
@given(st.integers(1, 300), st.integers(1, 300), st.floats(0, 0.95))
def test_tiles_cover_every_pixel_with_the_overlap_asked_for(length, tile, overlap):
    starts = tile_starts(length, tile, overlap)
    ends = [min(start + tile, length) for start in starts]
    assert starts[0] == 0 and ends[-1] == length
    for end, start in zip(ends, starts[1:]):
        assert end - start >= min(math.floor(overlap * tile + 1e-6), tile - 1)
    assert {pixel for start, end in zip(starts, ends) for pixel in range(start, end)} == set(range(length))


# The metric


@tried
@given(seeds, st.integers(1, 30), st.integers(1, 5), st.randoms(use_true_random=False))
def test_counts_merge_in_any_order(seed, num_classes, num_parts, random):
    rng = generator(seed)
    shape = (num_parts, 4, 5)
    found = torch.randint(0, num_classes, shape, generator=rng)
    wanted = torch.where(
        torch.rand(shape, generator=rng) < 0.2, 255, torch.randint(0, num_classes, shape, generator=rng)
    )
    whole = MeanIoU(num_classes)
    whole.add_batch(predictions=found, references=wanted)
    parts = []
    for part in range(num_parts):
        parts.append(MeanIoU(num_classes))
        parts[-1].add(prediction=found[part], reference=wanted[part])
    random.shuffle(parts)
    merged = functools.reduce(torch.add, [part.confusion_matrix for part in parts])
    assert torch.equal(merged, whole.confusion_matrix) and merged.sum() == (wanted != 255).sum()
    parts[0].confusion_matrix = merged
    assert repr(parts[0].compute()) == repr(whole.compute())  # NaN is no equal of itself


# Recipes

numbers = st.floats(1e-12, 1e3, allow_nan=False)
names = st.text(st.characters(min_codepoint=33, max_codepoint=0x2FFF, exclude_categories=["Cs"]), min_size=1)
leaves = st.integers(-(10**9), 10**9) | st.booleans() | numbers | names | st.none()
FIELDS = {
    "learning_rate": numbers,
    "consistency_weight": numbers,
    "ema_decay": st.floats(0, 1),
    "num_boxes": st.integers(32, 1000),
    "num_pairs": st.none() | st.integers(1, 10**9),
    "ema_teacher": st.booleans(),
    "seed": seeds,
    "optim_args": st.sampled_from([None, "momentum=0.5,nesterov=true"]),
    "crop_size": st.lists(st.integers(8, 4096), min_size=2, max_size=2),
    "eval_scales": st.lists(st.floats(0.1, 4), min_size=1, max_size=4),
    "coarse_classes": st.lists(st.integers(0, 254), min_size=1),
    "save_steps": st.integers(1, 10**6) | st.sampled_from([0.25, 0.5]),
    "data_dir": names.filter(lambda name: name.lower() != "null"),
    "unlabeled_dirs": st.lists(names, min_size=1, max_size=3),
    "label_map": st.dictionaries(st.integers(0, 65535), st.integers(0, 255), min_size=1, max_size=5),
    "model_config": st.dictionaries(names, leaves | st.lists(leaves, max_size=3), min_size=1, max_size=3),
}


def parse(values):
    with tempfile.TemporaryDirectory() as folder:
        recipe = Path(folder, "recipe.yaml")
        recipe.write_text(yaml.safe_dump(values), encoding="utf-8")
        parsed = RecipeParser(TRAINING_RECIPE).parse_recipe([str(recipe), "--use_cpu", "true"])
    fields = {name: value for group in parsed for name, value in vars(group).items()}
    return {name: fields[name] for name in values}


@settings(tried, max_examples=25)
@given(st.fixed_dictionaries({}, optional=FIELDS).filter(bool))
def test_a_recipe_says_what_was_written(values):
    parsed = parse(values)
    assert parsed == values
    assert parse(parsed) == parsed

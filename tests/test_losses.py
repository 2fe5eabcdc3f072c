import math

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from scl_hf.cutmix import sample_boxes
from scl_hf.losses import (
    adjust_logits,
    consistency_loss,
    gather,
    relaxed_cross_entropy,
    structured_consistency_loss,
    window_class_sets,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def random_probs(*shape, seed=0, scale=2.0, dtype=torch.float64):
    return torch.softmax(scale * torch.randn(*shape, generator=generator(seed), dtype=torch.float64), dim=1).to(dtype)


def value_and_grad(function, tensor):
    leaf = tensor.detach().clone().requires_grad_()
    value = function(leaf)
    value.backward()
    return value.detach(), leaf.grad


def assert_same(function, oracle, tensor, **tolerance):
    """The value and the gradient of both, the oracle in float64."""
    value, grad = value_and_grad(function, tensor)
    expected_value, expected_grad = value_and_grad(oracle, tensor.double())
    tolerance = tolerance or {"rtol": 1e-10, "atol": 1e-12}
    torch.testing.assert_close(value.double(), expected_value, **tolerance)
    torch.testing.assert_close(grad.double(), expected_grad, **tolerance)


# Oracles: loops over pixels and pairs, written straight from the paper.


def oracle_relaxed_cross_entropy(logits, labels, window, ignore_index=255):
    """Equation (2)."""
    probs, reach, losses = torch.softmax(logits, dim=1), window // 2, []
    for b in range(labels.shape[0]):
        for y in range(labels.shape[1]):
            for x in range(labels.shape[2]):
                if labels[b, y, x] == ignore_index:
                    continue
                around = labels[b, max(y - reach, 0) : y + reach + 1, max(x - reach, 0) : x + reach + 1]
                classes = sorted(set(around.flatten().tolist()) - {ignore_index})
                losses.append(-probs[b, classes, y, x].sum().log())
    return torch.stack(losses).mean()


def oracle_consistency(student, teacher, valid):
    """Equation (4)."""
    distances = []
    for b, y, x in valid.nonzero().tolist():
        distances.append(sum((student[b, c, y, x] - teacher[b, c, y, x]) ** 2 for c in range(student.shape[1])))
    return sum(distances) / len(distances)


def oracle_structured(student, teacher, box_ids, num_boxes, num_loss_boxes):
    """Equations (7) and (8), over the boxes of (10)."""

    def similarity(p, q):
        return (p * q).sum() / (p.norm() * q.norm())

    loss = 0 * student.sum()
    for b in range(len(student)):
        for n in range(num_boxes - num_loss_boxes + 1, num_boxes + 1):
            pixels = (box_ids[b] == n).nonzero().tolist()
            for yi, xi in pixels:
                for yj, xj in pixels:
                    a_s = similarity(student[b, :, yi, xi], student[b, :, yj, xj])
                    a_t = similarity(teacher[b, :, yi, xi], teacher[b, :, yj, xj])
                    loss = loss + (a_s - a_t) ** 2 / len(pixels) ** 2
    return loss / len(student)


# Equation (2)


def labels_with_ignored(num_classes, seed=0, shape=(2, 5, 6)):
    labels = torch.randint(num_classes, shape, generator=generator(seed))
    labels[torch.rand(shape, generator=generator(seed + 1)) < 0.25] = 255
    return labels


@pytest.mark.parametrize("window", [1, 3, 5, 13])
@pytest.mark.parametrize("num_classes", [1, 4, 40])
def test_relaxed_cross_entropy_is_equation_2(window, num_classes):
    logits = 3 * torch.randn(2, num_classes, 5, 6, generator=generator(), dtype=torch.float64)
    labels = labels_with_ignored(num_classes)
    assert_same(
        lambda x: relaxed_cross_entropy(x, labels, window),
        lambda x: oracle_relaxed_cross_entropy(x, labels, window),
        logits,
    )


@pytest.mark.parametrize("ignore_index", [255, -100, 0])
def test_window_of_one_is_cross_entropy(ignore_index):
    logits = 3 * torch.randn(2, 7, 9, 8, generator=generator(), dtype=torch.float64)
    labels = torch.randint(1, 7, (2, 9, 8), generator=generator(1))
    labels[:, 2:4] = ignore_index
    assert_same(
        lambda x: relaxed_cross_entropy(x, labels, window=1, ignore_index=ignore_index),
        lambda x: F.cross_entropy(x, labels, ignore_index=ignore_index),
        logits,
    )


def test_logit_adjustment_adds_the_logarithm_of_the_shares():
    logits = torch.randn(2, 3, 4, 5, generator=generator(), dtype=torch.float64)
    shares = torch.tensor([0.899, 0.1, 0.001], dtype=torch.float64)
    adjusted = adjust_logits(logits, shares, 0.5)
    for c, share in enumerate((0.9, 0.101, 0.002)):
        torch.testing.assert_close(adjusted[:, c], logits[:, c] + 0.5 * math.log(share))
    assert torch.equal(adjust_logits(logits, shares, 0.0), logits)


def test_logit_adjustment_makes_a_rare_class_the_answer_sooner():
    # A tenth of the pixels, all alike, are of class 1: the best constant answer has its share, or more.
    labels = torch.zeros(1, 10, 10, dtype=torch.int64)
    labels[:, :, 0] = 1
    shares, answers = torch.tensor([0.9, 0.1]), []
    for strength in (0.0, 0.5, 1.0):
        scores = torch.zeros(1, 2, 1, 1, requires_grad=True)
        optimizer = torch.optim.LBFGS([scores], max_iter=50)

        def closure(scores=scores, optimizer=optimizer, strength=strength):
            optimizer.zero_grad()
            loss = relaxed_cross_entropy(adjust_logits(scores.expand(1, 2, 10, 10), shares, strength), labels, 1)
            loss.backward()
            return loss

        optimizer.step(closure)
        answers.append(scores.softmax(1)[0, 1].item())
    assert answers == pytest.approx([0.1, 0.25, 0.5], abs=0.01)


def test_a_class_without_labels_gets_no_infinite_logit():
    adjusted = adjust_logits(torch.zeros(1, 2, 1, 1), torch.tensor([1.0, 0.0]), 2.0)
    assert adjusted.isfinite().all()


def test_class_sets_hold_more_classes_than_a_word():
    labels = torch.tensor([[[0, 30, 31], [61, 62, 255]]])
    sets = torch.stack(window_class_sets(labels, num_classes=63))
    members = [[c for c in range(63) if sets[c // 31, 0, y, x] >> (c % 31) & 1] for y in (0, 1) for x in (0, 1, 2)]
    assert members[0] == members[3] == [0, 30, 61, 62]
    assert members[1] == members[4] == [0, 30, 31, 61, 62]
    assert members[2] == [30, 31, 62]


def test_ignored_pixels_have_no_gradient_and_none_counted_is_zero():
    logits = torch.randn(1, 3, 4, 4, generator=generator())
    labels = torch.full((1, 4, 4), 255)
    labels[0, 1, 1] = 2
    _, grad = value_and_grad(lambda x: relaxed_cross_entropy(x, labels), logits)
    assert (grad.abs().sum(1) > 0).sum() == 1
    value, grad = value_and_grad(lambda x: relaxed_cross_entropy(x, torch.full_like(labels, 255)), logits)
    assert value == 0
    assert (grad == 0).all()


@pytest.mark.parametrize("labels", [[[[0, 0, 0]]], [[[0, 1, 255]]]])
def test_gradient_is_finite_at_a_logit_gap_of_200(labels):
    labels = torch.tensor(labels)
    logits = torch.zeros(1, 3, 1, 3)
    logits[:, 2] = 200.0
    value, grad = value_and_grad(lambda x: relaxed_cross_entropy(x, labels), logits)
    # The window's classes share the pull of 1 that takes the wrong class down.
    assert abs(value - (200 - (math.log(2) if 1 in labels else 0))) < 1e-3
    assert grad.isfinite().all()
    torch.testing.assert_close(grad[0, 2].sum(), torch.tensor(1.0))
    torch.testing.assert_close(grad.sum(1), torch.zeros(1, 1, 3), rtol=0, atol=1e-6)


class SeenTensors(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        results = result if isinstance(result, tuple | list) else (result,)
        self.seen += [(tuple(r.shape), r.dtype) for r in results if isinstance(r, torch.Tensor)]
        return result


def test_relaxed_cross_entropy_never_asks_the_host_and_builds_no_label_volume():
    # A tensor on the meta device has no values: `item`, `nonzero`, a boolean index or a copy to the host raises.
    logits = torch.randn(2, 5, 8, 9, device="meta", requires_grad=True)
    labels = torch.zeros(2, 8, 9, dtype=torch.int64, device="meta")
    with SeenTensors() as tensors:
        relaxed_cross_entropy(logits, labels).backward()
    assert logits.grad.shape == logits.shape
    assert ((2, 5, 8, 9), torch.float32) in tensors.seen
    volumes = [s for s, dtype in tensors.seen if not dtype.is_floating_point and math.prod(s) > labels.numel()]
    assert not volumes


@pytest.mark.parametrize("window", [0, 2, -3])
def test_a_window_without_a_center_is_refused(window):
    with pytest.raises(ValueError, match="odd"):
        relaxed_cross_entropy(torch.zeros(1, 3, 2, 2), torch.zeros(1, 2, 2, dtype=torch.int64), window)


@pytest.mark.parametrize("wrong", [3, 254, -1])
def test_a_class_out_of_range_is_named(wrong):
    labels = torch.tensor([[[0, 255], [2, wrong]]])
    with pytest.raises(ValueError, match=f"class id {wrong}, but there are 3 classes"):
        relaxed_cross_entropy(torch.zeros(1, 3, 2, 2), labels)


def test_labels_of_another_size_are_refused():
    with pytest.raises(ValueError, match="expected logits"):
        relaxed_cross_entropy(torch.zeros(1, 3, 2, 2), torch.zeros(1, 4, 4, dtype=torch.int64))


# Equation (4)


def test_consistency_is_equation_4():
    student, teacher = random_probs(2, 4, 3, 5), random_probs(2, 4, 3, 5, seed=1)
    valid = torch.rand(2, 3, 5, generator=generator()) < 0.6
    assert_same(
        lambda p: consistency_loss(p, teacher, valid),
        lambda p: oracle_consistency(p, teacher, valid),
        student,
    )
    everywhere = torch.ones_like(valid)
    assert_same(lambda p: consistency_loss(p, teacher), lambda p: oracle_consistency(p, teacher, everywhere), student)


def test_consistency_without_a_valid_pixel_is_zero_with_a_graph():
    valid = torch.zeros(1, 2, 2, dtype=torch.bool)
    teacher = random_probs(1, 3, 2, 2, seed=1)
    value, grad = value_and_grad(lambda p: consistency_loss(p, teacher, valid), random_probs(1, 3, 2, 2))
    assert value == 0
    assert (grad == 0).all()


def test_consistency_refuses_shapes_that_do_not_fit():
    probs = random_probs(2, 3, 4, 4)
    with pytest.raises(ValueError, match="valid"):
        consistency_loss(probs, probs, torch.ones(4, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match="same shape"):
        consistency_loss(probs, probs[:1])


# Equations (7) to (10)

NUM_BOXES = 5


def covered_boxes():
    """Two images of 4 by 6. Box 3 has one pixel; box 4 has none in the first image; padding is 0."""
    first = torch.tensor([[0, 1, 1, 2, 2, 2], [0, 5, 5, 5, 2, 2], [0, 5, 5, 5, 2, 3], [0, 0, 1, 1, 0, 0]])
    second = torch.tensor([[4, 4, 4, 0, 0, 0], [4, 4, 5, 5, 5, 0], [1, 2, 5, 5, 5, 0], [1, 2, 2, 3, 0, 0]])
    return torch.stack([first, second])


@pytest.mark.parametrize("num_loss_boxes", [1, 3, 5])
@pytest.mark.parametrize("num_classes", [2, 5])
def test_exact_form_is_equation_8(num_classes, num_loss_boxes):
    student, teacher = random_probs(2, num_classes, 4, 6), random_probs(2, num_classes, 4, 6, seed=1)
    box_ids = covered_boxes()
    assert_same(
        lambda p: structured_consistency_loss(p, teacher, box_ids, NUM_BOXES, num_loss_boxes),
        lambda p: oracle_structured(p, teacher, box_ids, NUM_BOXES, num_loss_boxes),
        student,
    )


def test_a_shared_map_serves_every_image():
    student, teacher = random_probs(2, 3, 4, 6), random_probs(2, 3, 4, 6, seed=1)
    shared = covered_boxes()[0]
    both = structured_consistency_loss(student, teacher, shared.expand(2, -1, -1), NUM_BOXES, 3)
    assert structured_consistency_loss(student, teacher, shared, NUM_BOXES, 3) == both


def test_what_fills_up_a_box_takes_distinct_pixels():
    probs, pixels = random_probs(1, 3, 4, 6), torch.tensor([[[5, -1, -1], [2, 7, -1]]])
    vectors = gather(probs, pixels)
    assert torch.equal(vectors[0, 1, 1], probs[0, :, 1, 1])
    assert len(vectors[pixels < 0].unique(dim=0)) == 3


@pytest.mark.parametrize("num_pairs", [None, 4])
def test_boxes_without_a_visible_pixel_add_zero_with_a_graph(num_pairs):
    student, teacher = random_probs(1, 3, 4, 6), random_probs(1, 3, 4, 6, seed=1)
    for box_ids in (torch.zeros(4, 6, dtype=torch.int64), torch.ones(4, 6, dtype=torch.int64)):
        value, grad = value_and_grad(
            lambda p, ids=box_ids: structured_consistency_loss(p, teacher, ids, NUM_BOXES, 2, num_pairs), student
        )
        assert value == 0
        assert (grad == 0).all()


@pytest.mark.parametrize("num_pairs", [None, 20])
def test_one_class_or_equal_predictions_give_zero(num_pairs):
    one_class = torch.ones(2, 1, 4, 6)
    probs = random_probs(2, 3, 4, 6, dtype=torch.float32)
    # Every pixel the same within each network: all similarities are 1, however far apart the networks are.
    flat_student, flat_teacher = (random_probs(1, 3, 1, 1, seed=seed).expand(2, 3, 4, 6) for seed in (0, 1))
    for student, teacher in ((one_class, one_class), (probs, probs), (flat_student, flat_teacher)):
        value, grad = value_and_grad(
            lambda p, t=teacher: structured_consistency_loss(p, t, covered_boxes(), NUM_BOXES, 5, num_pairs), student
        )
        assert value.abs() < 1e-10
        assert grad.abs().max() < 1e-6


def test_both_forms_leave_the_teacher_alone():
    student, teacher = random_probs(2, 3, 4, 6).requires_grad_(), random_probs(2, 3, 4, 6, seed=1).requires_grad_()
    for num_pairs in (None, 9):
        structured_consistency_loss(student, teacher, covered_boxes(), NUM_BOXES, 3, num_pairs).backward()
    consistency_loss(student, teacher).backward()
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("num_pairs", [None, 10_000])
def test_half_precision_in_float32_inside(dtype, num_pairs):
    student, teacher = (random_probs(2, 5, 4, 6, seed=seed, dtype=dtype) for seed in (0, 1))
    box_ids = covered_boxes()

    def loss(p):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return structured_consistency_loss(p, teacher, box_ids, NUM_BOXES, 3, num_pairs)

    value, grad = value_and_grad(loss, student)
    expected, expected_grad = value_and_grad(
        lambda p: oracle_structured(p, teacher.double(), box_ids, NUM_BOXES, 3), student.double()
    )
    assert value.dtype == torch.float32
    assert grad.dtype == dtype
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=0)
    # Only the gradient's own rounding to half precision is left.
    torch.testing.assert_close(grad.double(), expected_grad, rtol=2 * torch.finfo(dtype).eps, atol=1e-6)


def test_consistency_and_relaxed_loss_take_half_precision():
    probs, teacher = random_probs(1, 4, 3, 3, dtype=torch.bfloat16), random_probs(1, 4, 3, 3, seed=1)
    value, grad = value_and_grad(lambda p: consistency_loss(p, teacher.bfloat16()), probs)
    assert (value.dtype, grad.dtype) == (torch.float32, torch.bfloat16)
    labels = torch.zeros(1, 3, 3, dtype=torch.int64)
    value, grad = value_and_grad(lambda x: relaxed_cross_entropy(x, labels), probs)
    assert (value.dtype, grad.dtype) == (torch.float32, torch.bfloat16)


def test_exact_form_does_not_cancel_where_student_is_near_teacher():
    logits = 2 * torch.randn(1, 19, 40, 40, generator=generator(), dtype=torch.float64)
    noise = 1e-3 * torch.randn(1, 19, 40, 40, generator=generator(1), dtype=torch.float64)
    student, teacher = torch.softmax(logits + noise, 1).float(), torch.softmax(logits, 1).float()
    box_ids = torch.ones(1, 40, 40, dtype=torch.int64)
    units = [F.normalize(p.double().flatten(2)[0], dim=0) for p in (student, teacher)]
    expected = (units[0].T @ units[0] - units[1].T @ units[1]).square().mean()
    value = structured_consistency_loss(student, teacher, box_ids, 1, 1)
    torch.testing.assert_close(value.double(), expected, rtol=1e-4, atol=0)


def test_no_pair_is_ever_formed():
    probs, teacher = random_probs(1, 3, 60, 60).requires_grad_(), random_probs(1, 3, 60, 60, seed=1)
    box_ids = torch.ones(1, 60, 60, dtype=torch.int64)
    for num_pairs in (None, 100):
        with SeenTensors() as tensors:
            structured_consistency_loss(probs, teacher, box_ids, 1, 1, num_pairs).backward()
        assert max(math.prod(shape) for shape, _ in tensors.seen) <= probs.numel()


# Equation (10)


def test_enough_pairs_are_the_exact_form():
    student, teacher = random_probs(2, 5, 4, 6), random_probs(2, 5, 4, 6, seed=1)
    for num_pairs in (49, 10_000):  # the largest box has 7 pixels
        assert_same(
            lambda p, n=num_pairs: structured_consistency_loss(p, teacher, covered_boxes(), NUM_BOXES, 5, n),
            lambda p: structured_consistency_loss(p, teacher, covered_boxes(), NUM_BOXES, 5),
            student,
        )


def test_sampled_form_is_unbiased():
    box_ids = sample_boxes(16, 16, 4, 0.77, generator())[None]
    student, teacher = random_probs(1, 5, 16, 16), random_probs(1, 5, 16, 16, seed=1)

    def loss(p, num_pairs=None, source=None):
        return structured_consistency_loss(p, teacher, box_ids, 4, 2, num_pairs, source)

    exact, exact_grad = value_and_grad(loss, student)
    source = generator()
    samples = [value_and_grad(lambda p: loss(p, 40, source), student) for _ in range(400)]
    values, grads = torch.stack([value for value, _ in samples]), torch.stack([grad for _, grad in samples])
    assert (values.mean() - exact).abs() < 4 * values.std() / math.sqrt(len(samples))
    spread = grads.std(0) / math.sqrt(len(samples))
    counted = spread > 0
    assert ((grads.mean(0) - exact_grad)[counted].abs() / spread[counted]).square().mean() < 1.5


def test_same_generator_state_same_value():
    box_ids = sample_boxes(16, 16, 4, 0.77, generator())
    student, teacher = random_probs(1, 5, 16, 16), random_probs(1, 5, 16, 16, seed=1)
    first, again, other = (
        structured_consistency_loss(student, teacher, box_ids, 4, 2, 40, generator(seed)) for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_structured_loss_names_what_does_not_fit():
    probs, box_ids = random_probs(2, 3, 4, 6), covered_boxes()
    with pytest.raises(ValueError, match="box_ids"):
        structured_consistency_loss(probs, probs, box_ids[:1], NUM_BOXES, 3)
    for num_loss_boxes in (0, NUM_BOXES + 1):
        with pytest.raises(ValueError, match="num_loss_boxes"):
            structured_consistency_loss(probs, probs, box_ids, NUM_BOXES, num_loss_boxes)
    with pytest.raises(ValueError, match="num_pairs"):
        structured_consistency_loss(probs, probs, box_ids, NUM_BOXES, 3, num_pairs=0)
    with pytest.raises(ValueError, match="same shape"):
        structured_consistency_loss(probs, probs[:, :2], box_ids, NUM_BOXES, 3)

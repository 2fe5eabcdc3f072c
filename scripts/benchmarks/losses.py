"""The structured loss and the relaxed cross-entropy."""

import argparse

import torch
import torch.nn.functional as F

from scl_hf.cutmix import sample_boxes
from scl_hf.losses import consistency_loss, relaxed_cross_entropy, structured_consistency_loss

from .common import measure, print_table, print_targets

NUM_CLASSES, NUM_BOXES, NUM_LOSS_BOXES, BOX_RATIO = 19, 32, 16, 0.77
NAIVE_SIDES = (32, 64, 96)  # all pairs of 96 by 96 pixels: 0.3 GiB a matrix, and several are alive
SAMPLED_PAIRS = (1000, 9000, 90000)
CLASSES = (19, 65, 150, 1000)  # the exact loss takes time with their square


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", type=int, default=896, help="height and width of the maps (default: 896)")


def naive_structured_loss(student_probs: torch.Tensor, teacher_probs: torch.Tensor) -> torch.Tensor:
    """Equation (8) as it stands, for one box that is the whole image: both matrices of all pairs."""
    student, teacher = (F.normalize(probs.flatten(2)[0], dim=0) for probs in (student_probs, teacher_probs))
    return (student.T @ student - teacher.T @ teacher).square().mean()


def multi_hot_cross_entropy(logits: torch.Tensor, labels: torch.Tensor, window: int, ignore_index: int = 255):
    """Equation (2) by way of a label volume with a channel per class."""
    num_classes = logits.shape[1]
    counted = labels != ignore_index
    volume = torch.zeros(labels.shape[0], num_classes + 1, *labels.shape[1:])
    volume.scatter_(1, labels.where(counted, num_classes)[:, None], 1.0)
    in_window = F.max_pool2d(volume[:, :num_classes], window, stride=1, padding=window // 2) > 0
    in_window |= ~counted[:, None]  # keeps the logarithm finite where there is no loss
    losses = -F.log_softmax(logits, dim=1).masked_fill(~in_window, -torch.inf).logsumexp(dim=1)
    return losses.where(counted, 0.0).sum() / counted.sum()


def run(args: argparse.Namespace) -> None:
    size, generator = args.size, torch.Generator().manual_seed(0)

    def random_maps(side: int, classes: int = NUM_CLASSES) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        logits = 3 * torch.randn(1, classes, side, side, generator=generator)
        teacher = torch.softmax(logits + torch.randn(logits.shape, generator=generator), dim=1)
        return logits.requires_grad_(), torch.softmax(logits, dim=1).detach().requires_grad_(), teacher

    rows = []
    for side in (side for side in NAIVE_SIDES if side <= size):
        _, student, teacher = random_maps(side)
        whole = torch.ones(side, side, dtype=torch.int64)
        cases = {
            "naive": lambda s=student, t=teacher: naive_structured_loss(s, t),
            "exact": lambda s=student, t=teacher, ids=whole: structured_consistency_loss(s, t, ids, 1, 1),
        }
        result = measure(cases, [student], rounds=min(args.rounds, 3))
        naive, exact = result["naive"], result["exact"]
        memory = [measured.peak_bytes / 2**20 for measured in (naive, exact)]
        times = [naive.milliseconds, exact.milliseconds, naive.times_slower_than(exact)]
        rows.append([side**2, *times, *memory, memory[0] / memory[1]])
    print_table(
        f"Structured loss over all pairs of one box, {NUM_CLASSES} classes, forward and backward",
        ["pixels", "naive, ms", "exact, ms", "ratio", "naive, peak MiB", "exact, peak MiB", "ratio"],
        rows,
    )

    logits, student, teacher = random_maps(size)
    map_bytes = student.nbytes
    box_ids = sample_boxes(size, size, NUM_BOXES, BOX_RATIO, generator)

    def structured(num_pairs: int | None) -> torch.Tensor:
        return structured_consistency_loss(student, teacher, box_ids, NUM_BOXES, NUM_LOSS_BOXES, num_pairs, generator)

    cases = {"softmax and squared difference": lambda: consistency_loss(torch.softmax(logits, 1), teacher)}
    cases["exact"] = lambda: structured(None)
    cases["exact, softmax included"] = lambda: structured_consistency_loss(
        torch.softmax(logits, 1), teacher, box_ids, NUM_BOXES, NUM_LOSS_BOXES
    )
    cases |= {f"sampled, {num_pairs} pairs a box": lambda n=num_pairs: structured(n) for num_pairs in SAMPLED_PAIRS}
    result = measure(cases, [logits, student], args.rounds)
    reference, exact = result["softmax and squared difference"], result["exact"]
    sampled = result["sampled, 9000 pairs a box"]
    visible = (box_ids > NUM_BOXES - NUM_LOSS_BOXES).double().mean().item()
    print_table(
        f"Structured loss at {size}×{size}, {NUM_CLASSES} classes, the last {NUM_LOSS_BOXES} of {NUM_BOXES} boxes "
        f"({visible:.0%} of the pixels), forward and backward",
        ["", "ms", "times softmax and squared difference", "times exact", "peak, maps of B×C×H×W"],
        [
            [
                name,
                m.milliseconds,
                m.times_slower_than(reference),
                m.times_slower_than(exact),
                m.peak_bytes / map_bytes,
            ]
            for name, m in result.items()
        ],
    )

    side, rows = size // 4, []
    box_ids = sample_boxes(side, side, NUM_BOXES, BOX_RATIO, generator)
    for classes in CLASSES:
        _, probs, target = random_maps(side, classes)
        cases = {
            num_pairs: lambda p=probs, t=target, ids=box_ids, n=num_pairs: structured_consistency_loss(
                p, t, ids, NUM_BOXES, NUM_LOSS_BOXES, n, generator
            )
            for num_pairs in (None, 9000)
        }
        result_classes = measure(cases, [probs], min(args.rounds, 3))
        exact_c, sampled_c = result_classes[None], result_classes[9000]
        peaks = [m.peak_bytes / 2**20 for m in (exact_c, sampled_c)]
        rows.append(
            [classes, exact_c.milliseconds, sampled_c.milliseconds, exact_c.times_slower_than(sampled_c), *peaks]
        )
    print_table(
        f"Structured loss and the number of classes, at {side}×{side}, forward and backward",
        ["classes", "exact, ms", "9000 pairs, ms", "ratio", "exact, peak MiB", "9000 pairs, peak MiB"],
        rows,
    )

    # Labels in patches, most pixels inside one: about as many pixels near a border as in a street scene.
    patches = torch.randint(NUM_CLASSES, (1, 1, size // 16 + 1, size // 16 + 1), generator=generator)
    labels = patches.float().repeat_interleave(16, 2).repeat_interleave(16, 3)[:, 0, :size, :size].long()
    labels[:, -size // 16 :] = 255
    cases = {
        "plain cross-entropy": lambda: F.cross_entropy(logits, labels, ignore_index=255),
        "relaxed, w=1": lambda: relaxed_cross_entropy(logits, labels, window=1),
        "relaxed, w=3": lambda: relaxed_cross_entropy(logits, labels, window=3),
        "relaxed, w=3, by a multi-hot volume": lambda: multi_hot_cross_entropy(logits, labels, window=3),
    }
    result_relaxed = measure(cases, [logits], args.rounds)
    plain, relaxed = result_relaxed["plain cross-entropy"], result_relaxed["relaxed, w=3"]
    print_table(
        f"Cross-entropy at {size}×{size}, {NUM_CLASSES} classes, label preparation included, forward and backward",
        ["", "ms", "times plain cross-entropy", "times relaxed, w=3", "peak, maps of B×C×H×W"],
        [
            [name, m.milliseconds, m.times_slower_than(plain), m.times_slower_than(relaxed), m.peak_bytes / map_bytes]
            for name, m in result_relaxed.items()
        ],
    )

    targets = [
        ("exact structured loss / softmax and squared difference", exact.times_slower_than(reference), "≤", 1.5),
        ("exact structured loss / sampled, 9000 pairs a box", exact.times_slower_than(sampled), "≤", 1.0),
        ("exact structured loss, extra maps alive, its gradient included", exact.peak_bytes / map_bytes, "≤", 4.0),
        ("relaxed cross-entropy, w=3 / plain cross-entropy", relaxed.times_slower_than(plain), "≤", 2.5),
    ]
    print_targets(f"Targets (set for 896×896 on one core; this run: {size}×{size}, threads: {args.threads})", targets)

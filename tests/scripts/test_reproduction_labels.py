"""scripts/reproduction: tables over numbers of labels, of made-up scores"""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image
from reproduction.figure import BLUE, GRAY, ORANGE, plot_table
from reproduction.labels import label_counts, worth_in_labels
from reproduction.report import markdown_page
from reproduction.summary import Summary

OCTAVES = {"10 labels": 40.0, "20 labels": 50.0, "40 labels": 60.0}  # 10 points each


def summary_of(scores, rows=("supervised", "both"), baseline=("supervised",)):
    """(share, row) -> scores in percent of seeds 0, 1, …, None where there is no result."""
    results = {
        (share, row, seed): {"mean_iou": value / 100, "iou": {"road": value / 100, "sky": None}}
        for (share, row), values in scores.items()
        for seed, value in enumerate(values)
        if value is not None
    }
    return Summary(rows, list(dict.fromkeys(share for share, _ in scores)), baseline, results)


def with_curve(both, curve=OCTAVES, seeds=3, share="10 labels"):
    """The supervised scores of a curve, the same with each seed, and scores of the other row at one share."""
    return summary_of(
        {(name, "supervised"): [score] * seeds for name, score in curve.items()} | {(share, "both"): both}
    )


def worth(summary, share="10 labels"):
    return worth_in_labels(summary, label_counts(summary.shares), share, "both")


def page_of(summary, weights=(0, 1)):
    """The page of a table whose rows have these weights of the consistency loss."""
    runs = [
        SimpleNamespace(row=row, semi_supervised=weight > 0)
        for row, weight in zip(summary.rows, weights)
        for _ in summary.shares
    ]
    table = SimpleNamespace(
        title="Made up",
        rows=summary.rows,
        seeds=(0, 1, 2),
        baseline=(summary.rows[0],),
        runs=runs,
        shares=summary.shares,
    )
    return markdown_page(table, summary, {}, [60.0], "made_up.png")


def test_shares_that_are_numbers_of_labels():
    assert label_counts(["1,488 labels", "5 labels", "12 labels, twice as long"]) == {
        "5 labels": 5,
        "12 labels, twice as long": 12,
        "1,488 labels": 1488,
    }
    assert list(label_counts(["10 labels", "1 label", "2 labels"]).values()) == [1, 2, 10]
    for shares in (
        ["5 labels", "10 labels"],
        ["12 labels", "46 labels", "all 367 labels"],
        ["1/16, 186 labels", "1/8, 372 labels", "1/4, 744 labels"],
        ["5 labels", "10 labels", "10 labels, blurred"],
        ["0 labels", "10 labels", "20 labels"],
        ["5 labelers", "10 labelers", "20 labelers"],
    ):
        assert label_counts(shares) == {}, shares


def test_the_worth_is_where_the_curve_reaches_the_score():
    # Half of the interval of -1, 0, 1 is 4.303 / √3 = 2.484 points: 20 / 2^0.2484 = 16.8 and 20 · 2^0.2484 = 23.8.
    assert worth(with_curve([49, 50, 51])) == (20, 17, 23, 10, 40, 3, 0)
    # Differences are paired: what a seed adds to both rows does not count. On a log scale 45 lies at 10 · √2 = 14.1.
    curve = {(share, "supervised"): [score - 5, score, score + 5] for share, score in OCTAVES.items()}
    assert worth(summary_of(curve | {("10 labels", "both"): [40, 45, 50]})) == (15, 15, 15, 10, 40, 3, 0)
    assert worth(with_curve([50, 50, 50])) == (20, 20, 20, 10, 40, 3, 0)


def test_beyond_the_ends_of_the_curve():
    inf = math.inf
    assert worth(with_curve([65, 66, 67])) == (inf, 41, inf, 10, 40, 3, 3)
    assert worth(with_curve([59, 61, 63])) == (inf, 31, inf, 10, 40, 3, 2)  # 61 − 4.97: 10 · 2^1.603 = 30.4
    assert worth(with_curve([57, 58, 59])) == (35, 30, inf, 10, 40, 3, 0)
    assert worth(with_curve([30, 31, 32])) == (0, 0, 9, 10, 40, 3, 3)
    assert worth(with_curve([38, 39, 42])) == (0, 0, 13, 10, 40, 3, 2)  # 39.67 + 5.17: 10 · 2^0.484 = 13.99
    assert worth(with_curve([40, 40, 40]))[0] == 10 and worth(with_curve([60, 60, 60]))[0] == 40


def test_a_curve_that_falls_counts_where_it_first_reaches_the_score():
    curve = {"10 labels": 40, "20 labels": 50, "40 labels": 45, "80 labels": 60}
    assert worth(with_curve([48, 48, 48], curve))[:3] == (18, 18, 18)  # 10 · 2^0.8 = 17.4
    # The interval, ± 0.99 points, is around it; the curve comes by once more before and after 40 labels.
    assert worth(with_curve([47.6, 48, 48.4], curve))[:3] == (18, 17, 18)


def test_seeds_and_shares_that_are_missing():
    assert worth(with_curve([50], seeds=1))[:1] == (20,) and math.isnan(worth(with_curve([50], seeds=1)).low)
    assert worth(with_curve([]), "10 labels") is None and worth(with_curve([50, 51, 52]), "20 labels") is None
    # Seed 2 is missing at 40 labels: the curve of the three ends at 20, that of seeds 0 and 1 does not.
    scores = {(share, "supervised"): [score] * 3 for share, score in OCTAVES.items()}
    scores["40 labels", "supervised"] = [60, 60]
    three = worth(summary_of(scores | {("10 labels", "both"): [55, 55, 55]}))
    two = worth(summary_of(scores | {("10 labels", "both"): [55, 55, None]}))
    assert (three.number, three.last, three.seeds) == (math.inf, 20, 3)
    assert (two.number, two.last, two.seeds) == (29, 40, 2)
    scores["20 labels", "supervised"] = []
    assert worth(summary_of(scores | {("10 labels", "both"): [55, 55, 55]})) is None  # one point is no curve


def test_the_better_baseline_of_each_share_makes_the_curve():
    scores = {(share, "supervised"): [score] * 3 for share, score in OCTAVES.items()}
    scores |= {(share, "longer"): [score + sign] * 3 for (share, score), sign in zip(OCTAVES.items(), (-5, 5, 5))}
    scores["10 labels", "both"] = [55, 55, 55]
    summary = summary_of(scores, ("supervised", "longer", "both"), ("supervised", "longer"))
    assert list(summary.baseline.values()) == ["supervised", "longer", "longer"]
    assert worth(summary)[:3] == (20, 20, 20)


def test_the_sentences_of_the_page():
    scores = {(share, "supervised"): [score] * 3 for share, score in OCTAVES.items()}
    scores |= {("10 labels", "both"): [49, 50, 51], ("20 labels", "both"): [57, 58, 59]}
    page = page_of(summary_of(scores | {("40 labels", "both"): [59, 61, 63]}))
    start = "and the unlabeled images are worth"
    assert f"\n- both: 10 labels {start} 20 labels alone (95 % interval 17 to 23)\n" in page
    assert f"\n- both: 20 labels {start} 35 labels alone (95 % interval 30 to more than 40)\n" in page
    beyond = "more than 40 labels alone (95 % interval 31 to more than 40; seeds beyond their own curve: 2 of 3)"
    assert f"\n- both: 40 labels {start} {beyond}\n" in page
    assert (
        page.index("(made_up.png)") < page.index("What the unlabeled images are worth") < page.index("Gains of each")
    )

    page = page_of(with_curve([65, 66, 67]))
    beyond = "more than 40 labels alone (95 % interval more than 40; seeds beyond their own curve: 3 of 3)"
    assert f"{start} {beyond}\n" in page and page.count(start) == 1
    assert f"{start} fewer than 10 labels alone (95 % interval fewer than 10 to 13; " in page_of(
        with_curve([38, 39, 42])
    )
    assert f"{start} 20 labels alone (one seed, no interval)\n" in page_of(with_curve([50], seeds=1))
    large = {"1,000 labels": 40, "2,000 labels": 50, "4,000 labels": 60}
    assert (
        "- both: 1,000 labels and the unlabeled images are worth 1,415 labels alone (95 % interval 1,415)"
        in page_of(with_curve([45, 45, 45], large, share="1,000 labels"))
    )


def test_no_sentence_where_the_rows_do_not_differ_in_the_unlabeled_images():
    for weights in ((0, 0), (1, 1), (1, 0)):
        assert "worth" not in page_of(with_curve([49, 50, 51]), weights)
    few = {share: score for share, score in OCTAVES.items() if share != "40 labels"}
    assert "worth" not in page_of(with_curve([49, 50, 51], few))


def test_the_curves(tmp_path, figures):
    scores = {(share, "supervised"): [score, score + 1, score + 3] for share, score in OCTAVES.items()}
    scores |= {(share, "both"): [score + 5] * 3 for share, score in OCTAVES.items()}
    scores |= {("20 labels", "$1"): [30], ("20 labels", "none"): []}
    path = plot_table(summary_of(scores, ("supervised", "both", "$1", "none")), "Made up", tmp_path / "made_up.png")
    assert Image.open(path).size[0] > 800
    (axes,) = figures[0].axes
    assert axes.get_xscale() == "log" and axes.get_ylabel() == "mean IoU (%)"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["10", "20", "40"]
    assert axes.get_xticks() == pytest.approx([10, 20, 40])
    curves = {to_hex(one.lines[0].get_color()): one.lines[0].get_ydata() for one in axes.containers}
    assert curves[GRAY] == pytest.approx([41 + 1 / 3, 51 + 1 / 3, 61 + 1 / 3])
    assert curves[BLUE.lower()] == pytest.approx([45, 55, 65]) and curves[ORANGE.lower()] == pytest.approx([30])
    seeds = [line.get_ydata() for line in axes.lines if line.get_markersize() == 3.5 and line.get_marker() == "o"]
    assert len(seeds) == 6 and seeds[0] == pytest.approx([40, 41, 43])
    names = {text.get_text(): text.xy[1] for text in axes.texts}
    assert list(names) == ["both", "supervised", "$1", "none: no result"]
    heights, space = [*names.values()], 0.05 * np.ptp(axes.get_ylim())
    assert all(above - below >= space - 1e-9 for above, below in zip(heights, heights[1:]))
    assert figures[0].get_suptitle() == "Made up\nmean over seeds, bars: 95 % interval, pale: single seeds"


def test_crowded_numbers_are_not_all_written_and_wide_intervals_are_cut_off(tmp_path, figures):
    curve = {f"{number} labels": 30 + number / 10 for number in (5, 6, 7, 100, 101, 300)}
    scores = {(share, "supervised"): [score, score + 9] for share, score in curve.items()}  # ± 57
    plot_table(summary_of(scores, ("supervised",)), "Made up", tmp_path / "made_up.png")
    (axes,) = figures[0].axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["5", "7", "100", "300"]
    assert axes.get_ylim() == pytest.approx((30.5 - 19.25, 69 + 19.25))


def test_other_shares_have_three_axes_each(tmp_path, figures):
    for last in ("all 40 labels", "40 labels"):
        scores = {
            (share, row): [50, 51] for share in ("10 labels", "20 labels", last) for row in ("supervised", "both")
        }
        plot_table(summary_of(scores), "Made up", tmp_path / "made_up.png")
    assert len(figures[0].axes) == 3 * 3 + 1 and len(figures[1].axes) == 1  # and a color bar


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("last", ["40 labels", "all 40 labels"])
def test_a_page_and_a_figure_of_each_part_of_a_table(tmp_path, last):
    rng = np.random.default_rng(0)
    shares, rows = [*list(OCTAVES)[:2], last], ("supervised", "both")
    for number in (1, 5, 11):
        cells = [(share, row, seed) for share in shares for row in rows for seed in range(2)]
        kept = [cells[index] for index in rng.permutation(len(cells))[:number]]
        results = {cell: {"mean_iou": rng.uniform(), "iou": {"road": rng.uniform()}} for cell in kept}
        summary = Summary(rows, shares, ("supervised",), results)
        assert plot_table(summary, "Made up", tmp_path / f"{number}.png").is_file()
        assert "| both | " in page_of(summary)

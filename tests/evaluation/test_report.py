import json
import math

import numpy as np
import pytest
import torch

from scl_hf.data.sources.cityscapes import ID2LABEL
from scl_hf.evaluation.report import confusion_page, iou_table, make_report, markdown_page, text_table
from scl_hf.evaluation.scoring import EvaluationArguments
from scl_hf.files import write_json
from scl_hf.metrics import MeanIoU


def report(matrix, id2label, name="mine", official=None):
    metric = MeanIoU(num_classes=len(matrix))
    metric.confusion_matrix = torch.as_tensor(matrix)
    matrix = metric.confusion_matrix.clone()
    results = metric.compute() | {"confusion_matrix": matrix}
    return make_report(name, f"runs/{name}", id2label, results, official)


def test_iou_table():
    results = {"per_category_iou": [0.5, math.nan, 1.0], "mean_iou": 0.75}
    lines = iou_table(results, {0: "road", 1: "a long class name", 2: "sky"}).splitlines()
    assert len({len(line) for line in lines[:-1]}) == 1
    assert [line.split()[-1] for line in lines[2:5]] == ["50.00", "–", "100.00"]
    assert lines[6].split() == ["mean", "75.00"]
    assert lines[7] == "– not in the evaluated labels"
    assert "not in" not in iou_table({"per_category_iou": [0.5], "mean_iou": 0.5}, {0: "road"})


def test_own_classes(tmp_path):
    matrix = torch.tensor([[8, 2, 0], [0, 10, 0], [0, 0, 0]])
    names = {0: "a|b", 1: "sky", 2: "never"}
    reports = [report(matrix, names)]
    table = text_table(reports).splitlines()
    assert table[2].split() == ["a|b", "80.00"] and table[4].split() == ["never", "–"]
    assert table[-1].split() == ["pixel", "accuracy", "90.00"] and "categories" not in "".join(table)
    page = markdown_page(reports, "mine", 2, EvaluationArguments(eval_tile=8), "float32")
    assert "2 images, tiles of 8×8 pixels, float32" in page
    assert "|  | a\\|b | sky | never | mIoU |" in page and "| mine | 80.0 | 83.3 | – | 81.7 |" in page
    write_json(tmp_path / "scores.json", reports[0])
    assert json.loads((tmp_path / "scores.json").read_text())["iou"] == {"a|b": 0.8, "sky": 10 / 12, "never": None}
    assert confusion_page(names, matrix).splitlines() == [
        "label,a|b,sky,never",
        "a|b,8,2,0",
        "sky,0,10,0",
        "never,0,0,0",
    ]


def test_cityscapes_has_the_columns_of_table_1_and_categories():
    matrix = np.diag(np.arange(1, 20))
    matrix[0, 1] = 1
    official = {"mean_iou": report(matrix, dict(ID2LABEL))["mean_iou"], "mean_category_iou": 0.9}
    ours = report(matrix, dict(ID2LABEL), "ours", official)
    reports = [ours, report(np.eye(19, dtype=int), dict(ID2LABEL), "ours+")]
    _, _, first, second, official = markdown_page(reports, "x", 1, EvaluationArguments(), "float32").split("\n\n")
    names = "road s.walk build. wall fence pole t-light t-sign veg terrain sky person rider car truck bus train motor"
    header, _, ours, better = first.splitlines()
    assert header.strip("| ").split(" | ") == [*names.split(), "bike", "mIoU"]
    assert ours.startswith("| ours | 50.0 | 66.7 | 100.0 |") and ours.endswith(" | 95.6 |")
    assert better == "| ours+ " + "| 100.0 " * 20 + "|"
    assert second.splitlines()[0].endswith("| human | vehicle | mean of categories | pixel accuracy |")
    assert "the difference to the scores above is 1.0e-01" in official
    assert "mean of categories  100.00  100.00" in text_table(reports)
    assert reports[0]["category_iou"]["flat"] == 1


@pytest.mark.parametrize(
    ("matrix", "official", "agrees"),
    [
        (np.eye(19), (1.0, 1.0), True),
        (np.eye(19), (1.0, math.nan), False),
        (np.eye(19), (math.nan, 1.0), False),
        (np.zeros((19, 19)), (math.nan, math.nan), True),
        (np.zeros((19, 19)), (math.nan, 0.0), False),
    ],
)
def test_scorers_agree_only_where_both_have_a_score(matrix, official, agrees):
    official = dict(zip(("mean_iou", "mean_category_iou"), official))
    ours = report(matrix.astype(int), dict(ID2LABEL), official=official)
    assert (ours["official"]["difference"] <= 1e-6) is agrees

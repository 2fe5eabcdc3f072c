import sys

import numpy as np
import pytest
import torch
from PIL import Image

from scl_hf.data.sources.cityscapes import LABEL_IDS, LABEL_IMAGE
from scl_hf.errors import InputError
from scl_hf.evaluation.official import CATEGORIES, category_ious, import_official_scorer, official_scores
from scl_hf.metrics import MeanIoU


def write_files(folder, labeled, predicted, number=3):
    """Files of random label ids and predictions, and the metric's results on them."""
    rng, files, metric = np.random.default_rng(0), {"gt": [], "pred": []}, MeanIoU(num_classes=19)
    for index in range(number):
        label = rng.choice(labeled, (13, 17 + index)).astype(np.uint8)
        prediction = rng.choice(predicted, label.shape)
        for kind, ids in (("gt", label), ("pred", LABEL_IDS[prediction])):
            files[kind].append(folder / f"{kind}{index}.png")
            Image.fromarray(ids).save(files[kind][-1])
        metric.add_batch(predictions=prediction, references=LABEL_IMAGE.table[label])
    matrix = metric.confusion_matrix.numpy()
    return files, metric.compute(), matrix


@pytest.mark.parametrize(
    ("labeled", "predicted"),
    [
        (range(34), range(19)),  # all ids, ignored ones too
        ([0, 7, 11, 24, 29], [0, 1, 5, 11]),  # classes without a label, without a prediction, without either
        ([0, 3], [0]),  # nothing that counts
    ],
)
def test_the_official_scorer_agrees(tmp_path, labeled, predicted):
    files, results, matrix = write_files(tmp_path, labeled, predicted)
    official = official_scores(files["pred"], files["gt"])
    ious = category_ious(matrix)
    assert official["mean_iou"] == pytest.approx(results["mean_iou"], abs=1e-12, nan_ok=True)
    scored = [iou for iou in ious.values() if iou == iou] or [np.nan]
    assert official["mean_category_iou"] == pytest.approx(np.mean(scored), abs=1e-12, nan_ok=True)


def test_within_a_category_classes_may_be_confused():
    matrix = torch.zeros(19, 19, dtype=torch.int64)
    matrix[0, 1] = matrix[1, 0] = 10  # road and sidewalk
    matrix[13, 11] = 4  # a car for a person
    matrix[13, 14] = 6  # a car for a truck
    ious = category_ious(matrix.numpy())
    assert tuple(ious) == CATEGORIES
    assert ious["flat"] == 1 and ious["human"] == 0 and ious["vehicle"] == 0.6 and np.isnan(ious["sky"])


def test_what_the_scorer_does_not_take_is_one_line(tmp_path):
    files, *_ = write_files(tmp_path, range(34), range(19))
    Image.new("L", (5, 5)).save(files["pred"][1])
    with pytest.raises(InputError, match="official: the Cityscapes scorer stopped: .*widths of .*pred1.png"):
        official_scores(files["pred"], files["gt"])


def test_without_the_scorer_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "cityscapesscripts.evaluation", None)
    with pytest.raises(InputError, match=r"not installed .*scl_hf\[cityscapes\]"):
        import_official_scorer()

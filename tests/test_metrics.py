import json
import math

import evaluate
import numpy as np
import pytest
import torch

from scl_hf.metrics import MeanIoU


def random_maps(num_classes, shape=(3, 20, 30), ignore_index=255, seed=0):
    rng = np.random.default_rng(seed)
    references = rng.integers(0, num_classes, shape)
    predictions = np.where(rng.random(shape) < 0.6, references, rng.integers(0, num_classes, shape))
    references[rng.random(shape) < 0.1] = ignore_index
    return predictions, references


def loop_matrix(predictions, references, num_classes, ignore_index):
    matrix = np.zeros((num_classes, num_classes), np.int64)
    for prediction, reference in zip(predictions.ravel(), references.ravel()):
        if reference != ignore_index:
            matrix[reference, prediction] += 1
    return matrix


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int64])
def test_scores_are_those_of_a_loop_over_pixels(dtype):
    predictions, references = random_maps(19)
    metric = MeanIoU(19)
    metric.add_batch(predictions=predictions.astype(dtype), references=references.astype(dtype))
    matrix = loop_matrix(predictions, references, 19, 255)
    assert metric.confusion_matrix.dtype == torch.int64
    np.testing.assert_array_equal(metric.confusion_matrix.numpy(), matrix)

    scores = metric.compute()
    seen = references != 255
    for index in range(19):
        found, wanted = (predictions == index) & seen, references == index
        assert scores["per_category_iou"][index] == pytest.approx((found & wanted).sum() / (found | wanted).sum())
        assert scores["per_category_accuracy"][index] == pytest.approx((found & wanted).sum() / wanted.sum())
    assert scores["mean_iou"] == pytest.approx(np.mean(scores["per_category_iou"]))
    assert scores["mean_accuracy"] == pytest.approx(np.mean(scores["per_category_accuracy"]))
    assert scores["overall_accuracy"] == pytest.approx((predictions == references)[seen].mean())
    json.dumps(scores)  # plain numbers


def test_more_classes_than_fit_into_a_byte():
    predictions, references = random_maps(300, ignore_index=65535)
    metric = MeanIoU(300, ignore_index=65535)
    metric.add_batch(predictions=torch.from_numpy(predictions), references=torch.from_numpy(references))
    np.testing.assert_array_equal(metric.confusion_matrix, loop_matrix(predictions, references, 300, 65535))
    # uint8 labels beside many classes: the row of ignored pixels is 300, which uint8 does not hold either
    small = predictions.astype(np.uint8)
    metric = MeanIoU(300)
    metric.add_batch(predictions=small, references=small)
    np.testing.assert_array_equal(metric.confusion_matrix, loop_matrix(small, small, 300, 255))


def test_streaming_and_summing_over_processes_equal_one_batch():
    predictions, references = random_maps(7, (6, 10, 11))
    whole, streamed, other = MeanIoU(7), MeanIoU(7), MeanIoU(7)
    whole.add_batch(predictions=predictions, references=references)
    for index in range(4):
        streamed.add_batch(predictions=predictions[index], references=references[index])
    other.add_batch(predictions=predictions[4:], references=references[4:])
    streamed.confusion_matrix = streamed.confusion_matrix + other.confusion_matrix
    expected = whole.compute()
    assert streamed.compute() == expected
    assert MeanIoU(7).compute(predictions=predictions, references=references) == expected


def test_compute_starts_anew():
    metric = MeanIoU(2)
    metric.add_batch(predictions=torch.tensor([[0, 0]]), references=torch.tensor([[0, 1]]))
    assert metric.compute()["overall_accuracy"] == 0.5
    metric.add(prediction=torch.tensor([[1]]), reference=torch.tensor([[1]]))
    assert metric.compute()["overall_accuracy"] == 1.0


def test_ignored_pixels_count_nowhere_and_absent_classes_have_no_score():
    references = torch.tensor([[0, 0, 255, 255]])
    predictions = torch.tensor([[0, 1, 1, 2]])
    scores = MeanIoU(4).compute(predictions=predictions, references=references)
    assert scores["per_category_iou"][:2] == [0.5, 0.0]  # 1 was predicted once where it counts
    assert all(math.isnan(iou) for iou in scores["per_category_iou"][2:])
    assert all(math.isnan(accuracy) for accuracy in scores["per_category_accuracy"][1:])
    assert scores["mean_iou"] == 0.25 and scores["mean_accuracy"] == 0.5 and scores["overall_accuracy"] == 0.5
    assert math.isnan(MeanIoU(4).compute()["mean_iou"])


def test_is_a_metric_of_evaluate_that_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", str(tmp_path / "cache"))
    metric = MeanIoU(3)
    assert isinstance(metric, evaluate.Metric)
    metric.compute(predictions=np.zeros((2, 2), int), references=np.zeros((2, 2), int))
    assert not list(tmp_path.iterdir())


def test_arrays_that_torch_does_not_share():
    references = np.array([[0, 1, 2]], np.uint8)[:, ::-1]
    references.setflags(write=False)
    metric = MeanIoU(3)
    metric.add_batch(predictions=references, references=references)
    assert metric.compute()["mean_iou"] == 1.0


@pytest.mark.parametrize(
    "predictions, references, message",
    [
        (torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.int64), "must be integers"),
        (torch.zeros(1, 2, 3, dtype=torch.int64), torch.zeros(2, 3, dtype=torch.int64), "differ in shape"),
        (torch.full((2, 3), 4), torch.zeros(2, 3, dtype=torch.int64), "predictions range over 4"),
        (torch.zeros(2, 3, dtype=torch.int64), torch.full((2, 3), 4), "references hold .4., the classes"),
        (torch.zeros(2, 3, dtype=torch.int64), torch.full((2, 3), 300), "references range over 300"),
        (torch.zeros(2, 3, dtype=torch.int64), torch.full((2, 3), -1), "references range over -1"),
    ],
)
def test_wrong_input(predictions, references, message):
    metric = MeanIoU(4)
    with pytest.raises(ValueError, match=message):
        metric.add_batch(predictions=predictions, references=references)
    assert metric.confusion_matrix.sum() == 0

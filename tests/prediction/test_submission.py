"""The zip for the Cityscapes test server."""

import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from scl_hf.data.sources.cityscapes import ID2LABEL, PALETTE
from scl_hf.errors import InputError
from scl_hf.prediction import submission
from scl_hf.prediction.inputs import Input
from scl_hf.prediction.predicting import PredictionArguments
from scl_hf.prediction.submission import check_test_images, write_submission
from scl_hf.prediction.writers import PredictionFolder


@pytest.fixture
def frames_of_test(tmp_path, monkeypatch):
    monkeypatch.setattr(submission, "TEST_IMAGES", {"berlin": 2, "bonn": 1})
    monkeypatch.setattr(submission, "SIZE", (8, 4))
    frames = ["berlin_000000_000019", "berlin_000001_000019", "bonn_000000_000019"]
    for frame in frames:
        Image.new("RGB", (8, 4)).save(tmp_path / f"{frame}_leftImg8bit.png")
    return [Input(str(tmp_path / f"{frame}_leftImg8bit.png"), f"{frame}_leftImg8bit") for frame in frames]


def test_submission(tmp_path, frames_of_test):
    assert sum(submission.TEST_IMAGES.values()) == 3
    args = PredictionArguments(output=str(tmp_path / "out"), submission=str(tmp_path / "out.zip"))
    assert args.write == ["label_ids"]
    checkpoint = SimpleNamespace(id2label=ID2LABEL, palette=PALETTE)
    folder = PredictionFolder(args.output, args.write, checkpoint, {})
    for item in frames_of_test:
        folder.write(item, np.zeros((4, 8, 3), np.uint8), np.full((4, 8), 13, np.uint8), None)
    check_test_images(frames_of_test)
    write_submission(tmp_path / "out.zip", folder, frames_of_test)
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        expected = ["berlin_000000_000019", "berlin_000001_000019", "bonn_000000_000019"]
        assert archive.namelist() == [f"{frame}_pred_labelIds.png" for frame in expected]
        assert np.unique(np.asarray(Image.open(archive.open(archive.namelist()[2])))).tolist() == [26]

    Image.new("RGB", (6, 4)).save(frames_of_test[1].path)
    with pytest.raises(InputError, match="000001_000019_leftImg8bit.png has 6×4 pixels instead of 8×4"):
        check_test_images(frames_of_test)


def test_submission_wants_each_test_image_once(tmp_path, frames_of_test):
    first = frames_of_test[0]
    extra = tmp_path / "bonn_000009_000019_leftImg8bit.png"
    Image.new("RGB", (8, 4)).save(extra)
    for inputs, message in (
        (frames_of_test[:1], r"not exactly the 3 test images \(1 of 2 of berlin, 0 of 1 of bonn\)"),
        ([*frames_of_test, Input("/val/munster_000000_000019_leftImg8bit.png", "x")], "munster.* is not a test image"),
        ([*frames_of_test, Input("/test/photo.png", "photo")], "photo.png is not a test image"),
        ([*frames_of_test, Input(f"/again/{first.path[-36:]}", "again")], "are one test image; give it once"),
        ([*frames_of_test, Input(str(extra), "x")], "2 of 1 of bonn"),
    ):
        with pytest.raises(InputError, match=message):
            check_test_images(inputs)


def test_the_test_split_has_1525_images():
    assert sum(submission.TEST_IMAGES.values()) == 1525

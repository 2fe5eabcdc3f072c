"""Inputs, the folder of predictions, the submission: what scripts/predict.py stands on, without a model."""

import json
import zipfile
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from PIL import Image

from scl_hf.data import cityscapes
from scl_hf.errors import InputError
from scl_hf.output import replacing
from scl_hf.prediction import (
    Input,
    PredictionArguments,
    PredictionFolder,
    Video,
    check_test_images,
    earlier_predictions,
    find_inputs,
    submission,
    write_submission,
)
from scl_hf.prediction.writers import WriteQueue

SETTINGS = {"checkpoint": "0123", "eval_scales": [1.0]}


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    return path


def names(inputs):
    return [item.name for item in inputs]


def make_folder(path, id2label=cityscapes.ID2LABEL, settings=SETTINGS, **fields):
    is_cityscapes = id2label == cityscapes.ID2LABEL
    palette = np.arange(3 * len(id2label), dtype=np.uint8).reshape(-1, 3)
    checkpoint = SimpleNamespace(name="run", id2label=id2label, palette=palette, is_cityscapes=is_cityscapes)
    args = PredictionArguments(output=str(path), **fields)
    return PredictionFolder(path, args.write, checkpoint, settings, args.overwrite)


def test_inputs_keep_their_folders_and_do_not_meet(tmp_path):
    for name in ("a/x.png", "a/deep/x.JPG", "a/.hidden.png", "a/notes.txt", "b/x.png", "b/y.png", "b/y.mp4"):
        touch(tmp_path / name)
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    assert names(find_inputs([a])) == ["deep/x", "x"]
    assert names(find_inputs([a, f"{b}/x.png"])) == ["a/deep/x", "a/x", "b/x"]
    assert names(find_inputs([b])) == ["x", "y.mp4", "y.png"]
    assert names(find_inputs([f"{tmp_path}/*/x.png", b])) == ["a/x", "b/x", "b/y.mp4", "b/y.png"]  # each once
    assert names(find_inputs([f"{tmp_path}/**"])) == ["a/deep/x", "a/x", "b/x", "b/y.mp4", "b/y.png"]
    assert names(find_inputs([str(touch(tmp_path / "scan.dat"))])) == ["scan"]  # a file by its name is meant
    for name in ("x.png", "x.jpg", "x.jpg.png"):
        touch(tmp_path / "suffixes" / name)
    assert names(find_inputs([str(tmp_path / "suffixes")])) == ["x.jpg", "x.jpg.png", "x.png"]
    with pytest.raises(InputError, match=r"input .*none/\*: no such file or folder"):
        find_inputs([a, f"{tmp_path}/none/*"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no picture and no video"):
        find_inputs([str(tmp_path / "empty")])


def test_predictions_beside_their_inputs_are_no_inputs(tmp_path):
    x = touch(tmp_path / "color/x.png")
    assert names(find_inputs([str(tmp_path)], earlier_predictions(tmp_path))) == ["color/x"]  # the user's own
    inputs = [touch(tmp_path / "y.png"), touch(tmp_path / "deep/z.png")]
    x.unlink()
    for name in ("color/y.png", "overlay/deep/z.png", "legend.png", "predictions.json"):
        touch(tmp_path / name)
    found = find_inputs([str(tmp_path)], earlier_predictions(tmp_path))
    assert sorted(item.path for item in found) == sorted(map(str, inputs))


def test_files_appear_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new/label.png"
    with pytest.raises(RuntimeError), replacing(path) as partial:
        partial.write_bytes(b"half")
        raise RuntimeError
    assert list(path.parent.iterdir()) == []
    with replacing(path) as partial:
        partial.write_bytes(b"whole")
        assert not path.exists()
    assert [file.name for file in path.parent.iterdir()] == ["label.png"]


def test_errors_of_writing_threads_come_up():
    done = []
    with WriteQueue(threads=2, waiting=1) as queue:
        for i in range(5):
            queue.submit(done.append, i)
    assert sorted(done) == [0, 1, 2, 3, 4]
    with pytest.raises(ZeroDivisionError), WriteQueue(threads=1, waiting=9) as queue:
        queue.submit(lambda: 1 / 0)


def test_what_is_written(tmp_path):
    kinds = ["color", "overlay", "train_ids", "label_ids", "probabilities"]
    folder = make_folder(tmp_path / "out", write=kinds)
    item = Input("/pictures/town/x.png", "town/x")
    assert folder.check_inputs([item]) == [item]
    picture, prediction = np.full((1, 3, 3), 100, np.uint8), np.array([[0, 10, 18]], np.uint8)
    probs = np.random.default_rng(0).random((19, 1, 3)).astype(np.float16)
    folder.start()
    folder.write(item, picture, prediction, probs)
    read = {kind: np.asarray(Image.open(folder.file(kind, item))) for kind in kinds[:-1]}
    np.testing.assert_array_equal(read["color"], folder.palette[prediction])
    np.testing.assert_array_equal(read["overlay"], np.rint(0.4 * picture + 0.6 * folder.palette[prediction]))
    np.testing.assert_array_equal(read["train_ids"], prediction)
    np.testing.assert_array_equal(read["label_ids"], [[7, 23, 33]])
    np.testing.assert_array_equal(np.load(tmp_path / "out/probabilities/town/x.npy"), probs)
    classes = json.loads((tmp_path / "out/classes.json").read_text())
    assert classes["10"] == {"name": "sky", "color": [30, 31, 32]}
    assert Image.open(tmp_path / "out/legend.png").width > 100

    many = make_folder(tmp_path / "many", {i: str(i) for i in range(300)}, write=["train_ids"])
    many.write(item, picture, np.array([[0, 255, 299]], np.uint16), None)
    np.testing.assert_array_equal(np.asarray(Image.open(many.file("train_ids", item))), [[0, 255, 299]])


def test_a_folder_goes_on_and_mixes_nothing(tmp_path):
    out = tmp_path / "out"
    x, y, other = Input("/a/x.png", "x"), Input("/a/y.png", "y"), Input("/b/x.png", "x")
    folder = make_folder(out, write=["train_ids"])
    folder.check_inputs([x, y])
    folder.start()
    folder.write(x, np.zeros((1, 1, 3), np.uint8), np.zeros((1, 1), np.uint8), None)
    assert make_folder(out, write=["train_ids"]).check_inputs([x, y]) == [y]
    assert make_folder(out, write=["train_ids", "color"]).check_inputs([x, y]) == [x, y]
    with pytest.raises(InputError, match="x is the prediction of /a/x.png, not of /b/x.png"):
        make_folder(out, write=["train_ids"]).check_inputs([other])
    changed = SETTINGS | {"eval_scales": [0.5, 1.0]}
    with pytest.raises(InputError, match=r"eval_scales \[1.0\], these would have \[0.5, 1.0\].*--overwrite true"):
        make_folder(out, settings=changed)

    changed_file = touch(tmp_path / "z.png")
    z, nothing = Input(str(changed_file), "z"), np.zeros((1, 1), np.uint8)
    for _ in range(2):
        folder = make_folder(out, write=["train_ids"])
        assert folder.check_inputs([z]) == [z]
        folder.start()
        assert not folder.file("train_ids", z).exists()  # or it would count as done if this run were stopped
        folder.write(z, np.zeros((1, 1, 3), np.uint8), nothing, None)
        assert make_folder(out, write=["train_ids"]).check_inputs([z]) == []
        changed_file.write_bytes(b"another")

    touch(out / "train_ids/mine.png")
    with pytest.raises(InputError, match="mine.png is there, but is no prediction"):
        make_folder(out, write=["train_ids"]).check_inputs([Input("/a/mine.png", "mine")])
    anew = make_folder(out, settings=changed, write=["color"], overwrite=True)
    assert anew.check_inputs([x]) == [x]
    assert (out / "train_ids/x.png").exists()  # nothing is removed before there is something to write
    anew.start()
    assert sorted(path.name for path in (out / "train_ids").iterdir()) == ["mine.png"]
    assert make_folder(out, settings=changed, write=["color"]).check_inputs([x, y]) == [x, y]


def test_bad_arguments(tmp_path):
    taken = touch(tmp_path / "taken")
    for fields, message in (
        ({"output": ""}, "output: is empty"),
        ({"output": str(taken)}, "output .*taken: is a file"),
        ({"output": str(taken / "below")}, "taken is a file"),
        ({"output": str(tmp_path), "write": ["colour"]}, "write: there is no 'colour'; take any of color, overlay"),
        ({"output": str(tmp_path), "submission": str(taken)}, "submission .*taken: is there already"),
    ):
        with pytest.raises(InputError, match=message):
            PredictionArguments(**fields)
    with pytest.raises(InputError, match="classes of run are LABEL_0, LABEL_1, …; take train_ids"):
        make_folder(tmp_path / "out", {0: "LABEL_0", 1: "LABEL_1"}, write=["label_ids"])
    with pytest.raises(InputError, match="train_ids of a video .*cannot be written"):
        make_folder(tmp_path / "out", write=["train_ids"]).check_inputs([Input("/a/clip.mp4", "clip")])
    touch(tmp_path / "legend.png")
    with pytest.raises(InputError, match="legend.png is there, but is no prediction"):
        make_folder(tmp_path)
    touch(tmp_path / "taken_kind/overlay")
    with pytest.raises(InputError, match="output .*overlay: is a file"):
        make_folder(tmp_path / "taken_kind")
    assert [path.name for path in (tmp_path / "taken_kind").iterdir()] == ["overlay"]
    (tmp_path / "predictions.json").write_text("[1]")
    with pytest.raises(InputError, match="predictions.json: is not the record"):
        make_folder(tmp_path)


def test_videos_in_and_out(tmp_path):
    size, path = (40, 24), tmp_path / "clip.avi"
    video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 12.5, size)
    for i in range(6):
        video.write(np.full((24, 40, 3), (0, 0, 40 * i), np.uint8))  # BGR: ever more red
    video.release()
    frames = list(Video(str(path)).frames())
    assert len(frames) == 6 and frames[5][12, 20, 0] > 150 > 50 > frames[5][12, 20, 2]

    folder, item = make_folder(tmp_path / "out", write=["color"]), Input(str(path), "clip")
    folder.palette = np.array([[0, 0, 0], [255, 0, 0]] * 10, np.uint8)[:19]
    with folder.write_video(item, Video(str(path)).fps, size) as write:
        for i, frame in enumerate(frames):
            write(frame, np.full((24, 40), i % 2, np.uint8))
    written = cv2.VideoCapture(str(tmp_path / "out/color/clip.mp4"))
    assert written.get(cv2.CAP_PROP_FPS) == 12.5
    colors = list(Video(str(tmp_path / "out/color/clip.mp4")).frames())
    assert [frame.shape for frame in colors] == [(24, 40, 3)] * 6
    assert [frame[12, 20, 0] > 128 for frame in colors] == [False, True] * 3

    with pytest.raises(RuntimeError), folder.write_video(Input(str(path), "stopped"), 25, size) as write:
        write(frames[0], np.zeros((24, 40), np.uint8))
        raise RuntimeError
    assert sorted(file.name for file in (tmp_path / "out/color").iterdir()) == ["clip.mp4"]
    with pytest.raises(InputError, match="broken.mp4: is no video that can be read"):
        Video(str(touch(tmp_path / "broken.mp4")))


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
    folder = make_folder(tmp_path / "out", submission=str(tmp_path / "out.zip"))
    assert folder.kinds == ["label_ids"]
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
        (frames_of_test[:1], r"2 of the 3 test images are missing \(berlin 1, bonn 1\)"),
        ([*frames_of_test, Input("/val/munster_000000_000019_leftImg8bit.png", "x")], "munster.* is no test image"),
        ([*frames_of_test, Input("/test/photo.png", "photo")], "photo.png is no test image"),
        ([*frames_of_test, Input(f"/again/{first.path[-36:]}", "again")], "are one test image; give it once"),
        ([*frames_of_test, Input(str(extra), "x")], "2 images of bonn, of which"),
    ):
        with pytest.raises(InputError, match=message):
            check_test_images(inputs)


def test_the_test_split_has_1525_images():
    assert sum(submission.TEST_IMAGES.values()) == 1525

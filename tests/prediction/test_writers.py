"""The folder of predictions: its files, how a run resumes, and what is refused."""

import json
import resource
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from PIL import Image

from scl_hf.data.sources import cityscapes
from scl_hf.errors import InputError
from scl_hf.prediction.inputs import Input, Video
from scl_hf.prediction.writers import PredictionFolder, WriteQueue

SETTINGS = {"checkpoint": "0123", "eval_scales": [1.0]}


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    return path


def make_folder(path, id2label=cityscapes.ID2LABEL, settings=SETTINGS, write=("color", "overlay"), overwrite=False):
    palette = np.arange(3 * len(id2label), dtype=np.uint8).reshape(-1, 3)
    checkpoint = SimpleNamespace(name="run", id2label=id2label, palette=palette)
    return PredictionFolder(path, write, checkpoint, settings, overwrite)


def test_errors_of_writing_threads_come_up():
    done = []
    with WriteQueue(threads=2, waiting=1) as queue:
        for i in range(5):
            queue.submit(done.append, i)
    assert sorted(done) == [0, 1, 2, 3, 4]
    with pytest.raises(ZeroDivisionError), WriteQueue(threads=1, waiting=9) as queue:
        queue.submit(lambda: 1 / 0)


def test_the_files_of_an_image(tmp_path):
    kinds = ["color", "overlay", "train_ids", "label_ids", "probabilities"]
    folder = make_folder(tmp_path / "out", write=kinds)
    item = Input("/images/toy_dataset/x.png", "toy_dataset/x")
    assert folder.check_inputs([item]) == [item]
    image, prediction = np.full((1, 3, 3), 100, np.uint8), np.array([[0, 10, 18]], np.uint8)
    probs = np.random.default_rng(0).random((19, 1, 3)).astype(np.float16)
    folder.start()
    folder.write(item, image, prediction, probs)
    read = {kind: np.asarray(Image.open(folder.file(kind, item))) for kind in kinds[:-1]}
    np.testing.assert_array_equal(read["color"], folder.palette[prediction])
    np.testing.assert_array_equal(read["overlay"], np.rint(0.4 * image + 0.6 * folder.palette[prediction]))
    np.testing.assert_array_equal(read["train_ids"], prediction)
    np.testing.assert_array_equal(read["label_ids"], [[7, 23, 33]])
    np.testing.assert_array_equal(np.load(tmp_path / "out/probabilities/toy_dataset/x.npy"), probs)
    classes = json.loads((tmp_path / "out/classes.json").read_text())
    assert classes["10"] == {"name": "sky", "color": [30, 31, 32]}
    assert Image.open(tmp_path / "out/legend.png").width > 100

    many = make_folder(tmp_path / "many", {i: str(i) for i in range(300)}, write=["train_ids"])
    many.write(item, image, np.array([[0, 255, 299]], np.uint16), None)
    np.testing.assert_array_equal(np.asarray(Image.open(many.file("train_ids", item))), [[0, 255, 299]])


def test_a_folder_resumes_and_mixes_nothing(tmp_path):
    out = tmp_path / "out"
    x, y, other = Input("/a/x.png", "x"), Input("/a/y.png", "y"), Input("/b/x.png", "x")
    folder = make_folder(out, write=["train_ids"])
    folder.check_inputs([x, y])
    folder.start()
    folder.write(x, np.zeros((1, 1, 3), np.uint8), np.zeros((1, 1), np.uint8), None)
    assert make_folder(out, write=["train_ids"]).check_inputs([x, y]) == [y]
    assert make_folder(out, write=["train_ids", "color"]).check_inputs([x, y]) == [x, y]
    with pytest.raises(InputError, match="train_ids/x.png exists, but is not a prediction of /b/x.png"):
        make_folder(out, write=["train_ids"]).check_inputs([other])
    changed = SETTINGS | {"eval_scales": [0.5, 1.0]}
    with pytest.raises(InputError, match=r"eval_scales \[1.0\], this would be for \[0.5, 1.0\].*--overwrite true"):
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
    with pytest.raises(InputError, match="mine.png exists, but is not a prediction"):
        make_folder(out, write=["train_ids"]).check_inputs([Input("/a/mine.png", "mine")])
    anew = make_folder(out, settings=changed, write=["color"], overwrite=True)
    assert anew.check_inputs([x]) == [x]
    assert (out / "train_ids/x.png").exists()  # nothing is removed before there is something to write
    anew.start()
    assert sorted(path.name for path in (out / "train_ids").iterdir()) == ["mine.png"]
    assert make_folder(out, settings=changed, write=["color"]).check_inputs([x, y]) == [x, y]


def test_inputs_and_folders_that_are_refused(tmp_path):
    with pytest.raises(InputError, match="classes of run are LABEL_0, LABEL_1; take train_ids"):
        make_folder(tmp_path / "out", {0: "LABEL_0", 1: "LABEL_1"}, write=["label_ids"])
    with pytest.raises(InputError, match="train_ids of a video .*cannot be written"):
        make_folder(tmp_path / "out", write=["train_ids"]).check_inputs([Input("/a/clip.mp4", "clip")])
    touch(tmp_path / "legend.png")
    with pytest.raises(InputError, match="legend.png exists, but is not a prediction"):
        make_folder(tmp_path)
    touch(tmp_path / "taken_kind/overlay")
    with pytest.raises(InputError, match="output .*overlay: is a file"):
        make_folder(tmp_path / "taken_kind")
    assert [path.name for path in (tmp_path / "taken_kind").iterdir()] == ["overlay"]
    (tmp_path / "predictions.json").write_text("[1]")
    with pytest.raises(InputError, match="predictions.json is not the record"):
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


def test_a_video_that_is_not_written_completely_is_an_error(tmp_path):
    """OpenCV raises nothing when the disk is full: what it has written is read back."""
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 256, (96, 128, 3), np.uint8) for _ in range(12)]
    folder, item = make_folder(tmp_path / "out", write=["overlay"]), Input(str(tmp_path / "clip.avi"), "clip")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(
            InputError, match="of the 12 frames of .*clip.mp4, 0 can be read back.* disk full.*are free"
        ):
            with folder.write_video(item, 25, (128, 96)) as write:
                for frame in frames:
                    write(frame, np.zeros((96, 128), np.uint8))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list((tmp_path / "out/overlay").iterdir()) == []


def test_empty_files_and_hidden_ones_of_a_killed_run_are_not_done(tmp_path):
    image = touch(tmp_path / "in/x.png")
    item = Input(str(image), "x")
    folder = make_folder(tmp_path / "out", write=["train_ids"])
    folder.check_inputs([item])
    folder.start()
    folder.write(item, np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2), np.uint8), None)
    hidden = touch(tmp_path / "out/train_ids/deep/.y.4711.partial.png")
    folder = make_folder(tmp_path / "out", write=["train_ids"])
    assert folder.check_inputs([item]) == []
    folder.file("train_ids", item).write_bytes(b"")
    assert folder.check_inputs([item]) == [item]
    folder.start()
    assert not hidden.exists()

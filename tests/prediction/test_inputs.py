"""Files, folders, globs and videos, and the names of their predictions."""

import pytest

from scl_hf.errors import InputError
from scl_hf.prediction.inputs import Video, find_inputs
from scl_hf.prediction.writers import earlier_predictions


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    return path


def names(inputs):
    return [item.name for item in inputs]


def test_inputs_keep_their_folders_and_do_not_collide(tmp_path):
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
    with pytest.raises(InputError, match="holds no image and no video"):
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


def test_a_file_that_is_no_video(tmp_path):
    with pytest.raises(InputError, match="broken.mp4: is not a readable video"):
        Video(str(touch(tmp_path / "broken.mp4")))

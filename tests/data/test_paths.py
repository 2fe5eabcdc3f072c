from pathlib import Path

import datasets
import pytest

from scl_hf.data.paths import open_paths
from scl_hf.errors import InputError


@pytest.fixture
def root(tmp_path):
    for name in ("a.jpg", "a.png", "b.jpg"):
        (tmp_path / name).write_bytes(b"stands for a picture")
    return tmp_path


A = {"image": "a.jpg", "label": "a.png", "id": "a"}
B = {"image": "b.jpg", "label": None, "id": "b"}


def test_the_table_holds_absolute_paths(root, monkeypatch):
    monkeypatch.chdir(root.parent)
    splits = open_paths("pictures", root.name, {"train": [A, B], "validation": [], "my-test": [B]})
    assert list(splits) == ["train", "my-test"]
    picture = datasets.Image(decode=False)
    assert splits["train"].features == {"image": picture, "label": picture, "id": datasets.Value("string")}
    assert splits["train"][0] == {
        "image": {"path": str(root / "a.jpg"), "bytes": None},
        "label": {"path": str(root / "a.png"), "bytes": None},
        "id": "a",
    }
    assert splits["train"]["label"][1] is None and splits["my-test"]["id"][:] == ["b"]


def test_a_table_is_written_once(root):
    def written(config="default", **rows):
        return Path(open_paths("pictures", root, rows, config)["train"].cache_files[0]["filename"])

    first = written(train=[A])
    modified = first.stat().st_mtime_ns
    assert written(train=[A]) == first and first.stat().st_mtime_ns == modified
    others = {
        written(train=[A, B]),
        written(train=[B, A]),
        written(train=[A | {"id": "other"}]),
        written(train=[A], validation=[B]),
        written(train=[A], config="coarse"),
    }
    (root / "a.png").write_bytes(b"of another size")
    assert len(others | {first, written(train=[A])}) == 7


def test_a_file_that_is_missing_is_named(root):
    (root / "a.png").unlink()
    with pytest.raises(InputError, match=r"1 file is empty or missing: .*/a.png \(missing\)"):
        open_paths("pictures", root, {"train": [A]})

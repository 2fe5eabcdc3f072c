"""Folders that are complete or not there, and what their manifests detect."""

import contextlib
import json
import os
import shutil
import stat
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scl_hf.checkpointing.manifest import (
    MANIFEST_NAME,
    PARTIAL_DIR,
    checkpoints_in,
    clear_partial,
    find_problem,
    publish,
    rotate,
    seal,
)

CONTENTS = {
    "model.safetensors": bytes(range(256)) * 9,
    "student/model.safetensors": b"\0" * 100,
    "rng_state.pth": b"r",
}


def write(folder, contents=CONTENTS):
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def sealed(tmp_path_factory):
    folder = write(tmp_path_factory.mktemp("sealed") / "checkpoint-5")
    seal(folder)
    return folder


def test_a_folder_as_it_was_sealed_has_no_problem(sealed, tmp_path):
    assert find_problem(sealed) is None
    moved = shutil.copytree(sealed, tmp_path / "elsewhere")
    (moved / ".DS_Store").write_text("what systems put there is nobody's")
    (moved / "empty").mkdir()
    assert find_problem(moved) is None


@st.composite
def changes(draw):
    """One change of a sealed folder: its name, and what makes it."""
    sizes = {name: len(content) for name, content in CONTENTS.items()} | {MANIFEST_NAME: None}
    name = draw(st.sampled_from(sorted(sizes)))
    kind = draw(st.sampled_from(["flip", "cut", "lose", "add", "append"]))
    position, bit = draw(st.floats(0, 1, exclude_max=True)), draw(st.integers(0, 7))
    added = draw(st.text("abcz019_-/", min_size=1).filter(lambda text: text[0] != "/" and text[-1] != "/"))

    def change(folder):
        path = folder / name
        content = bytearray(path.read_bytes())
        at = int(position * len(content))
        if kind == "flip":
            content[at] ^= 1 << bit
        if kind == "append":
            content += bytes([bit])
        path.write_bytes(content[:at] if kind == "cut" else content)
        if kind == "lose":
            path.unlink()
        if kind == "add":
            (folder / "x" / added).parent.mkdir(parents=True, exist_ok=True)
            (folder / "x" / added).write_bytes(b"")

    return (kind, name, position), change


@settings(max_examples=200, deadline=None)
@given(change=changes())
def test_any_flipped_cut_missing_or_added_byte_or_file_is_seen(sealed, change):
    with tempfile.TemporaryDirectory() as path:
        folder = shutil.copytree(sealed, Path(path, "checkpoint-5"))
        (kind, name, _), make = change
        make(folder)
        problem = find_problem(folder)
        assert problem is not None and "\n" not in problem
        assert kind == "add" or Path(name).name in problem


def test_each_bit_of_the_manifest_counts(sealed, tmp_path):
    folder = shutil.copytree(sealed, tmp_path / "checkpoint-5")
    manifest = folder / MANIFEST_NAME
    content = manifest.read_bytes()
    for at in range(len(content)):
        manifest.write_bytes(content[:at] + bytes([content[at] ^ (1 << at % 8)]) + content[at + 1 :])
        assert "manifest.json" in find_problem(folder), at
    for text in ("", "{}", "[]", "null", '{"files": 3}', '{"files": []}', '{"files": {"a": 1}}', "[" * 100_000):
        manifest.write_text(text)
        assert find_problem(folder) == "manifest.json was changed or cut off", text[:20]


def test_a_manifest_of_a_former_version_holds(sealed, tmp_path):
    folder = shutil.copytree(sealed, tmp_path / "checkpoint-5")
    manifest = json.loads((folder / MANIFEST_NAME).read_text())
    text = json.dumps(manifest | {"sha256": "a digest of its own"}, indent=1, sort_keys=True) + "\n"
    (folder / MANIFEST_NAME).write_text(text)
    assert find_problem(folder) is None


def test_what_is_no_file_is_not_opened(sealed, tmp_path):
    for name in ("model.safetensors", MANIFEST_NAME):
        folder = shutil.copytree(sealed, tmp_path / f"{name}-pipe")
        (folder / name).unlink()
        os.mkfifo(folder / name)  # to open it would wait for ever
        assert name in find_problem(folder)
        (folder / name).unlink()
        (folder / name).symlink_to(name)
        assert name in find_problem(folder)


def test_publishing_replaces_what_an_earlier_attempt_left(tmp_path):
    folder = write(tmp_path / "checkpoint-5", {"half": b"x"})
    partial = write(tmp_path / PARTIAL_DIR / "checkpoint-5")
    assert checkpoints_in(tmp_path) == [folder]  # nothing in there is called a checkpoint
    publish(partial, folder)
    assert find_problem(folder) is None and not (folder / "half").exists()
    clear_partial(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-5"]


@pytest.mark.parametrize(
    ("limit", "best", "left"),
    [
        (None, None, [2, 4, 6, 8, 10]),
        (0, None, [2, 4, 6, 8, 10]),
        (3, None, [4, 6, 8]),
        (1, None, [8]),
        (1, 2, [2, 8]),
        (2, 2, [2, 8]),
        (3, 2, [2, 6, 8]),
        (2, 10, [8, 10]),
        (4, None, [2, 4, 6, 8]),
    ],
)
def test_rotation_keeps_the_one_just_written_and_the_best(tmp_path, limit, best, left):
    for step in (2, 4, 6, 8, 10):  # 10 is of an attempt that was given up
        write(tmp_path / f"checkpoint-{step}", {"a": b"a"})
    best = best and str(tmp_path / f"checkpoint-{best}")
    rotate(tmp_path, tmp_path / "checkpoint-8", limit, best)
    assert [path.name for path in checkpoints_in(tmp_path)] == [f"checkpoint-{step}" for step in left]
    assert not (tmp_path / PARTIAL_DIR).exists()


@pytest.mark.parametrize("published", [False, True])
def test_a_folder_that_was_set_aside_comes_back_unless_another_took_its_place(tmp_path, monkeypatch, published):
    folder = write(tmp_path / "checkpoint-5", {"old": b"x"})
    partial, rename = write(tmp_path / PARTIAL_DIR / "checkpoint-5"), os.rename

    def killed(source, target):
        if source == partial:
            if published:
                rename(source, target)
            raise KeyboardInterrupt
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            publish(partial, folder)
    clear_partial(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-5"] and (folder / "old").exists() != published


def test_what_rotation_was_killed_in_does_not_come_back(tmp_path, monkeypatch):
    for step in (2, 4):
        write(tmp_path / f"checkpoint-{step}")
    with monkeypatch.context() as patch:
        patch.setattr("scl_hf.checkpointing.manifest.clear_partial", lambda folder: None)
        rotate(tmp_path, tmp_path / "checkpoint-4", 1, None)
    clear_partial(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-4"]


def test_a_best_one_that_is_gone_takes_no_place(tmp_path):
    for step in (4, 6, 8):
        write(tmp_path / f"checkpoint-{step}", {"a": b"a"})
    rotate(tmp_path, tmp_path / "checkpoint-8", 1, str(tmp_path / "checkpoint-2"))
    assert [path.name for path in checkpoints_in(tmp_path)] == ["checkpoint-8"]


@pytest.mark.parametrize(
    ("code", "of_folder", "stops"), [(22, True, False), (95, True, False), (5, True, True), (22, False, True)]
)
def test_a_file_system_that_flushes_no_folders_stops_no_run(tmp_path, monkeypatch, code, of_folder, stops):
    folder = write(tmp_path / "checkpoint-5")

    def fsync(file):
        if stat.S_ISDIR(os.fstat(file).st_mode) == of_folder:
            raise OSError(code, "not here")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError) if stops else contextlib.nullcontext():
        seal(folder)

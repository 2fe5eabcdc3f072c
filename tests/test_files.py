import errno
import json
import os
import signal
import socket
import time

import pytest

from scl_hf.checkpointing.manifest import check_output_dir, clear_output_dir
from scl_hf.errors import InputError
from scl_hf.files import LOCK, DiskFullError, FolderLock, is_disk_full, replacing, write_json

try:
    import resource
except ImportError:
    resource = None


def test_a_file_is_complete_or_not_there(tmp_path):
    path = tmp_path / "new" / "scores.json"
    write_json(path, {"mean": 0.5, "name": "Straße"})
    assert json.loads(path.read_text(encoding="utf-8")) == {"mean": 0.5, "name": "Straße"}
    with pytest.raises(RuntimeError), replacing(path) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert [file.name for file in path.parent.iterdir()] == ["scores.json"] and "Straße" in path.read_text("utf-8")


def test_another_runs_folder_is_refused(tmp_path):
    run = tmp_path / "run"
    assert check_output_dir(run, None, False) is None
    (run / "runs").mkdir(parents=True)  # a tracker's folder alone is no run
    assert check_output_dir(run, None, False) is None
    checkpoint = run / "checkpoint-5"
    checkpoint.mkdir()
    (checkpoint / "trainer_state.json").write_text("{}")
    with pytest.raises(InputError, match="holds another run. Add --resume_from_checkpoint true to resume it, "):
        check_output_dir(run, None, False)
    assert check_output_dir(run, None, True) is None
    assert check_output_dir(run, "true", False) is True
    assert check_output_dir(run, str(checkpoint), False) == str(checkpoint)


def test_there_is_nothing_to_resume_from(tmp_path):
    assert check_output_dir(tmp_path, "true", False) is True  # the trainer looks for it, and says what it finds
    with pytest.raises(InputError, match="is not a checkpoint folder"):
        check_output_dir(tmp_path, str(tmp_path / "none"), False)
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(InputError, match="is a file"):
        check_output_dir(file, None, False)


def test_a_folder_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file is a file. Name another folder"):
        check_output_dir(tmp_path / "file/run", None, False)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("", "is empty"),
        ("x" * 300, "is too long"),
        ("new/" + "x" * 300 + "/run", "is too long"),
        ("a\0b", "no name of a folder"),
        ("loop/run", "loop is a link to nothing"),
        ("/proc/run", "/proc cannot be written to"),
    ],
)
def test_a_folder_that_cannot_be(tmp_path, monkeypatch, path, reason):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(InputError, match=f"^output_dir.*: .*{reason}") as error:
        check_output_dir(path, None, False)
    assert "\n" not in str(error.value) and [file.name for file in tmp_path.iterdir()] == ["loop"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_of_others(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="output_dir .* cannot be written to"):
        check_output_dir(tmp_path / "run", None, False)


def touch(root, names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("")


def test_overwriting_removes_the_old_run_and_nothing_else(tmp_path):
    run = ("checkpoint-4/model.safetensors", "panels/step-000004.png", "runs/a/events.out.tfevents.1", "config.json")
    touch(tmp_path, (*run, "notes.txt", "mine/c.json"))
    clear_output_dir(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["c.json", "notes.txt"]


def test_overwriting_leaves_what_lies_in_a_folder_named_by_mistake(tmp_path):
    others = ("id2label.json", "README.md", "panels/mine.png", "runs/demo/model.safetensors", "runs/demo/config.json")
    touch(tmp_path, others)
    clear_output_dir(tmp_path)
    assert all((tmp_path / name).is_file() for name in others)


def test_a_folder_has_one_writer(tmp_path):
    """Another process is refused while it lives; nothing remains of a lock that was released, or of its folder."""
    folder, (here, there) = tmp_path / "run", os.pipe()
    if not (child := os.fork()):
        lock = FolderLock("output_dir", folder)
        os.write(there, b"locked")
        time.sleep(60)
        os._exit(lock is None)
    assert os.read(here, 6) == b"locked"
    with pytest.raises(InputError, match=f"output_dir .*run: is written to by another run, process {child} on .+Wait"):
        FolderLock("output_dir", folder)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert (folder / LOCK).is_file()
    lock = FolderLock("output_dir", folder)  # a stale one is no obstacle
    assert (folder / LOCK).read_text() == f"process {os.getpid()} on {socket.gethostname()}\n"
    lock.release()
    lock.release()
    assert not list(folder.iterdir())
    FolderLock("output_dir", folder / "new").release()
    assert not (folder / "new").exists()


def test_reacquiring_in_one_process_is_a_no_op(tmp_path):
    """A script holds the lock of the folder in which its trainer takes it, too."""
    outer, inner = FolderLock("output_dir", tmp_path / "run"), FolderLock("output_dir", tmp_path / "run")
    inner.release()
    if not (child := os.fork()):
        try:
            FolderLock("output_dir", tmp_path / "run")
        except InputError:
            os._exit(7)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7  # it is still held
    outer.release()
    assert not (tmp_path / "run").exists()


def test_a_lock_that_finds_the_disk_full(tmp_path, monkeypatch):
    def write(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    said = f"{LOCK} could not be written: the disk is full"
    with monkeypatch.context() as patch, pytest.raises(DiskFullError, match=said):
        patch.setattr("scl_hf.files.Path.write_text", write)
        FolderLock("output_dir", tmp_path / "run")
    assert not (tmp_path / "run").exists()
    FolderLock("output_dir", tmp_path / "run").release()


def test_other_ranks_leave_the_lock_to_the_first(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    FolderLock("output_dir", tmp_path / "run").release()
    assert not (tmp_path / "run").exists()


def test_a_file_system_without_locks_is_said_and_stops_nothing(tmp_path, monkeypatch, caplog):
    def no_locks(*args):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    FolderLock("output_dir", tmp_path).release()
    assert f"output_dir {tmp_path}: the file system has no locks" in caplog.text and not list(tmp_path.iterdir())


def test_the_lock_of_a_dead_process_is_free_though_its_workers_live(tmp_path):
    """A fork inherits what is open, and `flock` is shared: without care a DataLoader's worker would keep the lock."""
    here, there = os.pipe()
    if not (owner := os.fork()):
        lock = FolderLock("output_dir", tmp_path)
        if worker := os.fork():
            os.write(there, b"%d\n" % worker)
        time.sleep(60)
        os._exit(lock is None)
    worker = int(os.read(here, 20))
    os.kill(owner, signal.SIGKILL)
    os.waitpid(owner, 0)
    try:
        FolderLock("output_dir", tmp_path).release()
        os.kill(worker, 0)  # it lives
    finally:
        os.kill(worker, signal.SIGKILL)


def test_what_killed_runs_left_half_written_is_removed(tmp_path):
    touch(
        tmp_path,
        [
            *(
                ".scores.12.partial.json",
                ".table.7.partial.svg",
                ".page.7.partial.pdf",
                "panels/.step-4.12.partial.png",
            ),
            *(".notes", ".bashrc", ".python-3.12", ".notes.2024.txt", "a.12.partial.json"),
        ],
    )
    FolderLock("output_dir", tmp_path).release()
    left = sorted(path.name for path in tmp_path.rglob("*") if path.is_file())
    assert left == [".bashrc", ".notes", ".notes.2024.txt", ".python-3.12", "a.12.partial.json"]


@pytest.mark.parametrize("name", ["scores.json", "figure.v2.svg", "table.parquet", "no_suffix"])
def test_what_a_killed_writer_leaves_is_recognized_whatever_its_suffix(tmp_path, name):
    if not (child := os.fork()):
        with replacing(tmp_path / name) as partial:
            partial.write_text("half")
            os._exit(0)
    os.waitpid(child, 0)
    assert len(list(tmp_path.iterdir())) == 1
    FolderLock("output_dir", tmp_path).release()
    assert not list(tmp_path.iterdir())


def test_json_has_no_nan(tmp_path):
    write_json(tmp_path / "a.json", {"a": float("nan"), "b": [float("inf"), 1.5]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": None, "b": [None, 1.5]}


@pytest.mark.skipif(resource is None, reason="no limits here")
def test_a_full_disk_is_one_line_that_names_the_file(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    path = tmp_path / "scores.json"
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(DiskFullError) as error:
            write_json(path, {"text": "x" * 5000})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(error.value).startswith(f"{path} could not be written: no larger file may be") and not list(
        tmp_path.iterdir()
    )


def test_what_says_that_a_disk_is_full():
    full = [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 141312 vs 141200"),
        RuntimeError("PytorchStreamWriter failed writing file data/3: file write failed"),
    ]
    assert all(map(is_disk_full, full))
    assert not any(map(is_disk_full, [OSError(errno.EACCES, "no"), RuntimeError("size 28"), ValueError(), None]))

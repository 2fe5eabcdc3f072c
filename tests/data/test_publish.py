"""Parquet with embedded images, and what may be sent to the Hub: tried end to end against a mini Hub."""

import json
import re
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import yaml
from mini_hub import mini_hub
from PIL import Image

from scl_hf.data import DataArguments, load_data, publish
from scl_hf.data.labels import read_pair
from scl_hf.data.publish import push_data
from scl_hf.errors import InputError

SCRIPT = Path(__file__).parents[2] / "scripts/prepare_dataset.py"
# One process for all pushes: importing is what takes the time. Each line: command line -> exit code, what it said.
CLIENT = """
import contextlib, importlib.util, io, json, os, sys
sys.path.insert(0, os.path.dirname(sys.argv[1]))
spec = importlib.util.spec_from_file_location("prepare_dataset", sys.argv[1])
script = importlib.util.module_from_spec(spec)
spec.loader.exec_module(script)
results = []
for arguments in json.loads(sys.argv[2]):
    said, code = io.StringIO(), 0
    sys.argv = ["prepare_dataset.py", "push", *arguments]
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            script.run_script(script.main)
        except SystemExit as exit:
            code = exit.code
    results.append([code, said.getvalue()])
import datasets
splits = datasets.load_dataset("me/own")
splits = {name: split.cast_column("image", datasets.Image(decode=False)) for name, split in splits.items()}
images = {f"{name}/{one['id']}": one["image"]["bytes"].hex() for name, split in splits.items() for one in split}
print(json.dumps([results, images]))
"""


@pytest.fixture
def own(tmp_path):
    """A folder of your own: 3 labeled images (JPEG, with EXIF; 16-bit), 1 to evaluate on, 2 without a label."""
    rng = np.random.default_rng(0)
    root = tmp_path / "own"
    for split, count in (("train", 3), ("validation", 1), ("more", 2)):
        (root / split / "images").mkdir(parents=True)
        for index in range(count):
            image = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
            exif = Image.Exif()
            exif[0x0112] = 3
            image.save(root / split / "images" / f"{split[0]}{index}.jpg", exif=exif)
            if split != "more":
                (root / split / "labels").mkdir(exist_ok=True)
                label = Image.fromarray(rng.integers(0, 3, (6, 8)).astype(np.uint16))
                label.save(root / split / "labels" / f"{split[0]}{index}.png")
    (root / "id2label.json").write_text(json.dumps({"0": "sky", "1": "Straße", "2": "car"}))
    return root


def recipe_of(folder: Path) -> dict:
    """The fields that the card recommends."""
    return yaml.safe_load(re.search(r"```yaml\n(.*?)```", (folder / "README.md").read_text(), re.S)[1])


def test_own_folder_as_parquet(own, tmp_path, monkeypatch):
    monkeypatch.setattr(publish, "SHARD_BYTES", 1000)  # several shards
    assert "nothing was sent" in push_data(own, tmp_path / "parquet")
    written = tmp_path / "parquet"
    assert len(list(written.glob("data/train-*"))) > 1
    splits = datasets.load_dataset(str(written))
    assert {split: len(table) for split, table in splits.items()} == {"train": 3, "validation": 1, "more": 2}
    assert splits["more"]["label"][:] == [None, None] and splits["train"].features["image"] == datasets.Image()
    for example in splits["train"].cast_column("image", datasets.Image(decode=False)):
        file = own / "train/images" / f"{example['id']}.jpg"
        assert example["image"] == {"bytes": file.read_bytes(), "path": file.name}  # exact bytes, no local folder
    assert not any(str(own).encode() in file.read_bytes() for file in written.rglob("*") if file.is_file())

    data = load_data(DataArguments(**recipe_of(written) | {"dataset": str(written)}))
    assert (len(data.labeled), len(data.unlabeled), len(data.evaluation)) == (3, 5, 1)
    assert data.id2label == {0: "sky", 1: "Straße", 2: "car"}
    with pytest.raises(InputError, match="not an empty folder"):
        push_data(own, written)


def test_toy_dataset_trains_from_its_card(toy_dataset, tmp_path):
    push_data(toy_dataset, tmp_path / "parquet")
    original = load_data(DataArguments(dataset="cityscapes", data_dir=str(toy_dataset)))
    data = load_data(DataArguments(**recipe_of(tmp_path / "parquet") | {"dataset": str(tmp_path / "parquet")}))
    for part in ("labeled", "unlabeled", "evaluation"):
        assert sorted(getattr(data, part)["id"]) == sorted(getattr(original, part)["id"])
    assert data.id2label == original.id2label
    tables = [part.labeled.features["label"].table[:34].tolist() for part in (data, original)]
    assert tables[0] == tables[1]


def draw_masks(root):
    """Images with a mask for each object, 0 and 255."""
    for number in range(4):
        for kind, names in (("images", [f"n{number}"]), ("masks", ["p", "q"])):
            folder = root / f"stage1_train/n{number}/{kind}"
            folder.mkdir(parents=True)
            for index, name in enumerate(names):
                pixels = np.full((8, 9), 60 * number, np.uint8) if kind == "images" else np.zeros((8, 9), np.uint8)
                pixels[index : index + 2, 3:] = 255
                Image.fromarray(pixels).save(folder / f"{name}.png")
    return {"classes": {"background": 0, "nucleus": 255}, "validation_fraction": 0.5}


def draw_colors(root):
    """Images of 16 bits below the split, some without a label; labels of other names, in colors."""
    for split, number in (("train", 0), ("train", 1), ("train", 2), ("validation", 3)):
        for kind in ("images", "labels"):
            (root / split / kind / "city").mkdir(parents=True, exist_ok=True)
        image = np.full((8, 9), 1000 * number, np.uint16)
        Image.fromarray(image).save(root / split / f"images/city/{number}.tif")
        label = np.zeros((8, 9, 3), np.uint8)
        label[:, :4], label[:, 8] = (255, 0, 0), 9
        if number:
            Image.fromarray(label).save(root / split / f"labels/city/{number}_mask.png")
    return {"classes": {"sky": "#000000", "car": "#ff0000"}, "ignore": [9], "value_range": [0, 4095]}


@pytest.mark.parametrize("draw, counts", [(draw_masks, (2, 2, 2)), (draw_colors, (2, 3, 1))])
def test_what_was_pushed_reads_as_before(draw, counts, tmp_path):
    recipe = DataArguments(dataset="folder", data_dir=str(tmp_path / "own"), **draw(tmp_path / "own"))
    push_data(tmp_path / "own", tmp_path / "parquet", recipe=recipe)
    card = recipe_of(tmp_path / "parquet") | {"dataset": str(tmp_path / "parquet")}
    original, pushed = load_data(recipe), load_data(DataArguments(**card))
    assert (len(pushed.labeled), len(pushed.unlabeled), len(pushed.evaluation)) == counts
    for part in ("labeled", "unlabeled", "evaluation"):
        one, other = getattr(original, part), getattr(pushed, part)
        assert one["id"][:] == other["id"][:]
        for examples in zip(one, other):
            pairs = [read_pair(each, data.features) for each, data in zip(examples, (one, other))]
            np.testing.assert_equal(*pairs)
    assert pushed.id2label == original.id2label


def test_unfinished_folder_is_removed(own, tmp_path, monkeypatch):
    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(publish, "_card", fail)
    with pytest.raises(InputError, match="No space left"):
        push_data(own, tmp_path / "parquet")
    assert not (tmp_path / "parquet").exists()


def test_broken_files_are_not_written(own, tmp_path):
    (own / "more/images/m0.jpg").write_bytes((own / "more/images/m0.jpg").read_bytes()[:300])
    Image.new("L", (6, 6)).save(own / "train/labels/t1.png")
    with pytest.raises(InputError, match="^2 files are broken, so nothing was written: .*m0.jpg: .*t1.png: ") as error:
        push_data(own, tmp_path / "parquet")
    assert "\n" not in str(error.value) and not (tmp_path / "parquet").exists()


def test_push(own, tmp_path):
    cityscapes = tmp_path / "cityscapes"
    for folder in ("leftImg8bit", "gtFine"):
        (cityscapes / folder / "train/ulm").mkdir(parents=True)
    blank = Image.new("L", (4, 2), 7)
    blank.convert("RGB").save(cityscapes / "leftImg8bit/train/ulm/ulm_000000_000019_leftImg8bit.png")
    blank.save(cityscapes / "gtFine/train/ulm/ulm_000000_000019_gtFine_labelIds.png")
    copied = tmp_path / "copied"  # Cityscapes in the other layout is Cityscapes still
    (copied / "train/images").mkdir(parents=True)
    blank.save(copied / "train/images/ulm_000000_000019_leftImg8bit.png")
    (copied / "id2label.json").write_text('{"0": "road", "1": "sky"}')
    allowed = ["--private", "--accept_license"]
    pushes = [
        ([own, "a", "--repo", "me/own"], 2, "license: is missing"),
        ([cityscapes, "a", "--repo", "me/secret", "--accept_license"], 2, "add --private to keep"),
        ([cityscapes, "a", "--repo", "me/secret", "--private"], 2, "add --accept_license to keep"),
        ([copied, "a", "--repo", "me/secret", "--license", "mit"], 2, "is taken for Cityscapes"),
        ([own, "a", "--repo", "own", "--private"], 2, "write it as user/name"),
        ([cityscapes, "a", "--repo", "me/public", *allowed], 2, "is public, so nothing was sent"),
        ([own, "b", "--repo", "me/own", "--license", "cc0-1.0"], 0, "pushed to"),
        ([cityscapes, "c", "--repo", "me/secret", *allowed], 0, "pushed to"),
    ]
    with mini_hub() as hub:
        hub.repos["datasets/me/public"] = {"private": False, "files": {}}
        hub.repos["datasets/me/own"] = {"private": False, "files": {"data/train-00007-of-00008.parquet": b"old"}}
        lines = [[str(argument) for argument in arguments] for arguments, *_ in pushes]
        client = subprocess.run(
            [sys.executable, "-c", CLIENT, str(SCRIPT), json.dumps(lines)],
            env=hub.environment(tmp_path / "home"),
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
    assert client.returncode == 0, client.stderr
    results, images = json.loads(client.stdout)
    for (arguments, code, said), (got, output) in zip(pushes, results):
        assert got == code and said in output, (arguments, output)
        assert code == 0 or output.strip().splitlines()[-1].startswith("error: ")
    assert not (tmp_path / "a").exists()
    assert not hub.repos["datasets/me/public"]["files"] and not any("me/public/" in line for line in hub.log)
    assert hub.repos["datasets/me/secret"]["private"] and not hub.repos["datasets/me/own"]["private"]
    assert set(hub.repos) == {"datasets/me/public", "datasets/me/own", "datasets/me/secret"}
    sent = {f.relative_to(tmp_path / "b").as_posix(): f.read_bytes() for f in (tmp_path / "b").rglob("*.*")}
    arrived = {name: content for name, content in hub.repos["datasets/me/own"]["files"].items() if name[0] != "."}
    assert arrived == sent and "README.md" in sent  # and the old shard is gone
    assert "license: cc0-1.0" in arrived["README.md"].decode()
    assert "license_name: cityscapes" in hub.repos["datasets/me/secret"]["files"]["README.md"].decode()
    files = own.rglob("images/*.jpg")
    assert images == {f"{file.parts[-3]}/{file.stem}": file.read_bytes().hex() for file in files}


def test_split_names_that_datasets_refuses(own, tmp_path):
    (own / "more").rename(own / "more-a")
    with pytest.raises(InputError, match="more-a: `datasets` allows only letters"):
        push_data(own, tmp_path / "out")

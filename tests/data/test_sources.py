import datasets
import pytest
from huggingface_hub.errors import EntryNotFoundError
from PIL import Image

from scl_hf.data import sources
from scl_hf.data.sources import find_id2label, open_dataset, open_folder, open_pictures, select_pictures
from scl_hf.errors import InputError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def put(path, size=(6, 4)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size).save(path)


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "data"
    for name in ("a", "b"):
        put(root / "train/images" / f"{name}.jpg")
        put(root / "train/labels" / f"{name}.png")
        put(root / "more/images" / f"{name}.jpg")
    (root / "train/images/Thumbs.db").write_text("not an image")
    put(root / "train/images/._a.jpg")
    return root


def test_folder_with_and_without_labels(folder):
    splits = open_folder(folder, ["train", "more"], {"train"})
    assert splits["train"]["id"][:] == splits["more"]["id"][:] == ["a", "b"]
    assert splits["train"][1]["label"] == {"bytes": None, "path": str(folder / "train/labels/b.png")}
    assert splits["more"]["label"][:] == [None, None]
    assert splits["train"].cache_files  # memory-mapped, and the class index lies beside it


def break_folder(root, what):
    if what == "label":
        (root / "train/labels/b.png").unlink()
    elif what == "labels":
        (root / "train/labels").rename(root / "train/masks")
    elif what == "empty":
        (root / "train/labels/b.png").write_bytes(b"")
    elif what == "twin":
        put(root / "train/images/b.png")
    elif what == "split":
        (root / "train").rename(root / "training")
    elif what == "no pictures":
        for path in (root / "train/images").glob("*.jpg"):
            path.unlink()


@pytest.mark.parametrize(
    "what, message",
    [
        ("label", "b.jpg: its label is missing, looked for .*labels/b.png .1 of 2.*unlabeled_dirs"),
        ("labels", "a.jpg: its label is missing.*2 of 2"),
        ("empty", "1 file is empty.*b.png"),
        ("twin", "b.png: a second image named b"),
        ("split", "train/images: no such folder"),
        ("no pictures", "train/images: holds no pictures"),
    ],
)
def test_bad_folder_is_named(folder, what, message):
    break_folder(folder, what)
    with pytest.raises(InputError, match=message) as error:
        open_folder(folder, ["train"], {"train"})
    assert "\n" not in str(error.value)


def test_pictures_in_folders_of_folders(tmp_path):
    for name in ("b.png", "a/c.JPG", "a/a.webp", ".cache/d.png", "a/._c.jpg"):
        put(tmp_path / "pictures" / name)
    (tmp_path / "pictures/notes.txt").write_text("x")
    assert open_pictures(tmp_path / "pictures")["id"][:] == ["a/a.webp", "a/c.JPG", "b.png"]


def test_pictures_that_are_not_there(tmp_path):
    with pytest.raises(InputError, match="unlabeled_dirs: there is no folder .*nowhere; correct"):
        open_pictures(tmp_path / "nowhere")
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="unlabeled_dirs: .*none holds no pictures"):
        open_pictures(tmp_path / "none")


def table(path, **columns):
    features = datasets.Features(image=datasets.Image(), text=datasets.Value("string"), kind=datasets.ClassLabel(2))
    return datasets.Dataset.from_dict(
        {"image": [str(path)] * 2, "text": ["a.png"] * 2, "kind": [0, 1]} | columns, features=features
    )


@pytest.mark.parametrize(
    "columns, message",
    [
        (
            ("photo", None),
            "^image_column: there is no column 'photo' in split train, only image, text, kind; name one",
        ),
        (("image", "mask"), "^label_column: there is no column 'mask'"),
        (("text", None), r"^image_column: column 'text' holds no pictures but text; .*cast_column\(…, datasets.Image"),
        (("image", "kind"), "^label_column: column 'kind' holds no pictures but int64; name one that does"),
    ],
)
def test_columns_that_are_no_pictures(folder, columns, message):
    with pytest.raises(InputError, match=message):
        select_pictures(table(folder / "train/images/a.jpg"), "train", *columns)


def test_rows_whose_picture_is_missing(folder):
    path = str(folder / "train/images/a.jpg")
    with pytest.raises(InputError, match="1 of the 2 rows of split train have no picture"):
        select_pictures(table(path, image=[path, None]), "train", "image", None)
    with pytest.raises(InputError, match="1 file is empty or missing: gone.png"):
        select_pictures(table(path, image=[path, "gone.png"]), "train", "image", None)


def test_ids_of_ones_own_are_kept(folder):
    rows = table(folder / "train/images/a.jpg").rename_column("kind", "id")
    assert select_pictures(rows, "train", "image", None)["id"][:] == ["0", "1"]


def test_data_set_that_cannot_be_opened(tmp_path):
    with pytest.raises(InputError, match="dataset: cannot open") as error:
        open_dataset(str(tmp_path))
    assert "\n" not in str(error.value)


def test_class_names_in_the_folders_then_on_the_hub(tmp_path, monkeypatch):
    asked = []

    def download(repo_id, filename, repo_type):
        asked.append((repo_id, filename, repo_type))
        if repo_id == "me/none":
            raise EntryNotFoundError("404 Client Error.\n\nEntry Not Found")
        return str(tmp_path / "downloaded.json")

    monkeypatch.setattr(sources, "hf_hub_download", download)
    (tmp_path / "id2label.json").write_text("{}")
    assert find_id2label("me/mine", str(tmp_path)) == find_id2label(str(tmp_path), None) == tmp_path / "id2label.json"
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="id2label: there is no id2label.json in .*empty; name a JSON file"):
        find_id2label(str(tmp_path / "empty"), None)
    assert not asked
    assert find_id2label("me/mine", None) == tmp_path / "downloaded.json"
    assert asked == [("me/mine", "id2label.json", "dataset")]
    with pytest.raises(
        InputError, match=r"id2label: cannot get .* of me/none from the Hub \(404 Client Error\); name"
    ):
        find_id2label("me/none", None)


def test_pictures_in_a_column_named_id(folder):
    rows = table(folder / "train/images/a.jpg").rename_column("image", "id")
    rows = select_pictures(rows, "train", "id", None)
    assert rows.column_names == ["image", "id"] and rows["id"][:] == ["train_0", "train_1"]


def test_linked_folders_are_followed_once(tmp_path):
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "photos/a.jpg")
    (tmp_path / "all").mkdir()
    (tmp_path / "all/link").symlink_to(tmp_path / "photos")
    (tmp_path / "photos/back").symlink_to(tmp_path / "all")
    assert open_pictures(tmp_path / "all")["id"][:] == ["link/a.jpg"]

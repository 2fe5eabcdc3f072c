"""COCO and labelme annotations become label files: what is drawn, counted and refused."""

import base64
import io
import json

import numpy as np
import pytest
import yaml
from PIL import Image
from pycocotools import mask as coco_mask

from scl_hf.data.annotations import write_masks
from scl_hf.data.classes import read_id2label
from scl_hf.data.labels import LabelImage, read_label
from scl_hf.errors import InputError

CATEGORIES = [{"id": 9, "name": "dog"}, {"id": 3, "name": "car"}]  # car is 1, dog 2
SQUARE = [1, 1, 5, 1, 5, 5, 1, 5]


def image(key=1, name="a/b.jpg", height=8, width=10):
    return {"id": key, "file_name": name, "height": height, "width": width}


def item(segmentation, category=3, key=1, **more):
    return {"image_id": key, "category_id": category, "segmentation": segmentation, **more}


def shape(points, label="car", kind="polygon", **more):
    return {"label": label, "points": points, "shape_type": kind, **more}


def save(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def coco(tmp_path):
    """Writes a file of COCO."""

    def write(*annotations, images=None, categories=CATEGORIES):
        content = {"images": images or [image()], "annotations": annotations, "categories": categories}
        return save(tmp_path / "instances.json", content)

    return write


@pytest.fixture
def labelme(tmp_path):
    """Writes a folder of labelme with one image, x/a.jpg."""

    def write(*shapes, name="a.jpg", **more):
        content = {"imagePath": name, "imageHeight": 8, "imageWidth": 10, "shapes": shapes, "imageData": None}
        save(tmp_path / "labelme/x/a.json", content | more)
        return tmp_path / "labelme"

    return write


def drawn(annotations, tmp_path, name="a/b.png", **options):
    said = write_masks(annotations, tmp_path / "labels", **options)
    return np.asarray(Image.open(tmp_path / "labels" / name)), said


def square(value, ids=0, top=1, left=1, bottom=5, right=5):
    label = np.full((8, 10), ids)
    label[top:bottom, left:right] = value
    return label


def test_instances(coco, tmp_path):
    runs = np.zeros((8, 10), np.uint8, order="F")
    runs[4:7, 4:9] = 1
    compressed = coco_mask.encode(runs)
    crowd = {"size": [8, 10], "counts": [0, 40, 40]}
    annotations = [
        item([SQUARE]),
        item({"size": [8, 10], "counts": compressed["counts"].decode()}, 9),
        item(crowd, iscrowd=1),
        item([[0, 7, 9, 7]]),
        item([], bbox=[8, 0, 2, 2]),
        item([[7, 0, 8, 0, 8, 1, 7, 1]], category=5),
        item([SQUARE], key=7),
    ]
    images = [image(), image(2, "c.jpg"), image(2, "c.jpg")]
    (tmp_path / "images/a").mkdir(parents=True)
    Image.new("RGB", (10, 8)).save(tmp_path / "images/a/b.jpg")
    label, said = drawn(coco(*annotations, images=images), tmp_path)
    expected = np.zeros((8, 10), int)
    expected[:, :5] = expected[0, 7:8] = expected[:2, 8:] = 255
    expected[1:5, 1:5] = 1
    expected[runs == 1] = 2
    assert label.dtype == np.uint8 and np.array_equal(label, expected)
    assert not np.asarray(Image.open(tmp_path / "labels/c.png")).any()
    assert read_id2label(tmp_path / "labels/id2label.json") == {0: "background", 1: "car", 2: "dog"}
    findings, _, recipe = said.partition(f"\n\n{tmp_path / 'labels'}: written. ")
    assert findings.splitlines() == [
        "images: 2",
        "objects: car 2, dog 1",
        "images listed twice, with all their objects on one label: 1 (c.jpg)",
        "annotations of images that are not listed, left out: 1 (annotations[6])",
        "crowd regions, ignored: 1 (annotations[2])",
        "objects that cover no pixel: 1 (a/b.jpg)",
        "annotations without a segmentation, their box is ignored: 1 (annotations[4])",
        "annotations without a known category_id, ignored: 1 (annotations[5])",
        "images without an object, all background: 1 (c.jpg)",
        "objects of different classes overlap, the later one is on top: 1 pixels in 1 images (a/b.jpg)",
    ]
    assert yaml.safe_load(recipe.partition("\n\n")[2]) == {
        "dataset": "folder",
        "data_dir": ".",
        "train_images": str(tmp_path / "images"),
        "train_labels": str(tmp_path / "labels"),
        "id2label": str(tmp_path / "labels/id2label.json"),
    }


@pytest.mark.parametrize("text", ["drawn", "compressed"])
def test_rle_is_that_of_pycocotools(coco, tmp_path, text):
    expected = np.random.default_rng(0).integers(0, 2, (60, 70), dtype=np.uint8)
    rle = coco_mask.encode(np.asfortranarray(expected))
    segmentation = {"size": [60, 70], "counts": rle["counts"].decode()}
    if text == "drawn":
        polygon = [3.2, 4.5, 60.1, 7.7, 41, 55.5, -3, 30]
        segmentation, expected = [polygon], coco_mask.decode(coco_mask.frPyObjects([polygon], 60, 70))[..., 0]
    label, _ = drawn(coco(item(segmentation), images=[image(height=60, width=70)]), tmp_path)
    assert np.array_equal(label, expected)


def test_later_objects_lie_on_top_and_classes_are_chosen(coco, tmp_path):
    annotations = coco(item([SQUARE], 9), item([SQUARE]), item([SQUARE], 9))
    label, said = drawn(annotations, tmp_path, classes=["dog"])
    assert np.array_equal(label, square(1))
    assert "objects: dog 2\nobjects that became background: car 1\n" in said and " 16 pixels in 1 images" in said
    assert read_id2label(tmp_path / "labels/id2label.json") == {0: "background", 1: "dog"}


def test_many_classes_take_16_bits(coco, tmp_path):
    categories = [{"id": key, "name": f"class {key}"} for key in range(1, 300)]
    annotations = coco(item([SQUARE], 280), item([[6, 6, 8, 6, 8, 8]], 280, iscrowd=1), categories=categories)
    label, said = drawn(annotations, tmp_path)
    assert label.dtype == np.uint16 and label[2, 2] == 280 and label.max() == 65535
    assert "ignore_index: 65535" in said and "classes: 300, but training takes 255 at most" in said


@pytest.fixture
def panoptic(tmp_path):
    """Writes a panoptic file, with 300 (a car), 70000 (a dog), 5 (a crowd), 6 (no segment) and 0 (void) in its PNG."""

    def write(height=8, folder="panoptic"):
        ids = np.zeros((8, 10), np.int64)
        ids[:4, :5], ids[:4, 5:], ids[6], ids[7] = 300, 70000, 5, 6
        (tmp_path / folder).mkdir()
        colors = np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)
        Image.fromarray(colors).save(tmp_path / folder / "b.png")
        segments = [{"id": 300, "category_id": 3}, {"id": 70000, "category_id": 9}]
        segments.append({"id": 5, "category_id": 3, "iscrowd": 1})
        content = {"images": [image(height=height), image(2, "c.jpg")], "categories": CATEGORIES}
        content["annotations"] = [{"image_id": 1, "file_name": "b.png", "segments_info": segments}]
        return save(tmp_path / "panoptic.json", content)

    return write


@pytest.mark.parametrize("classes, names", [(None, ["car", "dog"]), (["dog"], ["background", "dog"])])
def test_panoptic(panoptic, tmp_path, classes, names):
    label, said = drawn(panoptic(), tmp_path, classes=classes)
    expected = np.full((8, 10), 255)
    expected[:4, :5], expected[:4, 5:] = 0, 1
    assert np.array_equal(label, expected)
    assert [*read_id2label(tmp_path / "labels/id2label.json").values()] == names
    assert "left unlabeled: 1 (c.jpg)" in said and not (tmp_path / "labels/c.png").exists()
    assert "ids of no segment, ignored: 1 (b.png)" in said and "crowd regions, ignored: 1" in said


PNG = io.BytesIO()
Image.fromarray(np.ones((4, 4), bool)).save(PNG, "PNG")


@pytest.mark.parametrize(
    "drawing",
    [
        shape([[1, 1], [4, 1], [4, 4], [1, 4]]),
        shape([[4, 1], [1, 4]], kind="rectangle"),
        shape([[1, 1], [4, 4]], kind="mask", mask=base64.b64encode(PNG.getvalue()).decode()),
    ],
)
def test_labelme(labelme, tmp_path, drawing):
    folder = labelme(drawing, shape([[8, 6], [9, 7]], "__ignore__", "rectangle"))
    save(folder / "settings.json", {"version": 1})
    label, said = drawn(folder, tmp_path, "x/a.png")
    expected = square(1)
    expected[6:, 8:] = 255
    assert np.array_equal(label, expected)
    assert "JSON files that are not labelme's, left out: 1 (settings.json)" in said
    assert "train_images: FOLDER WITH x/a.jpg" in said


@pytest.mark.parametrize(
    "drawing, inside, outside",
    [
        (shape([[5, 4], [5, 7]], kind="circle"), (1, 5), (0, 9)),
        (shape([[0, 0], [9, 0]], kind="line"), (3, 5), (7, 5)),
        (shape([[0, 0], [9, 0], [9, 1]], kind="linestrip"), (3, 5), (7, 0)),
        (shape([[0, 0]], kind="point"), (5, 0), (6, 0)),
    ],
)
def test_thin_shapes_of_labelme(labelme, tmp_path, drawing, inside, outside):
    label, _ = drawn(labelme(drawing), tmp_path, "x/a.png")
    assert label[inside] == 1 and label[outside] == 0


def test_names_of_labelme_are_sorted_and_its_background_is_background(labelme, tmp_path):
    corners = [[1, 1], [4, 4]]
    shapes = [shape(corners, name, "rectangle") for name in ("b", "_background_", "a", "_background_")]
    label, said = drawn(labelme(*shapes, shape([[6, 6]] * 2, "b", "rectangle")) / "x/a.json", tmp_path, "a.png")
    assert read_id2label(tmp_path / "labels/id2label.json") == {0: "background", 1: "a", 2: "b"}
    assert label.sum() == 2 and " 16 pixels in 1 images" in said


@pytest.mark.parametrize(
    "name, written",
    [("../images/a.jpg", "images/a.png"), ("..\\..\\b.jpg", "x/b.png"), ("/data/c.d.jpg", "x/c.d.png")],
)
def test_labels_stay_within_their_folder(labelme, tmp_path, name, written):
    label, _ = drawn(labelme(shape(SQUARE), name=name), tmp_path, written)
    assert label.any()


def test_labels_are_read_as_they_were_written(coco, tmp_path):
    (tmp_path / "labels").mkdir()  # an empty folder will do
    drawn(coco(item([SQUARE])), tmp_path)
    labels = LabelImage.of(read_id2label(tmp_path / "labels/id2label.json"))
    assert np.array_equal(read_label(tmp_path / "labels/a/b.png", labels), square(1))
    with pytest.raises(InputError, match="labels: is not an empty folder"):
        drawn(coco(item([SQUARE])), tmp_path)


@pytest.mark.parametrize(
    "annotations, options, said",
    [
        ([item([SQUARE])], {"images": [image(), image(2, "a/b.png")]}, r"images\[1\].*a/b.png.*a/b.jpg.*one label"),
        ([item([SQUARE])], {"images": [image(), image(1, "c.jpg")]}, r"images\[1\].*the id 1 is also that of a/b.jpg"),
        ([item([SQUARE])], {"images": [image(), image(height=9)]}, "would have one label"),
        ([item([SQUARE])], {"images": [image(height=None)]}, r"images\[0\].*height None and width 10 are no size"),
        ([item([SQUARE])], {"images": [image(height=10**5, width=10**5)]}, "no size"),
        ([item([SQUARE])], {"images": [image(height=90000, width=90000)]}, "more than an image"),
        ([item([SQUARE])], {"images": [{"id": 1, "file_name": "a.jpg"}]}, "'height' is missing"),
        ([item([SQUARE])], {"images": [image(name="..")]}, "'..' is no name of an image"),
        ([item([SQUARE])], {"images": [3]}, r"images\[0\]: cannot be read"),
        ([item([SQUARE])], {"categories": [{"id": 3, "name": " "}]}, "categories.*' ' is no name of a class"),
        ([item([SQUARE])], {"categories": CATEGORIES + [{"id": 3, "name": "b"}]}, "the id 3 is given twice"),
        ([item([SQUARE[:7]])], {}, r"annotations\[0\]: cannot be read"),
        ([item([[*SQUARE, 1e9, 0]])], {}, "a coordinate is no number of pixels"),
        ([item([[*SQUARE, float("nan"), 0]])], {}, "a coordinate is no number of pixels"),
        ([item({"size": [10, 8], "counts": [80]})], {}, "RLE is not one of 8 × 10 pixels"),
        ([item({"size": [8, 10], "counts": [79]})], {}, "RLE is not one of 8 × 10 pixels"),
        ([item({"size": [8, 10], "counts": "PPPPPP"})], {}, "RLE is not one of 8 × 10 pixels"),
        ([item([])], {}, "'bbox' is missing"),
        ([item([], bbox=[1, 1, 2, 2])], {}, "no outline of an object of car, dog.* their box is ignored: 1"),
        ([item([SQUARE], key=8)], {}, "no outline of an object of car, dog.* not listed, left out: 1"),
        ([7], {}, "as annotations of COCO or labelme: cannot be read"),
        ([], {}, "no outline of an object of car, dog"),
    ],
)
def test_wrong_coco(coco, tmp_path, annotations, options, said):
    path = coco(*annotations, **options)
    with pytest.raises(InputError, match=said):
        drawn(path, tmp_path)
    assert [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize(
    "drawing, more, said",
    [
        (shape(SQUARE, kind="cuboid"), {}, r"x/a.json: shapes\[0\].*4 points of shape_type 'cuboid'"),
        (shape([[1, 1], [2, 2]]), {}, r"a.json: shapes\[0\].*2 points of shape_type 'polygon'"),
        (shape([]), {}, r"a.json: shapes\[0\]"),
        (shape([[1, 1], [2, 2]], kind="mask", mask="abc"), {}, r"a.json: shapes\[0\]"),
        (shape(SQUARE, label=None), {}, "a.json.*None is no name of a class"),
        (shape(SQUARE), {"imageHeight": None}, "a.json.*height None"),
        (shape(SQUARE), {"imagePath": None}, "a.json: cannot be read"),
        (shape(SQUARE), {"shapes": 3}, "a.json: cannot be read"),
    ],
)
def test_wrong_labelme(labelme, tmp_path, drawing, more, said):
    folder = labelme(drawing, **more)
    with pytest.raises(InputError, match=said):
        drawn(folder, tmp_path)
    assert [*tmp_path.iterdir()] == [folder]


@pytest.mark.parametrize(
    "content, said",
    [
        ("[]", "no JSON object"),
        ("{", "cannot be read"),
        ("{}", "'annotations' is missing"),
        ("\ufeff1", "no JSON object"),
    ],
)
def test_other_files(tmp_path, content, said):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(InputError, match=f"a.json.*{said}"):
        drawn(tmp_path / "a.json", tmp_path)
    with pytest.raises(InputError, match="there is no such file"):
        drawn(tmp_path / "b.json", tmp_path)
    (tmp_path / "a.json").unlink()
    with pytest.raises(InputError, match="holds no JSON file of labelme's"):
        drawn(tmp_path, tmp_path)


def test_unknown_classes_and_missing_files(coco, panoptic, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="'cra' is no category of .*Did you mean 'car'"):
        drawn(coco(item([SQUARE])), tmp_path, classes=["cra"])
    with pytest.raises(InputError, match=r"height and width are \(9, 10\), \(8, 10\) in .*b.png"):
        drawn(panoptic(height=9), tmp_path)
    (tmp_path / "panoptic").rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="its PNG files are not in .*panoptic; unpack"):
        drawn(tmp_path / "panoptic.json", tmp_path)
    monkeypatch.setattr("scl_hf.data.annotations.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pycocotools.*scl_hf\[masks\]"):
        drawn(coco(item([SQUARE])), tmp_path)

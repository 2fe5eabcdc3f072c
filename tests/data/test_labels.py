import dataclasses

import datasets
import numpy as np
import pytest
from conftest import write_png
from PIL import Image, ImageDraw

from scl_hf.data.classes import read_classes
from scl_hf.data.labels import LabelImage, count_values, read_label, read_pair
from scl_hf.errors import InputError

CLASSES = {0: "sky", 1: "road", 2: "car"}
LABELS = LabelImage.of(CLASSES)
ANY = LabelImage.of({i: f"class {i}" for i in range(255)})
GRAY = np.array([[0, 128], [200, 255]], np.uint8)


def test_table_of_labels_with_train_ids():
    table = LabelImage.of(CLASSES).table
    assert table[[0, 1, 2, 255]].tolist() == [0, 1, 2, 255] and (np.delete(table, [0, 1, 2, 255]) == -1).all()
    assert LabelImage.of(CLASSES, ignore_index=9).table[[9, 255]].tolist() == [255, -1]


def test_table_of_labels_with_other_ids():
    table = LabelImage.of(CLASSES, {65535: 0, 255: 1, 8: 2, 9: 2, 10: 255}, ignore_index=0).table
    assert table[[65535, 255, 8, 9, 10, 0]].tolist() == [0, 1, 2, 2, 255, 255] and (table >= 0).sum() == 6


@pytest.mark.parametrize(
    "label_map, ignore_index, message",
    [
        ({7: 0, 8: 1, 9: 3}, 255, "^label_map: maps 9 to 3, but the classes are 0 to 2; .*map 9 to 255"),
        ({7: 0, 8: 1, 9: -1}, 255, "^label_map: maps 9 to -1"),
        ({7: 0, 8: 1}, 255, r"^label_map: no id is mapped to class 2 \('car'\); .* ID: 2"),
        ({0: 0, 1: 1, 2: 2}, 0, "^ignore_index: 0 is the id of class 'sky', too; take 0 out of label_map"),
        ({1: 0, 2: 1, 255: 2}, 255, "^ignore_index: 255 is the id of class 'car', too; .*an id that no class has"),
        (None, 0, r"^ignore_index: 0 is the id of class 'sky', too; .*label_map: {1: 0, 2: 1, …}"),
    ],
)
def test_ids_that_contradict_the_classes(label_map, ignore_index, message):
    with pytest.raises(InputError, match=message) as error:
        LabelImage.of(CLASSES, label_map, ignore_index)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("classes", [0, 1, 256])
def test_as_many_classes_as_a_byte_holds(classes):
    with pytest.raises(InputError, match=f"^id2label: holds {classes} class"):
        LabelImage.of({i: f"class {i}" for i in range(classes)})


def test_a_column_of_labels_knows_its_classes(tmp_path):
    labels = LabelImage.of(CLASSES, {7: 0, 8: 1, 9: 2})
    for value in (7, 9):
        Image.new("L", (2, 2), value).save(tmp_path / f"{value}.png")
    dataset = datasets.Dataset.from_dict({"label": [str(tmp_path / f"{value}.png") for value in (7, 9)]})
    dataset = dataset.cast_column("label", labels)
    dataset.save_to_disk(tmp_path / "saved")
    dataset = datasets.load_from_disk(tmp_path / "saved")
    assert dataset.features["label"] == labels and dataset.features["label"].id2label == CLASSES
    assert dataset[0]["label"] == {"path": "7.png", "bytes": (tmp_path / "7.png").read_bytes()}
    decoded = dataset.cast_column("label", dataclasses.replace(labels, decode=True))
    assert [np.asarray(label)[0, 0] for label in decoded["label"]] == [0, 2]


def test_label_is_the_indices_of_a_palette(tmp_path):
    image = Image.fromarray(np.array([[3, 1], [0, 2]], np.uint8), "L").convert("P")
    image.putdata([3, 1, 0, 2])
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9])
    image.save(tmp_path / "label.png")
    with Image.open(tmp_path / "label.png") as stored:
        assert stored.mode == "P"
    assert read_label(tmp_path / "label.png", ANY).tolist() == [[3, 1], [0, 2]]


def gray_png(path, values, bits):
    """A gray PNG of 2 or 4 bits, which Pillow reads but does not write."""
    rows = b"".join(
        b"\0" + np.packbits(np.unpackbits(row[:, None], axis=1)[:, 8 - bits :]).tobytes() for row in values
    )
    write_png(path, values.shape[1], values.shape[0], bits, 0, rows)


@pytest.mark.parametrize("bits", [2, 4])
def test_label_of_few_bits_is_not_stretched(tmp_path, bits):
    gray_png(tmp_path / "label.png", np.array([[0, 1, 2, 3]] * 2, np.uint8), bits)
    assert read_label(tmp_path / "label.png", ANY).tolist() == [[0, 1, 2, 3]] * 2


def test_label_of_one_bit(tmp_path):
    Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1").save(tmp_path / "label.png")
    assert read_label(tmp_path / "label.png", ANY).tolist() == [[0, 1]]


def test_ids_of_8_16_and_32_bits(tmp_path):
    labels = read_classes({"sky": 7, "road": [9, "300-40000", 70000], "car": "100000-200000"}, [200])
    Image.fromarray(np.array([[7, 200]], np.uint8)).save(tmp_path / "8.png")
    Image.fromarray(np.array([[7, 200, 9, 40000]], np.uint16)).save(tmp_path / "16.png")
    Image.fromarray(np.array([[7, 200, 70000, 150000]], np.int32)).save(tmp_path / "32.tif")
    Image.fromarray(np.array([[7, 200, 9, 300]], np.float32)).save(tmp_path / "float.tif")
    label = read_label(tmp_path / "8.png", labels)
    assert label.dtype == np.uint8 and label.tolist() == [[0, 255]]
    assert read_label(tmp_path / "16.png", labels).tolist() == [[0, 255, 1, 1]]
    assert read_label(tmp_path / "32.tif", labels).tolist() == [[0, 255, 1, 2]]
    assert read_label(tmp_path / "float.tif", labels).tolist() == [[0, 255, 1, 1]]


def colored(path, pixels, mode="RGB"):
    """Saves [[color, …]] in a mode; of a palette, the indices are in an order of their own."""
    image = Image.fromarray(np.array(pixels, np.uint8))
    image = image.quantize(len(np.unique(pixels))) if mode == "P" else image.convert(mode)
    image.save(path)
    return path


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
@pytest.mark.parametrize("suffix", ["png", "tif", "bmp"])
def test_colors_stand_for_classes(tmp_path, mode, suffix):
    labels = read_classes({"sky": "#0000ff", "road": [[128, 64, 128], [10, 20, 30]]}, ["#000000"])
    pixels = [[(0, 0, 255), (128, 64, 128), (10, 20, 30), (0, 0, 0)]]
    path = colored(tmp_path / f"label.{suffix}", pixels, mode)
    assert read_label(path, labels).tolist() == [[0, 1, 1, 255]]


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P", "1"])
def test_black_and_white_in_every_mode(tmp_path, mode):
    for background, cell in ((0, 255), ("#000", "#fff"), ([0, 0, 0], [255, 255, 255])):
        path = colored(tmp_path / "label.png", [[(0, 0, 0), (255, 255, 255)]], mode)
        if mode == "P":  # its indices would count
            image = Image.fromarray(np.array([[0, 255]], np.uint8)).convert("P")
            image.save(path)
        assert read_label(path, read_classes({"background": background, "cell": cell})).tolist() == [[0, 1]]


def test_white_of_a_palette_is_255(tmp_path):
    image = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    image.putpalette([0, 0, 0, 255, 255, 255])
    image.save(tmp_path / "label.gif")  # as masks of Carvana
    assert read_label(tmp_path / "label.gif", read_classes({"background": 0, "car": 255})).tolist() == [[0, 1]]
    assert read_label(tmp_path / "label.gif", LabelImage.of({0: "background", 1: "car"})).tolist() == [[0, 1]]


def test_three_equal_channels_are_an_id(tmp_path):
    path = colored(tmp_path / "label.png", [[(2, 2, 2), (0, 0, 0), (255, 255, 255)]])
    assert read_label(path, LABELS).tolist() == [[2, 0, 255]]


def test_three_numbers_are_ids_or_a_color_by_the_file(tmp_path):
    labels = read_classes({"sky": [1, 2, 3], "road": [4, 5, 6]})
    Image.fromarray(np.array([[2, 6]], np.uint8)).save(tmp_path / "ids.png")
    assert read_label(tmp_path / "ids.png", labels).tolist() == [[0, 1]]
    assert read_label(colored(tmp_path / "label.png", [[(1, 2, 3), (4, 5, 6)]]), labels).tolist() == [[0, 1]]


def test_instances_in_a_folder_are_joined(tmp_path):
    for name, value in (("a.png", [[255, 0, 0, 0]]), ("b.png", [[0, 0, 255, 0]])):
        Image.fromarray(np.array(value, np.uint8)).save(tmp_path / name)
    (tmp_path / ".hidden").touch()
    assert read_label(tmp_path, read_classes({"background": 0, "cell": 255})).tolist() == [[1, 0, 1, 0]]
    Image.new("L", (2, 2)).save(tmp_path / "c.png")
    with pytest.raises(InputError, match=r"c.png: is 2×2 pixels, but a.png beside it 4×1"):
        read_label(tmp_path, LABELS)


def write_label(path, values):
    Image.fromarray(np.asarray(values)).save(path)
    return path


RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize(
    "values, message",
    [
        (np.array([[0, 1, 7, 7]], np.uint8), r"id 7 \(2 pixels\); .*the ids 0 to 2. .*NAME: 7}, or .*ignore: \[7\]"),
        (np.array([[0, 300]], np.uint16), r"unknown class id 300 \(1 pixel\)"),
        (np.array([[0, 100000]], np.int32), r"unknown class id 100000 \(1 pixel\)"),
        (np.array([[0, 1.5]], np.float32), "holds fractions such as 1.5"),
        (
            np.array([[[0, 0, 0], [255, 0, 1]]], np.uint8),
            r'color "#ff0001" \(1 pixel\).*{NAME: "#ff0001"}',
        ),
        (np.array([[[0, 0, 0, 255], [1, 1, 1, 0]]], np.uint8), "1 pixels are transparent"),
        (
            np.repeat(np.arange(100, dtype=np.uint8)[None], 9, 1).reshape(9, 100),
            r"if the ids from 2 on are instances of car, car: 2-65535",
        ),
        (RANDOM.integers(0, 256, (32, 32, 3), np.uint8), "as a photo does; are images and labels swapped"),
        (RANDOM.integers(0, 256, (32, 32), np.uint8), "as a photo does; are images and labels swapped"),
    ],
)
def test_values_without_a_class(tmp_path, values, message):
    with pytest.raises(InputError, match=f"label.tif: .*{message}") as error:
        read_label(write_label(tmp_path / "label.tif", values), LABELS)
    assert "\n" not in str(error.value)


def test_a_smoothed_mask_and_a_jpeg_are_named(tmp_path):
    labels = read_classes({"background": 0, "cell": 255})
    disk = Image.new("L", (320, 320))
    ImageDraw.Draw(disk).ellipse((40, 40, 200, 300), fill=255)
    disk.resize((64, 64), Image.Resampling.BICUBIC).save(tmp_path / "smooth.png")
    with pytest.raises(InputError, match="smooth.png: holds .* at .% of its pixels, mostly at edges.*without smooth"):
        read_label(tmp_path / "smooth.png", labels)
    disk.save(tmp_path / "mask.jpg")
    with pytest.raises(InputError, match="mask.jpg: is a JPEG, which blurs .*swapped.*PNG"):
        read_label(tmp_path / "mask.jpg", labels)
    disk.save(tmp_path / "mask.webp")
    with pytest.raises(InputError, match="mask.webp: is a lossy WebP, which blurs"):
        read_label(tmp_path / "mask.webp", labels)


def test_photos_and_smoothed_masks_have_no_values_to_name(tmp_path):
    disk = Image.new("L", (320, 320))
    ImageDraw.Draw(disk).ellipse((40, 40, 200, 300), fill=255)
    disk.resize((64, 64), Image.Resampling.BICUBIC).save(tmp_path / "smooth.png")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(tmp_path / "photo.png")
    for name, message in (("smooth", "mostly at edges: the mask was smoothed"), ("photo", "labels swapped")):
        with pytest.raises(InputError, match=message):
            count_values(tmp_path / f"{name}.png", LabelImage(decode=False))


def test_pair_from_paths_and_from_stored_bytes(tmp_path):
    Image.fromarray(GRAY).save(tmp_path / "image.png")
    Image.fromarray(GRAY).save(tmp_path / "label.png")
    stored = {name: {"path": None, "bytes": (tmp_path / f"{name}.png").read_bytes()} for name in ("image", "label")}
    for row in ({name: tmp_path / f"{name}.png" for name in stored}, stored):
        image, label = read_pair(row, {"label": ANY})
        assert image.shape == (2, 2, 3) and (label == GRAY).all()


def test_sizes_that_differ_by_exif_say_so(tmp_path):
    image, exif = Image.new("RGB", (8, 4)), Image.Exif()
    Image.new("L", (8, 4)).save(tmp_path / "label.png")
    pair = {name: {"path": str(tmp_path / file)} for name, file in (("image", "phone.jpg"), ("label", "label.png"))}
    exif[0x0112] = 6
    image.save(tmp_path / "phone.jpg", exif=exif)
    with pytest.raises(
        InputError, match="label.png: the image .*phone.jpg was turned upright .*orientation 6; the label"
    ):
        read_pair(pair, {"label": ANY})
    image.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "phone.jpg")
    with pytest.raises(InputError, match="label.png: the label is 8×4 pixels"):
        read_pair(pair, {"label": ANY})


def test_pair_of_two_sizes_is_refused(tmp_path):
    Image.new("RGB", (8, 4)).save(tmp_path / "image.png")
    Image.new("L", (4, 4)).save(tmp_path / "label.png")
    with pytest.raises(InputError, match=r"label.png: the label is 4×4 pixels.*image.png is 8×4"):
        read_pair(
            {"image": {"path": str(tmp_path / "image.png")}, "label": {"path": str(tmp_path / "label.png")}},
            {"label": ANY},
        )


def test_values_of_a_label_are_counted(tmp_path):
    labels = read_classes({"sky": 0, "car": "#ff0000"}, [9])
    pixels = np.array([[0, 0, 9, 7]], np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert count_values(tmp_path / "a.png", labels) == {(0, 0): 2, (9, 255): 1, (7, -1): 1}
    colors = np.uint8([[(255, 0, 0), (9, 9, 9), (1, 2, 3)]])  # a gray without a class is an id
    Image.fromarray(colors).save(tmp_path / "b.png")
    assert count_values(tmp_path / "b.png", labels) == {("#ff0000", 1): 1, (9, 255): 1, ("#010203", -1): 1}

import os
import re
import struct
import sys
from unittest.mock import Mock

import cv2
import datasets
import numpy as np
import pytest
import tifffile
from conftest import write_png
from PIL import Image

from scl_hf.data import InputImage, labels
from scl_hf.data.images import (
    CorruptFileError,
    check_files,
    describe_values,
    exif_orientation,
    find_images,
    is_image,
    read_image,
)
from scl_hf.errors import InputError

RGB = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
RGB[0, :2] = [[0], [255]]
VALUES = np.rint(RGB * (4095 / 255)).astype(np.uint16)  # the same image in 12 bits
TWELVE_BITS = InputImage(value_range=[0, 4095])


def read_label(path):
    return labels.read_label(path, labels.LabelImage.of({i: f"class {i}" for i in range(255)}))


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P", "1"])
def test_images_of_every_mode_become_rgb(tmp_path, mode):
    path = tmp_path / "image.png"
    Image.fromarray(np.array([[0, 255]], np.uint8)).convert(mode).save(path)
    assert read_image(path).tolist() == [[[0, 0, 0], [255, 255, 255]]]


def test_plain_png_is_read_as_pillow_reads_it(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (37, 53, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    for name, options in (("plain", {}), ("gamma", {"icc_profile": b"x", "dpi": (72, 72)}), ("exif", {"exif": exif})):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png", **options)
        expected = pixels[::-1, ::-1] if name == "exif" else pixels
        np.testing.assert_array_equal(read_image(tmp_path / f"{name}.png"), expected)


def test_palette_with_transparency(tmp_path):
    image = Image.fromarray(np.array([[0, 1]], np.uint8), "L").convert("P")
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.save(tmp_path / "image.png", transparency=b"\x00\xff")
    assert read_image(tmp_path / "image.png").tolist() == [[[10, 20, 30], [40, 50, 60]]]


def test_16_bit_gray_keeps_its_range(tmp_path):
    values = np.array([[0, 257, 128 * 257, 65535]], np.uint16)
    for suffix in ("png", "tif"):
        Image.fromarray(values).save(tmp_path / f"image.{suffix}")
        assert read_image(tmp_path / f"image.{suffix}")[0, :, 0].tolist() == [0, 1, 128, 255]


def test_exif_orientation_is_applied(tmp_path):
    image = Image.new("RGB", (8, 4))
    exif = image.getexif()
    exif[0x0112] = 6  # turn by 90 degrees to see it upright
    image.save(tmp_path / "phone.jpg", exif=exif)
    assert read_image(tmp_path / "phone.jpg").shape == (8, 4, 3)


def test_a_bad_exif_tag_does_no_harm(tmp_path):
    # Orientation 6, and an image width (0x0100) of the type RATIONAL with the denominator 0
    entries = struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0) + struct.pack("<HHII", 0x0100, 5, 1, 38)
    tiff = b"II*\0" + struct.pack("<IH", 8, 2) + entries + struct.pack("<I", 0) + struct.pack("<II", 1, 0)
    Image.new("RGB", (8, 4)).save(tmp_path / "phone.jpg", exif=b"Exif\0\0" + tiff)
    assert read_image(tmp_path / "phone.jpg").shape == (8, 4, 3)


def test_a_header_of_too_many_pixels_is_damage(tmp_path, monkeypatch):
    write_png(tmp_path / "bomb.png", 2**15, 2**15, 8, 2, bytes(1000))  # more than OpenCV takes, too
    Image.new("RGB", (30, 30)).save(tmp_path / "map.jpg")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for name, readers in (("bomb.png", (read_image, read_label)), ("map.jpg", (read_image,))):
        for read in readers:
            with pytest.raises(CorruptFileError, match=f"{name}: has more pixels than are opened.*damaged") as error:
                read(tmp_path / name)
            assert "\n" not in str(error.value)


@pytest.mark.slow
def test_a_hundred_megapixels_are_an_image(tmp_path):
    Image.new("L", (10000, 10000), 7).save(tmp_path / "label.png")
    assert read_label(tmp_path / "label.png").shape == (10000, 10000)
    Image.new("RGB", (10000, 10000)).save(tmp_path / "image.png", compress_level=1)
    assert read_image(tmp_path / "image.png").shape == (10000, 10000, 3)


def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    for name in ("pipe.png", "folder.png"):
        for read in (read_image, read_label):
            with pytest.raises(CorruptFileError, match=f"{name}: is no file"):
                read(tmp_path / name)
        with pytest.raises(InputError, match=rf"{name} \(no file\)"):
            check_files([tmp_path / name])


@pytest.mark.parametrize("read, suffix", [(read_image, "jpg"), (read_image, "png"), (read_label, "png")])
def test_truncated_file_is_named(tmp_path, read, suffix):
    path = tmp_path / f"cut.{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(InputError, match=f"cut.{suffix}.*cannot be read"):
        read(path)


def test_what_is_no_image_is_named(tmp_path):
    (tmp_path / "notes.jpg").write_text("not an image")
    with pytest.raises(InputError, match="notes.jpg: is not an image"):
        read_image(tmp_path / "notes.jpg")
    with pytest.raises(InputError, match="gone.jpg: no such file"):
        read_image({"path": str(tmp_path / "gone.jpg"), "bytes": None})


def test_check_files_names_the_first_five(tmp_path):
    for index in range(6):
        (tmp_path / f"{index}.png").touch()
    (tmp_path / "good.png").write_bytes(b"abc")
    assert check_files([tmp_path / "good.png"]) == [3]
    with pytest.raises(InputError, match="7 files are empty or missing.*0.png.*4.png") as error:
        check_files([tmp_path / f"{index}.png" for index in range(7)] + [tmp_path / "good.png"])
    assert "5.png" not in str(error.value) and "good.png" not in str(error.value)
    with pytest.raises(InputError, match=r"1 file is empty or missing: .*6.png \(missing\)"):
        check_files([tmp_path / "6.png"])


@pytest.mark.parametrize("suffix", "avif BMP gif heic jp2 jpg JPEG pcx png PPM sgi tga tif TIFF webp".split())
def test_formats_in_any_case_of_letters(tmp_path, suffix):
    if suffix == "heic":
        pytest.importorskip("pillow_heif").register_heif_opener()
    Image.new("RGB", (16, 8), (200, 200, 200)).save(tmp_path / f"a.{suffix}")
    assert find_images(tmp_path) == [f"a.{suffix}"]
    image = read_image(tmp_path / f"a.{suffix}")
    assert image.shape == (8, 16, 3) and abs(image.astype(int) - 200).max() < 3


def test_what_is_no_image_has_another_suffix():
    assert [name for name in ("a.pdf", "a.mpg", "a.eps", "a.h5", "a.txt", ".a.png", "a") if is_image(name)] == []
    assert is_image("a.HEIF") and is_image("a.mpg", {".mpg"}) and not is_image("a.png", {".mpg"})


def test_heic_without_its_package_is_named(tmp_path, monkeypatch):
    (tmp_path / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(20))
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    monkeypatch.setattr(Image, "ID", [name for name in Image.ID if name != "HEIF"])
    with pytest.raises(InputError, match="phone.heic: .*HEIC.*pip install pillow-heif") as error:
        read_image(tmp_path / "phone.heic")
    assert not isinstance(error.value, CorruptFileError)  # skip_corrupt would skip all of them


def write(path, values, **options):
    """Writes PNG, PGM and JPEG 2000 with OpenCV, TIFF with tifffile."""
    if path.suffix == ".tif":
        options = {"photometric": "rgb" if values.ndim == 3 else "minisblack"} | options
        values = np.moveaxis(values, -1, 0) if options.get("planarconfig") == "separate" else values
        tifffile.imwrite(path, values, **options)
    elif path.suffix == ".pgm":  # OpenCV writes 65535 as the largest value
        path.write_bytes(b"P5 9 6 4095\n" + values.astype(">u2").tobytes())
    else:
        order = {2: slice(None), 3: [2, 1, 0], 4: [2, 1, 0, 3]}[values.shape[-1] if values.ndim == 3 else 2]
        assert cv2.imwrite(str(path), values[..., order] if values.ndim == 3 else values)
    return path


GRAY, ALPHA = VALUES[..., 0], np.dstack([VALUES, VALUES[..., 0]])


@pytest.mark.parametrize(
    ("name", "values", "options"),
    [
        ("gray.png", GRAY, {}),
        ("gray.tif", GRAY, {}),
        ("gray.pgm", GRAY, {}),
        ("colors.png", VALUES, {}),
        ("alpha.png", ALPHA, {}),
        ("colors.tif", VALUES, {}),
        ("deflated.tif", VALUES, {"compression": "zlib", "predictor": True}),
        ("big.tif", VALUES, {"bigtiff": True}),
        ("planes.tif", VALUES, {"planarconfig": "separate"}),
        ("gdal.tif", VALUES, {"photometric": "minisblack", "planarconfig": "contig"}),
        ("signed.tif", VALUES.astype(np.int16), {}),
        ("long.tif", VALUES.astype(np.uint32), {}),
        ("half.tif", VALUES.astype(np.float16), {}),
        ("float.tif", VALUES.astype(np.float32), {}),
        ("float_gray.tif", GRAY.astype(np.float32), {}),
        ("double.tif", GRAY.astype(np.float64), {}),
    ],
)
def test_value_range_becomes_black_and_white(tmp_path, name, values, options):
    expected = RGB if values.ndim == 3 else RGB[..., :1].repeat(3, axis=2)
    np.testing.assert_array_equal(read_image(write(tmp_path / name, values, **options), TWELVE_BITS), expected)


def test_value_range_clips_and_leaves_8_bits_alone(tmp_path):
    values = np.array([[-1, 0, 50, 100, 200, np.nan, np.inf]], np.float32)
    path = write(tmp_path / "a.tif", values)
    assert read_image(path, InputImage(value_range=[0, 100]))[0, :, 0].tolist() == [0, 0, 128, 255, 255, 0, 255]
    for name in ("a.png", "b.jpg", "c.bmp"):
        Image.fromarray(RGB).save(tmp_path / name)
        np.testing.assert_array_equal(read_image(tmp_path / name, TWELVE_BITS), read_image(tmp_path / name))


@pytest.mark.parametrize("name", ["colors.png", "colors.tif", "planes.tif"])
def test_16_bit_colors_without_a_range_are_scaled_as_pillow_does(tmp_path, name):
    values = np.random.default_rng(0).integers(0, 65536, (6, 9, 3), dtype=np.uint16)
    path = write(tmp_path / name, values, **({"planarconfig": "separate"} if name == "planes.tif" else {}))
    np.testing.assert_array_equal(read_image(path), values >> 8)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (RGB / np.float32(255), r"from 0 to 1; write value_range: \[0, 1\]"),
        (RGB[..., 0].astype(np.float32), r"from 0 to 255; write value_range: \[0, 255\]"),
        (np.float32([[-1.5, 20]]), r"write value_range: \[-1.5, 20\]"),
        (np.int32([[0, 70000]]), r"holds values from 0 to 70000; write value_range: \[0, 70000\]"),
        (np.int16([[-5, 9000]]), r"holds values from -5 to 9000; write value_range: \[-5, 9000\]"),
    ],
)
def test_values_that_have_no_scale_are_refused(tmp_path, values, said):
    path = write(tmp_path / "a.tif", values)
    for read in (read_image, lambda path: describe_values([path])):
        with pytest.raises(InputError, match=f"a.tif: .*{said}"):
            read(path)


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("a.tif", GRAY, r"0 to 4095, nearly black: write value_range: \[0, 4095\]"),
        ("a.png", VALUES, r"0 to 4095, .*\[0, 4095\]"),
        ("a.tif", VALUES * 2, r"0 to 8190, .*\[0, 10000\]"),
        ("a.png", GRAY * 5, None),
        ("a.pgm", GRAY, None),  # says itself that 4095 is white
        ("a.png", RGB, None),
        ("a.jpg", RGB, None),
    ],
)
def test_16_bits_of_which_few_are_used_are_said(tmp_path, name, values, said):
    path = write(tmp_path / name, values)
    (tmp_path / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(30))
    line = describe_values([path, {"bytes": path.read_bytes(), "path": None}, tmp_path / "damaged.png"])
    assert line is None if said is None else re.search(f"in 2 of them are {said}", line), line
    assert describe_values([path], TWELVE_BITS) is None


MANY = np.random.default_rng(1).integers(0, 256, (6, 9, 5), dtype=np.uint8)
PLANES, GDAL = {"planarconfig": "separate"}, {"photometric": "minisblack", "planarconfig": "contig"}


@pytest.mark.parametrize(
    ("values", "options"),
    [
        (MANY, GDAL),
        (MANY, {"extrasamples": (0, 0)}),  # of which Pillow takes three
        (MANY, GDAL | PLANES),
        (MANY[..., :4], {"extrasamples": (0,)}),
        (MANY[..., :4], GDAL),
        (MANY[..., :2], GDAL),
        (ALPHA, {}),
        (ALPHA.astype(np.float32), GDAL | {"compression": "zlib"}),
    ],
)
def test_bands_are_taken_where_asked(tmp_path, values, options):
    path, count = write(tmp_path / "a.tif", values, **options), values.shape[2]
    for read in (read_image, lambda path: describe_values([path])):
        with pytest.raises(InputError, match=rf"a.tif: has {count} bands; write bands: \[0, 1, {min(2, count - 1)}\]"):
            read(path)
    bands = [count - 1, 0, 1]
    expected = values[..., bands] if values.dtype == np.uint8 else np.rint(values[..., bands] * (255 / 4095))
    np.testing.assert_array_equal(read_image(path, InputImage(value_range=[0, 4095], bands=bands)), expected)
    with pytest.raises(InputError, match=f"a.tif: bands names 5, but it has {count} bands"):
        read_image(path, InputImage(bands=[5, 0, 1]))


def test_four_bands_as_opencv_writes_them(tmp_path):
    cv2.imwrite(str(tmp_path / "lzw.tif"), MANY[..., [2, 1, 0, 3]])
    with pytest.raises(InputError, match="lzw.tif: has 4 bands"):
        read_image(tmp_path / "lzw.tif")
    np.testing.assert_array_equal(read_image(tmp_path / "lzw.tif", InputImage(bands=[3, 0, 1])), MANY[..., [3, 0, 1]])


def test_bands_of_other_images(tmp_path):
    for name in ("a.png", "a.tif", "a.webp"):
        image = Image.fromarray(np.dstack([RGB, np.full((6, 9), 255, np.uint8)]))
        image.save(tmp_path / name, **({"lossless": True} if name == "a.webp" else {}))
        np.testing.assert_array_equal(read_image(tmp_path / name), RGB)  # alpha is dropped
        np.testing.assert_array_equal(read_image(tmp_path / name, InputImage(bands=[2, 1, 0])), RGB[..., ::-1])
    Image.fromarray(RGB).quantize(4).save(tmp_path / "p.png")
    flipped = read_image(tmp_path / "p.png", InputImage(bands=[2, 1, 0]))
    np.testing.assert_array_equal(flipped, read_image(tmp_path / "p.png")[..., ::-1])
    Image.fromarray(RGB[..., 0]).save(tmp_path / "gray.png")
    with pytest.raises(InputError, match=r"gray.png: bands names 2, but it has 1 band; write bands: \[0, 0, 0\]"):
        read_image(tmp_path / "gray.png", InputImage(bands=[2, 1, 0]))


def test_packages_that_a_tiff_needs_are_named(tmp_path, monkeypatch):
    path, form = write(tmp_path / "a.tif", MANY, **GDAL), InputImage(bands=[0, 1, 2])
    content = path.read_bytes()
    with monkeypatch.context() as patch:
        reason = ValueError("<COMPRESSION.LZW: 5> requires the 'imagecodecs' package")
        patch.setattr(tifffile.TiffPage, "asarray", Mock(side_effect=reason))
        with pytest.raises(InputError, match="a.tif: .*LZW.*pip install imagecodecs"):
            read_image(path, form)
    path.write_bytes(content[:-100])
    with pytest.raises(CorruptFileError, match="a.tif: cannot be read"):
        read_image(path, form)
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(InputError, match="a.tif: is a TIFF of 5 bands of 8 bits; pip install tifffile"):
        read_image(path, form)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_all_ways_to_read_turn_an_image_alike(tmp_path, orientation):
    tag = [(274, 3, 1, orientation, True)]
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(RGB).save(tmp_path / "plain.png", exif=exif)
    expected = read_image(tmp_path / "plain.png")
    assert exif_orientation(tmp_path / "plain.png") == orientation
    write(tmp_path / "opencv.tif", VALUES, extratags=tag)
    write(tmp_path / "tifffile.tif", VALUES, extratags=tag, **GDAL)
    write(tmp_path / "pillow.tif", GRAY, extratags=tag)
    for name in ("opencv", "tifffile", "pillow"):
        image = read_image(tmp_path / f"{name}.tif", TWELVE_BITS)
        np.testing.assert_array_equal(image[..., 0], expected[..., 0], name)
        assert exif_orientation(tmp_path / f"{name}.tif") == orientation


def test_input_image_is_a_feature(tmp_path):
    path = write(tmp_path / "a.png", VALUES)
    feature = InputImage(value_range=[0, 4095], bands=[0, 1, 2])
    dataset = datasets.Dataset.from_dict({"image": [str(path)]}).cast_column("image", feature)
    dataset.save_to_disk(tmp_path / "saved")
    loaded = datasets.load_from_disk(tmp_path / "saved")
    assert loaded.features["image"] == feature
    np.testing.assert_array_equal(np.array(loaded[0]["image"]), RGB)
    for fields in ({"value_range": [1]}, {"value_range": [2, 2]}, {"bands": [0, 1]}, {"bands": [0, -1, 2]}):
        with pytest.raises(InputError, match=f"^{next(iter(fields))}: must be"):
            InputImage(**fields)

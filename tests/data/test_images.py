import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from scl_hf.data import labels
from scl_hf.data.images import CorruptFileError, check_files, read_image
from scl_hf.errors import InputError


def read_label(path):
    return labels.read_label(path, labels.LabelImage.of({i: f"class {i}" for i in range(255)}))


def write_png(path, width, height, bits, kind, rows):
    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    with open(path, "wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        for name, data in ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
            file.write(struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)))


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

import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from scl_hf.data.images import CorruptFileError, check_files, read_image, read_label, read_pair
from scl_hf.errors import InputError

GRAY = np.array([[0, 128], [200, 255]], np.uint8)


def write_png(path, width, height, bits, kind, rows):
    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    with open(path, "wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        for name, data in ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
            file.write(struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)))


def gray_png(path, values, bits):
    """A gray PNG of 2 or 4 bits, which Pillow reads but does not write."""
    rows = b"".join(
        b"\0" + np.packbits(np.unpackbits(row[:, None], axis=1)[:, 8 - bits :]).tobytes() for row in values
    )
    write_png(path, values.shape[1], values.shape[0], bits, 0, rows)


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
    for name in ("bomb.png", "map.jpg"):
        for read in (read_image, read_label):
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


@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize("read", [read_image, read_label])
def test_truncated_file_is_named(tmp_path, suffix, read):
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


def test_label_is_the_indices_of_a_palette(tmp_path):
    image = Image.fromarray(np.array([[3, 1], [0, 2]], np.uint8), "L").convert("P")
    image.putdata([3, 1, 0, 2])
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9])
    image.save(tmp_path / "label.png")
    with Image.open(tmp_path / "label.png") as stored:
        assert stored.mode == "P"
    assert read_label(tmp_path / "label.png").tolist() == [[3, 1], [0, 2]]


@pytest.mark.parametrize("bits", [2, 4])
def test_label_of_few_bits_is_not_stretched(tmp_path, bits):
    gray_png(tmp_path / "label.png", np.array([[0, 1, 2, 3]] * 2, np.uint8), bits)
    assert read_label(tmp_path / "label.png").tolist() == [[0, 1, 2, 3]] * 2


def test_label_of_one_bit(tmp_path):
    Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1").save(tmp_path / "label.png")
    assert read_label(tmp_path / "label.png").tolist() == [[0, 1]]


def test_table_maps_8_and_16_bit_labels(tmp_path):
    table = np.full(65536, -1, np.int16)
    table[[7, 200, 40000]] = [0, 255, 3]
    Image.fromarray(np.array([[7, 200]], np.uint8)).save(tmp_path / "8.png")
    Image.fromarray(np.array([[7, 200, 40000]], np.uint16)).save(tmp_path / "16.png")
    label = read_label(tmp_path / "8.png", table)
    assert label.dtype == np.uint8 and label.tolist() == [[0, 255]]
    assert read_label(tmp_path / "16.png", table).tolist() == [[0, 255, 3]]


def test_unknown_ids_are_counted(tmp_path):
    table = np.full(256, -1, np.int16)
    table[[0, 1, 255]] = [0, 1, 255]
    Image.fromarray(np.array([[0, 1, 7, 7]], np.uint8)).save(tmp_path / "8.png")
    with pytest.raises(InputError, match=r"8.png: unknown class id 7 \(2 pixels\).*ids 0 to 1: .*id 255"):
        read_label(tmp_path / "8.png", table)
    Image.fromarray(np.array([[0, 300]], np.uint16)).save(tmp_path / "16.png")
    for lookup in (table, None):
        with pytest.raises(InputError, match=r"16.png: unknown class id 300 \(1 pixel\)"):
            read_label(tmp_path / "16.png", lookup)
    gray_png(tmp_path / "4.png", np.array([[0, 9]], np.uint8), 4)
    with pytest.raises(InputError, match=r"id 9 \(1 pixel\)"):
        read_label(tmp_path / "4.png", table)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_colored_label_is_refused(tmp_path, mode):
    Image.new(mode, (4, 4)).save(tmp_path / "label.png")
    with pytest.raises(InputError, match="label.png: is a color image"):
        read_label(tmp_path / "label.png")


def test_pair_from_paths_and_from_stored_bytes(tmp_path):
    Image.fromarray(GRAY).save(tmp_path / "image.png")
    Image.fromarray(GRAY).save(tmp_path / "label.png")
    stored = {name: {"path": None, "bytes": (tmp_path / f"{name}.png").read_bytes()} for name in ("image", "label")}
    for row in ({name: tmp_path / f"{name}.png" for name in stored}, stored):
        image, label = read_pair(row)
        assert image.shape == (2, 2, 3) and (label == GRAY).all()


def test_pair_of_two_sizes_is_refused(tmp_path):
    Image.new("RGB", (8, 4)).save(tmp_path / "image.png")
    Image.new("L", (4, 4)).save(tmp_path / "label.png")
    with pytest.raises(InputError, match=r"label.png: the label is 4×4 pixels.*image.png is 8×4"):
        read_pair({"image": {"path": str(tmp_path / "image.png")}, "label": {"path": str(tmp_path / "label.png")}})


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

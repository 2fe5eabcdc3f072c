"""Uploads in, images and tables out, without a page."""

import io
import re

import numpy as np
import pytest
from PIL import Image

from scl_hf.data.palette import make_palette
from scl_hf.errors import InputError
from scl_hf.prediction import views

COLORS = (np.indices((12, 20)).sum(0) * 7)[..., None] + np.array([0, 20, 40], np.uint8)
IMAGE = Image.fromarray(COLORS.astype(np.uint8))


def saved(image, suffix, **options):
    file = io.BytesIO()
    image.save(file, suffix, **options)
    return file.getvalue()


@pytest.fixture
def upload(tmp_path):
    """Reads bytes as an upload of a name."""

    def read(content, name="photo.png"):
        (tmp_path / name).write_bytes(content)
        return views.read_upload(tmp_path / name)

    return read


def sixteen_bits():
    return Image.fromarray(np.linspace(0, 65535, 240).reshape(12, 20).astype(np.uint16))


@pytest.mark.parametrize(
    "content",
    [
        saved(IMAGE.convert("CMYK"), "JPEG"),
        saved(IMAGE.convert("CMYK"), "TIFF"),
        saved(IMAGE.convert("RGBA"), "PNG"),
        saved(IMAGE.convert("LA"), "PNG"),
        saved(IMAGE.convert("P"), "PNG", transparency=0),
        saved(IMAGE.convert("1"), "PNG"),
        saved(sixteen_bits(), "PNG"),
        saved(sixteen_bits(), "TIFF"),
    ],
)
def test_every_kind_of_image_becomes_8_bit_colors(upload, content):
    image, note = upload(content)
    assert image.shape == (12, 20, 3) and image.dtype == np.uint8 and note == ""
    assert np.ptp(image) > 100


def test_a_photograph_is_turned_upright(upload):
    exif = Image.Exif()
    exif[0x0112] = 6
    image, note = upload(saved(IMAGE, "JPEG", exif=exif), "photo.jpg")
    assert image.shape == (20, 12, 3) and note == ""
    upright = np.asarray(IMAGE.rotate(-90, expand=True)).astype(int)
    assert np.abs(image - upright).mean() < 4


def test_of_an_animation_the_first_frame(upload):
    frames = [Image.new("RGB", (20, 12), color) for color in ("red", "blue")]
    for kind in ("GIF", "PNG", "WEBP", "TIFF"):
        content = saved(frames[0], kind, save_all=True, append_images=frames[1:])
        image, note = upload(content, f"clip.{kind.lower()}")
        assert image[0, 0, 0] > 200 and "several images, this is the first" in note
    assert upload(saved(frames[0], "MPO", save_all=True, append_images=frames[1:]), "photo.jpg")[1] == ""


def test_a_large_image_is_made_smaller_and_a_huge_one_refused(upload):
    image, note = upload(saved(Image.new("RGB", (4100, 30)), "PNG"))
    assert image.shape == (15, 2048, 3) and "from 4100×30 to 2048×15" in note
    bomb = bytearray(saved(Image.new("RGB", (8, 8)), "BMP"))
    for side in (30_000, 10_001, 5_000):  # more than Pillow opens, and less; the first two than are opened here
        bomb[18:22] = bomb[22:26] = side.to_bytes(4, "little")
        with pytest.raises(InputError, match="100 million" if side > 10_000 else "photo.bmp cannot be read"):
            upload(bytes(bomb), "photo.bmp")


def test_a_file_that_is_no_image_is_refused_in_a_sentence(upload):
    complete = saved(IMAGE, "PNG")
    gif = saved(IMAGE, "GIF", save_all=True, append_images=[IMAGE.convert("L")])
    for content in (
        complete[:60],
        complete[:-40],
        b"<html>gone</html>",
        b"\x89PNG\r\n\x1a\n",
        gif[:30],
        b"BM" + bytes(99),
    ):
        with pytest.raises(InputError, match="^my <photo>.png cannot be read as an image: .* Choose a JPEG or PNG.$"):
            upload(content, "my <photo>.png")
    with pytest.raises(InputError, match="^photo.png is empty. Choose another file.$"):
        upload(b"")
    with pytest.raises(InputError, match="floating-point"):
        upload(saved(Image.new("F", (8, 8)), "TIFF"))


def test_numbers_stand_within_their_areas():
    palette = make_palette(12)
    label = np.full((96, 192), 11, np.uint8)
    label[:, 100:] = 3
    label[40:42] = 0  # no room for a number
    numbered = views.numbered_map(label, palette)
    assert numbered.shape == (384, 768, 3)
    plain = palette[label].repeat(4, 0).repeat(4, 1)
    written = (numbered != plain).any(-1)
    for half in (written[:160, :400], written[168:, :400], written[:160, 400:], written[168:, 400:]):
        assert 20 < half.sum() < 600
    assert not written[160:168].any() and not written[:, 390:410].any()
    large = np.zeros((900, 1000), np.uint16)
    assert views.numbered_map(large, palette).shape == (900, 1000, 3)


def test_the_table_has_every_class_and_escapes_names():
    names = {0: "a & b", 1: "<script>", 2: "sky", 3: "sea"}
    first, second = np.zeros((40, 100), np.uint8), np.full((40, 100), 2, np.uint8)
    second[0, 0] = 1
    table = views.share_table([first, second], names, make_palette(4), ["<one>", "two"])
    rows = re.findall(r'<tr><td><span[^>]*>(\d)</span></td><th scope="row">(.*?)</th>(.*?)</tr>', table)
    assert [(number, name) for number, name, _ in rows] == [("0", "a &amp; b"), ("2", "sky"), ("1", "&lt;script&gt;")]
    assert rows[0][2] == "<td>100.0 %</td><td>0.0 %</td>" and rows[2][2] == "<td>0.0 %</td><td>&lt; 0.1 %</td>"
    assert "&lt;one&gt;" in table and "<p>Not in this image: sea.</p>" in table

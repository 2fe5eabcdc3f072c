"""The zip for the Cityscapes test server: label ids of each test image, `<city>_<sequence>_<frame>*.png`."""

import os
import re
import zipfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from ..data.sources.cityscapes import CITIES
from ..errors import InputError
from ..evaluation.official import label_ids_file
from ..files import replacing
from .inputs import Input
from .writers import PredictionFolder

TEST_IMAGES = CITIES["test"]
SIZE = (2048, 1024)
_NAME = re.compile(r"(([a-z]+)_\d{6}_\d{6})_leftImg8bit\.png")


def check_test_images(inputs: Sequence[Input]) -> None:
    """Raises `InputError` unless the inputs are all test images of Cityscapes, each once, at full size."""
    frames = {}
    for item in inputs:
        match = _NAME.fullmatch(Path(item.path).name)
        if match is None or match[2] not in TEST_IMAGES:
            raise InputError(
                f"submission: {item.path} is not a test image of Cityscapes; give leftImg8bit/test as the only input."
            )
        if match[1] in frames:
            raise InputError(f"submission: {item.path} and {frames[match[1]]} are one test image; give it once.")
        frames[match[1]] = item.path
        try:
            with Image.open(item.path) as image:  # reads only the header
                width, height = image.size
        except (OSError, SyntaxError) as error:
            raise InputError(f"submission: {item.path} is not a readable image ({error}); copy it again.") from error
        if (width, height) != SIZE:
            size = "{}×{} pixels instead of {}×{}".format(width, height, *SIZE)
            raise InputError(f"submission: {item.path} has {size}; give the test images at full size.")
    given = Counter(frame.partition("_")[0] for frame in frames)
    wrong = [f"{given[city]} of {number} of {city}" for city, number in TEST_IMAGES.items() if given[city] != number]
    if wrong:
        problem = f"not exactly the {sum(TEST_IMAGES.values())} test images ({', '.join(wrong)})"
        raise InputError(f"submission: {problem}; give all of leftImg8bit/test.")


def write_submission(path: str | os.PathLike, folder: PredictionFolder, inputs: Sequence[Input]) -> None:
    """Packs the label ids of the test images, under the names that the server looks for."""
    with replacing(Path(path)) as partial, zipfile.ZipFile(partial, "w") as archive:  # stored: PNGs do not shrink
        for item in inputs:
            frame = _NAME.fullmatch(Path(item.path).name)[1]
            archive.write(folder.file("label_ids", item), label_ids_file(Path(), frame).name)

"""What is predicted: pictures and videos, given as files, folders or globs, and the names of their predictions."""

import collections
import glob
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from ..data.images import SUFFIXES, find_images, is_image
from ..errors import InputError

logger = logging.getLogger(__name__)

# What is wrong with a video is said by its error; FFmpeg would print riddles beside it.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

VIDEOS = {".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm"}
PICTURES_AND_VIDEOS = SUFFIXES | {".ppm"} | VIDEOS


class Input(NamedTuple):
    """A picture or a video."""

    path: str
    name: str  # folders and name of its predictions, without a suffix

    @property
    def is_video(self) -> bool:
        return os.path.splitext(self.path)[1].lower() in VIDEOS


def find_inputs(patterns: Sequence[str], excluded: Sequence[str | os.PathLike] = ()) -> list[Input]:
    """
    The pictures and videos behind files, folders (with all below them) and globs, each once. Predictions lie in the
    same folders as the inputs, counted from the folder that holds them all, so that equal names in different folders
    do not meet. Files and folders in `excluded` are no inputs, such as earlier predictions.
    """
    excluded = [os.path.abspath(path) for path in excluded]
    files, roots = {}, []
    for pattern in patterns:
        matches = [pattern] if os.path.exists(pattern) else sorted(glob.glob(pattern, recursive=True))
        if not matches:
            raise InputError(f"input {pattern}: no such file or folder, and no glob that matches one.")
        folders = [os.path.abspath(match) for match in matches if os.path.isdir(match)]
        given = [os.path.abspath(match) for match in matches if not os.path.isdir(match)]
        below = [(folder, name) for folder in folders for name in find_images(folder, PICTURES_AND_VIDEOS)]
        found = given + [os.path.join(folder, name) for folder, name in below]
        # A glob such as **/* names folders and files, whatever they are; one file by its name is meant.
        if found != [os.path.abspath(pattern)]:
            found = [path for path in found if is_image(os.path.basename(path), PICTURES_AND_VIDEOS)]
            found = [path for path in found if not any(map(Path(path).is_relative_to, excluded))]
        if not found:
            suffixes = ", ".join(sorted(PICTURES_AND_VIDEOS))
            raise InputError(f"input {pattern}: holds no picture and no video ({suffixes}).")
        files |= dict.fromkeys(found)
        roots += folders + [os.path.dirname(path) for path in given if path in files]
    return [Input(path, Path(name).as_posix()) for path, name in _names(files, os.path.commonpath(roots)).items()]


def _names(files: Iterable[str], root: str) -> dict[str, str]:
    """File -> its path below `root`, without the suffix where that is enough to tell it from the others."""
    names = {path: os.path.splitext(os.path.relpath(path, root))[0] for path in files}
    # Twice round for x.png, x.jpg and x.jpg.png: the name without a suffix may be another's with it.
    while shared := {name for name, number in collections.Counter(names.values()).items() if number > 1}:
        names |= {path: os.path.relpath(path, root) for path, name in names.items() if name in shared}
    return names


class Video:
    """An open video; where its file does not state them, `fps` is 25 and `num_frames` 0."""

    def __init__(self, path: str):
        if not os.path.isfile(path):
            raise InputError(f"{path}: no such file")
        self.path = path
        self._capture = cv2.VideoCapture(path)
        if not self._capture.isOpened():
            raise InputError(f"{path}: is no video that can be read; the file is damaged or incomplete, copy it again")
        self.fps = self._capture.get(cv2.CAP_PROP_FPS) or 25
        self.num_frames = max(0, round(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))

    def count(self) -> int:
        """The number of frames that can be read, whatever the file states. Instead of [`frames`]."""
        number = 0
        while self._capture.grab():
            number += 1
        return number

    def frames(self) -> Iterator[np.ndarray]:
        """The frames, (H, W, 3) uint8 in RGB, one after the other, once."""
        number = 0
        while (frame := self._capture.read()[1]) is not None:
            number += 1
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        if number == 0:
            raise InputError(
                f"{self.path}: no frame of it can be read; the file is damaged or incomplete, copy it again"
            )
        if number < self.num_frames:
            logger.warning("%s: %d of %d frames could be read.", self.path, number, self.num_frames)

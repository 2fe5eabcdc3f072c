"""Finds images and videos in files, folders and globs, names their predictions, and reads videos."""

import collections
import glob
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from ..data.images import find_images, image_suffixes, is_image
from ..errors import InputError

logger = logging.getLogger(__name__)

os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # errors of this module say what FFmpeg would print

VIDEOS = {".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm"}


class Input(NamedTuple):
    """An image or a video."""

    path: str
    name: str  # folders and name of its predictions, without a suffix

    @property
    def is_video(self) -> bool:
        return os.path.splitext(self.path)[1].lower() in VIDEOS


def find_inputs(patterns: Sequence[str], excluded: Sequence[str | os.PathLike] = ()) -> list[Input]:
    """
    Finds the images and videos behind files, folders (with all below them) and globs, each once, but those in
    `excluded`. Predictions keep the folders of their inputs below the one that holds all inputs: names do not collide.
    """
    excluded = [os.path.abspath(path) for path in excluded]
    files, roots, suffixes = {}, [], image_suffixes() | VIDEOS
    for pattern in patterns:
        matches = [pattern] if os.path.exists(pattern) else sorted(glob.glob(pattern, recursive=True))
        if not matches:
            raise InputError(f"input {pattern}: no such file or folder, and no glob that matches one.")
        matches = [os.path.abspath(match) for match in matches]
        folders = [match for match in matches if os.path.isdir(match)]
        given = [match for match in matches if not os.path.isdir(match)]
        found = given + [os.path.join(folder, n) for folder in folders for n in find_images(folder, suffixes)]
        # A file that is given by its name is taken whatever its suffix; a glob such as **/* matches anything.
        if found != [os.path.abspath(pattern)]:
            found = [path for path in found if is_image(os.path.basename(path), suffixes)]
            found = [path for path in found if not any(map(Path(path).is_relative_to, excluded))]
        if not found:
            raise InputError(f"input {pattern}: holds no image and no video of a suffix that is known")
        files |= dict.fromkeys(found)
        roots += folders + [os.path.dirname(path) for path in given if path in files]
    return [Input(path, Path(name).as_posix()) for path, name in _names(files, os.path.commonpath(roots)).items()]


def _names(files: Iterable[str], root: str) -> dict[str, str]:
    """Returns file -> its path below `root`, without the suffix where the name stays unique."""
    names = {path: os.path.splitext(os.path.relpath(path, root))[0] for path in files}
    # Repeated, for x.png, x.jpg and x.jpg.png: a name without its suffix may equal another one with its suffix.
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
            raise InputError(f"{path}: is not a readable video; the file is damaged or incomplete, copy it again")
        self.fps = self._capture.get(cv2.CAP_PROP_FPS) or 25
        self.num_frames = max(0, round(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))

    def frames(self) -> Iterator[np.ndarray]:
        """Yields the frames, (H, W, 3) uint8 in RGB, once."""
        number = 0
        while (frame := self._capture.read()[1]) is not None:
            number += 1
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        if number == 0:
            raise InputError(f"{self.path}: holds no readable frame; the file is damaged or incomplete, copy it again")
        if number < self.num_frames:
            logger.warning("%s: %d of %d frames could be read.", self.path, number, self.num_frames)

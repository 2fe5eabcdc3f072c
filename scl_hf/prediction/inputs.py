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

from ..data.pictures import SUFFIXES
from ..errors import InputError

logger = logging.getLogger(__name__)

# What is wrong with a video is said by its error; FFmpeg would print riddles beside it.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

PICTURES = SUFFIXES | {".ppm"}
VIDEOS = {".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm"}


class Input(NamedTuple):
    """
    A picture or a video.

    Args:
        path (`str`): The file.
        name (`str`): Folders and name of its predictions, without a suffix.
    """

    path: str
    name: str

    @property
    def is_video(self) -> bool:
        return os.path.splitext(self.path)[1].lower() in VIDEOS


def find_inputs(patterns: Sequence[str], excluded: Sequence[str | os.PathLike] = ()) -> list[Input]:
    """
    Finds the files behind what a user names. Predictions lie in the same folders as the inputs, counted from the
    folder that holds them all, so that equal names in different folders do not meet.

    Args:
        patterns (`Sequence[str]`): Files, folders (with all pictures and videos below them) and globs (`**` too).
        excluded (`Sequence[str]`, *optional*):
            Files and folders that are no inputs, such as earlier predictions
            ([`~scl_hf.prediction.writers.earlier_predictions`]).

    Returns:
        `list[Input]`: Each file once, in the order of the patterns and by name within each.

    Raises:
        [`InputError`]: A pattern that matches nothing.
    """
    excluded = tuple(os.path.abspath(path) for path in excluded)
    files, roots = {}, []
    for pattern in patterns:
        matches = [pattern] if os.path.exists(pattern) else sorted(glob.glob(pattern, recursive=True))
        if not matches:
            raise InputError(f"input {pattern}: no such file or folder, and no glob that matches one.")
        folders = [os.path.abspath(match) for match in matches if os.path.isdir(match)]
        given = [os.path.abspath(match) for match in matches if not os.path.isdir(match)]
        found = given + [path for folder in folders for path in _files_below(folder)]
        # A glob such as **/* names folders and files, whatever they are; one file by its name is meant.
        if found != [os.path.abspath(pattern)]:
            found = [path for path in found if _is_input(path) and not _is_excluded(path, excluded)]
        if not found:
            suffixes = ", ".join(sorted(PICTURES | VIDEOS))
            raise InputError(f"input {pattern}: holds no picture and no video ({suffixes}).")
        files |= dict.fromkeys(found)
        roots += folders + [os.path.dirname(path) for path in given if path in files]
    return [Input(path, Path(name).as_posix()) for path, name in _names(files, os.path.commonpath(roots)).items()]


def _files_below(folder: str) -> list[str]:
    paths = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths += [os.path.join(parent, name) for name in names]
    return sorted(paths)


def _names(files: Iterable[str], root: str) -> dict[str, str]:
    """File -> its path below `root`, without the suffix where that is enough to tell it from the others."""
    names = {path: os.path.splitext(os.path.relpath(path, root))[0] for path in files}
    # Twice round for x.png, x.jpg and x.jpg.png: the name without a suffix may be another's with it.
    while shared := {name for name, number in collections.Counter(names.values()).items() if number > 1}:
        names |= {path: os.path.relpath(path, root) for path, name in names.items() if name in shared}
    return names


def _is_input(path: str) -> bool:
    name = os.path.basename(path)
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in PICTURES | VIDEOS


def _is_excluded(path: str, excluded: Sequence[str]) -> bool:
    return any(path == other or path.startswith(os.path.join(other, "")) for other in excluded)


class Video:
    """
    An open video.

    Args:
        path (`str`): The file.

    Attributes:
        fps (`float`): Frames a second as the file states them, or 25.
        num_frames (`int`): Frames as the file states them, 0 where it does not.

    Raises:
        [`InputError`]: The file is not there, or no video that OpenCV reads.
    """

    def __init__(self, path: str):
        if not os.path.isfile(path):
            raise InputError(f"{path}: no such file")
        self.path = path
        self._capture = cv2.VideoCapture(path)
        if not self._capture.isOpened():
            raise InputError(f"{path}: is no video that can be read; the file is damaged or incomplete, copy it again")
        self.fps = self._capture.get(cv2.CAP_PROP_FPS) or 25
        self.num_frames = max(0, round(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))

    def frames(self) -> Iterator[np.ndarray]:
        """
        The frames, one after the other, once.

        Yields:
            `np.ndarray`: (H, W, 3) uint8, RGB.

        Raises:
            [`InputError`]: There is none.
        """
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

"""What is predicted: pictures and videos, given as files, folders or globs, and the names of their predictions."""

import collections
import glob
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from ..errors import InputError

logger = logging.getLogger(__name__)

# What is wrong with a video is said by its error; FFmpeg would print riddles beside it.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

PICTURES = {".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}
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


def find_inputs(patterns: Sequence[str], output: str | os.PathLike) -> list[Input]:
    """
    Finds the files behind what a user names. Predictions lie in the same folders as the inputs, counted from the
    folder that holds them all, so that equal names in different folders do not meet.

    Args:
        patterns (`Sequence[str]`): Files, folders (with all pictures and videos below them) and globs (`**` too).
        output (`str`): The folder of the predictions. What lies in it is no input.

    Returns:
        `list[Input]`: Each file once, in the order of the patterns and by name within each.

    Raises:
        [`InputError`]: A pattern that matches nothing.
    """
    output = os.path.abspath(output)
    files, roots = {}, []
    for pattern in patterns:
        matches = [pattern] if os.path.exists(pattern) else sorted(glob.glob(pattern, recursive=True))
        if not matches:
            raise InputError(f"input {pattern}: no such file or folder, and no glob that matches one.")
        folders = [os.path.abspath(match) for match in matches if os.path.isdir(match)]
        given = [os.path.abspath(match) for match in matches if not os.path.isdir(match)]
        found = given + [path for folder in folders for path in _files_below(folder, output)]
        # A glob such as **/* names folders and files, whatever they are; one file by its name is meant.
        if len(matches) > 1:
            found = [path for path in found if _is_input(path) and not _is_below(path, output)]
        if not found:
            suffixes = ", ".join(sorted(PICTURES | VIDEOS))
            raise InputError(f"input {pattern}: holds no picture and no video ({suffixes}).")
        files |= dict.fromkeys(found)
        roots += folders + [os.path.dirname(path) for path in given if path in files]
    root = os.path.commonpath(roots)
    names = [os.path.splitext(os.path.relpath(path, root))[0] for path in files]
    count = collections.Counter(names)
    # A picture and a video of one name, or x.jpg and x.png, keep their suffixes.
    names = [name if count[name] == 1 else os.path.relpath(path, root) for path, name in zip(files, names)]
    return [Input(path, Path(name).as_posix()) for path, name in zip(files, names)]


def _files_below(folder: str, output: str) -> list[str]:
    paths = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if os.path.join(parent, name) != output and not name.startswith(".")]
        paths += [os.path.join(parent, name) for name in names]
    return sorted(path for path in paths if _is_input(path) and not _is_below(path, output))


def _is_input(path: str) -> bool:
    name = os.path.basename(path)
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in PICTURES | VIDEOS


def _is_below(path: str, folder: str) -> bool:
    return path.startswith(os.path.join(folder, ""))


class VideoInfo(NamedTuple):
    """Frames a second and number of frames of a video, as its file states them."""

    fps: float
    num_frames: int


def open_video(path: str) -> tuple[cv2.VideoCapture, VideoInfo]:
    """
    Opens a video.

    Args:
        path (`str`): The file.

    Returns:
        `tuple[cv2.VideoCapture, VideoInfo]`: The open video; the caller releases it.

    Raises:
        [`InputError`]: The file is not there, or no video that OpenCV reads.
    """
    if not os.path.isfile(path):
        raise InputError(f"{path}: no such file")
    capture = cv2.VideoCapture(path)
    if not capture.isOpened():
        raise InputError(f"{path}: is no video that can be read; the file is damaged or incomplete, copy it again")
    fps, num_frames = capture.get(cv2.CAP_PROP_FPS), capture.get(cv2.CAP_PROP_FRAME_COUNT)
    return capture, VideoInfo(fps, max(0, round(num_frames)))


def video_frames(path: str) -> Iterator[np.ndarray]:
    """
    The frames of a video, one after the other.

    Args:
        path (`str`): The file.

    Yields:
        `np.ndarray`: (H, W, 3) uint8, RGB.

    Raises:
        [`InputError`]: The video cannot be opened or holds no frame.
    """
    capture, info = open_video(path)
    number = 0
    try:
        while True:
            read, frame = capture.read()
            if not read:
                break
            number += 1
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
    finally:
        capture.release()
    if number == 0:
        raise InputError(f"{path}: no frame of it can be read; the file is damaged or incomplete, copy it again")
    if number < info.num_frames:
        logger.warning("%s: %d of %d frames could be read.", path, number, info.num_frames)

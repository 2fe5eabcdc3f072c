"""The folder of predictions: its record, and files that threads write while the model runs."""

import collections
import contextlib
import functools
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from ..data.sources.cityscapes import LABEL_IDS, is_cityscapes
from ..errors import InputError, first_few
from ..evaluation.scoring import read_record
from ..files import check_writable, clear_partial_files, replacing, write_json
from ..pretrained import Checkpoint
from ..visualization.panels import colorize, draw_legend, overlay
from .inputs import Input, Video

VIDEO_KINDS = ("color", "overlay")
KINDS = (*VIDEO_KINDS, "train_ids", "label_ids", "probabilities")
RECORD, CLASSES, LEGEND = "predictions.json", "classes.json", "legend.png"


def earlier_predictions(output: str | os.PathLike) -> list[Path]:
    """Returns the files and folders that an earlier run wrote to `output`; none where it left no record."""
    folder = Path(output)
    return [folder / name for name in (*KINDS, LEGEND)] if (folder / RECORD).is_file() else []


class WriteQueue(ThreadPoolExecutor):
    """Writes in threads behind the model. With more than `waiting` jobs under way, `submit` waits for the oldest."""

    def __init__(self, threads: int, waiting: int):
        super().__init__(threads)
        self._waiting = waiting
        self._jobs = collections.deque()

    def submit(self, job: Callable, *args: Any) -> None:
        """Runs the job in a thread; raises the exception of an earlier job."""
        self._jobs.append(super().submit(job, *args))
        while len(self._jobs) > self._waiting:
            self._jobs.popleft().result()

    def __exit__(self, kind: type | None, *_: Any) -> None:
        self.shutdown(cancel_futures=kind is not None)
        for job in self._jobs if kind is None else ():
            job.result()


class PredictionFolder:
    """
    The folder of predictions, `<path>/<kind>/<name of the input>`. Its record holds the settings and the source file
    of each prediction: a stopped run resumes, and predictions of two models or settings are never mixed.
    """

    def __init__(
        self,
        path: str,
        kinds: Sequence[str],
        checkpoint: Checkpoint,
        settings: dict[str, Any],
        overwrite: bool = False,
    ):
        self.path, self.kinds, self.settings, self.overwrite = Path(path), kinds, settings, overwrite
        self.palette, self.id2label = checkpoint.palette, checkpoint.id2label
        self._started = False
        # Path, size and modification time of the file of each prediction: of earlier runs, and of this one
        self.sources: dict[str, list] = {}
        self._new_sources: dict[str, list] = {}
        if "label_ids" in kinds and not is_cityscapes(self.id2label):
            raise InputError(
                f"write: label_ids are those of the 19 Cityscapes classes, but the classes of {checkpoint.name} are "
                f"{first_few(self.id2label.values())}; take train_ids, or correct id2label in its config.json."
            )
        for kind in kinds:
            check_writable("output", self.path / kind)
        if (self.path / RECORD).is_file():
            self.sources = read_record(self.path / RECORD, None if overwrite else settings)["sources"]
        else:
            self._refuse_foreign([self.path / CLASSES, self.path / LEGEND])

    def _refuse_foreign(self, files: Sequence[Path], expected: str = "a prediction") -> None:
        for file in filter(Path.exists, files):
            raise InputError(f"output {self.path}: {file} exists, but is not {expected}. Name another folder.")

    def check_inputs(self, inputs: Sequence[Input]) -> list[Input]:
        """Returns the inputs that lack a file or have changed since, with `overwrite` all; writes nothing."""
        remaining = []
        self._new_sources = {item.name: _source(item.path) for item in inputs}
        for item in inputs:
            if item.is_video and (no_video := [kind for kind in self.kinds if kind not in VIDEO_KINDS]):
                remedy = f"take {' and '.join(VIDEO_KINDS)}, or give a folder of its frames as images"
                raise InputError(f"write: {no_video[0]} of a video ({item.path}) cannot be written; {remedy}.")
            source = self.sources.get(item.name)
            files = [self.file(kind, item) for kind in self.kinds]
            if source is None or source[0] != item.path and not self.overwrite:
                self._refuse_foreign(files, f"a prediction of {item.path}")
            done = source == self._new_sources[item.name] and all(f.is_file() and f.stat().st_size for f in files)
            if self.overwrite or not done:
                remaining.append(item)
        return remaining

    def start(self) -> None:
        """At the first prediction: removes outdated files, with `overwrite` all; writes record, classes and legend."""
        if self._started:
            return
        self._started = True
        clear_partial_files(self.path, [f"{kind}/**/*" for kind in KINDS])
        for name, source in self.sources.items():
            if self.overwrite or self._new_sources.get(name, source) != source:
                for kind in KINDS:
                    self.file(kind, Input(source[0], name)).unlink(missing_ok=True)
        self.sources = ({} if self.overwrite else self.sources) | self._new_sources
        write_json(self.path / RECORD, {"settings": self.settings, "sources": self.sources})
        classes = list(zip(self.id2label.values(), self.palette))
        by_id = {i: {"name": name, "color": color.tolist()} for i, (name, color) in zip(self.id2label, classes)}
        write_json(self.path / CLASSES, by_id)
        with replacing(self.path / LEGEND) as path:
            draw_legend(classes).save(path)

    def file(self, kind: str, item: Input) -> Path:
        """Returns the file of a prediction."""
        suffix = ".mp4" if item.is_video else ".npy" if kind == "probabilities" else ".png"
        return self.path / kind / f"{item.name}{suffix}"

    def write(self, item: Input, image: np.ndarray, prediction: np.ndarray, probs: np.ndarray | None) -> None:
        """Writes all kinds of files of an image (H, W, 3), its train ids (H, W) and probabilities (C, H, W)."""
        for kind in self.kinds:
            with replacing(self.file(kind, item)) as path:
                if kind == "probabilities":
                    np.save(path, probs)
                elif kind in VIDEO_KINDS:
                    # An overlay is as hard to compress as a photograph: more effort takes seconds and saves little.
                    Image.fromarray(self._draw(kind, image, prediction)).save(path, compress_level=1)
                else:
                    Image.fromarray(prediction if kind == "train_ids" else LABEL_IDS[prediction]).save(path)

    @contextlib.contextmanager
    def write_video(self, item: Input, fps: float, size: tuple[int, int]) -> Iterator[Callable]:
        """Yields a function that writes a frame (H, W, 3) with its train ids (H, W); MPEG-4 cuts odd sides by one."""
        number = 0

        def write(frame: np.ndarray, prediction: np.ndarray) -> None:
            nonlocal number
            number += 1
            for kind, video in videos.items():
                video.write(cv2.cvtColor(self._draw(kind, frame, prediction), cv2.COLOR_RGB2BGR))

        with contextlib.ExitStack() as stack:
            paths = {kind: stack.enter_context(replacing(self.file(kind, item))) for kind in self.kinds}
            codec = cv2.VideoWriter.fourcc(*"mp4v")
            videos = {kind: cv2.VideoWriter(str(path), codec, fps, size) for kind, path in paths.items()}
            for video in videos.values():
                stack.callback(video.release)
                if not video.isOpened():
                    raise InputError(f"{item.path}: a video of {size[0]}×{size[1]} pixels cannot be written.")
            with WriteQueue(threads=1, waiting=8) as queue:  # one thread: frames keep their order
                yield functools.partial(queue.submit, write)
            for kind, video in videos.items():
                video.release()
                found = 0  # OpenCV raises nothing on a full disk: the frames are read back
                with contextlib.suppress(InputError):
                    found = sum(1 for _ in Video(str(paths[kind])).frames())
                if found != number:
                    free = shutil.disk_usage(paths[kind].parent).free / 1e6
                    problem = f"of the {number} frames of {self.file(kind, item)}, {found} can be read back"
                    remedy = f"Is the disk full? {free:.1f} MB are free. The same command tries it again."
                    raise InputError(f"{item.path}: {problem}, so it is not kept. {remedy}")

    def _draw(self, kind: str, image: np.ndarray, prediction: np.ndarray) -> np.ndarray:
        return colorize(prediction, self.palette) if kind == "color" else overlay(image, prediction, self.palette)


def _source(path: str) -> list:
    """Returns path, size and modification time of a file; a link to nothing has none, and reading it says so."""
    stat = os.stat(path) if os.path.exists(path) else None
    return [path, stat.st_size, stat.st_mtime_ns] if stat else [path, 0, 0]

"""The folder of predictions: what is in it, and how files get there whole and behind the model."""

import collections
import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from ..data import cityscapes
from ..errors import InputError
from ..visualization import colorize, legend, overlay
from .arguments import WRITE, PredictionArguments
from .checkpoint import Checkpoint
from .inputs import Input, open_video

RECORD = "predictions.json"
SUFFIXES = {"probabilities": ".npy"}  # all others: .png
VIDEO_KINDS = ("color", "overlay")
LABEL_IDS = np.array(
    [next(label.id for label in cityscapes.LABELS if label.train_id == i) for i in cityscapes.ID2LABEL], np.uint8
)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """
    A temporary name to write to, with the suffix of `path`. The file is moved to `path` when it is whole, and removed
    when something goes wrong before.

    Args:
        path (`pathlib.Path`): The file to be written. Its folder is made.

    Yields:
        `pathlib.Path`: The temporary name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


class WriteQueue:
    """
    Writes in threads behind the model. At most `waiting` jobs are under way, so that memory stays bounded.

    Args:
        threads (`int`): Threads that write.
        waiting (`int`): Jobs that wait or are being written before `submit` waits for the oldest.
    """

    def __init__(self, threads: int, waiting: int):
        self._pool = ThreadPoolExecutor(threads)
        self._waiting = waiting
        self._jobs = collections.deque()

    def submit(self, job: Callable, *args: Any) -> None:
        """Runs the job in a thread; an earlier job's exception is raised here."""
        self._jobs.append(self._pool.submit(job, *args))
        while len(self._jobs) > self._waiting:
            self._jobs.popleft().result()

    def __enter__(self) -> "WriteQueue":
        return self

    def __exit__(self, kind: type | None, *_: Any) -> None:
        self._pool.shutdown(wait=True, cancel_futures=kind is not None)
        if kind is None:
            for job in self._jobs:
                job.result()


class PredictionFolder:
    """
    The folder that predictions are written to, `<output>/<kind>/<name of the input>`. It keeps a record of what it was
    made with and of which file each prediction is, so that a run that was stopped goes on, and predictions of two
    models or protocols are never mixed.

    Args:
        args ([`PredictionArguments`]): Where it is, and what is written.
        checkpoint ([`Checkpoint`]): Classes and colours.
        settings (`Mapping[str, Any]`): All that the predictions depend on, as plain values.

    Raises:
        [`InputError`]: The folder holds predictions of other settings; or label ids are asked for of a model with
            other classes than Cityscapes'.
    """

    def __init__(self, args: PredictionArguments, checkpoint: Checkpoint, settings: Mapping[str, Any]):
        self.path = Path(args.output)
        self.kinds = args.write
        self.overwrite = args.overwrite
        self.palette = checkpoint.palette
        self.id2label = checkpoint.id2label
        self.settings = json.loads(json.dumps(settings))
        self._new_sources: dict[str, str] = {}
        self._started = False
        if "label_ids" in self.kinds and not checkpoint.is_cityscapes:
            names = ", ".join(list(self.id2label.values())[:3])
            raise InputError(
                f"write: label_ids are those of the 19 Cityscapes classes, but the classes of {checkpoint.name} are "
                f"{names}, …; take train_ids, or name the classes in id2label of its config.json."
            )
        self.sources = self._read_sources()

    def _read_sources(self) -> dict[str, str]:
        """Which file each prediction that is in the folder was made of."""
        record = self.path / RECORD
        if not record.is_file():
            return {}
        try:
            found = json.loads(record.read_text(encoding="utf-8"))
            settings, sources = dict(found["settings"]), dict(found["sources"])
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{record}: is not the record of a folder of predictions; name another output.") from None
        for name in [] if self.overwrite else self.settings | settings:
            old, new = settings.get(name), self.settings.get(name)
            if old != new:
                raise InputError(
                    f"output {self.path}: holds predictions with {name} {old}, these would have {new}. Name another "
                    "folder, or add --overwrite true to replace them."
                )
        return sources

    def check_inputs(self, inputs: Sequence[Input]) -> list[Input]:
        """
        Says which inputs of a run remain to be predicted. Writes nothing.

        Args:
            inputs (`Sequence[Input]`): Pictures and videos.

        Returns:
            `list[Input]`: Those of which a file is not there yet; all of them with `overwrite`.

        Raises:
            [`InputError`]: A name is taken, by the prediction of another file or by a file that is no prediction; or
                class ids of a video are asked for.
        """
        remaining = []
        self._new_sources = {item.name: item.path for item in inputs}
        for item in inputs:
            no_video = [kind for kind in self.kinds if item.is_video and kind not in VIDEO_KINDS]
            if no_video:
                raise InputError(
                    f"write: {no_video[0]} of a video ({item.path}) cannot be written, only "
                    f"{' and '.join(VIDEO_KINDS)}; unpack its frames into a folder of pictures and give that."
                )
            source = self.sources.get(item.name)
            if source is not None and source != item.path and not self.overwrite:
                raise InputError(
                    f"output {self.path}: {item.name} is the prediction of {source}, not of {item.path}. Name another "
                    "folder, or add --overwrite true to replace it."
                )
            paths = [self.file(kind, item) for kind in self.kinds]
            foreign = next((path for path in paths if path.exists()), None) if source is None else None
            if foreign is not None:
                raise InputError(f"output {self.path}: {foreign} is there, but is no prediction. Name another folder.")
            if self.overwrite or not all(path.is_file() for path in paths):
                remaining.append(item)
        return remaining

    def start(self) -> None:
        """
        Writes the record, the names and colours of the classes, and their legend; with `overwrite`, removes earlier
        predictions first. Files that are no predictions stay. Called again, it does nothing: whoever writes calls it
        before, so that a run that fails at its first picture leaves no trace.
        """
        if self._started:
            return
        self._started = True
        if self.overwrite:
            for name in self.sources:
                for kind in WRITE:
                    for suffix in (SUFFIXES.get(kind, ".png"), ".mp4"):
                        (self.path / kind / f"{name}{suffix}").unlink(missing_ok=True)
            self.sources = {}
        self.sources |= self._new_sources
        classes = {
            i: {"name": name, "color": color.tolist()} for (i, name), color in zip(self.id2label.items(), self.palette)
        }
        _write_json(self.path / RECORD, {"settings": self.settings, "sources": self.sources})
        _write_json(self.path / "classes.json", classes)
        with replacing(self.path / "legend.png") as path:
            legend(list(zip(self.id2label.values(), self.palette))).save(path)

    def file(self, kind: str, item: Input) -> Path:
        """Where a prediction is written."""
        suffix = ".mp4" if item.is_video else SUFFIXES.get(kind, ".png")
        return self.path / kind / f"{item.name}{suffix}"

    def write(self, item: Input, picture: np.ndarray, prediction: np.ndarray, probs: np.ndarray | None) -> None:
        """
        Writes all that is asked for of a picture.

        Args:
            item (`Input`): Its file and name.
            picture (`np.ndarray`): (H, W, 3) uint8.
            prediction (`np.ndarray`): Train ids (H, W), uint8 or uint16.
            probs (`np.ndarray`, *optional*): (num_classes, H, W) float16.
        """
        for kind in self.kinds:
            with replacing(self.file(kind, item)) as path:
                if kind == "probabilities":
                    np.save(path, probs)
                elif kind == "train_ids":
                    Image.fromarray(prediction).save(path)
                elif kind == "label_ids":
                    Image.fromarray(LABEL_IDS[prediction]).save(path)
                else:
                    # An overlay is as hard to compress as a photograph: more effort takes seconds and saves little.
                    Image.fromarray(self._draw(kind, picture, prediction)).save(path, compress_level=1)

    @contextlib.contextmanager
    def write_video(self, item: Input, size: tuple[int, int]) -> Iterator[Callable[[np.ndarray, np.ndarray], None]]:
        """
        Writes the colours and overlays of a video's frames, at its size and frames a second, without sound.

        Args:
            item (`Input`): Its file and name.
            size (`tuple[int, int]`): Width and height of its frames.

        Yields:
            `Callable`: Takes a frame (H, W, 3) uint8 and its train ids (H, W), one frame after the other.

        Raises:
            [`InputError`]: The file is no video that can be read, or no video can be written here.
        """
        capture, info = open_video(item.path)
        capture.release()
        with contextlib.ExitStack() as stack:
            videos = {}
            for kind in self.kinds:
                path = stack.enter_context(replacing(self.file(kind, item)))
                codec = cv2.VideoWriter.fourcc(*"mp4v")
                videos[kind] = cv2.VideoWriter(str(path), codec, info.fps or 25, size)
                stack.callback(videos[kind].release)
                if not videos[kind].isOpened():
                    raise InputError(
                        f"{item.path}: no video of {size[0]}×{size[1]} pixels can be written to {path.parent}"
                    )

            def write(frame: np.ndarray, prediction: np.ndarray) -> None:
                for kind, video in videos.items():
                    video.write(cv2.cvtColor(self._draw(kind, frame, prediction), cv2.COLOR_RGB2BGR))

            with WriteQueue(threads=1, waiting=8) as queue:  # one thread: frames keep their order
                yield lambda frame, prediction: queue.submit(write, frame, prediction)

    def _draw(self, kind: str, picture: np.ndarray, prediction: np.ndarray) -> np.ndarray:
        if kind == "color":
            return colorize(prediction, self.palette)
        return overlay(picture, prediction, self.palette)


def _write_json(path: Path, values: Mapping) -> None:
    with replacing(path) as partial:
        partial.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

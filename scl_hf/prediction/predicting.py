"""The arguments of `scripts/predict.py`, and the loop from inputs to files."""

import contextlib
import functools
import itertools
import operator
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from ..data.images import InputImage, read_image
from ..data.normalization import Normalization
from ..errors import InputError, check_field, killed_workers
from ..evaluation import scoring
from ..files import DiskFullError, check_writable
from ..pretrained import Checkpoint
from ..processes import is_out_of_memory
from .inputs import Input, Video
from .writers import KINDS, PredictionFolder, WriteQueue

# Images a second, also where one takes longer.
_BAR = "{percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_noinv_fmt}]"


@dataclass
class PredictionArguments:
    """
    Which files are written, where, and how the model runs.

    Args:
        output (`str`): Folder of the predictions, with a folder for each of the names in `write`.
        write (`list[str]`, *optional*): Files of each image: any of color, overlay, train_ids, label_ids,
            probabilities; by default color and overlay, the only two of videos. Class ids are PNGs of 8 bits (16
            beyond 255 classes), label_ids with Cityscapes' own ids; probabilities are NumPy files of float16
            (classes, height, width).
        submission (`str`, *optional*): Zip for the Cityscapes server, with the label ids of its 1,525 test images.
            `write` is then `["label_ids"]` by default.
        dtype (`str`, *optional*, defaults to `"float32"`): `"float32"`, or `"bfloat16"` or `"float16"` for mixed
            precision.
        compile (`bool`, *optional*, defaults to `False`): Whether the model goes through `torch.compile`, which pays
            off for many images of one size.
        overwrite (`bool`, *optional*, defaults to `False`): Whether earlier predictions in `output` are removed first.
            Without it a stopped run resumes.
        trust_remote_code (`bool`, *optional*, defaults to `False`): Whether the checkpoint may run its own code.
    """

    output: str
    write: list[str] | None = None
    submission: str | None = None
    dtype: str = "float32"
    compile: bool = False
    overwrite: bool = False
    trust_remote_code: bool = False

    def __post_init__(self):
        if self.write is None:
            self.write = ["label_ids"] if self.submission else ["color", "overlay"]
        if unknown := [kind for kind in self.write if kind not in KINDS]:
            raise InputError(f"write: there is no '{unknown[0]}'; take any of {', '.join(KINDS)}.")
        self.write = [kind for kind in KINDS if kind in self.write or kind == "label_ids" and self.submission]
        check_field(self, "dtype", self.dtype in scoring.MIXED_PRECISION, ", ".join(scoring.MIXED_PRECISION))
        check_writable("output", self.output)
        if self.submission is not None:
            path = Path(self.submission)
            if os.path.isdir(path) or os.path.exists(path) and not self.overwrite:
                raise InputError(f"submission {path}: exists already. Name another file, or remove it.")
            check_writable("submission", path.parent)


class Predictor:
    """Predicts images and videos into the folder `args.output`; the model is moved to the device."""

    def __init__(self, checkpoint: Checkpoint, args: PredictionArguments, evaluation: scoring.EvaluationArguments):
        self.normalization, self.input, self.evaluation = checkpoint.normalization, checkpoint.input, evaluation
        self.accelerator = scoring.make_accelerator(args.dtype)
        self.probabilities = "probabilities" in args.write
        settings = {"checkpoint": checkpoint.digest()} | checkpoint.normalization._asdict()
        settings |= {"input": repr(checkpoint.input)} if checkpoint.input else {}
        settings |= scoring.evaluation_settings(evaluation, args.dtype)
        self.folder = PredictionFolder(args.output, args.write, checkpoint, settings, args.overwrite)
        model = checkpoint.model.to(self.accelerator.device)
        self.model = torch.compile(model) if args.compile else model

    @killed_workers()
    def predict(self, inputs: Sequence[Input]) -> tuple[int, list[str]]:
        """Predicts the inputs that the folder lacks; returns how many it had, and a line for each that failed."""
        remaining, failures = self.folder.check_inputs(inputs), []
        total = sum(map(_num_frames, remaining))
        with tqdm(total=total, unit=" images", bar_format=_BAR, disable=not remaining) as bar:
            self._predict_images([item for item in remaining if not item.is_video], failures, bar)
            for item in filter(operator.attrgetter("is_video"), remaining):
                with _listed(failures):
                    self._predict_video(item, bar)
        return len(inputs) - len(remaining), failures

    def _predict_images(self, images: Sequence[Input], failures: list[str], bar: tqdm) -> None:
        read = functools.partial(_read, self.normalization, self.input)
        workers = self.evaluation.dataloader_num_workers
        loader = DataLoader(images, batch_size=None, num_workers=workers, collate_fn=read)
        with WriteQueue(threads=4, waiting=8) as queue:
            for image, item in zip(images, loader):
                with _listed(failures):
                    if "error" in item:
                        raise InputError(item["error"])
                    prediction = self._predict(item)
                    self.folder.start()
                    queue.submit(self.folder.write, image, item["image"].numpy(), *prediction)
                bar.update()

    def _predict_video(self, item: Input, bar: tqdm) -> None:
        video = Video(item.path)
        predicted = (
            (frame, self._predict({"id": item.path, "pixel_values": self.normalization.of(frame)})[0])
            for frame in video.frames()
        )
        first = next(predicted)
        self.folder.start()  # nothing is written before the first prediction
        with self.folder.write_video(item, video.fps, first[0].shape[1::-1]) as write:
            for frame, prediction in itertools.chain([first], predicted):
                write(frame, prediction)
                bar.update()

    def _predict(self, item: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray | None]:
        """Returns the train ids (H, W) of an image and, if they are written, its probabilities (C, H, W)."""
        try:
            probs = scoring.predict_image(self.model, item, self.evaluation, self.accelerator)[0]
        except InputError as error:
            # An image that is too small is listed. A tile that the model cannot take would fail in every image.
            cause, tile = error.__cause__, self.evaluation.eval_tile
            tile_is_wrong = tile is not None and all(map(operator.ge, item["pixel_values"].shape[-2:], tile))
            compiler = type(cause).__module__.startswith(("torch._dynamo", "torch._inductor"))
            if tile_is_wrong or compiler or is_out_of_memory(cause):
                raise _StopError(f"compile: {error}" if compiler else str(error)) from error
            raise
        return class_ids(probs), probs.half().cpu().numpy() if self.probabilities else None


def class_ids(probs: torch.Tensor) -> np.ndarray:
    """Returns the most probable class of each pixel (H, W) of probabilities (C, H, W)."""
    # 255 stands for ignored pixels in 8 bits.
    return probs.argmax(dim=0).cpu().numpy().astype(np.uint8 if len(probs) <= 255 else np.uint16)


class _StopError(InputError):
    """An error that concerns all images, not only the current one."""


@contextlib.contextmanager
def _listed(failures: list[str]) -> Iterator[None]:
    """Adds the error of one input to `failures`, unless it concerns all."""
    try:
        yield
    except InputError as error:
        if isinstance(error, (_StopError, DiskFullError)):
            raise
        failures.append(str(error))


def _read(normalization: Normalization, form: InputImage | None, image: Input) -> dict[str, Any]:
    """Returns an image and its `pixel_values`, or the line of the error."""
    try:
        pixels = read_image(image.path, form)
    except InputError as error:
        return {"error": str(error)}
    return {"id": image.path, "image": torch.from_numpy(pixels), "pixel_values": normalization.of(pixels)}


def _num_frames(item: Input) -> int:
    try:
        return Video(item.path).num_frames if item.is_video else 1
    except InputError:
        return 0  # read again, and listed, in its turn

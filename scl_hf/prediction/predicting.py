"""The loop from inputs to files."""

import contextlib
import dataclasses
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from ..data.files import read_image
from ..errors import InputError
from ..evaluation import EvaluationArguments, predict_image
from .arguments import MIXED_PRECISION, PredictionArguments
from .checkpoint import Checkpoint
from .inputs import Input, open_video, video_frames
from .writers import PredictionFolder, WriteQueue

# They change how fast predictions are made, not what they are.
_SPEED = ("max_tiles_per_batch", "dataloader_num_workers")
# Images a second, also where one takes longer.
_BAR = "{percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_noinv_fmt}]"


class Predictor:
    """
    Predicts pictures and videos into a folder.

    Args:
        checkpoint ([`Checkpoint`]): The model; it is moved to the GPU, if there is one.
        args ([`PredictionArguments`]): What is written, and where.
        protocol ([`~scl_hf.evaluation.EvaluationArguments`]): Scales, flip and tiles.

    Raises:
        [`InputError`]: The folder holds predictions of another model or protocol, or the device cannot run `dtype`.
    """

    def __init__(self, checkpoint: Checkpoint, args: PredictionArguments, protocol: EvaluationArguments):
        self.checkpoint = checkpoint
        self.protocol = protocol
        self.probabilities = "probabilities" in args.write
        try:
            self.accelerator = Accelerator(mixed_precision=MIXED_PRECISION[args.dtype])
        except ValueError as error:
            raise InputError(f"dtype: {args.dtype} does not run here ({str(error).splitlines()[0]})") from error
        settings = {"checkpoint": checkpoint.digest(), "dtype": args.dtype}
        settings |= {"image_mean": checkpoint.image_mean, "image_std": checkpoint.image_std}
        fields = [field.name for field in dataclasses.fields(EvaluationArguments) if field.name not in _SPEED]
        self.folder = PredictionFolder(args, checkpoint, settings | {name: getattr(protocol, name) for name in fields})
        self.model = checkpoint.model.to(self.accelerator.device)
        if args.compile:
            self.model = torch.compile(self.model)

    def predict(self, inputs: Sequence[Input]) -> tuple[int, list[str]]:
        """
        Predicts what is not in the folder yet, with a progress bar.

        Args:
            inputs (`Sequence[Input]`): Pictures and videos.

        Returns:
            `tuple[int, list[str]]`: How many of the inputs were there already, and a line for each of them that could
            not be read or predicted.

        Raises:
            [`InputError`]: The model cannot predict tiles of this size, or memory does not suffice.
        """
        remaining = self.folder.check_inputs(inputs)
        failures: list[str] = []
        total = sum(map(_num_frames, remaining))
        with tqdm(total=total, unit=" images", bar_format=_BAR, disable=not remaining) as bar:
            self._predict_pictures([item for item in remaining if not item.is_video], failures, bar)
            self._predict_videos([item for item in remaining if item.is_video], failures, bar)
        return len(inputs) - len(remaining), failures

    def _predict_pictures(self, pictures: Sequence[Input], failures: list[str], bar: tqdm) -> None:
        items = _Pictures(pictures, self.checkpoint)
        loader = DataLoader(items, batch_size=None, num_workers=self.protocol.dataloader_num_workers)
        with WriteQueue(threads=4, waiting=8) as queue:
            for picture, item in zip(pictures, loader):
                try:
                    if "error" in item:
                        raise InputError(item["error"])
                    prediction = self._predict(item)
                except _StopError:
                    raise
                except InputError as error:
                    failures.append(str(error))
                else:
                    self.folder.start()
                    queue.submit(self.folder.write, picture, item["picture"].numpy(), *prediction)
                bar.update()

    def _predict_videos(self, videos: Sequence[Input], failures: list[str], bar: tqdm) -> None:
        for video in videos:
            try:
                with contextlib.ExitStack() as stack:
                    write = None
                    for frame in video_frames(video.path):
                        pixel_values = self.checkpoint.pixel_values(frame)
                        prediction, _ = self._predict({"id": video.path, "pixel_values": pixel_values})
                        if write is None:
                            self.folder.start()
                            write = stack.enter_context(self.folder.write_video(video, frame.shape[1::-1]))
                        write(frame, prediction)
                        bar.update()
            except _StopError:
                raise
            except InputError as error:
                failures.append(str(error))

    def _predict(self, item: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray | None]:
        """The train ids of a picture and, if they are written, its probabilities."""
        try:
            probs = predict_image(self.model, item, self.protocol, self.accelerator)[0]
        except InputError as error:
            tile = self.protocol.eval_tile
            # A tile that the model cannot take is so in every picture; one picture that is too small stops nothing.
            tile_is_wrong = tile is not None and all(map(operator.ge, item["pixel_values"].shape[-2:], tile))
            compiler = type(error.__cause__).__module__.startswith(("torch._dynamo", "torch._inductor"))
            if tile_is_wrong or compiler or isinstance(error.__cause__, torch.OutOfMemoryError):
                raise _StopError(f"compile: {error}" if compiler else str(error)) from error
            raise
        # 255 stands for ignored pixels in 8 bits.
        dtype = np.uint8 if len(probs) <= 255 else np.uint16
        train_ids = probs.argmax(dim=0).cpu().numpy().astype(dtype)
        return train_ids, probs.half().cpu().numpy() if self.probabilities else None


class _StopError(InputError):
    """What concerns all pictures, not the one at hand."""


class _Pictures(Dataset):
    """Pictures and what the model gets of them; of one that cannot be read, the error's line."""

    def __init__(self, pictures: Sequence[Input], checkpoint: Checkpoint):
        self.pictures = pictures
        self.checkpoint = checkpoint

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> dict[str, Any]:
        path = self.pictures[index].path
        try:
            picture = np.array(read_image(path))
        except InputError as error:
            return {"error": str(error)}
        pixel_values = self.checkpoint.pixel_values(picture)
        return {"id": path, "picture": torch.from_numpy(picture), "pixel_values": pixel_values}


def _num_frames(item: Input) -> int:
    if not item.is_video:
        return 1
    try:
        capture, info = open_video(item.path)
    except InputError:
        return 0  # it is read, and listed, in its turn
    capture.release()
    return info.num_frames

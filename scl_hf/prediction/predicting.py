"""What `scripts/predict.py` is told besides inputs and protocol, and the loop from inputs to files."""

import dataclasses
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from ..checkpoints import Checkpoint
from ..data.pictures import read_image
from ..errors import InputError
from ..evaluation.protocol import EvaluationArguments, is_out_of_memory, predict_image
from ..output import check_writable
from .inputs import Input, Video
from .writers import KINDS, PredictionFolder, WriteQueue

# They change how fast predictions are made, not what they are.
_SPEED = ("max_tiles_per_batch", "dataloader_num_workers")
# Images a second, also where one takes longer.
_BAR = "{percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_noinv_fmt}]"


@dataclass
class PredictionArguments:
    """
    What is written, where, and how the model is run.

    Args:
        output (`str`):
            Folder of the predictions, with a folder for each of the names in `write`.
        write (`list[str]`, *optional*):
            What is written of each picture: `"color"` and `"overlay"` (the default), PNGs of the class ids
            `"train_ids"` (8 bits; 16 beyond 255 classes) and `"label_ids"` (Cityscapes' own ids), and
            `"probabilities"`, a NumPy file of float16 (classes, height, width). Of a video: colours and overlays.
        submission (`str`, *optional*):
            A zip for the Cityscapes server, with the label ids of its 1,525 test images. `write` is then
            `["label_ids"]` by default.
        dtype (`str`, *optional*, defaults to `"float32"`):
            `"bfloat16"` or `"float16"` for mixed precision; probabilities are averaged in float32 all the same.
        compile (`bool`, *optional*, defaults to `False`):
            Whether the model goes through `torch.compile`, which is done anew for other sizes.
        overwrite (`bool`, *optional*, defaults to `False`):
            Whether the predictions in `output` are removed first. Without it a run that was stopped goes on.
        trust_remote_code (`bool`, *optional*, defaults to `False`):
            Whether the checkpoint may run its own code.
    """

    output: str = field(metadata={"help": "folder of the predictions"})
    write: list[str] | None = field(
        default=None, metadata={"help": f"any of {' '.join(KINDS)}; color and overlay without it"}
    )
    submission: str | None = field(default=None, metadata={"help": "zip of label ids for the Cityscapes server"})
    dtype: str = field(default="float32", metadata={"help": "float32, or bfloat16 or float16 for mixed precision"})
    compile: bool = field(default=False, metadata={"help": "torch.compile; pays off for many pictures of one size"})
    overwrite: bool = field(default=False, metadata={"help": "remove the predictions in the output folder first"})
    trust_remote_code: bool = field(default=False, metadata={"help": "let the checkpoint run its own code"})

    def __post_init__(self):
        if self.write is None:
            self.write = ["label_ids"] if self.submission else ["color", "overlay"]
        unknown = next((kind for kind in self.write if kind not in KINDS), None)
        if unknown is not None:
            raise InputError(f"write: there is no '{unknown}'; take any of {', '.join(KINDS)}.")
        self.write = [kind for kind in KINDS if kind in self.write or kind == "label_ids" and self.submission]
        if not self.output:
            raise InputError("output: is empty. Name a folder.")
        check_writable("output", Path(self.output))
        if self.submission is not None:
            path = Path(self.submission)
            if path.is_dir():
                raise InputError(f"submission {path}: is a folder. Name a file.")
            if path.exists() and not self.overwrite:
                raise InputError(f"submission {path}: is there already. Name another file, or remove it.")
            check_writable("submission", path.parent)


class Predictor:
    """
    Predicts pictures and videos into a folder.

    Args:
        checkpoint ([`Checkpoint`]): The model; it is moved to the device.
        args ([`PredictionArguments`]): What is written, and where.
        protocol ([`~scl_hf.evaluation.protocol.EvaluationArguments`]): Scales, flip and tiles.
        accelerator (`accelerate.Accelerator`): Device and mixed precision.

    Raises:
        [`InputError`]: As [`PredictionFolder`].
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        args: PredictionArguments,
        protocol: EvaluationArguments,
        accelerator: Accelerator,
    ):
        self.checkpoint = checkpoint
        self.protocol = protocol
        self.accelerator = accelerator
        self.probabilities = "probabilities" in args.write
        fields = [field.name for field in dataclasses.fields(EvaluationArguments) if field.name not in _SPEED]
        settings = {"checkpoint": checkpoint.digest(), "dtype": args.dtype} | checkpoint.pixels._asdict()
        settings |= {name: getattr(protocol, name) for name in fields}
        self.folder = PredictionFolder(args.output, args.write, checkpoint, settings, args.overwrite)
        self.model = checkpoint.model.to(accelerator.device)
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
        for item in videos:
            try:
                video = Video(item.path)
                frames = (self._predict_frame(item, frame, bar) for frame in video.frames())
                frame, prediction = next(frames)
                self.folder.start()
                with self.folder.write_video(item, video.fps, frame.shape[1::-1]) as write:
                    write(frame, prediction)
                    for frame, prediction in frames:
                        write(frame, prediction)
            except _StopError:
                raise
            except InputError as error:
                failures.append(str(error))

    def _predict_frame(self, item: Input, frame: np.ndarray, bar: tqdm) -> tuple[np.ndarray, np.ndarray]:
        prediction, _ = self._predict({"id": item.path, "pixel_values": self.checkpoint.pixel_values(frame)})
        bar.update()
        return frame, prediction

    def _predict(self, item: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray | None]:
        """The train ids of a picture and, if they are written, its probabilities."""
        try:
            probs = predict_image(self.model, item, self.protocol, self.accelerator)[0]
        except InputError as error:
            # A tile that the model cannot take is so in every picture; one picture that is too small stops nothing.
            cause, tile = error.__cause__, self.protocol.eval_tile
            tile_is_wrong = tile is not None and all(map(operator.ge, item["pixel_values"].shape[-2:], tile))
            compiler = type(cause).__module__.startswith(("torch._dynamo", "torch._inductor"))
            if tile_is_wrong or compiler or is_out_of_memory(cause):
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
            picture = read_image(path)
        except InputError as error:
            return {"error": str(error)}
        pixel_values = self.checkpoint.pixel_values(picture)
        return {"id": path, "picture": torch.from_numpy(picture), "pixel_values": pixel_values}


def _num_frames(item: Input) -> int:
    try:
        return Video(item.path).num_frames if item.is_video else 1
    except InputError:
        return 0  # it is read, and listed, in its turn

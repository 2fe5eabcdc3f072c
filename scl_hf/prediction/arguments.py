"""What `scripts/predict.py` is told besides the checkpoint, the inputs and the protocol."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import InputError

WRITE = ("color", "overlay", "train_ids", "label_ids", "probabilities")
MIXED_PRECISION = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}  # in the words of `accelerate`


@dataclass
class PredictionArguments:
    """
    What is written, where, and how the model is run.

    Args:
        output (`str`):
            Folder of the predictions, with a folder for each of the names in `write`.
        write (`list[str]`, *optional*):
            What is written of each picture: `"color"` and `"overlay"` (the default), PNGs of the class ids
            `"train_ids"` (8 bits; 16 beyond 256 classes) and `"label_ids"` (Cityscapes' own ids), and
            `"probabilities"`, a NumPy file of float16 (classes, height, width). Of a video: colours and overlays.
        submission (`str`, *optional*):
            A zip for the Cityscapes server, with the label ids of its 1,525 test images. `write` is then
            `["label_ids"]` by default.
        dtype (`str`, *optional*, defaults to `"float32"`):
            `"bfloat16"` or `"float16"` for mixed precision; probabilities are averaged in float32 all the same.
        compile (`bool`, *optional*, defaults to `False`):
            Whether the model goes through `torch.compile`.
        overwrite (`bool`, *optional*, defaults to `False`):
            Whether the predictions in `output` are removed first. Without it a run that was stopped goes on.
        trust_remote_code (`bool`, *optional*, defaults to `False`):
            Whether the checkpoint may run its own code.
    """

    output: str = field(metadata={"help": "folder of the predictions"})
    write: list[str] | None = field(
        default=None, metadata={"help": f"any of {' '.join(WRITE)}; color and overlay without it"}
    )
    submission: str | None = field(default=None, metadata={"help": "zip of label ids for the Cityscapes server"})
    dtype: str = field(default="float32", metadata={"help": "float32, or bfloat16 or float16 for mixed precision"})
    compile: bool = field(default=False, metadata={"help": "run the model through torch.compile"})
    overwrite: bool = field(default=False, metadata={"help": "remove the predictions in the output folder first"})
    trust_remote_code: bool = field(default=False, metadata={"help": "let the checkpoint run its own code"})

    def __post_init__(self):
        if self.write is None:
            self.write = ["label_ids"] if self.submission else ["color", "overlay"]
        unknown = next((kind for kind in self.write if kind not in WRITE), None)
        if unknown is not None:
            raise InputError(f"write: there is no '{unknown}'; take any of {', '.join(WRITE)}.")
        self.write = [kind for kind in WRITE if kind in self.write or kind == "label_ids" and self.submission]
        if self.dtype not in MIXED_PRECISION:
            raise InputError(f"dtype: must be {', '.join(MIXED_PRECISION)}, got {self.dtype!r}.")
        _check_writable("output", Path(self.output))
        if Path(self.output).exists() and not Path(self.output).is_dir():
            raise InputError(f"output {self.output}: is a file. Name a folder.")
        if self.submission is not None:
            _check_writable("submission", Path(self.submission))
            if Path(self.submission).exists() and not self.overwrite:
                raise InputError(f"submission {self.submission}: is there already. Name another file, or remove it.")


def _check_writable(name: str, path: Path) -> None:
    existing = next(parent for parent in (path.absolute(), *path.absolute().parents) if parent.exists())
    if existing != path.absolute() and not existing.is_dir():
        raise InputError(f"{name} {path}: {existing} is a file. Name another folder.")
    if not os.access(existing, os.W_OK):
        raise InputError(f"{name} {path}: {existing} cannot be written to. Name another folder.")

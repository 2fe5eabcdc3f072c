"""What `scripts/evaluate.py` is told, and the checkpoints that it scores."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from accelerate import Accelerator
from accelerate.logging import get_logger
from accelerate.utils import gather_object
from PIL import Image
from tqdm.auto import tqdm
from transformers.utils import CONFIG_NAME
from transformers.utils.hub import has_file

from .data.batches import EvaluationImages
from .data.labels import Classes
from .errors import InputError
from .evaluation import EvaluationArguments, score
from .prediction import Checkpoint, load_checkpoint
from .prediction.arguments import MIXED_PRECISION
from .prediction.writers import LABEL_IDS, WriteQueue, replacing

logger = get_logger(__name__)

# The model that a training checkpoint does not publish lies in a folder of this name, the other one at the root.
FOLDERS = {"ema": "teacher", "student": "student"}
NAMES = {"ema": "EMA", "student": "student"}


@dataclass
class ScoringArguments:
    """
    What is scored besides the protocol and the data, and where that is written.

    Args:
        output_dir (`str`, *optional*): Folder of scores and pictures; `runs/evaluation/<checkpoints>` by default.
        ema (`bool`, *optional*, defaults to `False`):
            Whether to take the EMA model of training checkpoints, which hold the student, too. By default the one that
            the run publishes.
        student (`bool`, *optional*, defaults to `False`): Whether to take the student.
        official (`bool`, *optional*, defaults to `False`):
            Whether to write label ids as PNGs, too, and to check the scores with Cityscapes' own scorer.
        panel_images (`int`, *optional*, defaults to 3): Images in the panel.
        dtype (`str`, *optional*, defaults to `"float32"`):
            `"bfloat16"` or `"float16"` for mixed precision, in which case logits are averaged in float32 all the same.
            The precision that a recipe trains in does not matter.
        trust_remote_code (`bool`, *optional*, defaults to `False`): Whether checkpoints may run their own code.
    """

    output_dir: str | None = field(
        default=None, metadata={"help": "folder of scores and pictures; default: runs/evaluation/<checkpoints>"}
    )
    ema: bool = field(default=False, metadata={"help": "of training checkpoints, take the EMA model"})
    student: bool = field(default=False, metadata={"help": "of training checkpoints, take the student"})
    official: bool = field(default=False, metadata={"help": "check the scores with Cityscapes' own scorer"})
    panel_images: int = field(default=3, metadata={"help": "images in the panel"})
    dtype: str = field(default="float32", metadata={"help": "float32, or bfloat16 or float16 for mixed precision"})
    trust_remote_code: bool = field(default=False, metadata={"help": "let checkpoints run their own code"})

    def __post_init__(self):
        if self.ema and self.student:
            raise InputError("ema, student: give one of them, or none for the model that each run publishes.")
        if self.panel_images < 0:
            raise InputError(f"panel_images: must be 0 or more, got {self.panel_images}.")
        if self.dtype not in MIXED_PRECISION:
            raise InputError(f"dtype: must be {', '.join(MIXED_PRECISION)}, got {self.dtype!r}.")

    @property
    def weights(self) -> str | None:
        """`"ema"` or `"student"`, where one of them is asked for."""
        return "ema" if self.ema else "student" if self.student else None


def make_accelerator(dtype: str) -> Accelerator:
    """The process, its device and mixed precision; [`InputError`] where the device does not have it."""
    try:
        # Without a GPU, several processes find each other only if they are told that they run on the CPU.
        return Accelerator(cpu=not torch.accelerator.is_available(), mixed_precision=MIXED_PRECISION[dtype])
    except ValueError as error:
        raise InputError(f"dtype: {dtype} does not run here ({str(error).splitlines()[0]})") from error


def short_names(checkpoints: Sequence[str], weights: str | None = None) -> list[str]:
    """
    What tables and captions call checkpoints: the last part of each path, of `demo/checkpoint-500` the last two.

    Args:
        checkpoints (`Sequence[str]`): Paths and Hub ids.
        weights (`str`, *optional*): `"ema"` or `"student"`, where one was chosen.

    Returns:
        `list[str]`: A name for each, all different.

    Raises:
        [`InputError`]: A checkpoint is given twice.
    """
    paths = [Path(checkpoint).resolve() for checkpoint in checkpoints]
    twice = next((str(given) for given, path in zip(checkpoints, paths) if paths.count(path) > 1), None)
    if twice is not None:
        raise InputError(f"checkpoint {twice}: is given twice; name each checkpoint once.")
    names = ["/".join(path.parts[-2 if path.name.startswith("checkpoint-") else -1 :]) for path in paths]
    if len({folder_name(name) for name in names}) < len(names):
        names = list(checkpoints)
    return [f"{name} ({NAMES[weights]})" if weights else name for name in names]


def folder_name(name: str) -> str:
    """A checkpoint's name as that of a folder."""
    return re.sub(r"[^\w.+-]+", "-", name).strip("-.")


def load_candidate(name: str, args: ScoringArguments, id2label: Mapping[int, str]) -> Checkpoint:
    """
    Loads a checkpoint that is to be scored on data with these classes. Class names that are not the data's are warned
    of: there may be two words for one thing.

    Args:
        name (`str`): Path or Hub id.
        args ([`ScoringArguments`]): Which weights of it.
        id2label (`Mapping[int, str]`): The classes of the data.

    Returns:
        [`~scl_hf.prediction.Checkpoint`]: The model on the CPU.

    Raises:
        [`InputError`]: It cannot be loaded, does not hold the weights, or has other classes.
    """
    checkpoint = load_checkpoint(name, args.trust_remote_code, _subfolder(name, args.weights))
    theirs, ours = ({i: _plain(label) for i, label in names.items()} for names in (checkpoint.id2label, id2label))
    if len(theirs) != len(ours):
        raise InputError(
            f"checkpoint {name}: has {len(theirs)} classes ({_listed(checkpoint.id2label.values())}), the data "
            f"{len(ours)} ({_listed(id2label.values())}). Evaluate it on data with its classes, or train it on these."
        )
    different = [i for i in ours if theirs[i] != ours[i]]
    if different and set(theirs.values()) == set(ours.values()):
        raise InputError(
            f"checkpoint {name}: has the classes of the data in another order, class {different[0]} is "
            f"{checkpoint.id2label[different[0]]!r} and not {id2label[different[0]]!r}. Order id2label and label_map "
            "of the data as id2label in the checkpoint's config.json."
        )
    if different:
        pairs = [f"{checkpoint.id2label[i]!r} for {id2label[i]!r}" for i in different]
        logger.warning(
            "%s names %d of %d classes otherwise than the data: %s", name, len(pairs), len(ours), _listed(pairs)
        )
    return checkpoint


def _subfolder(name: str, weights: str | None) -> str:
    if weights is None:
        return ""
    try:
        held = {folder: has_file(name, f"{folder}/{CONFIG_NAME}") for folder in FOLDERS.values()}
        is_checkpoint = any(held.values()) or has_file(name, CONFIG_NAME)
    except (OSError, ValueError):
        is_checkpoint = False
    if not is_checkpoint:
        return ""  # what is wrong with it shows when it is loaded
    if held[FOLDERS[weights]]:
        return FOLDERS[weights]
    if not any(held.values()):
        raise InputError(
            f"{weights}: {name} holds one model only, the one that the run publishes; leave --{weights} out, or name "
            "a checkpoint-* folder of the run."
        )
    return ""


def _plain(label: str) -> str:
    return re.sub(r"[\W_]+", " ", label).strip().lower()


def _listed(items: Iterable[str]) -> str:
    items = list(items)
    return ", ".join(items[:3]) + (", …" if len(items) > 3 else "")


def score_checkpoint(
    checkpoint: Checkpoint,
    rows: datasets.Dataset,
    classes: Classes,
    protocol: EvaluationArguments,
    accelerator: Accelerator,
    shown: Sequence[int] = (),
    label_ids: Path | None = None,
) -> tuple[dict[str, Any], dict[int, np.ndarray]]:
    """
    Scores a checkpoint, with a progress bar.

    Args:
        checkpoint ([`~scl_hf.prediction.Checkpoint`]): The model; it is on the CPU before and after.
        rows (`datasets.Dataset`): The images and their labels.
        classes ([`~scl_hf.data.labels.Classes`]): What the labels mean.
        protocol ([`~scl_hf.evaluation.EvaluationArguments`]): Scales, flip and tiles.
        accelerator (`accelerate.Accelerator`): Of this process.
        shown (`Sequence[int]`, *optional*): Rows whose predictions are returned.
        label_ids (`pathlib.Path`, *optional*): A folder to which predictions are written, as Cityscapes' label ids.

    Returns:
        `tuple`: The results of [`~scl_hf.evaluation.score`], and row -> train ids (H, W) of those in `shown`. They are
        the same in each process.

    Raises:
        [`InputError`]: An image or label cannot be read or predicted.
    """
    normalization = {name: getattr(checkpoint, name) for name in ("image_mean", "image_std", "blue_first")}
    images = EvaluationImages(rows, classes.label_table, **normalization)
    predictions = {}
    model = checkpoint.model.to(accelerator.device)
    bar = tqdm(total=len(rows), unit=" images", leave=False, disable=not accelerator.is_main_process)
    with bar, WriteQueue(threads=2, waiting=8) as queue:

        def keep(row: int, item: Mapping[str, Any], probs: torch.Tensor) -> None:
            if row in shown or label_ids is not None:
                train_ids = probs[0].argmax(dim=0).to(torch.uint8).cpu().numpy()
                if row in shown:
                    predictions[row] = train_ids
                if label_ids is not None:
                    queue.submit(_write_label_ids, label_ids_file(label_ids, item["id"]), train_ids)
            bar.update(min(accelerator.num_processes, bar.total - bar.n))  # the other processes are as far

        results = score(model, images, protocol, accelerator, keep)
    checkpoint.model.to("cpu")
    # Also the point at which all have written their label ids
    predictions = {row: kept for part in gather_object([predictions]) for row, kept in part.items()}
    return results, dict(sorted(predictions.items()))


def label_ids_file(folder: Path, image_id: str) -> Path:
    """Where the label ids of an image are, under a name that the Cityscapes server takes."""
    return folder / f"{image_id}_pred_labelIds.png"


def _write_label_ids(path: Path, train_ids: np.ndarray) -> None:
    with replacing(path) as partial:
        Image.fromarray(LABEL_IDS[train_ids]).save(partial)

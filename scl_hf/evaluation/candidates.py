"""What `scripts/evaluate.py` is told, and the checkpoints that it scores."""

import contextlib
import json
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
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

from ..checkpoints import Checkpoint, load_checkpoint
from ..data import DataArguments
from ..data.cityscapes import LABEL_IDS
from ..data.crops import EvaluationImages
from ..errors import InputError
from ..output import replacing
from ..prediction.writers import WriteQueue
from .protocol import EvaluationArguments, score

logger = get_logger(__name__)

# The model that a training checkpoint does not publish lies in a folder of this name, the other one at the root.
FOLDERS = {"ema": "teacher", "student": "student"}
NAMES = {"ema": "EMA", "student": "student"}


@dataclass
class ScoringArguments:
    """
    What is scored besides the protocol and the data, and where that is written.

    Args:
        output_dir (`str`, *optional*):
            Folder of scores and pictures; `runs/evaluation/<checkpoints>-<split>` by default.
        overwrite (`bool`, *optional*, defaults to `False`):
            Whether scores of other checkpoints, data or settings in `output_dir` may be replaced.
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
        default=None,
        metadata={"help": "folder of scores and pictures; default: runs/evaluation/<checkpoints>-<split>"},
    )
    overwrite: bool = field(default=False, metadata={"help": "replace scores of other settings in output_dir"})
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

    @property
    def weights(self) -> str | None:
        """`"ema"` or `"student"`, where one of them is asked for."""
        return "ema" if self.ema else "student" if self.student else None


def short_names(checkpoints: Sequence[str], weights: str | None = None) -> list[str]:
    """
    What tables and captions call checkpoints: the last part of each path, of `demo/checkpoint-500` the last two.

    Args:
        checkpoints (`Sequence[str]`): Paths and Hub ids.
        weights (`str`, *optional*): `"ema"` or `"student"`, where one was chosen.

    Returns:
        `list[str]`: A name for each, all different.

    Raises:
        [`InputError`]: One is given twice.
    """
    paths = [Path(checkpoint).resolve() for checkpoint in checkpoints]
    twice = next((str(given) for given, path in zip(checkpoints, paths) if paths.count(path) > 1), None)
    if twice is not None:
        raise InputError(f"{twice}: is given twice; name it once.")
    names = ["/".join(path.parts[-2 if path.name.startswith("checkpoint-") else -1 :]) for path in paths]
    if len(set(names)) < len(names):
        names = list(checkpoints)
    return [f"{name} ({NAMES[weights]})" if weights else name for name in names]


def folder_names(names: Sequence[str]) -> list[str]:
    """Names of checkpoints as those of folders, all different: those of `run` and `../run` are numbered."""
    folders = [re.sub(r"[^\w.+-]+", "-", name).strip("-.") for name in names]
    if len({folder.lower() for folder in folders}) < len(folders):
        folders = [f"{number}-{folder}" for number, folder in enumerate(folders, start=1)]
    return folders


def score_settings(
    checkpoints: Sequence[str], data: DataArguments, protocol: EvaluationArguments, args: ScoringArguments
) -> dict[str, Any]:
    """All that scores depend on, as plain values."""
    settings = {"checkpoints": list(checkpoints), "weights": args.weights}
    settings |= {name: getattr(data, name) for name in ("dataset", "data_dir", "eval_split")}
    settings |= {name: value for name, value in asdict(protocol).items() if name.startswith("eval_")}
    return settings | {"dtype": args.dtype}


def check_earlier_scores(file: Path, settings: Mapping[str, Any]) -> None:
    """
    Args:
        file (`pathlib.Path`): The JSON of scores, which need not be there yet.
        settings (`Mapping[str, Any]`): Those of the scores to be written there, of [`score_settings`].

    Raises:
        [`InputError`]: It holds scores of other settings.
    """
    if not file.is_file():
        return
    remedy = "Name another --output_dir, or add --overwrite true to replace it."
    try:
        earlier = dict(json.loads(file.read_text(encoding="utf-8"))["settings"])
    except (ValueError, KeyError, TypeError):
        raise InputError(f"output_dir: {file} does not say what it scores. {remedy}") from None
    for name, value in settings.items():
        if earlier.get(name) != value:
            raise InputError(
                f"output_dir: {file} is for {name} {earlier.get(name)}, this would be for {value}. {remedy}"
            )


@contextlib.contextmanager
def temporary_folder(path: Path, accelerator: Accelerator) -> Iterator[Path]:
    """A folder that all processes write to. Nothing of it remains, be it of a run that was killed before."""

    def remove() -> None:
        if accelerator.is_main_process:
            shutil.rmtree(path, ignore_errors=True)

    remove()
    accelerator.wait_for_everyone()
    try:
        yield path
    finally:
        remove()


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
        protocol ([`~scl_hf.evaluation.protocol.EvaluationArguments`]): Scales, flip and tiles.
        accelerator (`accelerate.Accelerator`): Of this process.
        shown (`Sequence[int]`, *optional*): Rows whose predictions are returned.
        label_ids (`pathlib.Path`, *optional*): A folder to which predictions are written, as Cityscapes' label ids.

    Returns:
        `tuple`: The results of [`score`], and row -> train ids (H, W) of those in `shown`. They are
        the same in each process.

    Raises:
        [`InputError`]: An image or label cannot be read or predicted.
    """
    images = EvaluationImages(rows, rows.features["label"].table, **checkpoint.normalization)
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

"""Opens the checkpoints of `scripts/eval.py`, scores them, and compares with the settings of earlier scores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
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

from ..data import DataArguments
from ..data.crops import EvaluationImages
from ..data.sources.cityscapes import LABEL_IDS
from ..errors import InputError, check_field, first_few
from ..files import replacing
from ..heads import plain
from ..pretrained import Checkpoint, load_checkpoint
from .official import label_ids_file
from .scoring import EvaluationArguments, evaluation_settings, score

logger = get_logger(__name__)

# A training checkpoint holds the model that the run publishes at its root, and the other one in one of these folders.
FOLDERS = {"ema": "teacher", "student": "student"}
# The fields of `DataArguments` that choose what is trained on: scores do not depend on them.
TRAINING_DATA = {
    "train_splits", "unlabeled_splits", "unlabeled_dirs", "labeled_fraction", "labeled_seed", "labeled_split",
    "labeled_ids", "unlabeled_includes_labeled", "num_unlabeled", "use_coarse_labels", "allow_shared_images",
}  # fmt: skip


@dataclass
class ScoringArguments:
    """
    Which weights of a checkpoint are scored, in which precision, and where the scores are written.

    Args:
        output (`str`, *optional*): Folder of the scores; by default `runs/evaluation/<checkpoints>-<split>`.
        overwrite (`bool`, *optional*, defaults to `False`): Whether scores of other checkpoints, data or settings in
            `output` may be replaced.
        ema (`bool`, *optional*, defaults to `False`): Whether to take the EMA model of training checkpoints; by
            default the model that the run publishes.
        student (`bool`, *optional*, defaults to `False`): Whether to take the student of training checkpoints.
        official (`bool`, *optional*, defaults to `False`): Whether to check the scores with Cityscapes' own scorer.
            The PNGs of label ids that it reads are kept.
        panel_images (`int`, *optional*, defaults to 3): Number of sample predictions in `panel.png`.
        dtype (`str`, *optional*, defaults to `"float32"`): `"float32"`, or `"bfloat16"` or `"float16"` for mixed
            precision, whatever the recipe trains in.
        trust_remote_code (`bool`, *optional*, defaults to `False`): Whether checkpoints may run their own code.
    """

    output: str | None = None
    overwrite: bool = False
    ema: bool = False
    student: bool = False
    official: bool = False
    panel_images: int = 3
    dtype: str = "float32"
    trust_remote_code: bool = False

    def __post_init__(self):
        if self.ema and self.student:
            raise InputError("ema, student: give one of them, or none for the model that each run publishes.")
        check_field(self, "panel_images", self.panel_images >= 0, "0 or more")

    @property
    def weights(self) -> str | None:
        """`"ema"` or `"student"` if one of them is asked for."""
        return "ema" if self.ema else "student" if self.student else None


def score_settings(
    checkpoints: Sequence[str], data: DataArguments, evaluation: EvaluationArguments, args: ScoringArguments
) -> dict[str, Any]:
    """Returns all settings that scores depend on, as plain values."""
    settings = {"checkpoints": list(checkpoints), "weights": args.weights}
    settings |= {field.name: getattr(data, field.name) for field in fields(data) if field.name not in TRAINING_DATA}
    return settings | evaluation_settings(evaluation, args.dtype)


def load_for_data(name: str, args: ScoringArguments, id2label: Mapping[int, str]) -> Checkpoint:
    """Loads a checkpoint, and compares its classes with those of the data."""
    checkpoint = load_checkpoint(name, args.trust_remote_code, _subfolder(name, args.weights))
    named = checkpoint.id2label
    if len(named) != len(id2label):
        raise InputError(
            f"checkpoint {name}: has {len(named)} classes ({first_few(named.values())}), the data {len(id2label)} "
            f"({first_few(id2label.values())}). Evaluate it on data with its classes, or train it on these."
        )
    theirs, ours = ([plain(names[i]) for i in range(len(names))] for names in (named, id2label))
    different = [i for i in id2label if theirs[i] != ours[i]]
    if different and set(theirs) == set(ours):
        first = different[0]
        raise InputError(
            f"checkpoint {name}: has the classes of the data in another order, class {first} is {named[first]!r} and "
            f"not {id2label[first]!r}. Order id2label and label_map of the data as in the checkpoint's config.json."
        )
    if different:  # no error: two words may mean one thing
        pairs = first_few(f"{named[i]!r} for {id2label[i]!r}" for i in different)
        logger.warning(f"{name} names {len(different)} of {len(ours)} classes differently from the data: {pairs}")
    return checkpoint


def check_input(checkpoint: Checkpoint, image: datasets.Image) -> None:
    """Rejects data whose feature of images reads them in another way than those that a checkpoint was trained on."""
    if checkpoint.input not in (None, image):
        given = ", ".join(f"{name}: {value}" for name, value in checkpoint.input.given.items())
        raise InputError(f"checkpoint {checkpoint.name}: was trained with {given}; write that into the recipe.")


def _subfolder(name: str, weights: str | None) -> str:
    """Returns the subfolder of a checkpoint with these weights, "" for its root."""
    if weights is None:
        return ""
    try:
        held = [folder for folder in FOLDERS.values() if has_file(name, f"{folder}/{CONFIG_NAME}")]
        is_alone = not held and has_file(name, CONFIG_NAME)
    except (OSError, ValueError):
        return ""  # loading it says what is wrong
    if is_alone:
        raise InputError(
            f"{weights}: {name} holds one model only; leave --{weights} out, or name a checkpoint-* folder of the run."
        )
    return FOLDERS[weights] if FOLDERS[weights] in held else ""


def score_checkpoint(
    checkpoint: Checkpoint,
    dataset: datasets.Dataset,
    evaluation: EvaluationArguments,
    accelerator: Accelerator,
    shown: Sequence[int] = (),
    label_ids: Path | None = None,
) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Returns what [`score`] does, and predictions (H, W) of examples `shown`; writes all to a folder `label_ids`."""
    images, predictions = EvaluationImages(dataset, checkpoint.normalization), {}
    bar = tqdm(total=len(dataset), unit=" images", leave=False, disable=not accelerator.is_main_process)

    def keep(index: int, item: Mapping[str, Any], probs: torch.Tensor) -> None:
        train_ids = probs[0].argmax(dim=0).to(torch.uint8).cpu().numpy()
        if index in shown:
            predictions[index] = train_ids
        if label_ids is not None:
            with replacing(label_ids_file(label_ids, item["id"])) as partial:
                Image.fromarray(LABEL_IDS[train_ids]).save(partial, compress_level=1)
        bar.update(min(accelerator.num_processes, bar.total - bar.n))  # the other processes advance alike

    with bar:
        results = score(checkpoint.model.to(accelerator.device), images, evaluation, accelerator, keep)
    checkpoint.model.to("cpu")
    gathered = gather_object([predictions])  # after this all processes have written their label ids
    predictions = {index: kept for part in gathered for index, kept in part.items()}
    return results, [predictions[index] for index in sorted(predictions)]

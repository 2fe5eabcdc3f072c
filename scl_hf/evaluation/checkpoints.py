"""What `scripts/eval.py` is told, and the checkpoints that it scores."""

import json
import os
import re
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
from ..pretrained import Checkpoint, load_checkpoint
from .scoring import EvaluationArguments, changed_setting, protocol_settings, score

logger = get_logger(__name__)

# The model that a training checkpoint does not publish lies in a folder of this name, the other one at the root.
FOLDERS = {"ema": "teacher", "student": "student"}
NAMES = {"ema": "EMA", "student": "student"}
# The data fields that scores do not depend on, for they choose what is trained on.
TRAINING_DATA = {
    "train_splits",
    "unlabeled_splits",
    "unlabeled_dirs",
    "labeled_fraction",
    "labeled_seed",
    "labeled_split",
    "labeled_ids",
    "unlabeled_includes_labeled",
    "num_unlabeled",
    "use_coarse_labels",
    "allow_shared_images",
}


@dataclass
class ScoringArguments:
    """
    What is scored besides the protocol and the data, and where that is written.

    Args:
        output (`str`, *optional*):
            Folder of scores and pictures; by default `runs/evaluation/<checkpoints>-<split>`.
        overwrite (`bool`, *optional*, defaults to `False`):
            Whether scores of other checkpoints, data or settings in `output` may be replaced.
        ema (`bool`, *optional*, defaults to `False`):
            Whether to take the EMA model of training checkpoints, which hold the student, too. By default the one that
            the run publishes.
        student (`bool`, *optional*, defaults to `False`):
            Whether to take the student of training checkpoints.
        official (`bool`, *optional*, defaults to `False`):
            Whether to check the scores with Cityscapes' own scorer. The PNGs of label ids that it reads are kept.
        panel_images (`int`, *optional*, defaults to 3):
            Images in the panel.
        dtype (`str`, *optional*, defaults to `"float32"`):
            Precision: `"float32"`, or `"bfloat16"` or `"float16"` for mixed precision. Logits are averaged in float32
            all the same. The precision that a recipe trains in does not matter.
        trust_remote_code (`bool`, *optional*, defaults to `False`):
            Whether checkpoints may run their own code.
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
        """`"ema"` or `"student"`, where one of them is asked for."""
        return "ema" if self.ema else "student" if self.student else None


def short_names(checkpoints: Sequence[str], weights: str | None = None) -> list[str]:
    """What tables call checkpoints, all different: the end of each path, two parts long for `demo/checkpoint-500`."""
    paths = [Path(checkpoint).resolve() for checkpoint in checkpoints]
    twice = next((given for given, path in zip(checkpoints, paths) if paths.count(path) > 1), None)
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
    settings |= {field.name: getattr(data, field.name) for field in fields(data) if field.name not in TRAINING_DATA}
    return settings | protocol_settings(protocol, args.dtype)


def check_earlier_scores(file: Path, settings: Mapping[str, Any]) -> None:
    """Refuses to replace a JSON of scores, which need not be there, unless these are its settings."""
    if not os.path.isfile(file):
        return
    remedy = "Name another --output, or add --overwrite true to replace it."
    try:
        earlier = dict(json.loads(file.read_text(encoding="utf-8"))["settings"])
    except (ValueError, KeyError, TypeError):
        raise InputError(f"output: {file} does not say what it scores. {remedy}") from None
    if changed := changed_setting(earlier, settings):
        name, old, new = changed
        raise InputError(f"output: {file} is for {name} {old}, this would be for {new}. {remedy}")


def load_candidate(name: str, args: ScoringArguments, id2label: Mapping[int, str]) -> Checkpoint:
    """A checkpoint that is to be scored on data with these classes."""
    checkpoint = load_checkpoint(name, args.trust_remote_code, _subfolder(name, args.weights))
    theirs, ours = (
        {i: re.sub(r"[\W_]+", " ", label).strip().lower() for i, label in names.items()}
        for names in (checkpoint.id2label, id2label)
    )
    if len(theirs) != len(ours):
        raise InputError(
            f"checkpoint {name}: has {len(theirs)} classes ({first_few(checkpoint.id2label.values())}), the data "
            f"{len(ours)} ({first_few(id2label.values())}). Evaluate it on data with its classes, or train it on "
            "these."
        )
    different = [i for i in ours if theirs[i] != ours[i]]
    if different and set(theirs.values()) == set(ours.values()):
        raise InputError(
            f"checkpoint {name}: has the classes of the data in another order, class {different[0]} is "
            f"{checkpoint.id2label[different[0]]!r} and not {id2label[different[0]]!r}. Order id2label and label_map "
            "of the data as id2label in the checkpoint's config.json."
        )
    if different:  # no error: there may be two words for one thing
        pairs = first_few(f"{checkpoint.id2label[i]!r} for {id2label[i]!r}" for i in different)
        logger.warning(f"{name} names {len(different)} of {len(ours)} classes otherwise than the data: {pairs}")
    return checkpoint


def _subfolder(name: str, weights: str | None) -> str:
    """Where in a checkpoint the weights are that are asked for."""
    if weights is None:
        return ""
    try:
        held = [folder for folder in FOLDERS.values() if has_file(name, f"{folder}/{CONFIG_NAME}")]
        is_alone = not held and has_file(name, CONFIG_NAME)
    except (OSError, ValueError):
        return ""  # what is wrong with it shows when it is loaded
    if is_alone:
        raise InputError(
            f"{weights}: {name} holds one model only, the one that the run publishes; leave --{weights} out, or name "
            "a checkpoint-* folder of the run."
        )
    return FOLDERS[weights] if FOLDERS[weights] in held else ""


def score_checkpoint(
    checkpoint: Checkpoint,
    rows: datasets.Dataset,
    protocol: EvaluationArguments,
    accelerator: Accelerator,
    shown: Sequence[int] = (),
    label_ids: Path | None = None,
) -> tuple[dict[str, Any], list[np.ndarray]]:
    """
    The results of [`score`] and the predicted train ids (H, W) of the rows in `shown`, both the same in each process.
    To a folder `label_ids` all predictions are written, as Cityscapes' label ids.
    """
    images, predictions = EvaluationImages(rows, checkpoint.normalization), {}
    bar = tqdm(total=len(rows), unit=" images", leave=False, disable=not accelerator.is_main_process)

    def keep(row: int, item: Mapping[str, Any], probs: torch.Tensor) -> None:
        train_ids = probs[0].argmax(dim=0).to(torch.uint8).cpu().numpy()
        if row in shown:
            predictions[row] = train_ids
        if label_ids is not None:
            with replacing(label_ids_file(label_ids, item["id"])) as partial:
                Image.fromarray(LABEL_IDS[train_ids]).save(partial, compress_level=1)
        bar.update(min(accelerator.num_processes, bar.total - bar.n))  # the other processes are as far

    with bar:
        results = score(checkpoint.model.to(accelerator.device), images, protocol, accelerator, keep)
    checkpoint.model.to("cpu")
    # Also the point at which all have written their label ids
    predictions = {row: kept for part in gather_object([predictions]) for row, kept in part.items()}
    return results, [predictions[row] for row in sorted(predictions)]


def label_ids_file(folder: Path, image_id: str) -> Path:
    """Where the label ids of an image are, under a name that the Cityscapes server takes."""
    return folder / f"{image_id}_pred_labelIds.png"

"""The IoU of the Cityscapes categories, and the benchmark's official scorer as a check."""

import contextlib
import copy
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..data.sources.cityscapes import ID2LABEL, LABELS
from ..errors import InputError

# As the benchmark lists them; "void" is never scored.
CATEGORIES = ("flat", "nature", "object", "sky", "construction", "human", "vehicle")
# The columns of the paper's Table 1
TABLE_NAMES = (
    "road", "s.walk", "build.", "wall", "fence", "pole", "t-light", "t-sign", "veg", "terrain", "sky", "person",
    "rider", "car", "truck", "bus", "train", "motor", "bike",
)  # fmt: skip


def category_ious(confusion_matrix: np.ndarray) -> dict[str, float]:
    """Returns the IoU of each category, NaN without pixels, from counts (19, 19) by train id: row = label."""
    category = {label.train_id: label.category for label in LABELS}
    member = np.array([[category[i] == name for name in CATEGORIES] for i in ID2LABEL], dtype=np.int64)
    matrix = member.T @ np.asarray(confusion_matrix) @ member
    correct = matrix.diagonal()
    with np.errstate(invalid="ignore"):  # 0 / 0 is the NaN
        return dict(zip(CATEGORIES, (correct / (matrix.sum(0) + matrix.sum(1) - correct)).tolist()))


def label_ids_file(folder: Path, image_id: str) -> Path:
    """Returns the file of an image's label ids, under a name that the Cityscapes server takes."""
    return folder / f"{image_id}_pred_labelIds.png"


def import_official_scorer():
    """Returns `evalPixelLevelSemanticLabeling` of cityscapesScripts, an optional dependency."""
    try:
        from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling
    except ImportError as error:
        remedy = "run pip install 'scl_hf[cityscapes]'"
        raise InputError(f"official: the Cityscapes scorer is not installed ({error}); {remedy}") from error
    return evalPixelLevelSemanticLabeling


def official_scores(predictions: Sequence[Path], labels: Sequence[Path]) -> dict[str, float]:
    """Returns cityscapesScripts' mean IoU of classes and of categories, in 0 … 1, from PNGs of label ids."""
    scorer = import_official_scorer()
    args = copy.copy(scorer.args)
    # Its instance-weighted scores need the size of each object, and do not run with NumPy 2.
    args.evalInstLevelScore, args.JSONOutput, args.quiet = False, False, True
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            results = scorer.evaluateImgLists([*map(str, predictions)], [*map(str, labels)], args)
    except SystemExit as error:  # raised for a wrong file
        reason = (printed.getvalue().strip() or "without a reason").splitlines()[-1]
        raise InputError(f"official: the Cityscapes scorer stopped: {reason}") from error
    return {"mean_iou": results["averageScoreClasses"], "mean_category_iou": results["averageScoreCategories"]}

"""Pictures and videos in, files of predictions out."""

from ..checkpoints import Checkpoint, load_checkpoint
from .inputs import Input, Video, find_inputs
from .predicting import PredictionArguments, Predictor
from .submission import check_test_images, write_submission
from .writers import PredictionFolder, earlier_predictions

__all__ = [
    "Checkpoint",
    "Input",
    "PredictionArguments",
    "PredictionFolder",
    "Predictor",
    "Video",
    "check_test_images",
    "earlier_predictions",
    "find_inputs",
    "load_checkpoint",
    "write_submission",
]

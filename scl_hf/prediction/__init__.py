"""Pictures and videos in, files of predictions out."""

from .arguments import PredictionArguments
from .checkpoint import Checkpoint, load_checkpoint
from .inputs import Input, find_inputs, video_frames
from .predicting import Predictor
from .submission import check_test_images, write_submission
from .writers import PredictionFolder

__all__ = [
    "Checkpoint",
    "Input",
    "PredictionArguments",
    "PredictionFolder",
    "Predictor",
    "check_test_images",
    "find_inputs",
    "load_checkpoint",
    "video_frames",
    "write_submission",
]

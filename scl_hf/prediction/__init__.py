"""Pictures and videos in, files of predictions out."""

from .inputs import Input, Video, find_inputs
from .predicting import PredictionArguments, Predictor
from .submission import check_test_images, write_submission
from .writers import PredictionFolder, earlier_predictions

__all__ = [
    "Input",
    "PredictionArguments",
    "PredictionFolder",
    "Predictor",
    "Video",
    "check_test_images",
    "earlier_predictions",
    "find_inputs",
    "write_submission",
]

"""The arguments of scripts/predict.py; its loop is tested in tests/scripts."""

import pytest

from scl_hf.errors import InputError
from scl_hf.prediction.predicting import PredictionArguments


def test_bad_arguments(tmp_path):
    taken = tmp_path / "taken"
    taken.write_text("")
    for fields, message in (
        ({"output": ""}, "output: is empty"),
        ({"output": str(taken)}, "output .*taken: is a file"),
        ({"output": str(taken / "below")}, "taken is a file"),
        ({"output": str(tmp_path), "write": ["colors"]}, "write: there is no 'colors'; take any of color, overlay"),
        ({"output": str(tmp_path), "submission": str(taken)}, "submission .*taken: exists already"),
    ):
        with pytest.raises(InputError, match=message):
            PredictionArguments(**fields)

"""The names of runs and checkpoints in tables, legends and folders."""

import pytest

from scl_hf.errors import InputError
from scl_hf.visualization.names import folder_names, short_names


def test_names_for_tables_and_folders():
    assert short_names(["runs/demo", "org/model"]) == ["demo", "model"]
    assert short_names(["runs/demo/checkpoint-5/"], " (EMA)") == ["demo/checkpoint-5 (EMA)"]
    assert short_names(["a/x", "b/x"]) == ["a/x", "b/x"]
    assert folder_names(["demo/checkpoint-5 (EMA)", "demo"]) == ["demo-checkpoint-5-EMA", "demo"]
    assert folder_names(short_names(["run", "../run"])) == ["1-run", "2-run"]
    assert len(set(folder_names(short_names(["a/x", "a-x", "b/x", "x"])))) == 4
    with pytest.raises(InputError, match="a/x: is given twice"):
        short_names(["a/x", "a/../a/x"])

import runpy
import sys
from pathlib import Path

import datasets
import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def benchmark(monkeypatch, capsys, tmp_path):
    """Runs the script in this process, for importing torch anew takes seconds; returns what it prints."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["benchmark.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(SCRIPTS / "benchmark.py"), run_name="__main__")
        if ended.value.code:
            raise ended.value
        return capsys.readouterr().out

    monkeypatch.syspath_prepend(SCRIPTS)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    yield run
    datasets.enable_progress_bars()


def test_losses(benchmark):
    printed = benchmark("losses", "--size", 32, "--rounds", 1)
    assert printed.count("\n### ") == 4 and "| exact structured loss / sampled, 9000 pairs a box |" in printed


TINY = {
    "width": 128,
    "crop_size": 32,
    "images": 2,
    "crops": 2,
    "labels": 4,
    "plain_labels": 2,
    "rows": 60,
    "worker_crops": 10,
    "rounds": 1,
}


def test_data(benchmark):
    printed = benchmark("data", *(f"--{name}={value}" for name, value in TINY.items()))
    assert printed.count("\n### ") == 6 and "| opening 60 images, warm, s |" in printed
    assert "60 images with their fine and coarse annotations, 68 rows in all" in printed


def test_data_without_scipy(benchmark, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "scipy.ndimage", None)
    with pytest.raises(SystemExit) as ended:
        benchmark("data")
    assert ended.value.code == 2 and "error: SciPy is not installed; install it with pip" in capsys.readouterr().err


def test_inference(benchmark):
    printed = benchmark("inference", "--height", 64, "--images", 1, "--kept_images", 2, "--rounds", 1)
    assert printed.count("\n### ") == 5 and "| streamed metric: images/s / stored metric's |" in printed


def test_importing(benchmark, monkeypatch):
    from benchmarks import importing

    monkeypatch.setattr(importing, "CASES", ("import json", "import json, csv", "import json, argparse"))
    printed = benchmark("importing", "--rounds", 1)
    assert printed.count("\n### ") == 2 and "| `import json, csv` / `import json` |" in printed


def test_encoders(benchmark, monkeypatch):
    from benchmarks import encoders

    tiny = encoders.ResNetConfig(depths=[1, 1, 1, 1], hidden_sizes=[8, 8, 16, 16], embedding_size=8)
    monkeypatch.setattr(encoders, "ResNetConfig", lambda **fields: tiny)
    printed = benchmark("encoders", "--crop_size", 70, "--rounds", 1)
    assert printed.count("\n### ") == 2 and "| DINOv2-base, DPT | 70×70 |" in printed


def test_checkpoints(benchmark, monkeypatch, tmp_path):
    from benchmarks import checkpoints
    from conftest import TINY as SIZES

    monkeypatch.setattr(checkpoints, "SIZES", SIZES)
    monkeypatch.setattr(checkpoints, "CONVERT", tmp_path / "script.py")  # it would import torch three times
    checkpoints.CONVERT.write_text("")
    printed = benchmark("checkpoints", "--folder", tmp_path, "--rounds", 1)
    assert printed.count("\n### ") == 3 and "| from_pretrained, weights copied |" in printed
    assert list(tmp_path.iterdir()) == [checkpoints.CONVERT]

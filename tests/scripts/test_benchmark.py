import functools
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import datasets
import pytest
from forks import run_processes

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def benchmark(monkeypatch, capsys, tmp_path):
    """Runs the script in this process, as importing torch takes seconds; returns its output."""

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
    assert printed.count("\n### ") == 5 and "| exact structured loss / sampled, 9000 pairs a box |" in printed


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
    assert "Opening 60 images with their annotations" in printed


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
    monkeypatch.setattr(checkpoints, "CONVERT", tmp_path / "script.py")  # the real one would import torch three times
    checkpoints.CONVERT.write_text("")
    printed = benchmark("checkpoints", "--folder", tmp_path, "--rounds", 1)
    assert printed.count("\n### ") == 3 and "| from_pretrained, weights copied |" in printed
    assert list(tmp_path.iterdir()) == [checkpoints.CONVERT]


@pytest.fixture
def small_step(monkeypatch):
    """The models of `step`, a few channels wide."""
    from benchmarks.step import case, grid, growth, processes, start, variants
    from conftest import TINY as SIZES

    deeplab, narrow = case.deeplab, {"depths": [1] * 4, "hidden_sizes": [8, 8, 16, 16], "decoder_hidden_size": 16}
    for name, value in SIZES.items():
        monkeypatch.setitem(case.NARROW, name, value)
    monkeypatch.setattr(case, "deeplab", lambda **fields: deeplab(**(fields or SIZES)))
    monkeypatch.setattr(case, "SegformerConfig", functools.partial(case.SegformerConfig, **narrow))
    monkeypatch.setattr(grid, "STEPS", 1)
    monkeypatch.setattr(grid, "ENCODERS", {"tiny encoder": (lambda: case.deeplab(), 32, "adamw")})
    for name, values in {"BOXES": (4,), "BATCHES": (2,)}.items():
        monkeypatch.setattr(growth, name, values)
    monkeypatch.setattr(growth, "scaled_crops", lambda case: [(32, 32)])
    monkeypatch.setattr(processes, "NUMBERS", (2,))
    monkeypatch.setattr(processes, "subprocess", SimpleNamespace(run=as_forks))
    # Only the graphs of torch.compile: a compiler takes minutes, and is not everywhere.
    kept = {name: variants.VARIANTS[name] for name in ("default", "activation checkpointing", "optimizer fused")}
    eager = {"torch_compile": True, "torch_compile_backend": "eager"}
    monkeypatch.setattr(variants, "VARIANTS", kept | {"torch.compile": (eager, None)})
    monkeypatch.setattr(start, "TOY_IMAGES", {"num_train": 4, "num_train_extra": 4, "num_val": 1, "num_test": 1})


def as_forks(command, **kwargs):
    """In place of `torchrun`, whose processes import torch."""
    number, (module, *arguments) = (
        command[command.index("--nproc_per_node") + 1],
        command[command.index("--module") + 1 :],
    )
    return run_processes(int(number), module, *arguments)


SMALL_STEP = ("--crop_size", 32, "--steps", 1, "--rounds", 1)


def table_of(printed, title):
    """Returns the cells of a table's rows by the first cell."""
    lines = printed.split(f"### {title}")[1].split("\n\n")[1].splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0]: row[1:] for row in rows}


def test_step(benchmark, small_step):
    printed = benchmark("step", *SMALL_STEP)
    assert printed.count("\n### Parts of the step: ") == printed.count("\n### Where the host reads values") == 3
    for model in ("narrow DeepLabV3+", "SegFormer-B0", "DeepLabV3+, WideResNet-38"):
        parts = table_of(printed, f"Parts of the step: {model}")
        step = float(parts.pop("step")[0])
        assert sum(float(ms or 0) for row in parts.values() for ms in row[:2]) == pytest.approx(step, rel=0.02)
        for part in ("student", "L_x", "L_c", "L_sc"):
            assert float(parts[part][0]) > 0 and float(parts[part][1]) > 0
        for part in ("teacher", "CutMix", "EMA", "optimizer", "waiting for data"):
            assert float(parts[part][0]) > 0 and parts[part][1] == ""
    assert "losses.py" in printed and len(table_of(printed, "The step beside the plain one")) == 3
    assert "| narrow DeepLabV3+: plain step / step |" in printed


def test_step_everything(benchmark, small_step, monkeypatch, tmp_path):
    from benchmarks.step import start

    monkeypatch.setattr(start, "time_start", lambda *given: {"imports": 2.0, "first step": 1.0})
    file = tmp_path / "step.md"
    arguments = (*SMALL_STEP, "--models", "tiny", "--images", 2, 1, "--output", file)
    printed = benchmark("step", "--everything", *arguments)
    assert file.read_text() == printed and "not measured" not in printed
    for title in ("Parts of the step", "Variants", "Growth with the crop", "Processes"):
        assert f"\n### {title}" in printed
    assert "graph(s)" in table_of(printed, "Variants")["torch.compile"][-1]
    assert table_of(printed, "From the command")["in all"][0] == "3"
    assert list(table_of(printed, "Steps: tiny encoder, 32×32")) == ["1 + 1", "4 + 4"]

    # Again: what the file holds is not measured again, and what it lacks is begun only within the time
    file.write_text(printed.replace("(the start took", "(the start"))
    assert "\n### " not in benchmark("step", "--everything", "--minutes", 0, *arguments)
    again = benchmark("step", "--everything", *arguments)
    assert "From the command" in again and "Variants" not in again and file.read_text().endswith(again)


def test_step_skips_what_fails(benchmark, small_step, monkeypatch):
    from benchmarks import step

    def fail(*given):
        raise RuntimeError("no such device")

    for name in ("measure_grid", "measure_step", "measure_variants", "measure_growth", "measure_processes"):
        monkeypatch.setattr(step, name, fail)
    monkeypatch.setattr(step, "measure_start", lambda *given: print("the start was measured"))
    printed = benchmark("step", "--everything", "--models", "tiny")
    assert "variants: not measured (RuntimeError: no such device)" in printed and "the start was measured" in printed


def test_start_of_the_step(benchmark, small_step, tmp_path):
    from benchmarks.step.start import draw_tiny_tree, time_start

    draw_tiny_tree(tmp_path / "tree", 6, 2)
    seconds = time_start(tmp_path / "tree", tmp_path / "start", ["--crop_size", "32", "64", "--use_cpu", "true"], 1)
    names = ["Python", "imports", "data opened", "model built", "trainer built", "start of the training"]
    assert list(seconds) == [*names, "first batch", "first step"] and min(seconds.values()) >= 0

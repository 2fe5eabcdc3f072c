"""Who may know whom: the package's imports go one way, and importing it costs and changes nothing."""

import ast
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "scl_hf").rglob("*.py"))
}


def imports_of(module):
    """Modules of the package that a module imports: anywhere in it, in functions and for type checkers, too."""
    path, found = MODULES[module], set()
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parent = package.rsplit(".", node.level - 1)[0] if node.level else ""
            origin = ".".join(filter(None, (parent, node.module)))
            # `from .data import cityscapes` imports the module data.cityscapes, or a name of data/__init__.py.
            found |= {f"{origin}.{n.name}" if f"{origin}.{n.name}" in MODULES else origin for n in node.names}
    return {
        name
        for name in found
        if name.partition(".")[0] in ("scl_hf", "toy_dataset", "scripts", "benchmarks", "reproduction")
    }


def test_no_two_modules_know_each_other():
    graph = {module: imports_of(module) - {module} for module in MODULES}
    # The front door hands out what is behind it.
    assert graph.pop("scl_hf") == {"scl_hf.models", "scl_hf.config", "scl_hf.trainer"}
    assert set().union(*graph.values()) <= set(MODULES) - {"scl_hf"}  # nothing imports a script
    tuple(TopologicalSorter(graph).static_order())  # raises CycleError, which names the circle


@pytest.mark.parametrize("module", ["losses", "pairs", "cutmix", "teacher", "errors", "models.modeling_deeplabv3plus"])
def test_the_method_and_the_network_stand_alone(module):
    allowed = ("scl_hf.models.", "scl_hf.pairs", "scl_hf.processes")  # which know torch and errors alone
    assert all(name.startswith(allowed) for name in imports_of(f"scl_hf.{module}"))


def test_the_data_knows_nothing_of_models_and_training():
    allowed = ("scl_hf.data", "scl_hf.errors", "scl_hf.files", "scl_hf.cutmix", "scl_hf.pairs", "scl_hf.hub")
    for module in MODULES:
        if module.startswith("scl_hf.data"):
            assert all(name.startswith(allowed) for name in imports_of(module)), module


def test_the_page_alone_knows_gradio():
    knows = [
        module for module, path in MODULES.items() if re.search(r"^\s*(import|from) gradio", path.read_text(), re.M)
    ]
    assert knows == ["scl_hf.prediction.page"]
    assert not any("scl_hf.prediction.page" in imports_of(module) for module in MODULES)


def test_nothing_takes_the_trainer_as_an_argument():
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                arguments = {argument.arg for argument in (*node.args.args, *node.args.kwonlyargs)}
                assert "trainer" not in arguments, f"{module}.{node.name}"


def test_no_file_is_longer_than_a_reader_holds():
    files = [*MODULES.values(), *(ROOT / "scripts").rglob("*.py")]
    assert {str(path): length for path in files if (length := len(path.read_text().splitlines())) > 400} == {}


def test_importing_the_package_loads_and_changes_nothing_that_a_model_does_not_need():
    code = """
import sys
import torch
threads = torch.get_num_threads()
import scl_hf
assert not {"cv2", "matplotlib", "evaluate", "datasets", "toy_dataset"} & set(sys.modules)
from transformers import AutoConfig
assert AutoConfig.for_model("deeplabv3plus").num_labels == 19
import cv2
before = cv2.getNumThreads()
from scl_hf import SemiSupervisedConfig, SemiSupervisedTrainer
assert not {"matplotlib", "evaluate", "toy_dataset"} & set(sys.modules)
assert (cv2.getNumThreads(), torch.get_num_threads()) == (before, threads)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr

"""Who imports whom, how much each script reaches, how long the package is, and what importing it loads."""

import ast
import re
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = {
    ".".join(path.relative_to(folder).with_suffix("").parts).removesuffix(".__init__"): path
    for folder, name in ((ROOT, "scl_hf"), (ROOT / "scripts", ""))
    for path in sorted((folder / name).rglob("*.py"))
}
MODULES = {name: path for name, path in FILES.items() if name.partition(".")[0] == "scl_hf"}
SCRIPTS = {name: path for name, path in FILES.items() if path.parent == ROOT / "scripts"}

# A layer is a folder of the package or a module beside the folders; scl_hf/__init__.py, the front door, is none. It
# imports only what its line names, and a line names only layers above it. `folder.module` allows that module alone.
LAYERS = {
    "errors": "",
    "processes": "errors",
    "files": "errors processes",
    "progress": "errors",
    "rounds": "progress",
    "cutmix": "",
    "pairs": "",
    "losses": "pairs",
    "teacher": "processes",
    "inference": "",
    "metrics": "",
    "models": "",
    "hub": "errors files",
    "heads": "errors",
    "checkpointing": "errors files hub processes",
    "data": "cutmix errors files hub pairs processes",
    "image_processors": "data.normalization errors",
    "pretrained": "checkpointing.finite data errors heads hub image_processors inference models processes",
    "export": "errors files inference pretrained",
    "evaluation": "checkpointing.signals data errors files heads inference metrics pretrained processes progress",
    "visualization": "data.normalization errors files",
    "config": "data errors evaluation pretrained processes",
    "cli": "checkpointing.signals errors files processes",
    "model_card": "cli config data errors evaluation files rounds visualization",
    "objective": "config losses",
    "optim": "config errors",
    "preparation": "config data errors image_processors inference model_card models optim pretrained",
    "trainer": "checkpointing config cutmix data evaluation files image_processors inference model_card objective "
    "optim preparation pretrained progress rounds teacher visualization",
    "dry_run": "config data errors inference optim",
    "prediction": "data errors evaluation files hub inference pretrained processes visualization",
    "__main__": "cli errors",
}

# Lines of the package that a script imports, with all that those modules import. Lower a number that has become too
# large; raising one means that a user of that script pays for more: a decision to be made in a diff.
REACH = {
    "app": 8000,
    "benchmark": 10900,
    "convert_checkpoint": 5700,
    "convert_efficientnet_lite": 1800,
    "eval": 8000,
    "export": 6900,
    "plot_curves": 1100,
    "predict": 7800,
    "prepare_dataset": 8800,
    "push": 1200,
    "reproduce": 7600,
    "train": 10700,
}

# Names that the front door hands out, and where they come from
DOOR = {
    alias.name: f"scl_hf.{node.module}"
    for node in ast.walk(ast.parse(MODULES["scl_hf"].read_text()))
    if isinstance(node, ast.ImportFrom) and node.level
    for alias in node.names
}

# Without the files of EfficientNet-Lite. Raising it is a decision to be made in a diff.
PACKAGE_LINES = 12_630


@cache
def imports_of(module):
    """Modules of the project that a module imports: anywhere in it, in functions and for type checkers, too."""
    path, found = FILES[module], set()
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parent = package.rsplit(".", node.level - 1)[0] if node.level else ""
            origin = ".".join(filter(None, (parent, node.module)))
            names = [alias.name for alias in node.names]
            # `from .data import cityscapes` imports the module data.cityscapes, or a name of data/__init__.py.
            found |= {f"{origin}.{name}" if f"{origin}.{name}" in FILES else origin for name in names}
            if origin == "scl_hf" and module != "scl_hf":  # the front door loads what it is asked for
                found |= {DOOR[name] for name in names if name in DOOR}
    return found & FILES.keys() - {module}


def length(module):
    return len(FILES[module].read_text().splitlines())


def layer(module):
    return module.split(".")[1]


def reached(module):
    """Modules of the package that a module loads sooner or later, the front door left out."""
    seen, waiting = set(), {module}
    while waiting:
        found = set().union(*map(imports_of, waiting))
        found |= {name.rsplit(".", i)[0] for name in found for i in range(name.count(".") + 1)}  # their packages
        seen, waiting = seen | waiting, found & FILES.keys() - seen - waiting - {"scl_hf"}
    return seen & MODULES.keys()


def test_no_circle_of_rooms():
    graph = {layer(module): set() for module in MODULES if module != "scl_hf"}
    for module in MODULES.keys() - {"scl_hf"}:
        graph[layer(module)] |= {layer(name) for name in imports_of(module)} - {layer(module)}
    tuple(TopologicalSorter(graph).static_order())  # raises CycleError, which names the circle


def test_each_layer_imports_only_layers_above_it_in_the_table():
    layers, table = {layer(module) for module in MODULES.keys() - {"scl_hf"}}, f"LAYERS in {Path(__file__).name}"
    assert layers == LAYERS.keys(), (
        f"{table}: a line for each of {layers ^ LAYERS.keys()} is missing, or its layer is gone"
    )
    names, wrong = list(LAYERS), []
    for own, allowed in LAYERS.items():
        imported = set().union(
            *(imports_of(module) for module in MODULES if module != "scl_hf" and layer(module) == own)
        )
        imported = {name.removeprefix("scl_hf.") for name in imported if layer(name) != own}
        for entry in allowed.split():
            if entry.partition(".")[0] not in names[: names.index(own)]:
                wrong.append(f"{own}: {entry} must stand above it")
            elif not any(f"{name}.".startswith(f"{entry}.") for name in imported):
                wrong.append(f"{own}: {entry} is no longer imported, take it out")
        for name in sorted(imported):
            if not any(f"{name}.".startswith(f"{entry}.") for entry in allowed.split()):
                wrong.append(f"{own}: {name} is imported; find another way, or add it")
    assert not wrong, "\n".join([f"{table}:", *wrong])


def test_the_front_door_and_the_scripts():
    assert imports_of("scl_hf") == {"scl_hf.models", "scl_hf.config", "scl_hf.trainer"}
    for module in MODULES:
        assert imports_of(module) <= MODULES.keys() - {"scl_hf"}, f"{module} imports the front door or a script"
    assert {name for name in SCRIPTS if reached(name)} == REACH.keys()


@pytest.mark.parametrize("script", REACH)
def test_what_a_script_reaches(script):
    lines = {name: length(name) for name in sorted(reached(script))}
    assert sum(lines.values()) <= REACH[script], lines


def test_the_package_does_not_grow_unseen():
    lines = {name: length(name) for name in MODULES if "efficientnet_lite" not in name}
    assert sum(lines.values()) <= PACKAGE_LINES


def test_no_file_is_longer_than_a_reader_holds():
    assert {name: lines for name in FILES if (lines := length(name)) > 400} == {}


def test_the_page_alone_knows_gradio():
    importing = re.compile(r"^\s*(import|from) gradio", re.M)
    assert [name for name, path in MODULES.items() if importing.search(path.read_text())] == ["scl_hf.prediction.page"]
    assert not any("scl_hf.prediction.page" in imports_of(module) for module in MODULES)


def test_nothing_but_a_callback_takes_the_trainer():
    for module, path in MODULES.items():
        tree = ast.parse(path.read_text())
        of_callbacks = {
            function
            for node in ast.walk(tree)
            if isinstance(node, ast.ClassDef) and any(ast.unparse(base).endswith("Callback") for base in node.bases)
            for function in node.body
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node not in of_callbacks:
                arguments = {argument.arg for argument in (*node.args.args, *node.args.kwonlyargs)}
                assert "trainer" not in arguments, f"{module}.{node.name}"


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

"""The wheel and the source distribution: what they hold, and a run from an empty folder with the wheel alone."""

import email
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import SMALL_RUN

ROOT = Path(__file__).parents[1]
FOLDERS = ("docs", "recipes", "scl_hf", "scripts", "tests")
FILES = (
    "CITATION.cff", "CONTRIBUTING.md", "LICENSE", "MANIFEST.in", "Makefile", "README.md", "constraints.txt",
    "model_card.md", "pyproject.toml", "setup.py",
)  # fmt: skip
BUILD = "import sys; from setuptools import build_meta; getattr(build_meta, sys.argv[1])(sys.argv[2])"


def files_in(folder):
    return {path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"}


def build(kind, source, target):
    result = subprocess.run(
        [sys.executable, "-c", BUILD, kind, str(target)], cwd=source, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert "importable" not in result.stderr and "Deprecat" not in result.stderr, result.stderr
    (built,) = target.iterdir()
    return built


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """The unpacked source distribution of a copy of this repository."""
    copy, built = tmp_path_factory.mktemp("repository"), tmp_path_factory.mktemp("sdist")
    for name in FOLDERS:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(ROOT / name, copy)
    shutil.unpack_archive(build("build_sdist", copy, built), tmp_path_factory.getbasetemp() / "source")
    (folder,) = (tmp_path_factory.getbasetemp() / "source").iterdir()
    return folder


@pytest.fixture(scope="module")
def installed(source, tmp_path_factory):
    """The unpacked wheel, built from the source distribution."""
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(build("build_wheel", source, tmp_path_factory.mktemp("wheel"))) as wheel:
        wheel.extractall(folder)
    return folder


def test_the_source_distribution_is_the_repository(source):
    for name in FOLDERS:
        assert files_in(source / name) == files_in(ROOT / name)
    assert {path.name for path in source.iterdir() if path.is_file()} == {*FILES, "PKG-INFO", "setup.cfg"}


def test_the_wheel_holds_the_package_its_scripts_and_recipes(installed):
    package = installed / "scl_hf"
    carried = {Path(name, path) for name in ("scripts", "recipes") for path in files_in(ROOT / name)}
    carried |= {Path("model_card.md"), *(Path(f"docs/images/street_{n}.png") for n in (1, 2, 3))}
    assert files_in(package) == files_in(ROOT / "scl_hf") | carried
    for path in carried:
        assert (package / path).read_bytes() == (ROOT / path).read_bytes()
    assert {path.name.partition("-")[0] for path in installed.iterdir()} == {"scl_hf"}


def test_what_an_index_shows(installed):
    (folder,) = installed.glob("*.dist-info")
    assert (folder / "entry_points.txt").read_text() == "[console_scripts]\nscl-hf = scl_hf.__main__:main\n"
    metadata = email.message_from_string((folder / "METADATA").read_text(encoding="utf-8"))
    assert metadata["Author"] == "The scl_hf contributors" and metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Keywords"] and metadata["Project-URL"] and "Typing :: Typed" in metadata.get_all("Classifier")
    page = metadata.get_payload()
    assert metadata["Description-Content-Type"] == "text/markdown" and page.lstrip().startswith("# scl_hf\n")
    links = re.findall(r"\]\(([^)]*)\)", page)
    assert links and all(link.startswith("http") for link in links)
    assert page.count("```") == (ROOT / "README.md").read_text().count("```")


def test_a_new_user_trains_in_an_empty_folder(installed, toy_dataset, tmp_path):
    fields = {name: value for name, value in SMALL_RUN.items() if not isinstance(value, (dict, list))}
    fields |= {"data_dir": toy_dataset, "output_dir": "mine", "max_steps": 1, "eval_strategy": "no"}
    (tmp_path / "mine.yaml").write_text(
        "base: camvid\ndataset: cityscapes\ncrop_size: [32, 32]\n"
        + "".join(f"{name}: {value}\n" for name, value in fields.items())
    )
    environment = os.environ | {"PYTHONPATH": str(installed), "HF_DATASETS_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "scl_hf", "train", "mine.yaml", "--report_to", "none"]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "structured consistency loss" in (tmp_path / "mine/README.md").read_text()

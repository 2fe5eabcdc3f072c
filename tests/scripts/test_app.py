"""scripts/app.py: the page as its visitors' browsers use it, over HTTP on this machine, and the files of a Space."""

import dataclasses
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import gradio as gr
import httpx
import numpy as np
import pytest
import torch
import yaml
from conftest import load_script, tiny_model
from gradio_client import Client, handle_file
from mini_hub import mini_hub
from PIL import Image
from transformers import SegformerImageProcessorPil

from scl_hf.errors import InputError
from scl_hf.prediction import page as page_module
from scl_hf.prediction.page import launch, load_models, make_page
from scl_hf.prediction.space import NEEDED
from scl_hf.prediction.views import enlarged, read_upload
from scl_hf.pretrained import Checkpoint
from scl_hf.visualization.panels import WRONG, overlay

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts/app.py"
EXAMPLES = sorted(ROOT.glob("docs/images/street_*.png"))
CLASSES = {0: "grass & <b>moss</b>", 1: "path", 2: "sky"}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Two models of the same three classes, and one of others."""
    path = tmp_path_factory.mktemp("checkpoints")
    for seed, name in enumerate(("one", "two")):
        tiny_model(CLASSES, seed).save_pretrained(path / name)
    tiny_model({0: "sea", 1: "sand"}).save_pretrained(path / "beach")
    return path


@pytest.fixture(scope="module")
def models(checkpoints):
    return load_models([str(checkpoints / name) for name in ("one", "two")])


@pytest.fixture(scope="module")
def client(models, tmp_path_factory):
    """A visitor of a page of two models."""
    page = make_page(models, EXAMPLES[:1])
    yield Client(launch(page), verbose=False, download_files=tmp_path_factory.mktemp("downloads"))
    page.close()


@pytest.fixture
def app(monkeypatch):
    """Runs the script with arguments."""
    script = load_script(SCRIPT)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["app.py", *map(str, arguments)])
        return script.main()

    return run


def test_a_cuda_build_of_torch_without_a_gpu(checkpoints, monkeypatch):
    cuda = torch.device("cuda")
    monkeypatch.setattr(
        torch.accelerator, "current_accelerator", lambda check_available=False: None if check_available else cuda
    )
    (model,) = load_models([str(checkpoints / "one")])
    assert model.model.device.type == "cpu"


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def test_a_image_gives_maps_shares_and_what_differs(client, models, monkeypatch):
    message, *images, table, where = client.predict(handle_file(EXAMPLES[0]), 60, api_name="/segment")
    share = float(re.search(r"A and B differ in ([\d.]+) % of the pixels", message)[1]) / 100
    image = read_upload(EXAMPLES[0])[0]
    labels = [page_module.predict(model, image) for model in models]
    assert share == pytest.approx((labels[0] != labels[1]).mean(), abs=0.001) and 0 < share
    assert ((pixels(where) == WRONG).all(-1) == enlarged(labels[0] != labels[1])).all()
    for shown, label, model in zip(images, labels, models):
        assert np.abs(pixels(shown) - enlarged(overlay(image, label, model.palette))).mean() < 6  # JPEG
    for shown, label, model in zip(images[2:], labels, models):
        colors = enlarged(model.palette[label])
        assert (pixels(shown) == colors).all(-1).mean() > 0.95  # but for the numbers
    assert "grass &amp; &lt;b&gt;moss&lt;/b&gt;" in table and "<b>" not in table
    assert '<th scope="col">A</th><th scope="col">B</th>' in table

    # The opacity asks no model
    monkeypatch.setattr(page_module, "predict_probs", None)
    bare, _ = client.predict(0, api_name="/blend")
    assert np.abs(pixels(bare) - enlarged(image)).mean() < 6
    full, _ = client.predict(100, api_name="/blend")
    assert np.abs(pixels(full) - enlarged(models[0].palette[labels[0]])).mean() < 12


def test_a_file_that_cannot_be_shown_is_a_sentence(client, tmp_path):
    complete = EXAMPLES[0].read_bytes()
    for name, content, sentence in (
        ("cut.png", complete[:9000], "cut.png cannot be read as an image: "),
        ("page.jpg", b"<html>", "page.jpg cannot be read as an image: "),
        ("empty.png", b"", "empty.png is empty. Choose another file."),
    ):
        (tmp_path / name).write_bytes(content)
        message, *rest = client.predict(handle_file(tmp_path / name), 60, api_name="/segment")
        assert sentence in message and 'role="alert"' in message
        assert rest == [None] * 6
    Image.new("RGB", (2, 2)).save(tmp_path / "icon.png")
    message, *_ = client.predict(handle_file(tmp_path / "icon.png"), 60, api_name="/segment")
    assert "2×2 pixels cannot be predicted by " in message and "Choose a larger image." in message
    assert client.predict(None, 60, api_name="/segment")[0].count("Choose an image") == 1
    assert client.predict(30, api_name="/blend") == (None, None)


def test_the_page_asks_nothing_of_others_and_is_not_shared(client, monkeypatch):
    text = httpx.get(client.src).text
    loaded = re.findall(r"""(?:src|href)=["'](?:https?:)?//([^/"']+)""", text)
    assert set(loaded) <= {"127.0.0.1"}, loaded
    given = {}
    monkeypatch.setattr(gr.Blocks, "launch", lambda self, **options: given.update(options) or (None, "here", ""))
    with gr.Blocks(analytics_enabled=False) as page:
        pass
    assert launch(page) == "here" and given["share"] is False and given["max_file_size"] == "50mb"


def test_one_model_and_no_examples(models):
    page = make_page([dataclasses.replace(models[0], name="me/<i>toy_dataset</i>")], [])
    shown = {
        kind: [block for block in page.blocks.values() if isinstance(block, kind)] for kind in (gr.Image, gr.HTML)
    }
    assert [block.label for block in shown[gr.Image]] == ["Your image", "Overlay", "Color map"]
    assert "me/&lt;i&gt;toy_dataset" in shown[gr.HTML][0].value and not any(
        "<i>" in (b.value or "") for b in shown[gr.HTML]
    )


def test_wrong_input_is_one_line(app, checkpoints, tmp_path, monkeypatch):
    one, two, beach = (checkpoints / name for name in ("one", "two", "beach"))
    ranged = shutil.copytree(one, tmp_path / "ranged")
    SegformerImageProcessorPil(value_range=[0, 4095]).save_pretrained(ranged)
    (tmp_path / "text.png").write_text("no image")
    for arguments, message in (
        ([], "one checkpoint or two come first"),
        ([one, two, one], "one checkpoint or two come first"),
        ([one, beach], r"beach: its classes \(sea, sand\) are not those of .*one \(grass"),
        ([one, ranged], "ranged: its value_range or bands are not those of .*one"),
        ([tmp_path / "none"], "none: no such folder"),
        ([one, "--examples", tmp_path / "c.png"], "c.png: no such file"),
        ([one, "--examples", tmp_path / "text.png"], "text.png cannot be read as an image"),
        ([one, "--space", tmp_path / "space"], "takes its model from the Hub, and .*one is not there. Push it first"),
        (["me/toy_dataset", "--space", tmp_path], "exists already"),
    ):
        with pytest.raises(InputError, match=message):
            app(*arguments)
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "scl_hf.prediction.page")
    with pytest.raises(InputError, match=r"Gradio is not installed .* 'scl_hf\[app\]'"):
        app(one)
    assert not (tmp_path / "space").exists()


def test_a_space_installs_what_the_package_needs_but_for_training():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = {re.match(r"[\w-]+", dependency)[0] for dependency in project["dependencies"]}
    assert needed - set(NEEDED) == {"evaluate", "matplotlib", "tensorboard"}


# Makes the page of a Space without the requirements of this package that it does not install.
VISIT = """
import sys
sys.modules |= dict.fromkeys(("evaluate", "matplotlib", "tensorboard"))
import app
import scl_hf
(model,) = models = app.load_models(app.CHECKPOINTS)
app.make_page(models, app.EXAMPLES)
print(scl_hf.__file__, model.name, len(app.EXAMPLES), len(model.id2label))
"""


def test_the_files_of_a_space_run_by_themselves(app, checkpoints, tmp_path, monkeypatch, capsys):
    space = tmp_path / "space"
    monkeypatch.setattr(page_module, "load_models", lambda names, trust_remote_code: [Checkpoint("me", None)])
    app("me/toy_dataset@v1", "--space", space)
    assert capsys.readouterr().out == f"{space}: to push it, hf upload USER/NAME {space} --repo-type space\n"
    _, metadata, text = (space / "README.md").read_text().split("---\n")
    assert yaml.safe_load(metadata)["models"] == ["me/toy_dataset"] and "`me/toy_dataset@v1`" in text
    requirements = (space / "requirements.txt").read_text().splitlines()
    assert [line.partition("==")[0] for line in requirements] == list(NEEDED)
    assert all(re.fullmatch(r"[\w-]+==[\d.]+", line) for line in requirements)
    with mini_hub() as hub:
        files = {path.name: path.read_bytes() for path in (checkpoints / "one").iterdir()}
        hub.repos["models/me/toy_dataset"] = {"private": False, "files": {}, "branches": {"v1": files}}
        environment = hub.environment(tmp_path / "home", HF_HUB_OFFLINE="0", PYTHONDONTWRITEBYTECODE="1")
        visited = subprocess.run(
            [sys.executable, "-c", VISIT],
            env=environment | {"PYTHONPATH": str(space)},
            cwd=space,
            capture_output=True,
            text=True,
        )
    assert visited.returncode == 0, visited.stderr
    assert visited.stdout.splitlines()[-1] == f"{space}/scl_hf/__init__.py me/toy_dataset@v1 {len(EXAMPLES)} 3"

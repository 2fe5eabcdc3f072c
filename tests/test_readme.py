"""The README and the pages: the Python example runs, links and names resolve, commands are complete."""

import importlib
import re
import runpy
from pathlib import Path

import pytest
from conftest import tiny_model
from test_architecture import LAYERS
from transformers import AutoModelForSemanticSegmentation

from scl_hf.cli import RecipeParser, read_yaml
from scl_hf.config import TRAINING_RECIPE

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text() for path in sorted(ROOT.glob("docs/*.md"))}
PAGES |= {name: (ROOT / name).read_text() for name in ("README.md", "CONTRIBUTING.md", "recipes/README.md")}
(EXAMPLE,) = [code for code in re.findall(r"```python\n(.*?)```", README, re.S) if "SemiSupervisedTrainer(" in code]


@pytest.fixture
def small(own_folder, tmp_path, monkeypatch):
    """The example on small data, from a small model, for two steps."""
    monkeypatch.chdir(tmp_path)
    tiny_model({i: f"class {i}" for i in range(5)}).save_pretrained("starting")
    text = EXAMPLE
    settings = "crop_size=[32, 32], eval_steps=2, use_cpu=True, report_to=[], save_strategy='no'"
    for old, new in (
        ('"MY_DATA"', f'"{own_folder}"'),
        ('"MY_PHOTOS"', f'"{own_folder}/train/images"'),
        ('"nvidia/mit-b0"', '"starting"'),
        ("max_steps=7500", f"max_steps=3, {settings}"),
    ):
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


def test_the_example_in_python(small):
    names = {}
    exec(small, names)
    trainer = names["trainer"]
    assert trainer.state.global_step == 3 and "eval_mean_iou" in trainer.state.log_history[-2]
    model = AutoModelForSemanticSegmentation.from_pretrained("runs/mine")
    assert model.config.id2label == {0: "grass", 1: "path", 2: "sky"}


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 110
    assert len(EXAMPLE.splitlines()) <= 12


@pytest.mark.parametrize("name", [name for name in PAGES if "```bash" in PAGES[name]])
def test_no_command_needs_an_environment_that_was_not_activated(name):
    text = PAGES[name]
    for block in re.findall(r"```bash\n(.*?)```", text, re.S):
        commands = [line for line in block.splitlines() if line.strip()]
        outside = ("git clone", "make ", ". .venv/bin/activate")
        if not commands[0].startswith(outside):
            # A block that continues an earlier one.
            assert -1 < text.find(". .venv/bin/activate") < text.index(block), block


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name):
    for link in re.findall(r"\]\(([^)\s]+)\)", PAGES[name]):
        if link.startswith("http"):
            continue
        file, _, heading = link.partition("#")
        target = (ROOT / name).parent / file if file else ROOT / name
        assert target.exists(), link
        if heading:
            titles = re.findall(r"^#+ (.*)$", target.read_text(), re.M)
            slugs = [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]
            assert heading in slugs, link


@pytest.mark.parametrize("name", PAGES)
def test_files_that_are_named_exist(name):
    for path in re.findall(
        r"(?<![\w/.])(?:recipes|scripts|tests|docs)/[\w/]+\.(?:yaml|py|slurm|png|md|csv)", PAGES[name]
    ):
        assert (ROOT / path).exists(), path
    for recipe in re.findall(r"`(\w+)\.yaml`", PAGES[name]):
        assert recipe == "mine" or (ROOT / f"recipes/{recipe}.yaml").exists(), recipe


@pytest.mark.parametrize("name", PAGES)
def test_names_of_the_package_resolve(name):
    for dotted in set(re.findall(r"`(scl_hf(?:\.\w+)+)", PAGES[name])):
        parts = dotted.split(".")
        for end in range(len(parts), 0, -1):
            try:
                found = importlib.import_module(".".join(parts[:end]))
                break
            except ModuleNotFoundError:
                continue
        for part in parts[end:]:
            found = getattr(found, part)


@pytest.mark.parametrize("name", PAGES)
def test_recipes_on_the_pages_parse(name, tmp_path):
    for block in re.findall(r"```yaml\n(.*?)```", PAGES[name], re.S):
        recipe = tmp_path / "mine.yaml"
        recipe.write_text(re.sub(r"^base: (recipes/)?", f"base: {ROOT}/recipes/", block, flags=re.M))
        if "rows" not in read_yaml(recipe):  # not a table
            RecipeParser(TRAINING_RECIPE).parse_recipe([str(recipe), "--output_dir", "runs/mine", "--use_cpu", "true"])


def test_each_page_opens_with_what_its_reader_can_do_after_it():
    assert all("After this page you" in text[:400] for name, text in PAGES.items() if name.startswith("docs/"))


def test_every_recipe_and_table_is_listed():
    listed = re.findall(r"\]\(([\w/]+\.yaml)\)", PAGES["recipes/README.md"])
    files = [path.relative_to(ROOT / "recipes").as_posix() for path in (ROOT / "recipes").glob("*.yaml")]
    files += [f"tables/{path.name}" for path in (ROOT / "recipes/tables").glob("*.yaml")]
    assert sorted(listed) == sorted(files)


def test_the_table_of_layers_is_that_of_the_test_of_the_architecture():
    rows = re.findall(r"^\| (`.*?) \|", PAGES["CONTRIBUTING.md"], re.M)
    assert [name.rstrip("/") for row in rows for name in re.findall(r"`([\w/]+)`", row)] == [*LAYERS]


def test_the_page_of_fields_is_that_of_the_parser():
    page = runpy.run_path(str(ROOT / "docs/make_fields.py"))["fields_page"]()
    assert page == PAGES["docs/fields.md"], "run python docs/make_fields.py"

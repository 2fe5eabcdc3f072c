"""The files of a Space: a repository of the Hub that shows the page to try models on."""

import importlib.metadata
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from ..errors import InputError
from ..files import check_writable, writing
from ..hub import on_the_hub

PACKAGE = Path(__file__).parents[1]
# What the page imports, directly or by this package; the Space itself installs Gradio.
NEEDED = (
    "accelerate",
    "datasets",
    "huggingface-hub",
    "numpy",
    "opencv-python-headless",
    "pillow",
    "PyYAML",
    "safetensors",
    "torch",
    "transformers",
)

APP = '''"""The page, written by scripts/app.py of scl_hf, whose code is in the folder scl_hf."""

from pathlib import Path

from scl_hf.prediction.page import launch, load_models, make_page

CHECKPOINTS = {names!r}
EXAMPLES = sorted(Path(__file__).parent.glob("examples/*"))

if __name__ == "__main__":
    page = make_page(load_models(CHECKPOINTS, trust_remote_code={trust_remote_code}), EXAMPLES)
    launch(page)
    page.block_thread()
'''

README = """---
{metadata}---

What is where in a picture, by semantic segmentation. The models: {models}. Uploaded pictures are deleted within two
hours.
"""


def check_space(space: str, names: Sequence[str]) -> None:
    """Refuses a folder that is there already, and checkpoints that a Space could not get."""
    check_writable("space", space)
    if os.path.lexists(space):
        raise InputError(f"space {space}: is there already. Name a new folder.")
    for name in names:
        if on_the_hub(name) is None:
            raise InputError(
                f"space {space}: a Space takes its model from the Hub, and {name} is none of it. Push it first with "
                "scripts/push.py, and name it user/repo."
            )


def write_space(space: str, names: Sequence[str], examples: Sequence[str], trust_remote_code: bool = False) -> None:
    """The page, its metadata, the versions that it was tried with here, this package, and pictures to choose from."""
    metadata = {
        "title": "Try a segmentation model",
        "emoji": "🏙️",
        "colorFrom": "blue",
        "colorTo": "indigo",
        "sdk": "gradio",
        "sdk_version": importlib.metadata.version("gradio"),
        "python_version": "{}.{}".format(*sys.version_info),
        "app_file": "app.py",
        "models": list(dict.fromkeys(on_the_hub(name)[0] for name in names)),
        "pinned": False,
    }
    # Of "2.13.0+cpu" the part that an index knows
    versions = {name: importlib.metadata.version(name).partition("+")[0] for name in NEEDED}
    folder = Path(space)
    files = {
        "app.py": APP.format(names=list(names), trust_remote_code=trust_remote_code),
        "README.md": README.format(
            metadata=yaml.safe_dump(metadata, allow_unicode=True, sort_keys=False),
            models=", ".join(f"`{name}`" for name in names),
        ),
        "requirements.txt": "".join(f"{name}=={version}\n" for name, version in versions.items()),
    }
    with writing(space, folder.parent):
        shutil.copytree(PACKAGE, folder / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")
        (folder / "examples").mkdir()
        for number, path in enumerate(examples):
            shutil.copy(path, folder / "examples" / f"{number:03}_{Path(path).name}")

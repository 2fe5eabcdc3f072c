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
NOT_SENT = shutil.ignore_patterns("__pycache__", "docs", "recipes", "scripts")
# The requirements of the page; the Space itself installs Gradio.
NEEDED = (
    "accelerate", "datasets", "filelock", "huggingface-hub", "numpy", "opencv-python-headless", "pillow", "PyYAML",
    "safetensors", "torch", "transformers",
)  # fmt: skip

APP = '''"""The page, written by app.py of scl_hf, whose code is in the folder scl_hf."""

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

What is where in an image, by semantic segmentation. The models: {models}. Uploaded images are deleted within two
hours.
"""


def check_space(space: str, names: Sequence[str]) -> None:
    """Raises `InputError` for a folder that exists, and for checkpoints that a Space cannot download."""
    check_writable("space", space)
    if os.path.lexists(space):
        raise InputError(f"space {space}: exists already. Name a new folder.")
    for name in names:
        if on_the_hub(name) is None:
            problem = f"a Space takes its model from the Hub, and {name} is not there"
            raise InputError(f"space {space}: {problem}. Push it first with scl-hf push, and name it user/repo.")


def write_space(space: str, names: Sequence[str], examples: Sequence[str], trust_remote_code: bool = False) -> None:
    """Writes the page, its metadata, the versions installed here, this package, and example images."""
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
    }
    header = yaml.safe_dump(metadata, allow_unicode=True, sort_keys=False)
    page = README.format(metadata=header, models=", ".join(f"`{name}`" for name in names))
    app = APP.format(names=list(names), trust_remote_code=trust_remote_code)
    # Package indexes know 2.13.0+cpu as 2.13.0.
    versions = [f"{name}=={importlib.metadata.version(name).partition('+')[0]}\n" for name in NEEDED]
    folder = Path(space)
    with writing(space, folder.parent):
        shutil.copytree(PACKAGE, folder / PACKAGE.name, ignore=NOT_SENT)
        for name, text in (("app.py", app), ("README.md", page), ("requirements.txt", "".join(versions))):
            (folder / name).write_text(text, encoding="utf-8")
        (folder / "examples").mkdir()
        for number, path in enumerate(examples):
            shutil.copy(path, folder / "examples" / f"{number:03}_{Path(path).name}")

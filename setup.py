"""What pyproject.toml cannot say: what of the repository the wheel carries, and the page of a package index."""

import re
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

# Within the package in the wheel, beside it in the repository
CARRIED = ("scripts/**/*.py", "recipes/**/*.*", "model_card.md", "docs/images/street_*.png")


class BuildWithScripts(build_py):
    """Builds the package with its scripts, its recipes and what these read."""

    def run(self):
        super().run()
        if self.editable_mode:
            return
        for path in (path for pattern in CARRIED for path in Path().glob(pattern)):
            target = Path(self.build_lib, "scl_hf", path)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)


def index_page() -> str:
    """Returns the README without its images, and with the plain texts of links to files of the repository."""
    text = re.sub(r"!\[[^]]*\]\((?!http)[^)]*\)\n*", "", Path("README.md").read_text(encoding="utf-8"))
    text = re.sub(r"\[([^]]*)\]\((?!http)[^)]*\)", r"\1", text)
    return f"""{text}
## Without the repository

This package brings the command `scl-hf`: `scl-hf --help` lists the scripts and recipes, which it runs in any folder.
The pages and images that are named above are in the source distribution.
"""


setup(
    cmdclass={"build_py": BuildWithScripts},
    long_description=index_page(),
    long_description_content_type="text/markdown",
)

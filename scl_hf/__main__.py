"""The command `scl-hf`, also as `python -m scl_hf`: runs a script of this project by its name, in any folder."""

import sys
from types import ModuleType
from typing import NoReturn

from .cli import HOME, RECIPES, run_script
from .errors import InputError, did_you_mean

SCRIPTS = {path.stem: path for path in sorted((HOME / "scripts").glob("*.py")) if path.stem != "stopping"}
SHORT = {  # commands of prepare_dataset
    "check": "Counts the files of a dataset, opens them, and lists what is wrong.",
    "masks": "Draws COCO or labelme annotations into label files.",
    "streets": "Draws a toy dataset.",
}


def main() -> NoReturn:
    """Runs `scl-hf NAME …` as `python scripts/NAME.py …`."""
    run_script(_start)


def _start() -> None:
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(_overview())
        return
    path = SCRIPTS.get("prepare_dataset" if name in SHORT else name)
    if path is None:
        hint = did_you_mean(name, [*SCRIPTS, *SHORT]) or " scl-hf --help lists the commands."
        raise InputError(f"scl-hf has no command '{name}'.{hint}")
    # As `python` runs a file, which runpy.run_path does under the name of the file; usages name what was typed.
    sys.argv[:] = ["scl-hf", name, *arguments] if name in SHORT else [f"scl-hf {name}", *arguments]
    sys.path.insert(0, str(path.parent))
    script = sys.modules["__main__"] = ModuleType("__main__")
    script.__file__ = str(path)
    exec(compile(path.read_bytes(), path, "exec"), vars(script))


def _overview() -> str:
    """Returns the commands, and the names of the recipes."""
    heads = {name: path.read_text(encoding="utf-8").strip('"').split("\n\n")[0] for name, path in SCRIPTS.items()}
    texts = {name: " ".join(head.split()).rstrip(":.") + "." for name, head in heads.items()} | SHORT
    lines = ["usage: scl-hf COMMAND …, or accelerate launch -m scl_hf COMMAND …", ""]
    lines += [f"  {name:26}{text}" for name, text in sorted(texts.items())]
    return "\n".join([*lines, "", f"Recipes and tables, in {HOME / 'recipes'}: {', '.join(RECIPES)}"])


if __name__ == "__main__":
    main()

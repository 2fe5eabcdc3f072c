"""Files that are whole or not there."""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """
    A temporary name to write to, with the suffix of `path`. The file is moved to `path` when it is whole, and removed
    when something goes wrong before.

    Args:
        path (`pathlib.Path`): The file to be written. Its folder is made.

    Yields:
        `pathlib.Path`: The temporary name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")  # several processes may write one file
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, values: Mapping) -> None:
    """
    Args:
        path (`pathlib.Path`): The file to be written.
        values (`Mapping`): What goes into it.
    """
    with replacing(path) as partial:
        partial.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

"""What a resumed run compares of the files of its datasets: no path and no time, which a copy changes."""

import contextlib
import hashlib
import os

from datasets import Dataset

from .columns import stored_files
from .images import CorruptFileError, files_of, read_bytes


def sizes_of(dataset: Dataset, column: str) -> str:
    """Returns the number of files in a column, and a digest of their sizes in bytes."""
    sizes = [os.path.getsize(path) if size is None else size for path, size in zip(*stored_files(dataset, column))]
    return f"{len(sizes)} files {hashlib.sha256(repr(sizes).encode()).hexdigest()[:12]}"


def labels_of(dataset: Dataset) -> str:
    """Returns the number of labels, and a digest of their bytes; a folder of masks is one label."""
    digest = hashlib.sha256()
    for batch in dataset.select_columns("label").with_format("arrow").iter(batch_size=1000):
        for label in batch["label"].to_pylist():
            files = files_of(label["path"]) if label["bytes"] is None else [label]
            with contextlib.suppress(CorruptFileError):  # `skip_corrupt` may allow it
                for file in files:
                    digest.update(hashlib.sha256(read_bytes(file)[1]).digest())
    return f"{len(dataset)} files {digest.hexdigest()[:12]}"

"""
Writes a trained model as one file for other software, with no code of this project:

    python scripts/export.py runs/demo --format onnx --output demo.onnx
    python scripts/export.py user/demo@main --format torchscript --output demo.pt
    python scripts/export.py runs/demo --format exported_program --output demo.pt2

A checkpoint is a folder or a Hub id. Input of the file: normalized images (batch, 3, height, width) of any size;
output: logits (batch, classes, height, width). Its metadata names the classes and the normalization. The file is kept
only if it computes what the model does at other sizes. Exit code 2: wrong input, or a model that the format cannot
hold.
"""

import stopping  # noqa: F401 isort: skip (signals, while the rest is being imported)

from transformers.utils import logging

from scl_hf.cli import parse_leading, run_script
from scl_hf.export import ExportArguments, export
from scl_hf.pretrained import load_checkpoint

USAGE = "CHECKPOINT --output FILE [--field value …]"


def main() -> None:
    given, args = parse_leading(ExportArguments, USAGE, "one checkpoint comes first")
    logging.disable_progress_bar()
    difference = export(load_checkpoint(given[0], args.trust_remote_code), args)
    print(f"{args.output}: written; its logits agree with the model's to {difference:.0e}")


if __name__ == "__main__":
    run_script(main)

"""
Predicts pictures and videos with a trained model:

    python scripts/predict.py runs/demo data/streets/leftImg8bit/val --output runs/demo/predictions
    python scripts/predict.py nvidia/segformer-b0-finetuned-cityscapes-768-768 'clips/*.mp4' photo.jpg --output out
    python scripts/predict.py MODEL leftImg8bit/test --output out --submission out.zip --eval_scales 0.5 1 2

The checkpoint is a path or Hub id of any semantic-segmentation model; inputs are files, folders and globs. Pictures
are predicted at their own size: an image processor gives the normalization, a size that it resizes to is left aside.
The same command again goes on where it was stopped. Exit code 1: some files could not be predicted; 2: wrong input.
"""

import stopping  # noqa: F401 isort: skip (signals, while the rest is being imported)

import os
import sys
import time
from pathlib import Path

from transformers.utils import logging

from scl_hf.cli import RecipeParser, run_script, split_command_line
from scl_hf.errors import InputError
from scl_hf.evaluation.scoring import EvaluationArguments, make_accelerator
from scl_hf.files import FolderLock
from scl_hf.prediction import (
    PredictionArguments,
    Predictor,
    check_test_images,
    earlier_predictions,
    find_inputs,
    write_submission,
)
from scl_hf.pretrained import load_checkpoint

USAGE = "predict.py CHECKPOINT INPUT [INPUT …] --output FOLDER [--field value …]"


def main() -> int:
    # 1. What is predicted, by what, and how
    given, fields = split_command_line(sys.argv[1:])
    if len(given) < 2 and not {"-h", "--help"} & set(fields):
        raise InputError(f"a checkpoint and at least one input come first: {USAGE}")
    args, protocol = RecipeParser((PredictionArguments, EvaluationArguments), usage=USAGE).parse_recipe(fields)
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise InputError("predict.py runs in one process; start it with python, not with torchrun or accelerate.")
    accelerator = make_accelerator(args.dtype)
    name, *patterns = given
    lock = FolderLock("output", args.output)
    inputs = find_inputs(patterns, earlier_predictions(args.output))
    if args.submission:
        check_test_images(inputs)

    # 2. The model
    logging.disable_progress_bar()
    checkpoint = load_checkpoint(name, args.trust_remote_code)
    predictor = Predictor(checkpoint, args, protocol, accelerator)

    # 3. Pictures in, files out
    start = time.perf_counter()
    num_there, failures = predictor.predict(inputs)
    seconds = time.perf_counter() - start
    lock.release()
    num_predicted = len(inputs) - num_there - len(failures)
    print(
        f"{args.output}: {num_predicted} predicted in {seconds:.1f} s"
        + (f", {num_there} were there already" if num_there else "")
    )

    # 4. What went wrong, and the zip where nothing did
    if failures:
        print(f"{len(failures)} of {len(inputs)} could not be predicted:", *failures, sep="\n  ", file=sys.stderr)
        if args.submission:
            print(f"{args.submission}: not written, pictures are missing", file=sys.stderr)
        return 1
    if args.submission:
        write_submission(Path(args.submission), predictor.folder, inputs)
        print(f"{args.submission}: {len(inputs)} label-id pictures for the Cityscapes server")
    return 0


if __name__ == "__main__":
    run_script(main)

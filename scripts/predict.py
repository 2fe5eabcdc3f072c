"""
Predicts images and videos with a trained model:

    python scripts/predict.py runs/demo data/streets/leftImg8bit/val --output runs/demo/predictions
    python scripts/predict.py nvidia/segformer-b0-finetuned-cityscapes-768-768 'clips/*.mp4' photo.jpg --output out
    python scripts/predict.py MODEL leftImg8bit/test --output out --submission out.zip --eval_scales 0.5 1 2

The checkpoint is a path or Hub id of any semantic-segmentation model; inputs are files, folders and globs. Images are
predicted at their own size: the image processor's normalization is used, its resizing is not. The same command again
resumes a stopped run. Exit code 1: some files could not be predicted; 2: wrong input.
"""

import stopping  # noqa: F401 isort: skip (signals, while the rest is being imported)

import os
import sys
import time

from transformers.utils import logging

from scl_hf.cli import parse_leading, run_script
from scl_hf.errors import SharedError
from scl_hf.evaluation.scoring import EvaluationArguments
from scl_hf.files import FolderLock
from scl_hf.prediction.inputs import find_inputs
from scl_hf.prediction.predicting import PredictionArguments, Predictor
from scl_hf.prediction.submission import check_test_images, write_submission
from scl_hf.prediction.writers import earlier_predictions
from scl_hf.pretrained import load_checkpoint

USAGE = "CHECKPOINT INPUT [INPUT …] --output FOLDER [--field value …]"


def main() -> int:
    # 1. Arguments and inputs
    groups, first = (PredictionArguments, EvaluationArguments), "a checkpoint and at least one input come first"
    given, args, evaluation = parse_leading(groups, USAGE, first, least=2, most=float("inf"))
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise SharedError("predict runs in one process; start it without torchrun and accelerate launch.")
    with FolderLock("output", args.output):
        inputs = find_inputs(given[1:], earlier_predictions(args.output))
        if args.submission:
            check_test_images(inputs)

        # 2. Predict
        logging.disable_progress_bar()
        predictor = Predictor(load_checkpoint(given[0], args.trust_remote_code), args, evaluation)
        start = time.perf_counter()
        num_earlier, failures = predictor.predict(inputs)
        seconds = time.perf_counter() - start
    earlier = f", {num_earlier} were predicted earlier" if num_earlier else ""
    print(f"{args.output}: {len(inputs) - num_earlier - len(failures)} predicted in {seconds:.1f} s{earlier}")

    # 3. Report failures; write the zip if there are none
    if failures:
        print(f"{len(failures)} of {len(inputs)} could not be predicted:", *failures, sep="\n  ", file=sys.stderr)
        if args.submission:
            print(f"{args.submission}: not written, images are missing", file=sys.stderr)
        return 1
    if args.submission:
        write_submission(args.submission, predictor.folder, inputs)
        print(f"{args.submission}: {len(inputs)} label-id images for the Cityscapes server")
    return 0


if __name__ == "__main__":
    run_script(main)

"""
Scores checkpoints on labeled images:

    python scripts/eval.py runs/demo recipes/demo.yaml
    python scripts/eval.py runs/demo runs/demo_supervised recipes/demo.yaml --eval_scales 0.5 1 2 --eval_flip true
    accelerate launch scripts/eval.py MODEL --dataset cityscapes --data_dir CITYSCAPES --official

A checkpoint is a path or Hub id of any semantic-segmentation model. Dataset and evaluation settings are those of the
recipe, and the command line wins. Writes scores.json, scores.md with rows for the paper's Table 1, panel.png with
sample predictions, confusion.png and .csv. Exit code 1: the official scorer differs; 2: wrong input.
"""

import stopping  # noqa: F401 isort: skip (signals, while the rest is being imported)

import contextlib
import os
import shutil
import sys
from pathlib import Path

import numpy as np
from accelerate import Accelerator
from transformers.utils import logging

from scl_hf.cli import RecipeParser, recipe_file, run_script, split_command_line
from scl_hf.config import other_fields
from scl_hf.data import DataArguments, load_evaluation
from scl_hf.data.labels import read_pair
from scl_hf.errors import InputError
from scl_hf.evaluation.checkpoints import (
    ScoringArguments,
    check_input,
    load_for_data,
    score_checkpoint,
    score_settings,
)
from scl_hf.evaluation.official import import_official_scorer, label_ids_file, official_scores
from scl_hf.evaluation.report import confusion_page, make_report, markdown_page, text_table
from scl_hf.evaluation.scoring import EvaluationArguments, make_accelerator, read_record
from scl_hf.files import FolderLock, check_writable, replacing, write_json, write_text
from scl_hf.visualization.confusion import plot_confusion_matrix
from scl_hf.visualization.names import folder_names, short_names
from scl_hf.visualization.panels import comparison_panel

USAGE = "CHECKPOINT [CHECKPOINT …] [RECIPE.yaml] [--field value …]"


def main() -> int:
    # 1. Checkpoints, the recipe, and the command line on top of it
    given, command_line = split_command_line(sys.argv[1:])
    recipes = [name for name in given if recipe_file(name).suffix in (".yaml", ".yml") and not os.path.isdir(name)]
    checkpoints = [argument for argument in given if argument not in recipes]
    parser = RecipeParser((DataArguments, EvaluationArguments, ScoringArguments), USAGE)
    not_ours = other_fields(DataArguments, EvaluationArguments)
    data_args, evaluation, args = parser.parse_recipe([*recipes[:1], *command_line], not_ours)
    if not checkpoints or len(recipes) > 1:
        raise InputError(f"at least one checkpoint and at most one recipe come first: {USAGE}")
    names = short_names(checkpoints, {"ema": " (EMA)", "student": " (student)"}.get(args.weights, ""))
    default = "_".join(folder_names(names)) + f"-{data_args.eval_split}"
    output = Path("runs/evaluation", default) if args.output is None else args.output
    check_writable("output", output)
    output = Path(output)
    accelerator = make_accelerator(args.dtype)  # the processes join
    with FolderLock("output", output):
        return evaluate(checkpoints, names, output, data_args, evaluation, args, accelerator)


def evaluate(
    checkpoints: list[str],
    names: list[str],
    output: Path,
    data_args: DataArguments,
    evaluation: EvaluationArguments,
    args: ScoringArguments,
    accelerator: Accelerator,
) -> int:
    """Scores the checkpoints and writes what it found to the folder `output`; returns the exit code."""
    settings = score_settings(checkpoints, data_args, evaluation, args)
    if (output / "scores.json").is_file() and not args.overwrite:
        read_record(output / "scores.json", settings)
    # With several checkpoints, each has a folder of its own.
    folders = [output / name for name in folder_names(names)] if len(names) > 1 else [output]
    if args.official:
        if data_args.dataset != "cityscapes":
            raise InputError(f"official: scores Cityscapes' label files only, not dataset {data_args.dataset}")
        import_official_scorer()
    logging.disable_progress_bar()

    # 2. The evaluation split, and the models: all are checked before the first is scored
    with accelerator.main_process_first():
        dataset, palette = load_evaluation(data_args)
    label = dataset.features["label"]
    models = [load_for_data(checkpoint, args, label.id2label) for checkpoint in checkpoints]
    for model in models:
        check_input(model, dataset.features["image"])

    # 3. Scores, and those of the official scorer; its files are kept once it has read all of them
    shown = np.linspace(0, len(dataset) - 1, min(args.panel_images, len(dataset))).round().astype(int).tolist()
    results, predictions, official = [], {}, [None] * len(names)
    temporary = output / ".label_ids"
    with contextlib.ExitStack() as stack:
        if accelerator.is_main_process:
            shutil.rmtree(temporary, ignore_errors=True)  # of a run that was killed
            stack.callback(shutil.rmtree, temporary, ignore_errors=True)
        accelerator.wait_for_everyone()
        label_ids = [temporary / str(index) if args.official else None for index in range(len(names))]
        for name, model, files in zip(names, models, label_ids):
            scores, predictions[name] = score_checkpoint(model, dataset, evaluation, accelerator, shown, files)
            results.append(scores)
        accelerator.wait_for_everyone()
        accelerator.end_training()
        if not accelerator.is_main_process:
            return 0
        if args.official:
            truth = [Path(stored["path"]) for stored in dataset["label"]]
            predicted = [[label_ids_file(files, image_id) for image_id in dataset["id"]] for files in label_ids]
            official = [official_scores(files, truth) for files in predicted]
            for folder, files in zip(folders, label_ids):
                folder.mkdir(parents=True, exist_ok=True)
                shutil.rmtree(folder / "label_ids", ignore_errors=True)
                files.rename(folder / "label_ids")

    # 4. Tables and images
    given = zip(names, models, results, official)
    reports = [make_report(name, model.name, label.id2label, *scores) for name, model, *scores in given]
    title = f"{data_args.title}, {data_args.eval_split}"
    write_text(output / "scores.md", markdown_page(reports, title, len(dataset), evaluation, args.dtype))
    write_json(output / "scores.json", {"settings": settings, "images": len(dataset), "checkpoints": reports})
    for scores, folder in zip(results, folders):
        write_text(folder / "confusion.csv", confusion_page(label.id2label, scores["confusion_matrix"]))
        plot_confusion_matrix(scores["confusion_matrix"].numpy(), label.id2label, folder / "confusion.png")
    if shown:
        images, labels = zip(*(read_pair(dataset[index], dataset.features) for index in shown))
        with replacing(output / "panel.png") as partial:
            comparison_panel(images, labels, predictions, label.id2label, palette).save(partial)
    print(f"{text_table(reports)}\n\nscores, sample predictions and confusion matrices are in {output}")

    # 5. Compare the two scorers
    differences = {report["name"]: report["official"]["difference"] for report in reports if args.official}
    differing = {name: value for name, value in differences.items() if not value <= 1e-6}  # NaN is no agreement
    for name, value in differing.items():
        print(f"error: official: {name}: the two scorers differ by {value:.1e}, see scores.json", file=sys.stderr)
    if args.official and not differing:
        print(f"the Cityscapes scorer agrees, to {max(differences.values()):.1e}")
    return 1 if differing else 0


if __name__ == "__main__":
    run_script(main)

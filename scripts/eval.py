"""
Scores checkpoints on labeled images:

    python scripts/eval.py runs/demo recipes/demo.yaml
    python scripts/eval.py runs/demo runs/demo_supervised recipes/demo.yaml --eval_scales 0.5 1 2 --eval_flip true
    accelerate launch scripts/eval.py MODEL --dataset cityscapes --data_dir CITYSCAPES --official

A checkpoint is a path or Hub id of any semantic-segmentation model. The recipe gives the dataset and the evaluation
settings; its training fields do not matter here, and the command line wins. Writes scores.json, scores.md with rows
ready for the paper's Table 1, sample predictions (panel.png), and confusion matrices as images and CSV. Exit code 1:
the official scorer does not agree; 2: wrong input.
"""

import stopping  # noqa: F401 isort: skip (signals, while the rest is being imported)

import contextlib
import shutil
import sys
from pathlib import Path

import numpy as np
from transformers.utils import logging

from scl_hf.cli import RecipeParser, run_script, split_command_line
from scl_hf.config import other_fields
from scl_hf.data import DataArguments, load_evaluation
from scl_hf.data.images import read_pair
from scl_hf.errors import InputError
from scl_hf.evaluation import checkpoints as scoring
from scl_hf.evaluation.official import import_official_scorer, official_scores
from scl_hf.evaluation.report import Report, confusion_page, json_page, markdown_page, text_table
from scl_hf.evaluation.scoring import EvaluationArguments, make_accelerator
from scl_hf.files import FolderLock, check_writable, replacing, write_json
from scl_hf.visualization.confusion import plot_confusion_matrix
from scl_hf.visualization.names import folder_names, short_names
from scl_hf.visualization.panels import comparison_panel

USAGE = "eval.py CHECKPOINT [CHECKPOINT …] [RECIPE.yaml] [--field value …]"


def main() -> int:
    # 1. Checkpoints, the recipe, and the command line on top of it
    given, command_line = split_command_line(sys.argv[1:])
    recipes = [argument for argument in given if argument.endswith((".yaml", ".yml"))]
    checkpoints = [argument for argument in given if argument not in recipes]
    parser = RecipeParser((DataArguments, EvaluationArguments, scoring.ScoringArguments), usage=USAGE)
    not_ours = other_fields(DataArguments, EvaluationArguments)
    data_args, evaluation, args = parser.parse_recipe([*recipes[:1], *command_line], not_ours)
    if not checkpoints or len(recipes) > 1:
        raise InputError(f"at least one checkpoint and at most one recipe come first: {USAGE}")
    names = short_names(checkpoints, {"ema": " (EMA)", "student": " (student)"}.get(args.weights, ""))
    default = "_".join(folder_names(names)) + f"-{data_args.eval_split}"
    output = Path("runs/evaluation", default) if args.output is None else args.output
    check_writable("output", output)
    output = Path(output)
    lock = FolderLock("output", output)
    settings = scoring.score_settings(checkpoints, data_args, evaluation, args)
    if not args.overwrite:
        scoring.check_earlier_scores(output / "scores.json", settings)
    # With several checkpoints, each has a folder of its own.
    folders = [output / name for name in folder_names(names)] if len(names) > 1 else [output]
    if args.official:
        if data_args.dataset != "cityscapes":
            raise InputError(f"official: scores Cityscapes' label files only, not dataset {data_args.dataset}")
        import_official_scorer()
    accelerator = make_accelerator(args.dtype)
    logging.disable_progress_bar()

    # 2. The evaluation split, and the models: all are checked before the first is scored
    with accelerator.main_process_first():
        dataset, palette = load_evaluation(data_args)
    label = dataset.features["label"]
    models = [scoring.load_for_data(checkpoint, args, label.id2label) for checkpoint in checkpoints]

    # 3. Scores, and those of the official scorer; its files are kept once it has read all of them
    shown = np.linspace(0, len(dataset) - 1, min(args.panel_images, len(dataset))).round().astype(int).tolist()
    reports, predictions = [], {}
    temporary = output / ".label_ids"
    with contextlib.ExitStack() as stack:
        if accelerator.is_main_process:
            shutil.rmtree(temporary, ignore_errors=True)  # of a run that was killed
            stack.callback(shutil.rmtree, temporary, ignore_errors=True)
        accelerator.wait_for_everyone()
        label_ids = [temporary / str(index) if args.official else None for index in range(len(names))]
        for name, model, files in zip(names, models, label_ids):
            results, predictions[name] = scoring.score_checkpoint(
                model, dataset, evaluation, accelerator, shown, files
            )
            reports.append(Report(name, model.name, label.id2label, results))
        accelerator.wait_for_everyone()
        accelerator.end_training()
        if not accelerator.is_main_process:
            return 0
        if args.official:
            for report, files in zip(reports, label_ids):
                predicted = [scoring.label_ids_file(files, image_id) for image_id in dataset["id"]]
                report.official = official_scores(predicted, [Path(stored["path"]) for stored in dataset["label"]])
            for folder, files in zip(folders, label_ids):
                folder.mkdir(parents=True, exist_ok=True)
                shutil.rmtree(folder / "label_ids", ignore_errors=True)
                files.rename(folder / "label_ids")

    # 4. Pages and images
    title = f"{data_args.title}, {data_args.eval_split}"
    pages = {output / "scores.md": markdown_page(reports, title, len(dataset), evaluation, args.dtype)}
    pages |= {folder / "confusion.csv": confusion_page(report) for folder, report in zip(folders, reports)}
    for page, text in pages.items():
        with replacing(page) as partial:
            partial.write_text(text, encoding="utf-8")
    write_json(output / "scores.json", json_page(reports, settings, len(dataset)))
    for report, folder in zip(reports, folders):
        plot_confusion_matrix(report.results["confusion_matrix"].numpy(), label.id2label, folder / "confusion.png")
    if shown:
        images, labels = zip(*(read_pair(dataset[index], label.table) for index in shown))
        with replacing(output / "panel.png") as partial:
            comparison_panel(images, labels, predictions, label.id2label, palette).save(partial)
    print(text_table(reports))
    print(f"\nscores, sample predictions and confusion matrices are in {output}")

    # 5. Compare the two scorers; NaN in only one of them is a difference
    differing = [report for report in reports if report.official and not report.official_difference() <= 1e-6]
    for report in differing:
        print(
            f"error: official: {report.name} has mIoU {report.official['mean_iou']:.8f} and mean of categories "
            f"{report.official['mean_category_iou']:.8f} there, {report.results['mean_iou']:.8f} and "
            f"{report.mean_category_iou:.8f} here",
            file=sys.stderr,
        )
    if args.official and not differing:
        print(f"the Cityscapes scorer agrees, to {max(report.official_difference() for report in reports):.1e}")
    lock.release()
    return 1 if differing else 0


if __name__ == "__main__":
    run_script(main)

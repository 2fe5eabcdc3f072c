"""
Trains a model from a recipe:

    accelerate launch scripts/train.py recipes/demo.yaml
    accelerate launch scripts/train.py recipes/camvid.yaml --data_dir DATA --learning_rate 0.001

Every field of a recipe can be given on the command line, which wins. Wrong input ends with one line and exit code 2.
"""

import os
import sys
import warnings
from pathlib import Path

from tqdm.auto import tqdm
from transformers import set_seed
from transformers.utils import logging

from scl_hf import SemiSupervisedTrainer
from scl_hf.callbacks import run_summary, usage
from scl_hf.data import (
    Augmentation,
    ClassIndex,
    EvaluationImages,
    LabeledCrops,
    LabeledDraws,
    UnlabeledCrops,
    load_data,
)
from scl_hf.errors import InputError
from scl_hf.hub import load_model
from scl_hf.output import check_output_dir, clear_output_dir
from scl_hf.recipe import TRAINING_RECIPE, RecipeParser


def main() -> None:
    # 1. The recipe, and the command line on top of it
    parser = RecipeParser(TRAINING_RECIPE)
    model_args, data_args, sampling_args, augmentation_args, args = parser.parse_recipe(sys.argv[1:])
    if args.model_card_template is None:
        args.model_card_template = str(Path(__file__).resolve().parents[1] / "model_card.md")
    checkpoint = check_output_dir(args.output_dir, args.resume_from_checkpoint, args.overwrite_output_dir)
    logging.disable_progress_bar()  # of every file that is written; the run has its own
    # DDP copies the gradients of channels-last convolutions; they are faster all the same.
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
    set_seed(args.seed)

    # 2. Rows: labelled, unlabelled and evaluation images
    with args.main_process_first(desc="data"):
        data = load_data(data_args)

    # 3. The model, and the image processor that is saved with it
    model, image_processor = load_model(model_args, data.id2label)
    normalization = {"image_mean": image_processor.image_mean, "image_std": image_processor.image_std}

    # 4. Draws and crops
    with args.main_process_first(desc="class index"):
        class_index = None
        if sampling_args.class_uniform_share > 0:
            class_index = ClassIndex.build(
                data.labeled,
                data.coarse,
                data.labeled.features["label"].table,
                data.id2label,
                tile=sampling_args.class_uniform_tile,
                coarse_classes=sampling_args.coarse_classes,
                num_proc=os.cpu_count(),
                skip_corrupt=sampling_args.skip_corrupt,
            )
    draws = LabeledDraws(
        len(data.labeled),
        seed=args.draw_seed,
        class_index=class_index,
        class_uniform_share=sampling_args.class_uniform_share,
        coarse_until_epoch=sampling_args.coarse_until_epoch,
    )
    augmentation = Augmentation(augmentation_args, **normalization)
    table = data.labeled.features["label"].table
    labeled = LabeledCrops(data.labeled, augmentation, table, data.coarse, sampling_args.skip_corrupt)
    unlabeled = (
        UnlabeledCrops(data.unlabeled, augmentation, sampling_args.skip_corrupt) if args.semi_supervised else None
    )

    # 5. Train: losses, EMA, evaluation, checkpoints
    trainer = SemiSupervisedTrainer(
        model=model,
        args=args,
        train_dataset=labeled,
        unlabeled_dataset=unlabeled,
        eval_dataset=EvaluationImages(data.evaluation, table, **normalization),
        processing_class=image_processor,
        labeled_draws=draws,
        palette=data.palette,
    )
    if trainer.is_world_process_zero():
        if args.overwrite_output_dir and checkpoint is None:
            clear_output_dir(args.output_dir)
        print(run_summary(trainer))
    result = trainer.train(resume_from_checkpoint=checkpoint)

    # 6. Score the model that is published, save it with its metrics and card, and push it where that was asked for
    metrics = result.metrics | trainer.final_metrics()
    trainer.save_model()
    trainer.save_state()
    trainer.save_metrics("all", metrics)
    card = {"dataset": Path(data_args.data_dir).resolve().name if data_args.data_dir else data_args.dataset}
    if args.push_to_hub:
        trainer.push_to_hub(**card)
    else:
        trainer.create_model_card(**card)

    # 7. How to use it
    if trainer.is_world_process_zero():
        print(usage(trainer))
    trainer.accelerator.wait_for_everyone()  # a process that leaves early would take the others' connections with it
    trainer.accelerator.end_training()


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        tqdm.write(f"error: {error}", file=sys.stderr)  # on a line of its own, below the progress bar
        sys.exit(2)

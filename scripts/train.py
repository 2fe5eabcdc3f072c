"""
Trains a model from a recipe:

    accelerate launch scripts/train.py recipes/demo.yaml
    accelerate launch scripts/train.py recipes/camvid.yaml --data_dir DATA --learning_rate 0.001
    python scripts/train.py recipes/cityscapes.yaml --dry_run true --num_gpus 8 --tflops_per_second 60

The command line wins over the recipe. `--dry_run true` prints what the run would see, compute and hold, and trains
nothing. Exit code 2: wrong input, numbers that are not finite, or a full disk. Exit code 128 + its number: a signal,
before which a checkpoint was saved. The same command with --resume_from_checkpoint true resumes the run.
"""

import stopping  # noqa: F401 isort: skip (signals, while the rest is being imported)

import sys
import warnings
from contextlib import nullcontext
from pathlib import Path

import torch
from transformers import set_seed
from transformers.utils import logging

from scl_hf import SemiSupervisedConfig, SemiSupervisedTrainer
from scl_hf.checkpointing import signals
from scl_hf.checkpointing.manifest import check_output_dir, clear_output_dir
from scl_hf.cli import RecipeParser, run_script
from scl_hf.config import TRAINING_RECIPE
from scl_hf.data import DataArguments, load_data
from scl_hf.data.batch import training_crops
from scl_hf.dry_run import DryRunArguments, estimate
from scl_hf.evaluation.in_training import best_metric_of
from scl_hf.files import FolderLock
from scl_hf.image_processors import load_processor, normalization_of
from scl_hf.preparation import check_settings_of
from scl_hf.pretrained import ModelArguments, load_model
from scl_hf.processes import is_main_process
from scl_hf.progress import run_summary, usage
from scl_hf.rounds import describe_gains


def main() -> None:
    # 1. The recipe, and the command line on top of it
    parser = RecipeParser((*TRAINING_RECIPE, DryRunArguments))
    *recipe, dry = parser.parse_recipe(sys.argv[1:])
    logging.disable_progress_bar()  # of every file that is opened or written; the run has its own
    if dry.dry_run:
        describe_run(*recipe, dry)
        return
    with FolderLock("output_dir", recipe[-1].output_dir):
        train(*recipe, parser.portable_recipe())


def train(model_args: ModelArguments, data_args: DataArguments, args: SemiSupervisedConfig, recipe: str) -> None:
    """Trains, saves and publishes; the model card shows `recipe`."""
    # 2. The output folder, the data, the model and its image processor
    if args.model_card_template is None:
        args.model_card_template = str(Path(__file__).resolve().parents[1] / "model_card.md")
    checkpoint = check_output_dir(args.output_dir, args.resume_from_checkpoint, args.overwrite_output_dir)
    # DDP copies the gradients of channels-last convolutions; they are faster all the same.
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
    set_seed(args.seed)
    data = load_data(data_args, args.eval_strategy != "no")
    model = load_model(model_args, data.id2label)

    # 3. Training
    trainer = SemiSupervisedTrainer(
        model=model,
        args=args,
        train_dataset=data.labeled,
        unlabeled_dataset=data.unlabeled,
        eval_dataset=data.evaluation,
        processing_class=load_processor(model_args.origin, model_args.trust_remote_code),
        coarse_dataset=data.coarse,
        palette=data.palette,
    )
    if trainer.is_world_process_zero():
        if args.overwrite_output_dir and checkpoint is None:
            clear_output_dir(args.output_dir)
        num_unlabeled = len(data.unlabeled) if args.semi_supervised else 0
        print(run_summary(model, args, len(data.labeled), num_unlabeled, len(data.evaluation or ())))
    with signals.deferred():  # a signal has a checkpoint saved
        result = trainer.train(resume_from_checkpoint=checkpoint)
        metrics = result.metrics | (trainer.final_metrics() if data.evaluation else {})

    # 4. The published model with its scores and card
    with signals.deferred():  # all of it, or nothing
        trainer.save_model(_internal_call=True)  # pushed below, with all that belongs to it
        trainer.save_state()
        trainer.save_metrics("all", metrics)
    about = {"finetuned_from": model_args.origin, "data_license": data.license, "recipe": recipe}
    about |= {"dataset": data_args.title, "dataset_tags": data_args.hub_id, "eval_split": data_args.eval_split}
    publish = trainer.push_to_hub if args.push_to_hub else trainer.create_model_card
    publish(**about)

    # 5. How to use it
    if trainer.is_world_process_zero():
        print(describe_gains(trainer.state.log_history, args.semi_supervised) + usage(model, args))
    trainer.accelerator.wait_for_everyone()  # a process that leaves early would take the others' connections with it
    trainer.accelerator.end_training()


def describe_run(
    model_args: ModelArguments, data_args: DataArguments, args: SemiSupervisedConfig, dry: DryRunArguments
) -> None:
    """Prints what the run would be; opens and checks data, model and settings as `train` does."""
    data = load_data(data_args, args.eval_strategy != "no")
    with torch.device("meta") if model_args.origin is None else nullcontext():  # random weights need not be drawn
        model = load_model(model_args, data.id2label)
    check_settings_of(model, args)
    normalization = normalization_of(load_processor(model_args.origin, model_args.trust_remote_code))
    images = (data.labeled, data.unlabeled, data.coarse)
    crops, sampler = training_crops(args, data.id2label, normalization, *images)
    best_metric_of(args.metric_for_best_model, data.evaluation or None, data.id2label)
    if is_main_process():
        print(estimate(model, args, crops, sampler, len(data.evaluation or ()), dry))


if __name__ == "__main__":
    run_script(main)

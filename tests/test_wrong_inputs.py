"""
More than a hundred wrong inputs, given to the scripts as users give them: each ends with one line that names the field
or the file, with exit code 2, and nothing is written.
"""

import io
import json
import os
import re
import runpy
import shutil
import signal
import sys
import traceback
import unittest.mock
from collections import Counter
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import SMALL_RUN, TINY, tiny_model, write_png
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel, SegformerImageProcessorPil

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
CLASSES = {0: "grass", 1: "path", 2: "sky"}
RECIPE = SMALL_RUN | {
    "dataset": "folder",
    "data_dir": "mine",
    "labeled_fraction": 0.5,
    "output_dir": "run",
    "class_uniform_tile": 32,
    "max_steps": 1,
    "report_to": "none",
    "disable_tqdm": True,
}
TRAIN = "train.py recipe.yaml"
EVAL = "eval.py model --dataset folder --data_dir mine"
PREDICT = "predict.py model mine/validation/images --output out"
CHECK = "prepare_dataset.py check mine --num_proc 1"
PUSH = "prepare_dataset.py push mine parquet"
PLOT = "plot_curves.py log"
COUNTS = Counter()


# What spoils the folder that a script is run in; each returns a function without arguments.


def fields(**values):
    return lambda: Path("recipe.yaml").write_text(yaml.safe_dump(RECIPE | values))


def token():
    os.environ["HF_TOKEN"] = "hf_MadeUp"


def launched(**variables):
    return lambda: os.environ.update(variables)


def recipe(content):
    return lambda: Path("recipe.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())


def more(text):
    return lambda: Path("recipe.yaml").write_text(yaml.safe_dump(RECIPE) + text)


def write(path, content):
    def spoil():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(content if isinstance(content, bytes) else content.encode())

    return spoil


def both(*spoils):
    return lambda: [spoil() for spoil in spoils]


def cut(path, size):
    return lambda: Path(path).write_bytes(Path(path).read_bytes()[:size])


def remove(path):
    return lambda: shutil.rmtree(path) if Path(path).is_dir() else Path(path).unlink()


def folder_at(path):
    return lambda: (Path(path).is_file() and Path(path).unlink(), Path(path).mkdir(parents=True))


def fifo(path):
    return lambda: (Path(path).unlink(missing_ok=True), os.mkfifo(path))


def loop(path):
    return lambda: (Path(path).unlink(missing_ok=True), Path(path).symlink_to(Path(path).name))


def image_file(path, mode="L", size=(60, 40), value=0, dtype=None):
    def spoil():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        image = Image.new(mode, size, value) if dtype is None else Image.fromarray(np.full(size[::-1], value, dtype))
        image.save(path)

    return spoil


def bomb(path, width=32768, height=32768):
    """The header of a PNG of 2³⁰ pixels, and a few bytes."""
    return lambda: write_png(path, width, height, 8, 2, bytes(1000))


def edit_json(path, **values):
    return lambda: Path(path).write_text(json.dumps(json.loads(Path(path).read_text()) | values))


def each(glob, spoil):
    return lambda: [spoil(path)() for path in sorted(map(str, Path().glob(glob)))]


def weights(change):
    def spoil():
        tensors = load_file("model/model.safetensors")
        change(tensors)
        save_file(tensors, "model/model.safetensors", metadata={"format": "pt"})

    return spoil


def pickled(content):
    return lambda: (Path("model/model.safetensors").unlink(), torch.save(content(), "model/pytorch_model.bin"))


def bert():
    shutil.rmtree("model")
    BertModel(BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1)).save_pretrained("model")


def log(content):
    return write("log/trainer_state.json", content)


NAN, INF = float("nan"), float("inf")
START = fields(model_name_or_path="model", model_config=None)  # a run that starts from a checkpoint
BAD_NAME = "x" * 300

# Name -> what spoils the folder, the command line, and what the line says.
CASES = {
    # Fields of a recipe
    "typo": (fields(lerning_rate=1), TRAIN, "unknown field 'lerning_rate'. Did you mean 'learning_rate'"),
    "dash": (fields(**{"learning-rate": 1}), TRAIN, "learning-rate"),
    "number as a field": (fields(**{"7": 1}), TRAIN, "unknown field '7'"),
    "text for a number": (fields(learning_rate="fast"), TRAIN, "learning_rate"),
    "comma": (fields(learning_rate="0,01"), TRAIN, "learning_rate"),
    "text for a switch": (fields(ema_teacher="maybe"), TRAIN, "ema_teacher"),
    "list for a number": (fields(learning_rate=[0.1]), TRAIN, "learning_rate"),
    "mapping for a number": (fields(num_boxes={"a": 1}), TRAIN, "num_boxes"),
    "mapping for a list": (fields(crop_size={"height": 32}), TRAIN, "crop_size"),
    "nested list": (fields(crop_size=[[32, 32]]), TRAIN, "crop_size"),
    "null for a number": (fields(num_boxes=None), TRAIN, "num_boxes"),
    "null in a list": (fields(crop_size=[32, None]), TRAIN, "crop_size"),
    "half a box": (fields(num_boxes=2.5), TRAIN, "num_boxes"),
    "too many boxes": (fields(num_boxes=10**20), TRAIN, "num_boxes"),
    "batch beyond memory": (fields(per_device_train_batch_size=10**11), TRAIN, "per_device_train_batch_size"),
    "negative warm-up": (fields(warmup_steps=-5), TRAIN, "warmup_steps"),
    "no box": (fields(num_boxes=0), TRAIN, "num_boxes"),
    "more loss boxes than boxes": (fields(num_loss_boxes=5), TRAIN, "num_loss_boxes"),
    "adjustment beyond reason": (fields(logit_adjustment=5.0), TRAIN, "logit_adjustment"),
    "rounds without an unlabeled image": (
        fields(
            **{"self_training_rounds": 1, "semi_supervised_start_step": None, "max_steps": 2},
            **{"labeled_fraction": 1.0, "unlabeled_includes_labeled": False},
        ),
        TRAIN,
        "no unlabeled images",
    ),
    "fewer steps than phases": (
        fields(self_training_rounds=9, semi_supervised_start_step=None, lr_scheduler_type="constant", max_steps=9),
        TRAIN,
        "self_training_rounds: must be below the run's 9 steps",
    ),
    "rounds against a start step": (
        fields(self_training_rounds=1, semi_supervised_start_step=9, max_steps=10),
        TRAIN,
        "semi_supervised_start_step: 9 is not the length of a phase",
    ),
    "rounds against a rate": (
        fields(
            **{"self_training_rounds": 1, "semi_supervised_start_step": None},
            **{"lr_scheduler_type": "cosine_with_restarts", "lr_scheduler_kwargs": {"num_cycles": 5}},
        ),
        TRAIN,
        "lr_scheduler_kwargs: .* is not one cycle a phase",
    ),
    "negative rounds": (fields(self_training_rounds=-1), TRAIN, "self_training_rounds"),
    "no step for a teacher": (fields(teacher_update_interval=0), TRAIN, "teacher_update_interval"),
    "copies without an EMA teacher": (
        fields(teacher_update_interval=10, ema_teacher=False),
        TRAIN,
        "teacher_update_interval",
    ),
    "license in words": (fields(license="Apache 2.0"), TRAIN, "license: must be written as on the Hub"),
    "even window": (fields(relaxation_window=4), TRAIN, "relaxation_window"),
    "negative rate": (fields(learning_rate=-0.1), TRAIN, "learning_rate"),
    "negative decay": (fields(weight_decay=-1.0), TRAIN, "weight_decay"),
    "negative clipping": (fields(max_grad_norm=-1.0), TRAIN, "max_grad_norm"),
    "rate nan": (fields(learning_rate=NAN), TRAIN, "learning_rate"),
    "rate inf": (fields(learning_rate=INF), TRAIN, "learning_rate"),
    "weight inf": (fields(consistency_weight=INF), TRAIN, "consistency_weight"),
    "epochs inf": (fields(num_train_epochs=INF, max_steps=-1), TRAIN, "num_train_epochs"),
    "epochs nan": (fields(num_train_epochs=NAN, max_steps=-1), TRAIN, "num_train_epochs"),
    "ema nan": (fields(ema_decay=NAN), TRAIN, "ema_decay"),
    "ratio nan": (fields(cutmix_ratio=NAN), TRAIN, "cutmix_ratio"),
    "scales inf": (fields(scale_range=[0.5, INF]), TRAIN, "scale_range"),
    "scales nan": (fields(scale_range=[NAN, 2.0]), TRAIN, "scale_range"),
    "scales reversed": (fields(scale_range=[2.0, 0.5]), TRAIN, "scale_range"),
    "one scale": (fields(scale_range=[0.5]), TRAIN, "scale_range"),
    "scale beyond memory": (fields(scale_range=[1e-9, 1e9]), TRAIN, "scale_range"),
    "blur inf": (fields(blur_sigma=[0.1, INF]), TRAIN, "blur_sigma"),
    "blur beyond memory": (fields(blur_sigma=[1e9, 1e9]), TRAIN, "blur_sigma"),
    "hue": (fields(hue=0.9), TRAIN, "hue"),
    "brightness in percent": (fields(brightness=25), TRAIN, "brightness"),
    "crop of no pixels": (fields(crop_size=0), TRAIN, "crop_size"),
    "negative crop": (fields(crop_size=[-32, 32]), TRAIN, "crop_size"),
    "crop of three sides": (fields(crop_size=[32, 32, 3]), TRAIN, "crop_size"),
    "share in percent": (fields(labeled_fraction=50), TRAIN, "labeled_fraction"),
    "share nan": (fields(labeled_fraction=NAN), TRAIN, "labeled_fraction"),
    "seed too large": (fields(seed=2**32), TRAIN, "seed"),
    "negative seed": (fields(seed=-1), TRAIN, "seed"),
    "negative data seed": (fields(data_seed=-1), TRAIN, "data_seed"),
    "data seed too large": (fields(data_seed=2**70), TRAIN, "data_seed"),
    "no epochs": (fields(num_train_epochs=0, max_steps=-1), TRAIN, "num_train_epochs"),
    "no steps": (fields(max_steps=0), TRAIN, "max_steps"),
    "no saving steps": (fields(save_strategy="steps", save_steps=0), TRAIN, "save_steps"),
    "negative saving steps": (fields(save_strategy="steps", save_steps=-5), TRAIN, "save_steps"),
    "no evaluation steps": (fields(eval_strategy="steps", eval_steps=0), TRAIN, "eval_steps"),
    "no logging steps": (fields(logging_steps=0), TRAIN, "logging_steps"),
    "logging steps nan": (fields(logging_steps=NAN), TRAIN, "logging_steps"),
    "strategy": (fields(save_strategy="sometimes"), TRAIN, "sometimes"),
    "optimizer": (fields(optim="sdg"), TRAIN, "sdg"),
    "optimizer that is not installed": (fields(optim="adamw_bnb_8bit", optim_args=None), TRAIN, "optim"),
    "unknown optimizer argument": (
        fields(optim="sgd", optim_args="foo=1"),
        TRAIN,
        "optim, optim_args: sgd does not take foo: foo=1 changes nothing",
    ),
    "argument of another optimizer": (
        fields(optim="sgd", optim_args="momentum=0.9,betas=0.9"),
        TRAIN,
        "optim_args.*betas",
    ),
    "argument that adamw does not take": (
        fields(optim="adamw_torch", optim_args="eps=1"),
        TRAIN,
        "optim, optim_args: adamw_torch does not take eps",
    ),
    "text in an optimizer argument": (
        fields(optim="sgd", optim_args="momentum=high"),
        TRAIN,
        "optim, optim_args: .*high",
    ),
    "optimizer arguments in YAML": (fields(optim_args={"momentum": 0.9}), TRAIN, "optim_args"),
    "negative momentum": (fields(optim="sgd", optim_args="momentum=-1"), TRAIN, "optim_args.*momentum"),
    "nesterov without momentum": (
        fields(optim="sgd", optim_args="nesterov=true"),
        TRAIN,
        "optim, optim_args: Nesterov",
    ),
    "schedule": (fields(lr_scheduler_type="polinomial"), TRAIN, "polinomial"),
    "schedule's arguments": (
        fields(lr_scheduler_kwargs={"powr": 1}),
        TRAIN,
        "lr_scheduler_type, lr_scheduler_kwargs: .*powr",
    ),
    "schedule's end": (fields(lr_scheduler_kwargs={"lr_end": 1.0}), TRAIN, "lr_scheduler_kwargs.*lr_end"),
    "schedule's arguments no JSON": (fields(lr_scheduler_kwargs="power=1"), TRAIN, "lr_scheduler_kwargs"),
    "schedule's arguments broken JSON": (fields(lr_scheduler_kwargs="{power: 1}"), TRAIN, "lr_scheduler_kwargs"),
    "no decay of what": (fields(no_weight_decay=["norm"]), TRAIN, "no_weight_decay"),
    "tracker": (fields(report_to="tensorbord"), TRAIN, "report_to.*tensorbord"),
    "tracker that is not installed": (fields(report_to=["wandb"]), TRAIN, "report_to.*wandb"),
    "none among trackers": (fields(report_to=["none", "tensorboard"]), TRAIN, "report_to.*none"),
    "metric": (fields(metric_for_best_model="accuracy"), TRAIN, "metric_for_best_model"),
    "best of unequal steps": (
        fields(load_best_model_at_end=True, eval_strategy="epoch", save_strategy="steps"),
        TRAIN,
        "load_best_model_at_end",
    ),
    "batch of one": (
        fields(per_device_train_batch_size=1, semi_supervised_start_step=1),
        TRAIN,
        "per_device_train_batch_size",
    ),
    "negative workers": (fields(dataloader_num_workers=-1), TRAIN, "dataloader_num_workers"),
    "prefetch without workers": (fields(dataloader_prefetch_factor=2), TRAIN, "prefetch_factor"),
    "gpu precision": (fields(fp16_full_eval=True), TRAIN, "fp16_full_eval"),
    "both precisions": (fields(fp16=True, bf16=True), TRAIN, "fp16"),
    "half precision without a gpu": (fields(fp16=True, use_cpu=True), TRAIN, "fp16: needs a GPU"),
    "sharding": (fields(fsdp="full_shard"), TRAIN, "fsdp"),
    "sharding by accelerate launch": (launched(ACCELERATE_USE_FSDP="true"), TRAIN, "ACCELERATE_USE_FSDP"),
    "processes apart": (both(launched(WORLD_SIZE="2"), fields(use_cpu=False)), TRAIN, "WORLD_SIZE: the 2 processes"),
    "evaluation scales": (fields(eval_scales=[1.0, INF]), TRAIN, "eval_scales"),
    "evaluation scales empty": (fields(eval_scales=[]), TRAIN, "eval_scales"),
    "no tile": (fields(eval_tile=[0, 8]), TRAIN, "eval_tile"),
    "overlap nan": (fields(eval_overlap=NAN), TRAIN, "eval_overlap"),
    "debug": (fields(debug="everything"), TRAIN, "everything"),
    "accelerator file": (fields(accelerator_config="none.json"), TRAIN, "none.json"),
    "card missing": (
        fields(model_card_template="none.md"),
        TRAIN,
        "model_card_template none.md: cannot be filled .*No such",
    ),
    "card a folder": (fields(model_card_template="mine"), TRAIN, "model_card_template mine"),
    "card not text": (
        both(fields(model_card_template="c.md"), write("c.md", b"\xff\xfe\x00")),
        TRAIN,
        "model_card_template c.md",
    ),
    "card not Jinja": (
        both(fields(model_card_template="c.md"), write("c.md", "---\n{{ card_data }}\n---\n{% if %}")),
        TRAIN,
        "model_card_template c.md",
    ),
    "card with an error": (
        both(fields(model_card_template="c.md"), write("c.md", "---\n{{ card_data }}\n---\n{{ 1 / 0 }}")),
        TRAIN,
        "model_card_template c.md.*zero",
    ),
    "card with an unknown value": (
        both(fields(model_card_template="c.md"), write("c.md", "---\n{{ card_data }}\n---\n{{ no.such.value }}")),
        TRAIN,
        "model_card_template c.md.*undefined",
    ),
    "card without YAML": (
        both(fields(model_card_template="c.md"), write("c.md", "---\na: b: c\n---\n")),
        TRAIN,
        "model_card_template c.md",
    ),
    "output empty": (fields(output_dir=""), TRAIN, "output_dir.*empty"),
    "output a file": (both(fields(output_dir="file"), write("file", "")), TRAIN, "output_dir file"),
    "output below a file": (both(fields(output_dir="file/run"), write("file", "")), TRAIN, "output_dir file/run"),
    "output's name too long": (fields(output_dir=BAD_NAME), TRAIN, "output_dir .*too long"),
    "output's folder too long": (fields(output_dir=f"new/{BAD_NAME}/run"), TRAIN, "output_dir .*too long"),
    "output with NUL": (fields(output_dir="ru\0n"), TRAIN, "output_dir"),
    "output a loop": (both(fields(output_dir="lo/run"), loop("lo")), TRAIN, "output_dir"),
    "output in /proc": (fields(output_dir="/proc/run"), TRAIN, "output_dir /proc/run"),
    "resume from nothing": (fields(resume_from_checkpoint="true"), TRAIN, "resume_from_checkpoint"),
    "resume from no checkpoint": (fields(resume_from_checkpoint="mine"), TRAIN, "resume_from_checkpoint"),
    "resume from two lines": (fields(resume_from_checkpoint="a\nb"), TRAIN, "a b is not a checkpoint"),
    "resume from the Hub": (fields(resume_from_checkpoint="me/x"), TRAIN, "me/x is not .*`hf download user/repo"),
    "no unlabeled images": (
        fields(unlabeled_includes_labeled=False, labeled_fraction=1),
        TRAIN,
        "consistency_weight.*no unlabeled images.*unlabeled_dirs.*set both to 0",
    ),
    # Recipe files
    "recipe too long": (None, f"train.py {BAD_NAME}", "no such recipe"),
    "no recipe": (None, "train.py none.yaml", "none.yaml: no such recipe"),
    "recipe a folder": (None, "train.py mine", "mine: no such recipe"),
    "recipe binary": (recipe(b"\x89PNG\r\n\x1a\n\0\0"), TRAIN, "recipe.yaml: not YAML"),
    "recipe Latin-1": (recipe("output_dir: größe".encode("latin-1")), TRAIN, "recipe.yaml: not YAML"),
    "recipe UTF-16": (recipe("seed: 1".encode("utf-16")), TRAIN, "recipe.yaml: not YAML"),
    "recipe with tabs": (recipe("model_config:\n\tstem_channels: 4"), TRAIN, "recipe.yaml: not YAML"),
    "recipe a list": (recipe("- seed: 1"), TRAIN, "recipe.yaml"),
    "recipe empty": (recipe(""), TRAIN, "recipe.yaml"),
    "recipe of text": (recipe("seed = 1"), TRAIN, "recipe.yaml"),
    "recipe JSON cut off": (recipe('{"seed": 1'), TRAIN, "recipe.yaml: not YAML"),
    "field twice": (more("seed: 1\nseed: 2"), TRAIN, "recipe.yaml: .*'seed'.*twice"),
    "two documents": (recipe("seed: 1\n---\nseed: 2"), TRAIN, "recipe.yaml: not YAML"),
    "python in YAML": (recipe("seed: !!python/object/apply:os.getpid []"), TRAIN, "recipe.yaml: not YAML"),
    "alias of itself": (more("lr_scheduler_kwargs: &a {b: *a}"), TRAIN, "recipe.yaml: not YAML: Circular"),
    "deep YAML": (recipe("seed: " + "[" * 5000), TRAIN, "recipe.yaml: not YAML"),
    "list as a key": (recipe("? [a, b]\n: 1"), TRAIN, "recipe.yaml: not YAML"),
    "key null": (recipe("null: 1"), TRAIN, "recipe.yaml: unknown field"),
    "date": (recipe("seed: 2020-01-01"), TRAIN, "recipe.yaml: seed"),
    "merge of nothing": (recipe("<<: 1"), TRAIN, "recipe.yaml: not YAML"),
    "field of a field twice": (more("lr_scheduler_kwargs: {power: 1, power: 2}"), TRAIN, "'power'.*twice"),
    "base missing": (recipe("base: none.yaml"), TRAIN, "base"),
    "base itself": (recipe("base: recipe.yaml"), TRAIN, "base"),
    "base a list": (recipe("base: [a.yaml]"), TRAIN, "base"),
    "two recipes": (None, "train.py recipe.yaml recipe.yaml", "recipe.yaml"),
    "field without value": (None, f"{TRAIN} --learning_rate", "learning_rate"),
    "value without field": (None, f"{TRAIN} 0.1", "0.1"),
    "mapping no JSON": (None, f"{TRAIN} --model_config stem_channels=4", "model_config: not JSON"),
    "mapping a number": (None, f"{TRAIN} --model_config 4", "model_config"),
    # The model that a run starts from
    "unknown field of the model": (fields(model_config={"stem": 4}), TRAIN, "model_config: unknown field 'stem'"),
    "text in the model": (fields(model_config=TINY | {"aspp_channels": "many"}), TRAIN, "model_config.*aspp_channels"),
    "model of no channels": (fields(model_config=TINY | {"stem_channels": 0}), TRAIN, "model_config.*stem_channels"),
    "model of one depth": (fields(model_config={"depths": [1]}), TRAIN, "model_config: .*depths must have 6"),
    "model with classes": (fields(model_config={"num_labels": 3}), TRAIN, "model_config: leave out 'num_labels'"),
    "number as a key of the model": (fields(model_config={1: 2}), TRAIN, "model_config"),
    "checkpoint and config": (fields(model_name_or_path="model"), TRAIN, "model_config"),
    "checkpoint missing": (
        fields(model_name_or_path="./none", model_config=None),
        TRAIN,
        "model_name_or_path ./none: no such folder",
    ),
    "checkpoint empty": (fields(model_name_or_path="", model_config=None), TRAIN, "model_name_or_path"),
    "checkpoint with NUL": (fields(model_name_or_path="./a\0b", model_config=None), TRAIN, "model_name_or_path"),
    "checkpoint a dataset": (fields(model_name_or_path="mine", model_config=None), TRAIN, "model_name_or_path mine"),
    "head alone": (fields(head="dpt"), TRAIN, "head"),
    "backbone a dataset": (fields(backbone="mine", model_config=None), TRAIN, "backbone mine"),
    "backbone a segmentation model": (fields(backbone="model", model_config=None), TRAIN, "backbone model"),
    # Folders of data
    "no folder": (remove("mine"), TRAIN, "mine"),
    "empty folder": (both(remove("mine"), folder_at("mine")), TRAIN, "mine"),
    "folder a file": (both(remove("mine"), write("mine", "")), TRAIN, "mine"),
    "no data_dir": (fields(data_dir=None), TRAIN, "data_dir"),
    "empty data_dir": (fields(data_dir=""), TRAIN, "data_dir"),
    "data_dir with NUL": (fields(data_dir="mi\0ne"), TRAIN, "data_dir"),
    "data_dir too long": (fields(data_dir=BAD_NAME), TRAIN, "data_dir"),
    "layout of Cityscapes": (fields(dataset="cityscapes"), TRAIN, "mine"),
    "layout of Mapillary": (fields(dataset="mapillary"), TRAIN, "mine"),
    "unknown dataset": (fields(dataset="./folders", data_dir=None), TRAIN, "dataset"),
    "empty dataset": (fields(dataset=""), TRAIN, "dataset"),
    "split one deeper": (fields(data_dir="mine/train"), TRAIN, "mine/train"),
    "unknown split": (
        fields(train_splits=["trian"]),
        TRAIN,
        "no split trian .looked for trian/images., only .*; correct train_splits",
    ),
    "no split": (fields(train_splits=[]), TRAIN, "train_splits"),
    "evaluation on what is trained on": (fields(eval_split="train"), TRAIN, "eval_split"),
    "unlabeled folder missing": (fields(unlabeled_dirs=["none"]), TRAIN, "unlabeled_dirs.*none"),
    "unlabeled folder without images": (fields(unlabeled_dirs=["log"]), TRAIN, "unlabeled_dirs.*log"),
    "subset of Cityscapes": (fields(labeled_fraction=1.0, labeled_split="1_8"), TRAIN, "labeled_split"),
    "coarse labels": (fields(use_coarse_labels=True), TRAIN, "use_coarse_labels"),
    "coarse classes": (fields(coarse_classes=[1]), TRAIN, "coarse_classes"),
    "class names missing": (remove("mine/id2label.json"), TRAIN, "id2label.json"),
    "class names a folder": (folder_at("mine/id2label.json"), TRAIN, "id2label.json"),
    "class names no JSON": (write("mine/id2label.json", "{0: grass}"), TRAIN, "id2label.json"),
    "class names a list": (write("mine/id2label.json", '["grass", "path"]'), TRAIN, "id2label.json"),
    "class names binary": (write("mine/id2label.json", b"\xff\xd8\xff"), TRAIN, "id2label.json"),
    "class names with a gap": (write("mine/id2label.json", '{"0": "a", "2": "b"}'), TRAIN, "id2label.json.*gap"),
    "class named twice": (write("mine/id2label.json", '{"0": "a", "1": "a"}'), TRAIN, "id2label.json.*'a'"),
    "class names by name": (write("mine/id2label.json", '{"a": 0, "b": 1}'), TRAIN, "id2label.json"),
    "id twice": (write("mine/id2label.json", '{"0": "a", "1": "b", "0": "c"}'), TRAIN, "id2label.json.*twice"),
    "no classes": (write("mine/id2label.json", "{}"), TRAIN, "id2label.json"),
    "null as a name": (write("mine/id2label.json", '{"0": null, "1": "b", "2": "c"}'), TRAIN, "id2label.json"),
    "class names in the recipe with a gap": (fields(id2label={0: "a", 2: "b"}), TRAIN, "id2label: the ids must be"),
    "class names in the recipe that are no text": (fields(id2label={0: "a", 1: False}), TRAIN, "id2label.*class 1"),
    "folder as a dataset": (fields(dataset="mine"), TRAIN, "dataset: mine .*write dataset: folder and data_dir: mine"),
    "variable not set": (fields(data_dir="$NOWHERE/mine"), TRAIN, "data_dir: '.NOWHERE/mine' needs .NOWHERE, which"),
    "label map": (fields(label_map={"grass": 0}), TRAIN, "label_map"),
    "label map to no class": (fields(label_map={0: 9}), TRAIN, "label_map"),
    "label map without a class": (fields(label_map={0: 0, 1: 1}), TRAIN, "label_map.*sky"),
    "ignored id a class": (fields(ignore_index=1), TRAIN, "ignore_index"),
    "ignored id negative": (fields(ignore_index=-100), TRAIN, "ignore_index"),
    "list of ids missing": (fields(labeled_ids="none.txt", labeled_fraction=1.0), TRAIN, "labeled_ids.*none.txt"),
    "list of ids a folder": (fields(labeled_ids="mine", labeled_fraction=1.0), TRAIN, "labeled_ids.*mine"),
    "list of ids binary": (
        both(fields(labeled_ids="ids.txt", labeled_fraction=1.0), write("ids.txt", b"\x89PNG\xff")),
        TRAIN,
        "ids.txt",
    ),
    "list of ids empty": (
        both(fields(labeled_ids="ids.txt", labeled_fraction=1.0), write("ids.txt", "\n\n")),
        TRAIN,
        "ids.txt",
    ),
    "list of ids of other data": (
        both(fields(labeled_ids="ids.txt", labeled_fraction=1.0), write("ids.txt", "frame0\nframe9\n")),
        TRAIN,
        "ids.txt.*frame9",
    ),
    "list of ids a FIFO": (
        both(fields(labeled_ids="ids.txt", labeled_fraction=1.0), fifo("ids.txt")),
        TRAIN,
        "ids.txt",
    ),
    # Labels and images
    "label missing": (
        remove("mine/validation/labels/frame1.png"),
        TRAIN,
        "images/frame1.png: its label is missing .1 of the 2 images of split validation have no label.; add it",
    ),
    "labels missing": (remove("mine/train/labels"), TRAIN, "none of the 4 images of split train has a label"),
    "image missing": (remove("mine/train/images/frame1.png"), TRAIN, "frame1.png: its image is missing"),
    "labels elsewhere": (
        lambda: Path("mine/train/labels").rename("mine/train/masks_old"),
        TRAIN,
        "has a label; write train_images: .*/train/images and train_labels: .*/train/masks_old",
    ),
    "labels in JPEG": (
        each("mine/train/labels/*.png", lambda path: both(image_file(path[:-3] + "jpg"), remove(path))),
        TRAIN,
        "is a JPEG, which blurs the values of a label",
    ),
    "folders swapped": (
        lambda: [
            Path(f"mine/{split}/{old}").rename(f"mine/{split}/{new}")
            for split in ("train", "validation")
            for old, new in (("images", "x"), ("labels", "images"), ("x", "labels"))
        ],
        TRAIN,
        "as a photo does; are images and labels swapped",
    ),
    "second image of a name": (image_file("mine/train/images/frame0.jpg", "RGB"), TRAIN, "second image named frame0"),
    "RGB labels": (
        each("mine/*/labels/*", lambda path: image_file(path, "RGB", value=(255, 0, 0))),
        TRAIN,
        "unknown class color .#ff0000.",
    ),
    "RGBA labels": (each("mine/*/labels/*", lambda path: image_file(path, "RGBA")), TRAIN, "2,400 pixels are transp"),
    "16-bit labels out of range": (
        each("mine/*/labels/*", lambda path: image_file(path, value=300, dtype=np.uint16)),
        TRAIN,
        "unknown class id 300",
    ),
    "labels out of range": (
        each("mine/*/labels/*", lambda path: image_file(path, value=3)),
        TRAIN,
        r"unknown class id 3 \(2,400 pix",
    ),
    "labels all ignored": (
        each("mine/train/labels/*", lambda path: image_file(path, value=255)),
        TRAIN,
        "no label .*shows",
    ),
    "labels all ignored, crops anywhere": (
        both(fields(class_uniform_share=0.0), each("mine/train/labels/*", lambda path: image_file(path, value=255))),
        TRAIN,
        "no label .*shows",
    ),
    "evaluation labels all ignored": (
        each("mine/validation/labels/*", lambda path: image_file(path, value=255)),
        TRAIN,
        "no label .*shows",
    ),
    "image empty": (cut("mine/train/images/frame0.png", 0), TRAIN, "1 file is empty or missing: .*frame0.png .empty"),
    "image a folder": (folder_at("mine/train/images/frame0.png"), TRAIN, "frame0.png"),
    "image a FIFO": (fifo("mine/train/images/frame0.png"), TRAIN, "frame0.png"),
    "image a loop": (loop("mine/train/images/frame0.png"), TRAIN, "frame0.png"),
    "label a FIFO": (fifo("mine/train/labels/frame0.png"), TRAIN, "frame0.png"),
    "labels cut off": (each("mine/train/labels/*", lambda path: cut(path, 60)), TRAIN, "labels/frame.*cannot be read"),
    "labels bombs": (each("mine/train/labels/*", bomb), TRAIN, "labels/frame.*damaged"),
    # eval.py
    "nothing to score": (None, "eval.py", "at least one checkpoint"),
    "recipe alone": (None, "eval.py recipe.yaml", "at least one checkpoint"),
    "scored by two recipes": (None, "eval.py model recipe.yaml recipe.yaml", "at most one recipe"),
    "scored twice": (None, "eval.py model model --dataset folder --data_dir mine", "given twice"),
    "no model": (None, "eval.py ./none --dataset folder --data_dir mine", "checkpoint ./none: no such folder"),
    "model empty": (None, ["eval.py", "", *EVAL.split()[2:]], "checkpoint"),
    "model a file": (None, f"eval.py model/config.json {EVAL[14:]}", "checkpoint model/config.json"),
    "other number of classes": (
        write("mine/id2label.json", '{"0": "a", "1": "b", "2": "c", "3": "d"}'),
        EVAL,
        "checkpoint model: has 3 classes",
    ),
    "other order of classes": (
        write("mine/id2label.json", '{"0": "sky", "1": "path", "2": "grass"}'),
        EVAL,
        "checkpoint model: .*order",
    ),
    "other split": (None, f"{EVAL} --eval_split nowhere", "no split nowhere"),
    "official scorer": (None, f"{EVAL} --official", "official"),
    "ema and student": (None, f"{EVAL} --ema --student", "ema, student"),
    "no student": (None, f"{EVAL} --student", "student"),
    "negative panels": (None, f"{EVAL} --panel_images -1", "panel_images"),
    "precision": (None, f"{EVAL} --dtype half", "dtype"),
    "scores in a file": (write("out", ""), f"{EVAL} --output out", "output out: is a file"),
    "scores nowhere": (None, [*EVAL.split(), "--output", ""], "output"),
    "scores too long": (None, f"{EVAL} --output {BAD_NAME}", "output .*too long"),
    "other scores": (write("out/scores.json", "{}"), f"{EVAL} --output out", "output: out/scores.json"),
    "scores broken": (write("out/scores.json", "{"), f"{EVAL} --output out", "output: out/scores.json"),
    "field of training": (None, f"{EVAL} --learning_rate 1", "unknown field 'learning_rate'"),
    "folder of training": (None, f"{EVAL} --output_dir out", "unknown field 'output_dir'. Did you mean 'output'"),
    "scored in small tiles": (None, f"{EVAL} --eval_tile 2", "image .* cannot be evaluated with tiles 2×2"),
    "scored labels of another size": (image_file("mine/validation/labels/frame1.png", size=(9, 9)), EVAL, "9×9"),
    "scored labels ignored": (
        each("mine/validation/labels/*", lambda path: image_file(path, value=255)),
        EVAL,
        "no label",
    ),
    "scored label out of range": (
        image_file("mine/validation/labels/frame1.png", value=9),
        EVAL,
        "unknown class id 9",
    ),
    "scored image cut off": (cut("mine/validation/images/frame1.png", 900), EVAL, "frame1.png: cannot be read"),
    "scored image a bomb": (bomb("mine/validation/images/frame1.png"), EVAL, "frame1.png.*damaged"),
    "scored image text": (write("mine/validation/images/frame1.png", "hello"), EVAL, "frame1.png: is not an image"),
    # Folders of models
    "no config": (remove("model/config.json"), EVAL, "checkpoint model"),
    "config cut off": (cut("model/config.json", 50), EVAL, "checkpoint model"),
    "config binary": (write("model/config.json", b"\xff\xfe\xfd"), EVAL, "checkpoint model"),
    "config a list": (write("model/config.json", "[]"), EVAL, "checkpoint model"),
    "config empty": (write("model/config.json", "{}"), EVAL, "checkpoint model"),
    "config of another kind": (bert, EVAL, "checkpoint model"),
    "config of an unknown kind": (edit_json("model/config.json", model_type="unet9"), EVAL, "checkpoint model"),
    "gap in the model's classes": (
        edit_json("model/config.json", id2label={"0": "grass", "2": "path", "3": "sky"}),
        EVAL,
        "checkpoint model: .*id2label",
    ),
    "model's classes from 1": (
        edit_json("model/config.json", id2label={"1": "grass", "2": "path", "3": "sky"}),
        EVAL,
        "checkpoint model: .*id2label",
    ),
    "model's classes a list": (edit_json("model/config.json", id2label=["grass"]), EVAL, "checkpoint model"),
    "model's classes by name": (edit_json("model/config.json", id2label={"grass": 0}), EVAL, "checkpoint model"),
    "model's classes without names": (
        edit_json("model/config.json", id2label={"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}),
        EVAL,
        "checkpoint model: brings no class names",
    ),
    "model of fewer classes": (edit_json("model/config.json", id2label={"0": "grass"}), EVAL, "checkpoint model"),
    "model of wrong depths": (edit_json("model/config.json", depths=[1, 1]), EVAL, "checkpoint model"),
    "model of wrong types": (edit_json("model/config.json", aspp_channels="16"), EVAL, "checkpoint model"),
    "model of other channels": (edit_json("model/config.json", aspp_channels=8), EVAL, "checkpoint model"),
    "no weights": (remove("model/model.safetensors"), EVAL, "checkpoint model"),
    "weights empty": (write("model/model.safetensors", b""), EVAL, "checkpoint model"),
    "weights cut off": (cut("model/model.safetensors", 5000), EVAL, "checkpoint model"),
    "weights text": (write("model/model.safetensors", "version https://git-lfs"), EVAL, "checkpoint model"),
    "weights missing": (weights(lambda tensors: tensors.pop(min(tensors))), EVAL, "checkpoint model: .*missing"),
    "weights of others": (
        weights(lambda tensors: [tensors.update({f"x.{n}": tensors.pop(n)}) for n in list(tensors)]),
        EVAL,
        "checkpoint model",
    ),
    "pickle of a number": (pickled(lambda: 3), EVAL, "checkpoint model"),
    "pickle of a list": (pickled(lambda: [torch.zeros(2)]), EVAL, "checkpoint model"),
    "pickle of no tensors": (pickled(lambda: {"a": 1, "b": "c"}), EVAL, "checkpoint model"),
    "pickle of a model": (pickled(lambda: tiny_model(CLASSES)), EVAL, "checkpoint model"),
    "pickle of a trainer's checkpoint": (
        pickled(lambda: {"state_dict": tiny_model(CLASSES).state_dict()}),
        EVAL,
        "checkpoint model",
    ),
    "start from a pickle of a number": (both(START, pickled(lambda: 3)), TRAIN, "model_name_or_path model"),
    "start from a pickle of no tensors": (both(START, pickled(lambda: {"a": 1})), TRAIN, "model_name_or_path model"),
    "start from half the files": (both(START, remove("model/config.json")), TRAIN, "model_name_or_path model"),
    "processor no JSON": (write("model/preprocessor_config.json", "{"), EVAL, "checkpoint model.*preprocessor_config"),
    "processor of text": (
        write("model/preprocessor_config.json", '{"feature_extractor_type": "Wav2Vec2FeatureExtractor"}'),
        EVAL,
        "checkpoint model.*preprocessor_config",
    ),
    "std of 0": (edit_json("model/preprocessor_config.json", image_std=0), EVAL, "checkpoint model.*image_std"),
    "std with a 0": (
        edit_json("model/preprocessor_config.json", image_std=[0.2, 0, 0.2]),
        EVAL,
        "checkpoint model.*image_std",
    ),
    "std nan": (edit_json("model/preprocessor_config.json", image_std=[NAN] * 3), EVAL, "checkpoint model"),
    "mean of four": (edit_json("model/preprocessor_config.json", image_mean=[0.5] * 4), EVAL, "checkpoint model"),
    "mean text": (edit_json("model/preprocessor_config.json", image_mean="half"), EVAL, "checkpoint model"),
    "start with a std of 0": (
        both(START, edit_json("model/preprocessor_config.json", image_std=0)),
        TRAIN,
        "model_name_or_path model",
    ),
    "predict with a std of 0": (
        edit_json("model/preprocessor_config.json", image_std=0),
        PREDICT,
        "checkpoint model.*image_std",
    ),
    # predict.py
    "nothing to predict": (None, "predict.py model --output out", "input"),
    "no such input": (None, "predict.py model none.png --output out", "input none.png"),
    "glob of nothing": (None, "predict.py model mine/*.bmp --output out", r"input mine/\*.bmp"),
    "input empty": (None, ["predict.py", "model", "", "--output", "out"], "input"),
    "input without images": (None, "predict.py model log --output out", "input log"),
    "no output": (None, "predict.py model mine", "output"),
    "output for predictions empty": (None, ["predict.py", "model", "mine", "--output", ""], "output: is empty"),
    "output for predictions too long": (None, f"predict.py model mine --output {BAD_NAME}", "output .*too long"),
    "output for predictions a file": (write("out", ""), PREDICT, "output out: is a file"),
    "foreign files": (write("out/color/frame0.png", ""), PREDICT, "output out"),
    "foreign record": (write("out/predictions.json", "[]"), PREDICT, "out/predictions.json"),
    "kind": (None, f"{PREDICT} --write colors", "write: there is no 'colors'; take any of color, overlay"),
    "label ids of other classes": (None, f"{PREDICT} --write label_ids", "write: label_ids"),
    "submission of other images": (None, f"{PREDICT} --submission s.zip", "test"),
    "submission a folder": (folder_at("s.zip"), f"{PREDICT} --submission s.zip", "submission s.zip: exists already"),
    "submission over a file": (
        write("s.zip", ""),
        f"{PREDICT} --submission s.zip",
        "submission s.zip: exists already",
    ),
    "probabilities of a video": (
        write("v.mp4", "x"),
        "predict.py model v.mp4 --output out --write probabilities",
        "write: probabilities of a video",
    ),
    "predictions' precision": (None, f"{PREDICT} --dtype int8", "dtype"),
    "predictions in half precision": (None, f"{PREDICT} --dtype float16", "dtype: float16 needs a GPU"),
    "predictions' scales": (None, f"{PREDICT} --eval_scales 0", "eval_scales: must be scales above 0"),
    "predictions' tile": (None, f"{PREDICT} --eval_tile 1 2 3", "eval_tile"),
    "predictions' workers": (None, f"{PREDICT} --dataloader_num_workers -1", "dataloader_num_workers"),
    # app.py
    "page of nothing": (None, "app.py", "one checkpoint or two"),
    "page of three": (None, "app.py model model model", "one checkpoint or two"),
    "page of no model": (None, "app.py mine", "checkpoint mine"),
    "example missing": (None, "app.py model --examples none.png", "input none.png"),
    "example broken": (
        cut("mine/train/images/frame0.png", 900),
        "app.py model --examples mine",
        "frame0.png cannot be",
    ),
    "space over something": (None, "app.py me/toy_dataset --space mine", "space mine: exists already"),
    "space below a file": (write("file", ""), "app.py me/toy_dataset --space file/space", "space file/space"),
    "space of a folder": (None, "app.py model --space space", "takes its model from the Hub"),
    # prepare_dataset.py
    "check no folder": (remove("mine"), CHECK, "mine"),
    "check a model": (None, "prepare_dataset.py check model", "model: holds no images"),
    "check without names": (remove("mine/id2label.json"), CHECK, "id2label.json"),
    "check without images": (
        both(
            *(remove(f"mine/{s}/{k}") for s in ("train", "validation") for k in ("images", "labels")),
            *(folder_at(f"mine/{s}/images") for s in ("train", "validation")),
        ),
        CHECK,
        "mine",
    ),
    "check in no process": (None, "prepare_dataset.py check mine --num_proc 0", "num_proc"),
    "check with no recipe": (None, f"{CHECK} --recipe none.yaml", "none.yaml"),
    "check with a wrong recipe": (recipe("label_map: {a: b}"), f"{CHECK} --recipe recipe.yaml", "label_map"),
    "check without a folder": (None, "prepare_dataset.py check", "data_dir: is missing"),
    "check a dataset of the Hub": (
        recipe("dataset: user/name"),
        "prepare_dataset.py check --recipe recipe.yaml",
        "dataset: user/name is opened by `datasets`",
    ),
    "check into no picture": (None, f"{CHECK} --picture check.docx", "check.docx: is not the name of an image"),
    "check below a file": (write("file", ""), f"{CHECK} --picture file/check.png", "picture file: is a file"),
    "push over something": (write("parquet/x", ""), PUSH, "parquet"),
    "push to a file": (write("parquet", ""), PUSH, "parquet"),
    "push below a file": (write("file", ""), "prepare_dataset.py push mine file/parquet", "file/parquet"),
    "push to a long name": (None, f"prepare_dataset.py push mine {BAD_NAME}", "too long"),
    "push broken image": (cut("mine/train/images/frame0.png", 900), PUSH, "frame0.png: cannot be read"),
    "push bomb": (bomb("mine/train/images/frame0.png"), PUSH, "frame0.png.*damaged"),
    "push unknown ids": (image_file("mine/train/labels/frame0.png", value=9), PUSH, "frame0.png: unknown class id 9"),
    "push label of another size": (image_file("mine/train/labels/frame0.png", size=(9, 9)), PUSH, "frame0.png.*9×9"),
    "push missing image": (remove("mine/train/images/frame0.png"), PUSH, "frame0.png: its image is missing"),
    "push missing label": (remove("mine/validation/labels/frame0.png"), PUSH, "frame0.png: its label is missing"),
    "push without a license": (None, f"{PUSH} --repo me/mine", "license"),
    "push a run that is none": (None, "push.py mine", "mine: holds no run"),
    "push a run to nowhere": (None, "push.py model", "hub_model_id: is missing"),
    "push a run to a bad name": (token, "push.py model --hub_model_id a/b/c", "hub_model_id a/b/c: Repo id"),
    "push without a token": (fields(push_to_hub=True), TRAIN, "hub_token: there is no token"),
    "push to no repository": (None, f"{PUSH} --repo mine --private", "repo: 'mine'"),
    "streets over something": (None, "prepare_dataset.py streets mine", "mine exists and is not an empty folder"),
    "streets to a file": (write("file", ""), "prepare_dataset.py streets file", "file exists and is not an empty"),
    "streets too small": (None, "prepare_dataset.py streets toy_dataset --height 8", "width and height are 160 and 8"),
    "streets of no images": (None, "prepare_dataset.py streets toy_dataset --num_train -1", "num_train"),
    "streets below a file": (
        write("file", ""),
        "prepare_dataset.py streets file/toy_dataset",
        "file/toy_dataset cannot be written",
    ),
    "streets of a negative seed": (None, "prepare_dataset.py streets toy_dataset --seed -1", "seed"),
    "masks of nothing": (None, "prepare_dataset.py masks none.json --output labels", "none.json: there is no such"),
    "masks of names": (
        None,
        "prepare_dataset.py masks mine/id2label.json --output labels",
        "id2label.json.*annotations",
    ),
    "masks of images": (None, "prepare_dataset.py masks mine/train/images --output labels", "no JSON file of labelme"),
    "masks over something": (None, "prepare_dataset.py masks mine --output mine", "mine: is not an empty folder"),
    # plot_curves.py
    "no run": (None, "plot_curves.py none", "none: is not a folder"),
    "run a file": (None, "plot_curves.py recipe.yaml", "recipe.yaml: is not a folder"),
    "run without a log": (None, "plot_curves.py mine", "mine: holds no trainer_state.json"),
    "run twice": (None, "plot_curves.py log log", "given twice"),
    "log empty": (log(""), PLOT, "log/trainer_state.json"),
    "log cut off": (cut("log/trainer_state.json", 40), PLOT, "log/trainer_state.json"),
    "log a list": (log("[]"), PLOT, "log/trainer_state.json"),
    "log binary": (log(b"\xff\xfe"), PLOT, "log/trainer_state.json"),
    "log without steps": (log('{"global_step": 1, "log_history": [{"loss": 1}]}'), PLOT, "log/trainer_state.json"),
    "log of text": (log('{"global_step": 1, "log_history": [{"step": 1, "loss": "low"}]}'), PLOT, "log"),
    "log of null": (log('{"global_step": 1, "log_history": [{"step": 1, "loss": null}]}'), PLOT, "log"),
    "log's step text": (log('{"global_step": "a", "log_history": [{"step": "a", "loss": 1}]}'), PLOT, "log"),
    "log of nothing": (log('{"global_step": 0, "log_history": []}'), PLOT, "log: has logged neither"),
    "log a folder": (folder_at("log/trainer_state.json"), PLOT, "log/trainer_state.json"),
    "curves of no type": (None, f"{PLOT} --output curves", "curves: is not the name of an image"),
    "curves a folder": (folder_at("c.png"), f"{PLOT} --output c.png", "c.png"),
    "curves below a file": (write("file", ""), f"{PLOT} --output file/c.png", "file/c.png"),
    "curves too long": (None, f"{PLOT} --output {BAD_NAME}.png", "x.png"),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "model"
    tiny_model(CLASSES).save_pretrained(folder)
    SegformerImageProcessorPil(do_resize=False).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", autouse=True)
def counts(request):
    yield
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        kinds = ("wrong inputs", "tracebacks", "silent failures", "written")
        print("\n" + ", ".join(f"{kind} {COUNTS[kind]}" for kind in kinds))


@pytest.fixture
def world(own_folder, model, tmp_path, monkeypatch):
    """A folder with data, a model, a recipe that trains and the log of a run; without a token."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_TOKEN", "")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", "none")
    shutil.copytree(model, "model")
    fields()()
    log(json.dumps({"global_step": 2, "log_history": [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}]}))()
    with unittest.mock.patch.dict(os.environ):  # the launchers' variables go again
        yield


def run(script, *arguments):
    """Exit code, standard error, and the traceback of what no script caught."""
    sys.argv, errors = [script, *arguments], io.StringIO()
    signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(TimeoutError("it hangs")))
    signal.alarm(60)
    with redirect_stderr(errors), redirect_stdout(io.StringIO()):
        try:
            runpy.run_path(str(SCRIPTS / script), run_name="__main__")
            code = 0
        except SystemExit as exit:
            code = exit.code or 0
        except Exception:
            return 1, errors.getvalue(), traceback.format_exc()
        finally:
            signal.alarm(0)
    return code, errors.getvalue(), ""


def contents():
    # A folder's own time says that its lock has come and gone.
    return {path: path.is_dir() or path.lstat().st_mtime_ns for path in Path().rglob("*")}


@pytest.mark.parametrize("case", CASES)
def test_a_wrong_input_is_one_line(case, world, monkeypatch):
    spoil, command, message = CASES[case]
    monkeypatch.setattr(sys, "argv", [])
    if spoil is not None:
        spoil()
    before = contents()
    code, errors, uncaught = run(*(command.split() if isinstance(command, str) else command))
    new = {str(path) for path, time in contents().items() if before.get(path) != time}
    lines = [line for line in errors.splitlines() if "error: " in line]
    COUNTS["wrong inputs"] += 1
    COUNTS["tracebacks"] += bool(uncaught)
    COUNTS["silent failures"] += code == 0
    COUNTS["written"] += bool(new)
    assert not uncaught, uncaught
    assert code == 2, errors
    assert len(lines) == 1 and lines == errors.splitlines()[-1:], errors
    assert re.search(message, lines[0]), lines[0]
    assert not new


def test_there_are_a_hundred():
    assert len(CASES) >= 100

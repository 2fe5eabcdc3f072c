"""The fingerprint of a run, plain JSON in its checkpoints: a resumed run must have the same one."""

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import datasets
from transformers import PreTrainedModel, TrainingArguments

from ..errors import InputError

logger = logging.getLogger(__name__)

RECIPE_NAME = "recipe.json"
# Fields that a resumed run may change, by name or prefix. Samples and steps depend on none but the learning rate.
MAY_CHANGE = (
    # rate and length
    "learning_rate backbone_learning_rate lr_scheduler_ warmup_ max_steps num_train_epochs "
    # files, logs, pushes
    "output_dir overwrite_output_dir logging_ log_ save_ run_name report_to project trackio_ hub_ push_to_hub "
    "disable_tqdm panel_images model_card_template license enable_jit_checkpoint do_train do_eval do_predict "
    # evaluation and choice of the best model
    "eval_ evaluate_both load_best_model_at_end metric_for_best_model greater_is_better per_device_eval_batch_size "
    "max_tiles_per_batch prediction_loss_only include_for_metrics include_num_input_tokens_seen batch_eval_metrics "
    "bf16_full_eval fp16_full_eval "
    # how the same work is done: workers, processes (as long as `a step` stays), memory
    "dataloader_num_workers dataloader_pin_memory dataloader_persistent_workers dataloader_prefetch_factor "
    "dataloader_multiprocessing_context per_device_train_batch_size gradient_accumulation_steps local_rank use_cpu "
    "ddp_backend ddp_timeout ddp_bucket_cap_mb ddp_find_unused_parameters ddp_static_graph activation_checkpointing "
    "activation_checkpointing_kwargs gradient_checkpointing gradient_checkpointing_kwargs torch_empty_cache_steps "
    "skip_memory_metrics debug "
    # corrupt files and resuming
    "skip_corrupt ignore_data_skip restore_callback_states_from_checkpoint resume_from_checkpoint allow_changed_recipe"
).split()
# Fields of a model's config, and of the configs in it, about where it comes from
ORIGIN = ("_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype", "auto_map")


def fingerprint_of(
    args: TrainingArguments,
    model: PreTrainedModel,
    normalization: tuple,
    data: Mapping[str, datasets.Dataset | None],
    files: Mapping[str, str],
    lengths: Mapping[str, int],
) -> dict[str, Any]:
    """Returns all that samples and steps depend on: also `data` by name, what `files` hold, and `lengths` in steps."""
    settings = {name: value for name, value in args.to_dict().items() if not _may_change(name)} | lengths
    settings["data_seed"] = args.sample_seed
    settings["labeled crops of a step"] = args.step_batch_size
    config = {"architecture": type(model).__name__, "config": model.config.to_dict()}
    config["normalization"] = normalization._asdict()
    described = {}
    for name, dataset in data.items():
        if dataset is not None:
            ids = dataset.with_format(None).select_columns("id")["id"]
            described[name] = f"{len(ids)} ids {hashlib.sha256(json.dumps(list(ids)).encode()).hexdigest()[:12]}"
            reading = getattr(dataset.features["image"], "given", {})  # of an `InputImage`
            described |= {f"{key} of the {name}": value for key, value in reading.items()}
            if "label" in dataset.column_names:
                described[f"label_map of the {name}"] = dataset.features["label"].train_ids
    fingerprint = {"settings": settings, "model": config, "data": described, "files": files}
    return json.loads(json.dumps(fingerprint, default=str))  # as it will be read again


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, str]:
    """Returns the differences of two fingerprints, name -> `before → now`, without fields that only one has."""
    architectures = [fingerprint["model"]["architecture"] for fingerprint in (before, now)]
    if architectures[0] != architectures[1]:
        return {"model": " → ".join(architectures)}
    found = {}
    for part in ("settings", "model", "data"):
        for name, old, new in _differences(before[part], now[part]):
            found[name] = f"{_short(old)} → {_short(new)}"
    for name in before["data"].keys() ^ now["data"].keys():
        found[name] = "with → without" if name in before["data"] else "without → with"
    if before["data"] == now["data"]:  # else the files are others; checkpoints of a former version name none
        found |= {name: f"{old} → {new}" for name, old, new in _differences(before.get("files", {}), now["files"])}
    return found


def check_fingerprint(checkpoint: Path, fingerprint: Mapping[str, Any], allow_changes: bool) -> None:
    """Rejects a checkpoint of another run, or warns of the changes that are allowed."""
    before = json.loads((checkpoint / RECIPE_NAME).read_text(encoding="utf-8"))
    for part in ("settings", "data"):  # names of a former version
        before[part] = {name.replace("labelled", "labeled"): value for name, value in before[part].items()}
    found = changes(before, fingerprint)
    if not found:
        return
    differ = ", ".join(f"{name} ({change})" for name, change in sorted(found.items()))
    # An optimizer cannot take another one's state, nor the EMA model the student's place in a checkpoint.
    fixed = {"optim", "ema_validation"} & found.keys()
    if fixed or not allow_changes:
        remedy = "add --allow_changed_recipe true to resume with the new ones"
        if fixed:
            remedy = f"start a new run with --model_name_or_path {checkpoint}"
        remedy = f"Give the checkpoint's, or {remedy}."
        raise InputError(f"resume_from_checkpoint {checkpoint}: was written with other values of {differ}. {remedy}")
    logger.warning("%s is resumed with other values of %s", checkpoint, differ)


def _may_change(name: str) -> bool:
    return any(name == may or may.endswith("_") and name.startswith(may) for may in MAY_CHANGE)


def _differences(before: Mapping, now: Mapping, parent: str = "") -> Iterator[tuple[str, Any, Any]]:
    for name in (before.keys() & now.keys()).difference(ORIGIN):
        old, new = before[name], now[name]
        if isinstance(old, dict) and isinstance(new, dict) and not name.startswith("label_map"):
            yield from _differences(old, new, f"{parent}{name}.")
        elif old != new:
            yield f"{parent}{name}", old, new


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False).strip('"')
    return text if len(text) <= 60 else f"{text[:57]}…"

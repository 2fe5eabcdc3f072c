"""`SemiSupervisedTrainer`: transformers' Trainer, with the loss of equation (1) and an EMA teacher."""

import copy
import functools
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler
from transformers import PreTrainedModel, TrainerCallback
from transformers.image_processing_utils import BaseImageProcessor
from transformers.integrations import TensorBoardCallback
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.trainer_utils import PredictionOutput, TrainOutput

from .checkpointing import signals
from .checkpointing.fingerprint import fingerprint_of
from .checkpointing.trainer import CheckpointedTrainer
from .config import SemiSupervisedConfig
from .cutmix import mix
from .data.batch import PairCollator, training_crops
from .data.class_index import class_shares
from .data.crops import PairedCrops
from .data.palette import palette_of
from .data.sampler import PairSampler
from .evaluation.in_training import best_metric_of, evaluate_images, evaluation_images, predict_label_maps
from .evaluation.pseudo_labels import PseudoLabelShares
from .evaluation.scoring import score
from .files import replacing
from .image_processors import normalization_of
from .inference import channels_last, evaluation_mode, upsample_logits
from .model_card import CardFacts, write_card
from .objective import training_loss
from .optim import decayed_parameters, encoder_of, split_off_encoder
from .preparation import check_batch_size, check_settings_of, open_model
from .pretrained import load_weights
from .progress import LogLines, ProgressBar, SkippedFiles, Throughput, write
from .rounds import RoundsCallback, entry_of_round
from .teacher import EMATeacher, TeacherCallback
from .visualization.panels import training_panel

FROZEN_TEACHER, FORMER_NAME = "frozen_teacher", "kept_teacher"  # sub-folder of a checkpoint


class EpochCallback(TrainerCallback):
    """Tells the sampler its epoch: upstream's `set_epoch` does not reach it under DDP."""

    sampler: PairSampler | None = None

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.sampler.set_epoch(int(state.epoch or 0))  # resumed, `epoch` is a fraction


class SemiSupervisedTrainer(CheckpointedTrainer):
    """
    Trains a semantic-segmentation model on labeled and unlabeled images with L_x + λ_c L_c + λ_sc L_sc.

    Datasets are plain [`~datasets.Dataset`]s with a column `image` and, unless unlabeled, `label`: class ids, 255 for
    ignored pixels, or a [`~scl_hf.data.LabelImage`], which says what other ids mean.

    A checkpoint, and the output directory at the end, hold the model to use at their root: the EMA model, or the
    student if `ema_validation` is off. The checkpoint's `student/` or `teacher/` holds the other one, and its
    `frozen_teacher/` the copy for `teacher_update_interval`.

    Args:
        model (`str` or [`~transformers.PreTrainedModel`]):
            Any model with `pixel_values` in and `logits` out; logits at a lower resolution are upsampled. Or the Hub
            id or folder of one, which gets a new head if `train_dataset` has other classes.
        args ([`SemiSupervisedConfig`], *optional*): The settings; by default with a folder named after the model.
        train_dataset ([`~datasets.Dataset`], *optional*): Labeled images.
        unlabeled_dataset ([`~datasets.Dataset`], *optional*):
            Unlabeled images; needed for training unless λ_c and λ_sc are 0.
        eval_dataset ([`~datasets.Dataset`] or `dict[str, Dataset]`, *optional*): Labeled images to evaluate on.
        processing_class ([`~transformers.image_processing_utils.BaseImageProcessor`], *optional*):
            Image processor with the model's normalization, by default that of the model's checkpoint. It is saved with
            the model, with everything off that would change an image's size.
        coarse_dataset ([`~datasets.Dataset`], *optional*):
            Coarsely labeled images, on which class-uniform sampling centers crops of `coarse_classes`.
        palette (`np.ndarray`, *optional*): `(num_classes, 3)` colors of the sample predictions.
        callbacks (`Sequence[TrainerCallback]`, *optional*): Further callbacks.
        optimizers (`tuple`, *optional*): Optimizer and scheduler, if not those of `args`.
    """

    loss_is_scaled_for_ga = False

    def __init__(
        self,
        model: str | PreTrainedModel,
        args: SemiSupervisedConfig | None = None,
        train_dataset: datasets.Dataset | None = None,
        unlabeled_dataset: datasets.Dataset | None = None,
        eval_dataset: datasets.Dataset | dict[str, datasets.Dataset] | None = None,
        processing_class: BaseImageProcessor | None = None,
        coarse_dataset: datasets.Dataset | None = None,
        palette: np.ndarray | None = None,
        callbacks: Sequence[TrainerCallback] | None = None,
        optimizers: tuple = (None, None),
    ):
        model, args, processing_class = open_model(model, args, train_dataset, processing_class)
        if args.sync_batch_norm and args.world_size > 1 and args.device.type == "cuda":
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        self.normalization, self.id2label = normalization_of(processing_class), model.config.id2label
        self.unlabeled_dataset = unlabeled_dataset
        # Settings and data are checked here, before anything is written.
        self._crops, self._labeled_sampler = None, None
        if train_dataset is not None:
            check_batch_size(model, args)
            check_settings_of(model, args)
            given = (self.id2label, self.normalization, train_dataset, unlabeled_dataset, coarse_dataset)
            self._crops, self._labeled_sampler = training_crops(args, *given)
        args.metric_for_best_model = best_metric_of(args.metric_for_best_model, eval_dataset, self.id2label)
        super().__init__(
            model=model,
            args=args,
            data_collator=PairCollator(args),
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            callbacks=[RoundsCallback(self.evaluate), *(callbacks or [])],
            optimizers=optimizers,
        )
        self.model_accepts_loss_kwargs = False
        self.teacher = EMATeacher(self.model, args.ema_decay)
        for callback in (ProgressCallback, PrinterCallback):
            self.remove_callback(callback)
        self._teaching, self._epochs = TeacherCallback(self.teacher), EpochCallback()
        self._throughput, self._skipped = Throughput(), SkippedFiles()
        own = self._teaching, self._epochs, self._throughput, self._skipped, LogLines()
        for callback in (*own, *[ProgressBar()] * (not args.disable_tqdm)):
            self.add_callback(callback)
        self.palette = palette_of(self.id2label) if palette is None else palette
        self.last_pair: dict[str, Tensor] | None = None  # unlabeled image of the last step, for the panel
        self._scores: tuple[int, dict[str, float]] | None = None  # the last evaluation, and its step
        self._pseudo_labels = PseudoLabelShares(lambda: self._class_shares, self.id2label)

    # Data and steps

    def get_train_dataloader(self) -> DataLoader:
        """Loads pairs of crops of `train_dataset` and `unlabeled_dataset`, in workers that survive a signal."""
        loader = self._get_dataloader(self._crops, "Training", self._train_batch_size, self._get_train_sampler, True)
        own = getattr(loader, "base_dataloader", loader)  # Accelerate's wraps it
        own.worker_init_fn = signals.worker_init(own.worker_init_fn)
        return loader

    def _get_train_sampler(self, train_dataset: PairedCrops | None = None) -> Sampler:
        args, unlabeled = self.args, len(self._crops.unlabeled or ())
        given = (self._labeled_sampler, unlabeled, args.step_batch_size)
        self._epochs.sampler = PairSampler(*given, start_step=args.start_step(self._max_steps))
        return self._epochs.sampler

    @property
    def _max_steps(self) -> int:
        return self.args.total_steps(len(self._crops), self.args.step_batch_size)

    @property
    def fingerprint(self) -> dict[str, Any]:
        """Everything that a resumed run must share with the run that wrote its checkpoint."""
        of_data = self._crops.datasets, self._crops.contents, self.args.lengths(self._max_steps)
        return fingerprint_of(self.args, self.evaluated_model, self.normalization, *of_data)

    def images_of_step(self, step: int) -> list[str]:
        """Returns the names of all images of a step, counted from 0."""
        return self._crops.names(self._epochs.sampler.of_step(step))

    def _finalize_training(self, *args: Any, **kwargs: Any) -> TrainOutput:
        output = super()._finalize_training(*args, **kwargs)
        if self.args.skip_corrupt:
            output.metrics["skipped_images"] = self._skipped.report()
        return output

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Returns all parameters but those of `no_weight_decay`: the paper's baseline decays biases and BatchNorm."""
        return decayed_parameters(model, self.args.no_weight_decay)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """As upstream, with groups of the encoder if it has its own learning rate."""
        created = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if created and self.args.backbone_learning_rate is not None:
            split_off_encoder(optimizer, encoder_of(self.model), self.args.backbone_learning_rate)
        return optimizer

    # Losses

    @functools.cached_property
    def _class_shares(self) -> Tensor:  # (C,), read when first needed; on the device, because every step may need it
        shares = class_shares(self._crops.labeled.dataset, self._labeled_sampler.class_index)
        return torch.from_numpy(shares).float().to(self.args.device)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Returns the loss of a batch ([`~scl_hf.objective.training_loss`]), and on request the student's outputs."""
        args, num_labeled, pixel_values = self.args, len(inputs["labels"]), inputs["pixel_values"]
        self._skipped.add(inputs.get("skipped", ()))
        ramp, teacher_probs = args.ramp(self.state.global_step, self.state.max_steps), None
        if ramp > 0:
            unlabeled = inputs["unlabeled_a"], inputs["unlabeled_b"], inputs["box_ids"]
            mixed = mix(*unlabeled)
            teacher_probs = self.teacher_probs(*unlabeled)
            pseudo_labels = teacher_probs.max(dim=1).indices  # on the CPU four times as fast as argmax
            self._pseudo_labels.add(pseudo_labels, inputs["valid"])
            pixel_values = torch.cat([pixel_values, mixed])

        self._throughput.add(len(pixel_values))
        outputs = model(pixel_values=channels_last(pixel_values))
        logits = upsample_logits(outputs.logits, inputs["labels"].shape[-2:])
        class_shares = self._class_shares if args.logit_adjustment > 0 else None
        loss, terms = training_loss(logits, inputs, teacher_probs, class_shares, args, ramp)
        if ramp > 0:
            student, valid = logits[num_labeled].detach().max(dim=0).indices, inputs["valid"][0]
            self.last_pair = {"image": mixed[0], "pseudo_label": pseudo_labels[0], "student": student, "valid": valid}
        self.record(inputs, terms)
        return (loss, outputs) if return_outputs else loss

    @torch.no_grad()
    def teacher_probs(self, unlabeled_a: Tensor, unlabeled_b: Tensor, box_ids: Tensor) -> Tensor:
        """Returns p_mt(u'_a, u'_b), (B, C, H, W) in float32: the teacher sees both unmixed; its outputs are mixed."""
        model = self.teacher.module if self.args.ema_teacher else self.model
        model = model if self._teaching.frozen is None else self._teaching.frozen
        images = torch.cat([unlabeled_a, unlabeled_b])
        with evaluation_mode(model), self.accelerator.autocast():
            logits = model(pixel_values=channels_last(images)).logits
        probs = upsample_logits(logits, images.shape[-2:]).softmax(dim=1)
        return mix(*probs.chunk(2), box_ids)

    # Evaluation and log

    @property
    def evaluated_model(self) -> PreTrainedModel:
        """The model that is evaluated and published: the EMA model, or the student if `ema_validation` is off."""
        return self.teacher.module if self.args.ema_validation else self.accelerator.unwrap_model(self.model)

    @property
    def _other(self) -> tuple[str, PreTrainedModel]:
        """Sub-folder and model of whichever of student and teacher is not published."""
        return ("student", self.model) if self.args.ema_validation else ("teacher", self.teacher.module)

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval") -> dict[str, float]:
        """
        Scores the evaluated model on every image once, in any number of processes; logs, and draws sample predictions.

        Args:
            eval_dataset ([`~datasets.Dataset`], `dict[str, Dataset]` or `str`, *optional*):
                Instead of the trainer's own, or the name of one of them. Of several, each name precedes its metrics.
            ignore_keys (`list[str]`, *optional*): Not used.
            metric_key_prefix (`str`, *optional*, defaults to `"eval"`): Put before each metric's name.

        Returns:
            `dict[str, float]`: mean IoU and accuracies, and the IoU of each class that occurs.
        """
        eval_dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        if isinstance(eval_dataset, str):
            metric_key_prefix, eval_dataset = f"{metric_key_prefix}_{eval_dataset}", self.eval_dataset[eval_dataset]
        if isinstance(eval_dataset, dict):
            metrics = {}
            for name, dataset in eval_dataset.items():
                metrics |= self.evaluate(dataset, ignore_keys, f"{metric_key_prefix}_{name}")
        else:
            metrics = self._evaluate_one(eval_dataset, metric_key_prefix)
            self.log(dict(metrics))
            self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        best = f"eval_{(self.args.metric_for_best_model or '').removeprefix('eval_')}"
        if "iou_" in best and metric_key_prefix == "eval":
            if metrics.setdefault(best, float("nan")) != metrics[best] and self.state.best_metric is None:
                self.state.best_metric = -1.0  # a class that occurs nowhere is never the best; JSON has no infinity
        self._scores = (self.state.global_step, metrics)
        return metrics

    def _evaluate_one(self, dataset: datasets.Dataset, prefix: str) -> dict[str, float]:
        self.check_finite_weights(self.evaluated_model)
        start, args, model = time.perf_counter(), self.args, self.evaluated_model
        images = evaluation_images(dataset, "eval_dataset", self.id2label, self.normalization)
        given = (images, args, self.accelerator)
        metrics, table, examples = evaluate_images(model, *given, args.panel_images)
        metrics |= self._pseudo_labels.report(self.accelerator)
        if args.evaluate_both:
            name, other = self._other
            metrics[f"{name}_mean_iou"] = score(other, *given)["mean_iou"]
        metrics["runtime"] = time.perf_counter() - start
        if self.is_world_process_zero():
            of = prefix.removeprefix("eval").strip("_")
            where = f"{args.published_name} on {len(images)} images" + (f" of {of}" if of else "")
            write(f"\nstep {self.state.global_step}: {where}\n{table}\n")
            if examples:
                self._write_panel(examples, of)
        self._throughput.leave_out(time.perf_counter() - start)
        return {f"{prefix}_{name}": value for name, value in metrics.items()}

    def _write_panel(self, examples: list[tuple[Tensor, Tensor, Tensor]], of: str) -> None:
        """Draws images, labels and predictions into `output_dir/panels` and TensorBoard."""
        step, name, published = self.state.global_step, f"{of}-step" if of else "step", self.args.published_name
        image = training_panel(examples, self.last_pair, self.normalization, self.palette, self.id2label, published)
        with replacing(Path(self.args.output_dir) / "panels" / f"{name}-{step:06d}.png") as partial:
            image.save(partial)
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, TensorBoardCallback) and callback.tb_writer is not None:
                tag = f"{of}_panel" if of else "panel"
                callback.tb_writer.add_image(tag, np.asarray(image), step, dataformats="HWC")

    def final_metrics(self) -> dict[str, float]:
        """Returns the scores of the current model: those of the last evaluation if no step came after it."""
        with self.ending_in_one_line():
            if self._scores is None or self._scores[0] != self.state.global_step:
                self.evaluate()
            signals.check(self.args.device)
        return self._scores[1]

    def predict(self, test_dataset, ignore_keys=None, metric_key_prefix: str = "test") -> PredictionOutput:
        """
        Predicts label maps of whole images with the evaluated model; every process returns all of them.

        Args:
            test_dataset ([`~datasets.Dataset`]): Images, with labels or without.
            ignore_keys (`list[str]`, *optional*): Not used.
            metric_key_prefix (`str`, *optional*, defaults to `"test"`): Put before each metric's name.

        Returns:
            `PredictionOutput`: `predictions`, a list of maps (H, W) of class ids, uint8, each of its image's size;
            `label_ids`, the same of the labels, or `None`; `metrics`, as of [`evaluate`], if there are labels.
        """
        images = evaluation_images(test_dataset, "test_dataset", self.id2label, self.normalization)
        given = (self.evaluated_model, images, self.args, self.accelerator)
        predictions, labels, metrics = predict_label_maps(*given)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        return PredictionOutput(predictions, labels, metrics)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the round, and to a training log images per second and the minutes left."""
        logs |= entry_of_round(self.args, self.state, logs)
        if "loss" in logs:
            step = self.state.global_step
            logs |= self._throughput.figures(step, self.state.max_steps, self.args.world_size)
            self._throughput.restart(step)
        super().log(logs, start_time)

    # Checkpoints and the card

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        self.check_finite_weights(self.model)
        self.check_finite_weights(self.evaluated_model)
        if self.args.should_save:
            folder = output_dir or self.args.output_dir
            self.evaluated_model.save_pretrained(folder)
            self.processing_class.save_pretrained(folder)
            torch.save(self.args, os.path.join(folder, TRAINING_ARGS_NAME))

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        # Here and not in `on_save`, which comes after old checkpoints were removed and the Hub was pushed to.
        folder, model = self._other
        if self.args.should_save:
            model.save_pretrained(os.path.join(output_dir, folder))
            if self._teaching.frozen is not None:
                self._teaching.frozen.save_pretrained(os.path.join(output_dir, FROZEN_TEACHER))
        super()._save_optimizer_and_scheduler(output_dir)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        checkpoint, (folder, other) = Path(resume_from_checkpoint), self._other
        load_weights(checkpoint, self.evaluated_model)
        if (checkpoint / folder).is_dir():  # not with save_only_model
            load_weights(checkpoint / folder, other)
        self._teaching.frozen = self._scores = None
        for frozen in (checkpoint / FROZEN_TEACHER, checkpoint / FORMER_NAME):
            if frozen.is_dir():
                self._teaching.frozen = copy.deepcopy(self.teacher.module)
                load_weights(frozen, self._teaching.frozen)

    def create_model_card(self, language=None, license=None, tags=None, model_name=None, **about: Any) -> None:
        """
        Writes the card of `model_card_template`, with images and recipe; `about` are further fields of [`CardFacts`],
        such as `dataset`. Without a template, it writes the card of `transformers`.
        """
        if self.args.model_card_template is None:
            super().create_model_card(language, license, tags, model_name, **about)
        elif self.is_world_process_zero():
            several = isinstance(self.eval_dataset, dict)  # a card has the scores of the first
            name, evaluated = next(iter(self.eval_dataset.items())) if several else (None, self.eval_dataset)
            repo = (self.hub_model_id or self.args.hub_model_id) if self.args.push_to_hub else None
            facts = {
                "model_name": model_name or Path(self.args.output_dir).resolve().name,
                "repo": repo or self.args.output_dir,
                "log_history": self.state.log_history,
                "steps": self.state.global_step,
                "num_labeled": len(self.train_dataset or ()),
                "num_unlabeled": len(self.unlabeled_dataset or ()) if self.args.semi_supervised else 0,
                "num_evaluated": len(evaluated or ()),
                "evaluated_name": name,
                "license": license or self.args.license,
                "tags": [tags] if isinstance(tags, str) else tags or [],
                "finetuned_from": self.model.config._name_or_path,
            }
            write_card(self.evaluated_model, self.args, CardFacts(**facts | about))

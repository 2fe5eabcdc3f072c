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
from torch import nn
from torch.utils.data import DataLoader, Sampler
from transformers import PreTrainedModel, TrainerCallback, TrainerState
from transformers.image_processing_utils import BaseImageProcessor
from transformers.modeling_outputs import ModelOutput
from transformers.trainer_utils import TrainOutput

from .checkpointing.fingerprint import recipe_of
from .config import SemiSupervisedConfig
from .cutmix import mix
from .data.batch import pair_collator, training_crops
from .data.class_index import class_shares
from .data.crops import EvaluationImages, PairedCrops
from .data.sampler import PairSampler
from .errors import InputError, killed_workers
from .evaluation.pseudo_labels import PseudoLabelShares
from .evaluation.scoring import score
from .inference import channels_last, evaluation_mode, upsample_logits
from .losses import adjust_logits, consistency_loss, loss_of_all_pairs, loss_of_pairs, relaxed_cross_entropy
from .model_card import CardFacts, write_card
from .models import DeepLabV3PlusForSemanticSegmentation
from .pretrained import load_weights, normalization_of
from .progress import SkippedFiles, Throughput
from .segmentation_trainer import SegmentationTrainer, check_settings_of, open_model
from .teacher import EMATeacher

# Private methods of transformers.Trainer that are overridden, here and in the classes above; tests/test_trainer.py
# holds each to its upstream signature and to the place it is called from.
OVERRIDDEN_PRIVATE_METHODS = (
    "_get_train_sampler",  # draws instead of row numbers
    "_save",  # the model that is evaluated is the one that is published
    "_save_optimizer_and_scheduler",  # the other of student and teacher, for an exact resume
    "_load_from_checkpoint",  # both of them
    "_load_best_model",  # both of them
    "_save_checkpoint",  # under another name, until it is whole
    "_get_output_dir",  # that other name
    "_push_from_checkpoint",  # not before it is whole; one that fails is tried again, and stops nothing
    "_finish_current_push",  # of those pushes
    "_load_optimizer_and_scheduler",  # with the settings of this run, and in one line where that cannot be
    "_finalize_training",  # keeps the last checkpoint, of which a finished run is known
)


FROZEN_TEACHER = "frozen_teacher"  # sub-folder of a checkpoint


class SemiSupervisedTrainer(SegmentationTrainer):
    """
    Trains a semantic-segmentation model on labeled and unlabeled images with L_x + λ_c L_c + λ_sc L_sc.

    Data sets are plain [`~datasets.Dataset`]s with the columns `image` and, but for the unlabeled one, `label`:
    pictures, decoded or not. Label pictures hold one class id a pixel, 255 where it is ignored, unless the column is a
    [`~scl_hf.data.LabelImage`], as [`~scl_hf.data.load_data`] gives it, which says what other ids mean. Crops are
    drawn, augmented and mixed in here, as `args` say.

    A checkpoint folder, and the output directory at the end, hold the model to use at their root: the EMA model, or
    the student where `ema_validation` is off. The other one lies in the checkpoint's `student/` or `teacher/`, and the
    copy of `teacher_update_interval` in its `frozen_teacher/`.

    Args:
        model (`str` or [`~transformers.PreTrainedModel`]):
            Any model with `pixel_values` in and `logits` out; logits at a lower resolution are upsampled. Or the Hub
            id or folder of one, which gets a new head where `train_dataset` has another number of classes.
        args ([`SemiSupervisedConfig`], *optional*):
            The settings. By default the paper's, with an output folder named after the model.
        train_dataset ([`~datasets.Dataset`], *optional*): Labeled images.
        unlabeled_dataset ([`~datasets.Dataset`], *optional*):
            Unlabeled images; needed for training unless λ_c and λ_sc are 0.
        eval_dataset ([`~datasets.Dataset`] or `dict[str, Dataset]`, *optional*):
            Labeled images to evaluate on.
        processing_class ([`~transformers.image_processing_utils.BaseImageProcessor`], *optional*):
            Image processor, which says how the model wants its pixels. The one of the model's checkpoint by default.
            It is saved with the model, with everything off that would change a picture's size.
        coarse_dataset ([`~datasets.Dataset`], *optional*):
            Coarsely labeled images, on which class-uniform sampling centres crops of `coarse_classes`.
        palette (`np.ndarray`, *optional*): `(num_classes, 3)` colors of the panels.
        callbacks (`Sequence[TrainerCallback]`, *optional*): Further callbacks.
        optimizers (`tuple`, *optional*):
            Optimizer and scheduler, if not those of `args`.
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
        synced = args.sync_batch_norm and args.world_size > 1 and args.device.type == "cuda"
        if synced:
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        labels_alone = not args.semi_supervised or args.semi_supervised_start_step > 0
        one_value = args.per_device_train_batch_size == 1 and isinstance(model, DeepLabV3PlusForSemanticSegmentation)
        if train_dataset is not None and labels_alone and one_value and not synced:
            raise InputError(
                "per_device_train_batch_size: must be 2 or more where labels are trained on alone, for BatchNorm over"
                " the image pooling has one value an image. On several GPUs, sync_batch_norm does as well."
            )
        if train_dataset is not None:
            check_settings_of(model, args)
        self.unlabeled_dataset = unlabeled_dataset
        # Before anything is written: what is wrong with the data shows here.
        self._crops, self._draws = None, None
        if train_dataset is not None:
            given = (train_dataset, unlabeled_dataset, coarse_dataset)
            pixels = normalization_of(processing_class)
            self._crops, self._draws = training_crops(args, model.config.id2label, pixels, *given)
        super().__init__(
            model=model,
            args=args,
            data_collator=pair_collator(args),
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            palette=palette,
            callbacks=callbacks or [],
            optimizers=optimizers,
        )
        self.teacher = EMATeacher(self.model, args.ema_decay)
        self._frozen_teacher: PreTrainedModel | None = None  # the copy that `teacher_update_interval` is for
        self._sampler: PairSampler | None = None
        self._pace, self._skipped = Throughput(), SkippedFiles()
        # Read once, where it is needed first; on the device, for every step may need it.
        self._class_shares = functools.cache(
            lambda: (
                torch.from_numpy(class_shares(self._crops.labeled.dataset, self._draws.class_index))
                .float()
                .to(args.device)
            )
        )
        self._targets = PseudoLabelShares(self._class_shares, self.id2label)
        self._terms: dict[str, tuple[torch.Tensor, int]] = {}  # sum and number since the last log line

    # Data

    def get_train_dataloader(self) -> DataLoader:
        """As upstream, of pairs of crops in place of the rows of `train_dataset`."""
        rows = self.train_dataset
        self.train_dataset = self._crops
        try:
            return super().get_train_dataloader()
        finally:
            self.train_dataset = rows

    def _get_train_sampler(self, train_dataset: PairedCrops | None = None) -> Sampler:
        # Of a step: processes and accumulated batches can stand in for one another.
        batch_size = self._train_batch_size * self.args.world_size * self.args.gradient_accumulation_steps
        num_unlabeled = len(self._crops.unlabeled or ())
        self._sampler = PairSampler(
            self._draws,
            num_unlabeled,
            self.args.sample_seed,
            batch_size,
            start_step=self.args.start_step(self.args.max_steps),
        )
        return self._sampler

    def recipe(self) -> dict[str, Any]:
        """What a resumed run must have in common with the one that wrote a checkpoint."""
        return recipe_of(self.args, self.evaluated_model, self.normalization, self._crops.datasets)

    @killed_workers()
    def train(self, *args: Any, **kwargs: Any) -> TrainOutput:
        """As [`ResumableTrainer.train`]; with `skip_corrupt`, the metrics have the number of files skipped."""
        self._skipped = SkippedFiles()
        output = super().train(*args, **kwargs)
        if self.args.skip_corrupt and output.metrics:
            output.metrics["skipped_images"] = self._skipped.report()
        return output

    def images_of_step(self, step: int) -> list[str]:
        """Names of all images of a step, counted from 0."""
        return self._crops.names(self._sampler.of_step(step))

    def _begin(self, state: TrainerState) -> None:
        super()._begin(state)
        self._update_frozen_teacher(state.global_step)
        self._pace.restart(state.global_step)

    def _begin_epoch(self, state: TrainerState) -> None:
        # The Trainer's own `set_epoch` does not reach a sampler under DDP. Resumed, `epoch` is a fraction.
        self._sampler.set_epoch(int(state.epoch or 0))

    def _end_step(self, state: TrainerState) -> None:
        self.teacher.update_parameters(self.model)
        self._update_frozen_teacher(state.global_step)
        super()._end_step(state)

    def _update_frozen_teacher(self, step: int) -> None:
        if self.args.semi_supervised and self.args.updates_teacher(step, self.state.max_steps):
            self._frozen_teacher = copy.deepcopy(self.teacher.module)

    # Losses

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, ModelOutput]:
        """
        Equation (1) with (3): L_x + λ_c L_c + λ_sc L_sc of a batch of [`~scl_hf.data.batch.PairCollator`].

        Returns:
            `torch.Tensor`: The loss; with `return_outputs`, also the outputs of the model, first those of the labeled
            images, then those of the mixed ones.
        """
        args, labels = self.args, inputs["labels"]
        self._skipped.add(inputs.get("skipped", ()))
        ramp = args.ramp(self.state.global_step, self.state.max_steps)
        pixel_values = inputs["pixel_values"]
        if ramp > 0:
            unlabeled = inputs["unlabeled_a"], inputs["unlabeled_b"]
            box_ids, valid = inputs["box_ids"], inputs["valid"]
            mixed = mix(*unlabeled, box_ids)
            teacher_probs = self.teacher_probs(*unlabeled, box_ids)
            targets = teacher_probs.max(dim=1).indices  # on the CPU four times as fast as argmax
            self._targets.add(targets, valid)
            pixel_values = torch.cat([pixel_values, mixed])

        self._pace.add(len(pixel_values))
        outputs = model(pixel_values=channels_last(pixel_values))
        logits = upsample_logits(outputs.logits, labels.shape[-2:])
        labeled_logits = logits[: len(labels)]
        if args.logit_adjustment > 0:
            labeled_logits = adjust_logits(labeled_logits, self._class_shares(), args.logit_adjustment)
        loss_x = relaxed_cross_entropy(labeled_logits, labels, window=args.relaxation_window)
        loss, terms = loss_x, {"loss_x": loss_x}
        if ramp > 0:
            student_probs = logits[len(labels) :].softmax(dim=1)
            if args.consistency_weight > 0:
                terms["loss_c"] = consistency_loss(student_probs, teacher_probs, valid)
                loss = loss + ramp * args.consistency_weight * terms["loss_c"]
            if args.structured_consistency_weight > 0:
                sampled = args.num_pairs is not None
                loss_of, compared = (loss_of_pairs, "pairs") if sampled else (loss_of_all_pairs, "box_pixels")
                terms["loss_sc"] = loss_of(student_probs, teacher_probs, inputs[compared])
                loss = loss + ramp * args.structured_consistency_weight * terms["loss_sc"]
            self.last_pair = {
                "image": mixed[0].detach(),
                "target": targets[0],
                "student": student_probs[0].detach().max(dim=0).indices,
                "valid": valid[0],
            }
        self.last_terms = {name: term.detach() for name, term in terms.items()}
        for name, term in self.last_terms.items():
            total, number = self._terms.get(name, (0.0, 0))
            self._terms[name] = (total + term, number + 1)
        return (loss, outputs) if return_outputs else loss

    @torch.no_grad()
    def teacher_probs(
        self, unlabeled_a: torch.Tensor, unlabeled_b: torch.Tensor, box_ids: torch.Tensor
    ) -> torch.Tensor:
        """
        p_mt(u'_a, u'_b), the target: the teacher sees both images whole, and its predictions are mixed as the images.

        Returns:
            `torch.Tensor`: `(B, C, H, W)` probabilities in float32.
        """
        model = self.teacher.module if self.args.ema_teacher else self.model
        if self._frozen_teacher is not None:
            model = self._frozen_teacher
        images = torch.cat([unlabeled_a, unlabeled_b])
        with evaluation_mode(model), self.accelerator.autocast():
            logits = model(pixel_values=channels_last(images)).logits
        probs = upsample_logits(logits, images.shape[-2:]).softmax(dim=1)
        return mix(*probs.chunk(2), box_ids)

    # Evaluation and log

    @property
    def evaluated_model(self) -> PreTrainedModel:
        """The model that is evaluated and published: the EMA model, unless `ema_validation` is off."""
        return self.teacher.module if self.args.ema_validation else super().evaluated_model

    @property
    def _other(self) -> tuple[str, PreTrainedModel]:
        """Sub-folder and model of whichever of student and teacher is not published."""
        return ("student", self.model) if self.args.ema_validation else ("teacher", self.teacher.module)

    def further_scores(self, images: EvaluationImages) -> dict[str, float]:
        """What the targets held since the last evaluation; with `evaluate_both`, the other model's mean IoU."""
        scores = self._targets.report(self.accelerator)
        if self.args.evaluate_both:
            name, other = self._other
            scores[f"{name}_mean_iou"] = score(other, images, self.args, self.accelerator)["mean_iou"]
        return scores

    def _evaluate_one(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        start = time.perf_counter()
        metrics = super()._evaluate_one(*args, **kwargs)
        self._pace.leave_out(time.perf_counter() - start)
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds to a training log line the mean of each loss term, images/s, and the minutes that are left."""
        if "loss" in logs:
            for name, (total, number) in self._terms.items():
                logs[name] = self.accelerator.reduce(total / number, reduction="mean").item()
            self._terms.clear()
            step = self.state.global_step
            logs |= self._pace.figures(step, self.state.max_steps, self.args.world_size)
            self._pace.restart(step)
        super().log(logs, start_time)

    # Checkpoints and the card

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        student = self.model
        self.model = self.evaluated_model
        try:
            super()._save(output_dir, state_dict)
        finally:
            self.model = student

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        # Here and not in `on_save`, which comes after old checkpoints were rotated away and the Hub was pushed to.
        folder, model = self._other
        if self.args.should_save:
            model.save_pretrained(os.path.join(output_dir, folder))
            if self._frozen_teacher is not None:
                self._frozen_teacher.save_pretrained(os.path.join(output_dir, FROZEN_TEACHER))
        super()._save_optimizer_and_scheduler(output_dir)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        folder, other = self._other
        load_weights(Path(resume_from_checkpoint), self.evaluated_model)
        load_weights(Path(resume_from_checkpoint, folder), other)
        self._frozen_teacher = None
        if (kept := Path(resume_from_checkpoint, FROZEN_TEACHER)).is_dir():
            self._frozen_teacher = copy.deepcopy(self.teacher.module)
            load_weights(kept, self._frozen_teacher)

    def _load_best_model(self) -> None:
        best, (folder, other) = self._verified_best(), self._other
        load_weights(best, self.evaluated_model)
        if (best / folder).is_dir():  # not with save_only_model
            load_weights(best / folder, other)
        self._scores = None  # those are of another step

    def create_model_card(
        self,
        language: str | None = None,
        license: str | None = None,
        tags: str | list[str] | None = None,
        model_name: str | None = None,
        **about: Any,
    ) -> None:
        """
        The card of `model_card_template`, with pictures and recipe; `about` are further fields of [`CardFacts`], such
        as `dataset`. Without a template, the card of `transformers`.
        """
        if self.args.model_card_template is None:
            super().create_model_card(language, license, tags, model_name, **about)
        elif self.is_world_process_zero():
            several = isinstance(self.eval_dataset, dict)  # a card has the scores of the first
            name, evaluated = next(iter(self.eval_dataset.items())) if several else (None, self.eval_dataset)
            repo = (self.hub_model_id or self.args.hub_model_id) if self.args.push_to_hub else None
            facts = CardFacts(
                model_name or Path(self.args.output_dir).resolve().name,
                repo or self.args.output_dir,
                self.state.log_history,
                self.state.global_step,
                num_labeled=len(self.train_dataset or ()),
                num_unlabeled=len(self.unlabeled_dataset or ()) if self.args.semi_supervised else 0,
                num_evaluated=len(evaluated or ()),
                evaluated_name=name,
                license=license or self.args.license,
                tags=[tags] if isinstance(tags, str) else tags or [],
                **{"finetuned_from": self.model.config._name_or_path} | about,
            )
            write_card(self.evaluated_model, self.args, facts)

"""`SemiSupervisedTrainer`: transformers' Trainer, with the loss of equation (1) and an EMA teacher."""

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub.errors import HfHubHTTPError
from torch import nn
from torch.utils.data import Sampler
from transformers import PreTrainedModel, Trainer, TrainerCallback
from transformers.image_processing_utils import BaseImageProcessor
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.trainer_utils import TrainOutput

from .callbacks import LogLines, ProgressBar, SkippedFiles, write, write_panel
from .checkpoints import load_weights
from .config import SemiSupervisedConfig
from .cutmix import mix
from .data.crops import DrawSampler, EvaluationImages, LabeledCrops, PairCollator, PairedCrops, UnlabeledCrops
from .data.draws import UNLABELED_A, UNLABELED_B, LabeledDraws, UnlabeledDraws
from .errors import InputError, first_line
from .evaluation.protocol import SCORES, iou_name, named_scores, score
from .hub import CodeBesideWeights, write_model_card
from .inference import evaluation_mode, upsample_logits
from .losses import consistency_loss, relaxed_cross_entropy, structured_consistency_loss
from .models import DeepLabV3PlusForSemanticSegmentation
from .teacher import EMATeacher

# Private methods of transformers.Trainer that are overridden below; tests/test_trainer.py holds each to its upstream
# signature and to the place it is called from.
OVERRIDDEN_PRIVATE_METHODS = (
    "_get_train_sampler",  # draws instead of row numbers
    "_save",  # the model that is evaluated is the one that is published
    "_save_optimizer_and_scheduler",  # the other of student and teacher, for an exact resume
    "_load_from_checkpoint",  # both of them
    "_load_best_model",  # both of them
)


class TeacherAndSampler(TrainerCallback):
    """Moves the teacher after every optimizer step, and tells the sampler which epoch begins."""

    def __init__(self, trainer: "SemiSupervisedTrainer"):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        self.trainer.start_clock()

    def on_epoch_begin(self, args, state, control, **kwargs):
        # The Trainer's own `set_epoch` does not reach a sampler under DDP. After a resume `epoch` is a fraction.
        self.trainer.sampler.set_epoch(int(state.epoch or 0))

    def on_step_end(self, args, state, control, **kwargs):
        self.trainer.teacher.update_parameters(self.trainer.model)


class SemiSupervisedTrainer(Trainer):
    """
    Trains a semantic-segmentation model on labelled and unlabelled images with L_x + λ_c L_c + λ_sc L_sc.

    A checkpoint folder, and the output directory at the end, hold the model to use at their root: the EMA model, or
    the student where `ema_validation` is off. The other one lies in the checkpoint's `student/` or `teacher/`.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            Any model with `pixel_values` in and `logits` out; logits at a lower resolution are upsampled.
        args ([`SemiSupervisedConfig`]):
            The settings.
        train_dataset ([`~scl_hf.data.crops.LabeledCrops`]):
            Labelled crops.
        unlabeled_dataset ([`~scl_hf.data.crops.UnlabeledCrops`], *optional*):
            Unlabelled crops; needed unless λ_c and λ_sc are 0.
        eval_dataset ([`~scl_hf.data.crops.EvaluationImages`], *optional*):
            Whole labelled images.
        processing_class ([`~transformers.image_processing_utils.BaseImageProcessor`], *optional*):
            Image processor that is saved with the model.
        labeled_draws ([`~scl_hf.data.draws.LabeledDraws`], *optional*):
            Which labelled crops an epoch draws; every image once, at a random place, by default.
        palette (`np.ndarray`, *optional*):
            `(num_classes, 3)` colours of the panels.
        callbacks (`Sequence[TrainerCallback]`, *optional*):
            Further callbacks.
        optimizers (`tuple`, *optional*):
            Optimizer and scheduler, if not those of `args`.
    """

    loss_is_scaled_for_ga = False

    def __init__(
        self,
        model: PreTrainedModel,
        args: SemiSupervisedConfig,
        train_dataset: LabeledCrops,
        unlabeled_dataset: UnlabeledCrops | None = None,
        eval_dataset: EvaluationImages | None = None,
        processing_class: BaseImageProcessor | None = None,
        labeled_draws: LabeledDraws | None = None,
        palette: np.ndarray | None = None,
        callbacks: Sequence[TrainerCallback] | None = None,
        optimizers: tuple = (None, None),
    ):
        if args.semi_supervised and not unlabeled_dataset:
            raise InputError(
                "consistency_weight and structured_consistency_weight: above 0, but there are no unlabelled images."
                " Add some (unlabeled_dirs, unlabeled_splits), or set both to 0 for supervised training."
            )
        synced = args.sync_batch_norm and args.world_size > 1 and args.device.type == "cuda"
        if synced:
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        labels_alone = not args.semi_supervised or args.semi_supervised_start_step > 0
        one_value = args.per_device_train_batch_size == 1 and isinstance(model, DeepLabV3PlusForSemanticSegmentation)
        if labels_alone and one_value and not synced:
            raise InputError(
                "per_device_train_batch_size: must be 2 or more where labels are trained on alone, for BatchNorm over"
                " the image pooling has one value an image. On several GPUs, sync_batch_norm does as well."
            )
        scores = [*SCORES, *map(iou_name, model.config.id2label.values())]
        if (args.metric_for_best_model or SCORES[0]).removeprefix("eval_") not in scores:
            raise InputError(f"metric_for_best_model: must be one of {', '.join(scores)}.")
        super().__init__(
            model=model,
            args=args,
            data_collator=PairCollator(args.num_boxes, args.cutmix_ratio),
            train_dataset=PairedCrops(train_dataset, unlabeled_dataset if args.semi_supervised else None),
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            callbacks=[*(callbacks or []), TeacherAndSampler(self), CodeBesideWeights()],
            optimizers=optimizers,
        )
        self.model_accepts_loss_kwargs = False
        for callback in (ProgressCallback, PrinterCallback):
            self.remove_callback(callback)
        if not args.disable_tqdm:
            self.add_callback(ProgressBar())
        self.add_callback(LogLines())
        self.labeled_draws = labeled_draws or LabeledDraws(len(train_dataset), args.draw_seed)
        self.palette = palette
        self.sampler: DrawSampler | None = None
        self.teacher = EMATeacher(self.model, args.ema_decay)
        self.start_clock()
        self._terms: dict[str, list[torch.Tensor]] = {}
        self._scores: tuple[int, dict[str, float]] | None = None  # the last evaluation, and its step
        self._last_pair: dict[str, torch.Tensor] | None = None  # one CutMix image of the last step, for the panels
        self._skipped = SkippedFiles()

    # Data

    def _get_train_sampler(self, train_dataset: PairedCrops | None = None) -> Sampler:
        # Of a step: processes and accumulated batches can stand in for one another.
        batch_size = self._train_batch_size * self.args.world_size * self.args.gradient_accumulation_steps
        labeled = self.labeled_draws.in_whole_batches(batch_size)
        unlabeled = None
        if self.train_dataset.unlabeled is not None:
            num_rows = len(self.train_dataset.unlabeled)
            unlabeled = tuple(
                UnlabeledDraws(num_rows, len(labeled), self.args.draw_seed, stream)
                for stream in (UNLABELED_A, UNLABELED_B)
            )
        # The first draw of the step that unlabelled images join at: before it, nobody would look at them.
        epoch, step = divmod(self.args.semi_supervised_start_step, len(labeled) // batch_size)
        unlabeled_from = (epoch, step * batch_size)
        self.sampler = DrawSampler(labeled, unlabeled, self.args.draw_seed, unlabeled_from)
        return self.sampler

    def train(self, *args: Any, **kwargs: Any) -> TrainOutput:
        """As upstream; with `skip_corrupt`, the metrics have the number of files that were skipped."""
        self._skipped = SkippedFiles()
        output = super().train(*args, **kwargs)
        if self.train_dataset.skip_corrupt:
            output.metrics["skipped_images"] = self._skipped.report()
        return output

    # Losses

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """
        Equation (1) with (3): L_x + λ_c L_c + λ_sc L_sc of a batch of [`~scl_hf.data.crops.PairCollator`].

        Returns:
            `torch.Tensor`: The loss; with `return_outputs`, also the logits `(B, C, H, W)` of the labelled images.
        """
        args, labels = self.args, inputs["labels"]
        self._skipped.add(inputs.get("skipped", ()))
        ramp = self.ramp()
        pixel_values = inputs["pixel_values"]
        if ramp > 0:
            box_ids = inputs["box_ids"]
            mixed = mix(inputs["unlabeled_a"], inputs["unlabeled_b"], box_ids)
            valid = mix(inputs["valid_a"], inputs["valid_b"], box_ids)
            teacher_probs = self.teacher_probs(inputs["unlabeled_a"], inputs["unlabeled_b"], box_ids)
            pixel_values = torch.cat([pixel_values, mixed])

        self._crops += len(pixel_values)
        logits = upsample_logits(model(pixel_values=_channels_last(pixel_values)).logits, labels.shape[-2:])
        labeled_logits = logits[: len(labels)]
        loss_x = relaxed_cross_entropy(labeled_logits, labels, window=args.relaxation_window)
        loss, terms = loss_x, {"loss_x": loss_x}
        if ramp > 0:
            student_probs = logits[len(labels) :].softmax(dim=1)
            if args.consistency_weight > 0:
                terms["loss_c"] = consistency_loss(student_probs, teacher_probs, valid)
                loss = loss + ramp * args.consistency_weight * terms["loss_c"]
            if args.structured_consistency_weight > 0:
                terms["loss_sc"] = structured_consistency_loss(
                    student_probs,
                    teacher_probs,
                    box_ids.masked_fill(~valid, 0),
                    num_boxes=args.num_boxes,
                    num_loss_boxes=args.num_loss_boxes,
                    num_pairs=args.num_pairs,
                    generator=self._pair_generator(),
                )
                loss = loss + ramp * args.structured_consistency_weight * terms["loss_sc"]
            self._last_pair = {
                "image": mixed[0].detach(),
                "target": teacher_probs[0].argmax(dim=0),
                "student": student_probs[0].detach().argmax(dim=0),
                "valid": valid[0],
            }
        for name, term in terms.items():
            self._terms.setdefault(name, []).append(term.detach())
        return (loss, labeled_logits) if return_outputs else loss

    def ramp(self) -> float:
        """Factor of λ_c and λ_sc at this step: 0 during a supervised start, then rising to 1."""
        steps = self.state.global_step - self.args.semi_supervised_start_step
        if steps < 0 or not self.args.semi_supervised:
            return 0.0
        return min(1.0, (steps + 1) / max(1, self.args.semi_supervised_ramp_steps))

    @torch.no_grad()
    def teacher_probs(self, unlabeled_a: torch.Tensor, unlabeled_b: torch.Tensor, box_ids: torch.Tensor):
        """
        p_mt(u'_a, u'_b), the target: the teacher sees both images whole, and its predictions are mixed as the images.

        Returns:
            `torch.Tensor`: `(B, C, H, W)` probabilities in float32.
        """
        model = self.teacher.module if self.args.ema_teacher else self.model
        with evaluation_mode(model), self.accelerator.autocast():
            logits = model(pixel_values=_channels_last(torch.cat([unlabeled_a, unlabeled_b]))).logits
        probs_a, probs_b = upsample_logits(logits, unlabeled_a.shape[-2:]).softmax(dim=1).chunk(2)
        return mix(probs_a, probs_b, box_ids)

    def _pair_generator(self) -> torch.Generator | None:
        if self.args.num_pairs is None:
            return None
        # Seeded by the step, so that a resumed run drops the same pairs.
        seed = np.random.SeedSequence([self.args.seed, self.state.global_step, self.args.process_index])
        return torch.Generator(self.args.device).manual_seed(int(seed.generate_state(1, np.uint64)[0] >> 1))

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """All parameters: plain SGD decays biases and BatchNorm too, and the paper's baseline does."""
        return [name for name, _ in model.named_parameters()]

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """As upstream; arguments that the optimizer does not take are the user's to mend."""
        with _fields_to_mend("optim, optim_args"):
            return super().create_optimizer(model)

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None):
        """As upstream; arguments that the schedule does not take are the user's to mend."""
        with _fields_to_mend("lr_scheduler_type, lr_scheduler_kwargs"):
            return super().create_scheduler(num_training_steps, optimizer)

    # Evaluation

    @property
    def evaluated_name(self) -> str:
        """How tables, pictures and the card call the evaluated model."""
        return "EMA model" if self.args.ema_validation else "student"

    @property
    def evaluated_model(self) -> PreTrainedModel:
        """The model that is evaluated and published: the EMA model, unless `ema_validation` is off."""
        return self.teacher.module if self.args.ema_validation else self.accelerator.unwrap_model(self.model)

    def evaluate(
        self,
        eval_dataset: EvaluationImages | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """
        Scores the evaluated model on every image once, in whatever number of processes; logs, and draws a panel.

        Args:
            eval_dataset ([`~scl_hf.data.crops.EvaluationImages`], *optional*): Instead of the trainer's own.
            ignore_keys (`list[str]`, *optional*): Not used.
            metric_key_prefix (`str`, *optional*, defaults to `"eval"`): Put before each metric's name.

        Returns:
            `dict[str, float]`: mean IoU and accuracies, and the IoU of each class that occurs.
        """
        from .metrics import iou_table  # late: importing `evaluate` takes seconds

        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        if dataset is None:
            raise ValueError("SemiSupervisedTrainer: evaluation requires an eval_dataset.")
        start, args, config = time.perf_counter(), self.args, self.model.config
        rows = range(args.process_index, len(dataset), args.world_size)  # those that `score` deals to this process
        shown = set(rows[:: max(1, len(rows) // max(1, args.panel_images))][: args.panel_images])
        examples = []

        def keep_example(row: int, item: dict[str, Any], probs: torch.Tensor) -> None:
            if row in shown:
                examples.append((item["pixel_values"], item["labels"], probs[0].argmax(dim=0).cpu()))

        results = score(self.evaluated_model, dataset, args, self.accelerator, keep_example)

        metrics = named_scores(results, config.id2label)
        if args.evaluate_both:
            name, other = self._other
            metrics[f"{name}_mean_iou"] = score(other, dataset, args, self.accelerator)["mean_iou"]
        metrics["runtime"] = time.perf_counter() - start
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        if self.is_world_process_zero():
            write(f"\nstep {self.state.global_step}: {self.evaluated_name} on {len(dataset)} images")
            write(iou_table(results["per_category_iou"], config.id2label) + "\n")
            if examples and self.palette is not None:
                write_panel(self, examples, self._last_pair)
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self._scores = (self.state.global_step, metrics)
        self._clock += time.perf_counter() - start
        return metrics

    def final_metrics(self) -> dict[str, float]:
        """Scores of the model as it is now: those of the last evaluation if no step came after it."""
        if self._scores is None or self._scores[0] != self.state.global_step:
            self.evaluate()
        return self._scores[1]

    # Log

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds to a training log line the mean of each loss term, images/s, and the minutes that are left."""
        if "loss" in logs:
            for name, values in self._terms.items():
                mean = self.accelerator.reduce(torch.stack(values).mean(), reduction="mean")
                logs[name] = mean.item()
            self._terms.clear()
            seconds, steps = time.perf_counter() - self._clock, self.state.global_step - self._clock_step
            logs["images_per_second"] = self._crops * self.args.world_size / seconds
            logs["minutes_left"] = (self.state.max_steps - self.state.global_step) * seconds / max(1, steps) / 60
            self.start_clock()
        super().log(logs, start_time)

    def start_clock(self) -> None:
        """Begins to measure images/s, the crops that the student sees; evaluations do not count."""
        self._clock, self._clock_step, self._crops = time.perf_counter(), self.state.global_step, 0

    # Checkpoints

    @property
    def _other(self) -> tuple[str, PreTrainedModel]:
        """Sub-folder and model of whichever of student and teacher is not published."""
        return ("student", self.model) if self.args.ema_validation else ("teacher", self.teacher.module)

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
        super()._save_optimizer_and_scheduler(output_dir)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        folder, other = self._other
        for path, target in (
            (resume_from_checkpoint, self.evaluated_model),
            (f"{resume_from_checkpoint}/{folder}", other),
        ):
            load_weights(Path(path), target)

    def _load_best_model(self) -> None:
        self._load_from_checkpoint(self.state.best_model_checkpoint)
        self._scores = None  # those are of another step

    # Hub

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """As upstream; a Hub that cannot be reached is the user's to mend."""
        try:
            super().init_hf_repo(token=token, private=private)
        except (OSError, HfHubHTTPError) as error:
            raise InputError(f"push_to_hub: the Hub cannot be used ({first_line(error)})") from error

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Writes the card from `model_card_template`; without a template, the card of `transformers`."""
        if self.args.model_card_template is None:
            super().create_model_card(*args, **kwargs)
        elif self.is_world_process_zero():
            write_model_card(self, **kwargs)


def _channels_last(pixel_values: torch.Tensor) -> torch.Tensor:
    # Convolutions keep this layout to the end, and are faster in it on CPUs and with half precision on GPUs.
    return pixel_values.contiguous(memory_format=torch.channels_last)


@contextlib.contextmanager
def _fields_to_mend(fields: str) -> Iterator[None]:
    try:
        yield
    except (TypeError, ValueError) as error:
        raise InputError(f"{fields}: {error}") from error

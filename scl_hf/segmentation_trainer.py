"""`SegmentationTrainer`: transformers' Trainer, on plain data sets of pictures, evaluated on whole images."""

import contextlib
import copy
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from accelerate.utils import gather_object
from torch import nn
from transformers import PreTrainedModel, Trainer, TrainerCallback, get_scheduler, set_seed
from transformers.image_processing_utils import BaseImageProcessor
from transformers.integrations import TensorBoardCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.trainer_utils import PredictionOutput, TrainOutput

from .checkpointing import signals
from .checkpointing.watched_trainer import WatchedTrainer
from .config import SemiSupervisedConfig
from .data.columns import check_labels, image_dataset, labeled_dataset
from .data.crops import EvaluationImages
from .data.labels import LabelImage
from .data.palette import palette_of
from .errors import InputError, first_line
from .evaluation.report import iou_table
from .evaluation.scoring import SCORES, iou_name, is_out_of_memory, named_scores, predicted_images, score
from .files import FolderLock, replacing
from .inference import size_divisor, smallest_side
from .model_card import check_card_template
from .pretrained import ModelArguments, load_model, load_processor, normalization_of, own_size
from .progress import LogLines, ProgressBar, write
from .visualization.panels import training_panel


def open_model(
    model: str | PreTrainedModel,
    args: SemiSupervisedConfig | None,
    train_dataset: datasets.Dataset | None,
    processing_class: BaseImageProcessor | None,
) -> tuple[PreTrainedModel, SemiSupervisedConfig, BaseImageProcessor]:
    """What a trainer is given, with what it may leave out: the model, the settings, the image processor."""
    name = model if isinstance(model, str) else model.config._name_or_path
    args = args or SemiSupervisedConfig(f"{Path(name or 'model').name}-SCL")
    if isinstance(model, str):
        set_seed(args.seed)  # of a new head
        label = (getattr(train_dataset, "features", None) or {}).get("label")
        model = load_model(ModelArguments(name), label.id2label if isinstance(label, LabelImage) else None)
    if any(parameter.dtype in (torch.float16, torch.bfloat16) for parameter in model.parameters()):
        model.float()  # a half-precision checkpoint opens as such, and its average over many steps would not move
    return model, args, own_size(processing_class) if processing_class else load_processor(name or None)


def check_settings_of(model: PreTrainedModel, args: SemiSupervisedConfig) -> None:
    """What the encoder of a model does not take, and what would only show when it is trained, or has been."""
    check_card_template(model, args)
    _check_optimizer(model, args)
    divisor = size_divisor(model)
    if any(side % divisor for side in args.crop_size):
        nearest = [f"{side // divisor * divisor} or {-(-side // divisor) * divisor}" for side in args.crop_size]
        raise InputError(
            f"crop_size: must be multiples of {divisor} for this encoder, got {args.crop_size}; the nearest are "
            f"{' by '.join(dict.fromkeys(nearest))}."
        )
    if min(args.crop_size) < (least := smallest_side(model)):
        raise InputError(f"crop_size: must be {least} or more for this encoder's windows, got {args.crop_size}.")
    if args.gradient_checkpointing and not model.supports_gradient_checkpointing:
        raise InputError(f"gradient_checkpointing: {type(model).__name__} with this encoder has none; leave it out.")


def _check_optimizer(model: PreTrainedModel, args: SemiSupervisedConfig) -> None:
    """Makes optimizer and schedule once, of one number. Upstream passes over arguments that an optimizer has not."""
    with _fields_to_mend("optim, optim_args"):
        optimizer_class, kwargs = Trainer.get_optimizer_cls_and_kwargs(args, model)
        given = (args.optim_args or "").replace(" ", "").split(",")
        if args.optim_args != SemiSupervisedConfig.optim_args:  # the default is for the default optimizer
            for one in filter(None, given):
                others = copy.copy(args)
                others.optim_args = ",".join(other for other in given if other != one)
                if Trainer.get_optimizer_cls_and_kwargs(others, model)[1] == kwargs:
                    raise ValueError(
                        f"{args.optim.value} does not take {one.partition('=')[0]}, so {one} changes nothing"
                    )
        if not (isinstance(optimizer_class, type) and issubclass(optimizer_class, torch.optim.Optimizer)):
            return  # one that is made for a whole model
        optimizer = optimizer_class([nn.Parameter(torch.zeros(1))], **kwargs)
    with _fields_to_mend("lr_scheduler_type, lr_scheduler_kwargs"):
        steps = args.max_steps if args.max_steps > 0 else 10**9  # how many there will be is not known yet
        get_scheduler(args.lr_scheduler_type, optimizer, args.get_warmup_steps(steps), steps, args.lr_scheduler_kwargs)


def encoder_of(model: PreTrainedModel) -> nn.Module:
    """The part of a model that a checkpoint of an encoder fills."""
    for name in filter(None, ("backbone", model.base_model_prefix, "trunk")):
        if hasattr(model, name):
            return getattr(model, name)
    raise InputError(
        f"backbone_learning_rate: {type(model).__name__} has no encoder apart from its head; leave it out"
    )


def parameter_kinds(model: nn.Module) -> dict[str, set[str]]:
    """What each parameter is, of `NOT_DECAYED`; weights of layers are none of them."""
    kinds = {}
    for owner, module in model.named_modules():
        is_norm = "norm" in type(module).__name__.lower()
        for name, _ in module.named_parameters(recurse=False):
            found = {"norms"} if is_norm else {"biases"} if name == "bias" else set()
            found |= {"position_embeddings"} if "position_embedding" in name or "pos_embed" in name else set()
            kinds[f"{owner}.{name}".removeprefix(".")] = found
    return kinds


class SegmentationTrainer(WatchedTrainer):
    """
    What [`SemiSupervisedTrainer`] is without unlabeled images and teacher: the data sets and arguments that it takes,
    evaluation, prediction, and what a person sees.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        args: SemiSupervisedConfig,
        data_collator: Callable,
        train_dataset: datasets.Dataset | None,
        eval_dataset: datasets.Dataset | dict[str, datasets.Dataset] | None,
        processing_class: BaseImageProcessor,
        palette: np.ndarray | None,
        callbacks: Sequence[TrainerCallback],
        optimizers: tuple,
    ):
        self.normalization = normalization_of(processing_class)
        self.id2label = model.config.id2label
        scores = [*SCORES, *map(iou_name, self.id2label.values())]
        if isinstance(eval_dataset, dict):
            scores = [f"{dataset}_{score}" for dataset in eval_dataset for score in scores]
            if args.metric_for_best_model == SCORES[0]:
                args.metric_for_best_model = scores[0]
        if (args.metric_for_best_model or scores[0]).removeprefix("eval_") not in scores:
            raise InputError(f"metric_for_best_model: must be one of {', '.join(scores)}.")
        for rows in eval_dataset.values() if isinstance(eval_dataset, dict) else [eval_dataset]:
            if rows is not None:
                # What is wrong with it shows before anything is written.
                check_labels(self._images(rows, "eval_dataset").dataset, "eval_dataset")
        super().__init__(
            model=model,
            args=args,
            data_collator=data_collator,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            callbacks=list(callbacks),
            optimizers=optimizers,
        )
        self.model_accepts_loss_kwargs = False
        for callback in (ProgressCallback, PrinterCallback):
            self.remove_callback(callback)
        if not args.disable_tqdm:
            self.add_callback(ProgressBar())
        self.add_callback(LogLines())
        self.palette = palette_of(self.id2label) if palette is None else palette
        self.last_pair: dict[str, torch.Tensor] | None = None  # one unlabeled image of the last step, for the panels
        self._scores: tuple[int, dict[str, float]] | None = None  # the last evaluation, and its step

    @property
    def evaluated_model(self) -> PreTrainedModel:
        """The model that is evaluated and published."""
        return self.accelerator.unwrap_model(self.model)

    def _images(self, dataset: datasets.Dataset, name: str) -> EvaluationImages:
        """Whole images to predict, with labels where the data set has them."""
        if name == "test_dataset" and "label" not in getattr(dataset, "column_names", ()):
            return EvaluationImages(image_dataset(dataset, name, None), self.normalization)
        return EvaluationImages(labeled_dataset(dataset, name, self.id2label), self.normalization)

    def evaluate(
        self,
        eval_dataset: datasets.Dataset | dict[str, datasets.Dataset] | str | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """
        Scores the evaluated model on every image once, in whatever number of processes; logs, and draws a panel.

        Args:
            eval_dataset ([`~datasets.Dataset`], `dict[str, Dataset]` or `str`, *optional*):
                Instead of the trainer's own, or the name of one of them. Of several, each name is put before its
                metrics' names.
            ignore_keys (`list[str]`, *optional*): Not used.
            metric_key_prefix (`str`, *optional*, defaults to `"eval"`): Put before each metric's name.

        Returns:
            `dict[str, float]`: mean IoU and accuracies, and the IoU of each class that occurs.
        """
        self.go_on_or_stop()
        eval_dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        if isinstance(eval_dataset, str):
            metric_key_prefix, eval_dataset = f"{metric_key_prefix}_{eval_dataset}", self.eval_dataset[eval_dataset]
        if eval_dataset is None:
            raise ValueError("SemiSupervisedTrainer: evaluation requires an eval_dataset.")
        if isinstance(eval_dataset, dict):
            metrics = {}
            for name, dataset in eval_dataset.items():
                metrics |= self.evaluate(dataset, ignore_keys, f"{metric_key_prefix}_{name}")
        else:
            metrics = self._evaluate_one(self._images(eval_dataset, "eval_dataset"), metric_key_prefix)
            self.log(dict(metrics))
            self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        best = f"eval_{(self.args.metric_for_best_model or '').removeprefix('eval_')}"
        if "iou_" in best and metric_key_prefix == "eval":
            if metrics.setdefault(best, float("nan")) != metrics[best] and self.state.best_metric is None:
                self.state.best_metric = -1.0  # a class that occurs nowhere is never the best; JSON has no infinity
        self._scores = (self.state.global_step, metrics)
        return metrics

    def _evaluate_one(self, images: EvaluationImages, prefix: str) -> dict[str, float]:
        """Named scores of one data set, shown as a table and a panel."""
        self.check_finite_weights(self.evaluated_model)
        start, args = time.perf_counter(), self.args
        rows = range(args.process_index, len(images), args.world_size)  # those that `score` deals to this process
        shown = set(rows[:: max(1, len(rows) // max(1, args.panel_images))][: args.panel_images])
        examples = []

        def keep_example(row: int, item: dict[str, Any], probs: torch.Tensor) -> None:
            if row in shown:
                examples.append((item["pixel_values"], item["labels"], probs[0].argmax(dim=0).cpu()))

        results = score(self.evaluated_model, images, args, self.accelerator, keep_example)
        metrics = named_scores(results, self.id2label) | self.further_scores(images)
        metrics["runtime"] = time.perf_counter() - start
        if self.is_world_process_zero():
            of = prefix.removeprefix("eval").strip("_")
            where = f"{len(images)} images" + (f" of {of}" if of else "")
            write(f"\nstep {self.state.global_step}: {args.published_name} on {where}")
            write(iou_table(results, self.id2label) + "\n")
            if examples:
                self._show_panel(examples, of)
        return {f"{prefix}_{name}": value for name, value in metrics.items()}

    def further_scores(self, images: EvaluationImages) -> dict[str, float]:
        """What else an evaluation measures."""
        return {}

    def _show_panel(self, examples: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]], of: str) -> None:
        """Writes evaluation images, labels and predictions as a picture to `output_dir/panels` and to TensorBoard."""
        step, name = self.state.global_step, f"{of}-step" if of else "step"
        published = self.args.published_name
        picture = training_panel(examples, self.last_pair, self.normalization, self.palette, self.id2label, published)
        with replacing(Path(self.args.output_dir) / "panels" / f"{name}-{step:06d}.png") as partial:
            picture.save(partial)
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, TensorBoardCallback) and callback.tb_writer is not None:
                tag = f"{of}_panel" if of else "panel"
                callback.tb_writer.add_image(tag, np.asarray(picture), global_step=step, dataformats="HWC")

    def final_metrics(self) -> dict[str, float]:
        """Scores of the model as it is now: those of the last evaluation if no step came after it."""
        with self.ending_in_one_line():
            if self._scores is None or self._scores[0] != self.state.global_step:
                self.evaluate()
            signals.check(self.args.device)
        return self._scores[1]

    def predict(
        self, test_dataset: datasets.Dataset, ignore_keys: list[str] | None = None, metric_key_prefix: str = "test"
    ) -> PredictionOutput:
        """
        Label maps that the evaluated model predicts for whole images, all of them in each process.

        Args:
            test_dataset ([`~datasets.Dataset`]): Images, with labels or without.
            ignore_keys (`list[str]`, *optional*): Not used.
            metric_key_prefix (`str`, *optional*, defaults to `"test"`): Put before each metric's name.

        Returns:
            `PredictionOutput`: `predictions`, a list of maps (H, W) of class ids, uint8, each of its image's size;
            `label_ids`, the same of the labels, or `None`; `metrics`, as of [`evaluate`], where there are labels.
        """
        images = self._images(test_dataset, "test_dataset")
        found: dict[int, tuple[np.ndarray, np.ndarray | None]] = {}

        def keep(row: int, item: dict[str, Any], probs: torch.Tensor) -> None:
            label = item["labels"].to(torch.uint8).numpy() if "labels" in item else None
            found[row] = (probs[0].argmax(dim=0).to(torch.uint8).cpu().numpy(), label)

        labeled, metrics = "label" in images.dataset.column_names, {}
        if labeled:
            results = score(self.evaluated_model, images, self.args, self.accelerator, keep)
            metrics = named_scores(results, self.id2label)
        else:
            rows = range(self.args.process_index, len(images), self.args.world_size)
            for prediction in predicted_images(self.evaluated_model, images, rows, self.args, self.accelerator):
                keep(*prediction)
        found = {row: maps for part in gather_object([found]) for row, maps in part.items()}
        predictions, labels = ([found[row][i] for row in sorted(found)] for i in range(2))
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        return PredictionOutput(predictions, labels if labeled else None, metrics)

    # What a user can mend

    def train(self, *args: Any, **kwargs: Any) -> TrainOutput:
        """As upstream, as the one writer of `output_dir`; a step that does not fit into memory is the user's."""
        lock = FolderLock("output_dir", self.args.output_dir)
        try:
            return super().train(*args, **kwargs)
        except (RuntimeError, MemoryError) as error:
            if isinstance(error, RuntimeError) and not is_out_of_memory(error):
                raise
            raise InputError(
                "crop_size, per_device_train_batch_size: a step does not fit into the memory "
                f"({first_line(error)}); take smaller ones"
            ) from error
        finally:
            lock.release()

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """All parameters but those of `no_weight_decay`: the paper's baseline decays biases and BatchNorm, too."""
        left_out = set(self.args.no_weight_decay)
        return [name for name, kinds in parameter_kinds(model).items() if not kinds & left_out]

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """As upstream, with a group of its own for the encoder where it has a learning rate of its own."""
        created = self.optimizer is None
        with _fields_to_mend("optim, optim_args"):
            optimizer = super().create_optimizer(model)
        if created and self.args.backbone_learning_rate is not None:
            encoder = {id(parameter) for parameter in encoder_of(self.model).parameters()}
            for group in list(optimizer.param_groups):
                parameters = group["params"]
                group["params"] = [parameter for parameter in parameters if id(parameter) not in encoder]
                own = [parameter for parameter in parameters if id(parameter) in encoder]
                if own:
                    optimizer.add_param_group(group | {"params": own, "lr": self.args.backbone_learning_rate})
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None):
        """As upstream; arguments that the schedule does not take are the user's to mend."""
        with _fields_to_mend("lr_scheduler_type, lr_scheduler_kwargs"):
            return super().create_scheduler(num_training_steps, optimizer)


@contextlib.contextmanager
def _fields_to_mend(fields: str) -> Iterator[None]:
    try:
        yield
    except (TypeError, ValueError, ImportError) as error:
        raise InputError(f"{fields}: {first_line(error)}") from error

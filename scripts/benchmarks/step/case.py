"""The cases: three models, a dataset for them, and a trainer that times itself from step to step."""

import argparse
import contextlib
import functools
import io
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import datasets
import torch
from torch.profiler import ProfilerActivity, profile, record_function
from transformers import PreTrainedModel, SegformerConfig, SegformerForSemanticSegmentation

from scl_hf import (
    DeepLabV3PlusConfig,
    DeepLabV3PlusForSemanticSegmentation,
    SemiSupervisedConfig,
    SemiSupervisedTrainer,
)
from scl_hf.data import DataArguments, load_data
from scl_hf.data.sources.cityscapes import ID2LABEL
from scl_hf.dry_run import counting_flops
from scl_hf.progress import LogLines

from ..common import peak_memory
from ..data import draw_tree

NARROW = {
    "stem_channels": 16,
    "depths": [1, 1, 1, 1, 1, 1],
    "channels": [[16, 16], [32, 32], [64, 64], [64, 64], [32, 64, 128], [64, 64, 128]],
    "dropout_probs": [0, 0, 0, 0, 0, 0],
    "aspp_channels": 32,
    "aspp_dilations": [2, 4, 6],
    "skip_channels": 16,
    "decoder_channels": 32,
}
NARROW_CROP = (96, 192)
NARROW_SETTINGS = {
    "consistency_weight": 0.2,
    "structured_consistency_weight": 0.5,
    "num_boxes": 4,
    "num_loss_boxes": 4,
    "optim": "adamw_torch",
    "optim_args": None,
    "weight_decay": 0.01,
    "per_device_train_batch_size": 4,
}
PART = "part: "  # before the name of each of the profiler's ranges
LOG_EVERY = 5  # steps
DATA, TRANSFER, TEACHER, GRAD_NORM = "waiting for data", "transfer", "teacher", "gradient norm, NaN check"
LOGGING = f"logging, every {LOG_EVERY} steps"
NAMES = {"id2label": ID2LABEL, "label2id": {name: i for i, name in ID2LABEL.items()}}
LOSSES, STEP = "softmax, counters", "rest"  # what no other part of compute_loss and of the step covers


@dataclass
class Case:
    """A model at a crop size, with the settings of its recipe that differ from the paper's."""

    name: str
    build: Callable[[], PreTrainedModel]
    crop: tuple[int, int]
    settings: dict[str, Any] = field(default_factory=dict)
    warmup: int = 2  # steps that do not count
    steps: int = 5  # steps that do
    rounds: int = 7

    def __str__(self) -> str:
        images = self.settings.get("per_device_train_batch_size", 1)
        return f"{self.name}, {self.crop[0]}×{self.crop[1]}, {images} + {images} images"

    def changed(self, **settings: Any) -> "Case":
        """Returns the case with other settings."""
        return replace(self, settings=self.settings | settings)


def deeplab(**fields: Any) -> PreTrainedModel:
    return DeepLabV3PlusForSemanticSegmentation(DeepLabV3PlusConfig(**fields, **NAMES))


def segformer() -> PreTrainedModel:
    return SegformerForSemanticSegmentation(SegformerConfig(**NAMES))


def cases(args: argparse.Namespace) -> dict[str, Case]:
    """Returns the cases of `--models` by name."""
    on_gpu = torch.cuda.is_available()
    full_size = 896 if on_gpu or args.full else 64
    found = {
        "tiny": Case("narrow DeepLabV3+", functools.partial(deeplab, **NARROW), NARROW_CROP, NARROW_SETTINGS),
        "segformer": Case(
            "SegFormer-B0", segformer, (512, 512) if on_gpu else (128, 128), {"per_device_train_batch_size": 2}
        ),
        "full": Case("DeepLabV3+, WideResNet-38", deeplab, (full_size, full_size)),
    }
    if not on_gpu:  # seconds a step
        found["full"].warmup, found["full"].steps, found["full"].rounds = 1, 2, min(args.rounds, 3)
    for name, case in found.items():
        if args.crop_size:
            case.crop = (args.crop_size, args.crop_size)
        if name != "full" or on_gpu:
            case.steps, case.rounds = args.steps, args.rounds
    return {name: found[name] for name in args.models}


class ToyImages:
    """Images whose size relates to the crop's as in the paper, drawn once for each size."""

    def __init__(self, folder: Path, images: int = 2):
        self.folder, self.images = folder, images
        self.output_dir = folder / "run"

    @functools.cache  # noqa: B019 (there is one)
    def labeled(self, crop_height: int) -> datasets.Dataset:
        """Returns a dataset for crops of a height, with the classes of Cityscapes."""
        width = max(128, 4 * round(4 / 7 * crop_height))
        root = self.folder / f"images-{width}"
        if not root.exists():
            with contextlib.redirect_stdout(io.StringIO()):
                draw_tree(root, argparse.Namespace(width=width, images=self.images, labels=128))
        return load_data(DataArguments(data_dir=str(root)), evaluate=False).labeled


class MeasuredTrainer(SemiSupervisedTrainer):
    """
    The trainer with a profiler range around each part that is a method of its own, and a clock that runs from the step
    after `warmup` to the last step. The last step is left out: it ends with the end of the run.
    """

    warmup = 0
    profiler: profile | None = None  # for the steps that count
    round_seconds = 0.0  # a step of the last `train`, without its data
    last_batch: dict[str, torch.Tensor]
    _start = _waited = 0.0
    _recording = False
    _range: record_function | None = None

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple:
        self._next_step()
        start = time.perf_counter()
        with record_function(PART + DATA):
            batches = super().get_batch_samples(*args, **kwargs)
        self._waited += (time.perf_counter() - start) * (
            self.warmup <= self.state.global_step < self.args.max_steps - 1
        )
        return batches

    def _next_step(self) -> None:
        step, last = self.state.global_step, self.args.max_steps - 1
        if self._range is not None:
            self._range.__exit__(None, None, None)
            self._range = None
        if step in (self.warmup, last) and torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        if step == self.warmup:
            self._start, self._waited = now, 0.0
        if step == last:
            # On a GPU the host waits while the device computes.
            waited = 0.0 if torch.cuda.is_available() else self._waited
            self.round_seconds = (now - self._start - waited) / (last - self.warmup)
        if self.profiler is not None and step == self.warmup:
            self.profiler.start()
            self._recording = True
        if self._recording and step == last:
            self._stop_recording()
        elif self._recording:
            self._range = record_function(PART + STEP)
            self._range.__enter__()

    def _stop_recording(self) -> None:
        self.profiler.stop()
        self._recording = False

    def training_step(self, model: torch.nn.Module, inputs: dict[str, torch.Tensor], *args: Any) -> torch.Tensor:
        self.last_batch = inputs
        return super().training_step(model, inputs, *args)

    _prepare_inputs = record_function(PART + TRANSFER)(SemiSupervisedTrainer._prepare_inputs)
    compute_loss = record_function(PART + LOSSES)(SemiSupervisedTrainer.compute_loss)
    teacher_probs = record_function(PART + TEACHER)(SemiSupervisedTrainer.teacher_probs)
    _get_grad_norm = record_function(PART + GRAD_NORM)(SemiSupervisedTrainer._get_grad_norm)
    log = record_function(PART + LOGGING)(SemiSupervisedTrainer.log)

    # Measurements

    def round(self) -> float:
        """Trains for some steps; returns the seconds of one, without its data."""
        self.train()
        return self.round_seconds

    def profiled(self, **settings: Any) -> profile:
        """Returns the profile of the steps that count."""
        activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * torch.cuda.is_available()
        self.profiler = profile(activities=activities, **settings)
        try:
            self.train()
            return self.profiler
        finally:
            if self._recording:  # a step has failed; the next profile would not begin
                self._stop_recording()
            self.profiler = self._range = None

    def count_flops(self) -> int:
        """Returns the FLOPs of a step in matrix products and convolutions; a multiply-add is two."""
        with counting_flops() as counter:
            self.train()
        return counter.get_total_flops() // self.args.max_steps

    def peak_bytes(self) -> int:
        """Returns the peak of a step, with what lives between steps."""
        between_steps = bytes_of(self.model) + bytes_of(self.teacher.module) + bytes_of_state(self.optimizer)
        return between_steps + most_bytes(self.train)


def bytes_of(model: torch.nn.Module) -> int:
    return sum(tensor.nbytes for tensor in model.state_dict().values())


def bytes_of_state(optimizer: torch.optim.Optimizer) -> int:
    states = optimizer.state.values()
    return sum(value.nbytes for state in states for value in state.values() if isinstance(value, torch.Tensor))


def most_bytes(run: Callable[[], object]) -> int:
    """Returns the most bytes alive at once on the device, beyond those alive before."""
    if not torch.cuda.is_available():
        return peak_memory(run)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


# Settings of the paper where they differ from the defaults
PAPER = {"consistency_weight": 20.0, "structured_consistency_weight": 3.0, "num_boxes": 32, "num_loss_boxes": 16}
PAPER |= {"semi_supervised_start_step": 0, "semi_supervised_ramp_steps": 0, "optim": "sgd"}
PAPER |= {"optim_args": "momentum=0.9", "learning_rate": 0.002, "weight_decay": 0.001}
PAPER |= {"per_device_train_batch_size": 1, "eval_strategy": "no"}


def build_trainer(case: Case, toy_images: ToyImages, **fields: Any) -> MeasuredTrainer:
    """Builds the case's model and trainer; `fields` override its settings."""
    torch.manual_seed(0)
    on_gpu, dataset = torch.cuda.is_available(), toy_images.labeled(case.crop[0])
    settings = {
        "output_dir": str(toy_images.output_dir),
        "max_steps": case.warmup + case.steps + 1,
        "crop_size": list(case.crop),
        **PAPER,
        "class_uniform_share": 0.0,  # makes no difference to the step
        "bf16": on_gpu,
        "use_cpu": not on_gpu,
        "dataloader_num_workers": 4 if on_gpu else 0,
        "logging_steps": LOG_EVERY,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }
    trainer = MeasuredTrainer(
        model=case.build(),
        args=SemiSupervisedConfig(**(settings | case.settings | fields)),
        train_dataset=dataset,
        unlabeled_dataset=dataset.remove_columns("label"),
    )
    trainer.warmup = case.warmup
    trainer.remove_callback(LogLines)  # its lines would stand between the tables
    return trainer


def repeat(step: Callable[[], object], case: Case) -> float:
    """Returns the seconds of a step, timed as a round of the trainer."""
    for _ in range(case.warmup):
        step()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(case.steps):
        step()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / case.steps


def matrix_rate(dtype: torch.dtype) -> float:
    """Returns the best FLOP/s of some products of large matrices."""
    on_gpu = torch.cuda.is_available()
    side, best = (8192 if on_gpu else 1024), float("inf")
    a, b = (torch.randn(side, side, dtype=dtype, device="cuda" if on_gpu else "cpu") for _ in range(2))
    for _ in range(10):
        if on_gpu:
            torch.cuda.synchronize()
        start = time.perf_counter()
        a @ b
        if on_gpu:
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best

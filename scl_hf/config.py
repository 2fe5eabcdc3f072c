"""Settings of a run: `transformers.TrainingArguments` and the fields of the method."""

import os
import re
from bisect import bisect_left
from dataclasses import dataclass, field, fields
from math import ceil
from typing import Any

from accelerate.utils import parse_flag_from_env
from transformers import TrainingArguments
from transformers.integrations import get_available_reporting_integrations

from .data import DataArguments
from .data.augmentation import AugmentationArguments
from .data.sampler import SamplingArguments
from .errors import InputError, check_field
from .evaluation.scoring import EvaluationArguments
from .pretrained import ModelArguments
from .processes import check_joined

NOT_DECAYED = ("norms", "biases", "position_embeddings")
# Steps of the run, or below 1 a share of them
START, INTERVAL = "semi_supervised_start_step", "teacher_update_interval"
LENGTHS = (START, "semi_supervised_ramp_steps", INTERVAL)
RESTARTS = "cosine_with_restarts"
DDP = "several GPUs work with DDP"
WITHOUT_EMA = "where ema_teacher is off"
LENGTH = "a number of steps, or a share of the run below 1"


def _is_length(value: float) -> bool:
    return 0 <= value < 1 or value >= 1 and float(value).is_integer()


# (fields, test of each value that is not None, its words in a message)
_RULES = (
    # Sharding would split the student and leave the EMA teacher behind.
    ("fsdp deepspeed", lambda given: not given, f"left out: {DDP}"),
    # These would break an evaluation, a resumed run or the collator.
    ("bf16_full_eval fp16_full_eval ignore_data_skip remove_unused_columns", lambda given: not given, "left out"),
    ("enable_jit_checkpoint", lambda given: not given, "left out: on a signal train.py saves a checkpoint"),
    ("max_steps", lambda steps: steps == -1 or steps >= 1, "1 or more, or left out"),
    ("num_train_epochs", lambda epochs: epochs > 0, "above 0"),
    ("save_steps", lambda steps: steps > 0, "above 0 (save_strategy no switches it off)"),
    ("eval_steps", lambda steps: steps > 0, "above 0 (eval_strategy no switches it off)"),
    ("logging_steps", lambda steps: steps > 0, "above 0 (logging_strategy no switches it off)"),
    ("gradient_accumulation_steps per_device_train_batch_size num_boxes", lambda n: 1 <= n <= 10_000, "1 to 10000"),
    ("per_device_eval_batch_size", lambda size: size == 1, "1: the images of a dataset differ in size"),
    ("learning_rate weight_decay max_grad_norm panel_images", lambda value: value >= 0, "0 or more"),
    ("consistency_weight structured_consistency_weight", lambda weight: weight >= 0, "0 or more"),
    ("backbone_learning_rate", lambda rate: rate >= 0, "0 or more, or left out"),
    ("optim_args", lambda text: not re.search(r"=\s*[-+]?(?:nan|inf)", text, re.IGNORECASE), "without nan or inf"),
    ("optim_args", lambda text: not text or "=" in text, "like momentum=0.9,nesterov=true"),
    ("seed data_seed", lambda seed: 0 <= seed < 2**32, "0 to 4294967295"),  # NumPy's range
    ("semi_supervised_start_step semi_supervised_ramp_steps", _is_length, LENGTH),
    ("teacher_update_interval", lambda steps: steps > 0 and _is_length(steps), f"above 0: {LENGTH}"),
    ("self_training_rounds", lambda rounds: rounds >= 0, "0 or more"),
    ("num_pairs", lambda pairs: pairs >= 1, "1 or more, or left out for all pairs"),
    ("cutmix_ratio", lambda ratio: 0 < ratio <= 1, "above 0 and at most 1"),
    ("relaxation_window", lambda window: window >= 1 and window % 2 == 1, "odd"),
    ("logit_adjustment", lambda tau: 0 <= tau <= 2, "0 to 2"),
    ("ema_decay", lambda decay: 0 <= decay <= 1, "0 to 1"),
    ("no_weight_decay", lambda kinds: set(kinds) <= set(NOT_DECAYED), f"any of {', '.join(NOT_DECAYED)}"),
    ("license", re.compile(r"[a-z0-9][a-z0-9.+-]*").fullmatch, "written as on the Hub, like apache-2.0 or other"),
)


@dataclass
class SemiSupervisedConfig(SamplingArguments, AugmentationArguments, EvaluationArguments, TrainingArguments):
    """
    Settings of [`SemiSupervisedTrainer`]: the fields of the method, and those that it inherits. The defaults suit a
    pre-trained model and crops of 512 pixels; the paper's values are in `recipes/cityscapes.yaml`. A float that counts
    steps is a number of steps, or below 1 a share of the run, rounded to at least one step.

    Args:
        consistency_weight (`float`, *optional*, defaults to 1.0):
            λ_c, weight of the consistency loss. Equation (3); the paper's is 20; 0 leaves the loss out.
        structured_consistency_weight (`float`, *optional*, defaults to 0.5):
            λ_sc, weight of the structured consistency loss. The paper's is 3; both at 0: supervised training.
        num_boxes (`int`, *optional*, defaults to 12): N, CutMix boxes of an image. The paper has 32.
        num_loss_boxes (`int`, *optional*, defaults to 6):
            N_box, boxes with a structured loss. The last pasted ones; the paper has 16.
        num_pairs (`int`, *optional*):
            N_pair, pairs of pixels in a box (None: all, exactly). Equation (9); the paper samples 9000 at random.
        cutmix_ratio (`float`, *optional*, defaults to 0.77):
            Area of all boxes as a share of the image. Overlaps count twice: at 0.77 the boxes cover half of the image.
        relaxation_window (`int`, *optional*, defaults to 3):
            w, window of boundary label relaxation. Side in pixels, equation (2); 1 is plain cross-entropy.
        logit_adjustment (`float`, *optional*, defaults to 0.0):
            τ, logit adjustment of the labeled loss. Menon et al. (2021); it lifts rare classes. Not in the paper.
        ema_decay (`float`, *optional*, defaults to 0.999): Decay of the EMA teacher. Once a training step.
        ema_teacher (`bool`, *optional*, defaults to `True`):
            Pseudo-labels from the EMA model. If not, they come from the student's own weights (Table 3).
        teacher_update_interval (`float`, *optional*):
            Steps for which one frozen copy of the EMA model gives the pseudo-labels. So teacher and student do not
            confirm each other's errors. By default, as in the paper, the EMA model of each step gives them.
        ema_validation (`bool`, *optional*, defaults to `True`):
            Whether the EMA model is evaluated and published. If not, it is the student (Table 3).
        self_training_rounds (`int`, *optional*, defaults to 0):
            Rounds of self-training, after a supervised phase. All phases are equally long. At the start of each round
            the EMA model becomes its frozen teacher; each phase ends with an evaluation. It sets
            `semi_supervised_start_step`, `teacher_update_interval` and, where none is given, an `lr_scheduler_type`
            that falls to 0 in each phase (`cosine_with_restarts`). 0: the single phase of the paper.
        semi_supervised_start_step (`float`, *optional*):
            Supervised steps at the start. They train a new head before the unlabeled images join. By default 0.0625,
            or the first phase of `self_training_rounds`.
        semi_supervised_ramp_steps (`float`, *optional*, defaults to 0.0625):
            Steps of the ramp-up. After the supervised start λ_c and λ_sc grow linearly from 0 to their values.
        sync_batch_norm (`bool`, *optional*, defaults to `True`): Whether all GPUs share their BatchNorm statistics.
        evaluate_both (`bool`, *optional*, defaults to `False`):
            Whether each evaluation also scores the other one of student and teacher. Its mean IoU joins the log.
        backbone_learning_rate (`float`, *optional*): Learning rate of the encoder. By default that of the head.
        no_weight_decay (`list[str]`, *optional*, defaults to `[]`):
            Parameters without weight decay: any of norms, biases, position_embeddings. The paper's SGD decays all.
        panel_images (`int`, *optional*, defaults to 3):
            Evaluation images whose sample predictions are drawn at each evaluation.
        overwrite_output_dir (`bool`, *optional*, defaults to `False`):
            Whether a finished or broken run in `output_dir` may be replaced. Read by `scripts/train.py`.
        allow_changed_recipe (`bool`, *optional*, defaults to `False`):
            Whether a run may be resumed with other data or settings. The learning rate may always differ.
        model_card_template (`str`, *optional*):
            Jinja template of the model card. Without it: the card that `transformers` writes.
        license (`str`, *optional*):
            License of the published model, as the Hub writes it. Cityscapes and Mapillary Vistas have a default.

    > [!NOTE]
    > These fields have other defaults than in [`~transformers.TrainingArguments`]:
    > - `optim`: Defaults to `"adamw_torch"` instead of `"adamw_torch_fused"`.
    > - `learning_rate`: Defaults to `6e-05` instead of `5e-05`.
    > - `lr_scheduler_type`: Defaults to `None` instead of `"linear"`, which it is without `self_training_rounds`.
    > - `weight_decay`: Defaults to `0.01` instead of `0.0`, and is on all parameters.
    > - `num_train_epochs`: Defaults to `175.0` instead of `3.0`. Epochs are those of the labeled images.
    > - `per_device_train_batch_size`: Defaults to `4` instead of `8`. As many mixed crops join them.
    > - `max_grad_norm`: Defaults to `0.0` instead of `1.0`.
    > - `per_device_eval_batch_size`: Defaults to `1` instead of `8`. Images are of different sizes.
    > - `eval_strategy`: Defaults to `"steps"` instead of `"no"`.
    > - `eval_steps`: Defaults to `500` instead of `None`.
    > - `logging_steps`: Defaults to `50` instead of `500`.
    > - `save_total_limit`: Defaults to `2` instead of `None`.
    > - `remove_unused_columns`: Defaults to `False` instead of `True`.
    > - `logging_nan_inf_filter`: Defaults to `False` instead of `True`.
    > - `ddp_find_unused_parameters`: Defaults to `False` instead of `None`.
    > - `report_to`: Defaults to `["tensorboard"]` instead of `"none"`.
    > - `metric_for_best_model`: Defaults to `"mean_iou"` instead of `None`.
    """

    consistency_weight: float = 1.0
    structured_consistency_weight: float = 0.5
    num_boxes: int = 12
    num_loss_boxes: int = 6
    num_pairs: int | None = None
    cutmix_ratio: float = 0.77
    relaxation_window: int = 3
    logit_adjustment: float = 0.0
    ema_decay: float = 0.999
    ema_teacher: bool = True
    teacher_update_interval: float | None = None
    ema_validation: bool = True
    self_training_rounds: int = 0
    semi_supervised_start_step: float | None = None
    semi_supervised_ramp_steps: float = 0.0625
    sync_batch_norm: bool = True
    evaluate_both: bool = False
    backbone_learning_rate: float | None = None
    no_weight_decay: list[str] = field(default_factory=list)
    panel_images: int = 3
    overwrite_output_dir: bool = False
    allow_changed_recipe: bool = False
    model_card_template: str | None = None
    license: str | None = None

    # TrainingArguments, with values for a pre-trained model …
    optim: str = "adamw_torch"
    learning_rate: float = 6e-5
    lr_scheduler_type: str | None = None
    weight_decay: float = 0.01
    num_train_epochs: float = 175.0
    per_device_train_batch_size: int = 4
    max_grad_norm: float = 0.0
    eval_strategy: str = "steps"
    eval_steps: float | None = 500
    logging_steps: float = 50
    save_total_limit: int | None = 2
    # … and with what this trainer needs.
    per_device_eval_batch_size: int = 1
    remove_unused_columns: bool = False
    logging_nan_inf_filter: bool = False
    ddp_find_unused_parameters: bool | None = False
    report_to: list[str] = field(default_factory=lambda: ["tensorboard"])
    metric_for_best_model: str | None = "mean_iou"

    def __post_init__(self):
        EvaluationArguments.__post_init__(self)  # first: it checks that all numbers are finite
        for names, holds, expected in _RULES:
            for name in names.split():
                value = getattr(self, name)
                check_field(self, name, value is None or holds(value), expected)
        for variable in ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"):  # `accelerate launch` sets these
            if parse_flag_from_env(variable):
                remedy = "Configure accelerate launch as in recipes/accelerate_configs."
                raise InputError(f"{variable}: must be left out: {DDP}, got {os.environ[variable]!r}. {remedy}")
        boxes, rounds = self.num_boxes, self.self_training_rounds
        check_field(self, "num_loss_boxes", 1 <= self.num_loss_boxes <= boxes, f"1 to num_boxes ({boxes})")
        check_field(self, INTERVAL, self.ema_teacher or not self.teacher_update_interval, f"left out {WITHOUT_EMA}")
        check_field(self, "self_training_rounds", self.ema_teacher or not rounds, f"0 {WITHOUT_EMA}")
        self.lr_scheduler_type = self.lr_scheduler_type or (RESTARTS if rounds else "linear")
        trackers = [self.report_to] if isinstance(self.report_to, str) else self.report_to or []
        installed = get_available_reporting_integrations()
        # transformers does not look whether flyte is installed.
        known = trackers in (["none"], ["all"]) or {*installed, "flyte"}.issuperset(trackers)
        check_field(self, "report_to", known, f"none, or any installed one of {', '.join(installed)}")
        for inherited in (SamplingArguments, AugmentationArguments, TrainingArguments):
            inherited.__post_init__(self)
        self._set_phases()  # after upstream has read lr_scheduler_kwargs, which may be JSON
        check_joined()
        if self.mixed_precision == "fp16" and self.device.type == "cpu":  # Accelerate would compute in float32
            raise InputError("fp16: needs a GPU. Leave it out, of the options of accelerate launch as well.")

        for name in LENGTHS:
            value = getattr(self, name)
            if value is not None and (value == 0 or value >= 1):
                setattr(self, name, int(value))  # steps, not a share: how the log, the card and a checkpoint show it
        # Pinned memory serves copies to a GPU; without one torch warns at every loader.
        self.dataloader_pin_memory = self.dataloader_pin_memory and self.device.type == "cuda"
        self.accelerator_config.non_blocking |= self.dataloader_pin_memory  # the host need not wait for a batch

    def _set_phases(self) -> None:
        """Sets the fields that `self_training_rounds` decides; rejects those that contradict it."""
        phases = self.self_training_rounds + 1
        if phases == 1:
            if self.semi_supervised_start_step is None:
                self.semi_supervised_start_step = 0.0625
            return
        share, known = 1 / phases, self.max_steps > 0
        cut = f"max_steps {self.max_steps}" if known else "the run"
        remedy = f"Leave it out, or self_training_rounds: {phases - 1} cuts {cut} into {phases} equal phases."
        for name in (START, INTERVAL):
            given = getattr(self, name)
            if given not in (None, share) and not (known and given == self.phase_ends(self.max_steps)[0]):
                raise InputError(f"{name}: {given:g} is not the length of a phase. {remedy}")
            setattr(self, name, share)
        if self.lr_scheduler_type == RESTARTS:
            cycles, given = {"num_cycles": phases}, self.lr_scheduler_kwargs
            if given and given != cycles:
                raise InputError(f"lr_scheduler_kwargs: {given} is not one cycle a phase. {remedy}")
            self.lr_scheduler_kwargs = cycles
            if self.warmup_steps:
                raise InputError(f"warmup_steps: {self.warmup_steps} would delay the rate in each phase. {remedy}")

    def __getstate__(self) -> dict[str, Any]:
        """Leaves the token out: every checkpoint holds the pickled settings, and they are pushed."""
        return self.__dict__ | {"hub_token": None}

    @property
    def sample_seed(self) -> int:
        """Seed of the samples: `data_seed`, or by default `seed`."""
        return self.seed if self.data_seed is None else self.data_seed

    @property
    def semi_supervised(self) -> bool:
        """True if unlabeled images take part in the training at all."""
        return self.consistency_weight > 0 or self.structured_consistency_weight > 0

    @property
    def step_batch_size(self) -> int:
        """Labeled crops of a step, over all processes and accumulated batches."""
        return self.train_batch_size * self.world_size * self.gradient_accumulation_steps

    def total_steps(self, num_labeled: int, batch_size: int) -> int:
        """Steps of a run whose step takes `batch_size` labeled crops."""
        return self.max_steps if self.max_steps > 0 else ceil(self.num_train_epochs * ceil(num_labeled / batch_size))

    def lengths(self, max_steps: int) -> dict[str, int]:
        """The fields that are lengths, in steps of a run of `max_steps`."""
        steps = {name: steps_of(length, max_steps) for name in LENGTHS if (length := getattr(self, name)) is not None}
        if self.self_training_rounds:
            steps |= dict.fromkeys((START, INTERVAL), self.phase_ends(max_steps)[0])
        return steps

    def phase_ends(self, max_steps: int) -> list[int]:
        """Returns the last step, counted from 1, of each phase that `self_training_rounds` cuts a run into."""
        phases = self.self_training_rounds + 1
        return [ceil(number * max_steps / phases) for number in range(1, phases + 1)]  # where the rate begins anew

    def phase_of(self, step: int, max_steps: int) -> int:
        """Returns the phase of a step, counted from 1: 0 is the supervised one, then come the rounds."""
        return bisect_left(self.phase_ends(max_steps), step)

    def start_step(self, max_steps: int) -> int:
        """Returns the first step, counted from 0, with unlabeled images."""
        return self.lengths(max_steps)[START]

    def ramp(self, step: int, max_steps: int) -> float:
        """Returns the factor of λ_c and λ_sc at a step: 0 during the supervised start, then rising to 1."""
        steps = step - self.start_step(max_steps)
        if steps < 0 or not self.semi_supervised:
            return 0.0
        return min(1.0, (steps + 1) / max(1, steps_of(self.semi_supervised_ramp_steps, max_steps)))

    def updates_teacher(self, step: int, max_steps: int) -> bool:
        """Returns whether a new frozen copy of the EMA model is made before a step."""
        if self.self_training_rounds:
            return step in self.phase_ends(max_steps)[:-1]
        if self.teacher_update_interval is None:
            return False
        steps = step - self.start_step(max_steps)
        return steps >= 0 and steps % steps_of(self.teacher_update_interval, max_steps) == 0

    @property
    def published_name(self) -> str:
        """Name in tables, images and the card of the model that is evaluated and published."""
        return "EMA model" if self.ema_validation else "student"


def steps_of(length: float, max_steps: int) -> int:
    """Returns the steps of a length: a number of steps, or below 1 a share of `max_steps`, at least one step."""
    return int(length) if length >= 1 or length == 0 else max(1, round(length * max_steps))


TRAINING_RECIPE = (ModelArguments, DataArguments, SemiSupervisedConfig)


def other_fields(*taken: type) -> set[str]:
    """Returns the fields of a training recipe that are in none of the classes `taken`."""
    names = {field.name for group in TRAINING_RECIPE for field in fields(group)}
    return names - {field.name for group in taken for field in fields(group)}

"""The settings of a run: `transformers.TrainingArguments` with the paper's values, and the method's own fields."""

import re
from dataclasses import dataclass, field, fields
from typing import Any

from transformers import TrainingArguments
from transformers.integrations import get_available_reporting_integrations

from .data import DataArguments
from .data.augmentation import AugmentationArguments
from .data.sampler import SamplingArguments
from .errors import check_field
from .evaluation.scoring import EvaluationArguments
from .pretrained import ModelArguments

NOT_DECAYED = ("norms", "biases", "position_embeddings")


@dataclass
class SemiSupervisedConfig(SamplingArguments, AugmentationArguments, EvaluationArguments, TrainingArguments):
    """
    Settings of [`SemiSupervisedTrainer`]. Every default is the paper's (section 4.1) or its baseline's, and so are the
    symbols. The method's own fields stand here; inherited are [`~scl_hf.data.SamplingArguments`],
    [`~scl_hf.data.AugmentationArguments`], `EvaluationArguments` and [`~transformers.TrainingArguments`].

    Args:
        consistency_weight (`float`, *optional*, defaults to 20.0):
            λ_c, weight of the consistency loss. Equation (3); 0 leaves the loss out.
        structured_consistency_weight (`float`, *optional*, defaults to 3.0):
            λ_sc, weight of the structured consistency loss. Equation (3); 0 leaves the loss out; with both at 0 the
            training is supervised.
        num_boxes (`int`, *optional*, defaults to 32):
            N, CutMix boxes of an image. Fewer suit crops smaller than the paper's 800–900 pixels.
        num_loss_boxes (`int`, *optional*, defaults to 16):
            N_box, boxes with a structured loss. They are the last pasted ones.
        num_pairs (`int`, *optional*):
            N_pair, pairs of pixels in a box (None: all, exactly). Equation (9); the paper draws 9000 at random. All of
            them take time linear in the pixels.
        cutmix_ratio (`float`, *optional*, defaults to 0.77):
            Area of all boxes as a share of the image. It counts overlaps twice: at 0.77 the boxes cover half of it.
        relaxation_window (`int`, *optional*, defaults to 3):
            w, window of boundary label relaxation. Side in pixels, equation (2); 1 is plain cross-entropy.
        logit_adjustment (`float`, *optional*, defaults to 0.0):
            τ, logit adjustment of the labeled loss. Menon et al. (2021); lifts thin and rare classes, with labels
            alone, too: 0.5 on CamVid. Not in the paper.
        ema_decay (`float`, *optional*, defaults to 0.999):
            Decay of the EMA teacher. It is the weight of the teacher's past in its average, once a training step.
        ema_teacher (`bool`, *optional*, defaults to `True`):
            Targets from the EMA model. If not, they come from the student's own weights (Table 3).
        teacher_update_interval (`int`, *optional*):
            Steps for which the targets come from one copy of the EMA model. It is made when the unlabeled images
            join, and anew after so many steps, so that teacher and student do not confirm each other's errors. Without
            it, as in the paper, they come from the EMA model of each step.
        share_unlabeled (`bool`, *optional*, defaults to `False`):
            Whether each unlabeled image is in two mixes of a batch. It is image a of one and image b of the one
            before, so that half as many are read and seen by the teacher; needs 2 or more a batch.
        ema_validation (`bool`, *optional*, defaults to `True`):
            Whether the EMA model is the one that is evaluated and published. If not, it is the student (Table 3).
        semi_supervised_start_step (`int`, *optional*, defaults to 0):
            Steps with labels alone at the start. For runs without pre-trained weights.
        semi_supervised_ramp_steps (`int`, *optional*, defaults to 0):
            Steps of ramp-up. After the start λ_c and λ_sc grow from 0 to their values, linearly.
        sync_batch_norm (`bool`, *optional*, defaults to `True`):
            Whether BatchNorm statistics are shared by all GPUs. Has no effect on one GPU or on CPU.
        evaluate_both (`bool`, *optional*, defaults to `False`):
            Whether each evaluation scores the other one of student and teacher, too. Its mean IoU joins the log.
        backbone_learning_rate (`float`, *optional*):
            Learning rate of the encoder. By default that of the head, `learning_rate`; the schedule is the same.
        no_weight_decay (`list[str]`, *optional*, defaults to `[]`):
            What weight decay leaves out: any of norms, biases, position_embeddings. The paper's SGD decays everything.
        panel_images (`int`, *optional*, defaults to 3):
            Evaluation images drawn into a panel at each evaluation.
        overwrite_output_dir (`bool`, *optional*, defaults to `False`):
            Whether a finished or broken run in `output_dir` may be replaced. Read by `scripts/train.py`.
        allow_changed_recipe (`bool`, *optional*, defaults to `False`):
            Whether a run may be resumed with other data or settings. By default only those may differ from the
            checkpoint's on which neither the sequence of samples nor a step depends, and the learning rate.
        model_card_template (`str`, *optional*):
            Jinja template of the model card. Without it: the card that `transformers` writes.
        license (`str`, *optional*):
            License of the published model, as the Hub writes it. It goes into the model card. By default that of
            Cityscapes or Mapillary Vistas where they are the data, or none.

    > [!NOTE]
    > These fields have other defaults than in [`~transformers.TrainingArguments`]:
    > - `optim`: Defaults to `"sgd"` instead of `"adamw_torch_fused"`.
    > - `optim_args`: Defaults to `"momentum=0.9"` instead of `None`. Set it to `None` for optimizers without momentum.
    > - `learning_rate`: Defaults to `0.002` instead of `5e-05`.
    > - `weight_decay`: Defaults to `0.001` instead of `0.0`, and is on all parameters.
    > - `lr_scheduler_type`: Defaults to `"polynomial"` instead of `"linear"`.
    > - `lr_scheduler_kwargs`: Defaults to `{"power": 1.0, "lr_end": 0.0}` instead of `None`.
    > - `num_train_epochs`: Defaults to `175.0` instead of `3.0`.
    > - `per_device_train_batch_size`: Defaults to `1` instead of `8`. As many mixed crops join them.
    > - `max_grad_norm`: Defaults to `0.0` instead of `1.0`.
    > - `per_device_eval_batch_size`: Defaults to `1` instead of `8`. Images are of different sizes.
    > - `remove_unused_columns`: Defaults to `False` instead of `True`.
    > - `logging_nan_inf_filter`: Defaults to `False` instead of `True`.
    > - `ddp_find_unused_parameters`: Defaults to `False` instead of `None`.
    > - `report_to`: Defaults to `["tensorboard"]` instead of `"none"`.
    > - `metric_for_best_model`: Defaults to `"mean_iou"` instead of `None`.
    """

    consistency_weight: float = 20.0
    structured_consistency_weight: float = 3.0
    num_boxes: int = 32
    num_loss_boxes: int = 16
    num_pairs: int | None = None
    cutmix_ratio: float = 0.77
    relaxation_window: int = 3
    logit_adjustment: float = 0.0
    ema_decay: float = 0.999
    ema_teacher: bool = True
    teacher_update_interval: int | None = None
    share_unlabeled: bool = False
    ema_validation: bool = True
    semi_supervised_start_step: int = 0
    semi_supervised_ramp_steps: int = 0
    sync_batch_norm: bool = True
    evaluate_both: bool = False
    backbone_learning_rate: float | None = None
    no_weight_decay: list[str] = field(default_factory=list)
    panel_images: int = 3
    overwrite_output_dir: bool = False
    allow_changed_recipe: bool = False
    model_card_template: str | None = None
    license: str | None = None

    # TrainingArguments, with the paper's values …
    optim: str = "sgd"
    optim_args: str | None = "momentum=0.9"
    learning_rate: float = 0.002
    weight_decay: float = 0.001
    lr_scheduler_type: str = "polynomial"
    lr_scheduler_kwargs: dict | str | None = field(default_factory=lambda: {"power": 1.0, "lr_end": 0.0})
    num_train_epochs: float = 175.0
    per_device_train_batch_size: int = 1
    max_grad_norm: float = 0.0
    # … and with what this trainer needs.
    per_device_eval_batch_size: int = 1
    remove_unused_columns: bool = False
    logging_nan_inf_filter: bool = False
    ddp_find_unused_parameters: bool | None = False
    report_to: list[str] = field(default_factory=lambda: ["tensorboard"])
    metric_for_best_model: str | None = "mean_iou"

    def __post_init__(self):
        EvaluationArguments.__post_init__(self)  # first: it looks whether all numbers are finite
        for sharding in ("fsdp", "deepspeed"):  # they would shard the student and leave the EMA teacher behind
            check_field(self, sharding, not getattr(self, sharding), "left out: several GPUs work with DDP")
        # What an evaluation, a resumed run and the collator do here, these would break.
        for switch in ("bf16_full_eval", "fp16_full_eval", "ignore_data_skip", "remove_unused_columns"):
            check_field(self, switch, not getattr(self, switch), "left out")
        # It saves in the middle of a step and then publishes; scripts/train.py ends a run by a signal as a whole.
        switch = "enable_jit_checkpoint"
        check_field(self, switch, not self.enable_jit_checkpoint, "left out: on a signal train.py saves a checkpoint")
        not_finite = re.search(r"=\s*[-+]?(?:nan|inf)", self.optim_args or "", re.IGNORECASE)
        check_field(self, "optim_args", not not_finite, "finite")
        check_field(
            self, "optim_args", not self.optim_args or "=" in self.optim_args, "like momentum=0.9,nesterov=true"
        )
        check_field(self, "max_steps", self.max_steps == -1 or self.max_steps >= 1, "1 or more, or left out")
        check_field(self, "num_train_epochs", self.num_train_epochs > 0, "above 0")
        at_least_1 = ("gradient_accumulation_steps", "per_device_train_batch_size", "num_boxes")
        at_least_0 = ("learning_rate", "consistency_weight", "structured_consistency_weight", "panel_images")
        at_least_0 += ("semi_supervised_start_step", "semi_supervised_ramp_steps", "weight_decay", "max_grad_norm")
        for name in at_least_1:
            check_field(self, name, 1 <= getattr(self, name) <= 10_000, "1 to 10000")
        for name in at_least_0:
            check_field(self, name, getattr(self, name) >= 0, "0 or more")
        for name in ("seed", "data_seed"):  # NumPy takes no others
            seed = getattr(self, name)
            check_field(self, name, seed is None or 0 <= seed < 2**32, "0 to 4294967295")
        for name in ("save", "eval", "logging"):
            steps = getattr(self, f"{name}_steps")
            remedy = f"above 0 ({name}_strategy no switches it off)"
            check_field(self, f"{name}_steps", steps is None or steps > 0, remedy)
        license = self.license is None or re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", self.license)
        check_field(self, "license", license, "written as on the Hub, like apache-2.0, cc-by-4.0 or other")
        rate = self.backbone_learning_rate
        check_field(self, "backbone_learning_rate", rate is None or rate >= 0, "0 or more, or left out")
        known = set(self.no_weight_decay) <= set(NOT_DECAYED)
        check_field(self, "no_weight_decay", known, f"any of {', '.join(NOT_DECAYED)}")
        most = self.num_boxes
        check_field(self, "num_loss_boxes", 1 <= self.num_loss_boxes <= most, f"1 to num_boxes ({most})")
        pairs = self.num_pairs is None or self.num_pairs >= 1
        check_field(self, "num_pairs", pairs, "1 or more, or left out for all pairs")
        check_field(self, "cutmix_ratio", 0 < self.cutmix_ratio <= 1, "above 0 and at most 1")
        odd = self.relaxation_window >= 1 and self.relaxation_window % 2 == 1
        check_field(self, "relaxation_window", odd, "odd")
        check_field(self, "logit_adjustment", 0 <= self.logit_adjustment <= 2, "0 to 2")
        renewal = self.teacher_update_interval
        check_field(self, "teacher_update_interval", renewal is None or renewal >= 1, "1 or more, or left out")
        both = renewal is None or self.ema_teacher
        check_field(self, "teacher_update_interval", both, "left out where ema_teacher is off")
        several = self.per_device_train_batch_size > 1
        remedy = "left out where per_device_train_batch_size is 1: an image would be mixed with itself"
        check_field(self, "share_unlabeled", several or not self.share_unlabeled, remedy)
        check_field(self, "ema_decay", 0 <= self.ema_decay <= 1, "0 to 1")
        check_field(
            self, "per_device_eval_batch_size", self.per_device_eval_batch_size == 1, "1: sizes differ in a data set"
        )
        trackers = [self.report_to] if isinstance(self.report_to, str) else self.report_to or []
        installed = get_available_reporting_integrations()
        # transformers does not look whether flyte is installed.
        known = trackers in (["none"], ["all"]) or {*installed, "flyte"}.issuperset(trackers)
        check_field(self, "report_to", known, f"none, or what is installed here, of {', '.join(installed)}")
        for inherited in (SamplingArguments, AugmentationArguments, TrainingArguments):
            inherited.__post_init__(self)

        # Pinned memory serves copies to a GPU; without one torch warns at every loader.
        self.dataloader_pin_memory = self.dataloader_pin_memory and self.device.type == "cuda"

    def __getstate__(self) -> dict[str, Any]:
        """Without the token: every checkpoint has the pickled settings, and they are pushed."""
        return self.__dict__ | {"hub_token": None}

    @property
    def sample_seed(self) -> int:
        """Seed of the draws: `data_seed`, or `seed` where that is not given."""
        return self.seed if self.data_seed is None else self.data_seed

    @property
    def semi_supervised(self) -> bool:
        """Whether unlabeled images take part in the training at all."""
        return self.consistency_weight > 0 or self.structured_consistency_weight > 0

    def start_step(self, max_steps: int) -> int:
        """Returns the first step with unlabeled images."""
        return self.semi_supervised_start_step

    def ramp(self, step: int, max_steps: int) -> float:
        """Returns the factor of λ_c and λ_sc at a step: 0 during the supervised start, then rising to 1."""
        steps = step - self.start_step(max_steps)
        if steps < 0 or not self.semi_supervised:
            return 0.0
        return min(1.0, (steps + 1) / max(1, self.semi_supervised_ramp_steps))

    def updates_teacher(self, step: int, max_steps: int) -> bool:
        """Returns whether the frozen teacher is made, or renewed, before a step."""
        steps = step - self.start_step(max_steps)
        return self.teacher_update_interval is not None and steps >= 0 and steps % self.teacher_update_interval == 0

    @property
    def unlabeled_per_mix(self) -> int:
        """Unlabeled images that are read, and seen by the teacher, for each mixed one."""
        return 1 if self.share_unlabeled else 2

    @property
    def published_name(self) -> str:
        """How tables, pictures and the card call the model that is evaluated and published."""
        return "EMA model" if self.ema_validation else "student"


TRAINING_RECIPE = (ModelArguments, DataArguments, SemiSupervisedConfig)


def other_fields(*taken: type) -> set[str]:
    """The fields of a training recipe that a script which takes those of `taken` leaves aside."""
    names = {field.name for group in TRAINING_RECIPE for field in fields(group)}
    return names - {field.name for group in taken for field in fields(group)}

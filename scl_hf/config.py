"""The settings of a run: `transformers.TrainingArguments` with the paper's values, and the method's own fields."""

from dataclasses import dataclass, field

from transformers import TrainingArguments

from .errors import check_field
from .evaluation.protocol import EvaluationArguments


@dataclass
class SemiSupervisedConfig(EvaluationArguments, TrainingArguments):
    """
    Settings of [`SemiSupervisedTrainer`]. Every default is the value of the paper (section 4.1); symbols are the
    paper's. Fields that are not listed here are those of [`EvaluationArguments`], which say how
    images are evaluated, and of [`~transformers.TrainingArguments`].

    Args:
        consistency_weight (`float`, *optional*, defaults to 20.0):
            λ_c of equation (3). 0 leaves the loss out.
        structured_consistency_weight (`float`, *optional*, defaults to 3.0):
            λ_sc of equation (3). 0 leaves the loss out; with both at 0 the training is supervised.
        num_boxes (`int`, *optional*, defaults to 32):
            N, the CutMix boxes of an image. Fewer suit crops smaller than the paper's 800–900 pixels.
        num_loss_boxes (`int`, *optional*, defaults to 16):
            N_box, the last pasted boxes, on which the structured loss is computed.
        num_pairs (`int`, *optional*):
            N_pair of equation (9), pairs drawn at random in each box (the paper's value is 9000). Without it the
            structured loss is exact: over all pairs, in time linear in the pixels.
        cutmix_ratio (`float`, *optional*, defaults to 0.77):
            Area of all boxes before they overlap, as a share of the image. At 0.77 their union is half of the image.
        relaxation_window (`int`, *optional*, defaults to 3):
            w, side in pixels of the window of boundary label relaxation, equation (2). 1 is plain cross-entropy.
        ema_decay (`float`, *optional*, defaults to 0.999):
            Weight of the teacher's past in its moving average, applied once a training step.
        ema_teacher (`bool`, *optional*, defaults to `True`):
            Whether the targets come from the EMA model; if not, from the student's own weights (Table 3).
        ema_validation (`bool`, *optional*, defaults to `True`):
            Whether the EMA model is the one that is evaluated and published; if not, the student (Table 3).
        semi_supervised_start_step (`int`, *optional*, defaults to 0):
            Training steps with labels alone before the unlabelled losses join, for runs without pre-trained weights.
        semi_supervised_ramp_steps (`int`, *optional*, defaults to 0):
            Steps over which λ_c and λ_sc then grow from 0 to their values, linearly.
        sync_batch_norm (`bool`, *optional*, defaults to `True`):
            Whether BatchNorm statistics are shared by all GPUs. Has no effect on one GPU or on CPU.
        evaluate_both (`bool`, *optional*, defaults to `False`):
            Whether each evaluation scores the other one of student and teacher, too; its mean IoU joins the log.
        panel_images (`int`, *optional*, defaults to 3):
            Evaluation images drawn into a panel at each evaluation.
        overwrite_output_dir (`bool`, *optional*, defaults to `False`):
            Whether a finished or broken run in `output_dir` may be replaced.
        model_card_template (`str`, *optional*):
            Jinja template of the model card. Without it: the card that `transformers` writes.
    """

    consistency_weight: float = field(default=20.0, metadata={"help": "λ_c, equation (3)"})
    structured_consistency_weight: float = field(default=3.0, metadata={"help": "λ_sc, equation (3)"})
    num_boxes: int = field(default=32, metadata={"help": "N, CutMix boxes of an image"})
    num_loss_boxes: int = field(default=16, metadata={"help": "N_box, last boxes that enter the structured loss"})
    num_pairs: int | None = field(default=None, metadata={"help": "N_pair, equation (9); none = exact, all pairs"})
    cutmix_ratio: float = field(default=0.77, metadata={"help": "area of all boxes as a share of the image"})
    relaxation_window: int = field(default=3, metadata={"help": "w, equation (2); 1 = plain cross-entropy"})
    ema_decay: float = field(default=0.999, metadata={"help": "decay of the teacher's moving average"})
    ema_teacher: bool = field(default=True, metadata={"help": "targets from the EMA model (Table 3)"})
    ema_validation: bool = field(default=True, metadata={"help": "evaluate and publish the EMA model (Table 3)"})
    semi_supervised_start_step: int = field(default=0, metadata={"help": "steps with labels alone at the start"})
    semi_supervised_ramp_steps: int = field(default=0, metadata={"help": "steps over which λ_c and λ_sc grow"})
    sync_batch_norm: bool = field(default=True, metadata={"help": "share BatchNorm statistics between GPUs"})
    evaluate_both: bool = field(default=False, metadata={"help": "log the mean IoU of student and EMA model"})
    panel_images: int = field(default=3, metadata={"help": "evaluation images in each panel"})
    overwrite_output_dir: bool = field(default=False, metadata={"help": "replace an earlier run in output_dir"})
    model_card_template: str | None = field(default=None, metadata={"help": "Jinja template of the model card"})

    # TrainingArguments, with the paper's values ...
    optim: str = field(default="sgd", metadata={"help": "optimizer, a name of transformers.OptimizerNames"})
    optim_args: str | None = field(default="momentum=0.9", metadata={"help": "arguments of the optimizer"})
    learning_rate: float = field(default=0.002, metadata={"help": "initial learning rate"})
    weight_decay: float = field(default=0.001, metadata={"help": "on all parameters"})
    lr_scheduler_type: str = field(default="polynomial", metadata={"help": "learning-rate policy"})
    lr_scheduler_kwargs: dict | str | None = field(
        default_factory=lambda: {"power": 1.0, "lr_end": 0.0}, metadata={"help": "arguments of the policy"}
    )
    num_train_epochs: float = field(default=175.0, metadata={"help": "epochs of the labelled set"})
    per_device_train_batch_size: int = field(default=1, metadata={"help": "labelled crops (and mixed ones) a device"})
    max_grad_norm: float = field(default=0.0, metadata={"help": "gradient clipping; 0 = none"})
    # ... and with what this trainer needs.
    per_device_eval_batch_size: int = field(default=1, metadata={"help": "images are evaluated one at a time"})
    remove_unused_columns: bool = field(default=False, metadata={"help": "not used: the batches are this package's"})
    logging_nan_inf_filter: bool = field(default=False, metadata={"help": "hide NaN losses in the log"})
    ddp_find_unused_parameters: bool | None = field(default=False, metadata={"help": "see TrainingArguments"})
    report_to: list[str] = field(default_factory=lambda: ["tensorboard"], metadata={"help": "trackers, or 'none'"})
    metric_for_best_model: str | None = field(default="mean_iou", metadata={"help": "see TrainingArguments"})

    def __post_init__(self):
        for sharding in ("fsdp", "deepspeed"):  # they would shard the student and leave the EMA teacher behind
            check_field(self, sharding, not getattr(self, sharding), "left out: several GPUs work with DDP")
        check_field(
            self, "optim_args", not self.optim_args or "=" in self.optim_args, "like momentum=0.9,nesterov=true"
        )
        check_field(self, "gradient_accumulation_steps", self.gradient_accumulation_steps >= 1, "1 or more")
        check_field(self, "per_device_train_batch_size", self.per_device_train_batch_size >= 1, "1 or more")
        check_field(self, "max_steps", self.max_steps == -1 or self.max_steps >= 1, "1 or more, or left out")
        check_field(self, "num_train_epochs", self.num_train_epochs > 0, "above 0")
        check_field(self, "seed", self.seed >= 0, "0 or more")
        check_field(self, "learning_rate", self.learning_rate >= 0, "0 or more")
        EvaluationArguments.__post_init__(self)
        TrainingArguments.__post_init__(self)
        check_field(self, "consistency_weight", self.consistency_weight >= 0, "0 or more")
        check_field(self, "structured_consistency_weight", self.structured_consistency_weight >= 0, "0 or more")
        check_field(self, "num_boxes", self.num_boxes >= 1, "1 or more")
        check_field(
            self, "num_loss_boxes", 1 <= self.num_loss_boxes <= self.num_boxes, f"1 to num_boxes ({self.num_boxes})"
        )
        check_field(
            self, "num_pairs", self.num_pairs is None or self.num_pairs >= 1, "1 or more, or left out for all pairs"
        )
        check_field(self, "cutmix_ratio", 0 < self.cutmix_ratio <= 1, "above 0 and at most 1")
        check_field(self, "relaxation_window", self.relaxation_window >= 1 and self.relaxation_window % 2 == 1, "odd")
        check_field(self, "ema_decay", 0 <= self.ema_decay <= 1, "0 to 1")
        check_field(self, "semi_supervised_start_step", self.semi_supervised_start_step >= 0, "0 or more")
        check_field(self, "semi_supervised_ramp_steps", self.semi_supervised_ramp_steps >= 0, "0 or more")
        check_field(self, "panel_images", self.panel_images >= 0, "0 or more")
        check_field(
            self, "per_device_eval_batch_size", self.per_device_eval_batch_size == 1, "1: sizes differ in a data set"
        )

        # Pinned memory serves copies to a GPU; without one torch warns at every loader.
        self.dataloader_pin_memory = self.dataloader_pin_memory and self.device.type == "cuda"

    @property
    def draw_seed(self) -> int:
        """Seed of the draws: `data_seed`, or `seed` where that is not given."""
        return self.seed if self.data_seed is None else self.data_seed

    @property
    def semi_supervised(self) -> bool:
        """Whether unlabelled images take part in the training at all."""
        return self.consistency_weight > 0 or self.structured_consistency_weight > 0

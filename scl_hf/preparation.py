"""Opens the model of a run, and checks the settings against it."""

from pathlib import Path

import datasets
import torch
from transformers import PreTrainedModel, set_seed
from transformers.image_processing_utils import BaseImageProcessor

from .config import SemiSupervisedConfig
from .data.labels import LabelImage
from .errors import InputError, check_field
from .image_processors import load_processor, own_size, record_input
from .inference import size_divisor, smallest_side
from .model_card import check_card_template
from .models import DeepLabV3PlusForSemanticSegmentation
from .optim import check_optimizer
from .pretrained import ModelArguments, load_model


def open_model(
    model: str | PreTrainedModel,
    args: SemiSupervisedConfig | None,
    train_dataset: datasets.Dataset | None,
    processing_class: BaseImageProcessor | None,
) -> tuple[PreTrainedModel, SemiSupervisedConfig, BaseImageProcessor]:
    """Returns model, settings and image processor of a trainer; `model` may be a name, the others None."""
    name = model if isinstance(model, str) else model.config._name_or_path
    args = args or SemiSupervisedConfig(f"{Path(name or 'model').name}-SCL")
    if train_dataset is not None and args.n_gpu > 1:  # nn.DataParallel would drop mixed precision and SyncBatchNorm
        remedy = "Start with accelerate launch, a process on each, or set CUDA_VISIBLE_DEVICES=0 to use one."
        raise InputError(f"CUDA_VISIBLE_DEVICES: one process sees {args.n_gpu} GPUs. {remedy}")
    if isinstance(model, str):
        set_seed(args.seed)  # of a new head
        label = (getattr(train_dataset, "features", None) or {}).get("label")
        model = load_model(ModelArguments(name), label.id2label if isinstance(label, LabelImage) else None)
    if any(parameter.dtype in (torch.float16, torch.bfloat16) for parameter in model.parameters()):
        model.float()  # in half precision, the average of many steps would not move
    processor = own_size(processing_class) if processing_class else load_processor(name or None)
    record_input(processor, (getattr(train_dataset, "features", None) or {}).get("image"))
    return model, args, processor


def check_batch_size(model: PreTrainedModel, args: SemiSupervisedConfig) -> None:
    """Rejects supervised steps on one image per process, if BatchNorm then has one value to normalize."""
    supervised = not args.semi_supervised or args.semi_supervised_start_step > 0
    pools = isinstance(model, DeepLabV3PlusForSemanticSegmentation)
    synced = any(isinstance(module, torch.nn.SyncBatchNorm) for module in model.modules())
    if supervised and pools and args.per_device_train_batch_size == 1 and not synced:
        reason = "must be 2 or more for supervised steps: BatchNorm over the image pooling has one value an image"
        raise InputError(f"per_device_train_batch_size: {reason}. On several GPUs, sync_batch_norm does as well.")


def check_settings_of(model: PreTrainedModel, args: SemiSupervisedConfig) -> None:
    """Rejects settings that a model does not take, which would show only in training, or after it."""
    check_card_template(model, args)
    check_optimizer(model, args)
    divisor = size_divisor(model)
    nearest = [f"{side // divisor * divisor} or {-(-side // divisor) * divisor}" for side in args.crop_size]
    expected = f"multiples of {divisor} for this encoder, such as {' by '.join(dict.fromkeys(nearest))}"
    check_field(args, "crop_size", not any(side % divisor for side in args.crop_size), expected)
    least = smallest_side(model)
    check_field(args, "crop_size", min(args.crop_size) >= least, f"{least} or more for this encoder's windows")
    if args.gradient_checkpointing and not model.supports_gradient_checkpointing:
        raise InputError(f"gradient_checkpointing: {type(model).__name__} with this encoder has none; leave it out.")

"""Optimizer and schedule: their check before a run, which parameters decay, a learning rate for the encoder."""

import contextlib
import copy
from collections.abc import Iterator

import torch
from torch import nn
from transformers import PreTrainedModel, Trainer, get_scheduler

from .config import SemiSupervisedConfig
from .errors import InputError, first_line


@contextlib.contextmanager
def _wrong_fields(fields: str) -> Iterator[None]:
    """Names `fields` in the error of an optimizer or schedule that cannot be built."""
    try:
        yield
    except (TypeError, ValueError, ImportError) as error:
        raise InputError(f"{fields}: {first_line(error)}") from error


def small_optimizer(model: PreTrainedModel, args: SemiSupervisedConfig) -> torch.optim.Optimizer | None:
    """Returns the optimizer of `args` over one small matrix, or None for one that takes a whole model."""
    optimizer_class, kwargs = Trainer.get_optimizer_cls_and_kwargs(args, model)
    if isinstance(optimizer_class, type) and issubclass(optimizer_class, torch.optim.Optimizer):
        return optimizer_class([nn.Parameter(torch.zeros(64, 64))], **kwargs)
    return None


def check_optimizer(model: PreTrainedModel, args: SemiSupervisedConfig) -> None:
    """Builds optimizer and schedule once, and rejects arguments that the optimizer lacks: upstream ignores them."""
    with _wrong_fields("optim, optim_args"):
        _, kwargs = Trainer.get_optimizer_cls_and_kwargs(args, model)
        given = (args.optim_args or "").replace(" ", "").split(",")
        for one in filter(None, given):
            others = copy.copy(args)
            others.optim_args = ",".join(other for other in given if other != one)
            if Trainer.get_optimizer_cls_and_kwargs(others, model)[1] == kwargs:
                raise ValueError(f"{args.optim.value} does not take {one.partition('=')[0]}: {one} changes nothing")
        optimizer = small_optimizer(model, args)
    if optimizer is None:
        return
    with _wrong_fields("lr_scheduler_type, lr_scheduler_kwargs"):
        steps = args.max_steps if args.max_steps > 0 else 10**9  # the length is not known yet
        get_scheduler(args.lr_scheduler_type, optimizer, args.get_warmup_steps(steps), steps, args.lr_scheduler_kwargs)


def encoder_of(model: PreTrainedModel) -> nn.Module:
    """Returns the part of a model that the checkpoint of an encoder fills."""
    for name in filter(None, ("backbone", model.base_model_prefix, "trunk")):
        if hasattr(model, name):
            return getattr(model, name)
    raise InputError(f"backbone_learning_rate: {type(model).__name__} has no encoder under a head; leave it out")


def decayed_parameters(model: nn.Module, left_out: list[str]) -> list[str]:
    """Returns the names of all parameters but those of the kinds `left_out`, of [`~scl_hf.config.NOT_DECAYED`]."""
    names = []
    for owner, module in model.named_modules():
        is_norm = "norm" in type(module).__name__.lower()
        for name, _ in module.named_parameters(recurse=False):
            kinds = {"norms"} if is_norm else {"biases"} if name == "bias" else set()
            kinds |= {"position_embeddings"} if "position_embedding" in name or "pos_embed" in name else set()
            if not kinds & set(left_out):
                names.append(f"{owner}.{name}".removeprefix("."))
    return names


def split_off_encoder(optimizer: torch.optim.Optimizer, encoder: nn.Module, learning_rate: float) -> None:
    """Moves the parameters of the encoder into groups of their own, with their own learning rate."""
    own = set(encoder.parameters())
    for group in list(optimizer.param_groups):
        parameters = group["params"]
        group["params"] = [parameter for parameter in parameters if parameter not in own]
        if encoders := [parameter for parameter in parameters if parameter in own]:
            optimizer.add_param_group(group | {"params": encoders, "lr": learning_rate})

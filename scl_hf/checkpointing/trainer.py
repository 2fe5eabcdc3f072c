"""`CheckpointedTrainer`: transformers' Trainer with atomic checkpoints, verified resume and clean stops."""

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import CommitInfo
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import Trainer, TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, HubStrategy, TrainOutput

from ..errors import RESUME_HINT, InputError, first_line, killed_workers
from ..files import FolderLock, disk_full, is_disk_full, write_json
from ..hub import HubArguments, Push
from ..processes import is_out_of_memory, on_main_process
from . import manifest
from .fingerprint import RECIPE_NAME, check_fingerprint
from .finite import check_weights, finite, name_of_gradient, not_finite
from .signals import Interrupted, SignalCallback, agree, requested, save_for_resume

logger = logging.getLogger(__name__)


class CheckpointedTrainer(Trainer):
    """
    [`~transformers.Trainer`] for runs that can be interrupted at any time.

    - A checkpoint is written below `_partial`, flushed, sealed with a `manifest.json`, and renamed to `checkpoint-*`
      when it is complete; only then are older ones removed, the best one never.
    - `train` resumes from verified checkpoints with the same `fingerprint`, and does not train a finished run further.
    - A signal within [`~scl_hf.checkpointing.signals.deferred`] lets the step end, saves a checkpoint and raises
      [`~scl_hf.checkpointing.signals.Interrupted`], in all processes at the same step. An evaluation is broken off.
    - A push to the Hub that fails is repeated and reported in one line; it never ends the run.
    - A loss or gradient that is NaN or infinite raises a [`~scl_hf.errors.NotFiniteError`] before the step is taken.
    - A full disk, or too little memory, is one line.

    A subclass sets `fingerprint`, and calls `record` in `compute_loss`.
    """

    fingerprint: Mapping[str, Any] = {}  # what a resumed run must share with the one that wrote its checkpoint
    images_of_step: Callable[[int], list[str]] | None = None  # names the images of a step, for the error
    _recipe: Mapping[str, Any] = {}  # the fingerprint of the last `train`: hashing all ids takes a moment
    _push: Push | None = None
    _partial: Path | None = None  # where `_save_checkpoint` writes
    _last_saved: Path | None = None  # the newest checkpoint that can be resumed from

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.last_terms: dict[str, torch.Tensor] = {}  # of the last loss
        self._terms: dict[str, tuple[torch.Tensor, int]] = {}  # sum and number since the last log
        self._batches: list[Mapping[str, Any]] = []  # of the running step
        self._signals = SignalCallback()
        self.add_callback(self._signals)

    @killed_workers()
    def train(
        self,
        resume_from_checkpoint: str | os.PathLike | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """
        Trains as upstream, as the only writer of `output_dir`.

        Args:
            resume_from_checkpoint (`str` or `bool`, *optional*):
                A checkpoint folder, or `True` for the newest complete one in `output_dir`; those that are passed over
                are named. An incomplete one, or one with another fingerprint, is rejected.
            trial (`optuna.Trial` or `dict[str, Any]`, *optional*): As upstream.
            ignore_keys_for_eval (`list[str]`, *optional*): As upstream.

        Returns:
            `TrainOutput`: As upstream; without metrics if the checkpoint has reached the last step.
        """
        if self.train_dataset is None:
            raise InputError("train_dataset: training needs labeled images; give the trainer some.")
        self._recipe, self._last_saved, self._terms, self._batches = self.fingerprint, None, {}, []
        lock = FolderLock("output_dir", self.args.output_dir)
        own = self.args.save_only_model, self.args.hub_strategy
        try:
            with self.ending_in_one_line():
                if self.is_world_process_zero():
                    manifest.clear_partial(self.args.output_dir)
                self.accelerator.wait_for_everyone()
                if resume_from_checkpoint:
                    name = resume_from_checkpoint if resume_from_checkpoint is True else Path(resume_from_checkpoint)
                    checkpoint, step = on_main_process(lambda: self._verified_checkpoint(name))
                    if checkpoint.resolve().parent == Path(self.args.output_dir).resolve():
                        self._last_saved = checkpoint
                    if step >= self.set_initial_training_values(self.args, self.get_train_dataloader())[-1]:
                        return self._finished(checkpoint)
                    resume_from_checkpoint = str(checkpoint)
                return super().train(resume_from_checkpoint or None, trial, ignore_keys_for_eval)
        except (RuntimeError, MemoryError) as error:
            if isinstance(error, RuntimeError) and not is_out_of_memory(error):
                raise
            raise InputError(
                "crop_size, per_device_train_batch_size: a step does not fit into the memory "
                f"({first_line(error)}); take smaller ones"
            ) from error
        finally:
            self.args.save_only_model, self.args.hub_strategy = own  # a signal changes them
            lock.release()

    @contextlib.contextmanager
    def ending_in_one_line(self) -> Iterator[None]:
        """Saves a checkpoint when a signal ends the block; turns a full disk into one line."""
        try:
            try:
                yield
            except Interrupted as stop:
                self._save_interrupted(stop)
                raise
        except Exception as error:
            if not is_disk_full(error) or isinstance(error, InputError):
                raise
            name = str(getattr(error, "filename", None) or "a file")
            raise disk_full(error, name, self.args.output_dir, _REMEDY) from error

    def _save_interrupted(self, stop: Interrupted) -> None:
        step = self.state.global_step
        # With the best models loaded and the optimizer of the last step, there is no checkpoint to save.
        best = not self.is_in_train and self.args.load_best_model_at_end and self.state.best_model_checkpoint
        if not self._step_is_saved and not best:
            save_for_resume(self.args)
            self._save_checkpoint(self.model, None)
        if self._step_is_saved:
            ending = f"and saved as {self._last_saved}: {RESUME_HINT} resumes from here"
        else:
            ending = f"with the best model in {best}: save_only_model leaves nothing to resume from"
        after = f"after step {step}" if step < self.state.max_steps else f"after the last step, {step},"
        stop.line = f"stopped by {stop.signal_name} {after} {ending}"
        self.accelerator.wait_for_everyone()  # a launcher ends the other processes when the first one has left

    def record(self, batch: Mapping[str, Any], terms: Mapping[str, torch.Tensor]) -> None:
        """Records a batch and the terms of its loss, for the log and the check for NaN."""
        self._batches.append(batch)
        self.last_terms = {name: term.detach() for name, term in terms.items()}
        for name, term in self.last_terms.items():
            total, number = self._terms.get(name, (0.0, 0))
            self._terms[name] = (total + term, number + 1)

    def _get_grad_norm(self, model: nn.Module, grad_norm: torch.Tensor | None = None) -> torch.Tensor:
        if grad_norm is None:  # upstream scales all gradients by the norm: one NaN would be in all of them
            self.accelerator.unscale_gradients()
            grad_norm = nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
        terms = {name: total for name, (total, _) in self._terms.items()} | {"loss": self._tr_loss}
        terms["gradient"], scaler = grad_norm, self.accelerator.scaler
        if scaler is not None:
            # The scaler of fp16 skips a step with infinite gradients and halves its scale. It never gives up itself.
            terms["gradient"] = torch.where(scaler._scale < 1, grad_norm, 0.0)
        # The one host read of a step, in which the processes also agree on a signal.
        wrong = ~torch.stack([term.detach().float() for term in terms.values()]).isfinite()
        *wrong, self._signals.number = agree(wrong)
        batches, self._batches = self._batches, []
        if any(wrong):
            name, step = list(terms)[wrong.index(1)], self.state.global_step
            what = name_of_gradient(self.model) if name == "gradient" else name
            images = self.images_of_step(step) if self.images_of_step else []
            error = not_finite(step + 1, what, images, batches, self.args)
            self.accelerator.wait_for_everyone()  # until each process has saved its batches
            raise error
        return grad_norm

    # Saving

    def _get_output_dir(self, trial: Any) -> str:
        return super()._get_output_dir(trial) if self._partial is None else str(self._partial)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        # Upstream writes everything and removes nothing: there is no other checkpoint in that folder.
        run_dir = Path(self._get_output_dir(trial))
        folder = run_dir / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        partial = run_dir / manifest.PARTIAL_DIR / folder.name
        self._partial = partial.parent
        try:
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()  # each process has written its random state
            self._find_best(run_dir, folder)
            if self.args.should_save:
                self.state.save_to_json(str(partial / TRAINER_STATE_NAME))
                write_json(partial / RECIPE_NAME, self._recipe)
                manifest.publish(partial, folder)
        except Exception as error:
            if self.args.should_save:
                manifest.clear_partial(run_dir)  # a full disk needs the space
            if is_disk_full(error):
                raise disk_full(error, str(folder), run_dir, _REMEDY, self._checkpoint_bytes()) from error
            raise
        finally:
            self._partial = None
        self.accelerator.wait_for_everyone()
        if not self.args.save_only_model:
            self._last_saved = folder
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(folder))
        if self.args.should_save:
            manifest.rotate(run_dir, folder, self.args.save_total_limit, self.state.best_model_checkpoint)

    def _checkpoint_bytes(self) -> int:
        tensors = [*self.model.state_dict().values()] * 2  # student and teacher
        for state in self.optimizer.state.values() if self.optimizer is not None else ():
            tensors += [value for value in state.values() if isinstance(value, torch.Tensor)]
        return sum(tensor.nbytes for tensor in tensors)

    @property
    def _step_is_saved(self) -> bool:
        return self._last_saved is not None and manifest.step_of(self._last_saved) == self.state.global_step

    def _find_best(self, run_dir: Path, written: Path | None = None) -> None:
        # Upstream finds the best checkpoint only beside the one being written, by a path that survives no move.
        best = run_dir / f"{PREFIX_CHECKPOINT_DIR}-{self.state.best_global_step}"
        if best == written or best.is_dir():
            self.state.best_model_checkpoint = str(best)

    def _load_best_model(self) -> None:
        best = self.state.best_model_checkpoint
        if problem := on_main_process(lambda: manifest.find_problem(Path(best))):
            raise InputError(
                f"load_best_model_at_end: the best checkpoint, {best}: {problem}. The same command with"
                " --resume_from_checkpoint true --load_best_model_at_end false publishes the last model."
            )
        self._load_from_checkpoint(best)

    def _finalize_training(self, *args: Any, **kwargs: Any) -> TrainOutput:
        best = self.args.load_best_model_at_end and self.state.best_model_checkpoint
        if best and not self._step_is_saved and not self.args.save_only_model:
            self._save_checkpoint(self.model, None)  # now: the best model is about to replace the last one
        # With a limit of 1 upstream would keep the best checkpoint alone, and a resumed run would train on from it.
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            return super()._finalize_training(*args, **kwargs)
        finally:
            self.args.save_total_limit = limit

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the mean of each loss term; leaves out what is not finite, as the norm of a step that fp16 skips."""
        if "loss" in logs:
            for name, (total, number) in self._terms.items():
                logs[name] = self.accelerator.reduce(total / number, reduction="mean").item()
            self._terms.clear()
        super().log(finite(logs), start_time)

    def save_metrics(self, split: str, metrics: Mapping[str, float], combined: bool = True) -> None:
        """Saves as upstream, without what is not finite: the IoU of a class that occurs nowhere."""
        super().save_metrics(split, finite(metrics), combined)

    def check_finite_weights(self, model: nn.Module) -> None:
        """Raises an InputError for a broken model, which must not be scored or saved."""
        check_weights(f"step {self.state.global_step}: the model", model, f"It is not used; {RESUME_HINT} resumes.")

    # Resuming

    def _verified_checkpoint(self, name: Path | bool) -> tuple[Path, int]:
        """Returns a complete checkpoint with this fingerprint, and its step."""
        checkpoint = manifest.newest_complete(Path(self.args.output_dir)) if name is True else name
        if name is not True and (problem := manifest.why_not_resumable(name)):
            remedy = "Name an older one, or give true for the newest complete one."
            raise InputError(f"resume_from_checkpoint {name}: {problem}. {remedy}")
        check_fingerprint(checkpoint, self._recipe, self.args.allow_changed_recipe)
        written_by = max(1, len(list(checkpoint.glob("rng_state_*.pth"))))
        if written_by != self.args.world_size:
            logger.warning(
                "%s was written by %d process(es) and is resumed on %d: the same samples, but not bit for bit",
                *(checkpoint, written_by, self.args.world_size),
            )
        return checkpoint, TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME)).global_step

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        # The state was loaded just before: take the intervals of this run, and the best checkpoint where it is now.
        self.state.compute_steps(self.args, self.state.max_steps)
        self._find_best(Path(checkpoint).parent)
        groups = self.optimizer.param_groups
        own = [{name: value for name, value in group.items() if name not in ("params", "lr")} for group in groups]
        try:
            super()._load_optimizer_and_scheduler(checkpoint)
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"resume_from_checkpoint {checkpoint}: its optimizer's state does not fit this recipe"
                f" ({first_line(error)}). Give the recipe that wrote it."
            ) from error
        # Upstream keeps the checkpoint's rates. Where nothing changed, this changes no bit.
        for group, values in zip(self.optimizer.param_groups, own):
            group.update(values)
        if isinstance(self.lr_scheduler, LambdaLR):
            scheduler, groups = self.lr_scheduler, self.optimizer.param_groups
            scheduler.base_lrs = [group["initial_lr"] for group in groups]
            for group, rate, factor in zip(groups, scheduler.base_lrs, scheduler.lr_lambdas):
                group["lr"] = rate * factor(scheduler.last_epoch)
            scheduler._last_lr = [group["lr"] for group in groups]

    def _finished(self, checkpoint: Path) -> TrainOutput:
        """Restores a run whose checkpoint has reached the last step."""
        self._load_from_checkpoint(str(checkpoint))
        self.state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
        self.state.init_training_references(self, self.state.max_steps, self.state.num_train_epochs, None)
        self._last_saved = checkpoint
        if self.is_world_process_zero():
            logger.warning("%s has reached the last step: nothing is left to train", checkpoint)
        self._find_best(checkpoint.parent)
        best = self.state.best_model_checkpoint
        if self.args.load_best_model_at_end and best is not None:
            if os.path.isdir(best):
                self._load_best_model()
            elif self.is_world_process_zero():
                logger.warning("the best checkpoint, %s, is gone: the model is that of the last step", best)
        return TrainOutput(self.state.global_step, 0.0, {})

    # Pushing

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Opens the repository as upstream, and rejects now what a push at the end would reject."""
        args = self.args
        settings = HubArguments(
            hub_model_id=args.hub_model_id or Path(args.output_dir).absolute().name,
            hub_private_repo=args.hub_private_repo if private is None else private,
            hub_strategy=HubStrategy(args.hub_strategy).value,
            hub_revision=args.hub_revision,
        )
        self._push = Push(args.output_dir, settings, token or args.hub_token)
        self.hub_model_id = on_main_process(self._push.prepare)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        ready = self._partial is None and self.args.hub_strategy != HubStrategy.END
        if ready and self.is_world_process_zero():
            self.callback_handler.on_push_begin(self.args, self.state, self.control)
            self._push.start(f"Training in progress, step {self.state.global_step}", Path(checkpoint_folder))

    def _finish_current_push(self) -> None:
        if self._push is not None:
            self._push.finish(requested)

    def push_to_hub(
        self,
        commit_message: str = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> CommitInfo | None:
        """
        Pushes as upstream, with the checkpoints of `hub_strategy`; a failure is one line.

        Args:
            commit_message (`str`, *optional*, defaults to `"End of training"`): Message of the commit.
            blocking (`bool`, *optional*, defaults to `True`): Not used: it returns when the push has ended.
            token (`str`, *optional*): Instead of `hub_token`.
            revision (`str`, *optional*): Instead of `hub_revision`.
            private (`bool`, *optional*): Instead of `hub_private_repo`.
            kwargs (`dict[str, Any]`, *optional*): Passed to [`~Trainer.create_model_card`].

        Returns:
            `CommitInfo`: The commit, or `None` after a failure and in all processes but the first.
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        if self._push is None:
            self.init_hf_repo(token, private)
        self._finish_current_push()
        self.save_model(_internal_call=True)
        self.save_state()
        if not self.is_world_process_zero():
            return None
        push = self._push
        push.token = token or push.token
        if revision and revision != push.settings.hub_revision:
            push.settings.hub_revision, push.repo = revision, None  # opened again: the branch may be new
        tags = kwargs.pop("tags", None) or []
        tags = [tags] if isinstance(tags, str) else tags
        kwargs["tags"] = list(dict.fromkeys([*tags, *(getattr(self.model, "model_tags", None) or ())]))
        kwargs.setdefault("model_name", push.settings.hub_model_id.split("/")[-1])
        self.create_model_card(**kwargs)
        commit = push.end(commit_message)
        self.hub_model_id = push.repo or self.hub_model_id
        return commit


_REMEDY = f"Free some space; then {RESUME_HINT} resumes from the last complete checkpoint."

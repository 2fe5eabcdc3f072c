"""`CheckpointedTrainer`: transformers' Trainer with atomic checkpoints, verified resume and clean stops."""

import contextlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import CommitInfo
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import Trainer, TrainerState
from transformers.trainer import OPTIMIZER_NAME, TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, HubStrategy, TrainOutput

from ..errors import RESUME_HINT, InputError, first_line
from ..files import FolderLock, disk_full, is_disk_full, write_json
from ..processes import on_main_process
from ..pushing import HubArguments, Push
from .fingerprint import RECIPE_NAME, changes
from .finite import check_weights, finite
from .manifest import PARTIAL_DIR, checkpoints_in, clear_partial, find_problem, publish, rotate, step_of
from .signals import Interrupted, SignalCallback, save_for_resume

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
    - A full disk is one line. Weights that are not finite are never written.
    """

    fingerprint: Mapping[str, Any] = {}  # what a resumed run must share with the one that wrote its checkpoint
    _push: Push | None = None
    _partial: Path | None = None  # where `_save_checkpoint` writes
    _last_saved: Path | None = None  # the newest checkpoint that can be resumed from

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.signal_callback = SignalCallback()
        self.add_callback(self.signal_callback)

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
        lock = FolderLock("output_dir", self.args.output_dir)
        self._last_saved = None
        try:
            with self.ending_in_one_line():
                if self.is_world_process_zero():
                    clear_partial(self.args.output_dir)
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
        finally:
            lock.release()

    @contextlib.contextmanager
    def ending_in_one_line(self) -> Iterator[None]:
        """Saves a checkpoint when a signal ends what is within; says in one line that, or that the disk is full."""
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

    # Saving

    def _get_output_dir(self, trial: Any) -> str:
        return super()._get_output_dir(trial) if self._partial is None else str(self._partial)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        # Upstream writes everything and removes nothing: there is no other checkpoint in that folder.
        run_dir = Path(self._get_output_dir(trial))
        folder = run_dir / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        partial = run_dir / PARTIAL_DIR / folder.name
        self._partial = partial.parent
        try:
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()  # each process has written its random state
            self._find_best(run_dir, folder)
            if self.args.should_save:
                self.state.save_to_json(str(partial / TRAINER_STATE_NAME))
                write_json(partial / RECIPE_NAME, self.fingerprint)
                publish(partial, folder)
        except Exception as error:
            if self.args.should_save:
                clear_partial(run_dir)  # a full disk needs the space
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
            rotate(run_dir, folder, self.args.save_total_limit, self.state.best_model_checkpoint)

    def _checkpoint_bytes(self) -> int:
        tensors = [*self.model.state_dict().values()] * 2  # student and teacher
        for state in self.optimizer.state.values() if self.optimizer is not None else ():
            tensors += [value for value in state.values() if isinstance(value, torch.Tensor)]
        return sum(tensor.nbytes for tensor in tensors)

    @property
    def _step_is_saved(self) -> bool:
        return self._last_saved is not None and step_of(self._last_saved) == self.state.global_step

    def _find_best(self, run_dir: Path, written: Path | None = None) -> None:
        # Upstream finds the best checkpoint only beside the one being written, by a path that survives no move.
        best = run_dir / f"{PREFIX_CHECKPOINT_DIR}-{self.state.best_global_step}"
        if best == written or best.is_dir():
            self.state.best_model_checkpoint = str(best)

    def _load_best_model(self) -> None:
        best = self.state.best_model_checkpoint
        if problem := on_main_process(lambda: find_problem(Path(best))):
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
        """Logs as upstream, without what is not finite, such as the gradient norm of a step that fp16 skips."""
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
        if name is not True:
            if problem := self._find_problem(name):
                raise InputError(
                    f"resume_from_checkpoint {name}: {problem}. Name an older one, or give true for the newest"
                    " complete one."
                )
            checkpoint = name
        else:
            checkpoint, passed_over = None, 0
            for folder in reversed(checkpoints_in(self.args.output_dir)):
                problem = self._find_problem(folder)
                if problem is None:
                    checkpoint = folder
                    break
                passed_over += 1
                logger.warning("%s is passed over: %s", folder, problem)
            if checkpoint is None:
                found = (
                    f"none of the {passed_over} checkpoints is complete" if passed_over else "holds no checkpoint-*"
                )
                raise InputError(
                    f"resume_from_checkpoint: {self.args.output_dir}: {found}. Name another folder, or start anew with"
                    " --overwrite_output_dir true."
                )
        self._check_fingerprint(checkpoint)
        written_by = max(1, len(list(checkpoint.glob("rng_state_*.pth"))))
        if written_by != self.args.world_size:
            logger.warning(
                "%s was written by %d process(es) and is resumed on %d: the same samples, but not bit for bit",
                *(checkpoint, written_by, self.args.world_size),
            )
        return checkpoint, TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME)).global_step

    def _find_problem(self, folder: Path) -> str | None:
        """Returns why a run cannot resume from a folder, in a few words, or None."""
        if not folder.is_dir():
            return "is not a checkpoint folder" if folder.exists() else "there is no such folder"
        alone = not (folder / OPTIMIZER_NAME).exists()
        return find_problem(folder) or ("holds the model alone (save_only_model)" if alone else None)

    def _check_fingerprint(self, checkpoint: Path) -> None:
        found = changes(json.loads((checkpoint / RECIPE_NAME).read_text(encoding="utf-8")), self.fingerprint)
        if not found:
            return
        differ = ", ".join(f"{name} ({change})" for name, change in sorted(found.items()))
        if not self.args.allow_changed_recipe or "optim" in found:
            remedy = "add --allow_changed_recipe true to resume with the new ones"
            if "optim" in found:  # an optimizer cannot take another one's state
                remedy = f"start a new run with --model_name_or_path {checkpoint}"
            raise InputError(
                f"resume_from_checkpoint {checkpoint}: was written with other values of {differ}. Give the"
                f" checkpoint's, or {remedy}."
            )
        logger.warning("%s is resumed with other values of %s", checkpoint, differ)

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
        """Brings a run back whose checkpoint has reached the last step."""
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
            self._push.finish()

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

"""`ResumableTrainer`: transformers' Trainer, with checkpoints that are whole, and resumes that are verified."""

import json
import logging
import os
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainerState
from transformers.trainer import OPTIMIZER_NAME, TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, TrainOutput

from ..errors import InputError, first_line
from ..files import write_json
from ..hub import on_the_hub
from ..processes import on_main_process
from .fetching import fetch_checkpoint
from .fingerprint import RECIPE_NAME, changes
from .manifest import PARTIAL_DIR, checkpoints_in, clear_partial, find_problem, publish, rotate, step_of
from .pushed_trainer import PushedTrainer

logger = logging.getLogger(__name__)


class ResumableTrainer(PushedTrainer):
    """
    What a run that can be interrupted at any time needs of [`~transformers.Trainer`].

    A checkpoint is written below `_partial`, flushed, sealed with a `manifest.json` of its files, and named
    `checkpoint-*` when it is complete; only then are older ones removed, the best one never. `train` resumes from
    checkpoints that their manifests verify, and only with the recipe that wrote them. A run that has reached its last
    step is not trained further. The best checkpoint is verified, too, before it is loaded.
    """

    _partial: Path | None = None  # where `_save_checkpoint` writes
    _recipe: dict[str, Any] | None = None
    _last_whole: Path | None = None  # the newest checkpoint that this run can go on from

    def recipe(self) -> dict[str, Any]:
        """What a resumed run must have in common with the one that wrote a checkpoint ([`recipe_of`])."""
        raise NotImplementedError

    def train(
        self,
        resume_from_checkpoint: str | os.PathLike | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """
        As upstream, but for what can be resumed from.

        Args:
            resume_from_checkpoint (`str` or `bool`, *optional*):
                A checkpoint folder, or `True` for the newest whole one in `output_dir`; those that are passed over
                are named. `user/repo` or `user/repo@revision` for the newest one of a repository on the Hub, which is
                put into `output_dir`. One that is not whole or was written by another recipe is refused.
            trial (`optuna.Trial` or `dict[str, Any]`, *optional*): As upstream.
            ignore_keys_for_eval (`list[str]`, *optional*): As upstream.

        Returns:
            `TrainOutput`: As upstream; without metrics where the checkpoint has reached the last step.
        """
        if self.train_dataset is None:
            raise InputError("train_dataset: training needs labeled images; give the trainer some.")
        self._recipe, self._last_whole = self.recipe(), None
        if self.is_world_process_zero():
            clear_partial(self.args.output_dir)
        self.accelerator.wait_for_everyone()
        if resume_from_checkpoint:
            name = resume_from_checkpoint if resume_from_checkpoint is True else Path(resume_from_checkpoint)
            checkpoint, step = on_main_process(lambda: self._whole_checkpoint(name))
            if step >= self.set_initial_training_values(self.args, self.get_train_dataloader())[-1]:
                return self._finished(checkpoint)
            resume_from_checkpoint = str(checkpoint)
            if checkpoint.resolve().parent == Path(self.args.output_dir).resolve():
                self._last_whole = checkpoint
        return super().train(resume_from_checkpoint or None, trial, ignore_keys_for_eval)

    # Writing

    def _get_output_dir(self, trial: Any) -> str:
        return super()._get_output_dir(trial) if self._partial is None else str(self._partial)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if self._partial is None:
            super()._push_from_checkpoint(checkpoint_folder)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        # Upstream writes everything, and removes nothing: there is no other checkpoint in that folder.
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
                write_json(partial / RECIPE_NAME, self._recipe)
                publish(partial, folder)
        except Exception:
            if self.args.should_save:
                clear_partial(run_dir)  # a disk that is full needs the space
            raise
        finally:
            self._partial = None
        self.accelerator.wait_for_everyone()
        if not self.args.save_only_model:
            self._last_whole = folder
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(folder))
        if self.args.should_save:
            rotate(run_dir, folder, self.args.save_total_limit, self.state.best_model_checkpoint)

    @property
    def _step_is_saved(self) -> bool:
        """Whether a run can go on from a checkpoint of this step."""
        return self._last_whole is not None and step_of(self._last_whole) == self.state.global_step

    def _find_best(self, run_dir: Path, written: Path | None = None) -> None:
        # Upstream knows the folder of the best step only if it lies beside the one that is being written, and by a
        # path that does not survive a move.
        best = run_dir / f"{PREFIX_CHECKPOINT_DIR}-{self.state.best_global_step}"
        if best == written or best.is_dir():
            self.state.best_model_checkpoint = str(best)

    def _verified_best(self) -> Path:
        """The best checkpoint, for who is about to load it."""
        best = Path(self.state.best_model_checkpoint)
        if flaw := on_main_process(lambda: find_problem(best)):
            raise InputError(
                f"load_best_model_at_end: the best checkpoint, {best}: {flaw}. The same command with"
                " --resume_from_checkpoint true --load_best_model_at_end false publishes the last model."
            )
        return best

    def _finalize_training(self, *args: Any, **kwargs: Any) -> TrainOutput:
        best = self.args.load_best_model_at_end and self.state.best_model_checkpoint
        if best and not self._step_is_saved and not self.args.save_only_model:
            self._save_checkpoint(self.model, None)  # now, for the best model is about to take its place
        # With a limit of 1 upstream would keep the best checkpoint alone, from which the run would then go on again.
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            return super()._finalize_training(*args, **kwargs)
        finally:
            self.args.save_total_limit = limit

    # Resuming

    def _whole_checkpoint(self, name: Path | bool) -> tuple[Path, int]:
        """The checkpoint to resume from, verified and of this recipe, and its step."""
        if name is not True and (found := on_the_hub(name)):
            name = fetch_checkpoint(*found, Path(self.args.output_dir), self.args.hub_token)
        if name is not True:
            if flaw := self._flaw_of(name):
                raise InputError(
                    f"resume_from_checkpoint {name}: {flaw}. Name an older one, or give true for the newest whole one."
                )
            checkpoint = name
        else:
            checkpoint, passed_over = None, 0
            for folder in reversed(checkpoints_in(self.args.output_dir)):
                flaw = self._flaw_of(folder)
                if flaw is None:
                    checkpoint = folder
                    break
                passed_over += 1
                logger.warning("%s is passed over: %s", folder, flaw)
            if checkpoint is None:
                found = f"none of the {passed_over} checkpoints is whole" if passed_over else "holds no checkpoint-*"
                raise InputError(
                    f"resume_from_checkpoint: {self.args.output_dir}: {found}. Name another folder, or start anew with"
                    " --overwrite_output_dir true."
                )
        self._check_recipe(checkpoint)
        written_by = max(1, len(list(checkpoint.glob("rng_state_*.pth"))))
        if written_by != self.args.world_size:
            logger.warning(
                "%s was written by %d process(es) and is resumed on %d: the same samples, but not bit for bit",
                *(checkpoint, written_by, self.args.world_size),
            )
        return checkpoint, TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME)).global_step

    def _flaw_of(self, folder: Path) -> str | None:
        """Why a run cannot go on from a checkpoint folder, if so, in a few words."""
        if not folder.is_dir():
            return "is not a checkpoint folder" if folder.exists() else "there is no such folder"
        alone = not (folder / OPTIMIZER_NAME).exists()
        return find_problem(folder) or ("holds the model alone (save_only_model)" if alone else None)

    def _check_recipe(self, checkpoint: Path) -> None:
        """Refuses to go on with what would be another run."""
        found = changes(json.loads((checkpoint / RECIPE_NAME).read_text(encoding="utf-8")), self._recipe)
        differ = ", ".join(f"{name} ({change})" for name, change in sorted(found.items()))
        if not found:
            return
        if "optim" in found:
            raise InputError(
                f"resume_from_checkpoint {checkpoint}: was written with other values of {differ}, and an optimizer"
                " cannot take over another's state. Give the checkpoint's, or start a new run with"
                f" --model_name_or_path {checkpoint}."
            )
        if not self.args.allow_changed_recipe:
            raise InputError(
                f"resume_from_checkpoint {checkpoint}: was written with other values of {differ}. Give the"
                " checkpoint's, or add --allow_changed_recipe true to go on with the new ones."
            )
        logger.warning("%s is gone on from with other values of %s", checkpoint, differ)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        # Its state was loaded just before: the intervals of this run, and the best checkpoint where it is now.
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
        # Upstream goes on with the checkpoint's rates. Where nothing has changed, this changes no bit.
        for group, values in zip(self.optimizer.param_groups, own):
            group.update(values)
        if isinstance(self.lr_scheduler, LambdaLR):
            scheduler, groups = self.lr_scheduler, self.optimizer.param_groups
            scheduler.base_lrs = [group["initial_lr"] for group in groups]
            for group, rate, factor in zip(groups, scheduler.base_lrs, scheduler.lr_lambdas):
                group["lr"] = rate * factor(scheduler.last_epoch)
            scheduler._last_lr = [group["lr"] for group in groups]

    def _finished(self, checkpoint: Path) -> TrainOutput:
        """A run whose checkpoint has reached the last step: as it was then, and not trained further."""
        self._load_from_checkpoint(str(checkpoint))
        self.state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
        self.state.init_training_references(self, self.state.max_steps, self.state.num_train_epochs, None)
        self._last_whole = checkpoint
        if self.is_world_process_zero():
            logger.warning("%s has reached the last step: nothing is left to train", checkpoint)
        if self._owes_evaluation():
            self._determine_best_metric(self.evaluate(), None)
        self._find_best(checkpoint.parent)
        best = self.state.best_model_checkpoint
        if self.args.load_best_model_at_end and best is not None:
            if os.path.isdir(best):
                self._load_best_model()
            elif self.is_world_process_zero():
                logger.warning("the best checkpoint, %s, is gone: the model is that of the last step", best)
        return TrainOutput(self.state.global_step, 0.0, {})

    def _owes_evaluation(self) -> bool:
        """Whether a signal broke an evaluation off at the step of the checkpoint that was loaded."""
        control = self.state.stateful_callbacks.get("TrainerControl", {}).get("args", {})
        return self.args.eval_strategy != "no" and control.get("should_evaluate", False)

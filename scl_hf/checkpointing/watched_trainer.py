"""`WatchedTrainer`: a trainer which stops rather than go wrong: by a signal, by NaN, by a full disk."""

import contextlib
import os
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import DataLoader
from transformers import TrainerState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, HubStrategy, TrainOutput

from ..checkpointing import signals
from ..errors import RESUME_HINT, InputError, NotFiniteError, first_few
from ..files import disk_full, is_disk_full, replacing
from ..progress import At
from .finite import GRADIENT, Step, StepWatch, check_weights, finite, tensors_of
from .resumable_trainer import ResumableTrainer
from .signals import Interrupted


class WatchedTrainer(ResumableTrainer):
    """
    A [`ResumableTrainer`] whose run ends where nothing is lost and nothing wrong is kept.

    - A signal that comes within [`~signals.deferred`] lets the running step end, with the teacher's
      update, has a whole checkpoint saved, and raises [`~signals.Interrupted`]. An evaluation is broken
      off; the resumed run begins with it. All processes stop at the same step.
    - A loss term or a gradient that is NaN or infinite raises an [`~scl_hf.errors.InputError`] before the step is
      taken, and its batches are kept in a file; see [`~scl_hf.checkpointing.finite.StepWatch`].
    - Weights that are not finite are written nowhere.
    - A full disk is said in one line.
    """

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.last_terms: dict[str, torch.Tensor] = {}  # of the last loss
        self._watch: StepWatch | None = None
        self._stopping = 0  # the number of the signal by which all processes stop
        self._evaluation_is_due = False
        self._random_state: torch.Tensor | None = None  # before an evaluation
        events = {"train_begin": self._begin, "step_begin": self._begin_step, "step_end": self._end_step}
        events |= {"epoch_begin": self._begin_epoch, "epoch_end": self._end_epoch}
        self.add_callback(At(**events, save=lambda state: self.go_on_or_stop()))

    def images_of_step(self, step: int) -> list[str]:
        """Names of all images of a step, counted from 0."""
        return []

    def train(self, *args: Any, **kwargs: Any) -> TrainOutput:
        """As upstream; a signal and a full disk end it in one line."""
        with self.ending_in_one_line():
            return super().train(*args, **kwargs)

    @contextlib.contextmanager
    def ending_in_one_line(self) -> Iterator[None]:
        """What a signal or a full disk ends within it is saved, where it can be, and ends with a line."""
        try:
            try:
                yield
            except Interrupted as stop:
                self._save_interrupted(stop)
                raise
        except Exception as error:
            if not is_disk_full(error) or isinstance(error, InputError):
                raise
            raise self._disk_full(error) from error

    # Signals

    def get_train_dataloader(self) -> DataLoader:
        """As upstream, with workers that leave signals to this process."""
        loader = super().get_train_dataloader()
        own = getattr(loader, "base_dataloader", loader)  # Accelerate's stands around it
        own.worker_init_fn = signals.worker_init(own.worker_init_fn)
        return loader

    def _begin(self, state: TrainerState) -> None:
        late = self.args.device.type != "cpu"
        self._watch, self._stopping = StepWatch(self.model, late), 0
        self._evaluation_is_due = self._owes_evaluation()

    def _begin_epoch(self, state: TrainerState) -> None:
        """For subclasses."""

    def _begin_step(self, state: TrainerState) -> None:
        if self._evaluation_is_due:  # a signal broke it off. Not earlier: the state of random numbers is loaded last
            self._evaluation_is_due, self.control.should_evaluate = False, True
            self._random_state = torch.get_rng_state()
            self._maybe_log_save_evaluate(self._tr_loss, None, self.model, None, self.state.epoch, None, None)

    def _end_step(self, state: TrainerState) -> None:
        control = self.control
        self._settle(control.should_log or control.should_save or control.should_evaluate)
        if self.args.world_size == 1:  # others are told with the step's numbers
            self._stopping = self._stopping or signals.requested()
        if self._stopping:
            self._settle(all_steps=True)
            self._save_whole()
            # The Trainer goes on to log, evaluate, which raises, or save. The end of an epoch may have an evaluation
            # due, too: there it saves after that.
            epoch_ends = state.epoch % 1 == 0 or control.should_epoch_stop or control.should_training_stop
            control.should_save = not epoch_ends
        self._random_state = torch.get_rng_state()

    def _end_epoch(self, state: TrainerState) -> None:
        self.control.should_save = self.control.should_save or self._stopping > 0
        self._random_state = torch.get_rng_state()

    def _save_whole(self) -> None:
        # What is saved from now on is to go on from, and not pushed.
        self.args.save_only_model, self.args.hub_strategy = False, HubStrategy.END

    def go_on_or_stop(self) -> None:
        """Raises `Interrupted` where all processes are to stop."""
        if self._stopping:
            raise Interrupted(self._stopping)

    def _save_interrupted(self, stop: Interrupted) -> None:
        """Saves a checkpoint, unless that of this step is there, and says in `stop` how to go on."""
        step = self.state.global_step
        after = f"after step {step}" if step < self.state.max_steps else f"after the last step, {step},"
        # The models are the best ones by now, the optimizer is that of the last step: they make no checkpoint.
        best = not self.is_in_train and self.args.load_best_model_at_end and self.state.best_model_checkpoint
        if not self._step_is_saved and not best:
            self._save_whole()
            if self.control.should_evaluate:  # the resumed run evaluates first; each loader draws a random number
                torch.set_rng_state(self._random_state)
            self._save_checkpoint(self.model, None)
        ending = f"and saved as {self._last_whole}: {RESUME_HINT} goes on from here"
        if not self._step_is_saved:
            ending = f"with the best model in {best}: save_only_model leaves nothing to go on from"
        stop.line = f"stopped by {stop.signal_name} {after} {ending}"
        self.accelerator.wait_for_everyone()  # a launcher ends the other processes when the first one has left

    # Numbers

    def training_step(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor | Any],
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """As upstream; a loss term or gradient that is not finite ends the run before the optimizer takes it in."""
        self._watch.before(inputs)
        loss = super().training_step(model, inputs, num_items_in_batch)
        self._watch.after(self.last_terms | {"loss": loss})
        if self.accelerator.sync_gradients:
            scaled = self.accelerator.scaler is not None  # fp16: the scaler skips a step with infinite gradients
            self._watch.end(self.state.global_step + 1, not scaled, signals.requested())
            if not self._watch.late:
                self._settle(all_steps=False)
        return loss

    def _settle(self, all_steps: bool) -> None:
        wrong, signal = self._watch.settle(all_steps)
        self._stopping = self._stopping or signal
        if wrong is not None:
            raise self._not_finite(wrong)

    def _not_finite(self, step: Step) -> NotFiniteError:
        term, parameter = step.wrong()
        images = self.images_of_step(step.number - 1)
        rank = f"-rank-{self.args.process_index}" if self.args.world_size > 1 else ""
        file = Path(self.args.output_dir, f"_not_finite-step-{step.number:06d}{rank}.safetensors")  # _: pushed nowhere
        what = f"the gradient of {parameter}" if parameter else "the gradient as a whole" if term == GRADIENT else term
        line = f"step {step.number}: {what} is not a finite number. "
        line += f"Nothing has taken it in; its images are {first_few(images, 6)}; "
        try:
            with replacing(file) as partial:
                details = {"step": str(step.number), "what": what, "images": "\n".join(images)}
                save_file(tensors_of(step.batches), partial, details)
            line += f"its batch is kept in {file}. "
        except Exception as error:  # the line counts
            line += f"its batch could not be kept ({type(error).__name__}). "
        self.accelerator.wait_for_everyone()  # until all have kept theirs
        return NotFiniteError(
            f"{line}Look at them, or lower learning_rate; {RESUME_HINT} goes on from the last checkpoint."
        )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As upstream, without what is not finite, such as the norm of a gradient that fp16 skips."""
        super().log(finite(logs), start_time)

    def save_metrics(self, split: str, metrics: Mapping[str, float], combined: bool = True) -> None:
        """As upstream, without what is not finite: the IoU of a class that occurs nowhere."""
        super().save_metrics(split, finite(metrics), combined)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        self.check_finite_weights(self.model)
        super()._save(output_dir, state_dict)

    def check_finite_weights(self, model: nn.Module) -> None:
        """Refuses to score or write a model that is broken."""
        check_weights(f"step {self.state.global_step}: the model", model, f"It is not used; {RESUME_HINT} goes on.")

    # Disks

    def _disk_full(self, error: Exception) -> InputError:
        frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
        if any(frame.f_globals.get("__name__", "").startswith("tensorboard") for frame in frames):
            return disk_full(error, "the curves of TensorBoard", self.args.output_dir, _REMEDY)
        name, output = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}", self.args.output_dir
        saving = any(frame.f_code.co_name == "_save_checkpoint" for frame in frames)
        if not saving:
            return disk_full(error, str(getattr(error, "filename", None) or "a file"), output, _REMEDY)
        return disk_full(error, os.path.join(output, name), output, _REMEDY, self._checkpoint_bytes())

    def _checkpoint_bytes(self) -> int:
        tensors = [*self.model.state_dict().values()] * 2  # student and teacher
        for state in self.optimizer.state.values() if self.optimizer is not None else ():
            tensors += [value for value in state.values() if isinstance(value, torch.Tensor)]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


_REMEDY = f"Free some space; then {RESUME_HINT} goes on from the last whole checkpoint."

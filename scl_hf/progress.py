"""What a person sees of a run while it goes on: a progress bar, lines of losses, what was skipped, a summary."""

import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import gather_object
from tqdm.auto import tqdm
from transformers import PreTrainedModel, TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer_callback import ProgressCallback

from .errors import first_few

logger = logging.getLogger(__name__)

FORMATS = {"loss": ".3f", "loss_x": ".3f", "loss_c": ".4f", "loss_sc": ".4f", "learning_rate": ".2e"}


def write(text: str) -> None:
    """Prints above the progress bar, if there is one."""
    with contextlib.suppress(OSError):  # a terminal that is gone, or a full disk under a log, stops no training
        tqdm.write(text)


class At(TrainerCallback):
    """Calls functions, with the state of the run, at the events that they are given for, such as `step_end`."""

    def __init__(self, **functions: Callable[[TrainerState], None]):
        for event, function in functions.items():
            call = lambda args, state, control, function=function, **kwargs: function(state)  # noqa: E731
            setattr(self, f"on_{event}", call)


class ProgressBar(ProgressCallback):
    """The Trainer's progress bar; the log lines are [`LogLines`]'s."""

    def on_log(self, args, state, control, **kwargs):
        pass


class LogLines(TrainerCallback):
    """One aligned line a log, in place of a printed dict."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not state.is_world_process_zero or "loss" not in (logs or {}):
            return
        parts = [f"step {state.global_step:>6}", f"epoch {logs.get('epoch', 0):6.2f}"]
        parts += [f"{name} {logs[name]:{spec}}" for name, spec in FORMATS.items() if name in logs]
        parts += [f"{logs['images_per_second']:.1f} images/s", f"{logs['minutes_left']:.1f} min left"]
        write("  ".join(parts))


class Throughput:
    """Measures images a second, the crops that the student sees, since it was last restarted."""

    def __init__(self):
        self.restart(0)

    def restart(self, step: int) -> None:
        self._since, self._step, self._crops = time.perf_counter(), step, 0

    def add(self, crops: int) -> None:
        self._crops += crops

    def leave_out(self, seconds: float) -> None:
        """For evaluations, which do not count."""
        self._since += seconds

    def figures(self, step: int, max_steps: int, num_processes: int) -> dict[str, float]:
        """What a log line says."""
        seconds, steps = time.perf_counter() - self._since, max(1, step - self._step)
        return {
            "images_per_second": self._crops * num_processes / seconds,
            "minutes_left": (max_steps - step) * seconds / steps / 60,
        }


class SkippedFiles:
    """The corrupt files that training with `skip_corrupt` passed over, since its start or since it was resumed."""

    def __init__(self):
        self.counts: Counter[str] = Counter()  # of this process

    def add(self, skipped: Sequence[tuple[str, str]]) -> None:
        """Counts the files of a batch, given with the reason; a new one is named above the progress bar."""
        for file, reason in skipped:
            if file not in self.counts:
                write(f"skip_corrupt: another image stands in for {reason}")
            self.counts[file] += 1

    def report(self) -> int:
        """Says in a warning what all processes together have skipped; returns the number of files."""
        counts = sum(map(Counter, gather_object([dict(self.counts)])), Counter())
        if counts and PartialState().is_main_process:
            files = "1 corrupt file was" if len(counts) == 1 else f"{len(counts)} corrupt files were"
            times = "once" if counts.total() == 1 else f"{counts.total()} times"
            logger.warning("%s skipped (%s): %s", files, times, first_few(sorted(counts), 5))
        return len(counts)


def run_summary(
    model: PreTrainedModel, args: TrainingArguments, num_labeled: int, num_unlabeled: int, num_evaluated: int
) -> str:
    """One paragraph that says what is about to be trained, on what, where."""
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    height, width = args.crop_size
    batch_size = args.train_batch_size * args.world_size * args.gradient_accumulation_steps
    lines = [
        f"model      {type(model).__name__}, {millions:.2f} M parameters, on {args.device}"
        + (f", {args.world_size} processes" if args.world_size > 1 else ""),
        f"images     {num_labeled} labeled, {num_unlabeled} unlabeled, {num_evaluated} to evaluate on,"
        f" {len(model.config.id2label)} classes",
        f"a step     {batch_size} labeled crops of {height}×{width}"
        + (" and as many CutMix ones" if num_unlabeled else ", no unlabeled ones"),
        f"loss       L_x + {args.consistency_weight:g} L_c + {args.structured_consistency_weight:g} L_sc"
        + (f" after {_length(args.semi_supervised_start_step)}" if args.semi_supervised_start_step else "")
        + (f", ramp of {_length(args.semi_supervised_ramp_steps)}" if args.semi_supervised_ramp_steps else ""),
        f"writes to  {args.output_dir}",
    ]
    return "\n".join(lines)


def _length(value: float) -> str:
    return f"{value:.1%} of the run" if value < 1 else f"{value} steps"


def usage(model: PreTrainedModel, args: TrainingArguments) -> str:
    """Where things are after a run, and the lines of Python that load the model."""
    folder = Path(args.output_dir)
    curves = f", curves: tensorboard --logdir {folder}/runs" if "tensorboard" in args.report_to else ""
    trust = ", trust_remote_code=True" if getattr(model, "_auto_class", None) else ""
    return (
        f"\nmodel      {folder} (card: README.md, metrics: all_results.json)\n"
        f"pictures   {folder}/panels{curves}\n\n"
        "from transformers import AutoModelForSemanticSegmentation\n"
        f'model = AutoModelForSemanticSegmentation.from_pretrained("{folder}"{trust})'
    )

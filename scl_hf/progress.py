"""The visible side of a run: progress bar, log lines, throughput, skipped files, summaries."""

import contextlib
import logging
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import gather_object
from tqdm.auto import tqdm
from transformers import PreTrainedModel, TrainerCallback, TrainingArguments
from transformers.trainer_callback import ProgressCallback

from .errors import first_few

logger = logging.getLogger(__name__)

FORMATS = {"loss": ".3f", "loss_x": ".3f", "loss_c": ".4f", "loss_sc": ".4f", "learning_rate": ".2e"}


def write(text: str) -> None:
    """Prints above the progress bar, if there is one."""
    with contextlib.suppress(OSError):  # a closed terminal, or a full disk under a log, stops no training
        tqdm.write(text)


class ProgressBar(ProgressCallback):
    """The Trainer's progress bar, without its log: [`LogLines`] prints that."""

    def on_log(self, args, state, control, **kwargs):
        pass


class LogLines(TrainerCallback):
    """Prints one aligned line per log."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not state.is_world_process_zero or "loss" not in (logs or {}):
            return
        parts = [f"step {state.global_step:>6}", f"epoch {logs.get('epoch', 0):6.2f}"]
        parts += [f"{name} {logs[name]:{spec}}" for name, spec in FORMATS.items() if name in logs]
        parts += [f"{logs['images_per_second']:.1f} images/s", f"{logs['minutes_left']:.1f} min left"]
        write("  ".join(parts))


class Throughput(TrainerCallback):
    """Measures images per second (crops that the student sees) since the last restart."""

    def __init__(self):
        self.restart(0)

    def on_train_begin(self, args, state, control, **kwargs):
        self.restart(state.global_step)

    def restart(self, step: int) -> None:
        self._since, self._step, self._crops = time.perf_counter(), step, 0

    def add(self, crops: int) -> None:
        self._crops += crops

    def leave_out(self, seconds: float) -> None:
        """Leaves the time of an evaluation out."""
        self._since += seconds

    def figures(self, step: int, max_steps: int, num_processes: int) -> dict[str, float]:
        """Returns the entries of a log line."""
        seconds, steps = time.perf_counter() - self._since, max(1, step - self._step)
        minutes_left = (max_steps - step) * seconds / steps / 60
        return {"images_per_second": self._crops * num_processes / seconds, "minutes_left": minutes_left}


class SkippedFiles(TrainerCallback):
    """Counts the corrupt files that training with `skip_corrupt` skips, since its start or resume."""

    def __init__(self):
        self.counts: Counter[str] = Counter()  # of this process

    def on_train_begin(self, args, state, control, **kwargs):
        self.counts.clear()

    def add(self, skipped: Sequence[tuple[str, str]]) -> None:
        """Counts the (file, reason) pairs of a batch and prints each new file."""
        for file, reason in skipped:
            if file not in self.counts:
                write(f"skip_corrupt: another image replaces {reason}")
            self.counts[file] += 1

    def report(self) -> int:
        """Warns of the files that all processes together skipped; returns their number."""
        counts = sum(map(Counter, gather_object([dict(self.counts)])), Counter())
        if counts and PartialState().is_main_process:
            files = first_few(sorted(counts), 5)
            logger.warning("corrupt files skipped: %d (%d times): %s", len(counts), counts.total(), files)
        return len(counts)


def run_summary(
    model: PreTrainedModel, args: TrainingArguments, num_labeled: int, num_unlabeled: int, num_evaluated: int
) -> str:
    """Returns a paragraph about model, data and settings of a run that is about to start."""
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    height, width = args.crop_size
    processes = f", {args.world_size} processes" if args.world_size > 1 else ""
    data = f"{num_labeled} labeled, {num_unlabeled} unlabeled, {num_evaluated} to evaluate on"
    crops = " and as many CutMix ones" if num_unlabeled else ", no unlabeled ones"
    loss = f"L_x + {args.consistency_weight:g} L_c + {args.structured_consistency_weight:g} L_sc"
    start, ramp = args.semi_supervised_start_step, args.semi_supervised_ramp_steps
    if args.self_training_rounds:
        start, loss = 0, f"{loss}, self_training_rounds {args.self_training_rounds}"
    for what, length in (("unlabeled images after", start), ("ramp of", ramp)):
        if length and num_unlabeled:
            loss += f", {what} {100 * length:g} % of the run" if length < 1 else f", {what} {length} steps"
    return (
        f"model      {type(model).__name__}, {millions:.2f} M parameters, on {args.device}{processes}\n"
        f"images     {data}, {len(model.config.id2label)} classes\n"
        f"a step     {args.step_batch_size} labeled crops of {height}×{width}{crops}\n"
        f"loss       {loss}\nwrites to  {args.output_dir}"
    )


def usage(model: PreTrainedModel, args: TrainingArguments) -> str:
    """Returns where the files of a finished run are, and the Python lines that load the model."""
    folder = Path(args.output_dir)
    curves = f", curves: tensorboard --logdir {folder}/runs" if "tensorboard" in args.report_to else ""
    trust = ", trust_remote_code=True" if getattr(model, "_auto_class", None) else ""
    return (
        f"\nmodel      {folder} (card: README.md, metrics: all_results.json)\n"
        f"images     {folder}/panels{curves}\n\n"
        "from transformers import AutoModelForSemanticSegmentation\n"
        f'model = AutoModelForSemanticSegmentation.from_pretrained("{folder}"{trust})'
    )

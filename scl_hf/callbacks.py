"""What a person sees of a run while it goes on: a progress bar, lines of losses, tables, panels."""

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from tqdm.auto import tqdm
from transformers import TrainerCallback
from transformers.integrations import TensorBoardCallback
from transformers.trainer_callback import ProgressCallback

from .evaluation.panels import colorize, panel
from .hub import brings_code
from .output import replacing

if TYPE_CHECKING:
    from .trainer import SemiSupervisedTrainer

logger = logging.getLogger(__name__)

FORMATS = {"loss": ".3f", "loss_x": ".3f", "loss_c": ".4f", "loss_sc": ".4f", "learning_rate": ".2e"}


def write(text: str) -> None:
    """Prints above the progress bar, if there is one."""
    tqdm.write(text)


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
            names = ", ".join(sorted(counts)[:5]) + (", …" if len(counts) > 5 else "")
            logger.warning("%s skipped (%s): %s", files, times, names)
        return len(counts)


def run_summary(trainer: "SemiSupervisedTrainer") -> str:
    """One paragraph that says what is about to be trained, on what, where."""
    args, crops = trainer.args, trainer.train_dataset
    millions = sum(p.numel() for p in trainer.model.parameters()) / 1e6
    height, width = crops.labeled.augmentation.args.crop_size
    lines = [
        f"model      {type(trainer.model).__name__}, {millions:.2f} M parameters, on {args.device}"
        + (f", {args.world_size} processes" if args.world_size > 1 else ""),
        f"images     {len(crops.labeled)} labelled, {len(crops.unlabeled or [])} unlabelled,"
        f" {len(trainer.eval_dataset or [])} to evaluate on, {len(trainer.model.config.id2label)} classes",
        f"a step     {trainer.get_total_train_batch_size(args)} labelled crops of {height}×{width}"
        + (" and as many CutMix ones" if crops.unlabeled else ", no unlabelled ones"),
        f"loss       L_x + {args.consistency_weight:g} L_c + {args.structured_consistency_weight:g} L_sc"
        + (f" from step {args.semi_supervised_start_step}" if args.semi_supervised_start_step else "")
        + (f", ramp of {args.semi_supervised_ramp_steps}" if args.semi_supervised_ramp_steps else ""),
        f"writes to  {args.output_dir}",
    ]
    return "\n".join(lines)


def usage(trainer: "SemiSupervisedTrainer") -> str:
    """Where things are after a run, and the lines of Python that load the model."""
    folder = Path(trainer.args.output_dir)
    curves = f", curves: tensorboard --logdir {folder}/runs" if "tensorboard" in trainer.args.report_to else ""
    trust = ", trust_remote_code=True" if brings_code(trainer.model) else ""
    return (
        f"\nmodel      {folder} (card: README.md, metrics: all_results.json)\n"
        f"pictures   {folder}/panels{curves}\n\n"
        "from transformers import AutoModelForSemanticSegmentation\n"
        f'model = AutoModelForSemanticSegmentation.from_pretrained("{folder}"{trust})'
    )


def write_panel(
    trainer: "SemiSupervisedTrainer",
    examples: Sequence[tuple[torch.Tensor, torch.Tensor, torch.Tensor]],
    last_pair: dict[str, torch.Tensor] | None,
) -> Path:
    """
    Draws evaluation images, and the last CutMix image with its target, to `output_dir/panels` and to TensorBoard.

    Args:
        trainer ([`~scl_hf.SemiSupervisedTrainer`]): Whose step, palette and normalisation they are.
        examples (`Sequence[tuple]`): Normalised image `(3, H, W)`, label `(H, W)` and prediction `(H, W)` of each.
        last_pair (`dict[str, torch.Tensor]`, *optional*):
            `image`, `target`, `student` and `valid` of one unlabelled CutMix image.

    Returns:
        `pathlib.Path`: The picture's file.
    """
    palette, id2label = trainer.palette, trainer.model.config.id2label
    image = trainer.train_dataset.labeled.augmentation.pixels.picture

    def colors(label: torch.Tensor) -> np.ndarray:
        return colorize(label.cpu().numpy(), palette)

    rows = [
        [
            ("image", image(pixels)),
            ("label", colors(label)),
            (f"prediction ({trainer.evaluated_name})", colors(prediction)),
        ]
        for pixels, label, prediction in examples
    ]
    if last_pair is not None:
        blank = ~last_pair["valid"]
        rows.append(
            [
                ("unlabelled, CutMix", image(last_pair["image"])),
                ("teacher's target", colors(last_pair["target"].masked_fill(blank, 255))),
                ("prediction (student)", colors(last_pair["student"].masked_fill(blank, 255))),
            ]
        )
    picture = panel(rows, legend=[(id2label[i], palette[i]) for i in range(len(palette))])
    path = Path(trainer.args.output_dir) / "panels" / f"step-{trainer.state.global_step:06d}.png"
    with replacing(path) as partial:
        picture.save(partial)
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TensorBoardCallback) and callback.tb_writer is not None:
            callback.tb_writer.add_image(
                "panel", np.asarray(picture), global_step=trainer.state.global_step, dataformats="HWC"
            )
    return path

"""`self_training_rounds`: names the phases in the log, evaluates at the end of each, and says what each one added."""

from collections.abc import Mapping, Sequence

from transformers import TrainerCallback

from .progress import write


class RoundsCallback(TrainerCallback):
    """Announces each phase, and has the model evaluated at its end."""

    def on_step_begin(self, args, state, control, **kwargs):
        ends = args.phase_ends(state.max_steps)
        starts = [0, *ends[:-1]]
        if args.self_training_rounds and state.is_world_process_zero and state.global_step in starts:
            phase, step = starts.index(state.global_step), state.global_step
            teacher = f": pseudo-labels from the EMA model of step {step}" if phase and args.semi_supervised else ""
            write(f"\n{_name(phase)}, steps {step + 1} to {ends[phase]}{teacher}")

    def on_step_end(self, args, state, control, **kwargs):
        if args.self_training_rounds and args.eval_strategy != "no":
            control.should_evaluate |= state.global_step in args.phase_ends(state.max_steps)


def scores_of_phases(log_history: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Returns name of a phase -> the mean IoU at its end; nothing of a run without rounds."""
    return {_name(log["round"]): log["eval_mean_iou"] for log in log_history if {"round", "eval_mean_iou"} <= {*log}}


def describe_gains(log_history: Sequence[Mapping[str, float]]) -> str:
    """Returns a line like `mean IoU  supervised 49.40 → round 1 52.93 → round 2 54.63`, or an empty text."""
    scores = [f"{name} {100 * score:.2f}" for name, score in scores_of_phases(log_history).items()]
    return f"\nmean IoU   {' → '.join(scores)}" if scores else ""


def _name(phase: int) -> str:
    return f"round {phase}" if phase else "supervised"

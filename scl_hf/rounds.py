"""`self_training_rounds`: names the phases in the log, evaluates at the end of each, and says what each one added."""

from collections.abc import Callable, Mapping, Sequence

from transformers import TrainerCallback, TrainerState, TrainingArguments

from .progress import write


class RoundsCallback(TrainerCallback):
    """Announces each phase, and has the model evaluated at its end: by `evaluate`, where a signal broke that off."""

    def __init__(self, evaluate: Callable[[], object]):
        self.evaluate = evaluate

    def on_step_begin(self, args, state, control, **kwargs):
        ends, step = args.phase_ends(state.max_steps), state.global_step
        starts = [0, *ends[:-1]]
        if not args.self_training_rounds or step not in starts:
            return
        phase = starts.index(step)
        evaluated = any(log["step"] == step and "loss" not in log for log in state.log_history)
        if phase and args.eval_strategy != "no" and not evaluated:
            self.evaluate()
        if state.is_world_process_zero:
            teacher = f": pseudo-labels from the EMA model of step {step}" if phase and args.semi_supervised else ""
            write(f"\n{_name(phase, args.semi_supervised)}, steps {step + 1} to {ends[phase]}{teacher}")

    def on_step_end(self, args, state, control, **kwargs):
        at_end = args.self_training_rounds > 0 and state.global_step in args.phase_ends(state.max_steps)
        control.should_evaluate |= at_end and args.eval_strategy != "no"
        control.should_save |= at_end and args.load_best_model_at_end  # it may be the best


def entry_of_round(args: TrainingArguments, state: TrainerState, logs: Mapping[str, float]) -> dict[str, int]:
    """Returns the entry `round` of a training log, and of an evaluation at the end of a phase."""
    step, total = state.global_step, state.max_steps
    at_end = "train_runtime" not in logs and step in args.phase_ends(total)
    return {"round": args.phase_of(step, total)} if args.self_training_rounds and ("loss" in logs or at_end) else {}


def scores_of_phases(log_history: Sequence[Mapping[str, float]], semi_supervised: bool) -> dict[str, float]:
    """Returns name of a phase -> the mean IoU at its end, of a run in rounds that was evaluated at several."""
    scores = {}
    for log in log_history:
        if {"round", "eval_mean_iou"} <= {*log}:
            scores.setdefault(_name(log["round"], semi_supervised), log["eval_mean_iou"])
    return scores if len(scores) > 1 else {}


def describe_gains(log_history: Sequence[Mapping[str, float]], semi_supervised: bool) -> str:
    """Returns a line like `mean IoU  supervised 49.40 → round 1 52.93 → round 2 54.63`, or an empty text."""
    scores = [f"{name} {100 * score:.2f}" for name, score in scores_of_phases(log_history, semi_supervised).items()]
    return f"\nmean IoU   {' → '.join(scores)}" if scores else ""


def _name(phase: int, semi_supervised: bool) -> str:
    if not semi_supervised:
        return f"supervised phase {phase + 1}"
    return f"round {phase}" if phase else "supervised"

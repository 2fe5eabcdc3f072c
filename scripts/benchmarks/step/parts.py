"""The parts of a step: profiler ranges, and the operators and kernels in each."""

import contextlib
import inspect
import sys
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, data_loader
from torch.autograd.profiler_util import FunctionEvent
from torch.overrides import TorchFunctionMode
from torch.profiler import record_function

from scl_hf import cutmix, losses
from scl_hf.teacher import EMATeacher

from .case import DATA, GRAD_NORM, LOGGING, LOSSES, PART, STEP, TEACHER, TRANSFER, MeasuredTrainer

STUDENT, BACKWARD, MIX, EMA, OPTIMIZER = "student", "backward", "CutMix", "EMA", "optimizer"
L_X, L_C, L_SC = "L_x", "L_c", "L_sc"
NAMES = {"relaxed_cross_entropy": L_X, "adjust_logits": L_X, "consistency_loss": L_C}
NAMES |= dict.fromkeys(("structured_consistency_loss", "loss_of_all_pairs", "loss_of_pairs"), L_SC)
FUNCTIONS = {getattr(losses, name): part for name, part in NAMES.items()} | {cutmix.mix: MIX}
METHODS = [(EMATeacher, "update_parameters", EMA), (Accelerator, "backward", BACKWARD)]
METHODS += [(data_loader, "send_to_device", TRANSFER)]
PARTS = [DATA, TRANSFER, STUDENT, TEACHER, MIX, L_X, L_C, L_SC, LOSSES, GRAD_NORM, OPTIMIZER, EMA, LOGGING, STEP]
COMPUTE = [part for part in PARTS if part not in (DATA, TRANSFER)]
METHOD = [MIX, L_X, L_C, L_SC, LOSSES, EMA]  # beyond the passes through the networks

# Operators that wait for a GPU; counted on the CPU, too
READS = {"aten::_local_scalar_dense", "aten::nonzero", "aten::_unique2", "aten::unique_dim", "aten::masked_select"}
READS |= {"aten::bincount", "aten::equal"}
SYNCHRONIZATIONS = {"cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize"}
READING_METHODS = {"item", "tolist", "numpy", "__array__", "cpu", "nonzero", "unique", "masked_select", "bincount"}
READING_METHODS |= {"argwhere", "equal", "__bool__", "__int__", "__float__", "__index__", "__contains__"}


@dataclass
class Part:
    """Milliseconds and operators (on a GPU: kernels) of a step, mean over steps."""

    forward: float = 0.0
    backward: float = 0.0
    operators: float = 0.0
    reads: float = 0.0

    @property
    def milliseconds(self) -> float:
        return self.forward + self.backward


@dataclass
class Parts:
    """A profile: what belongs to each of `PARTS` alone, and the step as a whole."""

    milliseconds: float  # a step
    waiting: float  # for data, of these
    of: dict[str, Part] = field(default_factory=lambda: {name: Part() for name in PARTS})
    synchronizations: float = 0.0
    copies: float = 0.0  # from the GPU

    @property
    def idle(self) -> float:
        """Milliseconds in which a GPU is idle; 0 on the CPU, where the parts add up to the step."""
        return self.milliseconds - sum(part.milliseconds for part in self.of.values())

    def share(self, names: list[str]) -> float:
        """Returns the share of parts in the step without data and transfer."""
        compute = self.idle + sum(self.of[name].milliseconds for name in COMPUTE)
        return sum(self.of[name].milliseconds for name in names) / compute


@contextlib.contextmanager
def ranges(trainer: MeasuredTrainer) -> Iterator[None]:
    """Wraps `FUNCTIONS`, in each module of the package that names them, and `METHODS` into ranges."""
    with contextlib.ExitStack() as undo:

        def put(owner: Any, name: str, part: str) -> None:
            function = getattr(owner, name)
            setattr(owner, name, record_function(PART + part)(function))
            undo.callback(setattr, owner, name, function)

        for module in [module for name, module in sys.modules.items() if name.partition(".")[0] == "scl_hf"]:
            for name, value in list(vars(module).items()):
                if inspect.isfunction(value) and value in FUNCTIONS:
                    put(module, name, FUNCTIONS[value])
        for owner, name, part in METHODS:
            put(owner, name, part)

        # Hooks, as `forward` may be replaced or compiled
        opened: list[record_function] = []

        def enter(*_: Any) -> None:
            opened.append(record_function(PART + STUDENT))
            opened[-1].__enter__()

        def leave(*_: Any) -> None:
            opened.pop().__exit__(None, None, None)

        undo.callback(trainer.model.register_forward_pre_hook(enter).remove)
        undo.callback(trainer.model.register_forward_hook(leave, always_call=True).remove)
        yield


def measure_parts(trainer: MeasuredTrainer) -> Parts:
    """Profiles training steps. The backward pass of a part is the time of its operators' gradients."""
    with ranges(trainer):
        events = trainer.profiled().events()
    on_gpu = torch.cuda.is_available()
    steps = [event for event in events if event.name == PART + STEP and event.device_type.name == "CPU"]
    waits = [event for event in events if event.name == PART + DATA and event.device_type.name == "CPU"]
    per_step = 1 / len(steps)
    parts = Parts(milliseconds_of(steps) * per_step, milliseconds_of(waits) * per_step)
    inside = [event for event in events if event.device_type.name == "CPU" and not event.is_async]

    # An operator and its gradient node share a number; the last of several operators with it made the node.
    part_of_number: dict[int, str] = {}
    for event in sorted(inside, key=lambda event: event.time_range.start):
        if event.sequence_nr >= 0 and gradient_node(event) is None:
            part_of_number[event.sequence_nr] = innermost_range(event)

    for event in inside:
        node = gradient_node(event)
        name = innermost_range(event) if node is None else part_of_number.get(node.sequence_nr, STUDENT)
        is_backward = node is not None or name == BACKWARD
        part = parts.of.get(STUDENT if name == BACKWARD else name)
        if part is None:
            continue  # before the first step or after the last
        # A range on the device is no kernel.
        kernels = [] if event.is_user_annotation else event.kernels
        if on_gpu:
            milliseconds = sum(kernel.duration for kernel in kernels) / 1e3
        else:
            milliseconds = event.self_cpu_time_total / 1e3
        if is_backward:
            part.backward += milliseconds * per_step
        else:
            part.forward += milliseconds * per_step
        is_leaf = event.name.startswith("aten::") and not any(c.name.startswith("aten::") for c in event.cpu_children)
        part.operators += per_step * (len(kernels) if on_gpu else is_leaf)
        part.reads += per_step * (event.name in READS)
        parts.synchronizations += per_step * (event.name in SYNCHRONIZATIONS)
        parts.copies += per_step * sum("DtoH" in kernel.name for kernel in kernels)
    unseen = [name for name in PARTS if not parts.of[name].milliseconds and name not in (TRANSFER, LOGGING)]
    if unseen and not on_gpu:
        raise AssertionError(f"the profile does not hold {', '.join(unseen)}: a name has changed in the package")
    return parts


def milliseconds_of(events: list[FunctionEvent]) -> float:
    return sum(event.time_range.elapsed_us() for event in events) / 1e3


def gradient_node(event: FunctionEvent) -> FunctionEvent | None:
    """Returns the autograd node that an event lies in."""
    while event is not None and not event.name.startswith("autograd::engine::evaluate_function"):
        event = event.cpu_parent
    return event


def innermost_range(event: FunctionEvent) -> str | None:
    """Returns the part that an event is or lies in."""
    while event is not None:
        if event.name.startswith(PART):
            return event.name.removeprefix(PART)
        if event.name.startswith(("Optimizer.step#", "Optimizer.zero_grad#")):  # torch's own
            return OPTIMIZER
        event = event.cpu_parent
    return None


def parts_table(parts: Parts) -> list[list[object]]:
    """Returns lines of part, ms forward, ms backward, share of the step, operators, reads."""
    rows = []
    for name, part in parts.of.items():
        shown = "all else (callbacks, schedule, Trainer)" if name == STEP else name
        share = f"{part.milliseconds / parts.milliseconds:.1%}"
        backward = part.backward or ""
        rows.append([shown, part.forward, backward, share, f"{part.operators:.0f}", f"{part.reads:.3g}"])
    if torch.cuda.is_available():
        rows.append(["GPU at rest", parts.idle, "", f"{parts.idle / parts.milliseconds:.1%}", "", ""])
    operators, reads = (sum(getattr(part, name) for part in parts.of.values()) for name in ("operators", "reads"))
    return [*rows, ["step", parts.milliseconds, "", "100.0%", f"{operators:.0f}", f"{reads:.3g}"]]


class ReadWatch(TorchFunctionMode):
    """Counts the calls that read values of tensors, by their place in the code."""

    def __init__(self):
        super().__init__()
        self.places: Counter[str] = Counter()

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in READING_METHODS:
            frame = next((f for f in reversed(traceback.extract_stack()) if place_in_project(f.filename)), None)
            if frame is not None:
                self.places[f"{name}, {place_in_project(frame.filename)}:{frame.lineno} {frame.name}"] += 1
        return func(*args, **(kwargs or {}))


def place_in_project(file: str) -> str | None:
    """Returns the path from the package's name on, None for files that no step runs through."""
    parts = Path(file).parts
    for package in ("scl_hf", "transformers", "accelerate"):
        if package in parts[:-1]:
            return str(Path(*parts[len(parts) - 1 - parts[::-1].index(package) :]))
    return None


def host_reads(trainer: MeasuredTrainer) -> dict[str, float]:
    """Returns place -> reads of tensor values a step: torch's warnings on a GPU, calls on the CPU."""
    steps = trainer.args.max_steps
    if torch.cuda.is_available():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                trainer.train()
            finally:
                torch.cuda.set_sync_debug_mode("default")
        found = [w for w in caught if "synchroniz" in str(w.message)]
        places = Counter(f"{place_in_project(w.filename) or Path(w.filename).name}:{w.lineno}" for w in found)
    else:
        with ReadWatch() as watch:
            trainer.train()
        places = watch.places
    return {place: number / steps for place, number in places.most_common()}

"""Writes a trained model as one file for other software, and keeps it only if it computes what the model does."""

import contextlib
import io
import json
import logging
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from .errors import InputError, first_line
from .files import check_writable, is_disk_full, replacing
from .inference import aligned_stride, logits_of_any_size, size_divisor, upsample_logits
from .pretrained import Checkpoint

TOLERANCE = 1e-4  # of the largest logit, or of 1
_NAMES, _AXES = ("pixel_values", "logits"), {0: "batch", 2: "height", 3: "width"}


@dataclass
class ExportArguments:
    """
    What is written, and where.

    Args:
        output (`str`): The file, which is replaced: *.onnx, *.pt for TorchScript, *.pt2 for an exported program.
        format (`str`, *optional*, defaults to `"onnx"`): `"onnx"`, `"torchscript"` or `"exported_program"`.
        trust_remote_code (`bool`, *optional*, defaults to `False`): Whether the checkpoint may run its own code.
    """

    output: str
    format: Literal["onnx", "torchscript", "exported_program"] = "onnx"
    trust_remote_code: bool = False

    def __post_init__(self):
        if Path(self.output).is_dir():
            raise InputError(f"output {self.output}: is a folder. Name a file in it.")
        check_writable("output", Path(self.output).parent)
        if self.format == "onnx":
            try:
                import onnx  # noqa: F401
                import onnxruntime  # noqa: F401
            except ImportError as error:
                remedy = "Run pip install 'scl_hf[export]'"
                raise InputError(f"format: onnx needs what is not installed ({error}). {remedy}.") from error


class _WholeImages(nn.Module):
    """Normalized images (B, 3, H, W) of any size → logits (B, C, H, W), as `predict.py` takes them at scale 1."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return upsample_logits(logits_of_any_size(self.model, pixel_values), pixel_values.shape[-2:])


def export(checkpoint: Checkpoint, args: ExportArguments) -> float:
    """Writes a checkpoint, and returns the largest difference of logits at sizes and batches other than the traced."""
    model = _WholeImages(checkpoint.model).eval()
    divisor = math.lcm(size_divisor(checkpoint.model), aligned_stride(checkpoint.model))
    unit = 32 if divisor == 1 else divisor
    # Odd numbers of patches, and no whole ones: here the models take every detour that any size takes.
    shapes = (2, 5 * unit - 3, 7 * unit - 5), (1, 4 * unit, 6 * unit), (3, 7 * unit - 1, 3 * unit)
    generator = torch.Generator().manual_seed(0)
    traced, *others = (torch.randn(n, 3, height, width, generator=generator) for n, height, width in shapes)
    normalization = checkpoint.normalization
    metadata = {
        "classes": json.dumps(list(checkpoint.id2label.values()), ensure_ascii=False),
        "image_mean": json.dumps(normalization.image_mean),
        "image_std": json.dumps(normalization.image_std),
        "channels": "BGR" if normalization.blue_first else "RGB",
    }
    with replacing(Path(args.output)) as partial:
        with _refusal(f"checkpoint {checkpoint.name}: its {checkpoint.model.config.model_type}", args.format):
            run = _WRITERS[args.format](model, traced, metadata, partial)
            differences = []
            for pixel_values in others:
                expected = model(pixel_values)
                difference = (run(pixel_values) - expected).abs().max() / expected.abs().max().clamp_min(1)
                differences.append(difference.item())
                if not differences[-1] <= TOLERANCE:
                    raise ValueError(f"the logits of {tuple(pixel_values.shape)} differ by {differences[-1]:.1e}")
    return max(differences)


@contextlib.contextmanager
def _refusal(what: str, form: str) -> Iterator[None]:
    """Turns any error of an exporter into one line, and hides what exporters print."""
    logging.disable(logging.WARNING)
    try:
        with torch.no_grad(), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    except Exception as error:
        if is_disk_full(error):
            raise
        others = "another format of onnx, torchscript and exported_program"
        raise InputError(f"{what} cannot be exported as {form} ({first_line(error)[:100]}). Try {others}.") from error
    finally:
        logging.disable(logging.NOTSET)


def _write_onnx(model: nn.Module, pixel_values: torch.Tensor, metadata: dict[str, str], path: Path) -> Callable:
    import onnx
    import onnxruntime

    names = {"input_names": _NAMES[:1], "output_names": _NAMES[1:], "dynamic_axes": dict.fromkeys(_NAMES, _AXES)}
    torch._C._jit_set_onnx_log_enabled(False)  # it would print the graph of a model that it cannot export
    # The exporter by tracing: the one by `torch.export` takes minutes, and exports no more of these models.
    torch.onnx.export(model, (pixel_values,), str(path), dynamo=False, **names)
    written = onnx.load(path)
    onnx.helper.set_model_props(written, metadata)
    onnx.save(written, path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda pixel_values: torch.from_numpy(session.run(None, {_NAMES[0]: pixel_values.numpy()})[0])


def _write_torchscript(model: nn.Module, pixel_values: torch.Tensor, metadata: dict[str, str], path: Path) -> Callable:
    torch.jit.save(torch.jit.trace(model, (pixel_values,), check_trace=False), path, _extra_files=metadata)
    return torch.jit.load(path)


def _write_program(model: nn.Module, pixel_values: torch.Tensor, metadata: dict[str, str], path: Path) -> Callable:
    sizes = {_NAMES[0]: dict.fromkeys(_AXES, torch.export.Dim.DYNAMIC)}
    program = torch.export.export(model, (pixel_values,), dynamic_shapes=sizes, strict=False)
    torch.export.save(program, path, extra_files=metadata)
    return torch.export.load(path).module()


_WRITERS = {"onnx": _write_onnx, "torchscript": _write_torchscript, "exported_program": _write_program}

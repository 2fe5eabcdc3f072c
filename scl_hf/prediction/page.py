"""The page to try models on; the only module that imports Gradio."""

import html
import unittest.mock
from collections.abc import Sequence
from pathlib import Path

import gradio as gr
import numpy as np
import torch

from ..errors import InputError, first_few, first_line
from ..inference import predict_probs
from ..pretrained import Checkpoint, load_checkpoint
from ..processes import is_out_of_memory
from ..visualization.panels import error_map, overlay
from .predicting import class_ids
from .views import enlarged, numbered_map, percent, read_upload, share_table

TILE = 1024  # larger images are predicted in overlapping tiles, which bounds the memory
KEPT = 3600  # seconds: uploads, and a visitor's last prediction

HINT = "Choose an image, or one of the examples."
CSS = """
.gradio-container {max-width: 1280px !important; width: 100%; margin: auto}
.message {font-size: 1.1em; margin: 0; overflow-wrap: anywhere}
.problem {border-left: 4px solid #b3261e; padding-left: 12px}
.result label[data-testid="block-label"] {position: static; border: 0}
.result img {max-height: 75vh}
.shares {width: 100%; border-collapse: collapse; overflow-wrap: break-word}
.shares caption {text-align: left; padding-bottom: 6px}
.shares, .shares tr, .shares th, .shares td {border: 0 !important; text-align: left; font-weight: inherit}
.shares th, .shares td {padding: 3px 12px 3px 0 !important}
.shares td {white-space: nowrap}
.shares tr {border-bottom: 1px solid #adb5bd !important}
.swatch {display: inline-block; min-width: 2.4em; text-align: center; border: 1px solid #adb5bd; border-radius: 3px}
"""
NAME_EXAMPLES = """() => document.querySelectorAll(".gallery-item").forEach(
    (button, index) => button.setAttribute("aria-label", `Example ${index + 1}`))"""


with unittest.mock.patch("gradio.component_meta.create_or_modify_pyi"):  # it would write a file beside this one

    class Upload(gr.Image):
        """The file of an uploaded image. Gradio does not open it, so that the page can say what is wrong with it."""

        is_template = True

        def preprocess(self, payload: gr.data_classes.ImageData | None) -> str | None:
            """Returns the path of the file."""
            return payload and payload.path


def load_models(names: Sequence[str], trust_remote_code: bool = False) -> list[Checkpoint]:
    """Loads one checkpoint, or two of the same classes, on the GPU if there is one."""
    checkpoints = [load_checkpoint(name, trust_remote_code) for name in names]
    first, last = checkpoints[0].id2label, checkpoints[-1].id2label
    if first != last:
        raise InputError(
            f"checkpoint {names[-1]}: its classes ({first_few(last.values())}) are not those of {names[0]} "
            f"({first_few(first.values())}). Compare two of the same classes."
        )
    if checkpoints[0].input != checkpoints[-1].input:
        both = f"value_range or bands are not those of {names[0]}. Compare two that read images alike"
        raise InputError(f"checkpoint {names[-1]}: its {both}.")
    for checkpoint in checkpoints:
        # Unchecked, a CUDA build of torch, as PyPI has it, says cuda on a machine without a GPU.
        checkpoint.model.to(torch.accelerator.current_accelerator(check_available=True) or "cpu")
    return checkpoints


def predict(checkpoint: Checkpoint, image: np.ndarray) -> np.ndarray:
    """Returns the class ids (H, W) of an image (H, W, 3)."""
    height, width = image.shape[:2]
    try:
        pixel_values = checkpoint.normalization.of(image).unsqueeze(0).to(checkpoint.model.device)
        return class_ids(predict_probs(checkpoint.model, pixel_values, tile=TILE)[0])
    except (ValueError, RuntimeError) as error:  # RuntimeError: convolutions larger than their input, and the like
        remedy = f"Choose a {'smaller' if is_out_of_memory(error) else 'larger'} image."
        problem = f"{width}×{height} pixels cannot be predicted by {checkpoint.name} ({first_line(error)})"
        raise InputError(f"{problem}. {remedy}") from error


def make_page(checkpoints: Sequence[Checkpoint], examples: Sequence[str | Path]) -> gr.Blocks:
    """Returns the page for one or two checkpoints of the same classes, with example images."""
    names = [checkpoint.name for checkpoint in checkpoints]
    palette, id2label = checkpoints[0].palette, checkpoints[0].id2label
    letters = "AB" if len(names) == 2 else ""

    def segment(path: str | None, opacity: float) -> list:
        """Returns the values of `shown` for a file; `None` where it was removed."""
        nothing = [None, gr.Column(visible=False)] + [None] * (len(shown) - 3)
        if path is None:
            return [_message(HINT), *nothing]
        try:
            image, note = read_upload(path, checkpoints[0].input)
            labels = [predict(checkpoint, image) for checkpoint in checkpoints]
        except InputError as error:
            return [_message(str(error), "problem"), *nothing]
        maps = [numbered_map(label, palette) for label in labels]
        table = share_table(labels, id2label, palette, letters or ["Share"])
        results = [(image, labels), gr.Column(visible=True), *blend((image, labels), opacity), *maps, table]
        if letters:
            share = float((labels[0] != labels[1]).mean())
            note = f"A and B differ in {percent(share)} of the pixels. {note}"
            results.append(enlarged(error_map(*labels, image)))
        height, width = image.shape[:2]
        return [_message(f"{Path(path).name}, {width}×{height} pixels. {note}"), *results]

    def blend(kept: tuple[np.ndarray, list[np.ndarray]] | None, opacity: float) -> list[np.ndarray | None]:
        """Returns the overlays of the image and its label maps at an opacity in percent, without a model."""
        if kept is None:
            return [None] * len(names)
        image, labels = kept
        return [enlarged(overlay(image, label, palette, opacity / 100)) for label in labels]

    with gr.Blocks(title="Try a segmentation model", analytics_enabled=False, delete_cache=(KEPT, KEPT)) as page:
        models = [f"{letter}: {name}" for letter, name in zip(letters, names)] or names
        gr.HTML(f"<h1>What is where in an image?</h1><p>{'<br>'.join(map(html.escape, models))}</p>")
        kept = gr.State(None, time_to_live=KEPT)
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                title = "Your image"
                upload = Upload(label=title, alt_text=title, sources=["upload", "clipboard"], height=300)
                if examples:
                    gr.Examples([[str(path)] for path in examples], upload, label="Examples", cache_examples=False)
            with gr.Column(scale=5, min_width=320):
                message = gr.HTML(_message(HINT), min_height=40)
                with gr.Column(visible=False) as results:
                    opacity = gr.Slider(0, 100, 60, step=5, label="Opacity of the overlay, in percent")
                    shown = [message, kept, results]
                    for what, kind in (("Overlay", "jpeg"), ("Color map", "png")):
                        titles = [f"{what}, {letter}" for letter in letters] or [what]
                        with gr.Row():
                            shown += [_output(title, kind) for title in titles]
                    shown.append(gr.HTML())  # the table
                    if letters:
                        shown.append(_output("Where A and B differ: orange on the pale image", "png"))
        overlays = shown[3 : 3 + len(names)]
        upload.change(segment, [upload, opacity], shown, api_name="segment", show_progress_on=message)
        quiet = {"show_progress": "hidden", "trigger_mode": "always_last"}
        opacity.change(blend, [kept, opacity], overlays, api_name="blend", **quiet)
        page.load(None, js=NAME_EXAMPLES)
    return page


def _output(title: str, kind: str) -> gr.Image:
    options = {"format": kind, "interactive": False, "buttons": ["download", "fullscreen"]}
    return gr.Image(label=title, alt_text=title, elem_classes="result", **options)


def _message(text: str, kind: str = "") -> str:
    """Returns HTML: a sentence that screen readers read out when it changes."""
    role = "alert" if kind == "problem" else "status"
    return f'<p class="message {kind}" role="{role}">{html.escape(text)}</p>'


def launch(page: gr.Blocks) -> str:
    """Starts the page, which loads nothing from elsewhere; returns its address, on this machine by default."""
    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}  # by default Google's
    options = {"share": False, "ssr_mode": False, "footer_links": [], "max_file_size": "50mb", "quiet": True}
    return page.launch(theme=gr.themes.Default(**fonts), css=CSS, prevent_thread_lock=True, **options)[1]

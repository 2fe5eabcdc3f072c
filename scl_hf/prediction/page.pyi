"""The page to try models on. Beside it nothing in the package knows Gradio."""

import html
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import gradio as gr
import numpy as np
import torch

from ..checkpoints import Checkpoint, load_checkpoint
from ..errors import InputError, first_few, first_line
from ..evaluation.panels import overlay
from ..evaluation.protocol import is_out_of_memory
from ..inference import predict_probs
from .views import difference, numbered_map, percent, read_upload, share_table

TILE = 1024  # larger pictures are predicted in overlapping tiles, which bounds the memory
LARGEST_UPLOAD = "50mb"
KEPT = 3600  # seconds: uploads, and a visitor's last prediction

HINT = "Choose a picture, or one of the examples."
CSS = """
.gradio-container {max-width: 1200px !important; margin: auto}
.message {font-size: 1.1em; margin: 0; overflow-wrap: anywhere}
.error {border-left: 4px solid #b3261e; padding-left: 12px}
.shares {width: 100%; border-collapse: collapse; overflow-wrap: anywhere}
.shares caption {text-align: left; padding-bottom: 6px}
.shares th, .shares td {text-align: left; padding: 3px 12px 3px 0; font-weight: inherit; border: 0}
.shares td + td, .shares th + td {font-variant-numeric: tabular-nums}
.shares thead th {font-weight: 600}
.swatch {display: inline-block; min-width: 2.4em; text-align: center; border: 1px solid #adb5bd; border-radius: 3px}
"""

from gradio.events import Dependency

class Upload(gr.Image):
    """A picture as it was uploaded: Gradio opens none, so that the page can say what is wrong with one."""

    is_template = True

    def preprocess(self, payload: gr.data_classes.ImageData | None) -> str | None:
        """The path of the file."""
        return payload and payload.path
    from typing import Callable, Literal, Sequence, Any, TYPE_CHECKING
    from gradio.blocks import Block
    if TYPE_CHECKING:
        from gradio.components import Timer
        from gradio.components.base import Component


class Prediction(NamedTuple):
    """What the page keeps of a picture: a new opacity needs no model."""

    picture: np.ndarray
    labels: list[np.ndarray]


def load_models(names: Sequence[str], trust_remote_code: bool = False) -> list[Checkpoint]:
    """One checkpoint, or two of the same classes, on the GPU if there is one."""
    checkpoints = [load_checkpoint(name, trust_remote_code) for name in names]
    theirs, *others = (checkpoint.id2label for checkpoint in checkpoints)
    if others and others[0] != theirs:
        raise InputError(
            f"checkpoint {names[1]}: its classes ({first_few(others[0].values())}) are not those of {names[0]} "
            f"({first_few(theirs.values())}). Compare two that were trained on the same classes."
        )
    for checkpoint in checkpoints:
        checkpoint.model.to(torch.accelerator.current_accelerator() or "cpu")
    return checkpoints


def predict(checkpoint: Checkpoint, picture: np.ndarray) -> np.ndarray:
    """The class ids (H, W) of a picture (H, W, 3)."""
    height, width = picture.shape[:2]
    try:
        pixel_values = checkpoint.pixels.of(picture).unsqueeze(0).to(checkpoint.model.device)
        return predict_probs(checkpoint.model, pixel_values, tile=TILE)[0].argmax(dim=0).cpu().numpy()
    except (ValueError, RuntimeError) as error:  # RuntimeError: convolutions larger than their input, and the like
        remedy = "smaller" if is_out_of_memory(error) else "larger"
        raise InputError(
            f"{width}×{height} pixels cannot be predicted by {checkpoint.name} ({first_line(error)}). "
            f"Choose a {remedy} picture."
        ) from error


def make_page(checkpoints: Sequence[Checkpoint], examples: Sequence[str | Path]) -> gr.Blocks:
    """The page for one or two checkpoints of the same classes, with pictures to choose from."""
    names = [checkpoint.name for checkpoint in checkpoints]
    palette, id2label = checkpoints[0].palette, checkpoints[0].id2label
    captions = names if len(names) == 1 else [f"{letter}: {name}" for letter, name in zip("AB", names)]

    def segment(path: str | None, opacity: float) -> list:
        """All that is shown of a file; `None` where it was removed."""
        nothing = [None, gr.Column(visible=False)] + [None] * (len(shown) - 3)
        if path is None:
            return [_message(HINT), *nothing]
        try:
            picture, note = read_upload(path)
            labels = [predict(checkpoint, picture) for checkpoint in checkpoints]
        except InputError as error:
            return [_message(str(error), "error"), *nothing]
        maps = [numbered_map(label, palette) for label in labels]
        prediction = Prediction(picture, labels)
        table = share_table(labels, id2label, palette, captions if len(names) == 2 else ["Share"])
        results = [prediction, gr.Column(visible=True), *blend(prediction, opacity), *maps, table]
        if len(names) == 2:
            share, where = difference(*labels, picture)
            note = f"A and B differ in {percent(share)} of the pixels. {note}"
            results.append(where)
        return [_message(f"{Path(path).name} is predicted. {note}"), *results]

    def blend(prediction: Prediction | None, opacity: float) -> list[np.ndarray | None]:
        """The overlays."""
        if prediction is None:
            return [None] * len(names)
        return [overlay(prediction.picture, label, palette, opacity / 100) for label in prediction.labels]

    with gr.Blocks(title="Try a segmentation model", analytics_enabled=False, delete_cache=(KEPT, KEPT)) as page:
        gr.HTML(f"<h1>What is where in a picture?</h1><p>{html.escape(' — '.join(captions))}</p>")
        kept = gr.State(None, time_to_live=KEPT)
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                upload = Upload(
                    label="Picture",
                    sources=["upload", "clipboard"],
                    height=280,
                    alt_text="The picture that was chosen",
                )
                if examples:
                    gr.Examples([[str(path)] for path in examples], upload, label="Examples", cache_examples=False)
                message = gr.HTML(_message(HINT), min_height=40)
            with gr.Column(scale=5, min_width=320, visible=False) as results:
                opacity = gr.Slider(0, 100, 60, step=5, label="Opacity of the classes over the picture, in percent")
                shown = [message, kept, results]
                for what, kind in (("Overlay", "jpeg"), ("Colour map", "png")):
                    with gr.Row():
                        shown += [_picture(f"{what}, {caption}", kind) for caption in captions]
                if len(names) == 2:
                    where = _picture("Where A and B differ: in orange, on the pale picture", "png")
                table = gr.HTML()
        shown += [table] + [where] * (len(names) == 2)
        overlays = shown[3 : 3 + len(names)]
        upload.change(segment, [upload, opacity], shown, api_name="segment", show_progress_on=message)
        opacity.change(
            blend, [kept, opacity], overlays, api_name="blend", show_progress="hidden", trigger_mode="always_last"
        )
    return page


def _picture(label: str, kind: str) -> gr.Image:
    return gr.Image(label=label, alt_text=label, format=kind, interactive=False, buttons=["download", "fullscreen"])


def _message(text: str, kind: str = "") -> str:
    """HTML: a sentence that is read out where it changes."""
    role = "alert" if kind == "error" else "status"
    return f'<p class="message {kind}" role="{role}">{html.escape(text)}</p>'


def serve(page: gr.Blocks, **options: object) -> None:
    """
    Shows the page until it is stopped: on this machine, or where the environment's GRADIO_SERVER_NAME and
    GRADIO_SERVER_PORT say. It fetches nothing from elsewhere.
    """
    own_fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    theme = gr.themes.Default(**own_fonts)
    page.launch(
        theme=theme, css=CSS, share=False, ssr_mode=False, footer_links=[], max_file_size=LARGEST_UPLOAD, **options
    )
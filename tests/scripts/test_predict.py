"""scripts/predict.py as a user runs it, and the same label maps as the rest of the ecosystem gives."""

import functools
import json
import os
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from conftest import build_trainer, load_script, tiny_model, write_png
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoModelForSemanticSegmentation,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SegformerImageProcessorPil,
    SegformerModel,
    pipeline,
)

from scl_hf.data import DataArguments, load_data
from scl_hf.data.labels import read_pair
from scl_hf.data.sources.cityscapes import ID2LABEL, PALETTE
from scl_hf.errors import InputError
from scl_hf.prediction.inputs import Video

SCRIPT = Path(__file__).parents[2] / "scripts/predict.py"
NAMES = ("iris", "lily", "rose", "aster", "tulip")
FLOWERS = {"id2label": dict(enumerate(NAMES)), "label2id": {name: i for i, name in enumerate(NAMES)}}
SEGFORMER = {
    "depths": [1, 1, 1, 1],
    "hidden_sizes": [8, 8, 16, 16],
    "decoder_hidden_size": 16,
    "num_attention_heads": [1, 1, 2, 2],
}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """A DeepLabV3+ of the Cityscapes classes and a SegFormer of five others, with processors that do not resize."""
    path = tmp_path_factory.mktemp("checkpoints")
    torch.manual_seed(0)
    segformer = SegformerForSemanticSegmentation(SegformerConfig(**FLOWERS, **SEGFORMER))
    for name, model in (("deeplab", tiny_model(ID2LABEL)), ("segformer", segformer)):
        model.save_pretrained(path / name)
        # Another normalization than the fallback, so that it is seen to come from here.
        processor = SegformerImageProcessorPil(do_resize=False, image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.4])
        processor.save_pretrained(path / name)
    return path


@pytest.fixture
def predict(tmp_path, monkeypatch, checkpoints):
    """Runs the script; returns its exit code. It writes to `tmp_path / "out"`."""
    script = load_script(SCRIPT)

    def run(checkpoint, *arguments):
        argv = ["predict.py", str(checkpoints / checkpoint), *map(str, arguments), "--output", str(tmp_path / "out")]
        monkeypatch.setattr(sys, "argv", argv)
        return script.main()

    return run


@pytest.fixture
def images(tmp_path):
    """Three images of odd and unequal sizes, in two folders."""
    rng = np.random.default_rng(0)
    for name, size in (("a/one.png", (33, 50)), ("a/two.png", (41, 40)), ("b/one.png", (64, 35))):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        blocks = rng.integers(0, 256, (-(-size[0] // 8), -(-size[1] // 8), 3)).repeat(8, 0).repeat(8, 1)
        Image.fromarray(blocks[: size[0], : size[1]].astype(np.uint8)).save(path)
    return tmp_path / "in"


def snapshot(path):
    return {file.relative_to(path).as_posix(): file.stat().st_mtime_ns for file in path.rglob("*.png")}


@pytest.mark.parametrize("checkpoint", ["deeplab", "segformer"])
def test_the_label_map_of_pipeline_and_of_post_processing(predict, images, checkpoints, tmp_path, checkpoint):
    assert predict(checkpoint, images, "--write", "train_ids", "probabilities") == 0
    folder = checkpoints / checkpoint
    model = AutoModelForSemanticSegmentation.from_pretrained(folder).eval()
    processor = AutoImageProcessor.from_pretrained(folder)
    segment = pipeline("image-segmentation", model=model, image_processor=processor)
    kinds = set()
    for name in ("a/one", "a/two", "b/one"):
        image = Image.open(images / f"{name}.png")
        label = np.asarray(Image.open(tmp_path / f"out/train_ids/{name}.png"))
        with torch.no_grad():
            outputs = model(processor(image, return_tensors="pt")["pixel_values"])
        (expected,) = processor.post_process_semantic_segmentation(outputs, target_sizes=[image.size[::-1]])
        np.testing.assert_array_equal(label, expected)
        for segmentation in segment(image, subtask="semantic"):
            train_id = model.config.label2id[segmentation["label"]]
            np.testing.assert_array_equal(np.asarray(segmentation["mask"]) == 255, label == train_id)
        probs = np.load(tmp_path / f"out/probabilities/{name}.npy")
        assert probs.shape == (model.config.num_labels, *label.shape) and probs.dtype == np.float16
        np.testing.assert_allclose(probs.astype(np.float32).sum(0), 1, atol=0.01)
        kinds |= set(np.unique(label))
    assert len(kinds) > 1  # a map of one class would be equal to much


def test_16_bit_images_are_read_as_in_training(predict, own_folder, tmp_path):
    def data_of(*value_range):
        fields = {
            "dataset": "folder",
            "data_dir": str(own_folder),
            "unlabeled_dirs": [str(own_folder / "train/images")],
        }
        return load_data(DataArguments(**fields, value_range=list(value_range)))

    eight, run = tmp_path / "frame0.png", tmp_path / "run"
    shutil.copy(own_folder / "validation/images/frame0.png", eight)
    expected = data_of().labeled
    expected = [read_pair(example, expected.features)[0] for example in expected]
    for path in own_folder.glob("*/images/*.png"):
        values = np.rint(cv2.imread(str(path)) * (4095 / 255)).astype(np.uint16)
        cv2.imwrite(str(path), values)
    data = data_of(0, 4095)
    images = data.unlabeled  # of the split and of the folder
    read = [read_pair(example, images.features)[0] for example in images]
    np.testing.assert_array_equal(read, expected * 2)
    trainer = build_trainer(data, run, save_strategy="steps", save_steps=3)
    trainer.train()
    trainer.save_model()
    for name, path in (("eight", eight), ("sixteen", own_folder / "validation/images/frame0.png")):
        assert predict(run, path, "--write", "probabilities", "--overwrite", "true") == 0
        shutil.move(tmp_path / "out", tmp_path / name)
    eight, sixteen = (np.load(tmp_path / name / "probabilities/frame0.npy") for name in ("eight", "sixteen"))
    np.testing.assert_array_equal(eight, sixteen)
    for other in (data_of(0, 4000), data_of()):
        with pytest.raises(InputError, match="other values of value_range of the labeled images"):
            build_trainer(other, run, max_steps=4).train(resume_from_checkpoint=str(run / "checkpoint-3"))


def test_resumes_and_redoes_what_is_missing(predict, images, tmp_path, capsys):
    settings = ["--eval_scales", "0.5", "1", "--eval_flip", "true", "--eval_tile", "32"]
    assert predict("deeplab", images, *settings) == 0
    before = snapshot(tmp_path / "out")
    assert len(before) == 7  # three color maps, three overlays, the legend
    colors = np.asarray(Image.open(tmp_path / "out/color/a/one.png"))
    assert {tuple(color) for color in colors.reshape(-1, 3).tolist()} <= {tuple(color) for color in PALETTE.tolist()}
    (tmp_path / "out/overlay/a/two.png").unlink()
    assert predict("deeplab", images, *settings, "--max_tiles_per_batch", "3") == 0
    assert "1 predicted" in (printed := capsys.readouterr().out) and "2 were predicted earlier" in printed
    after = snapshot(tmp_path / "out")
    assert {name for name in before if before[name] != after[name]} <= {
        "color/a/two.png",
        "overlay/a/two.png",
        "legend.png",
    }
    with pytest.raises(InputError, match="eval_flip True, this would be for False"):
        predict("deeplab", images, "--eval_scales", "0.5", "1", "--eval_tile", "32")
    with pytest.raises(InputError, match="predictions.json is for checkpoint"):
        predict("segformer", images, *settings)
    assert predict("segformer", images, "--overwrite", "true") == 0


def test_continues_past_a_broken_file(predict, images, tmp_path, capsys):
    (images / "a/broken.png").write_bytes((images / "a/one.png").read_bytes()[:60])
    Image.new("RGB", (3, 3)).save(images / "a/icon.png")
    os.mkfifo(images / "a/pipe.png")
    write_png(images / "a/bomb.png", 2**15, 2**15, 8, 2, bytes(1000))
    assert predict("deeplab", images) == 1
    printed = capsys.readouterr().err
    assert "4 of 7 could not be predicted" in printed and "a/pipe.png: is no file" in printed
    assert "a/bomb.png: has more pixels than are opened" in printed
    assert "a/broken.png: " in printed and "icon.png cannot be evaluated" in printed
    assert len(list((tmp_path / "out/color").rglob("*.png"))) == 3


def test_videos(predict, images, tmp_path, capsys):
    clip = cv2.VideoWriter(str(images / "clip.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 12.5, (40, 32))
    for i in range(5):
        clip.write(np.full((32, 40, 3), 50 * i, np.uint8))
    clip.release()
    (images / "broken.mp4").write_bytes(b"no video")
    assert predict("deeplab", images) == 1
    assert (
        "1 of 5 could not be predicted:\n  " in (printed := capsys.readouterr()).err
        and "broken.mp4: is not a readable video" in printed.err
    )
    assert "4 predicted" in printed.out
    assert sorted(path.name for path in (tmp_path / "out/color").iterdir()) == ["a", "b", "clip.mp4"]
    for kind in ("color", "overlay"):
        assert [frame.shape for frame in Video(str(tmp_path / f"out/{kind}/clip.mp4")).frames()] == [(32, 40, 3)] * 5
    predict("deeplab", images)
    assert "0 predicted" in (printed := capsys.readouterr().out) and "4 were predicted earlier" in printed


def test_wrong_input_leaves_nothing_behind(predict, images, tmp_path, checkpoints, monkeypatch):
    backbone, headless = SegformerModel(SegformerConfig(**SEGFORMER)), checkpoints / "headless"
    backbone.save_pretrained(headless)
    SegformerForSemanticSegmentation(SegformerConfig(**SEGFORMER)).save_pretrained(checkpoints / "nameless")
    tiny_model(ID2LABEL).save_pretrained(checkpoints / "unfit")
    config = json.loads((checkpoints / "unfit/config.json").read_text())
    (checkpoints / "unfit/config.json").write_text(json.dumps(config | FLOWERS))
    for checkpoint, arguments, message in (
        ("deeplab", [images, "--eval_tile", "4"], "with tiles 4×4 pixels .*too small for the output stride"),
        ("deeplab", [images, "--eval_scales", "0"], "eval_scales: must be scales above 0"),
        ("segformer", [images, "--write", "label_ids"], "classes of .*segformer are iris, lily, rose, …;"),
        ("deeplab", [images, "--submission", tmp_path / "out.zip"], "one.png is not a test image of Cityscapes"),
        ("headless", [images], "is not a trained segmentation model, .* are missing"),
        ("nameless", [images], "nameless: brings no class names, only LABEL_0, …"),
        ("unfit", [images], r"classifier.weight has the shape \[19, .* belongs to the 5 classes of id2label"),
        ("none", [images], "none: no such folder"),
        ("deeplab", [images, "--dtype", "half"], "dtype: must be float32, bfloat16, float16, got 'half'"),
        ("deeplab", [images / "c"], "in/c: no such file or folder"),
        ("deeplab", [], "a checkpoint and at least one input come first"),
    ):
        with pytest.raises(InputError, match=message):
            predict(checkpoint, *arguments)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="runs in one process"):
        predict("deeplab", images)
    assert not (tmp_path / "out").exists()


def test_bfloat16_and_compiled(predict, images, tmp_path, monkeypatch):
    one, probs = images / "a/one.png", []
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    for options in ([], ["--dtype", "bfloat16"], ["--compile", "true"]):
        AcceleratorState._reset_state(reset_partial_state=True)  # as a process of its own
        assert predict("deeplab", one, "--write", "probabilities", "--overwrite", "true", *options) == 0
        probs.append(np.load(tmp_path / "out/probabilities/one.npy"))
    AcceleratorState._reset_state(reset_partial_state=True)
    assert 0 < np.abs(probs[1] - probs[0]).max() < 0.1
    np.testing.assert_allclose(probs[2], probs[0], atol=1e-3)

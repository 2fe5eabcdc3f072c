"""scripts/train.py as a user runs it: from a recipe to a model that loads, and one line for what is wrong."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
import torch
import yaml
from conftest import SMALL_RUN, TINY, TINY_MOBILEVIT, load_script, write_png
from mini_hub import mini_hub
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import (
    AutoImageProcessor,
    AutoModelForSemanticSegmentation,
    Dinov2Config,
    Dinov2ForImageClassification,
    MobileViTConfig,
    MobileViTForSemanticSegmentation,
    MobileViTImageProcessorPil,
    SegformerImageProcessorPil,
    pipeline,
    set_seed,
)

from scl_hf import SemiSupervisedConfig, SemiSupervisedTrainer
from scl_hf.data import DataArguments, load_data
from scl_hf.data.normalization import Normalization
from scl_hf.errors import InputError
from scl_hf.pretrained import ModelArguments, load_checkpoint, load_model

SCRIPT = Path(__file__).parents[2] / "scripts/train.py"
SETTINGS = SMALL_RUN | {
    "class_uniform_tile": 32,
    "max_steps": 2,
    "logging_steps": 1,
    "eval_strategy": "steps",
    "eval_steps": 2,
    "save_strategy": "steps",
    "save_steps": 2,
    "disable_tqdm": True,
}


@pytest.fixture
def train(tmp_path, monkeypatch):
    """Runs the script with a small recipe and overrides; returns its output folder."""
    script = load_script(SCRIPT)

    def run(*command_line, **fields):
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text(yaml.safe_dump(SETTINGS | {"output_dir": str(tmp_path / "run")} | fields))
        monkeypatch.setattr(sys, "argv", ["train.py", str(recipe), *command_line])
        script.main()
        return tmp_path / "run"

    return run


@pytest.fixture
def folder(own_folder):
    return own_folder


def test_from_a_recipe_to_a_model_that_loads(train, toy_dataset, capsys):
    run = train("--learning_rate", "1e-3", dataset="cityscapes", data_dir=str(toy_dataset), report_to="tensorboard")
    printed = capsys.readouterr().out
    for expected in ("5 labeled, 11 unlabeled, 3 to evaluate on, 19 classes", "loss_sc", "EMA model on 3 images"):
        assert expected in printed
    assert printed.count("\ntraffic light") == 1  # the last evaluation is not done twice
    assert f'from_pretrained("{run}", trust_remote_code=True)' in printed

    metrics = json.loads((run / "all_results.json").read_text())
    assert 0 <= metrics["eval_mean_iou"] <= 1 and "eval_iou_road" in metrics and "train_loss" in metrics
    card = (run / "README.md").read_text()
    assert "the EMA model after\n2 steps on 5 labeled and 11 unlabeled images of toy_dataset" in card
    assert f"{metrics['eval_iou_road']:.4f}" in card and "trust_remote_code=True" in card
    assert "(panel.png)" in card and "of the split `validation` (" in card
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    assert recipe["data_dir"] == "toy_dataset" and recipe["learning_rate"] == 0.001 and recipe["model_config"] == TINY
    assert list(run.glob("panels/*.png"))
    board = EventAccumulator(str(next(run.glob("runs/*")))).Reload().Tags()
    assert "panel" in board["images"]
    assert {"train/loss_x", "train/loss_c", "train/loss_sc", "train/learning_rate"} <= set(board["scalars"])
    assert {"train/images_per_second", "eval/mean_iou", "eval/iou_road"} <= set(board["scalars"])

    model = AutoModelForSemanticSegmentation.from_pretrained(run)
    processor = AutoImageProcessor.from_pretrained(run)
    image = Image.open(next(toy_dataset.glob("leftImg8bit/val/*/*.png")))
    inputs = processor(images=image, return_tensors="pt")
    with torch.no_grad():
        outputs = model(**inputs)
    label = processor.post_process_semantic_segmentation(outputs, target_sizes=[image.size[::-1]])[0]
    assert label.shape == image.size[::-1]
    segments = pipeline("image-segmentation", model=model.eval(), image_processor=processor)(image)
    assert {segment["label"] for segment in segments} == {model.config.id2label[i] for i in label.unique().tolist()}


def test_a_run_resumes_where_it_stopped_and_is_not_overwritten_by_accident(train, toy_dataset, tmp_path):
    data = {"dataset": "cityscapes", "data_dir": str(toy_dataset), "report_to": "none"}
    train(**data)
    with pytest.raises(InputError, match="holds another run"):
        train(**data)
    train("--resume_from_checkpoint", "true", "--max_steps", "4", **data)
    state = json.loads((tmp_path / "run/trainer_state.json").read_text())
    assert state["global_step"] == 4
    train("--overwrite_output_dir", "true", **data)


def test_the_same_values_in_python_give_the_same_bits(train, toy_dataset, tmp_path):
    run = train(
        dataset="cityscapes",
        data_dir=str(toy_dataset),
        use_coarse_labels=True,
        coarse_classes=[0, 2],
        report_to="none",
    )
    own = set(SETTINGS) - {"model_config"}
    args = SemiSupervisedConfig(
        output_dir=str(tmp_path / "python"), report_to="none", coarse_classes=[0, 2], **{n: SETTINGS[n] for n in own}
    )
    set_seed(args.seed)
    data = load_data(DataArguments(data_dir=str(toy_dataset), use_coarse_labels=True))
    trainer = SemiSupervisedTrainer(
        model=load_model(ModelArguments(model_config=TINY), data.id2label),
        args=args,
        train_dataset=data.labeled,
        unlabeled_dataset=data.unlabeled,
        eval_dataset=data.evaluation,
        coarse_dataset=data.coarse,
    )
    trainer.train()
    trainer.save_model()
    for name in ("model.safetensors", "checkpoint-2/model.safetensors", "checkpoint-2/student/model.safetensors"):
        ours, theirs = load_file(tmp_path / "python" / name), load_file(run / name)
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
    logs = json.loads((run / "trainer_state.json").read_text())["log_history"]
    losses = [log["loss"] for log in logs if "loss" in log]
    assert losses == [log["loss"] for log in trainer.state.log_history if "loss" in log]


# Runs the Python of a card in this folder, without the package, and prints what it found.
READER = """
import json, re, sys
from huggingface_hub import ModelCard
names, segments, printed = {}, [], print
by_pipeline, by_hand = re.findall(r"```python\\n(.*?)```", ModelCard.load("me/toy_dataset").text, re.S)
exec(by_pipeline, names | {"print": lambda label, mask: segments.append([label, mask.size])})
exec(by_hand, names)
print(json.dumps([segments, names["names"], list(names["label_map"].shape), "scl_hf" in sys.modules]))
"""


def test_a_push_is_one_commit_and_its_card_tells_how_to_use_it(toy_dataset, tmp_path):
    recipe, run = tmp_path / "recipe.yaml", tmp_path / "run"
    data = {"output_dir": str(run), "dataset": "cityscapes", "data_dir": str(toy_dataset), "report_to": "none"}
    push = {"push_to_hub": True, "hub_model_id": "me/toy_dataset", "hub_strategy": "end"}
    recipe.write_text(yaml.safe_dump(SETTINGS | data | push))
    with mini_hub() as hub:
        client = subprocess.run(
            [sys.executable, SCRIPT, recipe],
            env=hub.environment(tmp_path / "home", HF_HUB_OFFLINE="0"),
            capture_output=True,
            text=True,
        )
        assert client.returncode == 0, client.stderr
        assert len([line for line in hub.log if "/commit/" in line]) == 1
        shutil.copy(next(toy_dataset.glob("leftImg8bit/val/*/*.png")), tmp_path / "image.jpg")
        reader = subprocess.run(
            [sys.executable, "-c", READER],
            env=hub.environment(tmp_path / "reader", HF_HUB_OFFLINE="0"),
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
    assert reader.returncode == 0, reader.stderr
    segments, names, shape, has_package = json.loads(reader.stdout.splitlines()[-1])
    assert [label for label, _ in segments] == names and shape == [48, 96] and not has_package
    assert all(size == [96, 48] for _, size in segments)
    sent = hub.repos["models/me/toy_dataset"]["files"]
    assert sent["model.safetensors"] == (run / "model.safetensors").read_bytes()
    assert "images of toy_dataset" in sent["README.md"].decode().replace("\n", " ") and "all_results.json" in sent
    assert {"recipe.yaml", "curves.png", "panel.png"} <= sent.keys()
    assert not any(name.startswith(("_", "checkpoint-")) for name in sent)


def test_a_folder_of_ones_own(train, folder):
    run = train(dataset="folder", data_dir=str(folder), labeled_fraction=0.5, report_to="none")
    assert AutoModelForSemanticSegmentation.from_pretrained(run).config.id2label == {0: "grass", 1: "path", 2: "sky"}
    assert "on 2 labeled and 4 unlabeled images of mine" in (run / "README.md").read_text().replace("\n", " ")


def test_a_dataset_with_its_own_column_names(train, folder, tmp_path):
    def split(name):
        images = sorted(map(str, (folder / name / "images").iterdir()))
        examples = {"photo": images, "mask": [path.replace("images", "labels") for path in images]}
        dataset = datasets.Dataset.from_dict(examples)
        return dataset.cast_column("photo", datasets.Image()).cast_column("mask", datasets.Image())

    saved = tmp_path / "saved"
    datasets.DatasetDict(train=split("train"), validation=split("validation")).save_to_disk(saved)
    columns = {"image_column": "photo", "label_column": "mask", "id2label": str(folder / "id2label.json")}
    run = train(dataset=str(saved), **columns, labeled_fraction=0.5, report_to="none")
    assert (run / "model.safetensors").is_file()


def test_a_supervised_run_that_starts_from_a_checkpoint_with_other_classes(train, toy_dataset, folder, tmp_path):
    first = train(dataset="cityscapes", data_dir=str(toy_dataset), report_to="none").rename(tmp_path / "first")
    supervised = {"consistency_weight": 0, "structured_consistency_weight": 0, "model_config": None}
    run = train(dataset="folder", data_dir=str(folder), model_name_or_path=str(first), report_to="none", **supervised)
    assert AutoModelForSemanticSegmentation.from_pretrained(run).config.num_labels == 3
    assert "It is the supervised baseline" in (run / "README.md").read_text()


def test_a_checkpoint_that_takes_bgr_is_trained_and_saved_with_it(train, folder, tmp_path):
    start = tmp_path / "mobilevit"
    MobileViTForSemanticSegmentation(MobileViTConfig(**TINY_MOBILEVIT, num_labels=3)).save_pretrained(start)
    MobileViTImageProcessorPil().save_pretrained(start)
    run = train(
        dataset="folder",
        data_dir=str(folder),
        model_name_or_path=str(start),
        model_config=None,
        labeled_fraction=0.5,
        report_to="none",
    )
    processor = AutoImageProcessor.from_pretrained(run)
    assert isinstance(processor, MobileViTImageProcessorPil) and processor.do_flip_channel_order
    assert not processor.do_resize and not processor.do_center_crop
    assert load_checkpoint(str(run)).normalization == Normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), blue_first=True)


def test_an_encoder_under_a_new_head(train, folder, tmp_path, caplog):
    start = tmp_path / "dinov2"
    vit = Dinov2Config(hidden_size=32, num_hidden_layers=4, num_attention_heads=2, image_size=56)
    Dinov2ForImageClassification(vit).save_pretrained(start)
    SegformerImageProcessorPil(image_mean=[0.5] * 3, image_std=[0.25] * 3).save_pretrained(start)
    data = {"dataset": "folder", "data_dir": str(folder), "labeled_fraction": 0.5, "report_to": "none"}
    data |= {"crop_size": [56, 56], "class_uniform_tile": 56, "semi_supervised_start_step": 1}
    rates = {"learning_rate": 1e-3, "backbone_learning_rate": 1e-4}
    run = train(backbone=str(start), head="dpt", model_config=None, **data, **rates)
    assert "dinov2: 79 tensors of the encoder taken over (" in caplog.text and "new: dpt head (" in caplog.text
    assert AutoModelForSemanticSegmentation.from_pretrained(run).config.id2label == {0: "grass", 1: "path", 2: "sky"}
    processor = json.loads((run / "preprocessor_config.json").read_text())
    assert processor["image_mean"] == [0.5] * 3 and processor["do_resize"] is False  # the encoder's own


def truncate(path, size):
    path.write_bytes(path.read_bytes()[:size])


def bomb(path):
    """Its header claims 2³⁰ pixels."""
    write_png(path, 2**15, 2**15, 8, 2, bytes(1000))


def palette_label(path):
    image = Image.open(path).convert("P")
    image.putdata([7] * (image.width * image.height))
    image.save(path)


WRONG_DATA = {
    "no split": (lambda root: shutil.rmtree(root / "validation"), "validation"),
    "other size": (lambda root: Image.new("L", (9, 9)).save(root / "train/labels/frame2.png"), "9×9"),
    "palette": (lambda root: palette_label(root / "train/labels/frame2.png"), r"frame2.png: unknown class id 7"),
    "empty label": (lambda root: truncate(root / "train/labels/frame0.png", 0), "frame0.png"),
    "cut image": (lambda root: truncate(root / "train/images/frame0.png", 900), "images/frame0.png: cannot be read"),
    "cut: bomb": (lambda root: bomb(root / "train/images/frame0.png"), "frame0.png: has more pixels than .*damaged"),
    "cut label": (lambda root: truncate(root / "validation/labels/frame0.png", 90), "labels/frame0.png: cannot be"),
    "other ids": (
        lambda root: (root / "id2label.json").write_text('{"7": "a", "9": "b"}'),
        r"label_map: \{7: 0, 9: 1, …\}",
    ),
    "shared image": (
        lambda root: shutil.copy(root / "train/images/frame1.png", root / "validation/images/frame0.png"),
        "1 of the 2 evaluation images are labeled training images, too: .*validation/images/frame0.png",
    ),
}


@pytest.mark.parametrize("case", WRONG_DATA)
def test_wrong_data_is_one_line_that_names_the_file(train, folder, tmp_path, case):
    spoil, message = WRONG_DATA[case]
    spoil(folder)
    with pytest.raises(InputError, match=message) as error:
        train(dataset="folder", data_dir=str(folder), report_to="none", dataloader_num_workers=1)
    assert "\n" not in str(error.value) and "Traceback" not in str(error.value)
    assert not list(tmp_path.glob("run/**/*.safetensors"))
    if not case.startswith("cut") and case != "other size":
        assert not (tmp_path / "run").exists()  # found before anything was written


def test_corrupt_images_can_be_skipped(train, folder):
    for name in ("frame1", "frame2"):
        truncate(folder / f"train/images/{name}.png", 900)
    bomb(folder / "train/images/frame0.png")
    run = train(dataset="folder", data_dir=str(folder), skip_corrupt=True, report_to="none")
    assert 1 <= json.loads((run / "all_results.json").read_text())["skipped_images"] <= 3


def test_the_process_ends_with_code_2_and_one_line(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"dataset: folder\ndata_dir: {tmp_path}/nowhere\nuse_cpu: true\noutput_dir: {tmp_path}/run\n")
    result = subprocess.run([sys.executable, SCRIPT, recipe], capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr.startswith("error: ") and f"{tmp_path}/nowhere" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()

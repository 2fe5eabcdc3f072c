"""Layouts of public datasets, from `check` to predictions, as a user goes: data as found, a recipe, four commands."""

import io
import runpy
import sys
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import SMALL_RUN
from PIL import Image

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
NAMED = {"classes": {"ground": 0, "object": 1}}
WHITE = {"classes": {"ground": 0, "object": 255}}
HELD_OUT = {"validation_fraction": 0.34}
GROUND, OBJECT = (128, 64, 0), (0, 0, 192)

ADE20K = "Idx\tRatio\tTrain\tVal\tStuff\tName\n1\t0\t1\t1\t1\tground, soil\n2\t0\t1\t1\t0\tobject\n"

# name -> images, their labels, how a label is stored, other files, and the fields that the recipe needs. `{}` is a
# number; those of `val` are 3 and 4, the others 0 to 2.
LAYOUTS = {
    "this project's": ("{split}/images/{}.jpg", "{split}/labels/{}.png", "ids", {}, NAMED),
    "mmsegmentation": ("img_dir/{split}/{}.jpg", "ann_dir/{split}/{}.png", "ids", {}, NAMED),
    "capitals, held out": ("Train/Images/{}.JPG", "Train/Labels/{}.PNG", "ids", {}, NAMED | HELD_OUT),
    "flat, white objects": ("image/{}.bmp", "mask/{}.tif", "white", {}, WHITE | HELD_OUT),
    "Roboflow": (
        *("{split}/{}.jpg", "{split}/{}_mask.png", "ids"),
        *({"train/_classes.csv": "Pixel Value, Class\n0, ground\n1, object\n"}, {}),
    ),
    "DeepGlobe": (
        *("train/{}_sat.jpg", "train/{}_mask.png", "colors"),
        *({"class_dict.csv": "name,r,g,b\nground,128,64,0\nobject,0,0,192\n"}, HELD_OUT),
    ),
    "CamVid of Kaggle": (
        *("{split}/{}.png", "{split}_labels/{}_L.png", "colors"),
        *({"class_dict.csv": "name,r,g,b\nground,128,64,0\nobject,0,0,192\n"}, {}),
    ),
    "CamVid of SegNet": (
        *("{split}/{}.png", "{split}annot/{}.png", "ids"),
        *({"train.txt": "".join(f"/SegNet/train/{i}.png /SegNet/trainannot/{i}.png\n" for i in range(3))}, NAMED),
    ),
    "Pascal VOC": (
        *("VOC2012/JPEGImages/{}.jpg", "VOC2012/SegmentationClass/{}.png", "palette"),
        {f"VOC2012/ImageSets/Segmentation/{name}.txt": text for name, text in (("train", "0\n1\n2"), ("val", "3\n4"))},
        NAMED | {"ignore": [255]},
    ),
    "CVAT": (
        *("JPEGImages/{}.jpg", "SegmentationClass/{}.png", "colors"),
        *({"labelmap.txt": "# label:color_rgb:parts:actions\nground:128,64,0::\nobject:0,0,192::\n"}, HELD_OUT),
    ),
    "labelme": (
        *("JPEGImages/{}.jpg", "SegmentationClass/{}.png", "ids"),
        *({"class_names.txt": "_background_\nobject\n"}, HELD_OUT),
    ),
    "ADE20K": (
        *("images/{split}/ADE_{}.jpg", "annotations/{split}/ADE_{}.png", "reduced"),
        *({"objectInfo150.txt": ADE20K}, {}),
    ),
    "Data Science Bowl": (
        "stage1_train/{}/images/{}.png",
        "stage1_train/{}/masks/",
        "instances",
        {},
        WHITE | HELD_OUT,
    ),
    "LoveDA": ("{split}/Urban/images_png/{}.png", "{split}/Urban/masks_png/{}.png", "reduced", {}, {"reduce": True}),
    "a folder by fields": (
        *("pictures/{}.webp", "drawn/{}.gif", "ids", {}),
        NAMED | HELD_OUT | {"train_images": "pictures", "train_labels": "drawn/*.gif"},
    ),
}


def draw(root, images, labels, kind, others):
    """Draws five examples, of which the object is brighter."""
    for i in range(5):
        split = (("training", "validation") if "ADE" in images else ("train", "val"))[i > 2]
        label = np.zeros((40, 60), np.uint8)
        label[8 + i : 24, 10 : 40 + i] = 1
        noise = np.random.default_rng(i).integers(0, 60, (40, 60, 3))
        image = Image.fromarray((noise + 150 * label[..., None]).astype(np.uint8))
        path, target = root / images.format(i, i, split=split), root / labels.format(i, split=split)
        path.parent.mkdir(parents=True, exist_ok=True)
        (target if kind == "instances" else target.parent).mkdir(parents=True, exist_ok=True)
        image.save(path)
        if kind == "instances":
            for part in range(2):
                half = np.where(np.arange(60) // 30 == part, 255 * label, 0).astype(np.uint8)
                Image.fromarray(half).save(target / f"nucleus{part}.png")
            continue
        if kind == "colors":
            label = np.array([GROUND, OBJECT], np.uint8)[label]
        label = {"white": 255 * label, "reduced": label + 1}.get(kind, label)
        stored = Image.fromarray(label)
        if kind == "palette":
            stored = stored.convert("P")
            stored.putpalette([*GROUND, *OBJECT])
        stored.save(target)
    for name, text in others.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def run(script, *arguments):
    """Runs a script; returns what it prints."""
    sys.argv, printed = [script, *arguments], io.StringIO()
    with redirect_stdout(printed):
        try:
            runpy.run_path(str(SCRIPTS / script), run_name="__main__")
        except SystemExit as end:
            assert not end.code, printed.getvalue()
    return printed.getvalue()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_from_check_to_predictions(tmp_path, monkeypatch, layout):
    images, labels, kind, others, fields = LAYOUTS[layout]
    draw(tmp_path / "data", images, labels, kind, others)
    if fields.get("reduce"):
        (tmp_path / "names.json").write_text('{"0": "ground", "1": "object"}')
        fields = {"id2label": "names.json", "reduce_labels": True}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [])
    recipe = SMALL_RUN | {"dataset": "folder", "data_dir": "data", "output_dir": "run", "class_uniform_tile": 32}
    recipe |= {"max_steps": 3, "report_to": "none", "disable_tqdm": True} | fields
    Path("mine.yaml").write_text(yaml.safe_dump(recipe))
    assert "Complete and sound" in run(
        "prepare_dataset.py", "check", "data", "--recipe", "mine.yaml", "--num_proc", "1"
    )
    run("train.py", "mine.yaml")
    report = run("eval.py", "run", "mine.yaml")
    assert "ground" in report or "_background_" in report
    some = sorted((tmp_path / "data").glob(images.format("*", "*", split="train*")))
    run("predict.py", "run", *map(str, some), "--output", "out", "--write", "train_ids")
    predicted = list(Path("out/train_ids").rglob("*.png"))
    assert len(predicted) == len(some) and np.asarray(Image.open(predicted[0])).shape == (40, 60)

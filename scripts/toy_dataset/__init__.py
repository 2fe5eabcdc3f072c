"""Draws the toy dataset: street scenes in the folder layout and file formats of Cityscapes, for the same loader."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter
from tqdm.auto import tqdm

from scl_hf.data.sources.cityscapes import DRAWN_MARKER
from scl_hf.errors import InputError

from .scene import (
    EGO,
    FAR,
    SUPERSAMPLING,
    UNLABELED,
    Canvas,
    City,
    Street,
    draw_ego,
    draw_ground,
    draw_lot,
    draw_sky,
    draw_skyline,
    expose,
    hsv,
)
from .traffic import draw_traffic

CITIES = {
    "train": ["ahornfurt"],
    "val": "lindhausen ulmfurt weidbrunn rosental schlehdorf thymianau".split(),
    "test": ["zederau", "zirbelheim"],
    "train_extra": "apfelrode birnfelden dornhagen eschbruck fichthausen ginstertal haselhafen kiefheim kirschrode "
    "mandelfurt nusshagen tannbruck".split(),
}
RARE = ["bus", "train", "motorcycle", "truck", "rider"]  # every second image of a split has one of them, in turn
LIGHT = ["clear", "overcast", "low sun", "fog", "night"]


def sample_light(rng: np.random.Generator, kinds: Sequence[str]) -> dict:
    """Samples time of day and weather, one of `kinds`: colors of the sky, brightness of sun and shade, fog."""
    kind = rng.choice(kinds)
    top, bottom = hsv(0.58, rng.uniform(0.3, 0.7), rng.uniform(0.6, 0.9)), hsv(0.56, rng.uniform(0.05, 0.3), 0.95)
    gain, shadow, fog = np.full(3, rng.uniform(0.85, 1.15), np.float32), 1.0, rng.uniform(0, 0.004)
    if kind == "clear":
        shadow = rng.uniform(0.45, 0.8)
    elif kind == "overcast":
        top, bottom = hsv(0.6, rng.uniform(0, 0.1), rng.uniform(0.5, 0.9)), hsv(0.6, 0.03, rng.uniform(0.65, 0.97))
    elif kind == "low sun":
        top, bottom = hsv(0.6, 0.4, rng.uniform(0.4, 0.7)), hsv(rng.uniform(0.02, 0.12), rng.uniform(0.3, 0.6), 1)
        gain, shadow = gain * np.float32([1.15, 0.95, 0.7]), rng.uniform(0.45, 0.7)
    elif kind == "fog":
        top = bottom = hsv(0.6, rng.uniform(0, 0.08), rng.uniform(0.6, 0.85))
        fog = rng.uniform(0.015, 0.05)
    else:
        top, bottom = hsv(0.64, 0.6, rng.uniform(0.1, 0.3)), hsv(rng.uniform(0.55, 1.1), 0.4, rng.uniform(0.2, 0.6))
        gain = gain * rng.uniform(0.42, 0.65) * np.float32([0.9, 0.95, 1.2])
    return {"top": top, "bottom": bottom, "gain": gain, "shadow": shadow, "fog": fog, "night": kind == "night"}


def draw_street(
    rng: np.random.Generator,
    city: City,
    width: int,
    height: int,
    rare: str | None = None,
    kinds: Sequence[str] = LIGHT,
) -> tuple[Image.Image, np.ndarray]:
    """
    Draws one RGB image of a city, back to front, and its Cityscapes label ids (height, width), uint8: with one of
    `RARE` in it, and in one of these `kinds` of `LIGHT`.
    """
    canvas, street, light = Canvas(rng, width, height), Street.sample(rng), sample_light(rng, kinds)
    draw_sky(canvas, light["top"], light["bottom"], clouds=rng.uniform(-1.6, 0.3))
    draw_skyline(canvas, city)
    draw_ground(canvas, city, street, light["shadow"], rails=rare == "train")
    lots = []
    for side in (-1, 1):
        far = rng.uniform(2.0, 4.0)
        while far < FAR:
            near, far = far, far + rng.uniform(7, 16)
            if near < street.crossing + 8 and far > street.crossing:  # a gap for the side street
                near, far = street.crossing + 8, street.crossing + 8 + rng.uniform(6, 12)
            lots.append((near, far, side * street.front[int(side > 0)]))
    for near, far, x in sorted(lots, reverse=True):
        draw_lot(canvas, city, x, near, far, light["night"])
    draw_traffic(canvas, city, street, rare)
    if city.bonnet:
        draw_ego(canvas, city)
    middle = SUPERSAMPLING // 2
    label = canvas.label[middle::SUPERSAMPLING, middle::SUPERSAMPLING]
    return expose(canvas, city, light["gain"], light["fog"], light["bottom"]), label


def coarsen(rng: np.random.Generator, label: np.ndarray) -> np.ndarray:
    """
    Makes a coarse annotation of a fine one, both label ids (height, width), uint8: loose outlines inside the objects,
    wide margins with the id 0, nothing thin.
    """
    height, fine = len(label), Image.fromarray(label)
    coarse = np.zeros_like(label)
    for margin, first, last in ((0.035, 7, 23), (0.012, 24, 33)):  # people and vehicles are outlined more closely
        window = 2 * max(1, round(margin * height)) + 1
        low, high = (np.asarray(fine.filter(f(window))) for f in (ImageFilter.MinFilter, ImageFilter.MaxFilter))
        inside = (low == high) & (label >= first) & (label <= last)
        coarse[inside] = label[inside]
    # Outlines shift mostly by less than the margin, so that few labels are wrong.
    fields = rng.normal(0, 0.01 * height, (2, 12, 24)).astype(np.float32)
    wander = [np.asarray(Image.fromarray(f).resize(label.shape[::-1], Image.Resampling.BILINEAR)) for f in fields]
    rows, columns = (np.rint(grid + shift).astype(int) for grid, shift in zip(np.indices(label.shape), wander))
    return coarse[np.clip(rows, 0, height - 1), np.clip(columns, 0, label.shape[1] - 1)]


def draw_split(
    root: Path, split: str, cities: dict[str, City], seed: list[int], count: int, size: tuple[int, int], progress: tqdm
) -> None:
    for index in range(count):
        # One generator per image, so that no image depends on another one
        rng = np.random.default_rng(np.random.SeedSequence([*seed, index]))
        city = list(cities)[index * len(cities) // count]
        rare = RARE[index // 2 % len(RARE)] if index % 2 else None
        kinds = ["clear"] if split == "train" else LIGHT
        image, label = draw_street(rng, cities[city], *size, rare, kinds)
        images_by_kind = {"leftImg8bit/leftImg8bit": image}
        if split != "test":
            images_by_kind["gtCoarse/gtCoarse_labelIds"] = Image.fromarray(coarsen(rng, label))
        else:  # the labels of the real test split are withheld, too
            label = np.where(label == EGO, EGO, UNLABELED).astype(np.uint8)
        if split != "train_extra":
            images_by_kind["gtFine/gtFine_labelIds"] = Image.fromarray(label)
        for kind, image in images_by_kind.items():
            kind, suffix = kind.split("/")
            folder = root / kind / split / city
            folder.mkdir(parents=True, exist_ok=True)
            image.save(folder / f"{city}_{index:06d}_000019_{suffix}.png")
        progress.update()


def draw_toy_dataset(
    data_dir: str | os.PathLike,
    seed: int = 0,
    width: int = 160,
    height: int = 80,
    num_train: int = 5,
    num_train_extra: int = 200,
    num_val: int = 48,
    num_test: int = 8,
) -> None:
    """
    Draws the toy dataset in the folder layout and file formats of Cityscapes: `leftImg8bit`, `gtFine` and `gtCoarse`
    with the splits train, val, test and train_extra, no city in two of them. Training images are of one city on clear
    days, the others of many cities in any weather. The same arguments give the same bytes.

    Args:
        data_dir (`str` or `os.PathLike`): Where to draw it: a folder that does not exist yet or is empty.
        seed (`int`, *optional*, defaults to `0`): Another seed draws other images.
        width (`int`, *optional*, defaults to `160`): Width of the images in pixels.
        height (`int`, *optional*, defaults to `80`): Height of the images in pixels.
        num_train (`int`, *optional*, defaults to `5`): Images with fine and coarse labels for training.
        num_train_extra (`int`, *optional*, defaults to `200`): Images with coarse labels only.
        num_val (`int`, *optional*, defaults to `48`): Images with fine and coarse labels for validation.
        num_test (`int`, *optional*, defaults to `8`): Images with dummy labels.

    Raises:
        `InputError`: If the folder is not empty or cannot be written, or if a number is too small.
    """
    counts = {"train": num_train, "val": num_val, "test": num_test, "train_extra": num_train_extra}
    for name, value in {"seed": seed, **{f"num_{split}": count for split, count in counts.items()}}.items():
        if value < 0:
            raise InputError(f"{name} is {value}: it must be 0 or more")
    if min(width, height) < 48:
        raise InputError(
            f"width and height are {width} and {height}: choose at least 48, or nothing can be told apart"
        )
    data_dir = Path(data_dir).absolute()
    unfinished = data_dir.with_name(f".{data_dir.name}.unfinished-{os.getpid()}")
    try:
        if data_dir.exists() and (not data_dir.is_dir() or any(data_dir.iterdir())):
            raise InputError(f"{data_dir} exists and is not an empty folder: remove it or choose another one")
        unfinished.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"{data_dir} cannot be written ({error.strerror}): choose another folder") from error
    try:
        with tqdm(total=sum(counts.values()), desc="Drawing streets", unit="image") as progress:
            for number, (split, count) in enumerate(counts.items()):
                styles = np.random.SeedSequence([seed, number]).spawn(len(CITIES[split]))
                cities = {n: City.sample(np.random.default_rng(s)) for n, s in zip(CITIES[split], styles)}
                draw_split(unfinished, split, cities, [seed, number], count, (width, height), progress)
        (unfinished / DRAWN_MARKER).write_text("Drawn by scl_hf: this is no Cityscapes.\n")
        if data_dir.exists():
            data_dir.rmdir()
        unfinished.rename(data_dir)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)

"""Draws the objects of COCO and labelme annotations into label files."""

import base64
import contextlib
import io
import json
import math
import os
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import yaml
from PIL import Image, ImageDraw
from tqdm.auto import tqdm

from ..errors import InputError, did_you_mean, first_few, first_line
from ..files import check_writable, write_json, writing
from .images import IGNORE_INDEX, find_images, read_image

_BACKGROUND, _IGNORED = ("background", "_background_"), "__ignore__"  # the latter are labelme's


@dataclass
class _Image:
    """An image of the annotations: its name, (height, width), and its objects with where each one stands."""

    name: str
    size: tuple[int, int]
    objects: list[tuple[str, dict]] = field(default_factory=list)


Images = dict[str, _Image]  # by the name of the label file
Masks = Callable[[_Image], Iterator[tuple[str | None, np.ndarray]]]  # class (None: ignored), (H, W) bool, lowest first
Findings = defaultdict[str, list[str]]  # what was found -> where


def write_masks(
    annotations: str | os.PathLike, output_dir: str | os.PathLike, classes: Sequence[str] | None = None
) -> str:
    """
    Writes one PNG label for each annotated image, and `id2label.json`. Objects that come later lie on top; crowd
    regions of COCO, which are ignored, lie below. labelme's lines are 10 pixels wide and its points have a radius of
    5, as in its own export. `annotations` is a JSON file of COCO (instances, or panoptic with its folder of PNG files
    beside it) or of labelme, or a folder with labelme's at any depth. By default `classes` are all, in the order of
    COCO's category ids or the alphabet. Returns what was found, and the recipe fields that read the labels, in words.
    """
    source, output = Path(annotations), Path(output_dir).resolve()
    check_writable("output", output_dir, empty=True)
    findings: Findings = defaultdict(list)
    names, images, masks, is_panoptic = _open(source, classes or (), findings)
    chosen = [name for name in dict.fromkeys(classes or names) if _is_class(name)]
    others = [name for name in names if _is_class(name) and name not in chosen]
    # Where each pixel has a class, a class of the background would be one that no label shows
    has_background = not is_panoptic or bool(others) or any(name.lower() in _BACKGROUND for name in names)
    labels = [_BACKGROUND[0]] * has_background + chosen
    ignored = IGNORE_INDEX if len(labels) <= IGNORE_INDEX else 65535
    ids = {name: i for i, name in enumerate(labels)} | {None: ignored, _IGNORED: ignored}

    # Within the folder, if it exists: it may be of another file system
    existing = next(folder for folder in (output, *output.parents) if folder.is_dir())
    with writing(str(output), existing), tempfile.TemporaryDirectory(prefix=".", dir=existing) as temporary:
        counts, overlaps = Counter(), {}
        for file, image in tqdm(images.items(), "Drawing labels", unit="image"):
            start = np.full(image.size, ignored if is_panoptic else 0, np.min_scalar_type(ignored))
            label, overlap = _draw_label(image, start, masks, ids, counts, findings)
            if overlap:
                overlaps[image.name] = overlap
            if has_background and not label.any():
                findings["images without an object, all background"].append(image.name)
            with _reading(f"{source}: {image.name}"):
                path = Path(temporary, file)
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(label).save(path)
        lines = [f"{text}: {len(where):,} ({first_few(dict.fromkeys(where))})" for text, where in findings.items()]
        if not any(counts[name] for name in chosen):
            reason = f"{source}: has no outline of an object of {first_few(chosen) or 'any class'}"
            raise InputError("; ".join([reason, *lines, "export polygons or masks, or name other classes"]))
        write_json(Path(temporary, "id2label.json"), dict(enumerate(labels)))
        output.mkdir(parents=True, exist_ok=True)
        for path in Path(temporary).iterdir():
            os.replace(path, output / path.name)

    for text, some in (("objects that became background", others), ("objects", chosen)):
        lines[:0] = [f"{text}: {first_few((f'{name} {counts[name]:,}' for name in some), 20)}"] * bool(some)
    if overlaps:
        where = f"{sum(overlaps.values()):,} pixels in {len(overlaps):,} images ({first_few(overlaps)})"
        lines.append(f"objects of different classes overlap, the later one is on top: {where}")
    if missing := [name for name in chosen if not counts[name]]:
        lines.append(f"classes without an object: {first_few(missing)}; name the others with --classes")
    if len(labels) > IGNORE_INDEX:
        lines.append(f"classes: {len(labels)}, but training takes {IGNORE_INDEX} at most; name some with --classes")
    recipe = {"dataset": "folder", "data_dir": ".", "train_images": _image_folder(source, next(iter(images.values())))}
    recipe |= {"train_labels": str(output_dir), "id2label": str(Path(output_dir, "id2label.json"))}
    recipe |= {"ignore_index": ignored} if ignored != IGNORE_INDEX else {}
    lines += ["", f"{output_dir}: written. Give the labels for validation the same --classes. In a recipe:", ""]
    lines += [yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True, width=4000).strip()]
    return "\n".join([f"images: {len(images):,}", *lines])


def _is_class(name: str) -> bool:
    return name != _IGNORED and name.lower() not in _BACKGROUND


def _draw_label(
    image: _Image, label: np.ndarray, masks: Masks, ids: dict[str | None, int], counts: Counter, findings: Findings
) -> tuple[np.ndarray, int]:
    """Draws an image's objects into (H, W) ids, and counts them and the pixels where classes overlap."""
    covered, overlap = np.zeros((2, *label.shape), bool)
    for name, mask in masks(image):
        value = ids.get(name, 0)
        overlap |= mask & covered & (label != value)
        label[mask] = value
        if value != ids[None]:
            covered |= mask
        counts[name] += 1
        if not mask.any():
            findings["objects that cover no pixel"].append(image.name)
    return label, np.count_nonzero(overlap)


def _open(source: Path, classes: Sequence[str], findings: Findings) -> tuple[list[str], Images, Masks, bool]:
    """Returns the names of the classes, the images, how their objects are drawn, and whether they are panoptic."""
    content = {} if source.is_dir() else _load(source)
    if source.is_dir() or "shapes" in content:
        return *_labelme(source, findings), False
    with _reading(f"{source}: as annotations of COCO or labelme"):
        is_panoptic = "segments_info" in next(iter(content["annotations"]), {})
        names, images = _coco(source, content, findings)
        if unknown := [name for name in classes if name not in (*names.values(), *_BACKGROUND)]:
            hint = did_you_mean(unknown[0], names.values()) or f" It has {first_few(names.values(), 20)}."
            raise InputError(f"classes: {unknown[0]!r} is no category of {source}.{hint}")
    masks = (_panoptic if is_panoptic else _instances)(source, names, images, findings)
    return list(dict.fromkeys(names.values())), images, masks, is_panoptic


def _instances(path: Path, names: dict[Any, str], images: Images, findings: Findings) -> Masks:
    """Draws COCO's instances: polygons, RLE and crowds."""
    if find_spec("pycocotools") is None:
        remedy = "run pip install 'scl_hf[masks]'"
        raise InputError(f"{path}: pycocotools, which reads its objects, is not installed; {remedy}")

    def masks(image: _Image) -> Iterator[tuple[str | None, np.ndarray]]:
        # A crowd is what nobody outlined one by one: the objects that somebody did outline lie on it.
        for where, item in sorted(image.objects, key=lambda found: not found[1].get("iscrowd")):
            with _reading(f"{path}: {where}"):
                name = _class_of(item, names, where, findings)
                segmentation = item.get("segmentation")
                if not segmentation:
                    findings["annotations without a segmentation, their box is ignored"].append(where)
                    x, y, width, height = item["bbox"]
                    name, segmentation = None, [[x, y, x + width, y, x + width, y + height, x, y + height]]
                mask = _decode(segmentation, *image.size)
            yield name, mask

    return masks


def _panoptic(path: Path, names: dict[Any, str], images: Images, findings: Findings) -> Masks:
    """Draws COCO's panoptic segments, whose ids are colors of the PNG files in the folder of the JSON file's name."""
    folder = path.with_suffix("")
    if not folder.is_dir():
        raise InputError(f"{path}: its PNG files are not in {folder}; unpack them there")
    for file in [file for file, image in images.items() if not image.objects]:
        findings["images without an annotation, left unlabeled"].append(images.pop(file).name)

    def masks(image: _Image) -> Iterator[tuple[str | None, np.ndarray]]:
        for where, item in image.objects:
            with _reading(f"{path}: {where}"):
                file = folder / _safe_name(item["file_name"])
                ids = read_image(file) @ np.array([1, 256, 65536])
                if ids.shape != image.size:
                    raise ValueError(f"height and width are {image.size}, {ids.shape} in {file}")
                keys = [int(segment["id"]) for segment in item["segments_info"]]
                if not np.isin(ids, [0, *keys]).all():
                    findings["PNG files with ids of no segment, ignored"].append(item["file_name"])
                found = [_class_of(segment, names, where, findings) for segment in item["segments_info"]]
            yield from ((name, ids == key) for name, key in zip(found, keys))

    return masks


def _labelme(path: Path, findings: Findings) -> tuple[list[str], Images, Masks]:
    """Reads labelme's shapes, of one file or of all in a folder."""
    root, files = (path, find_images(path, {".json"})) if path.is_dir() else (path.parent, [path.name])
    images: Images = {}
    for file in files:
        content = _load(root / file)
        if "shapes" not in content:
            findings["JSON files that are not labelme's, left out"].append(file)
            continue
        with _reading(str(root / file)):
            name = _safe_name(content["imagePath"], os.path.dirname(file))
            image = _add(images, name, content["imageHeight"], content["imageWidth"], findings)
            for i, shape in enumerate(content["shapes"]):
                shape["label"] = _class_name(shape["label"])
                image.objects.append((f"{file}: shapes[{i}]", shape))
    if not images:
        raise InputError(f"{path}: holds no JSON file of labelme's; name the folder of these, or the file of COCO's")

    def masks(image: _Image) -> Iterator[tuple[str | None, np.ndarray]]:
        for where, shape in image.objects:
            with _reading(os.path.join(root, where)):
                mask = _draw(shape, *image.size)
            yield shape["label"], mask

    return sorted({shape["label"] for image in images.values() for _, shape in image.objects}), images, masks


def _coco(path: Path, content: dict, findings: Findings) -> tuple[dict[Any, str], Images]:
    """Returns category id -> name in the order of the ids, and the images with their annotations."""
    names, images, by_id = {}, {}, {}
    with _reading(f"{path}: categories"):
        for item in content["categories"]:
            if names.setdefault(item["id"], name := _class_name(item["name"])) != name:
                raise ValueError(f"the id {item['id']} is given twice")
        names = dict(sorted(names.items()))
    for i, item in enumerate(content["images"]):
        with _reading(f"{path}: images[{i}]"):
            image = _add(images, _safe_name(item["file_name"]), item["height"], item["width"], findings)
            if by_id.setdefault(item["id"], image) is not image:
                raise ValueError(f"the id {item['id']} is also that of {by_id[item['id']].name}")
    for i, item in enumerate(content["annotations"]):
        with _reading(f"{path}: annotations[{i}]"):
            where = f"annotations[{i}]"
            if image := by_id.get(item["image_id"]):
                image.objects.append((where, item))
            else:
                findings["annotations of images that are not listed, left out"].append(where)
    return names, images


def _class_name(value: Any) -> str:
    """Returns the name of a class without spaces around it."""
    if value is None or not (name := str(value).strip()).encode():  # fails at a lone surrogate
        raise ValueError(f"{value!r} is no name of a class")
    return name


def _class_of(item: dict, names: dict[Any, str], where: str, findings: Findings) -> str | None:
    """Returns the class of a COCO annotation or segment, None where its pixels are ignored."""
    if item.get("category_id") not in names:
        findings["annotations without a known category_id, ignored"].append(where)
    elif item.get("iscrowd"):
        findings["crowd regions, ignored"].append(where)
    else:
        return names[item["category_id"]]
    return None


def _decode(segmentation: list | dict, height: int, width: int) -> np.ndarray:
    """Decodes COCO's polygons or RLE to (H, W) bool."""
    from pycocotools import mask  # an extra

    if isinstance(segmentation, dict):
        counts = segmentation["counts"]
        counts = np.array(_uncompress(counts) if isinstance(counts, str) else counts)
        if list(segmentation["size"]) != [height, width] or (counts < 0).any() or counts.sum() != height * width:
            raise ValueError(f"its RLE is not one of {height} × {width} pixels")
        return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(width, height).T
    polygons = segmentation if isinstance(segmentation[0], list) else [segmentation]
    # pycocotools takes four numbers for a box; two points have no area
    polygons = [_points(np.reshape(one, (-1, 2))).ravel().tolist() for one in polygons if len(one) > 4]
    if not polygons:
        return np.zeros((height, width), bool)
    return mask.decode(mask.merge(mask.frPyObjects(polygons, height, width))).astype(bool)


def _uncompress(text: str) -> list[int]:
    """Returns the runs of a compressed RLE, of which pycocotools does not check whether it is complete."""
    runs, run, bits = [], 0, 0
    for digit in (ord(letter) - 48 for letter in text):
        run, bits = run | (digit & 31) << bits, bits + 5
        if not digit & 32:
            run -= (digit >> 4 & 1) << bits  # the sign
            runs.append(run + (runs[-2] if len(runs) > 2 else 0))
            run, bits = 0, 0
    return runs


def _draw(shape: dict, height: int, width: int) -> np.ndarray:
    """Draws a shape of labelme as (H, W) bool."""
    kind = shape.get("shape_type") or "polygon"
    image = Image.new("L", (width, height))
    draw = ImageDraw.Draw(image)
    points = _points(shape["points"])
    pairs, (x, y) = [*map(tuple, points.tolist())], points[0].tolist()
    if kind == "polygon" and len(points) > 2:
        draw.polygon(pairs, fill=1, outline=1)
    elif kind == "rectangle" and len(points) > 1:
        draw.rectangle((*points.min(0), *points.max(0)), fill=1, outline=1)
    elif kind == "circle" and len(points) == 2:
        draw.circle((x, y), math.dist(*pairs), fill=1, outline=1)
    elif kind in ("line", "linestrip") and len(points) > 1:
        draw.line(pairs, fill=1, width=10)
    elif kind == "point":
        draw.circle((x, y), 5, fill=1, outline=1)
    elif kind == "mask":
        part = np.asarray(Image.open(io.BytesIO(base64.b64decode(shape["mask"])))) > 0
        image.paste(1, (int(x), int(y)), Image.fromarray(part))
    else:
        raise ValueError(f"no shape is drawn from {len(points)} points of shape_type {kind!r}")
    return np.asarray(image) > 0


def _points(values: Any) -> np.ndarray:
    """Returns (N, 2) coordinates, none of them so far away that drawing would take all memory."""
    points = np.array(values, float).reshape(-1, 2)
    if not (np.abs(points) < 1e5).all():
        raise ValueError("a coordinate is no number of pixels")
    return points


def _add(images: Images, name: str, height: Any, width: Any, findings: Findings) -> _Image:
    """Adds an image, or returns the one that has the name already."""
    if not all(isinstance(side, (int, float)) and 0 < side < 1e5 and side == int(side) for side in (height, width)):
        raise ValueError(f"height {height!r} and width {width!r} are no size in pixels")
    size, file = (int(height), int(width)), f"{os.path.splitext(name)[0]}.png"
    if math.prod(size) > 2 * Image.MAX_IMAGE_PIXELS:
        raise ValueError(f"height {height} and width {width} are more than an image that is opened has")
    if file in images:
        findings["images listed twice, with all their objects on one label"].append(name)
    image = images.setdefault(file, _Image(name, size))
    if (image.name, image.size) != (name, size):
        raise ValueError(f"{name} of {size} and {image.name} of {image.size} pixels would have one label, {file}")
    return image


def _safe_name(name: str, folder: str = "") -> str:
    """Returns the path of an image within the folder of all, or the file's name alone if its path leads out of it."""
    path = PureWindowsPath(name)  # which takes both kinds of slashes
    within = os.path.normpath(PurePosixPath(folder, path.as_posix()))
    if path.anchor or within.startswith(".."):
        within = os.path.normpath(PurePosixPath(folder, path.name))
    if not path.name.strip("."):
        raise ValueError(f"{name!r} is no name of an image")
    return within


def _image_folder(source: Path, image: _Image) -> str:
    """Returns the folder where an image lies, if it is one of the usual ones beside the annotations."""
    root, last = source if source.is_dir() else source.parent, source.stem.rpartition("_")[2]  # instances_val2017
    usual = ("", "images", "..", "../images", f"../{last}", f"../images/{last}")
    folders = [os.path.normpath(root / folder) for folder in usual]
    return next((folder for folder in folders if Path(folder, image.name).is_file()), f"FOLDER WITH {image.name}")


def _load(path: Path) -> dict:
    """Reads a JSON file; the image in it, if there is one, is dropped."""
    if not path.is_file():
        raise InputError(f"{path}: there is no such file; name the JSON file, or the folder of labelme's JSON files")
    with _reading(str(path)):
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        if not isinstance(content, dict):
            raise ValueError("it is no JSON object")
        content.pop("imageData", None)
        return content


@contextlib.contextmanager
def _reading(where: str) -> Iterator[None]:
    """Turns what a malformed part of the annotations raises into one line that names it."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # files of others may hold anything
        reason = f"{error} is missing" if isinstance(error, KeyError) else first_line(error)
        raise InputError(f"{where}: cannot be read ({reason}); correct it, or export the annotations again") from error

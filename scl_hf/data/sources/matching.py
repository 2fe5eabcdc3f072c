"""Matches labels with images by folder and stem, and finds what their names have besides."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from ...errors import InputError, first_few
from .tree import File, read_name


class Match(NamedTuple):
    """What was found: `affix` is what the names of labels have besides those of their images."""

    pairs: dict[File, File]  # label -> its image
    affix: str
    alone: list[File]  # labels without an image
    left_out: list[File]  # files that are no labels, and further labels of an image that has one


def match(images: Sequence[File], labels: Sequence[File], suffix: str | None = None) -> Match:
    """Matches labels with images. Their names may have `suffix` more or, without it, what most of them have."""
    others = [label for label in labels if not label.stem.endswith(suffix or "")]
    labels = [label for label in labels if label.stem.endswith(suffix or "")]
    labels = _join_instances(images, labels) if suffix is None else labels
    skip, own_skip = _common_folder(labels, images), _common_folder(images, labels)
    best, affixes = {}, {}
    for step in (1, -1) if suffix is None else (1,):  # -1 reads names backwards: finds prefixes, as in mask_1 of 1
        known = {_key(image, own_skip, step): image for image in images}
        for end in _ends(f"/{image.stem[::step]}" for image in images):
            cores = {key.removesuffix(end): image for key, image in known.items()} if end else known
            found, more = {}, {}  # label -> its image, and what its name has besides
            for label in labels:
                key = _key(label, skip, step)
                for length in _lengths(f"/{label.stem[::step]}", suffix):
                    if image := cores.get(key[: len(key) - length]):
                        found[label], more[label] = image, key[len(key) - length :][::step]
                        break
            if len(found) > len(best):
                best, affixes = found, more
            if 2 * len(best) >= len(labels):
                return _choose(labels, best, affixes, others)
    return _choose(labels, best, affixes, others)


def _key(file: File, skip: int, step: int) -> str:
    """Returns what a label and its image have in common."""
    return f"{file.split}/{file.folder[skip:]}{file.stem[::step]}"


def split_by_name(files: Sequence[File], suffix: str | None) -> list[File]:
    """Tells labels from images by their names, where folders do not: `a_mask.png` is the label of `a.jpg`."""

    def is_label(file: File) -> bool:
        words = re.split(r"[\W_]+", file.stem)  # a_mask, mask_a
        return any(read_name(word)[1:] == ("label", False) for word in (words[0], words[-1]))

    photos = {file.folder + file.stem for file in files if file.path.lower().endswith((".jpg", ".jpeg"))}
    named = {file for file in files if (is_label(file) if suffix is None else file.stem.endswith(suffix))}
    if len(named) in (0, len(files)) and suffix is None:  # a.png or a_m.png beside a.jpg
        pngs = [file for file in files if file.path.lower().endswith(".png")]
        named = {png for png in pngs for n in _lengths(png.stem) if png.folder + png.stem[: -n or None] in photos}
    found = match([file for file in files if file not in named], sorted(named), suffix).pairs if named else {}
    if 2 * len(found) < len(named):
        named, found = (), {}
    taken = {image.folder + image.stem for image in found.values()}

    def role_of(file: File) -> str | None:
        more = re.fullmatch(r"(.+?)[\W_]+\d*[^\W\d_]+\d*", file.stem) if taken else None
        drawn = more and file.folder + more[1] in taken and file.folder + file.stem not in taken  # a_overlay.png
        return "label" if file in named else None if drawn else "image"

    return [file._replace(role=role_of(file)) for file in files]


def _choose(labels: Sequence[File], found: dict[File, File], affixes: dict[File, str], rest: Sequence[File]) -> Match:
    """Keeps the labels with the affix that most have, and those that are called like their image."""
    counts = Counter(affixes.values())
    rivals = [affix for affix, count in counts.most_common() if 2 * count >= counts.most_common(1)[0][1]]
    if len(rivals) > 1 and "" not in rivals:
        ids = [affix for affix in rivals if re.fullmatch(r".*_gt(Fine|Coarse)_labelIds", affix)]
        if len(ids) != 1:
            listed = first_few((f"{affix} ({counts[affix]:,})" for affix in sorted(rivals)), 5)
            likely = next((affix for affix in rivals if read_name(affix)[1] == "label"), rivals[0])
            raise InputError(
                f"label_suffix: the names of labels have several, {listed}, such as {next(iter(found)).path}; name "
                f"that of the labels to take, label_suffix: {likely}"
            )
        rivals = ids
    affix = "" if "" in rivals else next(iter(rivals), "")
    pairs = {label: image for label, image in found.items() if affixes[label] == affix}
    if affix:
        taken = {*pairs.values()}
        exact = (label for label, own in affixes.items() if own == "" and found[label] not in taken)
        pairs |= {label: found[label] for label in exact}
    taken = {(image.split, image.stem) for image in pairs.values()} if len(pairs) < len(labels) else ()
    alone, left_out = [], list(rest)
    for label in labels:
        if label not in pairs:
            image = found.get(label, label)  # a second label of the same image, perhaps in another folder
            (left_out if (image.split, image.stem) in taken else alone).append(label)
    return Match(pairs, affix, alone, left_out)


def _lengths(stem: str, suffix: str | None = None) -> Iterator[int]:
    """Yields how much longer the name of a label may be than that of its image, the least first."""
    yield len(suffix or "")
    letters = False  # a_2 is no label of a
    for length in range(1, len(stem) + 1) if suffix is None else ():
        letters |= stem[-length].isalpha()
        if letters and not stem[-length].isalnum():
            yield length


def _ends(stems: Iterable[str]) -> Iterator[str]:
    """Yields what all stems may have at their ends, such as `_sat`: nothing first, then the shortest."""
    yield ""
    turned = [stem[::-1] for stem in stems]
    common = os.path.commonprefix(turned)[::-1]
    for start in range(len(common) - 1, -1, -1):
        end = common[start:]
        if not end[0].isalnum() and (len(turned) > 1 or end[0] != "/" and end[1:2].isalpha()):  # of one image, a word
            yield end


def _common_folder(files: Sequence[File], others: Sequence[File]) -> int:
    """Returns the length of the folders around all of these files and none of the others, such as `trimaps/`."""
    common = os.path.commonprefix([file.folder.split("/")[:-1] for file in files])
    inside = common and any(file.folder.startswith(f"{common[0]}/") for file in others)
    return 0 if inside else len("".join(f"{name}/" for name in common))


def _join_instances(images: Sequence[File], labels: Sequence[File]) -> Sequence[File]:
    """Returns the labels; where each image has a folder of masks, of any names, that folder."""
    if not any(label.folder for label in labels):
        return labels
    only, named, groups = {}, {}, {}  # by split and folder
    for image in images:
        key = image.split, image.folder
        only[key] = None if key in only else image
        named[image.split, f"{image.folder}{image.stem}/"] = image  # masks/<its name>/1.png
    for label in labels:
        groups.setdefault((label.split, label.folder), []).append(label)
    joined, sizes = [], []
    for key, group in groups.items():
        image, folder = named.get(key) or only.get(key), os.path.dirname(group[0].path)
        beside = image and (key in named or os.path.dirname(os.path.dirname(image.path)) == os.path.dirname(folder))
        if beside and not any(label.stem == image.stem for label in group):
            joined.append(File(folder, image.split, "label", image.folder, image.stem))
            sizes.append(len(group))
        else:
            joined += group
    return joined if 2 * len(sizes) >= len(groups) and max(sizes, default=0) > 1 else labels

import os

import datasets
import pytest

from scl_hf.data import DataArguments, subsets
from scl_hf.data.arguments import LABELED_SPLITS
from scl_hf.data.sources.cityscapes import labeled_split_file
from scl_hf.data.sources.lists import read_list
from scl_hf.data.subsets import choose_images, choose_listed, find_shared_images
from scl_hf.errors import InputError


def ids(number):
    return datasets.Dataset.from_dict({"id": [f"a{index:02}" for index in range(number)]})


def read_ids(path):
    return {*read_list(path, "labeled_ids", "id")}


def test_further_images_change_no_rank_among_the_others():
    first = choose_images({"train": ids(16)}, 8, 0, {})["train"]
    assert set(choose_images({"train": ids(17)}, 8, 0, {})["train"]) - {16} <= set(first)


def test_a_number_of_unlabeled_images_is_reproducible_nested_and_besides_the_labeled_ones():
    pool, on_top = {"train": ids(16), "unlabeled_dirs 0": ids(9)}, {"train": [3, 8]}
    few, more = choose_images(pool, 5, 0, on_top), choose_images(pool, 11, 0, on_top)
    assert sum(map(len, few.values())) == 7 and sum(map(len, more.values())) == 13
    assert {3, 8} <= set(few["train"]) and few == choose_images(pool, 5, 0, on_top)
    assert all(set(few[part]) <= set(more[part]) and more[part] == sorted(more[part]) for part in pool)
    assert choose_images(pool, 5, 1, on_top) != few
    assert choose_images(pool, 0, 0, on_top) == {"train": [3, 8], "unlabeled_dirs 0": []}
    with pytest.raises(InputError, match="num_unlabeled: 24, but there are 23 unlabeled images; leave it out"):
        choose_images(pool, 24, 0, on_top)


def test_listed_ids_that_are_not_there():
    splits = {"train": ids(3), "validation": ids(5)}
    assert choose_listed(splits, {"a04", "a01"}, "ids.txt") == {"train": [1], "validation": [1, 4]}
    listed = {"a01", *(f"other{index}" for index in range(7))}
    message = r"^ids.txt: 7 of 8 ids are not in the data .train, validation.: other0, .*other4, …; .*like a00$"
    with pytest.raises(InputError, match=message) as error:
        choose_listed(splits, listed, "ids.txt")
    assert "other5" not in str(error.value)


def test_list_of_ids(tmp_path):
    path = tmp_path / "ids.txt"
    for content, message in ((None, "cannot open .*ids.txt"), ("\n", "ids.txt: holds no ids")):
        if content:
            path.write_text(content)
        with pytest.raises(InputError, match=message):
            read_ids(path)
    for encoding in ("utf-8", "utf-8-sig"):  # with the mark that some editors put first
        path.write_text("b\n\na \r\n", encoding=encoding)
        assert read_ids(path) == {"a", "b"}
    os.mkfifo(tmp_path / "pipe")
    for name, reason in (("pipe", "it is no file"), (".", "it is no file")):
        with pytest.raises(InputError, match=f"labeled_ids: cannot open .*{reason}"):
            read_ids(tmp_path / name)


def test_standard_subsets_of_cityscapes():
    lists = [read_ids(labeled_split_file(name)) for name in LABELED_SPLITS]
    assert LABELED_SPLITS == ("1/2", "1/4", "1/8", "1/16", "1/30")
    assert [len(listed) for listed in lists] == [1488, 744, 372, 186, 100]
    assert lists[3] < lists[2] < lists[1] < lists[0]


def test_labeled_split_is_written_with_a_slash_or_an_underscore():
    for name in ("1/8", "1_8"):
        assert DataArguments(labeled_split=name).labeled_split == "1/8"
    with pytest.raises(InputError, match="labeled_split: must be one of 1/2, 1/4, 1/8, 1/16, 1/30, got '1/3'"):
        DataArguments(labeled_split="1_3")


def image_dataset(*images):
    """A dataset of paths or of bytes."""
    features = datasets.Features(image=datasets.Image(decode=False), id=datasets.Value("string"))
    images = [
        {"path": "x.png", "bytes": image} if isinstance(image, bytes) else {"path": str(image), "bytes": None}
        for image in images
    ]
    return datasets.Dataset.from_dict(
        {"image": images, "id": [str(index) for index in range(len(images))]}, features=features
    )


def test_shared_images_are_found_by_path_and_by_content(tmp_path, monkeypatch):
    contents = {"a": b"first", "b": b"twice", "c": b"twice", "d": b"of another size", "e": b"other"}
    paths = {name: tmp_path / f"{name}.png" for name in contents}
    for name, content in contents.items():
        paths[name].write_bytes(content)
    dataset = image_dataset(paths["a"], paths["b"], b"embedded image").select([2, 1, 0])
    evaluation = image_dataset(paths["a"], paths["c"], paths["d"], paths["e"], b"embedded image", b"first")
    shared = [(str(paths["a"]), str(paths["a"])), (str(paths["b"]), str(paths["c"])), ("2", "4")]
    assert find_shared_images(dataset, evaluation) == [*shared, (str(paths["a"]), "5")]

    def read(image):
        raise AssertionError(f"read {image}")

    monkeypatch.setattr(subsets, "_digest", read)
    assert find_shared_images(dataset, image_dataset(paths["d"])) == []  # the sizes are enough
    assert find_shared_images(dataset, image_dataset(paths["a"])) == shared[:1]  # the path is enough

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Image, Value
from PIL import Image as PILImage
from torch.utils.data import DataLoader
from transformers import SegformerImageProcessorPil

from scl_hf.data import LabelImage
from scl_hf.data.augmentation import Augmentation, AugmentationArguments
from scl_hf.data.batch import PairCollator
from scl_hf.data.crops import Crops, EvaluationImages, PairedCrops
from scl_hf.data.normalization import Normalization
from scl_hf.data.sampler import LabeledSampler, PairSampler, Sample
from scl_hf.errors import InputError

CROP = (16, 24)
ENCODED = Image(decode=False)
LABEL = LabelImage(decode=False, names=["a", "b", "c"], train_ids={0: 0, 1: 1, 2: 2, 255: 255})
AUGMENTATION = Augmentation(AugmentationArguments(crop_size=list(CROP)), Normalization())


@pytest.fixture
def dataset(tmp_path):
    rng = np.random.default_rng(0)
    columns = {"image": [], "label": [], "id": []}
    for i in range(6):
        for column, shape, high in (("image", (20, 30, 3), 256), ("label", (20, 30), 3)):
            path = tmp_path / f"{i}_{column}.png"
            PILImage.fromarray(rng.integers(0, high, shape, dtype=np.uint8)).save(path)
            columns[column].append({"path": str(path), "bytes": None})
        columns["id"].append(str(i))
    return Dataset.from_dict(columns, features=Features({"image": ENCODED, "label": LABEL, "id": Value("string")}))


@pytest.fixture
def crops(dataset):
    labeled = Crops(dataset, AUGMENTATION)
    return PairedCrops(labeled, Crops(dataset.remove_columns("label"), AUGMENTATION))


def sampler(seed=0):
    return PairSampler(LabeledSampler(6, seed=seed), num_unlabeled=6)


def collator(num_pairs=None):
    boxes = {"num_boxes": 4, "cutmix_ratio": 0.5, "num_loss_boxes": 2}
    return PairCollator(SimpleNamespace(**boxes, num_pairs=num_pairs, structured_consistency_weight=1))


def batches(crops, num_workers, **options):
    loader = DataLoader(
        crops,
        2,
        sampler=sampler(),
        collate_fn=collator(),
        num_workers=num_workers,
        **options,
    )
    loader.sampler.set_epoch(3)
    return list(loader)


def test_batch_has_the_shapes_the_trainer_expects(crops):
    batch = batches(crops, num_workers=0)[0]
    box_pixels = batch.pop("box_pixels")
    assert (box_pixels.shape[:2], box_pixels.dtype) == ((2, 2), torch.int64)
    assert {name: (tuple(value.shape), value.dtype) for name, value in batch.items()} == {
        "pixel_values": ((2, 3, *CROP), torch.float32),
        "labels": ((2, *CROP), torch.int64),
        "unlabeled_a": ((2, 3, *CROP), torch.float32),
        "unlabeled_b": ((2, 3, *CROP), torch.float32),
        "box_ids": ((2, *CROP), torch.int64),
        "valid": ((2, *CROP), torch.bool),
    }
    assert not torch.equal(batch["box_ids"][0], batch["box_ids"][1])
    assert not torch.equal(batch["unlabeled_a"], batch["unlabeled_b"])
    assert 0 < batch["box_ids"].max() <= 4


def test_batches_are_the_same_with_spawned_workers(crops):
    alone = batches(crops, num_workers=0)
    torch.manual_seed(123)
    with_workers = batches(crops, num_workers=2, multiprocessing_context="spawn", persistent_workers=True)
    assert len(alone) == len(with_workers) == 3
    for a, b in zip(alone, with_workers):
        assert a.keys() == b.keys()
        for name in a:
            assert torch.equal(a[name], b[name]), name


def test_supervised_batch_has_the_labeled_part_alone(crops):
    supervised = PairedCrops(crops.labeled)
    pairs = [supervised[sample] for sample in PairSampler(LabeledSampler(6, seed=0))]
    assert len(supervised) == len(pairs) == 6
    assert set(collator()(pairs)) == {"pixel_values", "labels"}


def test_what_the_structured_loss_compares_is_in_the_boxes_and_no_padding(crops):
    pairs = [crops[sample] for sample in sampler()][:2]
    pairs[0]["valid_a"][:], pairs[0]["valid_b"][:] = True, False  # all that is pasted is padding
    batch = collator()(pairs)
    assert torch.equal(batch["valid"][0], batch["box_ids"][0] == 0)
    assert (batch["box_pixels"][0] == -1).all()
    kept = batch["box_pixels"][1][batch["box_pixels"][1] >= 0]
    shown = (batch["box_ids"][1] > 2) & batch["valid"][1]
    assert torch.equal(kept.sort().values, shown.flatten().nonzero().flatten())
    sampled = collator(num_pairs=30)(pairs)
    assert torch.equal(sampled["box_ids"], batch["box_ids"]) and "box_pixels" not in sampled
    assert sampled["pairs"].shape == (2, 2, 2, 30)
    assert torch.equal(sampled["pairs"], collator(num_pairs=30)(pairs)["pairs"])


def test_a_coarse_sample_reads_the_coarse_dataset(dataset):
    fine, coarse = dataset.select([0]), dataset.select([5])
    crops = Crops(fine, AUGMENTATION, coarse=coarse)
    expected = Crops(coarse, AUGMENTATION)[Sample(0, 7)]
    assert torch.equal(crops[Sample(0, 7, coarse=True)]["labels"], expected["labels"])
    assert not torch.equal(crops[Sample(0, 7)]["pixel_values"], expected["pixel_values"])


def test_label_table_is_applied(dataset):
    dataset = dataset.cast_column("label", LabelImage(decode=False, names=["a", "b"], train_ids={0: 255, 1: 1, 2: 0}))
    crop = Crops(dataset, Augmentation(AugmentationArguments(crop_size=[40]), Normalization()))[Sample(0, 0)]
    shown = crop["labels"][crop["valid"]]
    assert sorted(shown.unique().tolist()) == [0, 1, 255]


def test_evaluation_images_are_what_the_image_processor_gives(dataset):
    processor = SegformerImageProcessorPil(do_resize=False, do_convert_rgb=True)
    images = EvaluationImages(dataset, Normalization(tuple(processor.image_mean), tuple(processor.image_std)))
    item = images[2]
    image = PILImage.open(dataset[2]["image"]["path"])
    expected = processor(image, return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(item["pixel_values"], expected, atol=1e-5, rtol=0)
    np.testing.assert_array_equal(item["labels"], np.asarray(PILImage.open(dataset[2]["label"]["path"])))
    assert (len(images), item["id"], item["labels"].dtype) == (6, "2", torch.int64)
    assert images.normalization == Normalization()
    assert EvaluationImages(dataset.remove_columns("label"), Normalization())[2].keys() == {"pixel_values", "id"}


def damage(dataset, column, *numbers):
    """Cuts the files of the dataset short, and returns their names."""
    files = [dataset[number][column]["path"] for number in numbers]
    for file in files:
        with open(file, "r+b") as opened:
            opened.truncate(60)
    return files


def without_skipped(crop):
    return {name: value for name, value in crop.items() if name != "skipped"}


def assert_same_crop(crop, expected):
    assert without_skipped(crop).keys() == expected.keys()
    assert all(torch.equal(crop[name], expected[name]) for name in expected)


def test_the_next_readable_image_stands_in_for_a_corrupt_one(crops, dataset):
    labeled, unlabeled = crops.labeled, crops.unlabeled
    labeled.skip_corrupt = unlabeled.skip_corrupt = True
    expected = labeled[Sample(1, 7)], unlabeled[Sample(0, 7)]
    files = damage(dataset, "image", 4, 5) + damage(dataset, "label", 0)
    crop = labeled[Sample(4, 7, center=(29.0, 19.0))]
    assert_same_crop(crop, expected[0])
    assert [file for file, _ in crop["skipped"]] == files
    assert all(reason.startswith(f"{file}: cannot be read") for file, reason in crop["skipped"])
    assert_same_crop(unlabeled[Sample(5, 7)], expected[1])  # example 0 has lost only its label
    assert "skipped" not in labeled[Sample(1, 7)] and "skipped" not in unlabeled[Sample(0, 7)]

    damage(dataset, "image", *range(6))
    with pytest.raises(InputError, match="not one of 6 images can be read, so .*3_image.png: cannot be read"):
        unlabeled[Sample(3, 7)]


def test_a_corrupt_coarse_image_is_replaced_by_a_coarse_one(dataset):
    fine, coarse = dataset.select([0]), dataset.select([4, 5])
    crops = Crops(fine, AUGMENTATION, skip_corrupt=True, coarse=coarse)
    expected = crops[Sample(1, 7, coarse=True)]
    damage(coarse, "label", 0)
    assert_same_crop(crops[Sample(0, 7, (3.0, 3.0), coarse=True)], expected)


def test_what_is_skipped_travels_with_the_batch_whatever_the_workers(crops, dataset):
    crops.labeled.skip_corrupt = crops.unlabeled.skip_corrupt = True
    (file,) = damage(dataset, "image", 2)
    alone, with_workers = batches(crops, num_workers=0), batches(crops, num_workers=2)
    skipped = [file for batch in alone for file, _ in batch.get("skipped", [])]
    assert skipped == [file] * 3  # an epoch shows each image once in each of the three streams
    for a, b in zip(alone, with_workers, strict=True):
        assert a.pop("skipped", None) == b.pop("skipped", None)
        assert_same_crop(a, b)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_without_skip_corrupt_the_file_is_named_in_one_line(crops, dataset, num_workers):
    (file,) = damage(dataset, "image", 2)
    with pytest.raises(InputError, match=rf"^{file}: cannot be read[^\n]*$"):
        batches(crops, num_workers)


def test_images_without_a_file_are_named_by_their_examples(crops, dataset):
    broken = dataset.map(lambda example: {"image": {"path": None, "bytes": b"no image"}})
    crops.unlabeled.dataset = broken.remove_columns("label").select([5, 3])
    with pytest.raises(InputError, match=r"^the image of unlabeled example 1 \(id 3\): is not an image"):
        crops.unlabeled[Sample(1, 7)]
    with pytest.raises(InputError, match=r"^the image of labeled example 2 \(id 2\): is not an image"):
        EvaluationImages(broken, Normalization())[2]


def test_a_wrong_label_is_never_skipped(crops, dataset):
    crops.labeled.skip_corrupt = True
    crops.labeled.dataset = dataset.cast_column("label", LabelImage.of({0: "a", 1: "b"}))
    with pytest.raises(InputError, match="unknown class id 2"):
        crops.labeled[Sample(0, 7)]
    crops.labeled.dataset = dataset
    PILImage.new("L", (8, 8)).save(dataset[0]["label"]["path"])
    with pytest.raises(InputError, match="8×8 pixels"):
        crops.labeled[Sample(0, 7)]

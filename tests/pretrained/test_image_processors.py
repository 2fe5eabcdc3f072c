"""Everything that sees an image through a checkpoint sees the same pixels."""

import numpy as np
import pytest
import torch
from conftest import tiny_model
from datasets import Dataset, Features, Value
from datasets import Image as ImageFeature
from PIL import Image
from test_weights import FLOWERS, save_model
from transformers import (
    AutoImageProcessor,
    BeitImageProcessorPil,
    ConvNextImageProcessorPil,
    DPTImageProcessorPil,
    MobileNetV2ImageProcessorPil,
    MobileViTImageProcessorPil,
    SegformerImageProcessorPil,
    pipeline,
)
from transformers.utils.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from scl_hf.data import InputImage, LabelImage
from scl_hf.data.augmentation import Augmentation, AugmentationArguments
from scl_hf.data.crops import EvaluationImages
from scl_hf.data.normalization import Normalization
from scl_hf.data.sampler import Sample
from scl_hf.errors import InputError
from scl_hf.image_processors import load_processor, normalization_of, open_processor, own_size, record_input
from scl_hf.pretrained import ModelArguments, load_checkpoint, load_model

HEIGHT, WIDTH = 48, 72
# Each resizes by default, some of them crop, too.
PROCESSORS = {
    "segformer": (SegformerImageProcessorPil, {"do_reduce_labels": True}),
    "segformer, mean 0.5": (SegformerImageProcessorPil, {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}),
    "segformer, to -1 … 1": (
        SegformerImageProcessorPil,
        {"rescale_factor": 1 / 127.5, "image_mean": [1.0, 1.2, 1.4], "image_std": [0.5, 0.6, 0.7]},
    ),
    "segformer, in 0 … 255": (
        SegformerImageProcessorPil,
        {"do_rescale": False, "image_mean": [123.675, 116.28, 103.53], "image_std": [58.395, 57.12, 57.375]},
    ),
    "segformer, one mean for all": (SegformerImageProcessorPil, {"image_mean": 0.4, "image_std": [0.2, 0.3, 0.4]}),
    "segformer, not normalized": (SegformerImageProcessorPil, {"do_normalize": False, "do_convert_rgb": False}),
    "segformer, neither": (SegformerImageProcessorPil, {"do_normalize": False, "do_rescale": False}),
    "segformer, do_normalize null": (SegformerImageProcessorPil, {"do_normalize": None}),
    "segformer, a field it ignores": (SegformerImageProcessorPil, {"do_flip_channel_order": True}),
    "mobilevit": (MobileViTImageProcessorPil, {}),
    "mobilevit, a field it ignores": (MobileViTImageProcessorPil, {"do_normalize": True, "do_reduce_labels": True}),
    "mobilevit, RGB": (MobileViTImageProcessorPil, {"do_flip_channel_order": False}),
    "mobilevit, odd rescale_factor": (MobileViTImageProcessorPil, {"rescale_factor": 1 / 100}),
    "mobilenet_v2": (MobileNetV2ImageProcessorPil, {"do_reduce_labels": True}),
    "beit": (BeitImageProcessorPil, {"do_center_crop": True, "do_reduce_labels": True}),
    "dpt": (DPTImageProcessorPil, {"do_pad": True, "size_divisor": 32, "ensure_multiple_of": 32}),
    "convnext, of upernet": (ConvNextImageProcessorPil, {"size": {"shortest_edge": 224}, "do_center_crop": True}),
}
BROKEN = {
    "no JSON": "{",
    "a list": "[]",
    "a number": "3",
    "too deep": "[" * 100_000,
    "a mean that is text": '{"image_processor_type": "SegformerImageProcessor", "image_mean": "gray"}',
    "two means": '{"image_processor_type": "SegformerImageProcessor", "image_mean": [0.5, 0.5]}',
    "a std of 0": '{"image_processor_type": "SegformerImageProcessor", "image_std": [0, 0, 0]}',
    "a mean that is no number": '{"image_processor_type": "SegformerImageProcessor", "image_mean": [NaN, 0, 0]}',
    "a rescale_factor of 0": '{"image_processor_type": "SegformerImageProcessor", "rescale_factor": 0}',
    "a model": '{"image_processor_type": "SegformerModel"}',
    "a tokenizer": '{"image_processor_type": "BertTokenizer"}',
    "a type that is a number": '{"image_processor_type": 3}',
    "a class of Python": '{"image_processor_type": "os.system"}',
}


@pytest.fixture
def image_file(tmp_path):
    """The file of an image whose channels differ, and its pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    pixels[..., 0] //= 3
    path = tmp_path / "image.png"
    Image.fromarray(pixels).save(path)
    Image.new("L", (WIDTH, HEIGHT)).save(tmp_path / "label.png")
    return path, pixels


def evaluated(path, pixels):
    """What evaluation, while training or by `eval.py`, gives the model of an image."""
    files = {"image": str(path), "label": str(path.with_name("label.png"))}
    columns = {name: [{"path": file, "bytes": None}] for name, file in files.items()} | {"id": ["image"]}
    features = {"image": ImageFeature(decode=False), "label": LabelImage.of(FLOWERS), "id": Value("string")}
    return EvaluationImages(Dataset.from_dict(columns, Features(features)), pixels)[0]["pixel_values"]


def trained_on(image, pixels):
    """What training gives the model of an image, where nothing is augmented."""
    unchanged = {name: 0 for name in ("flip_probability", "brightness", "contrast", "saturation", "hue")}
    arguments = AugmentationArguments([HEIGHT, WIDTH], scale_range=[1, 1], blur_probability=0, **unchanged)
    return Augmentation(arguments, pixels)(image, None, Sample(0, seed=0))["pixel_values"]


def assert_same_pixels(actual, expected):
    tolerance = 1e-6 * max(1, expected.abs().max().item())
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=1e-5, check_dtype=False)


@pytest.mark.parametrize("case", PROCESSORS)
def test_everything_sees_the_pixels_of_the_processor(image_file, tmp_path, case):
    path, image = image_file
    make, fields = PROCESSORS[case]
    processor = make(**fields)
    processor.save_pretrained(save_model(tmp_path / "start"))
    # What the class itself makes of an image, without a change of its size
    whole = {"do_resize": False, "do_center_crop": False} | ({"do_pad": False} if "do_pad" in fields else {})
    expected = processor(Image.fromarray(image), return_tensors="pt", **whole)["pixel_values"][0]
    assert expected.shape == (3, HEIGHT, WIDTH)

    saved = load_processor(str(tmp_path / "start"))
    save_model(tmp_path / "trained")
    saved.save_pretrained(tmp_path / "trained")
    checkpoints = [load_checkpoint(str(tmp_path / name)) for name in ("start", "trained")]
    for pixels in (
        normalization_of(saved),
        normalization_of(processor),
        *(checkpoint.normalization for checkpoint in checkpoints),
    ):
        assert_same_pixels(evaluated(path, pixels), expected)
        assert_same_pixels(trained_on(image, pixels), expected)
    for checkpoint in checkpoints:
        assert_same_pixels(checkpoint.normalization.of(image), expected)
    segment = pipeline("image-segmentation", model=str(tmp_path / "trained"))
    assert_same_pixels(segment.preprocess(str(path))["pixel_values"][0], expected)
    for own in (own_size(processor), AutoImageProcessor.from_pretrained(tmp_path / "trained")):
        assert_same_pixels(own(Image.fromarray(image), return_tensors="pt")["pixel_values"][0], expected)
    if expected.is_floating_point():  # also where the checkpoint's processor makes no label maps
        assert segment(str(path), subtask="semantic")


@pytest.mark.parametrize("model_type", ["segformer", "mobilevit"])
def test_pipeline_gives_the_label_map_of_the_checkpoint(image_file, tmp_path, model_type):
    path, image = image_file
    make = {"segformer": SegformerImageProcessorPil, "mobilevit": MobileViTImageProcessorPil}[model_type]
    make().save_pretrained(save_model(tmp_path / "start", model_type, {0: "a", 1: "b", 2: "c", 3: "d", 4: "e"}))
    start = ModelArguments(model_name_or_path=str(tmp_path / "start"))
    model, processor = load_model(start, FLOWERS), load_processor(str(tmp_path / "start"))

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    inputs = trained_on(image, normalization_of(processor))[None]
    labels = torch.arange(HEIGHT).mul(3).div(HEIGHT, rounding_mode="floor")[:, None].expand(1, HEIGHT, WIDTH)
    model.train()(pixel_values=inputs.repeat(2, 1, 1, 1), labels=labels.repeat(2, 1, 1)).loss.backward()
    optimizer.step()
    model.save_pretrained(tmp_path / "trained")
    processor.save_pretrained(tmp_path / "trained")

    checkpoint = load_checkpoint(str(tmp_path / "trained"))
    assert (
        checkpoint.normalization
        == load_checkpoint(str(tmp_path / "start")).normalization
        == normalization_of(processor)
    )
    assert checkpoint.normalization.blue_first == (model_type == "mobilevit")
    with torch.no_grad():
        logits = checkpoint.model(checkpoint.normalization.of(image)[None]).logits
    label = torch.nn.functional.interpolate(logits, (HEIGHT, WIDTH), mode="bilinear")[0].argmax(0).numpy()
    segment = pipeline("image-segmentation", model=str(tmp_path / "trained"))
    segments = segment(str(path), subtask="semantic")
    assert {segment["label"] for segment in segments} == {FLOWERS[i] for i in np.unique(label)}
    for segment in segments:
        train_id = checkpoint.model.config.label2id[segment["label"]]
        np.testing.assert_array_equal(np.asarray(segment["mask"]) == 255, label == train_id)


def test_own_size_leaves_labels_as_they_are_and_the_processor_too(image_file):
    processor = BeitImageProcessorPil(do_center_crop=True, do_reduce_labels=True)
    own = own_size(processor)
    assert processor.do_resize and processor.do_center_crop and processor.do_reduce_labels
    label = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) % 256
    batch = own(Image.fromarray(image_file[1]), segmentation_maps=label.astype(np.uint8), return_tensors="np")
    np.testing.assert_array_equal(batch["labels"][0], label)


def test_how_images_are_read_is_recorded_where_a_feature_says_it(tmp_path):
    feature = InputImage(decode=False, value_range=[0, 4095])
    for image, expected in ((feature, feature), (ImageFeature(), None)):  # the second run starts from the first
        processor = load_processor(str(tmp_path) if expected is None else None)
        record_input(processor, image)
        processor.save_pretrained(tmp_path)
        assert InputImage.of(open_processor("model", str(tmp_path), False)[0]) == expected


def test_own_size_takes_none_for_no_as_the_processor_does(tmp_path):
    processor = SegformerImageProcessorPil()
    processor.do_normalize = None
    own_size(processor).save_pretrained(tmp_path)
    assert AutoImageProcessor.from_pretrained(tmp_path).do_normalize is False


def test_imagenets_values_come_out_to_the_bit():
    assert (
        normalization_of(load_processor(None))
        == Normalization()
        == (tuple(IMAGENET_DEFAULT_MEAN), tuple(IMAGENET_DEFAULT_STD), False)
    )


def test_a_processor_that_does_something_else_is_refused():
    class Inverting(SegformerImageProcessorPil):
        def rescale(self, image, scale, **kwargs):
            return 1 - super().rescale(image, scale, **kwargs)

    with pytest.raises(InputError, match="Inverting: does more to pixels than"):
        normalization_of(Inverting())


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_or_hostile_processor_is_refused_everywhere(tmp_path, case):
    folder = save_model(tmp_path / "start")
    (folder / "preprocessor_config.json").write_text(BROKEN[case])
    message = r"start: its preprocessor_config.json is not that of an image processor \(.*\)\. Write it again, or"
    for field, load in (("model_name_or_path", load_processor), ("checkpoint", load_checkpoint)):
        with pytest.raises(InputError, match=f"^{field} .*{message}") as error:
            load(str(folder))
        assert "\n" not in str(error.value)


def test_a_processor_with_code_of_its_own_runs_where_that_is_trusted(tmp_path):
    folder, ran = tmp_path / "start", tmp_path / "ran"
    tiny_model(FLOWERS).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text('{"auto_map": {"AutoImageProcessor": "theirs.TheirProcessor"}}')
    (folder / "theirs.py").write_text(
        "from transformers import SegformerImageProcessorPil\n\n"
        f"open({str(ran)!r}, 'w').close()\n\n\n"
        "class TheirProcessor(SegformerImageProcessorPil):\n"
        "    image_mean = [0.25, 0.5, 0.75]\n"
    )
    for load in (load_processor, load_checkpoint):
        with pytest.raises(InputError, match="its preprocessor_config.json .*contains custom code"):
            load(str(folder))
    assert not ran.exists()
    expected = Normalization((0.25, 0.5, 0.75))
    assert load_checkpoint(str(folder), trust_remote_code=True).normalization == expected
    assert normalization_of(load_processor(str(folder), trust_remote_code=True)) == expected
    assert ran.exists()


def test_without_a_processor_imagenets_values_are_taken_with_a_warning(tmp_path, caplog):
    folder = str(save_model(tmp_path / "start"))
    assert load_checkpoint(folder).normalization == Normalization()
    processor = load_processor(folder)
    warning = f"{folder} brings no image processor: ImageNet's mean and std are used."
    assert [record.getMessage() for record in caplog.records].count(warning) == 2
    caplog.clear()
    assert load_processor(None).to_dict() == processor.to_dict() and not caplog.records
    assert isinstance(processor, SegformerImageProcessorPil)
    assert processor.do_resize is False and processor.do_convert_rgb is True

import dataclasses
import json
import logging

import datasets
import pytest
from accelerate import PartialState
from conftest import tiny_model

from scl_hf.data import DataArguments, InputImage
from scl_hf.errors import InputError
from scl_hf.evaluation.checkpoints import (
    TRAINING_DATA,
    ScoringArguments,
    check_input,
    load_for_data,
    score_settings,
)
from scl_hf.evaluation.scoring import EvaluationArguments, make_accelerator, read_record
from scl_hf.pretrained import Checkpoint

NAMES = {0: "traffic light", 1: "sky", 2: "road"}


@pytest.fixture(autouse=True)
def state():
    PartialState(cpu=True)


def save(path, *labels):
    tiny_model(dict(enumerate(labels))).save_pretrained(path)
    return str(path)


def test_class_names_that_differ_are_warned_of(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        load_for_data(save(tmp_path / "same", "Traffic_Light", "sky", "road"), ScoringArguments(), NAMES)
        assert "same" not in caplog.text.replace("same brings no image processor", "")
        load_for_data(save(tmp_path / "other", "traffic light", "heaven", "street"), ScoringArguments(), NAMES)
        assert "names 2 of 3 classes differently from the data: 'heaven' for 'sky', 'street' for 'road'" in caplog.text


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (("sky", "road"), r"has 2 classes \(sky, road\), the data 3 \(traffic light, sky, road\)"),
        (("LABEL_0", "LABEL_1", "LABEL_2"), "brings no class names, only LABEL_0, …"),
        (("sky", "traffic light", "road"), "in another order, class 0 is 'sky' and not 'traffic light'"),
    ],
)
def test_other_classes_are_refused(tmp_path, labels, message):
    with pytest.raises(InputError, match=f"^checkpoint .*model: .*{message}"):
        load_for_data(save(tmp_path / "model", *labels), ScoringArguments(), NAMES)


def test_data_that_is_read_in_another_way_is_refused():
    image = InputImage(decode=False, value_range=[0, 4095])
    check_input(Checkpoint("model", None, input=image), image)
    check_input(Checkpoint("model", None), image)  # of others, which record nothing
    for other in (datasets.Image(decode=False), InputImage(decode=False, value_range=[0, 4000])):
        with pytest.raises(InputError, match=r"^checkpoint model: was trained with value_range: \[0, 4095\]; write"):
            check_input(Checkpoint("model", None, input=image), other)


def test_student_and_ema_of_a_training_checkpoint(tmp_path):
    def bias(path, **fields):
        checkpoint = load_for_data(str(path), ScoringArguments(**fields), NAMES)
        return checkpoint.model.decoder.classifier.weight[0, 0, 0, 0].item()

    values = []
    for seed, folder in enumerate(("ema_published", "ema_published/student", "student_published/teacher")):
        tiny_model(NAMES, seed=seed).save_pretrained(tmp_path / folder)
        values.append(tiny_model(NAMES, seed=seed).decoder.classifier.weight[0, 0, 0, 0].item())
    tiny_model(NAMES, seed=1).save_pretrained(tmp_path / "student_published")
    ema, student, teacher = values
    assert bias(tmp_path / "ema_published") == bias(tmp_path / "ema_published", ema=True) == ema
    assert bias(tmp_path / "ema_published", student=True) == student
    assert bias(tmp_path / "student_published") == bias(tmp_path / "student_published", student=True) == student
    assert bias(tmp_path / "student_published", ema=True) == teacher
    with pytest.raises(InputError, match="student: .*holds one model only.*leave --student out"):
        bias(tmp_path / "ema_published/student", student=True)
    with pytest.raises(InputError, match="^checkpoint .*nowhere"):
        bias(tmp_path / "nowhere", student=True)


DATA_FIELDS = [field.name for field in dataclasses.fields(DataArguments)]
NO_SCORE = {"max_tiles_per_batch", "dataloader_num_workers"} | TRAINING_DATA


@pytest.mark.parametrize("name", [*DATA_FIELDS, *(field.name for field in dataclasses.fields(EvaluationArguments))])
def test_scores_of_other_data_or_evaluation_settings_are_not_replaced(tmp_path, name):
    data = DataArguments(dataset="folder", data_dir="mine", label_map={7: 0, 8: 1})
    evaluation, args, file = EvaluationArguments(), ScoringArguments(), tmp_path / "scores.json"
    file.write_text(json.dumps({"settings": score_settings(["run"], data, evaluation, args)}))
    read_record(file, score_settings(["run"], data, evaluation, args))
    setattr(data if name in DATA_FIELDS else evaluation, name, "another")
    settings = score_settings(["run"], data, evaluation, args)
    if name in NO_SCORE:
        read_record(file, settings)
        return
    with pytest.raises(
        InputError, match=f"^output: .*json is for {name} .*, this would be for another. .*--overwrite"
    ):
        read_record(file, settings)


def test_scores_of_other_checkpoints_are_not_replaced(tmp_path):
    data, evaluation, file = DataArguments(), EvaluationArguments(), tmp_path / "scores.json"
    file.write_text(json.dumps({"settings": score_settings(["run"], data, evaluation, ScoringArguments())}))
    for changed in ({"student": True}, {"dtype": "bfloat16"}):
        with pytest.raises(InputError, match="is for (weights None|dtype float32), this would be for"):
            read_record(file, score_settings(["run"], data, evaluation, ScoringArguments(**changed)))
    with pytest.raises(InputError, match="is for checkpoints"):
        read_record(file, score_settings(["run", "b"], data, evaluation, ScoringArguments()))
    same = ScoringArguments(panel_images=9, official=True)
    read_record(file, score_settings(["run"], data, evaluation, same))
    file.write_text("[]")
    with pytest.raises(InputError, match="scores.json is not the record of an earlier run. Name another --output"):
        read_record(file, {})
    assert TRAINING_DATA < set(DATA_FIELDS)


def test_fields():
    with pytest.raises(InputError, match="ema, student: give one"):
        ScoringArguments(ema=True, student=True)
    with pytest.raises(InputError, match="dtype: must be float32"):
        make_accelerator("half")
    with pytest.raises(InputError, match="dtype: float16 needs a GPU"):
        make_accelerator("float16")
    with pytest.raises(InputError, match="panel_images: must be 0 or more"):
        ScoringArguments(panel_images=-1)
    assert make_accelerator("float32").mixed_precision == "no"

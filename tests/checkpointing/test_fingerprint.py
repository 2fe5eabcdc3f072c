import json
from dataclasses import fields

import pytest

from scl_hf import SemiSupervisedConfig
from scl_hf.checkpointing.fingerprint import MAY_CHANGE, RECIPE_NAME, changes, check_fingerprint
from scl_hf.errors import InputError
from scl_hf.evaluation.scoring import EvaluationArguments

FIELDS = {field.name for field in fields(SemiSupervisedConfig)}


@pytest.mark.parametrize("name", [name for name in MAY_CHANGE])
def test_what_may_change_is_a_field_or_begins_some(name):
    assert name in FIELDS or name.endswith("_") and any(field.startswith(name) for field in FIELDS)


def test_what_may_change_holds_evaluation_and_no_more_of_the_method():
    own = {field.name for field in fields(EvaluationArguments)}
    of_the_method = set(SemiSupervisedConfig.__annotations__) - {
        "evaluate_both",
        "panel_images",
        "overwrite_output_dir",
    }
    of_the_method -= {"backbone_learning_rate", "model_card_template", "license", "allow_changed_recipe"}
    # TrainingArguments with other defaults stand among them.
    of_the_method -= {"eval_strategy", "eval_steps", "logging_steps", "save_total_limit"}
    of_the_method -= {"learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "num_train_epochs", "report_to"}
    of_the_method -= {"per_device_train_batch_size", "per_device_eval_batch_size", "logging_nan_inf_filter"}
    of_the_method -= {"ddp_find_unused_parameters", "metric_for_best_model"}
    may = {
        field for field in FIELDS for name in MAY_CHANGE if field == name or name[-1] == "_" and field.startswith(name)
    }
    assert own <= may and not of_the_method & may


def recipe(settings=None, config=None, data=None, files=None, architecture="A"):
    return {
        "settings": {"seed": 0} | (settings or {}),
        "model": {"architecture": architecture, "config": {"depth": 1} | (config or {}), "pixels": {"mean": [0.5]}},
        "data": {"labeled images": "5 ids ab", "label_map of the labeled images": {"7": 0}} | (data or {}),
        "files": {"labels of the labeled images": "5 files ab"} | (files or {}),
    }


def test_what_differs_is_named_with_both_values():
    assert changes(recipe(), recipe()) == {}
    assert changes(recipe(), recipe({"seed": 1}, {"depth": 2})) == {"seed": "0 → 1", "config.depth": "1 → 2"}
    assert changes(recipe(), recipe(data={"unlabeled images": "2 ids x"})) == {"unlabeled images": "without → with"}
    edited = {"labels of the labeled images": "5 files cd"}
    assert changes(recipe(), recipe(files=edited)) == {"labels of the labeled images": "5 files ab → 5 files cd"}
    assert list(changes(recipe(), recipe(data={"labeled images": "5 ids cd"}, files=edited))) == ["labeled images"]
    other = {"label_map of the labeled images": {"7": 1}}
    assert changes(recipe(), recipe(data=other)) == {next(iter(other)): '{"7": 0} → {"7": 1}'}
    # Another architecture has another config, which nobody wants to read; another version has further fields.
    assert changes(recipe(), recipe(config={"depth": 2}, architecture="B")) == {"model": "A → B"}
    assert changes(recipe(), recipe({"a_new_field": 3}, {"another": 4})) == {}
    (long,) = changes(recipe(), recipe({"seed": list(range(100))})).values()
    assert len(long) < 70 and long.endswith("…")


def test_what_differs_is_named_with_what_it_stands_in_and_no_model_differs_by_where_it_came_from():
    def config(label, name):
        backbone = {"hidden_size": 8, "_name_or_path": name, "transformers_version": name}
        return {"id2label": {"1": label}, "backbone_config": backbone, "_name_or_path": name}

    assert changes(recipe(config=config("b", "here")), recipe(config=config("b", "there"))) == {}
    renamed = changes(recipe(config=config("b", "here")), recipe(config=config("c", "there")))
    assert renamed == {"config.id2label.1": "b → c"}


def test_a_checkpoint_of_a_former_version_has_the_same_data(tmp_path):
    now = recipe({"labeled crops of a step": 4}, {"id2label": {"0": "unlabelled"}})
    before = {name: now[name] for name in ("settings", "data")}  # and no "files"
    before = json.dumps(before).replace("labeled", "labelled")
    (tmp_path / RECIPE_NAME).write_text(json.dumps(json.loads(before) | {"model": now["model"]}))
    check_fingerprint(tmp_path, now, allow_changes=False)
    with pytest.raises(InputError, match=r"other values of labeled crops of a step \(4 → 8\)"):
        check_fingerprint(tmp_path, recipe({"labeled crops of a step": 8}), allow_changes=False)

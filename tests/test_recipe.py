from pathlib import Path

import pytest
import yaml

from scl_hf import SemiSupervisedConfig
from scl_hf.data import DataArguments
from scl_hf.errors import InputError
from scl_hf.output import check_output_dir, clear_output_dir
from scl_hf.recipe import TRAINING_RECIPE, RecipeParser, other_fields

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.yaml"))


def parse(tmp_path, text, *command_line, types=TRAINING_RECIPE):
    recipe = tmp_path / "my.yaml"
    recipe.write_text(text)
    return RecipeParser(types).parse_recipe([str(recipe), "--use_cpu", "true", *command_line])


def test_the_command_line_wins_over_the_recipe_and_the_recipe_over_the_defaults(tmp_path):
    *_, augmentation, args = parse(
        tmp_path, "learning_rate: 0.5\nema_decay: 0.5\ncrop_size: [64, 32]\n", "--learning_rate", "1e-3"
    )
    assert (args.learning_rate, args.ema_decay, args.num_boxes) == (1e-3, 0.5, 32)
    assert augmentation.crop_size == [64, 32]


def test_a_recipe_may_hold_the_fields_of_another_script(tmp_path):
    recipe = tmp_path / "my.yaml"
    recipe.write_text("eval_split: test\noutput_dir: runs/mine\nlearning_rate: x\n")
    (data,) = RecipeParser((DataArguments,)).parse_recipe([str(recipe)], other_fields(DataArguments))
    assert data.eval_split == "test"
    with pytest.raises(InputError, match="unknown field 'output_dir'"):
        RecipeParser((DataArguments,)).parse_recipe([str(recipe)], other_fields(SemiSupervisedConfig, DataArguments))


def test_every_kind_of_value(tmp_path):
    text = (
        "learning_rate: 1e-2\n"
        "num_pairs: 9000\n"
        "ema_teacher: false\n"
        "eval_scales: [0.5, 1, 2]\n"
        "optim_args: null\n"
        "lr_scheduler_kwargs: {power: 0.9}\n"
        "model_config: {stem_channels: 16, depths: [1, 1, 1, 1, 1, 1]}\n"
        "max_steps: 10\n"
    )
    model, *_, args = parse(tmp_path, text)
    assert args.learning_rate == 0.01 and args.num_pairs == 9000 and args.ema_teacher is False
    assert args.eval_scales == [0.5, 1.0, 2.0] and args.optim_args is None and args.max_steps == 10
    assert args.lr_scheduler_kwargs == {"power": 0.9}
    assert model.model_config == {"stem_channels": 16, "depths": [1, 1, 1, 1, 1, 1]}


def test_numbers_are_those_of_yaml_1_2(tmp_path):
    _, data, *_ = parse(tmp_path, "labeled_split: 1_8")
    assert data.labeled_split == "1_8"
    text = "dataset: folder\nlabel_map: {010: 0, 0x1F: 1, 3: 255}\nmodel_config: {a: 1:30, b: 1e-2, c: -.5, d: 1_000}"
    model, data, *_ = parse(tmp_path, text)
    assert data.label_map == {10: 0, 31: 1, 3: 255}
    assert model.model_config == {"a": "1:30", "b": 0.01, "c": -0.5, "d": "1_000"}


def test_label_map_on_the_command_line(tmp_path):
    text = "dataset: folder\nlabel_map: {1: 0}"
    assert parse(tmp_path, text, "--label_map", '{"7": 0, "8": 1}')[1].label_map == {7: 0, 8: 1}
    assert parse(tmp_path, text, "--label_map", "null")[1].label_map is None
    with pytest.raises(InputError, match="label_map: is not JSON"):
        parse(tmp_path, text, "--label_map", "7=0")


def test_a_mapping_on_the_command_line_is_json(tmp_path):
    model, *_ = parse(tmp_path, "seed: 1", "--model_config", '{"stem_channels": 4}')
    assert model.model_config == {"stem_channels": 4}


def test_null_on_the_command_line_leaves_a_field_out(tmp_path):
    text = "num_pairs: 9000\noptim_args: momentum=0.9\nmodel_config: {stem_channels: 4}"
    fields = [word for name in ("num_pairs", "optim_args", "model_config") for word in (f"--{name}", "null")]
    model, *_, args = parse(tmp_path, text, *fields)
    assert args.num_pairs is None and args.optim_args is None and model.model_config is None


def test_a_list_may_be_one_value_and_trackers_are_a_list(tmp_path):
    *_, augmentation, args = parse(tmp_path, "crop_size: 64\nreport_to: none", "--eval_scales", "0.5", "1")
    assert augmentation.crop_size == [64, 64] and args.eval_scales == [0.5, 1] and args.report_to == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lerning_rate: 1", "my.yaml: unknown field 'lerning_rate'. Did you mean 'learning_rate'?"),
        ("learning_rate: fast", "my.yaml: learning_rate: invalid float value: 'fast'"),
        ("num_boxes: 3.5", "num_boxes: invalid int value"),
        ("num_boxes: [1]", "num_boxes: expected one value"),
        ("num_boxes: null", "num_boxes: expected a value, got none"),
        ("num_boxes: {a: 1}", "num_boxes: expected one value, got a mapping"),
        ("blur_sigma: [a, b]", "blur_sigma: invalid float value: 'a'"),
        ("optim_args: momentum", "optim_args: must be like momentum=0.9"),
        ("max_steps: 0", "max_steps: must be 1 or more"),
        ("gradient_accumulation_steps: 0", "gradient_accumulation_steps: must be 1 or more"),
        ("seed: -1", "seed: must be 0 or more"),
        ("fsdp: full_shard", "fsdp: must be left out"),
        ("ema_teacher: perhaps", "ema_teacher: Truthy value expected"),
        ("consistency_weight: -1", "consistency_weight: must be 0 or more, got -1.0"),
        ("structured_consistency_weight: -1", "structured_consistency_weight: must be 0 or more"),
        ("num_boxes: 8\nnum_loss_boxes: 9", r"num_loss_boxes: must be 1 to num_boxes \(8\), got 9"),
        ("num_pairs: 0", "num_pairs: must be 1 or more"),
        ("cutmix_ratio: 0", "cutmix_ratio: must be above 0"),
        ("relaxation_window: 2", "relaxation_window: must be odd"),
        ("ema_decay: 1.5", "ema_decay: must be 0 to 1"),
        ("eval_scales: [0, 1]", "eval_scales: must be scales above 0"),
        ("eval_overlap: 1", "eval_overlap: must be 0 or more and below 1"),
        ("per_device_eval_batch_size: 4", "per_device_eval_batch_size: must be 1"),
        ("optim: foo", "foo is not a valid OptimizerNames"),
        ("labeled_fraction: 2", "labeled_fraction"),
        ("label_map: [1, 2]", "label_map: expected one value"),
        ("crop_size: [0]", "crop_size"),
        ("model_config: 3", "model_config: expected a mapping"),
        ("model_config: {a: 1}\nmodel_name_or_path: b", "Add --model_config null"),
        ("- 1", "a recipe is a list of `field: value` lines"),
        ("a: b: c", "not YAML"),
        ("", "a recipe is a list of `field: value` lines"),
    ],
)
def test_a_wrong_recipe_is_one_line_that_names_the_field(tmp_path, text, message):
    with pytest.raises(InputError, match=message) as error:
        parse(tmp_path, text)
    assert "\n" not in str(error.value)


def test_a_wrong_command_line(tmp_path):
    with pytest.raises(InputError, match="learning_rate: invalid float value: 'x'"):
        parse(tmp_path, "seed: 1", "--learning_rate", "x")
    with pytest.raises(InputError, match="unknown field 'lerning_rate'. Did you mean 'learning_rate'"):
        parse(tmp_path, "seed: 1", "--lerning_rate", "1")
    with pytest.raises(InputError, match="unknown field 'second.yaml'"):
        parse(tmp_path, "seed: 1", "second.yaml")
    with pytest.raises(InputError, match="no such recipe"):
        RecipeParser(TRAINING_RECIPE).parse_recipe(["recipes/none.yaml"])


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.name)
def test_every_recipe_of_the_project_parses(recipe):
    *_, args = RecipeParser(TRAINING_RECIPE).parse_recipe([str(recipe), "--use_cpu", "true"])
    assert args.output_dir == f"runs/{recipe.stem}"


def test_the_paper_to_the_letter():
    """Section 4.1: every value that the paper gives."""
    recipe = next(path for path in RECIPES if path.name == "cityscapes.yaml")
    model, data, sampling, augmentation, args = RecipeParser(TRAINING_RECIPE).parse_recipe(
        [str(recipe), "--use_cpu", "true"]
    )
    assert (args.num_boxes, args.num_loss_boxes, args.num_pairs) == (32, 16, 9000)
    assert (args.consistency_weight, args.structured_consistency_weight) == (20, 3)
    assert (args.optim, args.optim_args, args.learning_rate, args.weight_decay) == (
        "sgd",
        "momentum=0.9",
        0.002,
        0.001,
    )
    assert args.lr_scheduler_type == "polynomial" and args.lr_scheduler_kwargs == {"power": 1.0, "lr_end": 0.0}
    assert args.num_train_epochs == 175 and args.per_device_train_batch_size == 1 and args.sync_batch_norm
    assert args.ema_decay == 0.999 and args.ema_teacher and args.ema_validation and args.max_grad_norm == 0
    assert args.semi_supervised_start_step == 0 and args.semi_supervised_ramp_steps == 0
    assert augmentation.crop_size == [896, 896] and augmentation.scale_range == [0.5, 2.0]
    assert sampling.class_uniform_share == 0.5 and sampling.class_uniform_tile == 1024
    assert sampling.coarse_classes == [14, 15, 16, 3, 12, 17, 4] and sampling.coarse_until_epoch == 150
    assert data.use_coarse_labels and not model.model_config


def test_the_pre_training_of_the_baseline():
    """The values that Zhu et al. 2019 published, and labels alone."""
    recipe = next(path for path in RECIPES if path.name == "mapillary.yaml")
    _, data, sampling, augmentation, args = RecipeParser(TRAINING_RECIPE).parse_recipe(
        [str(recipe), "--use_cpu", "true"]
    )
    assert data.dataset == "mapillary" and not args.semi_supervised and args.relaxation_window == 1
    assert (args.optim, args.learning_rate, args.num_train_epochs) == ("sgd", 0.02, 175)
    assert args.lr_scheduler_type == "polynomial" and args.lr_scheduler_kwargs == {"power": 1.0, "lr_end": 0.0}
    assert args.per_device_train_batch_size == 2 and args.sync_batch_norm and args.bf16
    assert augmentation.crop_size == [896, 896] and augmentation.scale_range == [0.5, 2.0]
    assert sampling.class_uniform_share == 0.5 and sampling.class_uniform_tile == 1024


ABLATIONS = {
    "cityscapes_from_mapillary": {"model_name_or_path": "runs/mapillary"},
    "cityscapes_supervised": {"consistency_weight": 0, "structured_consistency_weight": 0},
    "cityscapes_consistency": {"structured_consistency_weight": 0},
    "cityscapes_student_targets": {"ema_teacher": False},
    "cityscapes_student_validation": {"ema_validation": False},
    "cityscapes_trainval": {
        "train_splits": ["train", "validation"],
        "allow_shared_images": True,
        "eval_steps": 4350,
        "save_steps": 4350,
    },
}


@pytest.mark.parametrize("name", ABLATIONS)
def test_a_row_of_the_tables_differs_from_the_paper_in_its_own_fields_only(name):
    paper, row = (yaml.safe_load(path.read_text()) for path in RECIPES if path.stem in ("cityscapes", name))
    assert row == paper | ABLATIONS[name] | {"output_dir": f"runs/{name}"}


def test_another_runs_folder_is_refused(tmp_path):
    run = tmp_path / "run"
    assert check_output_dir(run, None, False) is None
    (run / "runs").mkdir(parents=True)  # a tracker's folder alone is no run
    assert check_output_dir(run, None, False) is None
    checkpoint = run / "checkpoint-5"
    checkpoint.mkdir()
    (checkpoint / "trainer_state.json").write_text("{}")
    with pytest.raises(InputError, match="holds another run. Add --resume_from_checkpoint true to go on, --overwrite"):
        check_output_dir(run, None, False)
    assert check_output_dir(run, None, True) is None
    assert check_output_dir(run, "true", False) == str(checkpoint)
    assert check_output_dir(run, str(checkpoint), False) == str(checkpoint)


def test_there_is_nothing_to_resume_from(tmp_path):
    with pytest.raises(InputError, match="holds no checkpoint"):
        check_output_dir(tmp_path, "true", False)
    with pytest.raises(InputError, match="is not a checkpoint folder"):
        check_output_dir(tmp_path, str(tmp_path / "none"), False)
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(InputError, match="is a file"):
        check_output_dir(file, None, False)


def test_a_folder_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file is a file. Name another folder"):
        check_output_dir(tmp_path / "file/run", None, False)


def touch(root, names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("")


def test_overwriting_removes_the_old_run_and_nothing_else(tmp_path):
    run = ("checkpoint-4/model.safetensors", "panels/step-000004.png", "runs/a/events.out.tfevents.1", "config.json")
    touch(tmp_path, (*run, "notes.txt", "mine/c.json"))
    clear_output_dir(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["c.json", "notes.txt"]


def test_overwriting_leaves_what_lies_in_a_folder_named_by_mistake(tmp_path):
    others = ("id2label.json", "README.md", "panels/mine.png", "runs/demo/model.safetensors", "runs/demo/config.json")
    touch(tmp_path, others)
    clear_output_dir(tmp_path)
    assert all((tmp_path / name).is_file() for name in others)

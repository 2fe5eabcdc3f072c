import json
import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from transformers import TrainingArguments

from scl_hf import SemiSupervisedConfig
from scl_hf.cli import RecipeParser, field_help, first_sentence, recipe_file, split_command_line
from scl_hf.config import TRAINING_RECIPE, other_fields
from scl_hf.data import DataArguments
from scl_hf.errors import InputError, check_field, first_few

RECIPES = {path.stem: path for path in sorted((Path(__file__).parents[1] / "recipes").glob("*.yaml"))}
PARSED = json.loads(Path(__file__).with_name("recipe_values.json").read_text(encoding="utf-8"))
VALUES = {name: yaml.safe_load(path.read_text(encoding="utf-8")) for name, path in RECIPES.items()}


def parse_recipe(path, *command_line):
    """All fields of a training recipe, whichever dataclass holds them."""
    parsed = RecipeParser(TRAINING_RECIPE).parse_recipe([str(path), "--use_cpu", "true", *command_line])
    return SimpleNamespace(**{name: value for group in parsed for name, value in vars(group).items()})


def parse(tmp_path, text, *command_line):
    recipe = tmp_path / "my.yaml"
    recipe.write_text(text)
    return parse_recipe(recipe, *command_line)


def test_the_command_line_wins_over_the_recipe_and_the_recipe_over_the_defaults(tmp_path):
    text = "learning_rate: 0.5\nema_decay: 0.5\ncrop_size: [64, 32]\n"
    args = parse(tmp_path, text, "--learning_rate", "1e-3")
    assert (args.learning_rate, args.ema_decay, args.num_boxes) == (1e-3, 0.5, 12)
    assert args.crop_size == [64, 32]


def test_a_recipe_may_hold_the_fields_of_another_script(tmp_path):
    recipe = tmp_path / "my.yaml"
    recipe.write_text("eval_split: test\noutput_dir: runs/mine\nlearning_rate: x\nteacher_renewal_steps: 7\n")
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
    args = parse(tmp_path, text)
    assert args.learning_rate == 0.01 and args.num_pairs == 9000 and args.ema_teacher is False
    assert args.eval_scales == [0.5, 1.0, 2.0] and args.optim_args is None and args.max_steps == 10
    assert args.lr_scheduler_kwargs == {"power": 0.9}
    assert args.model_config == {"stem_channels": 16, "depths": [1, 1, 1, 1, 1, 1]}


def test_numbers_are_those_of_yaml_1_2(tmp_path):
    assert parse(tmp_path, "labeled_split: 1_8").labeled_split == "1/8"
    text = "dataset: folder\nlabel_map: {010: 0, 0x1F: 1, 3: 255}\nmodel_config: {a: 1:30, b: 1e-2, c: -.5, d: 1_000}"
    args = parse(tmp_path, text)
    assert args.label_map == {10: 0, 31: 1, 3: 255}
    assert args.model_config == {"a": "1:30", "b": 0.01, "c": -0.5, "d": "1_000"}


def test_label_map_on_the_command_line(tmp_path):
    text = "dataset: folder\nlabel_map: {1: 0}"
    assert parse(tmp_path, text, "--label_map", '{"7": 0, "8": 1}').label_map == {7: 0, 8: 1}
    assert parse(tmp_path, text, "--label_map", "null").label_map is None
    with pytest.raises(InputError, match="label_map: is not JSON"):
        parse(tmp_path, text, "--label_map", "7=0")


def test_class_names_are_a_file_or_a_mapping(tmp_path):
    text = "dataset: folder\nid2label: {0: sky, 1: road}"
    assert parse(tmp_path, text).id2label == {0: "sky", 1: "road"}
    assert parse(tmp_path, text, "--id2label", "names.json").id2label == "names.json"
    assert parse(tmp_path, text, "--id2label", "null").id2label is None
    with pytest.raises(InputError, match="id2label: invalid JSON value"):
        parse(tmp_path, text, "--id2label", "{0: sky}")


def test_a_mapping_on_the_command_line_is_json(tmp_path):
    args = parse(tmp_path, "seed: 1", "--model_config", '{"stem_channels": 4}')
    assert args.model_config == {"stem_channels": 4}


def test_null_on_the_command_line_leaves_a_field_out(tmp_path):
    text = "num_pairs: 9000\noptim_args: momentum=0.9\nmodel_config: {stem_channels: 4}"
    nulls = [word for name in ("num_pairs", "optim_args", "model_config") for word in (f"--{name}", "null")]
    args = parse(tmp_path, text, *nulls)
    assert args.num_pairs is None and args.optim_args is None and args.model_config is None


def test_a_recipe_may_begin_with_a_byte_order_mark(tmp_path):
    (tmp_path / "my.yaml").write_text("seed: 7", encoding="utf-8-sig")
    assert parse_recipe(tmp_path / "my.yaml").seed == 7


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_recipe_of_others(tmp_path):
    (tmp_path / "my.yaml").touch(0o000)
    with pytest.raises(InputError, match="my.yaml: cannot be read .*denied"):
        parse_recipe(tmp_path / "my.yaml")


def test_a_list_may_be_one_value_and_trackers_are_a_list(tmp_path):
    args = parse(tmp_path, "crop_size: 64\nreport_to: none", "--eval_scales", "0.5", "1")
    assert args.crop_size == [64, 64] and args.eval_scales == [0.5, 1] and args.report_to == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lerning_rate: 1", "my.yaml: unknown field 'lerning_rate'. Did you mean 'learning_rate'?"),
        ("learning_rate: fast", "my.yaml: learning_rate: invalid float value: 'fast'"),
        ("num_boxes: 3.5", "num_boxes: invalid int value"),
        ("num_boxes: [1]", "num_boxes: expected one value"),
        ("num_boxes: null", "num_boxes: expected a value, got none"),
        ("num_boxes: {a: 1}", "num_boxes: expected one value, got {'a': 1}"),
        ("blur_sigma: [a, b]", "blur_sigma: invalid float value: 'a'"),
        ("optim_args: momentum", "optim_args: must be like momentum=0.9"),
        ("max_steps: 0", "max_steps: must be 1 or more"),
        ("gradient_accumulation_steps: 0", "gradient_accumulation_steps: must be 1 to 10000"),
        ("seed: -1", "seed: must be 0 to 4294967295"),
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
        ("seed: 1\nseed: 2", "not YAML: 'seed' is given twice"),
        ("model_config: {a: 1, a: 2}", "not YAML: 'a' is given twice"),
        ("model_config: &a {b: *a}", "not YAML: Circular reference"),
        ("seed: " + "[" * 5000, "not YAML"),
        ("lr_scheduler_kwargs: '{power: 1}'", "lr_scheduler_kwargs: invalid JSON value"),
        ("accelerator_config: none.json", "none.json"),
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
    with pytest.raises(InputError, match="none.yaml: no such recipe. See .*/recipes."):
        RecipeParser(TRAINING_RECIPE).parse_recipe(["recipes/none.yaml"])
    with pytest.raises(
        InputError, match="your_data: no such recipe. Did you mean 'your_data_[a-z0-9]+' or 'your_data_"
    ):
        RecipeParser(TRAINING_RECIPE).parse_recipe(["your_data"])


def test_a_recipe_of_this_project_needs_only_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()
    tables = {path.stem for path in (RECIPES["demo"].parent / "tables").glob("*.yaml")}
    assert not tables & RECIPES.keys()  # they go by their names, too
    assert recipe_file("demo") == RECIPES["demo"] and recipe_file("method").parent.name == "tables"
    assert recipe_file("demo.yaml") == Path("demo.yaml") and recipe_file("none") == Path("none")
    mine = write(tmp_path / "mine", my="base: demo\nmax_steps: 7") / "my.yaml"
    _, data, args = RecipeParser(TRAINING_RECIPE).parse_recipe([str(mine)])
    assert (data.data_dir, args.max_steps, args.logit_adjustment) == ("data/streets", 7, 0.5)
    (tmp_path / "mine/demo").write_text("seed: 3")  # the user's own file comes first
    assert parse_recipe(mine).seed == 3 and recipe_file("demo", mine.parent) == mine.parent / "demo"


def test_leading_arguments_come_before_the_fields():
    command_line = ["runs/a", "b.yaml", "--scales", "1", "2", "--flip", "true"]
    assert split_command_line(command_line) == (["runs/a", "b.yaml"], ["--scales", "1", "2", "--flip", "true"])
    assert split_command_line(["a"]) == (["a"], []) and split_command_line(["-h"]) == ([], ["-h"])


def write(folder, **texts):
    folder.mkdir(exist_ok=True)
    for name, text in texts.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder


def test_a_variant_is_its_base_and_what_differs(tmp_path):
    text = "learning_rate: 0.5\nema_decay: 0.5\nmodel_config: {stem_channels: 4}\neval_tile: 8\nnum_boxes: 20"
    folder = write(tmp_path / "ours", base=text, my="base: base.yaml\nema_decay: 0.25\nmodel_config: {depths: [1]}")
    mine = write(tmp_path / "mine", my="base: ../ours/base.yaml\neval_tile: null")
    args = parse_recipe(folder / "my.yaml", "--num_boxes", "24")
    assert (args.learning_rate, args.ema_decay, args.num_boxes, args.eval_tile) == (0.5, 0.25, 24, [8, 8])
    assert args.model_config == {"depths": [1]}
    args = parse_recipe(mine / "my.yaml")
    assert (args.ema_decay, args.eval_tile) == (0.5, None)


def test_home_and_variables_are_replaced_and_passed_on_as_written(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DATA", "/data")
    write(tmp_path, base="seed: 7")
    text = "base: $HOME/base.yaml\ndata_dir: ${DATA}/mine\nunlabeled_dirs: [~/a, x/$DATA, cost$5]\nimage_column: $\n"
    write(tmp_path / "recipes", my=text)
    parser = RecipeParser(TRAINING_RECIPE)
    given = ["--use_cpu", "true", "--output_dir=~/run", "--labeled_ids", "$HOME/ids.txt"]
    model, data, args = parser.parse_recipe([str(tmp_path / "recipes/my.yaml"), *given])
    assert (args.seed, args.output_dir, data.labeled_ids) == (7, f"{tmp_path}/run", f"{tmp_path}/ids.txt")
    assert (data.data_dir, data.image_column) == ("/data/mine", "$")
    assert data.unlabeled_dirs == [f"{tmp_path}/a", "x//data", "cost$5"]
    assert "data_dir: ${DATA}/mine\n" in parser.portable_recipe() and str(tmp_path) not in parser.portable_recipe()


@pytest.mark.parametrize(
    "text", ["data_dir: $NOWHERE/x", "unlabeled_dirs: [a, '${NOWHERE}']", "base: $NOWHERE/a.yaml"]
)
def test_a_variable_that_is_not_set_is_named(tmp_path, text):
    with pytest.raises(
        InputError, match=f"my.yaml.*: {text.split(':')[0]}: .* needs .NOWHERE, which is not set. Set it"
    ):
        parse(tmp_path, text)


def test_a_base_may_have_a_base_itself(tmp_path):
    recipes = {"first": "seed: 1\nmax_steps: 2\nnum_boxes: 7", "base": "base: first.yaml\nseed: 4\nmax_steps: 5"}
    args = parse_recipe(write(tmp_path, **recipes, my="base: base.yaml\nseed: 6") / "my.yaml")
    assert (args.seed, args.max_steps, args.num_boxes) == (6, 5, 7)


def test_fields_for_another_script_may_stand_in_a_base(tmp_path):
    folder = write(tmp_path, base="learning_rate: x\neval_split: test", my="base: base.yaml\ndata_dir: here")
    (data,) = RecipeParser(DataArguments).parse_recipe([str(folder / "my.yaml")], other_fields(DataArguments))
    assert (data.eval_split, data.data_dir) == ("test", "here")


@pytest.mark.parametrize(
    ("base", "mine", "message"),
    [
        ("seed: 1", "base: none.yaml", r"my.yaml: base: there is no .*none.yaml. Name a recipe by its path"),
        ("seed: 1", "base: null", r"my.yaml: base: there is no"),
        ("base: my.yaml", "base: base.yaml", r"base.yaml: base: .*my.yaml is based on this recipe itself"),
        ("seed: 1", "base: my.yaml", r"my.yaml: base: .*my.yaml is based on this recipe itself"),
        ("sed: 1", "base: base.yaml", r"base.yaml: unknown field 'sed'. Did you mean 'seed'\?"),
        ("seed: x", "base: base.yaml\nseed: 1", "base.yaml: seed: invalid int value: 'x'"),
        ("seed: 1", "base: base.yaml\nseed: x", "my.yaml: seed: invalid int value: 'x'"),
        ("- 1", "base: base.yaml", "base.yaml: a recipe is a list of"),
    ],
)
def test_a_wrong_base_is_one_line_that_names_the_file(tmp_path, base, mine, message):
    with pytest.raises(InputError, match=message) as error:
        parse_recipe(write(tmp_path, base=base, my=mine) / "my.yaml")
    assert "\n" not in str(error.value)


@dataclass
class Oven:
    """
    An oven, e.g. one for bread.

    Args:
        heat (`int`, *optional*, defaults to 200): Degrees at 50 % of
            the time. Then it falls.

            Slowly.
        steam (`bool`, *optional*, defaults to `True`):
            Whether it steams, as in Zhu et al. 2019. 0 is dry.
        gone (`int`): No field.
    """

    heat: int = 200
    steam: bool = True
    door: str | None = field(default=None, metadata={"help": "a door"})


@dataclass
class Kiln(Oven):
    """
    A kiln.

    Args:
        heat (`int`, *optional*, defaults to 900): Degrees for clay.
    """

    heat: int = 900
    steam: bool = False


def test_the_help_of_a_field_is_in_the_docstring_of_its_class_or_of_a_base():
    steam = "Whether it steams, as in Zhu et al. 2019. 0 is dry."
    assert field_help(Oven) == {"heat": "Degrees at 50 % of the time. Then it falls. Slowly.", "steam": steam}
    assert field_help(Kiln) == {"heat": "Degrees for clay.", "steam": steam}


def test_the_first_sentence():
    assert first_sentence("Whether it steams, as in Zhu et al. 2019. 0 is dry.") == (
        "Whether it steams, as in Zhu et al. 2019"
    )
    assert first_sentence("At 0.5, i.e. at half. Then more.") == "At 0.5, i.e. at half"
    assert first_sentence("One") == "One"


def test_help_is_the_first_sentence_of_each_field_in_the_group_of_its_class():
    text = " ".join(RecipeParser(Kiln).format_help().split())
    assert "Kiln: --heat int Degrees for clay (default: 900) --steam [true|false] Whether it steams, as in" in text
    assert text.endswith("Oven: --door str a door")
    text = " ".join(RecipeParser(Oven).format_help().split())
    assert "Degrees at 50 % of the time (default: 200)" in text and "--no_steam" not in text


def test_every_field_of_the_project_is_described_and_stands_before_those_of_transformers():
    upstream = {field.name for field in fields(TrainingArguments)}
    for group in TRAINING_RECIPE:
        assert {field.name for field in fields(group)} - upstream <= set(field_help(group))
    text = RecipeParser(TRAINING_RECIPE).format_help()
    assert text.index("\nSemiSupervisedConfig:") < text.index("--num_boxes int") < text.index("\nTrainingArguments:")
    assert first_sentence(field_help(SemiSupervisedConfig)["num_boxes"]) in " ".join(text.split())


@dataclass
class Loaf:
    flour: str
    salt: float = 0.02


def test_a_recipe_may_hold_a_field_that_has_no_default(tmp_path):
    folder = write(tmp_path, my="flour: rye", salt="salt: 0.03")
    assert RecipeParser(Loaf).parse_recipe([str(folder / "my.yaml")]) == (Loaf("rye"),)
    assert RecipeParser(Loaf).parse_recipe([str(folder / "salt.yaml"), "--flour", "oat"]) == (Loaf("oat", 0.03),)
    with pytest.raises(InputError, match="the following arguments are required: --flour"):
        RecipeParser(Loaf).parse_recipe([str(folder / "salt.yaml")])


def test_the_check_of_a_field_names_it_and_what_it_must_be():
    check_field(Oven(), "heat", True, "0 or more")
    with pytest.raises(InputError, match="^heat: must be 300 or more, got 200.$"):
        check_field(Oven(), "heat", False, "300 or more")


def test_the_first_few():
    assert first_few(["a", "b", "c"]) == "a, b, c" and first_few(iter("abcd"), 2) == "a, b, …" and first_few([]) == ""


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_of_the_project_parses(name):
    assert parse_recipe(RECIPES[name]).output_dir == f"runs/{name}"


@pytest.mark.parametrize("name", RECIPES)
def test_the_parsed_values_of_the_recipes(name):
    """A run of a recipe resumes only with the values that it began with, whatever the defaults have become."""
    expected = PARSED["common"] | PARSED[f"{name}.yaml"]
    args = json.loads(json.dumps(vars(parse_recipe(RECIPES[name])), default=str))
    args["labeled_split"] = args["labeled_split"] and args["labeled_split"].replace("_", "/")
    assert {field: args[field] for field in expected} == expected


def test_the_recipe_for_your_data_has_the_defaults_but_for_its_rounds():
    recipe = RecipeParser(TRAINING_RECIPE).parse_recipe([str(RECIPES["your_data_segformer"]), "--use_cpu", "true"])
    own = {"self_training_rounds": 2, "structured_consistency_weight": 1.0, "logit_adjustment": 0.5}
    args = SemiSupervisedConfig(recipe[-1].output_dir, max_steps=7500, use_cpu=True, **own)
    differing = {field.name for field in fields(args) if getattr(args, field.name) != getattr(recipe[-1], field.name)}
    workers = {"dataloader_num_workers", "dataloader_persistent_workers"}
    assert differing == {"semi_supervised_ramp_steps", "seed"} | workers


def test_the_recipes_for_your_data_have_one_shape():
    cpu, *larger = (parse_recipe(RECIPES[f"your_data_{name}"]) for name in ("cpu", "segformer", "dinov2"))
    shared = "self_training_rounds consistency_weight structured_consistency_weight logit_adjustment lr_scheduler_type"
    for name in shared.split():
        assert {getattr(args, name) for args in larger} == {getattr(cpu, name)}


@pytest.mark.parametrize("name", [name for name, values in VALUES.items() if "base" in values])
def test_a_variant_of_the_project_holds_only_what_differs_from_its_base(name):
    variant, base = parse_recipe(RECIPES[name]), parse_recipe(RECIPES[name].parent / VALUES[name]["base"])
    same = [field for field in VALUES[name] if field != "base" and getattr(variant, field) == getattr(base, field)]
    assert not same


@pytest.mark.parametrize(
    ("name", "difference"),
    [
        ("cityscapes_supervised", {"consistency_weight": 0, "structured_consistency_weight": 0}),
        ("cityscapes_consistency", {"structured_consistency_weight": 0}),
        ("cityscapes_student_targets", {"ema_teacher": False}),
        ("cityscapes_student_validation", {"ema_validation": False}),
    ],
)
def test_a_row_of_the_tables_differs_from_the_paper_in_its_own_fields_only(name, difference):
    assert VALUES[name] == {"base": "cityscapes.yaml", "output_dir": f"runs/{name}"} | difference


def test_the_paper_to_the_letter():
    """Section 4.1: every value that the paper gives."""
    args = parse_recipe(RECIPES["cityscapes"])
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
    assert args.crop_size == [896, 896] and args.scale_range == [0.5, 2.0]
    assert args.class_uniform_share == 0.5 and args.class_uniform_tile == 1024
    assert args.coarse_classes == [14, 15, 16, 3, 12, 17, 4] and args.coarse_until_epoch == 150
    assert args.use_coarse_labels and not args.model_config


def test_the_pre_training_of_the_baseline():
    """The values that Zhu et al. 2019 published, and the supervised baseline."""
    args = parse_recipe(RECIPES["mapillary"])
    assert (
        args.dataset == "mapillary"
        and args.consistency_weight == args.structured_consistency_weight == 0
        and args.relaxation_window == 1
    )
    assert (args.optim, args.learning_rate, args.num_train_epochs) == ("sgd", 0.02, 175)
    assert args.lr_scheduler_type == "polynomial" and args.lr_scheduler_kwargs == {"power": 1.0, "lr_end": 0.0}
    assert args.per_device_train_batch_size == 2 and args.sync_batch_norm and args.bf16
    assert args.crop_size == [896, 896] and args.scale_range == [0.5, 2.0]
    assert args.class_uniform_share == 0.5 and args.class_uniform_tile == 1024


@pytest.mark.parametrize("name", ["camvid", "cityscapes_1_8_dinov2", "your_data_segformer"])
def test_the_recipe_that_is_passed_on_is_the_same_run(tmp_path, name):
    given = [
        "--use_cpu",
        "true",
        "--data_dir",
        "/home/me/toy_dataset",
        "--optim",
        "adamw_torch",
        "--lr_scheduler_type",
        "polynomial",
        "--lr_scheduler_kwargs",
    ]
    given += ['{"power": 0.9}', "--unlabeled_dirs", "../drive", "more/drives", "--labeled_seed", "1", "--seed", "5"]
    given += ["--hub_model_id", "me/secret", "--report_to", "none", "--run_name", "first", "--learning_rate", "1e-5"]
    parser = RecipeParser(TRAINING_RECIPE)
    parsed = parser.parse_recipe([str(RECIPES[name]), *given, "--output_dir", "/home/me/runs/toy_dataset"])
    text = parser.portable_recipe()
    assert not {"/home", "..", "me/secret", "first", "Strategy", "Names", "!!", "hub_", "base"} & set(text.split())
    assert "relaxation_window: 3" in text or name != "camvid"  # as the recipe says, though it is the default
    assert "include_num_input_tokens_seen" not in text  # a default that argparse converts
    assert "/home" not in text and "secret" not in text and "unlabeled_dirs: [drive, more/drives]\n" in text
    (tmp_path / "recipe.yaml").write_text(text)
    again = RecipeParser(TRAINING_RECIPE).parse_recipe([str(tmp_path / "recipe.yaml")])
    expected = {"data_dir": "toy_dataset", "output_dir": "toy_dataset", "unlabeled_dirs": ["drive", "more/drives"]}
    expected |= {"hub_model_id": None, "report_to": ["tensorboard"], "run_name": None, "logging_dir": None}
    for before, after in zip(parsed, again):
        for field_ in fields(before):
            value = expected.get(field_.name, getattr(before, field_.name))
            assert getattr(after, field_.name) == value, field_.name


def test_text_that_looks_like_a_number_is_passed_on_as_text(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("labeled_split: 1_8\nlabel_column: '08'\nimage_column: '1e-2'\ndata_dir: ~/toy_dataset\n")
    parser = RecipeParser((DataArguments,))
    parser.parse_recipe([str(recipe)])
    recipe.write_text(parser.portable_recipe())
    (data,) = RecipeParser((DataArguments,)).parse_recipe([str(recipe)])
    assert (data.labeled_split, data.label_column, data.image_column) == ("1/8", "08", "1e-2")
    assert data.data_dir == "toy_dataset" and recipe.read_text().startswith("# DataArguments\ndata_dir: toy_dataset\n")


def test_the_old_name_of_a_field_is_still_read_with_a_warning(tmp_path, caplog):
    assert parse(tmp_path, "teacher_renewal_steps: 7").teacher_update_interval == 7
    assert parse(tmp_path, "seed: 1", "--teacher_renewal_steps", "8").teacher_update_interval == 8
    assert parse(tmp_path, "seed: 1", "--teacher_renewal_steps=0.5").teacher_update_interval == 0.5
    said = "teacher_renewal_steps is now called teacher_update_interval"
    assert [said in record.getMessage() for record in caplog.records].count(True) == 3


def test_no_is_a_word_and_false_where_a_field_is_a_switch(tmp_path):
    (tmp_path / "a.yaml").write_text("eval_strategy: no\nbf16: no\noutput_dir: x\nuse_cpu: yes\n")
    recipe = RecipeParser(TRAINING_RECIPE).parse_recipe([str(tmp_path / "a.yaml")])
    (args,) = (part for part in recipe if hasattr(part, "eval_strategy"))
    assert (args.eval_strategy, args.bf16, args.use_cpu) == ("no", False, True)

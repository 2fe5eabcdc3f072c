"""The command `scl-hf`: it runs a script as `python` does, under the name that was typed."""

import sys

import pytest
from conftest import SMALL_RUN
from forks import run_processes

from scl_hf.__main__ import SCRIPTS, SHORT, main
from scl_hf.cli import RECIPES


@pytest.fixture
def scl_hf(monkeypatch, capsys, tmp_path):
    """Runs the command in an empty folder; returns its exit code, and what it printed."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["scl-hf", *map(str, arguments)])
        monkeypatch.setattr(sys, "path", sys.path[:])
        monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code or 0, "".join(capsys.readouterr())

    return run


def test_the_overview_names_each_command_and_recipe(scl_hf):
    code, printed = scl_hf()
    assert (code, printed) == scl_hf("--help") and code == 0
    assert [line.split()[0] for line in printed.split("\n\n")[1].splitlines()] == sorted([*SCRIPTS, *SHORT])
    assert "\n  train                     Trains a model from a recipe.\n" in printed
    assert printed.endswith(f": {', '.join(RECIPES)}\n")


def test_a_script_has_the_name_that_was_typed(scl_hf):
    assert scl_hf("predict", "--help")[1].startswith("usage: scl-hf predict CHECKPOINT INPUT [INPUT …] --output")
    assert scl_hf("train", "--help")[1].startswith("usage: scl-hf train [RECIPE.yaml]")
    assert scl_hf("check", "--help")[1].startswith("usage: scl-hf check [-h]")
    assert scl_hf("masks")[1].startswith("usage: scl-hf masks [-h]")


def test_wrong_input_is_one_line(scl_hf, tmp_path):
    for arguments, message in (
        (["trian"], "scl-hf has no command 'trian'. Did you mean 'train'?"),
        (["-v"], "scl-hf has no command '-v'. scl-hf --help lists the commands."),
        (["stopping"], "scl-hf has no command 'stopping'. scl-hf --help lists the commands."),
        (["train", "demoo"], "demoo: no such recipe. Did you mean 'demo'? See "),
        (
            ["eval", "runs/demo", "demo", "camvid"],
            "at least one checkpoint and at most one recipe come first: CHECKPOINT",
        ),
    ):
        code, printed = scl_hf(*arguments)
        assert code == 2 and printed.startswith(f"error: {message}") and printed.count("\n") == 1, printed
    assert not [*tmp_path.iterdir()]


def test_check_is_that_of_prepare_dataset(scl_hf, own_folder):
    code, printed = scl_hf("check", own_folder, "--picture", "null")
    assert code == 0 and "Complete and sound" in printed


def test_two_processes_train_a_recipe_by_its_name(toy_dataset, tmp_path):
    fields = {name: value for name, value in SMALL_RUN.items() if not isinstance(value, (dict, list))}
    fields |= {"data_dir": toy_dataset, "output_dir": tmp_path / "run", "max_steps": 1, "eval_strategy": "no"}
    fields |= {"ddp_backend": "gloo", "report_to": "none", "disable_tqdm": True}
    arguments = [text for name, value in fields.items() for text in (f"--{name}", value)]
    result = run_processes(
        2, "scl_hf.__main__", "train", "camvid", "--dataset", "cityscapes", "--crop_size", 32, 32, *arguments
    )
    assert result.returncode == 0, result.stderr
    assert "--num_processes 2" in (tmp_path / "run/README.md").read_text()

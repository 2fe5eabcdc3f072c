"""Writes fields.md, the page of all fields of a recipe, from the parser of scripts/train.py."""

import argparse
import json
from pathlib import Path

from scl_hf.cli import RecipeParser, read_yaml
from scl_hf.config import TRAINING_RECIPE
from scl_hf.dry_run import DryRunArguments

PAGE = Path(__file__).with_name("fields.md")
RECIPES = PAGE.parents[1] / "recipes"
HEAD = """# Fields

After this page you can look up every field of a recipe, its default and what it does. A field stands in a recipe as
`field: value` and on the command line as `--field value`, which wins. On the command line a list has no brackets:
`--crop_size 512 512`. "none" is a field that is left out. `base: other.yaml` in a recipe names what it changes.
In all texts `~` and variables such as `$HOME` are replaced.

The lengths `semi_supervised_start_step`, `semi_supervised_ramp_steps` and `teacher_update_interval` are a number of
steps, or a share of the run below 1. `python docs/make_fields.py` writes this page from the parser.
"""
GROUPS = {
    "ModelArguments": "## Model",
    "DataArguments": "## Data",
    "SemiSupervisedConfig": "## Method, optimization, output",
    "SamplingArguments": "## Sampling",
    "AugmentationArguments": "## Augmentation",
    "EvaluationArguments": "## Evaluation",
    "TrainingArguments": "## Fields of `transformers` that the recipes use\n\nAll other fields of"
    " [`TrainingArguments`](https://huggingface.co/docs/transformers/main_classes/trainer#transformers.TrainingArguments)"
    " work, too.",
    "DryRunArguments": "## Before a run",
}
# Fields of `transformers` that no recipe has, but a page names
ALSO_SHOWN = "activation_checkpointing gradient_accumulation_steps warmup_steps resume_from_checkpoint"
ALSO_SHOWN += " push_to_hub hub_model_id hub_private_repo hub_revision hub_strategy load_best_model_at_end"


def fields_page() -> str:
    """Returns the page. Of the fields of `transformers` it has those that a recipe or a page names."""
    shown = set(ALSO_SHOWN.split()).union(*(read_yaml(path) for path in RECIPES.glob("*.yaml")))
    parts = [HEAD]
    for group in RecipeParser((*TRAINING_RECIPE, DryRunArguments))._action_groups:
        actions = [action for action in group._group_actions if action.help != argparse.SUPPRESS]
        if group.title == "TrainingArguments":
            actions = [action for action in actions if action.dest in shown]
        if group.title in GROUPS and actions:
            parts.append(f"\n{GROUPS[group.title]}\n\n| field | default | |\n|---|---|---|\n")
            parts += [_row(action) for action in actions]
    return "".join(parts)


def _row(action: argparse.Action) -> str:
    value = action.default if isinstance(action.default, str) else json.dumps(action.default)
    default = "none" if action.default is None else f"`{value}`"
    text = action.help.replace("%%", "%").replace("|", "\\|")
    return f"| `{action.dest}` | {default} | {text} |\n"


if __name__ == "__main__":
    PAGE.write_text(fields_page(), encoding="utf-8")

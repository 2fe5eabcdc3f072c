"""Writes fields.md, the page of all fields of a recipe, from the parser of scripts/train.py."""

import json
from pathlib import Path

from scl_hf.cli import RecipeParser, read_yaml
from scl_hf.config import TRAINING_RECIPE
from scl_hf.dry_run import DryRunArguments

PAGE = Path(__file__).with_name("fields.md")
RECIPES = PAGE.parents[1] / "recipes"
HEAD = """# Fields

After this page you can look up every field of a recipe: its type, its default and what it does. A field stands in a recipe as
`field: value` and on the command line as `--field value`, which wins. Lists on the command line are written without brackets:
`--crop_size 512 512`. "none" is a field that is left out. `python docs/make_fields.py` writes this page.
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
ALSO_SHOWN = {"gradient_accumulation_steps", "gradient_checkpointing", "push_to_hub", "resume_from_checkpoint", "warmup_steps"}
ALSO_SHOWN |= {"hub_model_id", "hub_private_repo", "hub_revision", "hub_strategy"}


def fields_page() -> str:
    """Returns the page. Of the fields of `transformers` it has those of the recipes and of the pages."""
    shown = ALSO_SHOWN.union(*(read_yaml(path) for path in RECIPES.glob("*.yaml")))
    parts = [HEAD]
    for group in RecipeParser((*TRAINING_RECIPE, DryRunArguments))._action_groups:
        rows = []
        for action in group._group_actions:
            name, text = action.dest, (action.help or "").replace("%%", "%").replace("|", "\\|")
            if group.title in GROUPS and (group.title != "TrainingArguments" or name in shown) and "SUPPRESS" not in text:
                default = action.default if isinstance(action.default, str) else json.dumps(action.default)
                rows.append(f"| `{name}` | {f'`{default}`' if action.default is not None else 'none'} | {text} |")
        if rows:
            parts += [f"\n{GROUPS[group.title]}\n\n| field | default | |\n|---|---|---|\n", "\n".join(rows), "\n"]
    return "".join(parts)


if __name__ == "__main__":
    PAGE.write_text(fields_page(), encoding="utf-8")

"""What a push to the Hub sends."""

from pathlib import Path

import pytest
from huggingface_hub.errors import HTTPError
from transformers import Trainer, TrainerControl

from scl_hf.errors import InputError


def test_what_is_pushed_while_training_has_the_code_beside_the_weights(make_trainer):
    trainer = make_trainer()
    folder = Path(trainer.args.output_dir)
    folder.mkdir(exist_ok=True)
    trainer.callback_handler.on_push_begin(trainer.args, trainer.state, TrainerControl())
    assert {path.name for path in folder.glob("*.py")} == {
        "configuration_deeplabv3plus.py",
        "configuration_efficientnet_lite.py",
        "modeling_deeplabv3plus.py",
        "modeling_efficientnet_lite.py",
    }


def test_a_last_push_that_fails_says_that_nothing_is_lost(make_trainer, monkeypatch):
    def push(self, **kwargs):
        raise kwargs["error"]

    monkeypatch.setattr(Trainer, "push_to_hub", push)
    trainer = make_trainer()
    for error in (HTTPError("401 Client Error"), ConnectionError("no route")):
        with pytest.raises(
            InputError, match=f"push_to_hub: the Hub cannot be used .{error}.. All is saved in .*again"
        ):
            trainer.push_to_hub(error=error)
    for error in (OSError(28, "No space left"), PermissionError(13, "Permission denied", "config.json")):
        with pytest.raises(OSError, match="No space|config.json"):  # is not the Hub's
            trainer.push_to_hub(error=error)

"""Groups of the optimizer: a learning rate for the encoder, and what weight decay leaves out."""

import pytest
from conftest import build_trainer
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from scl_hf.errors import InputError


def groups(trainer):
    """Learning rate, weight decay and names of the parameters of each group of the optimizer that has some."""
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    found = [group for group in trainer.create_optimizer().param_groups if group["params"]]
    return [(group["lr"], group["weight_decay"], {names[id(p)] for p in group["params"]}) for group in found]


def test_the_encoder_may_have_a_learning_rate_of_its_own(make_trainer):
    trainer = make_trainer(backbone_learning_rate=1e-4, learning_rate=1e-2, max_steps=2)
    (head_rate, _, head), (encoder_rate, _, encoder) = groups(trainer)
    assert (head_rate, encoder_rate) == (1e-2, 1e-4)
    assert all(name.startswith("trunk.") for name in encoder) and not any(name.startswith("trunk.") for name in head)
    assert head | encoder == {name for name, _ in trainer.model.named_parameters()}
    trainer.train()
    first, second = (group["lr"] for group in trainer.optimizer.param_groups if group["params"])
    assert first == second == 0  # the schedule ends for both


def test_weight_decay_leaves_out_what_is_named(toy_data, tmp_path):
    config = SegformerConfig(
        depths=[1] * 4,
        hidden_sizes=[8, 8, 16, 16],
        num_attention_heads=[1, 1, 2, 2],
        decoder_hidden_size=16,
        id2label=toy_data.id2label,
    )
    model = SegformerForSemanticSegmentation(config)
    fields = {"weight_decay": 0.1, "no_weight_decay": ["norms", "biases"], "backbone_learning_rate": 1e-3}
    found = groups(build_trainer(toy_data, tmp_path / "run", model, **fields))
    assert [(rate, decay) for rate, decay, _ in found] == [(0.01, 0.1), (0.01, 0), (1e-3, 0.1), (1e-3, 0)]
    free = found[1][2] | found[3][2]
    assert "decode_head.batch_norm.weight" in free and "decode_head.classifier.weight" not in free
    assert free >= {name for name, _ in model.named_parameters() if name.endswith("bias") or "layer_norm" in name}
    with pytest.raises(InputError, match="no_weight_decay: must be any of norms, biases, position_embeddings"):
        build_trainer(toy_data, tmp_path / "run", no_weight_decay=["embeddings"])

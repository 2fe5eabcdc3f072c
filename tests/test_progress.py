"""The visible side of a run."""

from types import SimpleNamespace

from torch import nn

from scl_hf import SemiSupervisedConfig
from scl_hf.progress import run_summary


def loss_line(num_unlabeled, **fields):
    model = nn.Linear(1, 1)
    model.config = SimpleNamespace(id2label={0: "road"})
    args = SemiSupervisedConfig("out", use_cpu=True, report_to="none", **fields)
    return run_summary(model, args, 4, num_unlabeled, 2).splitlines()[3]


def test_the_summary_says_when_unlabeled_images_join_if_they_do():
    supervised = {"consistency_weight": 0, "structured_consistency_weight": 0}
    assert loss_line(0, **supervised) == "loss       L_x + 0 L_c + 0 L_sc"
    both = "loss       L_x + 1 L_c + 0.5 L_sc, unlabeled images after 6.25 % of the run, ramp of "
    assert loss_line(9) == both + "6.25 % of the run"
    assert loss_line(9, semi_supervised_ramp_steps=20) == both + "20 steps"

"""The classes in the teacher's pseudo-labels, against those in the labels."""

import logging

import pytest
import torch
from accelerate import Accelerator

from scl_hf.evaluation.pseudo_labels import PseudoLabelShares

NAMES = {0: "road", 1: "pole", 2: "traffic light", 3: "train"}


def classes(*ids):
    """(1, 1, W) of them."""
    return torch.tensor(ids)[None, None]


def test_shares_against_those_of_the_labels_and_a_warning_where_a_class_fades(caplog, capsys):
    shares, accelerator = PseudoLabelShares(lambda: torch.tensor([0.5, 0.3, 0.2, 0.0]), NAMES), Accelerator(cpu=True)
    assert shares.report(accelerator) == {}
    valid = torch.tensor([[[True, True, True, False]]])
    shares.add(classes(0, 0, 0, 1), valid)
    shares.add(classes(0, 2, 3, 1), valid)
    logging.getLogger("scl_hf").propagate = True
    with caplog.at_level(logging.WARNING):
        report = shares.report(accelerator)
    # 6 pixels count: 4 road, 1 traffic light, 1 train, which the labels do not have.
    assert report == pytest.approx(
        {
            "pseudo_label_share_road": 4 / 6 / 0.5,
            "pseudo_label_share_pole": 0,
            "pseudo_label_share_traffic_light": 1 / 6 / 0.2,
        }
    )
    assert "hardly show pole: less than 10 %" in caplog.text
    lowest = (
        "share in the pseudo-labels over share in the labels, lowest first: pole 0.00, traffic light 0.83, road 1.33\n"
    )
    assert capsys.readouterr().out == f"\n{lowest}"

    # Counted anew, and warned of once.
    caplog.clear()
    shares.add(classes(1, 1, 0, 0), torch.ones(1, 1, 4, dtype=torch.bool))
    assert shares.report(accelerator)["pseudo_label_share_pole"] == pytest.approx(0.5 / 0.3)
    shares.add(classes(0, 2), torch.ones(1, 1, 2, dtype=torch.bool))
    shares.report(accelerator)
    assert "pole" not in caplog.text


def test_a_run_logs_them_at_each_evaluation(make_trainer):
    trainer = make_trainer(eval_strategy="steps", eval_steps=1, max_steps=2, semi_supervised_start_step=1)
    trainer.train()
    first, second = (log for log in trainer.state.log_history if "eval_mean_iou" in log)
    assert not any(name.startswith("eval_pseudo_label_share_") for name in first)  # supervised
    shares = [value for name, value in second.items() if name.startswith("eval_pseudo_label_share_")]
    assert shares and all(value >= 0 for value in shares) and sum(shares) > 0

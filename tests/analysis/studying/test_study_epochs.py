"""Accuracy by epoch and at equal cost, by hand."""

import pandas as pd
import pytest

from analysis.studying.study_epochs import MORE, epochs_table, equal_cost_table

PLUS_MINUS = "\N{PLUS-MINUS SIGN}"


@pytest.fixture
def curves():
    """Dense spends 10 s and a half of its gradients an epoch; the plan 4 s and a tenth."""
    rows = []
    for seed in (0, 1):
        for method, budget, top1, seconds, sent in (
            ("full", "dense", (0.4, 0.6, 0.7), 10.0, 0.5),
            ("plan", "its own", (0.4, 0.5, 0.6), 4.0, 0.1),
        ):
            for epoch, reached in enumerate(top1):
                head = {"cluster": "c", "method": method, "budget": budget, "seed": seed}
                spent = {"simulated_s": epoch * seconds, "gradient_fraction": epoch * sent}
                rows.append(head | spent | {"epoch": epoch, "top1": reached + 0.02 * seed})
    return pd.DataFrame(rows)


def test_every_epoch_has_its_mean_and_spread(curves):
    full, plan = epochs_table(curves).to_dict("records")
    assert full["epoch 1"] == f"61.0 {PLUS_MINUS} 1.4"
    assert plan["epoch 2"] == f"61.0 {PLUS_MINUS} 1.4"
    assert plan["seeds"] == "2"


def test_one_seed_has_no_spread(curves):
    full, _ = epochs_table(curves[curves["seed"] == 0]).to_dict("records")
    assert full["epoch 2"] == "70.0"


def test_at_equal_seconds_a_line_is_drawn_between_evaluations(curves):
    slower = curves.copy()
    slower.loc[slower["method"] == "plan", "simulated_s"] *= 4
    full, plan = equal_cost_table(slower, "simulated_s").to_dict("records")
    after_one, after_two = list(full)[2:]
    assert full[after_one].startswith("61.0")
    assert plan[after_one] == f"{40 + 10 * 10 / 16 + 1:.1f} {PLUS_MINUS} 1.4"
    assert plan[after_two] == f"{50 + 10 * 4 / 16 + 1:.1f} {PLUS_MINUS} 1.4"


@pytest.mark.parametrize("column", ["simulated_s", "gradient_fraction"])
def test_who_has_ended_with_less_says_so(curves, column):
    full, plan = equal_cost_table(curves, column).to_dict("records")
    assert not any(text.endswith(MORE) for text in full.values())
    assert list(plan.values())[-1] == f"61.0 {PLUS_MINUS} 1.4{MORE}"


def test_losses_stand_as_they_are_beside_top_1_in_percent(curves):
    curves["test_loss"] = 5.0 - curves["epoch"] - 0.1 * curves["seed"]
    full, _ = epochs_table(curves, "test_loss").to_dict("records")
    assert full["epoch 1"] == f"3.950 {PLUS_MINUS} 0.071"
    _, plan = equal_cost_table(curves, "simulated_s", "test_loss").to_dict("records")
    assert list(plan.values())[-1] == f"2.950 {PLUS_MINUS} 0.071{MORE}"

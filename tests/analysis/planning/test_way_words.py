"""What is said of a plan's maker, and of adapters under a budget of bytes."""

from types import SimpleNamespace
from typing import Any

import pytest

from analysis.planning.way_words import adapters_text, chosen_by


def planned(method: str, *, lora: object, communication: float) -> Any:
    plan = SimpleNamespace(
        workload=SimpleNamespace(lora=lora), budget=SimpleNamespace(communication=communication)
    )
    return SimpleNamespace(found=SimpleNamespace(plan=plan, method=method))


@pytest.mark.parametrize(
    ("method", "said"),
    [("rest", "Adapters rest, which costs"), ("fewer samples", "No adapter rests")],
)
def test_a_budget_of_bytes_says_what_becomes_of_adapters(method: str, said: str) -> None:
    assert adapters_text(planned(method, lora=object(), communication=0.5)).startswith(said)
    assert adapters_text(planned(method, lora=None, communication=0.5)) == ""
    assert adapters_text(planned(method, lora=object(), communication=1.0)) == ""


def test_a_search_is_no_solver() -> None:
    made: Any = SimpleNamespace(solver=SimpleNamespace(name="ways", status="FEASIBLE"))
    assert chosen_by(made) == "a search over ways"
    made.solver.name, made.solver.status = "dp", "OPTIMAL"
    assert chosen_by(made) == "the solver dp (OPTIMAL for its scores)"

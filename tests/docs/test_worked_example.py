"""Every number of the worked example of docs/concepts.md, recomputed with the package."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest

from d2ft_sched import Operation, Problem, solve
from d2ft_sched.costs.exchange import Exchange, plan_exchange
from d2ft_sched.costs.flops import attention_flops, mlp_flops, operation_flops
from d2ft_sched.model.partition import partition_by_heads
from d2ft_sched.model.shape import ModelShape
from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.placement import Placement

sys.path.insert(0, str(Path(__file__).parent))
from pages import PAGES

PAGE = PAGES["concepts"].read_text()
FAST, SLOW = 0, 1
SHAPE = ModelShape("toy", 2, 2, 2, 4, 8, 3)
WORKLOAD = Workload(SHAPE, partition_by_heads(SHAPE, 1), (1, 1, 1))
PLACEMENT = Placement(2, (FAST, SLOW, FAST, SLOW), (FAST, SLOW, FAST))
LETTERS = {"F": Operation.FULL, "O": Operation.FORWARD_ONLY, "S": Operation.SHORTCUT}


def _rows(marker: str) -> list[list[str]]:
    """Cells of the table that follows a text, without its head."""
    after = PAGE.partition(marker)[2]
    table = re.search(r"(?:^\|.*\n)+", after, re.MULTILINE)
    assert table
    lines = table[0].splitlines()[2:]
    return [[cell.strip().strip("*` ") for cell in line.strip("|").split("|")] for line in lines]


@pytest.fixture
def scores() -> np.ndarray:
    """Backward and forward, float ``[2, 2 subnets of slow, 3]``."""
    cells = [[cell.split("/") for cell in row[1:]] for row in _rows("<!-- scores -->")]
    return np.array(cells, dtype=float).transpose(2, 0, 1)


def _schedule(page_rows: list[list[str]]) -> np.ndarray:
    return np.array([[LETTERS[c] for c in row[2:]] for row in page_rows], dtype=np.int8)


def _problem(scores: np.ndarray) -> Problem:
    backward, forward = scores
    value = np.zeros((2, 3, 3))
    value[..., Operation.FORWARD_ONLY] = forward
    value[..., Operation.FULL] = forward + backward
    cost = np.broadcast_to([0.0, 1.0, 3.0], (1, 2, 3, 3))
    return Problem(value, cost, np.array([0, 1]), np.array([[6.0], [6.0]]))


def test_flops() -> None:
    parts = {row[0]: row[-1] for row in _rows("a multiply-add counts 2.")}
    attention, mlp = attention_flops(WORKLOAD), mlp_flops(WORKLOAD)
    inner = float(parts["scores and weighted values"])
    linear = float(parts["queries, keys, values"]) + float(parts["output projection"])
    assert attention.forward[0, 0] == inner + linear
    assert mlp.forward[0, 0] == float(parts["MLP"])
    flops = operation_flops(WORKLOAD)
    assert (flops == flops[:1, :1]).all()
    assert flops[0, 0, Operation.FORWARD_ONLY] == float(parts["FORWARD_ONLY"]) == 456
    assert flops[0, 0, Operation.FULL] == 1404
    weights = attention.backward_weight[0, 0] + mlp.backward_weight[0, 0]
    assert weights == 384
    assert attention.backward_input[0, 0] + mlp.backward_input[0, 0] == 384 + 180
    assert "456 + 384 +\n384 + 180 = **1404**" in PAGE


def test_two_stage_and_exact(scores: np.ndarray) -> None:
    problem = _problem(scores)
    exact, two_stage = solve(problem, "dp"), solve(problem, "two_stage")
    assert exact.status == "OPTIMAL"
    assert exact.objective == 23
    assert two_stage.objective == 22
    assert "In all 23." in PAGE
    assert "In all **22**" in PAGE
    assert exact.schedule is not None
    assert two_stage.schedule is not None
    full = Operation.FULL
    assert two_stage.schedule[0].tolist() == [full, Operation.SHORTCUT, full]
    best = [(exact.schedule[s], problem.value[s, np.arange(3), exact.schedule[s]]) for s in (0, 1)]
    assert [value.sum() for _, value in best] == [13, 10]
    assert (_schedule(_rows("The schedule, `F`"))[[1, 3]] == exact.schedule).all()


def test_best_values_by_counts(scores: np.ndarray) -> None:
    backward, forward = scores[:, 0]
    for row in _rows("leave no room for more:"):
        num_full, num_forward, cost = (int(cell) for cell in row[:3])
        assert cost == 3 * num_full + num_forward <= 6
        best = max(
            sum(
                (LETTERS[o] == 2) * backward[i] + (o != "S") * forward[i] for i, o in enumerate(ops)
            )
            for ops in np.array(np.meshgrid(*[list("FOS")] * 3)).reshape(3, -1).T.tolist()
            if (ops.count("F"), ops.count("O")) == (num_full, num_forward)
        )
        assert float(row[3].rpartition("=")[2].strip(" *") or row[3]) == best


def _pairs(exchange: Exchange) -> np.ndarray:
    """Bytes between the devices in block 0, of all dispatches and combines."""
    both = sum(exchange.dispatch_bytes(direction, 0) for direction in (0, 1))
    return 2 * (both + both.T)


def test_bytes() -> None:
    schedule = _schedule(_rows("The schedule, `F`"))
    exchange = plan_exchange(WORKLOAD, PLACEMENT, schedule)
    assert exchange.message_bytes.tolist() == [48, 48, 48]
    assert _pairs(exchange).sum() == 960
    dense = plan_exchange(WORKLOAD, PLACEMENT, np.full((4, 3), Operation.FULL))
    assert _pairs(dense).sum() == 1152
    for figure in ("**48 bytes**", "8 x 48 = **384 bytes**", "576 bytes", "**960 bytes**, 1152"):
        assert figure in PAGE

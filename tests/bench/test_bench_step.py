"""What the benchmark of steps says of where their time goes."""

import pytest

from bench.bench_step import Row, _beyond_flops
from runtime.measure.steps_side_by_side import StepSeconds


def test_parts_of_what_a_plan_takes_beyond_its_flops_add_up_to_it() -> None:
    dense = StepSeconds(2.0, 0.0, 0.6, 1.2, 0.2, 3)
    row = Row(StepSeconds(1.5, 0.0, 0.4, 0.95, 0.15, 3), flops=0.6, masked=0.05, groups=3.0)
    parts = _beyond_flops(row, dense, trunk_s=0.1)
    assert sum(parts) == pytest.approx(1.5 / 2.0 - 0.6)
    assert parts[0] == pytest.approx((0.25 - 0.6 * 0.3) / 2.0)
    assert parts[1] == pytest.approx(0.05 * 1.7 / 2.0)
    assert _beyond_flops(Row(dense, 1.0, 0.0, 1.0), dense, 0.1) == pytest.approx((0, 0, 0))

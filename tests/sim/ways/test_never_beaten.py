"""Plans never lose to their own table: some of the cases of `bench.bench_ways`, which has all."""

import warnings

import pytest

from bench.bench_ways import row
from bench.way_cases import Case, cases

SMALL = [
    case
    for case in cases(per_cluster=2)
    if len(case.cluster.devices) <= 4 and case.workload.shape.num_blocks <= 12
]


def test_there_are_enough_cases() -> None:
    assert len(list(cases())) >= 40


@pytest.mark.parametrize("case", SMALL[::3], ids=lambda case: case.name)
def test_no_way_and_no_fewer_samples_are_faster(case: Case) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = row(case)
    assert found["lower_bound_s"] < found["least_dense_s"]
    assert found["over_least"] <= 0.01
    assert found["compute_0.6_s"] <= found["fewer_samples_s"]
    assert found["and_bytes_0.5_s"] <= found["fewer_samples_s"]

import numpy as np
import pytest

from d2ft_sched.solvers.single.linear_relaxation import _solve_small


def test_small_systems_are_solved_as_numpy_does() -> None:
    rng = np.random.default_rng(0)
    factor = rng.normal(size=(50, 3, 3)) * 10.0 ** rng.integers(-6, 6, size=(50, 3, 1))
    matrix = factor @ factor.transpose(0, 2, 1)
    wanted = rng.normal(size=(3, 50)) / np.sqrt(np.einsum("krr->rk", matrix))
    right = np.einsum("krq,qk->rk", matrix, wanted)
    well = np.linalg.cond(factor / np.linalg.norm(factor, axis=2, keepdims=True)) < 1e3
    assert well.sum() > 40
    assert _solve_small(matrix, right)[:, well] == pytest.approx(wanted[:, well], rel=1e-6)


@pytest.mark.parametrize(
    "matrix",
    [
        [[0.0, 0.0], [0.0, 0.0]],
        [[1.0, 1.0], [1.0, 1.0]],
        [[1e-20, 1.0], [1.0, 1e20]],
        [[-1e-14, 0.0], [0.0, 1.0]],
        [[np.inf, 1.0], [1.0, 1.0]],
    ],
)
def test_what_rounding_leaves_of_a_converged_knapsack_is_no_obstacle(
    matrix: list[list[float]],
) -> None:
    solved = _solve_small(
        np.array([matrix, np.eye(2).tolist()]), np.array([[1.0, 2.0], [1.0, 3.0]])
    )
    assert not np.isnan(solved).any()
    assert solved[:, 1] == pytest.approx([2.0, 3.0])

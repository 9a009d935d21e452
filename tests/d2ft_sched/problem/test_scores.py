import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2ft_sched.errors import InputError
from d2ft_sched.problem.scores import Scores, load_scores, save_scores
from d2ft_sched.schedule.operations import Operation

finite = st.floats(0, 1e300, allow_subnormal=True)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 4), st.integers(1, 4), st.data())
def test_the_file_round_trips_exactly(tmp_path_factory, num_subnets, num_microbatches, data):
    cells = num_subnets * num_microbatches
    draw = [data.draw(st.lists(finite, min_size=cells, max_size=cells)) for _ in range(2)]
    scores = Scores(*(np.reshape(d, (num_subnets, num_microbatches)) for d in draw))
    path = tmp_path_factory.mktemp("scores") / "scores.csv"
    save_scores(scores, path)
    loaded = load_scores(path, num_subnets, num_microbatches)
    np.testing.assert_array_equal(loaded.forward, scores.forward)
    np.testing.assert_array_equal(loaded.backward, scores.backward)


def test_values_bring_both_scores_to_mean_one():
    forward, backward = np.array([[1.0, 3.0]]), np.array([[1e-9, 0.0]])
    value = Scores(forward, backward).values(forward_weight=0.25)
    np.testing.assert_allclose(value[..., Operation.SHORTCUT], 0)
    np.testing.assert_allclose(value[..., Operation.FORWARD_ONLY], [[0.125, 0.375]])
    np.testing.assert_allclose(value[..., Operation.FULL], [[0.125 + 1.5, 0.375]])


def test_the_largest_scores_keep_their_values():
    table = np.array([[1.0, 3.0]])
    small, large = (Scores(table * unit, table * unit).values() for unit in (1.0, 5e307))
    np.testing.assert_allclose(large, small)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -1.0])
def test_a_score_that_is_no_finite_number_is_refused(wrong):
    table = np.ones((2, 3))
    table[1, 2] = wrong
    with pytest.raises(InputError, match="backward score of subnet 1, micro-batch 2"):
        Scores(np.ones((2, 3)), table)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "first line"),
        ("a,b\n1,2\n", "first line"),
        ("subnet,microbatch,forward_score,backward_score\n0,0,1,1\n", "micro-batch 1 has no line"),
        ("subnet,microbatch,forward_score,backward_score\n0,5,1,1\n", "line 2"),
        ("subnet,microbatch,forward_score,backward_score\n0,0,x,1\n", "line 2"),
        ("subnet,microbatch,forward_score,backward_score\n0,0,1,0,5\n", "line 2"),
        ("subnet,microbatch,forward_score,backward_score\n0,0,1\n", "line 2"),
        ("subnet,microbatch,forward_score,backward_score\n0,0,nan,1\n0,1,1,1\n", "is nan"),
        ("subnet,microbatch,forward_score,backward_score\n0,0,1,1\n0,0,1,1\n", "line 3 repeats"),
        pytest.param("1" * 200_000, "is not a scores table", id="huge field"),
    ],
)
def test_a_damaged_table_is_refused_by_name_and_line(tmp_path, text, message):
    path = tmp_path / "s.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        load_scores(path, 1, 2)
    assert str(path) in str(caught.value)

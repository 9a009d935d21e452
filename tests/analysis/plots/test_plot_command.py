"""``d2ft plot``: tables in, pictures out, and a wrong file in one line."""

import pandas as pd
import pytest

from analysis.comparing.scaling import run_cases, scaling_cases, scaling_table
from analysis.validating.plans_tried import QUANTITIES


@pytest.fixture
def tables(run_dir, tmp_path):
    """Files that other commands write, by name."""
    cases = scaling_cases(["dp"], [3], [0.5], num_microbatches=2, seed=0, time_limit_s=10)
    made = {
        "solvers": scaling_table(list(run_cases(cases))),
        "validation": pd.DataFrame(
            [
                {
                    "plan": plan,
                    **{f"{said}_{q}": factor * scale for q in QUANTITIES for said, factor in
                       (("predicted", 1.0), ("measured", 1.05))},
                }
                for plan, scale in (("dense", 2e9), ("dp, compute 0.6, bytes 1", 1e9))
            ]
        ),
        "curves": pd.DataFrame(
            {
                "cluster": ["one"] * 2 + ["two"] * 2, "budget": "60 %", "method": "exact",
                "epoch": [0, 1] * 2, "top1": [0.1, 0.8, 0.2, 0.9],
                "compute_fraction": [0.0, 0.6] * 2, "simulated_s": [0.0, 10.0] * 2,
            }
        ),
        "summary": pd.DataFrame(
            {
                "cluster": "one", "budget": ["60 %", "dense"], "method": ["exact", "full"],
                "top1_mean": [0.8, 0.9], "top1_std": [0.01, None], "compute_fraction": [0.6, 1.0],
            }
        ),
    }  # fmt: skip
    paths = {"plan": run_dir / "plan.json"}
    for name, table in made.items():
        paths[name] = tmp_path / f"{name}.csv"
        table.to_csv(paths[name], index=False)
    return paths


@pytest.mark.parametrize(
    ("picture", "table"),
    [
        ("solvers", "solvers"), ("validation", "validation"),
        ("accuracy", "curves"), ("accuracy-time", "curves"), ("topology", "plan"),
        ("accuracy-ranked", "summary"),
    ],
)  # fmt: skip
def test_every_kind_of_table_has_a_picture(d2ft, tables, picture, table):
    code, printed, err = d2ft("plot", picture, tables[table])
    assert code == 0, err
    for kind in ("png", "svg"):
        path = tables[table].with_name(f"{picture}.{kind}")
        assert path.stat().st_size > 5000
        assert str(path) in printed


def test_where_chooses_rows_and_the_ending_the_kind(d2ft, tables, tmp_path):
    paths = [tmp_path / f"{name}.svg" for name in ("one", "two")]
    for path in paths:
        code, _, err = d2ft(
            "plot", "accuracy", tables["curves"], "--where", f"cluster={path.stem}", "--out", path
        )
        assert code == 0, err
        assert not path.with_suffix(".png").exists()
    assert paths[0].read_text() != paths[1].read_text()


def test_a_picture_is_the_same_bytes_each_time(d2ft, tables, tmp_path):
    for name in ("first.svg", "second.svg", "first.pdf", "second.pdf"):
        assert d2ft("plot", "schedule", tables["plan"], "--out", tmp_path / name)[0] == 0
    for kind in ("svg", "pdf"):
        first, second = (tmp_path / f"{name}.{kind}" for name in ("first", "second"))
        assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["tradeoff", "none.csv"], "none.csv: cannot be read (No such file or directory)"),
        (["tradeoff", "curves"], "has no column"),
        (["topology", "curves"], "is damaged: not JSON"),
        (["scores", "curves"], "scores needs --plan"),
        (["schedule", "plan", "--plan", "x.json"], "--plan goes with the picture scores"),
        (["schedule", "plan", "--where", "a=b"], "--where goes with pictures of tables"),
        (["accuracy", "curves", "--where", "cluster"], "it must be COLUMN=VALUE with a column of"),
        (["accuracy", "curves", "--where", "cluster=x"], "has no such row; cluster is one, two"),
        (["accuracy", "curves", "--where", "top1=high"], "has no such row; top1 is"),
        (["accuracy", "curves", "--out", "x.gif"], "a picture ends in .png, .svg, .pdf"),
        (["accuracy", "damaged"], "line 3: top1 is 'high'; it must be a number"),
        (["accuracy", "empty"], "cannot be read as a table"),
    ],
)
def test_what_does_not_fit_is_one_line(d2ft, tables, tmp_path, arguments, said):
    tables["damaged"] = tmp_path / "damaged.csv"
    tables["damaged"].write_text(
        "cluster,budget,method,epoch,top1,compute_fraction\na,b,m,0,0.1,0.1\na,b,m,1,high,0.2\n"
    )
    tables["empty"] = tmp_path / "empty.csv"
    tables["empty"].write_text("")
    picture, file, *rest = arguments
    code, printed, err = d2ft("plot", picture, tables.get(file, tmp_path / file), *rest)
    assert code == 2
    assert printed == ""
    assert said in err
    assert len(err.splitlines()) == 1
    assert not list(tmp_path.glob("accuracy.*"))

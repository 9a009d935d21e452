"""Step times of the headline study's methods on a testbed of six unequal hosts.

``python -m bench.bench_headline --out DIR`` (Linux, root, iproute2) profiles the testbed, plans for
what it measured, trains a few steps by every plan and writes predicted beside measured. What DIR
already has is not run again. Without arguments the same to ``out/headline_steps``.
"""

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.console.output import messages, print_table, seconds
from analysis.finetuning.metrics_file import METRICS, read_records
from analysis.finetuning.read_back import steps_of
from d2ft_sched import provenance
from d2ft_sched.files.atomic_write import write_text
from runtime import device_name, select_device

ROOT = Path(__file__).parents[1]
CLUSTER = ROOT / "examples/clusters/testbed_one_slow_of_six.yaml"
D2FT = (sys.executable, "-m", "analysis.cli")
MODEL = ("--model", "vit_small_patch14_dinov2", "--image-size", "42")
MICROBATCH_SAMPLES = 16
NUM_STEPS = 13
NUM_FIRST = 3
"""Steps at the beginning that count for nothing: they set much up."""


@dataclass(frozen=True)
class Method:
    """A row of the table.

    Attributes:
        placement: as `d2ft plan --placement` takes it.
        microbatches: of a mini-batch.
        step_time: that its plan is made for, of the predicted step of `METHODS[0]`; None for a
            dense step.
    """

    name: str
    placement: str
    microbatches: int = 5
    step_time: float | None = None


METHODS = (
    Method("dense, best placement", "balanced"),
    Method("dense, naive placement", "round-robin"),
    Method("2 of 5 micro-batches, best placement", "balanced", 2),
    Method("3 of 5 micro-batches, best placement", "balanced", 3),
    Method("D2FT exact, naive placement", "round-robin", step_time=0.63),
)
"""Those of the study, at its step time."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("out/headline_steps"))
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    measured = out / "cluster.yaml"
    if not measured.exists():
        messages.print("profiling the testbed")
        on_testbed("profile", "--cluster-out", measured, "--repeats", 5, *MODEL)
    rows: list[dict[str, Any]] = []
    for method in METHODS:
        messages.print(method.name)
        options = ["--placement", method.placement]
        if method.step_time is not None:
            target_s = method.step_time * rows[0]["predicted_step_s"]
            options += ["--target-step-time", f"{target_s}s"]
        rows.append(row(method, options, measured, out))
    table = pd.DataFrame(rows)
    for kind in ("predicted", "measured"):
        of_dense = table[f"{kind}_step_s"].iloc[0] / table[f"{kind}_step_s"]
        table[f"{kind}_times_faster_than_best_dense"] = of_dense
    write_text(out / "steps.csv", table.to_csv(index=False))
    device = device_name(select_device("cpu"))
    record = provenance(0, device=f"{device}, six ranks on one machine")
    write_text(out / "provenance.json", json.dumps(record, indent=1, default=str) + "\n")
    print_table(
        f"{CLUSTER.stem}; {device}, six ranks on one machine",
        ["method", "predicted", "measured", "faster than dense, predicted", "measured"],
        [
            [
                r["method"],
                seconds(r["predicted_step_s"]),
                seconds(r["measured_step_s"]),
                f"{r['predicted_times_faster_than_best_dense']:.2f}",
                f"{r['measured_times_faster_than_best_dense']:.2f}",
            ]
            for r in table.to_dict(orient="records")
        ],
    )


def row(method: Method, options: list[str], measured: Path, out: Path) -> dict[str, Any]:
    """Plan, predict and run one method."""
    name = method.name.replace(", ", "_").replace(" ", "_").replace("-", "_")
    plan, folder = out / f"{name}.json", out / name
    if not plan.exists():
        d2ft(
            "plan", "--cluster", measured, *MODEL, "--microbatches", method.microbatches,
            "--microbatch-size", MICROBATCH_SAMPLES, *options, "--out", plan,
        )  # fmt: skip
    predicted = json.loads(d2ft("simulate", plan, "--json"))["plan"]
    if not (folder / "provenance.json").exists():
        on_testbed(
            "finetune", plan, "--data", "mnist-subset", "--image-size", 42, "--device", "cpu",
            "--num-train", NUM_STEPS * MICROBATCH_SAMPLES * method.microbatches, "--num-test", 20,
            "--epochs", 1, "--no-linear-probe", "--out", folder,
        )  # fmt: skip
    steps = steps_of(read_records(folder / METRICS))
    return {
        "method": method.name,
        "predicted_step_s": predicted["step_s"],
        "measured_step_s": steps["step_s"][NUM_FIRST:].median(),
        "num_steps": len(steps) - NUM_FIRST,
        "flops": predicted["flops"],
        "exchange_bytes": predicted["exchange_bytes"],
    }


def on_testbed(*arguments: object) -> str:
    """What `d2ft` prints on the hosts of the testbed."""
    return d2ft("testbed", "--cluster", CLUSTER, "--", *D2FT, *arguments)


def d2ft(*arguments: object) -> str:
    """What the command prints; its complaint ends this program."""
    command = [*D2FT, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"d2ft {' '.join(map(str, arguments))}: {done.stderr[-2000:]}")
    return done.stdout


if __name__ == "__main__":
    main()

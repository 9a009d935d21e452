"""The line below the bar of a training, and the bar that shows it."""

import io

from rich.console import Console

from analysis.console.progress import TerminalProgress
from analysis.console.step_line import NUM_STEPS, StepLine


def test_the_pace_is_that_of_the_last_steps() -> None:
    line = StepLine(0.446, "my-lab")
    for _ in range(NUM_STEPS):
        line.after(9.0, 1, 100.0, 0)
    for step_s in [0.5] * (NUM_STEPS - 1) + [10.5]:
        said = line.after(1.25, 40, step_s, 1_200_000_000)
    assert said == (
        "loss 1.2500, 40.0 samples/s, step 500\N{NO-BREAK SPACE}ms "
        "(446\N{NO-BREAK SPACE}ms predicted for my-lab), peak memory 1.20\N{NO-BREAK SPACE}GB"
    )


def test_the_last_line_stays_below_the_bar() -> None:
    written = io.StringIO()
    with TerminalProgress(Console(file=written, width=120)).stage("Fine-tune") as tell:
        tell(1, 2, "loss 2")
        tell(2, 2, "loss\n1")
    shown = written.getvalue().splitlines()
    assert "2/2" in shown[-2]
    assert shown[-1] == "loss\\n1"

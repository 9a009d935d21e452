"""One self-contained HTML file, and its pictures, from whatever results a directory holds."""

import base64
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jinja2
from markupsafe import Markup
from matplotlib.figure import Figure

from analysis.console.formatting import percent
from analysis.console.plain_text import one_line
from analysis.plots.save import BOTH, render
from analysis.reporting.report_demo import demo_part
from analysis.reporting.report_finetune import finetune_part
from analysis.reporting.report_part import Part, first_screen
from analysis.reporting.report_plan import plan_part
from analysis.reporting.report_study import study_part
from analysis.reporting.report_sweep import sweep_part
from analysis.reporting.report_validation import validation_part
from d2ft_sched.errors import InputError
from d2ft_sched.files.atomic_write import write_bytes, write_text

REPORT = "report.html"
PICTURES = "pictures"
KINDS: dict[str, tuple[Callable[[Path], Part | None], str, str]] = {
    "demo": (demo_part, "demo", "a whole job: scores, plan, measured steps and trainings"),
    "plan": (plan_part, "plan", "a plan and its predicted step"),
    "validate": (validation_part, "validate", "predictions held against measurements"),
    "study": (study_part, "study", "methods, budgets and seeds compared by training"),
    "finetune": (finetune_part, "finetune", "a training by a plan: what it took and reached"),
    "sweep": (sweep_part, "sweep", "a grid of budgets, solvers and bandwidths, predicted"),
}
"""By command: what reads its results, the folder in which they may lie, and what they are."""
IN_DEMO = ("plan", "finetune")
"""Commands whose results are part of a demo's."""
LONGEST_TEXT = 4000
"""Characters of a paragraph, which may list many names."""
_LARGEST_SVG_BYTES = 300_000


@dataclass(frozen=True)
class Picture:
    """A figure of the report.

    Attributes:
        name: of its PNG file, without the ending.
        alt: what it shows, for those who do not see it.
        data_uri: its SVG, which stays sharp when enlarged, or its PNG where the SVG is large.
    """

    name: str
    alt: str
    data_uri: Markup


def write_report(run_dir: Path) -> Path:
    """Make ``report.html`` and ``pictures/*.png`` in a run directory from its other files.

    Results of a command are looked for in the directory itself and in its folder of the command's
    name, such as ``validate``.

    Returns:
        The path of the HTML file.

    Raises:
        InputError: there are no results, or damaged ones; then nothing is written.
    """
    run_dir = Path(run_dir)
    parts, missing = find_parts(run_dir)
    drawings = {name: drawing for part in parts for name, drawing in part.drawings.items()}
    rendered = {name: _rendered(draw()) for name, (draw, _) in drawings.items()}
    pictures = {
        name: Picture(name, alt, _data_uri(*rendered[name])) for name, (_, alt) in drawings.items()
    }
    html = render_html(parts, missing, pictures)
    for name, (png, _) in rendered.items():
        write_bytes(run_dir / PICTURES / f"{name}.png", png)
    write_text(run_dir / REPORT, html)
    return run_dir / REPORT


def find_parts(run_dir: Path) -> tuple[list[Part], list[str]]:
    """What there is to report, and a line for each kind of results that is not there.

    Raises:
        InputError: no directory, no results in it, or damaged ones.
    """
    if not run_dir.is_dir():
        raise InputError(f"{run_dir}: is not a run directory; make one with 'd2ft demo --out DIR'")
    parts: list[Part] = []
    missing: dict[str, str] = {}
    for command, (read, folder, what) in KINDS.items():
        found = read(run_dir) or read(run_dir / folder)
        if found:
            parts.append(found)
        else:
            missing[command] = f"{what} (d2ft {command})"
    if not parts:
        raise InputError(
            f"{run_dir}: has no results; d2ft {', '.join(KINDS)} write some with --out"
        )
    is_demo = parts[0].name == "demo"
    return parts, [
        line for command, line in missing.items() if not (is_demo and command in IN_DEMO)
    ]


def render_html(parts: list[Part], missing: list[str], pictures: dict[str, Picture]) -> str:
    """The report's text with its pictures inside."""
    return (
        template_environment()
        .get_template("report.html.j2")
        .render(
            title="; ".join(part.title for part in parts),
            questions=[part.question for part in parts],
            answers=first_screen(parts),
            parts=parts,
            missing=missing,
            pictures=pictures,
            percent=percent,
        )
    )


def template_environment() -> jinja2.Environment:
    """Where templates live; whatever they are given is shown inert."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("analysis"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_inert,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _inert(value: object) -> object:
    """Texts as people may see them; what is HTML already, as it is."""
    return one_line(value, LONGEST_TEXT) if type(value) is str else value


def _rendered(figure: Figure) -> tuple[bytes, ...]:
    """As PNG and as SVG."""
    return tuple(render(figure, kind) for kind in BOTH)


def _data_uri(png: bytes, svg: bytes) -> Markup:
    data, kind = (svg, "svg+xml") if len(svg) <= _LARGEST_SVG_BYTES else (png, "png")
    return Markup(f"data:image/{kind};base64,{base64.b64encode(data).decode()}")

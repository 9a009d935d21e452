"""What a report is made of: parts, each from the results of one command."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from analysis.plots.save import Drawing
from analysis.reporting.headline import Answer
from analysis.reporting.report_tables import Table

SAVING = "What will I save?"
CERTAINTY = "How sure is that?"
ACCURACY = "What does it cost in accuracy?"


@dataclass(frozen=True, eq=False)
class Part:
    """Results of one command.

    Attributes:
        name: its template is ``report_NAME.html.j2``.
        title: of what, to tell parts of one report apart.
        question: that it answers, in one sentence.
        answers: those of `SAVING`, `CERTAINTY` and `ACCURACY` that it can answer.
        provenance: where the results come from.
        context: what its template shows.
        drawings: its pictures by name; names differ between parts.
        first_table: what the first screen shows above the answers, or None.
    """

    name: str
    title: str
    question: str
    answers: tuple[Answer, ...]
    provenance: Table
    context: Mapping[str, Any]
    drawings: Mapping[str, Drawing] = field(default_factory=dict)
    first_table: Table | None = None


NOT_KNOWN = {
    SAVING: "Nothing here compares a plan with dense fine-tuning; 'd2ft plan --out DIR/plan.json' "
    "predicts it, 'd2ft demo' and 'd2ft validate' also measure it.",
    CERTAINTY: "Nothing was measured here; 'd2ft validate --out DIR' holds predictions against "
    "measurements.",
    ACCURACY: "Nothing was trained here; 'd2ft demo' trains the plan beside dense fine-tuning, "
    "'d2ft study' does so for many methods and seeds.",
}
"""What to say where no part answers a question."""


def first_screen(parts: list[Part]) -> list[Answer]:
    """An answer to every question: the first part's that has one, with a line of each other's.

    How sure predictions are is best said by a validation, where there is one.
    """
    answers = []
    for question, missing in NOT_KNOWN.items():
        order = (
            sorted(parts, key=lambda p: p.name != "validation") if question == CERTAINTY else parts
        )
        found = [a for part in order for a in part.answers if a.question == question]
        if found:
            more = tuple(f"Also: {a.figure}, {a.basis}." for a in found[1:])
            first = found[0]
            answers.append(Answer(question, first.figure, first.basis, first.facts + more))
        else:
            answers.append(Answer(question, "not known", missing, ()))
    return answers

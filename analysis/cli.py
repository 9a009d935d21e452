"""The ``d2ft`` command. Each command's heavy imports happen inside it, so that help is instant."""

from collections.abc import Callable
from functools import cache
from typing import Annotated

import typer

from analysis.commands import (
    compare,
    demo,
    diff,
    finetune,
    generate,
    plan,
    plot,
    profile,
    report,
    simulate,
    study,
    sweep,
    testbed,
    validate,
)
from analysis.commands.parsing.distinct_files import DistinctFiles
from analysis.commands.parsing.usage_errors import OneLineErrors
from analysis.console.ending import one_line_endings
from analysis.console.process_setup import flush_standard_output, prepare_process

app = typer.Typer(
    name="d2ft",
    cls=OneLineErrors,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help=(
        "Plan, simulate and run Distributed Dynamic Fine-Tuning (arXiv 2504.12471) of "
        "transformers on unequal devices.\n\n"
        "Start with [bold]d2ft demo[/bold]; then [bold]plan[/bold] what your cluster should run, "
        "[bold]simulate[/bold] what it would take, [bold]finetune[/bold] for real."
    ),
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from analysis.console.output import print_line
        from analysis.version_facts import version_lines

        for line in version_lines():
            print_line(line)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_print_version,
            is_eager=True,
            help="Show versions and devices, for bug reports.",
        ),
    ] = False,
) -> None:
    """Options that come before the command."""


for module in (
    demo,
    plan,
    diff,
    compare,
    simulate,
    sweep,
    profile,
    testbed,
    validate,
    finetune,
    generate,
    study,
    plot,
    report,
):
    app.command(name=module.__name__.rpartition(".")[2], cls=DistinctFiles)(module.run)


@cache
def command() -> Callable[..., None]:
    """All commands with their options, made once: a process may ask for several."""
    return typer.main.get_command(app)


def main() -> None:
    """Run d2ft: a wrong input is one line and exit code 2, a programming error a traceback.

    Where ranks cannot go on, the exit code is 1, and one of them says why.
    """
    with one_line_endings():
        prepare_process()
        try:
            command()(prog_name="d2ft")
        finally:
            flush_standard_output()


if __name__ == "__main__":
    main()

"""Wrong options and arguments, said as any other wrong input is: in one line."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from typer.core import TyperGroup
from typer.exceptions import TyperException

from d2ft_sched.errors import InputError


class OneLineErrors(TyperGroup):
    """Commands whose usage errors are `InputError`s."""

    def make_context(self, *arguments: Any, **options: Any) -> Any:
        with _as_input_errors():
            return super().make_context(*arguments, **options)

    def invoke(self, ctx: Any) -> Any:
        with _as_input_errors():
            return super().invoke(ctx)


@contextmanager
def _as_input_errors() -> Iterator[None]:
    try:
        yield
    except TyperException as error:
        said = _describe(error)
        if not said:  # no argument was given: the help was shown
            raise
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "d2ft"
        raise InputError(f"{said}; see '{command} --help'") from None


def _describe(error: TyperException) -> str:
    from pydantic import ValidationError

    cause, param = error.__cause__, getattr(error, "param", None)
    if isinstance(cause, ValidationError) and param is not None:
        first, name = cause.errors()[0], param.get_error_hint().strip("'")
        wrong = first["msg"].removeprefix("Value error, ").removeprefix(f"{first['input']!r} ")
        wrong = wrong.replace("Input should be", "it must be").replace(
            "is not one", "it must be one"
        )
        return f"{name} is {first['input']!r}: {wrong.rstrip('.')}"
    said = " ".join(error.format_message().split()).rstrip(".?")
    return f"{said[:1].lower()}{said[1:]}"

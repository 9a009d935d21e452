"""A text without a character is no value of an option: not a folder, not a name."""

from typing import Any

from typer.core import TyperCommand

from d2ft_sched.errors import InputError


class NoEmptyValues(TyperCommand):
    """A command none of whose options and arguments may be an empty text."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        given, _, _ = self.make_parser(ctx).parse_args(list(args))
        parameters: list[Any] = self.params
        for param in parameters:
            values = given.get(param.name)
            if "" in (values if isinstance(values, list | tuple) else [values]):
                name = param.get_error_hint().strip("'")
                raise InputError(f"{name} is empty; give it a value, or leave it out")
        return super().parse_args(ctx, args)

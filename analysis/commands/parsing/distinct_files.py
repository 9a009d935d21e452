"""A command writes to no file that it reads, and to none twice."""

import os
from pathlib import Path
from typing import Any

from analysis.commands.options import WRITTEN
from analysis.commands.parsing.empty_values import NoEmptyValues
from d2ft_sched.errors import InputError


class DistinctFiles(NoEmptyValues):
    """A command whose files to write must be others than all files that it is given."""

    def invoke(self, ctx: Any) -> Any:
        parameters: list[Any] = self.params
        called = {p.name: p.get_error_hint().strip("'") for p in parameters}
        for name in sorted(ctx.meta.get(WRITTEN, ())):
            path = ctx.params[name]
            for other, value in ctx.params.items():
                values = value if isinstance(value, list | tuple) else [value]
                if other != name and any(_is_same_file(path, v) for v in values):
                    raise InputError(
                        f"{called[name]} is {path}, and so is {called[other]}; give it another file"
                    )
        return super().invoke(ctx)


def _is_same_file(path: Path, value: object) -> bool:
    """Whether a parameter's value is the file of `path`; a text is if there is such a file."""
    if isinstance(value, str):
        value = Path(value) if path.exists() else None
    return isinstance(value, Path) and os.path.realpath(value) == os.path.realpath(path)

"""Public names of a package that are imported when they are first asked for (PEP 562)."""

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy_names(
    package: str, names_of: Mapping[str, str]
) -> tuple[list[str], Callable[[str], Any], Callable[[], list[str]]]:
    """What a package's ``__init__`` binds to ``__all__``, ``__getattr__`` and ``__dir__``.

    Args:
        package: its ``__name__``.
        names_of: by module, relative to the package, the names it gives, spaces between them; in
            the order in which the package shows them.
    """
    module_of = {name: module for module, names in names_of.items() for name in names.split()}

    def get(name: str) -> Any:
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        thing = getattr(import_module(f"{package}.{module_of[name]}"), name)
        setattr(sys.modules[package], name, thing)
        return thing

    return list(module_of), get, lambda: sorted({*vars(sys.modules[package]), *module_of})

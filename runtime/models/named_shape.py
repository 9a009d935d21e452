"""The sizes of a model that its library knows by name, for processes that stay without torch.

Run as ``python -m runtime.models.named_shape``: arguments of `named_shape` as a JSON object on
standard input, and as the last line of standard output either ``{"shape": ...}``, the fields of a
`ModelShape`, or ``{"refused": ...}``, one line.
"""

import json
import sys
from dataclasses import asdict

from d2ft_sched.errors import InputError
from d2ft_sched.model.shape import ModelShape


def named_shape(
    name: str, *, image_size: int | None, num_tokens: int | None, num_classes: int
) -> ModelShape:
    """The sizes that `runtime.models.build.build_model` would build, read without memory for
    values.

    Raises:
        InputError: no such model, or one that cannot run in lanes.
    """
    from runtime.models.build import build_on_meta, shape_of

    return shape_of(
        build_on_meta(name, image_size=image_size, num_tokens=num_tokens, num_classes=num_classes)
    )


def main() -> None:
    try:
        answer: dict[str, object] = {"shape": asdict(named_shape(**json.loads(sys.stdin.read())))}
    except InputError as error:
        answer = {"refused": str(error)}
    print(f"\n{json.dumps(answer)}")


if __name__ == "__main__":
    main()

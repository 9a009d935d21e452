"""Whether a plan is for the blocks of a model."""

from d2ft_sched.errors import InputError
from d2ft_sched.model.workload import Workload
from runtime.families.low_rank import low_rank_of
from runtime.families.splice import SplicedBlocks
from runtime.families.sublayer import Sublayer


def check_fit(spliced: SplicedBlocks, workload: Workload) -> None:
    """Refuse a plan for other sizes, or for other adapters.

    Raises:
        InputError: naming what differs.
    """
    shape = workload.shape
    attention, hidden = (splice.sublayer for splice in spliced.blocks[0])
    found = {
        "blocks": (len(spliced.blocks), shape.num_blocks),
        "a width of": (attention.map_out.out_features, shape.width),
        "channels of heads:": (attention.map_out.in_features, shape.num_heads * shape.head_columns),
        "hidden units:": (hidden.map_out.in_features, shape.mlp_hidden),
    }
    for what, (here, planned) in found.items():
        if here != planned:
            raise InputError(
                f"the model has {what} {here}; the plan for {shape.name!r} has {planned}"
            )
    for splices in spliced.blocks:
        for splice in splices:
            _check_adapters(splice.sublayer, workload)


def _check_adapters(sublayer: Sublayer, workload: Workload) -> None:
    maps = (*sublayer.maps_in, sublayer.map_out)
    factors = [low_rank_of(linear) for linear in maps]
    ranks = {None if one is None else len(one.down) for one in factors}
    planned = None if workload.lora is None else workload.lora.rank
    if ranks == {planned}:
        return
    if workload.lora is None:
        raise InputError(
            "the model has adapters and the plan trains all weights: plan with --lora-rank"
        )
    raise InputError(
        f"the plan trains adapters of rank {planned} on every linear map of every block; the model "
        f"has {'other ones' if ranks - {None} else 'none'} on some: give peft all of them as "
        f"target_modules"
    )

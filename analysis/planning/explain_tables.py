"""An explanation and a difference of plans as tables for people."""

from analysis.console.output import amount, percent, print_table, seconds
from analysis.planning.explain import UNITS, Explanation, ResourceUse
from analysis.planning.plan_diff import PlanDiff
from d2ft_sched.problem.budget import BlockLevels
from d2ft_sched.schedule.operations import Operation

TITLES = {
    "compute_s": "compute",
    "communication_bytes": "messages",
    "activation_bytes": "activations",
}


def print_explanation(explanation: Explanation) -> None:
    """What binds, what more is worth, where time and bytes go."""
    if any(use.num_limited for device in explanation.devices for use in device.uses.values()):
        _print_binding(explanation)
    _print_spending(explanation)


def _print_binding(explanation: Explanation) -> None:
    print_table(
        "What binds: in how many of the blocks with a limit would more of it alone keep more "
        "score, and how much for one more unit at best",
        ["device", *(f"{title} (per {UNITS[name]})" for name, title in TITLES.items())],
        [
            [device.name, *(_binding(device.uses[name]) for name in TITLES)]
            for device in explanation.devices
        ],
    )


def _print_spending(explanation: Explanation) -> None:
    print_table(
        f"Where it goes: share of what dense would spend; phases of lanes, of "
        f"{explanation.num_lane_phases}, in which none takes longer",
        ["device", "subnets", "owns", *TITLES.values(), "slowest in"],
        [
            [
                device.name,
                str(device.num_subnets),
                str(device.num_owned),
                *(_spent(name, device.uses[name]) for name in TITLES),
                str(device.num_slowest),
            ]
            for device in explanation.devices
        ],
    )
    print_table(
        f"Predicted step of {seconds(explanation.step_s)}; "
        f"{percent(explanation.retained)} of the dense run's score is kept",
        ["phase", "time", "of the step"],
        [
            [name, seconds(duration), percent(duration / explanation.step_s)]
            for name, duration in explanation.phase_s.items()
        ],
    )


def _binding(use: ResourceUse) -> str:
    if not use.num_limited:
        return "free"
    text = f"{use.num_binding} of {use.num_limited}"
    return f"{text}, {use.marginal_value:.3g}" if use.num_binding else text


def _spent(name: str, use: ResourceUse) -> str:
    if not use.dense:
        return "-"
    shown = seconds(use.spent) if name == "compute_s" else amount(use.spent, "B")
    return f"{shown}, {100 * use.spent / use.dense:.0f} %"


def print_diff(diff: PlanDiff, first: str, second: str) -> None:
    """What differs and what that is predicted to do."""
    print_table(
        "Settings",
        ["", first, second],
        [[name, _short(a), _short(b)] for name, (a, b) in diff.settings.items()],
    )
    print_table(
        f"Devices; {diff.num_moved} subnets moved, {diff.num_reowned} samples changed owner",
        ["device", "subnets", "owns", *(op.name for op in reversed(Operation)), "busy (predicted)"],
        [
            [
                device.name,
                _change(*map(str, device.num_subnets)),
                _change(*map(str, device.num_owned)),
                *(
                    _change(str(device.operations[0][op]), str(device.operations[1][op]))
                    for op in reversed(Operation)
                ),
                _change(*map(seconds, device.busy_s)),
            ]
            for device in diff.devices
        ],
    )
    if diff.changed:
        print_table(
            "Operations that changed",
            ["before", "after", "subnets x samples"],
            [[before, after, str(number)] for (before, after), number in diff.changed.items()],
        )
    shown = {
        "objective": lambda v: f"{v:.6g}",
        "step_s": seconds,
        "exchange_s": seconds,
        "flops": lambda v: amount(v, "FLOP"),
        "exchange_bytes": lambda v: amount(v, "B"),
        "peak_memory_bytes": lambda v: amount(v, "B"),
    }
    titles = {
        "objective": "objective",
        "step_s": "step time",
        "exchange_s": "waiting for messages",
        "flops": "compute",
        "exchange_bytes": "bytes",
        "peak_memory_bytes": "largest peak memory",
    }
    print_table(
        "Predicted effect",
        ["", first, second, "change"],
        [
            [
                titles[name],
                shown[name](a),
                shown[name](b),
                f"{100 * (b / a - 1):+.1f} %" if a else "-",
            ]
            for name, (a, b) in diff.effects.items()
        ],
    )


def _change(before: str, after: str) -> str:
    return before if before == after else f"{before} -> {after}"


def _short(value: object) -> str:
    if isinstance(value, BlockLevels):
        return (
            f"{_range(value.compute_s)} of lanes, {_range(value.communication_s)} of messages "
            f"per block"
        )
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _range(levels: tuple[float, ...]) -> str:
    low, high = seconds(min(levels)), seconds(max(levels))
    return low if low == high else f"{low} to {high}"

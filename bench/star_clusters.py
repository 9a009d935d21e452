"""Stars of unequal devices and links that several benchmarks and tests run on."""

from collections.abc import Sequence

from d2ft_sched import Cluster, Device, Link

FAST_LINK, SLOW_LINK = 50e9, 0.5e9


def star(
    name: str, flops_per_s: Sequence[float], bytes_per_s: Sequence[float], latency_s: float = 5e-6
) -> Cluster:
    """Devices of 24 GB on one switch; memory is as fast as 1/15 byte per FLOP."""
    devices = tuple(
        Device(f"gpu{d}", rate, 24 * 10**9, rate / 15, launch_s=10e-6)
        for d, rate in enumerate(flops_per_s)
    )
    links = tuple(
        Link(device.name, "switch", rate, latency_s)
        for device, rate in zip(devices, bytes_per_s, strict=True)
    )
    return Cluster(name, devices, links, ("switch",), "star")


def study_clusters() -> list[Cluster]:
    """Six devices each: speeds up to 10 times apart, links up to 100 times."""
    fast, unit = [FAST_LINK] * 6, 10e12
    return [
        star("equal", [unit] * 6, fast),
        star("one slow device, 0.4", [unit] * 5 + [0.4 * unit], fast),
        star("one slow device, 0.1", [unit] * 5 + [0.1 * unit], fast),
        star("speeds 10 to 1", [v * unit / 10 for v in (10, 8, 6, 4, 2, 1)], fast),
        star("one slow link, 1/100", [unit] * 6, [FAST_LINK] * 5 + [SLOW_LINK]),
        star("links 100 to 1", [unit] * 6, [FAST_LINK / v for v in (1, 2.5, 6.3, 16, 40, 100)]),
        star(
            "both",
            [v * unit / 10 for v in (10, 8, 6, 4, 2, 1)],
            [FAST_LINK / v for v in (1, 1, 2.5, 10, 40, 100)],
        ),
    ]

"""``d2ft testbed``: unequal hosts on this machine, and a command run on all of them."""

from typing import Annotated

import typer

from analysis.commands import options

MOST_SHOWN = 100_000
"""Characters of a line that a rank prints."""


def run(
    cluster: options.ClusterFile,
    command: Annotated[
        list[str] | None,
        typer.Argument(help="What to run as one rank on every device; write it after --."),
    ] = None,
    check: Annotated[
        bool,
        typer.Option("--check", help="First measure bandwidth, latency and CPU shares."),
    ] = False,
    cpu_shares: Annotated[
        bool,
        typer.Option(
            "--cpu-shares/--no-cpu-shares",
            help="Limit each device's share of the processor by its compute rate beside the "
            "fastest device's.",
        ),
    ] = True,
    cores_per_unit: Annotated[
        float | None,
        typer.Option(
            help="Cores of the fastest device, at most 1; default: so many that all shares "
            "together take 0.65 of the cores.",
        ),
    ] = None,
    disturb: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DEVICE:FACTOR:FROM_S[:UNTIL_S]",
            help="Give a device FACTOR of its CPU share while the command runs, from and until so "
            "many seconds after its start; may be given several times, and factors of one device "
            "multiply.",
        ),
    ] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show what the other ranks write, too.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Run a command on a cluster of unequal hosts that this machine plays (Linux, root, iproute2).

    Each device is a network namespace of its own with links of the file's bandwidth and latency,
    and a control group with its share of the processor. Memory is not limited. Ranks see the
    environment that torchrun gives, and one thread. A rank can reach the other ranks and no
    network outside.
    """
    from dataclasses import asdict

    from analysis.console.output import print_json, print_note, print_table
    from d2ft_sched.cluster.cluster_file import load_cluster
    from d2ft_sched.errors import InputError
    from runtime.testbed.check import MESSAGE_BYTES, check_links, check_shares
    from runtime.testbed.cpu_shares import shares
    from runtime.testbed.disturbance import check_disturbances, disturbing, parse_disturbance
    from runtime.testbed.open_testbed import Interrupted, open_testbed
    from runtime.testbed.ranks import run_ranks

    disturbances = [parse_disturbance(text) for text in disturb or []]
    if not command and not check:
        raise InputError("the testbed has nothing to do; give a command after --, or --check")
    asked = load_cluster(cluster)
    check_disturbances(disturbances, asked, shares(asked, cores_per_unit) if cpu_shares else None)
    try:
        with open_testbed(asked, cpu_shares=cpu_shares, cores_per_unit=cores_per_unit) as testbed:
            if not testbed.has_latency and any(link.latency_s > 0 for link in asked.links):
                print_note(
                    "This kernel cannot delay packets (netem): links have this machine's own "
                    "latency instead of the file's."
                )
            if check:
                links, cores = check_links(testbed), check_shares(testbed)
                if json:
                    print_json(
                        {
                            "links": [asdict(one) for one in links],
                            "message_bytes": MESSAGE_BYTES,
                            "cpu_shares": [asdict(one) for one in cores],
                        }
                    )
                else:
                    size = f"{MESSAGE_BYTES // 1024} KiB"
                    print_table(
                        "Links, one direction each: asked, then measured",
                        ["link", "Mbit/s", "", "latency us", "", f"ms for {size}", ""],
                        [
                            [
                                f"{one.source} to {one.target}",
                                f"{one.asked_bytes_per_s * 8e-6:.4g}",
                                f"{one.bytes_per_s * 8e-6:.4g}",
                                f"{one.asked_latency_s * 1e6:.3g}",
                                f"{one.latency_s * 1e6:.3g}",
                                f"{one.asked_message_s * 1e3:.3g}",
                                f"{one.message_s * 1e3:.3g}",
                            ]
                            for one in links
                        ],
                    )
                    print_table(
                        "CPU shares with all devices busy",
                        ["device", "cores asked", "measured"],
                        [
                            [one.device, f"{one.asked_cores:.3f}", f"{one.cores:.3f}"]
                            for one in cores
                        ],
                    )
            code = 0
            if command:
                code = run_ranks(
                    testbed,
                    command,
                    verbose=verbose,
                    show=lambda line: print_note(line, at_most=MOST_SHOWN),
                    tick=disturbing(testbed, disturbances, print_note),
                )
    except Interrupted as interruption:
        code = 128 + interruption.number
    raise typer.Exit(code)

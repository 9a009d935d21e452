"""Cluster files: what they may say, and that they come back as they were."""

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster_contents import CABLE, content
from d2ft_sched.cluster.cluster import Cluster, Link
from d2ft_sched.cluster.cluster_file import (
    cluster_from_dict,
    cluster_to_dict,
    dump_cluster,
    load_cluster,
)
from d2ft_sched.cluster.compute_curve import ComputeCurve, WorkKind
from d2ft_sched.cluster.device import Device
from d2ft_sched.cluster.device_file import dump_device
from d2ft_sched.cluster.device_presets import preset_device
from d2ft_sched.errors import InputError
from d2ft_sched.files.schema import LARGEST, SMALLEST

EXAMPLES = sorted(Path(__file__).parents[3].joinpath("examples/clusters").glob("*.yaml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_examples_load_and_come_back_equal(path, tmp_path):
    cluster = load_cluster(path)
    dump_cluster(cluster, tmp_path / "copy.yaml")
    assert load_cluster(tmp_path / "copy.yaml") == cluster
    assert cluster_from_dict(json.loads(json.dumps(cluster_to_dict(cluster)))) == cluster


def test_what_the_examples_show():
    clusters = {path.stem: load_cluster(path) for path in EXAMPLES}
    assert set(clusters) == {
        "gigabit_cpus",
        "homogeneous",
        "islands_ethernet",
        "testbed_equal",
        "testbed_one_slow_of_six",
        "testbed_slow_device",
        "testbed_slow_link",
        "testbed_unequal",
        "unequal_cpus",
        "unequal_gpus_llm",
        "unequal_lab",
    }
    machines = clusters["unequal_cpus"].devices
    assert [d.name for d in machines] == ["desk0", "desk1", "tower0", "tower1", "mini", "laptop"]
    equal = clusters["homogeneous"]
    assert len(equal.devices) == 6
    assert len({d.compute_flops_per_s for d in equal.devices}) == 1
    lab = clusters["unequal_lab"]
    rates = [d.compute_flops_per_s for d in lab.devices]
    assert len(rates) == 6
    assert 9 < max(rates) / min(rates) < 11
    bandwidth = lab.device_bandwidth_bytes_per_s()
    assert sorted(bandwidth.tolist()) == [125e6] + [1.25e9] * 5
    assert clusters["islands_ethernet"].topology == "islands"


def test_units_and_values():
    cluster = cluster_from_dict(content("a", "b"))
    a = cluster.devices[0]
    assert (a.compute_flops_per_s, a.memory_bytes) == (12e12, 24 * 2**30)
    assert isinstance(a.memory_bytes, int)
    assert cluster.links[0] == Link("a", "switch", 1.25e9, 50e-6)


def test_numbers_without_a_dot(tmp_path):
    path = tmp_path / "lab.yaml"
    path.write_text(
        "name: c\nnetwork: {kind: tree, devices_per_leaf: 1, oversubscription: 2e0, "
        "bandwidth_bytes_per_s: 1e9, latency_s: 0}\ndevices:\n"
        "- {name: a, preset: t4, efficiency: 5e-1, price_per_hour: 1e1}\n"
        "- {name: b, preset: t4, curves: {optimizer: {work: [1e9, 2e9], seconds: [1e-3, 1]}}}\n"
    )
    a, b = load_cluster(path).devices
    assert a.price_per_hour == 10
    assert b.curves[WorkKind.OPTIMIZER] == ComputeCurve((1e9, 2e9), (1e-3, 1.0))


def test_count_preset_file_and_overrides(tmp_path):
    curve = ComputeCurve((1.0, 2.0), (0.1, 0.2))
    measured = Device("here", 1e12, 10**9, 1e10, curves={WorkKind.MLP_FORWARD: curve})
    dump_device(measured, tmp_path / "measured.yaml")
    path = tmp_path / "lab.yaml"
    devices = [
        {"name": "gpu", "count": 3, "preset": "t4", "memory_bytes": "15 GB"},
        {"name": "mine", "file": "measured.yaml", "price_per_hour": 0.5},
    ]
    path.write_text(yaml.safe_dump({**content(), "devices": devices}))
    *gpus, mine = load_cluster(path).devices
    assert [d.name for d in gpus] == ["gpu0", "gpu1", "gpu2"]
    assert {d.memory_bytes for d in gpus} == {15 * 10**9}
    preset = preset_device("t4", "gpu0")
    assert gpus[0].compute_flops_per_s == preset.compute_flops_per_s
    assert mine.curves == measured.curves
    assert (mine.name, mine.price_per_hour) == ("mine", 0.5)


@pytest.mark.parametrize(
    ("network", "num_links", "num_switches"),
    [
        ({"kind": "star", **CABLE, "switch": "hub"}, 4, 1),
        ({"kind": "full_mesh", **CABLE, "duplex": "half"}, 6, 0),
        ({"kind": "ring", **CABLE}, 4, 0),
        ({"kind": "torus", "sizes": [2, 2], **CABLE}, 4, 0),
        ({"kind": "tree", "devices_per_leaf": 2, "oversubscription": 3, **CABLE}, 6, 3),
        ({"kind": "fat_tree", "arity": 4, **CABLE}, 4 + 4 + 4, 2 + 2 + 4),
        ({"kind": "islands", "islands": [["a", "c"], ["b", "d"]], "uplink": CABLE, **CABLE}, 6, 3),
        (
            {
                "kind": "explicit",
                "switches": ["s"],
                "latency_s": "1 us",
                "links": [
                    {"source": n, "target": "s", "bandwidth_bytes_per_s": 1e9} for n in "abcd"
                ],
            },
            4,
            1,
        ),
    ],
    ids=lambda v: v["kind"] if isinstance(v, dict) else "",
)
def test_every_kind_of_network(network, num_links, num_switches):
    cluster = cluster_from_dict(content("a", "b", "c", "d", network=network))
    assert (len(cluster.links), len(cluster.switches)) == (num_links, num_switches)
    assert cluster.topology == network["kind"]
    assert cluster_from_dict(cluster_to_dict(cluster)) == cluster


def test_one_device_needs_no_network():
    given = {"name": "alone", "devices": [{"name": "desk", "preset": "rtx-4090"}]}
    cluster = cluster_from_dict(given)
    assert not cluster.links
    assert cluster_from_dict(cluster_to_dict(cluster)) == cluster


def test_overrides_of_single_links():
    star = {"kind": "star", **CABLE, "overrides": {"b": {"bandwidth_bytes_per_s": "1 Gbit/s"}}}
    a, b = cluster_from_dict(content(network=star)).links
    assert (a.bandwidth_bytes_per_s, b.bandwidth_bytes_per_s) == (1.25e9, 1.25e8)
    assert b.latency_s == 50e-6
    mesh = {
        "kind": "full_mesh",
        **CABLE,
        "overrides": [{"between": ["c", "a"], "latency_s": "1 ms", "duplex": "half"}],
    }
    links = cluster_from_dict(content("a", "b", "c", network=mesh)).links
    assert [(k.latency_s, k.duplex) for k in links] == [
        (50e-6, "full"),
        (1e-3, "half"),
        (50e-6, "full"),
    ]


def test_dump_replaces_a_file_whole(tmp_path):
    path = tmp_path / "sub" / "lab.yaml"
    for names in (("a", "b", "c"), ("a",)):
        dump_cluster(cluster_from_dict(content(*names)), path)
        assert [d.name for d in load_cluster(path).devices] == list(names)
    assert [p.name for p in path.parent.iterdir()] == ["lab.yaml"]


positive = st.floats(SMALLEST, LARGEST)
texts = st.text(min_size=1, max_size=6)
node_names = texts.filter(lambda name: name.strip() and not set(name) & set("=:"))


@st.composite
def devices(draw: st.DrawFn, name: str) -> Device:
    points = draw(st.lists(st.tuples(positive, positive), min_size=2, max_size=4))
    work = sorted({p[0] for p in points})
    seconds = sorted(p[1] for p in points)[: len(work)]
    curves = {}
    if len(work) > 1:
        curves[draw(st.sampled_from(WorkKind))] = ComputeCurve(tuple(work), tuple(seconds))
    return Device(
        name,
        draw(positive),
        draw(st.integers(1, 2**53)),
        draw(positive),
        launch_s=draw(st.floats(0, 1)),
        overlaps=draw(st.booleans()),
        curves=curves,
        price_per_hour=draw(st.none() | st.floats(0, 1e3)),
        power_w=draw(st.none() | st.floats(500, 1e3)),
        idle_power_w=draw(st.none() | st.floats(0, 500)),
        source=draw(st.text(max_size=10)),
    )


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_any_cluster_comes_back_exactly(data):
    names = data.draw(st.lists(node_names, min_size=2, max_size=4, unique=True))
    *device_names, switch = names
    links = tuple(
        Link(
            name,
            switch,
            data.draw(positive),
            data.draw(st.floats(0, 1)),
            data.draw(st.sampled_from(["full", "half"])),
        )
        for name in device_names
    )
    cluster = Cluster(
        data.draw(texts.filter(str.strip)),
        tuple(data.draw(devices(name)) for name in device_names),
        links,
        (switch,),
        data.draw(texts),
    )
    plain = cluster_to_dict(cluster)
    assert cluster_from_dict(json.loads(json.dumps(plain))) == cluster
    assert cluster_from_dict(yaml.safe_load(yaml.safe_dump(plain))) == cluster


@pytest.mark.parametrize("name", ["", " ", "a=b", "a:b"])
def test_names_that_no_command_line_could_say_are_refused(name):
    with pytest.raises(InputError, match="neither '=' nor ':'"):
        Device(name, 1.0, 1, 1.0)
    with pytest.raises(InputError, match=f"switch {name!r}: name is"):
        Cluster("c", (Device("a", 1.0, 1, 1.0),), (Link("a", name, 1.0, 0.0),), (name,))

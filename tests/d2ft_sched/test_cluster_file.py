import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from d2ft_sched.cluster import Cluster, Link
from d2ft_sched.cluster_file import (
    ClusterFileError,
    cluster_from_dict,
    cluster_to_dict,
    dump_cluster,
    load_cluster,
)
from d2ft_sched.compute_curve import ComputeCurve, WorkKind
from d2ft_sched.device import Device
from d2ft_sched.device_file import dump_device
from d2ft_sched.device_presets import preset_device
from d2ft_sched.errors import InputError

EXAMPLES = sorted(Path(__file__).parents[2].joinpath("examples/clusters").glob("*.yaml"))
DEVICE = {
    "compute_flops_per_s": "12 TFLOP/s",
    "memory_bytes": "24 GiB",
    "memory_bandwidth_bytes_per_s": "900 GB/s",
}
CABLE = {"bandwidth_bytes_per_s": "10 Gbit/s", "latency_s": "50 us"}


def content(*names: str, network: dict | None = None) -> dict:
    return {
        "name": "lab",
        "devices": [{"name": n, **DEVICE} for n in names or ("a", "b")],
        "network": network or {"kind": "star", **CABLE},
    }


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_examples_load_and_come_back_equal(path, tmp_path):
    cluster = load_cluster(path)
    dump_cluster(cluster, tmp_path / "copy.yaml")
    assert load_cluster(tmp_path / "copy.yaml") == cluster
    assert cluster_from_dict(json.loads(json.dumps(cluster_to_dict(cluster)))) == cluster


def test_what_the_examples_show():
    clusters = {path.stem: load_cluster(path) for path in EXAMPLES}
    assert set(clusters) == {
        "homogeneous",
        "islands_ethernet",
        "testbed_equal",
        "testbed_one_slow_of_six",
        "testbed_slow_device",
        "testbed_slow_link",
        "unequal_cpus",
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


def without(mapping: dict, key: str) -> dict:
    return {k: v for k, v in mapping.items() if k != key}


def first_device(**changes: object) -> dict:
    whole = content()
    whole["devices"][0].update(changes)
    return whole


def star(**changes: object) -> dict:
    return content(network={"kind": "star", **CABLE, **changes})


def explicit(*links: dict, **changes: object) -> dict:
    return content(network={"kind": "explicit", "links": list(links), **CABLE, **changes})


AB = {"source": "a", "target": "b"}
BAD = {
    "no name": (without(content(), "name"), "name is missing"),
    "no devices": ({**content(), "devices": []}, "devices is []: list should have at least 1"),
    "devices no list": ({**content(), "devices": "a"}, "devices is 'a': "),
    "device no mapping": ({**content(), "devices": ["a"]}, "devices[0] is 'a': "),
    "no network": (without(content(), "network"), "network is missing"),
    "missing field": (
        {**content(), "devices": [{"name": "a", **DEVICE}, {"name": "b", "memory_bytes": 1}]},
        "devices[1].compute_flops_per_s is missing; give it, or a preset or file",
    ),
    "typo": (
        first_device(memory_byte=1),
        "devices[0].memory_byte is not a known field; did you mean memory_bytes?",
    ),
    "negative memory": (
        first_device(memory_bytes=-1),
        "devices[0].memory_bytes is -1: it must be above 0",
    ),
    "bad unit": (
        first_device(memory_bytes="24 Gigs"),
        "devices[0].memory_bytes is '24 Gigs': unknown unit 'Gigs'; write bytes like '24 GiB'",
    ),
    "other unit": (
        first_device(memory_bandwidth_bytes_per_s="900 GB"),
        "devices[0].memory_bandwidth_bytes_per_s is '900 GB': 'GB' is a unit of bytes",
    ),
    "nan rate": (
        first_device(compute_flops_per_s=float("nan")),
        "devices[0].compute_flops_per_s is nan: it must be a finite number",
    ),
    "name no text": (first_device(name=3), "devices[0].name is 3: input should be a valid string"),
    "duplicate device": (
        content("a", "b", "a"),
        "devices[2].name is 'a', which is another device's; names must differ",
    ),
    "duplicate by count": (
        {**content(), "devices": [{"name": "a0", **DEVICE}, {"name": "a", "count": 2, **DEVICE}]},
        "devices[1].name is 'a0', which is another device's",
    ),
    "count": (first_device(count=0), "devices[0].count is 0: "),
    "unknown preset": (
        {**content(), "devices": [{"name": "a", "preset": "gtx"}]},
        "devices[0].preset is 'gtx'; known are h100-sxm",
    ),
    "precision of preset": (
        {**content(), "devices": [{"name": "a", "preset": "t4", "precision": "int3"}]},
        "devices[0].precision is 'int3'; t4 has figures for float32, float16",
    ),
    "efficiency above 1": (first_device(preset="t4", efficiency=1.5), "devices[0].efficiency is"),
    "efficiency alone": (
        first_device(efficiency=0.5),
        "devices[0].efficiency goes with a preset; there is none",
    ),
    "preset and file": (first_device(preset="t4", file="x"), "devices[0] has both preset and file"),
    "unknown kind of work": (
        first_device(curves={"mlp": {"work": [1, 2], "seconds": [1, 2]}}),
        "devices[0].curves.mlp is not a kind of work; known are attention_forward",
    ),
    "bad curve": (
        first_device(curves={"optimizer": {"work": [2, 1], "seconds": [1, 2]}}),
        "devices[0].curves.optimizer: a compute curve's work is",
    ),
    "negative bandwidth": (
        star(bandwidth_bytes_per_s=-1),
        "network.bandwidth_bytes_per_s is -1: it must be above 0",
    ),
    "zero bandwidth": (star(bandwidth_bytes_per_s=0), "network.bandwidth_bytes_per_s is 0: "),
    "nan bandwidth": (
        star(bandwidth_bytes_per_s=float("nan")),
        "network.bandwidth_bytes_per_s is nan: it must be a finite number",
    ),
    "negative latency": (
        star(latency_s="-1 us"),
        "network.latency_s is '-1 us': it must be 0 or more",
    ),
    "no latency": (
        content(network={"kind": "star", "bandwidth_bytes_per_s": 1}),
        "network.latency_s is missing",
    ),
    "duplex": (star(duplex="simplex"), "network.duplex is 'simplex': input should be 'full' or"),
    "network no mapping": (content(network="star"), "network is 'star': "),
    "no kind": (content(network=CABLE), "network.kind is missing; known are star, full_mesh"),
    "unknown topology": (
        content(network={"kind": "butterfly", **CABLE}),
        "network.kind is 'butterfly'; known are star, full_mesh",
    ),
    "override of nobody": (
        star(overrides={"c": {"latency_s": 0}}),
        "network.overrides.c is 'c', which is no device of this file; it has a, b",
    ),
    "override of one": (
        content(network={"kind": "full_mesh", **CABLE, "overrides": [{"between": ["a"]}]}),
        "network.overrides[0].between is ['a']; it must be two devices",
    ),
    "unknown device in link": (
        explicit({"source": "a", "target": "c"}),
        "network.links[0].target is 'c', which is no device or switch of this file; it has a, b",
    ),
    "negative link": (
        explicit(AB, {**AB, "bandwidth_bytes_per_s": -5}),
        "network.links[1].bandwidth_bytes_per_s is -5: it must be above 0",
    ),
    "link to itself": (
        explicit({"source": "a", "target": "a"}),
        "network.links[0]: link 'a' - 'a': joins a node to itself",
    ),
    "link without bandwidth": (
        content(network={"kind": "explicit", "links": [AB]}),
        "network.links[0].bandwidth_bytes_per_s is missing; give it there or in network",
    ),
    "two links": (explicit(AB, AB), "two links join 'a' and 'b'"),
    "unreachable device": (explicit(), "'b' cannot be reached from 'a'"),
    "unreachable switch": (explicit(AB, switches=["s"]), "'s' cannot be reached from 'a'"),
    "switch called as a device": (star(switch="b"), "link 'b' - 'b': joins a node to itself"),
    "torus": (
        content(network={"kind": "torus", "sizes": [3, 2], **CABLE}),
        "network.sizes is [3, 2]: a torus of 3 x 2 has 6 places; there are 2 devices",
    ),
    "fat-tree": (
        content(network={"kind": "fat_tree", "arity": 3, **CABLE}),
        "network.arity is 3: a fat-tree's arity is 3; it must be even",
    ),
    "island of strangers": (
        content(network={"kind": "islands", "islands": [["x"]], "uplink": CABLE, **CABLE}),
        "network.islands[0][0] is 'x', which is no device",
    ),
    "device on no island": (
        content(network={"kind": "islands", "islands": [["a"]], "uplink": CABLE, **CABLE}),
        "network.islands lacks device 'b'",
    ),
    "device on two islands": (
        content(network={"kind": "islands", "islands": [["a", "a"]], "uplink": CABLE, **CABLE}),
        "network.islands[0][1] is 'a', which stands in an island already",
    ),
    "negative uplink": (
        content(
            network={
                "kind": "islands",
                "islands": [["a"], ["b"]],
                **CABLE,
                "uplink": {**CABLE, "bandwidth_bytes_per_s": -1},
            }
        ),
        "network.uplink.bandwidth_bytes_per_s is -1: it must be above 0",
    ),
}


@pytest.mark.parametrize(("bad", "message"), BAD.values(), ids=BAD)
def test_bad_content_is_one_line_with_file_field_and_value(bad, message, tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text(yaml.safe_dump(bad))
    with pytest.raises(ClusterFileError) as from_file:
        load_cluster(path)
    with pytest.raises(ClusterFileError) as from_dict:
        cluster_from_dict(bad)
    assert str(from_file.value) == f"{path}: {from_dict.value}"
    assert message in str(from_file.value)
    assert "\n" not in str(from_file.value)
    assert isinstance(from_file.value, InputError)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("# nothing\n", "is empty"),
        ("devices: [", "is not YAML: "),
        ("name: a\nname: b\n", "is not YAML: 'name' stands twice in line 2"),
        ("just words", "content is 'just words'; it must be a mapping with the fields name, "),
        ("- 1\n", "content is [1]; it must be a mapping"),
        (b"\xff\xfe\x00", "is not YAML (not UTF-8 text)"),
    ],
)
def test_bad_files(text, message, tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ClusterFileError) as error:
        load_cluster(path)
    assert str(error.value).startswith(f"{path}: {message}")
    assert "\n" not in str(error.value)


def test_missing_device_file(tmp_path):
    path = tmp_path / "lab.yaml"
    path.write_text(yaml.safe_dump(first_device(file="nowhere.yaml")))
    with pytest.raises(ClusterFileError) as error:
        load_cluster(path)
    assert str(error.value) == (
        f"{path}: devices[0].file: {tmp_path / 'nowhere.yaml'}: cannot be read "
        f"(No such file or directory)"
    )


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(ClusterFileError, match=r"no\.yaml: cannot be read \(No such file"):
        load_cluster(tmp_path / "no.yaml")
    with pytest.raises(ClusterFileError, match=r"cannot be read \(Is a directory\)"):
        load_cluster(tmp_path)


def test_dump_replaces_a_file_whole(tmp_path):
    path = tmp_path / "sub" / "lab.yaml"
    for names in (("a", "b", "c"), ("a",)):
        dump_cluster(cluster_from_dict(content(*names)), path)
        assert [d.name for d in load_cluster(path).devices] == list(names)
    assert [p.name for p in path.parent.iterdir()] == ["lab.yaml"]


positive = st.floats(1e-300, 1e300)
texts = st.text(min_size=1, max_size=6)


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
        curves=curves,
        price_per_hour=draw(st.none() | st.floats(0, 1e3)),
        power_w=draw(st.none() | st.floats(500, 1e3)),
        idle_power_w=draw(st.none() | st.floats(0, 500)),
        source=draw(st.text(max_size=10)),
    )


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_any_cluster_comes_back_exactly(data):
    names = data.draw(st.lists(texts, min_size=2, max_size=4, unique=True))
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
        data.draw(texts),
        tuple(data.draw(devices(name)) for name in device_names),
        links,
        (switch,),
        data.draw(texts),
    )
    plain = cluster_to_dict(cluster)
    assert cluster_from_dict(json.loads(json.dumps(plain))) == cluster
    assert cluster_from_dict(yaml.safe_load(yaml.safe_dump(plain))) == cluster

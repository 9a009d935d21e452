"""Cluster files that cannot be used: one line with the file, the field and its value."""

import pytest
import yaml

from cluster_contents import CABLE, DEVICE, content
from d2ft_sched.cluster.cluster_file import (
    ClusterFileError,
    cluster_from_dict,
    load_cluster,
)
from d2ft_sched.cluster.device_file import load_device
from d2ft_sched.errors import InputError


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
    "typo in a curve": (
        first_device(curves={"optimizer": {"wrk": [1, 2], "work": [1, 2], "seconds": [1, 2]}}),
        "devices[0].curves.optimizer.wrk is not a known field; did you mean work?",
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
        ("name: !!int ''", "is not YAML: a value is not what its tag says"),
        ("name: !!bool 'x'", "is not YAML: a value is not what its tag says"),
        ("name: !!timestamp 'abc'", "is not YAML: a value is not what its tag says"),
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


def test_a_device_file_that_leads_back_to_itself(tmp_path):
    for name, base in (("a", "b"), ("b", "a")):
        (tmp_path / f"{name}.yaml").write_text(f"name: {name}\nfile: {base}.yaml\n")
    with pytest.raises(InputError) as error:
        load_device(tmp_path / "a.yaml")
    a, b = tmp_path / "a.yaml", tmp_path / "b.yaml"
    assert str(error.value).startswith(f"{a}: device.file: {b}: device.file: {a}: is its own base")


def test_a_file_name_that_no_system_takes(tmp_path):
    path = tmp_path / "lab.yaml"
    path.write_text(yaml.safe_dump(first_device(file="a\0b")))
    with pytest.raises(ClusterFileError, match="its name holds a null byte"):
        load_cluster(path)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(ClusterFileError, match=r"no\.yaml: cannot be read \(No such file"):
        load_cluster(tmp_path / "no.yaml")
    with pytest.raises(ClusterFileError, match=r"cannot be read \(Is a directory\)"):
        load_cluster(tmp_path)

"""Clusters in YAML files and as plain values inside plans."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field

from d2ft_sched.cluster.cluster import Cluster
from d2ft_sched.cluster.device import Device
from d2ft_sched.cluster.device_file import DeviceSchema, device_from_schema, device_to_dict
from d2ft_sched.cluster.network_schema import build_network
from d2ft_sched.cluster.topology import Network
from d2ft_sched.errors import InputError
from d2ft_sched.files.atomic_write import write_text
from d2ft_sched.files.counted import counted
from d2ft_sched.files.schema import StrictModel, read_yaml, validate


class ClusterFileError(InputError):
    """A cluster file that cannot be used; one line: file, field, value and what would be right."""


MOST_DEVICES = 100_000
"""Of one entry, so that a mistyped count ends in a message instead of in all memory."""


class _DeviceEntry(DeviceSchema):
    """A device of a cluster file, or `count` equal ones called name0, name1, ..."""

    count: Annotated[int, Field(ge=1, le=MOST_DEVICES)] | None = None


class _ClusterSchema(StrictModel):
    name: str
    devices: Annotated[list[dict[str, Any]], Field(min_length=1)]
    network: dict[str, Any] | None = None


def load_cluster(path: Path, precision: str | None = None) -> Cluster:
    """Read a cluster file.

    Args:
        path: of the file.
        precision: of the products that are to run on it, for presets that say none; one without
            figures for it warns, and keeps those of float32. So do curves of another precision,
            which stay. None where nothing is to run yet.

    Raises:
        ClusterFileError: one line with the file, the field, its value and what would be right.
    """
    path = Path(path)
    try:
        return _build(read_yaml(path), path.parent, precision)
    except InputError as error:
        raise ClusterFileError(f"{path}: {error}") from None


def dump_cluster(cluster: Cluster, path: Path) -> None:
    """Write a cluster file, atomically; `load_cluster` reads back an equal cluster."""
    content = yaml.safe_dump(cluster_to_dict(cluster), sort_keys=False)
    write_text(path, content)


def cluster_from_dict(content: object) -> Cluster:
    """The cluster of plain values, in the fields of a cluster file.

    Raises:
        ClusterFileError: as `load_cluster`, without a file's name.
    """
    try:
        return _build(content, Path())
    except InputError as error:
        raise ClusterFileError(str(error)) from None


def cluster_to_dict(cluster: Cluster) -> dict[str, Any]:
    """Plain values from which `cluster_from_dict` makes an equal cluster: every device in full and
    every link by itself."""
    return {
        "name": cluster.name,
        "devices": [device_to_dict(device) for device in cluster.devices],
        "network": {
            "kind": "explicit",
            "topology": cluster.topology,
            "switches": list(cluster.switches),
            "links": [dict(vars(link)) for link in cluster.links],
        },
    }


def _build(content: object, folder: Path, precision: str | None = None) -> Cluster:
    schema = validate(_ClusterSchema, content)
    if not schema.name.strip():
        raise InputError(f"name is {schema.name!r}; it must not be empty")
    devices: list[Device] = []
    known: set[str] = set()
    for i, entry in enumerate(schema.devices):
        where = f"devices[{i}]"
        device = validate(_DeviceEntry, entry, where)
        names = [device.name]
        if device.count is not None:
            names = [f"{device.name}{n}" for n in range(device.count)]
        for name in names:
            if name in known:
                raise InputError(
                    f"{where}.name is {name!r}, which is another device's; names must differ"
                )
            known.add(name)
            renamed = device.model_copy(update={"name": name})
            devices.append(device_from_schema(renamed, where, folder, precision=precision))
    network = _network(schema.network, [d.name for d in devices])
    return Cluster(schema.name, tuple(devices), network.links, network.switches, network.topology)


def _network(content: dict[str, Any] | None, devices: Sequence[str]) -> Network:
    if content is not None:
        return build_network(content, devices)
    if len(devices) > 1:
        raise InputError(
            f"network is missing; {counted(len(devices), 'device')} need one, such as "
            f"{{kind: star, bandwidth_bytes_per_s: 10 Gbit/s, latency_s: 50 us}}"
        )
    return Network("none", ())

"""The ``network`` part of a cluster file: one schema for each kind of topology."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field

from d2ft_sched.cluster import topology
from d2ft_sched.cluster.cluster import Duplex, Link
from d2ft_sched.cluster.topology import Cable, Network
from d2ft_sched.errors import InputError
from d2ft_sched.files.schema import BytesPerS, Number, Seconds, StrictModel, validate

AtLeastOne = Annotated[int, Field(ge=1)]
_CABLE_FIELDS = ("bandwidth_bytes_per_s", "latency_s", "duplex")


class _CableSchema(StrictModel):
    """The cable that links of the network are made of."""

    bandwidth_bytes_per_s: BytesPerS
    latency_s: Seconds
    duplex: Duplex = "full"

    def cable(self) -> Cable:
        return Cable(self.bandwidth_bytes_per_s, self.latency_s, self.duplex)


class _OverrideSchema(StrictModel):
    """What differs in one link; the rest is the network's."""

    bandwidth_bytes_per_s: BytesPerS | None = None
    latency_s: Seconds | None = None
    duplex: Duplex | None = None

    def over(self, cable: Cable) -> Cable:
        own = {field: v for field in _CABLE_FIELDS if (v := getattr(self, field)) is not None}
        return replace(cable, **own)


class _StarSchema(_CableSchema):
    kind: Literal["star"]
    switch: str = "switch"
    overrides: dict[str, _OverrideSchema] = Field(default_factory=dict)

    def build(self, devices: Sequence[str]) -> Network:
        for name in self.overrides:
            _check_known(f"network.overrides.{name}", name, devices, "device")
        overrides = {name: override.over(self.cable()) for name, override in self.overrides.items()}
        return topology.star(devices, self.cable(), overrides, self.switch)


class _PairOverrideSchema(_OverrideSchema):
    between: list[str]


class _FullMeshSchema(_CableSchema):
    kind: Literal["full_mesh"]
    overrides: list[_PairOverrideSchema] = Field(default_factory=list)

    def build(self, devices: Sequence[str]) -> Network:
        overrides = {}
        for i, override in enumerate(self.overrides):
            where = f"network.overrides[{i}].between"
            if len(set(override.between)) != 2 or len(override.between) != 2:
                raise InputError(f"{where} is {override.between}; it must be two devices")
            for name in override.between:
                _check_known(where, name, devices, "device")
            overrides[frozenset(override.between)] = override.over(self.cable())
        return topology.full_mesh(devices, self.cable(), overrides)


class _RingSchema(_CableSchema):
    kind: Literal["ring"]

    def build(self, devices: Sequence[str]) -> Network:
        return topology.ring(devices, self.cable())


class _TorusSchema(_CableSchema):
    kind: Literal["torus"]
    sizes: list[AtLeastOne]

    def build(self, devices: Sequence[str]) -> Network:
        try:
            return topology.torus(devices, self.sizes, self.cable())
        except InputError as error:
            raise InputError(f"network.sizes is {self.sizes}: {error}") from None


class _TreeSchema(_CableSchema):
    kind: Literal["tree"]
    devices_per_leaf: AtLeastOne
    oversubscription: Annotated[Number, Field(gt=0, allow_inf_nan=False)] = 1.0
    uplink_latency_s: Seconds | None = None

    def build(self, devices: Sequence[str]) -> Network:
        return topology.tree(
            devices,
            self.devices_per_leaf,
            self.cable(),
            self.oversubscription,
            self.uplink_latency_s,
        )


class _FatTreeSchema(_CableSchema):
    kind: Literal["fat_tree"]
    arity: int

    def build(self, devices: Sequence[str]) -> Network:
        try:
            return topology.fat_tree(devices, self.arity, self.cable())
        except InputError as error:
            raise InputError(f"network.arity is {self.arity}: {error}") from None


class _IslandsSchema(_CableSchema):
    kind: Literal["islands"]
    islands: list[list[str]]
    uplink: _CableSchema

    def build(self, devices: Sequence[str]) -> Network:
        seen: set[str] = set()
        for i, island in enumerate(self.islands):
            for j, name in enumerate(island):
                where = f"network.islands[{i}][{j}]"
                _check_known(where, name, devices, "device")
                if name in seen:
                    raise InputError(f"{where} is {name!r}, which stands in an island already")
                seen.add(name)
        for name in devices:
            if name not in seen:
                raise InputError(f"network.islands lacks device {name!r}; put it in one of them")
        return topology.islands(self.islands, self.cable(), self.uplink.cable())


class _LinkSchema(_OverrideSchema):
    source: str
    target: str


class _ExplicitSchema(StrictModel):
    kind: Literal["explicit"]
    links: list[_LinkSchema]
    switches: list[str] = Field(default_factory=list)
    bandwidth_bytes_per_s: BytesPerS | None = None
    latency_s: Seconds | None = None
    duplex: Duplex = "full"
    topology: str = "explicit"

    def build(self, devices: Sequence[str]) -> Network:
        nodes = dict.fromkeys((*devices, *self.switches))
        links = tuple(self._link(i, nodes) for i in range(len(self.links)))
        return Network(self.topology, links, tuple(self.switches))

    def _link(self, i: int, nodes: Collection[str]) -> Link:
        link, where = self.links[i], f"network.links[{i}]"
        for end in ("source", "target"):
            _check_known(f"{where}.{end}", getattr(link, end), nodes, "device or switch")
        values = {}
        for field in _CABLE_FIELDS:
            own = getattr(link, field)
            values[field] = getattr(self, field) if own is None else own
            if values[field] is None:
                raise InputError(f"{where}.{field} is missing; give it there or in network")
        try:
            return Link(link.source, link.target, **values)
        except InputError as error:
            raise InputError(f"{where}: {error}") from None


_SCHEMAS: dict[str, type] = {
    "star": _StarSchema,
    "full_mesh": _FullMeshSchema,
    "explicit": _ExplicitSchema,
    "tree": _TreeSchema,
    "ring": _RingSchema,
    "torus": _TorusSchema,
    "fat_tree": _FatTreeSchema,
    "islands": _IslandsSchema,
}


def build_network(content: object, devices: Sequence[str]) -> Network:
    """The network that a mapping with a `kind` describes between devices.

    Raises:
        InputError: one line with the field, its value and what would be right.
    """
    if not isinstance(content, dict):
        raise InputError(f"network is {content!r}; it must be a mapping with a kind")
    if "kind" not in content:
        raise InputError(f"network.kind is missing; known are {', '.join(_SCHEMAS)}")
    schema = _SCHEMAS.get(str(content["kind"]))
    if schema is None:
        raise InputError(f"network.kind is {content['kind']!r}; known are {', '.join(_SCHEMAS)}")
    return validate(schema, content, "network").build(devices)


def _check_known(where: str, name: str, known: Collection[str], what: str) -> None:
    if name not in known:
        some = ", ".join(list(known)[:8]) + (", ..." if len(known) > 8 else "")
        raise InputError(f"{where} is {name!r}, which is no {what} of this file; it has {some}")

"""Edge deployments as data: devices, networks and the scenarios that compose them.

Every number is a `Quantity`: its value, how it is known, and where it comes from. The unit is part of the
field's name (`_tflops` = 1e12 operations a second, `_gb` = 1e9 bytes, `_gbs` = 1e9 bytes a second,
`_mbps` = 1e6 bits a second, `_ms`, `_w`, `_wh`, `_nj_per_bit`).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

SCHEMA_VERSION = 1

Precision = Literal["fp32", "bf16", "fp16", "fp8", "int8"]
PRECISION_BYTES: dict[str, float] = {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0, "fp8": 1.0, "int8": 1.0}

Kind = Literal["nominal", "measured", "derived", "assumption"]
Identifier = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,47}$")]


class ProfileModel(BaseModel):
    """Base of everything a profile file may hold: immutable, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Quantity(ProfileModel):
    """A number that says how it is known.

    `nominal`: a vendor's figure; `measured`: somebody ran it; `derived`: computed from other figures by
    `formula`; `assumption`: no source exists, `source` then says why the value was chosen.
    """

    value: float = Field(ge=0.0, allow_inf_nan=False)
    kind: Kind
    source: str = Field(min_length=2)
    formula: str | None = None

    @model_validator(mode="after")
    def _derived_has_formula(self) -> Quantity:
        if self.kind == "derived" and not self.formula:
            raise ValueError("a derived quantity needs its formula")
        return self


class Efficiency(ProfileModel):
    """How much of the peak a call reaches: eta_c(w) = eta_compute * w / (w + half_work_gflop)."""

    eta_compute: Quantity  # share of peak_tflops reached by a very large call, 0..1
    half_work_gflop: Quantity  # work of one call at which half of eta_compute is reached
    eta_memory: Quantity  # share of memory_gbs reached, 0..1
    launch_ms: Quantity  # fixed time of one call


class PowerMode(ProfileModel):
    """A power budget of a device: its own peaks, everything else as in the device."""

    id: Identifier
    title: str
    peak_tflops: dict[Precision, Quantity]
    power_max_w: Quantity


class DeviceProfile(ProfileModel):
    """What one kind of device can do. `peak_tflops` is dense throughput by number format."""

    schema_version: Literal[1] = 1
    id: Identifier
    title: str
    category: Literal["phone", "headset", "laptop", "board", "vehicle", "mec", "cloud", "host"]
    description: str = ""
    peak_tflops: dict[Precision, Quantity] = Field(min_length=1)
    memory_gb: Quantity
    reserved_gb: Quantity  # taken by the system, rendering, other work
    memory_gbs: Quantity
    efficiency: Efficiency
    power_max_w: Quantity
    power_idle_w: Quantity
    storage_gbs: Quantity  # reading weights from local storage
    battery_wh: Quantity | None = None
    radios: tuple[str, ...] = ()
    power_modes: tuple[PowerMode, ...] = ()
    default_power_mode: Identifier | None = None

    @model_validator(mode="after")
    def _consistent(self) -> DeviceProfile:
        modes = {mode.id for mode in self.power_modes}
        if self.default_power_mode is not None and self.default_power_mode not in modes:
            raise ValueError(f"default_power_mode {self.default_power_mode!r} is not one of power_modes")
        for name, quantity in (("memory_gb", self.memory_gb), ("memory_gbs", self.memory_gbs)):
            if quantity.value <= 0:
                raise ValueError(f"{name} must be above 0")
        if any(peak.value <= 0 for peak in self.peak_tflops.values()):
            raise ValueError("every peak_tflops must be above 0")
        if self.power_idle_w.value > self.power_max_w.value:
            raise ValueError("power_idle_w is above power_max_w")
        if not 0 < self.efficiency.eta_compute.value <= 1 or not 0 < self.efficiency.eta_memory.value <= 1:
            raise ValueError("efficiency: eta_compute and eta_memory must lie in (0, 1]")
        return self

    def in_mode(self, mode_id: str | None) -> DeviceProfile:
        """The same device under one of its power modes (None: its default, or as it is)."""
        wanted = mode_id or self.default_power_mode
        if wanted is None:
            return self
        for mode in self.power_modes:
            if mode.id == wanted:
                return self.model_copy(
                    update={
                        "peak_tflops": mode.peak_tflops,
                        "power_max_w": mode.power_max_w,
                        "title": f"{self.title} ({mode.title})",
                    }
                )
        raise KeyError(wanted)

    @property
    def free_bytes(self) -> int:
        """Bytes that a model may take: memory less what is reserved."""
        return max(0, int((self.memory_gb.value - self.reserved_gb.value) * 1e9))


class Reconfiguration(ProfileModel):
    """A link that is re-planned at a fixed period, as LEO satellites are."""

    period_s: Quantity
    outage_ms: Quantity
    burst_loss: Quantity  # share of packets lost during the outage, 0..1


class NetworkProfile(ProfileModel):
    """One kind of link. `up` is from the user's side to the far side, `down` the way back."""

    schema_version: Literal[1] = 1
    id: Identifier
    title: str
    medium: Literal["cellular", "wifi", "wired", "satellite", "sidelink", "loopback"]
    description: str = ""
    down_mbps: Quantity
    up_mbps: Quantity
    rtt_ms: Quantity
    jitter_ms: Quantity
    loss: Quantity  # share of packets lost, 0..1
    down_nj_per_bit: Quantity  # radio energy at the user's side
    up_nj_per_bit: Quantity
    half_duplex: bool = False
    reconfiguration: Reconfiguration | None = None

    @model_validator(mode="after")
    def _consistent(self) -> NetworkProfile:
        if self.down_mbps.value <= 0 or self.up_mbps.value <= 0:
            raise ValueError("down_mbps and up_mbps must be above 0")
        if self.loss.value >= 1:
            raise ValueError("loss is a share of packets and must be below 1")
        return self


class Node(ProfileModel):
    """One running device of a scenario."""

    id: Identifier
    profile: Identifier
    title: str | None = None
    provider: Identifier = "operator"  # who owns it: one learning agent each in the simulator
    power_mode: Identifier | None = None
    available: bool = True
    trusted: bool = True  # may it see data of the user (text features, latents)?
    background_load: Quantity | None = None  # share of the device that other work takes, 0..1
    memory_free_gb: Quantity | None = None  # overrides the profile's memory less reserve
    cached: Literal["all", "generalist", "none"] = "all"  # weights already on its storage
    hosts_experts: bool = True  # False: display, decoder or store only
    position_m: tuple[float, float] | None = None  # for the map and for mobility


class Link(ProfileModel):
    """Connects two nodes; `user_side` sends with the network's `up`, receives with its `down`."""

    user_side: Identifier
    far_side: Identifier
    network: Identifier


class Arrivals(ProfileModel):
    """How requests come: Poisson at `rate_per_s`, or replayed from a trace file (CSV of seconds)."""

    process: Literal["poisson", "trace"] = "poisson"
    rate_per_s: Quantity
    trace: str | None = None
    users: int = Field(default=1, ge=1)


class Mobility(ProfileModel):
    """Users that pass access points: speed, spacing, interruption by a handover, fading of the link."""

    speed_m_per_s: Quantity
    cell_spacing_m: Quantity
    handover_ms: Quantity
    fading_sigma_db: Quantity
    path_loss_exponent: Quantity


class Faults(ProfileModel):
    """Devices that die, come back and slow down."""

    mean_time_between_s: Quantity
    mean_repair_s: Quantity
    slowdown_factor: Quantity
    slowdown_share: Quantity  # share of faults that only slow the device down


class Dynamics(ProfileModel):
    """What changes over time; read by the simulator, ignored by a single placement."""

    arrivals: Arrivals | None = None
    mobility: Mobility | None = None
    faults: Faults | None = None


class EdgeScenario(ProfileModel):
    """A deployment: nodes, links, who asks, and what must hold."""

    schema_version: Literal[1] = 1
    id: Identifier
    title: str
    description: str
    user: Identifier  # the node where the prompt is typed and the clip is shown
    weight_store: Identifier | None = None  # the node that serves weights which are not cached
    nodes: tuple[Node, ...] = Field(min_length=1)
    links: tuple[Link, ...] = ()
    deadline_ms: Quantity | None = None
    raw_prompt_stays_on_user_device: bool = True
    precisions: tuple[Precision, ...] = ("bf16", "fp16", "fp32")
    shape_tolerance: Quantity | None = (
        None  # an approximate shape is taken if the exact one costs this often more
    )
    dynamics: Dynamics | None = None

    @model_validator(mode="after")
    def _consistent(self) -> EdgeScenario:
        ids = [node.id for node in self.nodes]
        if len(set(ids)) != len(ids):
            raise ValueError("two nodes have the same id")
        known = set(ids)
        if self.user not in known:
            raise ValueError(f"user {self.user!r} is not one of nodes")
        if self.weight_store is not None and self.weight_store not in known:
            raise ValueError(f"weight_store {self.weight_store!r} is not one of nodes")
        for link in self.links:
            for end in (link.user_side, link.far_side):
                if end not in known:
                    raise ValueError(f"links name {end!r}, which is not one of nodes")
            if link.user_side == link.far_side:
                raise ValueError(f"links connect {link.user_side!r} with itself")
        return self

    def node(self, node_id: str) -> Node:
        """The node of that id; KeyError if there is none."""
        for node in self.nodes:
            if node.id == node_id:
                return node
        raise KeyError(node_id)

"""A scenario compiled for simulation: stations, what may be decided for a request, and what each choice costs.

All times come from the cost model (`edge.cost`); here they are only arranged. A request asks for one clip or
object: its text is encoded on the user's device, the conditioning travels to the chosen host, the host runs
all denoising steps of the two active experts, combines, decodes, exports, and the result travels back.

    service = steps * step_s + fixed_s,    step_s = both experts and the combining of one step

A choice (`Option`) is one host, or two hosts that run one expert each and exchange every step, and how the
result is sent. Arrays are indexed by option (O), station (n) or access point (A); seconds, joules, bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import permutations
from typing import Any

import numpy as np
import numpy.typing as npt

from moe_pipeline.edge.cost import (
    CostTables,
    Site,
    build_tables,
    expert_memory,
    may_host,
    migration,
    stage_memory,
)
from moe_pipeline.edge.network import Path, hop_of, transfer
from moe_pipeline.edge.profiles import ProfileLibrary
from moe_pipeline.schema.errors import MoEverseError
from moe_pipeline.schema.profiles import EdgeScenario, Faults, Mobility, NetworkProfile
from moe_pipeline.schema.workload import StageWorkloads

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.int64]

EXPERTS = ("city", "landscape", "interior", "space", "object", "avatar")
TOP_K = 2
STEPS = (12, 20, 30)  # an assumption: quick, default and careful requests, drawn with STEP_SHARES
STEP_SHARES = (0.3, 0.5, 0.2)
MAX_SPLITS = 4
HOPELESS = 3.0  # options that take more deadlines than this when idle are not offered
DEADLINE_FACTOR = 3.0  # where a scenario names no deadline: this many times the quickest idle answer
REPORT_PERIOD_S = 1.0  # assumption: every station tells its load to all providers once a second
DETECT_S = 1.0  # assumption: a silent station is given up after this long


@dataclass(frozen=True)
class Payload:
    """What travels to the user, where it is not the clip: an object of random size, sent whole or compact."""

    median_bytes: float
    sigma: float  # of the logarithm
    compact_share: float  # bytes of the compact form
    compact_quality: float  # what it is worth beside the whole one


# Assumptions of the scenario "an object made by one provider": a textured mesh of 12 MB, or 30 % of that.
PAYLOADS = {"object-transfer": Payload(12e6, 0.5, 0.3, 0.85)}


@dataclass(frozen=True)
class Option:
    """One choice for a request: host, second host (or None), compact or whole result."""

    title: str
    primary: int
    secondary: int | None = None
    compact: bool = False


@dataclass(frozen=True)
class Deployment:
    """A compiled scenario. Station n (the last) is the user's own device, of which every user has one."""

    id: str
    title: str
    stations: tuple[str, ...]  # (n + 1,) node ids
    titles: tuple[str, ...]
    providers: tuple[str, ...]  # (n + 1,)
    categories: tuple[str, ...]
    homes: tuple[str, ...]  # providers whose users ask, one learning agent each
    experts: int
    options: tuple[Option, ...]
    text_s: float
    text_j: float
    step_s: Array  # (O,)
    fixed_s: Array
    step_j: Array
    fixed_j: Array
    quality: Array
    slots: Index  # (n + 1,) experts that fit into free memory
    load_s: Array  # (n + 1,) one expert from storage into memory
    fetch_s: Array  # (n + 1,) one expert from the weight store to storage
    stored: npt.NDArray[np.bool_]  # (n + 1, E) on storage at the start
    access: tuple[NetworkProfile, ...]
    access_of: Index  # (A, O) access link of the path, -1: none
    up_work_s: Array  # (A, O) seconds at the profile's rate
    up_delay_s: Array
    up_jitter_s: Array
    down_work_s: Array
    down_delay_s: Array
    down_jitter_s: Array
    radio_j: Array
    deadline_s: float
    deadline_is_derived: bool
    rate_per_s: float
    users: int
    joins_late: npt.NDArray[np.bool_]  # (n + 1,) not there at the start
    trace: str | None = None
    mobility: Mobility | None = None
    faults: Faults | None = None
    payload_sigma: float = 0.0
    steps: tuple[float, ...] = STEPS
    step_shares: tuple[float, ...] = STEP_SHARES
    step_law: str = "classes"  # or "exponential" (mean 1), "constant" (1)
    report_period_s: float = REPORT_PERIOD_S
    detect_s: float = DETECT_S
    left_out: tuple[str, ...] = ()  # in words: nodes that cannot host, and why
    primary: Index = field(init=False)  # (O,)
    secondary: Index = field(init=False)  # (O,), -1: none

    def __post_init__(self) -> None:
        object.__setattr__(self, "primary", np.array([o.primary for o in self.options]))
        object.__setattr__(
            self, "secondary", np.array([-1 if o.secondary is None else o.secondary for o in self.options])
        )

    @property
    def local(self) -> int:
        """Index of the user's own device."""
        return len(self.stations) - 1

    @cached_property
    def mean_steps(self) -> float:
        """Mean of the law that `steps` follow."""
        return float(np.dot(self.steps, self.step_shares)) if self.step_law == "classes" else 1.0

    @cached_property
    def idle_s(self) -> Array:
        """(O,) time of a mean request when nobody else is there, at the first access point."""
        service = self.mean_steps * self.step_s + self.fixed_s
        travel = self.up_work_s[0] + self.up_delay_s[0] + self.down_work_s[0] + self.down_delay_s[0]
        return self.text_s + travel + service

    @cached_property
    def mean_energy_j(self) -> float:
        """Mean over options of a mean request's energy: the unit of the energy term."""
        return float(np.mean(self.mean_steps * self.step_j + self.fixed_j + self.radio_j[0])) + self.text_j

    @cached_property
    def capacity_per_s(self) -> float:
        """Requests a second that the shared single hosts can serve together, without loading or failing."""
        service = self.mean_steps * self.step_s + self.fixed_s
        shared = (self.secondary < 0) & (self.primary != self.local)
        best = {
            p: float(s)
            for p, s in sorted(zip(self.primary[shared], service[shared], strict=True), reverse=True)
        }
        return sum(1.0 / s for s in best.values()) or 1.0 / float(service.min())


def compile_scenario(
    scenario: EdgeScenario,
    profiles: ProfileLibrary,
    workloads: StageWorkloads,
    payload: Payload | None = None,
) -> Deployment:
    """Arranges the cost model's figures of a scenario for simulation.

    Raises:
        MoEverseError: `no_host` if no node may host an expert.
    """
    opened = scenario.model_copy(
        update={"nodes": tuple(node.model_copy(update={"available": True}) for node in scenario.nodes)}
    )
    tables = build_tables(workloads, EXPERTS, opened, profiles, steps=1)
    hosts, left_out = _hosts(tables)
    order = [h for h in hosts if h != tables.user] + [tables.user]
    position = {site: index for index, site in enumerate(order)}
    attachments = _attachments(tables, profiles)
    options = _options(tables, [h for h in order if h in hosts], position, payload)
    if not options:
        raise MoEverseError(
            "no_host",
            f"In '{scenario.id}' no node can host an expert: {'; '.join(left_out)}.",
            "Add a node with enough memory, or choose another scenario.",
        )
    costs = [
        _service(tables, order[o.primary], None if o.secondary is None else order[o.secondary])
        for o in options
    ]
    network: dict[str, Any] = _network(tables, profiles, options, order, attachments, workloads, payload)
    station = [tables.sites[index] for index in order]
    memory = [_station_memory(tables, index) for index in order]
    user_text = tables.sites[tables.user].text
    arrivals = scenario.dynamics.arrivals if scenario.dynamics is not None else None
    deployment = Deployment(
        id=scenario.id,
        title=scenario.title,
        stations=tuple(site.node.id for site in station),
        titles=tuple(site.title for site in station),
        providers=tuple(site.node.provider for site in station),
        categories=tuple(site.device.category for site in station),
        homes=_homes(station),
        experts=len(EXPERTS),
        options=tuple(options),
        text_s=user_text.total_ms / 1e3 if user_text is not None else 0.0,
        text_j=user_text.energy_j if user_text is not None else 0.0,
        step_s=np.array([c[0] for c in costs]),
        fixed_s=np.array([c[1] for c in costs]),
        step_j=np.array([c[2] for c in costs]),
        fixed_j=np.array([c[3] for c in costs]),
        quality=np.array([payload.compact_quality if payload and o.compact else 1.0 for o in options]),
        slots=np.array([m[0] for m in memory]),
        load_s=np.array([m[1] for m in memory]),
        fetch_s=np.array([m[2] for m in memory]),
        stored=np.array([[m[3]] * len(EXPERTS) for m in memory]),
        access=tuple(attachments.networks),
        **network,
        deadline_s=scenario.deadline_ms.value / 1e3 if scenario.deadline_ms is not None else 1.0,
        deadline_is_derived=scenario.deadline_ms is None,
        rate_per_s=arrivals.rate_per_s.value if arrivals is not None else 0.2,
        users=arrivals.users if arrivals is not None else 1,
        trace=arrivals.trace if arrivals is not None and arrivals.process == "trace" else None,
        joins_late=np.array([not scenario.nodes[index].available for index in order]),
        mobility=scenario.dynamics.mobility if scenario.dynamics is not None else None,
        faults=scenario.dynamics.faults if scenario.dynamics is not None else None,
        payload_sigma=payload.sigma if payload is not None else 0.0,
        left_out=tuple(left_out),
    )
    if deployment.deadline_is_derived:
        object.__setattr__(deployment, "deadline_s", DEADLINE_FACTOR * float(deployment.idle_s.min()))
    return _without_hopeless(deployment)


def _without_hopeless(deployment: Deployment) -> Deployment:
    """Drops the options that take several deadlines even when idle, unless nothing else is left."""
    idle = deployment.idle_s
    keep = np.flatnonzero(idle <= max(HOPELESS * deployment.deadline_s, float(idle.min())))
    if len(keep) == len(idle):
        return deployment
    dropped = [
        f"{deployment.options[o].title}: takes {idle[o]:.0f} s when idle"
        for o in range(len(idle))
        if o not in keep
    ]
    one = {
        name: getattr(deployment, name)[keep]
        for name in ("step_s", "fixed_s", "step_j", "fixed_j", "quality")
    }
    ways = (
        "access_of",
        "up_work_s",
        "up_delay_s",
        "up_jitter_s",
        "down_work_s",
        "down_delay_s",
        "down_jitter_s",
        "radio_j",
    )
    two = {name: getattr(deployment, name)[:, keep] for name in ways}
    return replace(
        deployment,
        options=tuple(deployment.options[o] for o in keep),
        left_out=(*deployment.left_out, *dropped),
        **one,
        **two,
    )


def single_station(
    service_s: float, rate_per_s: float, law: str = "exponential", discipline_deadline_s: float = 1e9
) -> Deployment:
    """One server without network: M/M/1 (`exponential`) or M/D/1 (`constant`), for the check against theory."""
    one, zero = np.ones(1), np.zeros((1, 1))
    return Deployment(
        id=f"single-{law}",
        title="One server",
        stations=("server", "user"),
        titles=("Server", "User"),
        providers=("operator", "user"),
        categories=("mec", "phone"),
        homes=("operator",),
        experts=2,
        options=(Option("server", 0),),
        text_s=0.0,
        text_j=0.0,
        step_s=service_s * one,
        fixed_s=0 * one,
        step_j=0 * one,
        fixed_j=0 * one,
        quality=one,
        slots=np.array([2, 2]),
        load_s=np.zeros(2),
        fetch_s=np.zeros(2),
        stored=np.ones((2, 2), dtype=bool),
        access=(),
        access_of=np.full((1, 1), -1),
        up_work_s=zero,
        up_delay_s=zero,
        up_jitter_s=zero,
        down_work_s=zero,
        down_delay_s=zero,
        down_jitter_s=zero,
        radio_j=zero,
        deadline_s=discipline_deadline_s,
        deadline_is_derived=False,
        rate_per_s=rate_per_s,
        users=1,
        joins_late=np.zeros(2, dtype=bool),
        step_law=law,
    )


def _hosts(tables: CostTables) -> tuple[list[int], list[str]]:
    """Sites that can run at least one expert, and for the others a reason in words."""
    hosts, reasons = [], []
    for index, site in enumerate(tables.sites):
        slots = _station_memory(tables, index)[0]
        if not site.reachable:
            reasons.append(f"{site.title}: not reachable")
        elif not site.node.hosts_experts or not site.node.trusted:
            reasons.append(f"{site.title}: does not host experts")
        elif not may_host(tables, index) or site.expert is None or site.exchange is None:
            reasons.append(f"{site.title}: has none of the allowed number formats")
        elif site.decode is None or site.export is None:
            reasons.append(f"{site.title}: cannot decode")
        elif migration(tables, index) is None:
            reasons.append(f"{site.title}: cannot get the weights")
        elif slots < 1:
            reasons.append(f"{site.title}: one expert does not fit into {site.free_bytes / 1e9:.1f} GB")
        else:
            hosts.append(index)
    return hosts, reasons


def _station_memory(tables: CostTables, index: int) -> tuple[int, float, float, bool]:
    """Experts that fit, seconds to load one from storage, seconds to fetch one, is it stored at the start."""
    site = tables.sites[index]
    if site.expert is None:
        return 0, 0.0, 0.0, False
    weights, working = expert_memory(tables, site)
    free = site.free_bytes - working - stage_memory(tables.workloads.decode, site.decode)
    move = migration(tables, index)
    load_s = weights / (site.device.storage_gbs.value * 1e9)
    fetch_s = move.ms / 1e3 if move is not None else 0.0
    return max(0, int(free // max(1, weights))), load_s, fetch_s, site.node.cached == "all"


def _options(
    tables: CostTables, hosts: Sequence[int], position: dict[int, int], payload: Payload | None
) -> list[Option]:
    """Every host alone, and the pairs whose step is quicker than on either half alone."""
    fits = {h: _station_memory(tables, h)[0] for h in hosts}
    singles = [h for h in hosts if fits[h] >= TOP_K]
    step = {h: _service(tables, h, None)[0] for h in hosts}
    splits = []
    for a, b in permutations([h for h in hosts if h != tables.user], 2):
        both = _service(tables, a, b)[0]
        alone = min([step[x] for x in (a, b) if x in singles], default=float("inf"))
        if both < alone:
            splits.append((both, a, b))
    chosen: dict[frozenset[int], tuple[int, int]] = {}
    for _, a, b in sorted(splits):
        chosen.setdefault(frozenset((a, b)), (a, b))
    forms = (False, True) if payload is not None else (False,)
    found = []
    for form in forms:
        suffix = ", compact" if form else ""
        for host in singles:
            found.append(Option(f"{tables.sites[host].node.id}{suffix}", position[host], None, form))
        # an object is made on one provider: no pairs where there is a payload
        for a, b in list(chosen.values())[: 0 if payload is not None else MAX_SPLITS]:
            name = f"{tables.sites[a].node.id} + {tables.sites[b].node.id}{suffix}"
            found.append(Option(name, position[a], position[b], form))
    return found


def _service(tables: CostTables, host: int, second: int | None) -> tuple[float, float, float, float]:
    """Seconds and joules: of one denoising step of two experts, and of the rest (decode, export)."""
    site = tables.sites[host]
    assert site.expert and site.exchange and site.decode and site.export
    fixed_s = (site.decode.total_ms + site.export.total_ms) / 1e3
    fixed_j = site.decode.energy_j + site.export.energy_j
    if second is None:
        step_ms = TOP_K * site.expert.total_ms + site.exchange.total_ms
        return step_ms / 1e3, fixed_s, TOP_K * site.expert.energy_j + site.exchange.energy_j, fixed_j
    other = tables.sites[second]
    there, back = tables.path(host, second), tables.path(second, host)
    if other.expert is None or there is None or back is None:
        return float("inf"), fixed_s, float("inf"), fixed_j
    out = transfer(tables.workloads.expert_step.input_bytes, there)
    answer = transfer(tables.workloads.expert_step.output_bytes, back)
    remote_ms = out.total_ms + other.expert.total_ms + answer.total_ms
    step_ms = max(site.expert.total_ms, remote_ms) + site.exchange.total_ms
    step_j = (
        site.expert.energy_j + other.expert.energy_j + site.exchange.energy_j + out.radio_j + answer.radio_j
    )
    return step_ms / 1e3, fixed_s, step_j, fixed_j


@dataclass(frozen=True)
class _Attachments:
    """Access links of the user, and the roadside units that may serve in turn."""

    networks: list[NetworkProfile]
    direct: dict[int, tuple[int, Path, Path]]  # site -> access link, way up, way down
    units: list[int]  # sites of the access points in turn; empty: no movement between them
    unit_link: int = -1


def _attachments(tables: CostTables, profiles: ProfileLibrary) -> _Attachments:
    scenario = tables.scenario
    index = {site.node.id: i for i, site in enumerate(tables.sites)}
    networks: list[NetworkProfile] = []
    direct: dict[int, tuple[int, Path, Path]] = {}
    for link in scenario.links:
        if scenario.user not in (link.user_side, link.far_side):
            continue
        near = link.user_side == scenario.user
        network = profiles.network(link.network)
        there = Path((hop_of(network, upwards=near, bandwidth_scale=1.0),))
        back = Path((hop_of(network, upwards=not near, bandwidth_scale=1.0),))
        direct[index[link.far_side if near else link.user_side]] = (len(networks), there, back)
        networks.append(network)
    moving = scenario.dynamics is not None and scenario.dynamics.mobility is not None
    for site, (number, _, _) in direct.items():
        if not moving or tables.sites[site].device.category != "mec":
            continue
        same = {index[k.far_side] for k in scenario.links if k.network == networks[number].id}
        units = [
            i
            for i in sorted(same)
            if tables.sites[i].device.category == "mec" and (i == site or i not in direct)
        ]
        if len(units) > 1:
            return _Attachments(networks, direct, units, number)
    return _Attachments(networks, direct, [])


def _ways(tables: CostTables, at: _Attachments, unit: int | None, site: int) -> tuple[int, Path, Path]:
    """Access link, way up and way down between the user and a site, seen from one access point."""
    if site == tables.user:
        return -1, Path(), Path()
    if unit is not None and at.direct:
        anchor = next(
            s for s, (number, _, _) in at.direct.items() if number == at.unit_link and s in at.units
        )
        link, up, down = at.direct[anchor]
        reached = site in at.units or site not in at.direct
        there, back = tables.path(unit, site), tables.path(site, unit)
        if reached and there is not None and back is not None:
            return link, Path(up.hops + there.hops), Path(back.hops + down.hops)
    if site in at.direct:
        return at.direct[site]
    there, back = tables.path(tables.user, site), tables.path(site, tables.user)
    assert there is not None and back is not None  # hosts are reachable
    link = next(i for i, network in enumerate(at.networks) if network.id == there.hops[0].network)
    return link, there, back


def _network(
    tables: CostTables,
    profiles: ProfileLibrary,
    options: Sequence[Option],
    order: Sequence[int],
    at: _Attachments,
    workloads: StageWorkloads,
    payload: Payload | None,
) -> dict[str, npt.NDArray]:  # type: ignore[type-arg]
    """The (A, O) arrays of the ways between the user and every option."""
    units: list[int | None] = list(at.units) or [None]
    names = (
        "up_work_s",
        "up_delay_s",
        "up_jitter_s",
        "down_work_s",
        "down_delay_s",
        "down_jitter_s",
        "radio_j",
    )
    table = np.zeros((len(names), len(units), len(options)))
    link = np.full((len(units), len(options)), -1)
    for a, unit in enumerate(units):
        for o, option in enumerate(options):
            result = payload.median_bytes if payload is not None else float(workloads.export.output_bytes)
            if payload is not None and option.compact:
                result *= payload.compact_share
            link[a, o], up, down = _ways(tables, at, unit, order[option.primary])
            there, back = transfer(workloads.text.output_bytes, up), transfer(result, down)
            if option.secondary is not None:
                _, second, _ = _ways(tables, at, unit, order[option.secondary])
                other = transfer(workloads.text.output_bytes, second)
                there = max(there, other, key=lambda message: message.total_ms)
            table[:, a, o] = (
                there.serial_ms / 1e3,
                _fixed_delay_s(there.delay_ms, up),
                _jitter_s(up),
                back.serial_ms / 1e3,
                _fixed_delay_s(back.delay_ms, down),
                _jitter_s(down),
                there.radio_j + back.radio_j,
            )
    return {**dict(zip(names, table, strict=True)), "access_of": link}


def _fixed_delay_s(delay_ms: float, path: Path) -> float:
    """The part of a message's delay that is not drawn: without mean jitter and mean waits for outages."""
    drawn = sum(hop.jitter_ms / 2 + hop.outage_wait_ms for hop in path.hops)
    return max(0.0, delay_ms - drawn) / 1e3


def _jitter_s(path: Path) -> float:
    return sum(hop.jitter_ms for hop in path.hops) / 1e3


def _homes(stations: Sequence[Site]) -> tuple[str, ...]:
    """Providers that own a shared edge host; the cloud's only where there is no other."""
    shared = stations[:-1]
    edge = dict.fromkeys(s.node.provider for s in shared if s.device.category != "cloud")
    return tuple(edge) or tuple(dict.fromkeys(s.node.provider for s in shared)) or ("operator",)

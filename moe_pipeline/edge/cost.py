"""From a scenario and a request's workloads to the integer problem of each execution shape.

The three shapes, for k experts and n steps:

- `exchange_every_step`: the coordinator sends the latents to every node, each node answers with the
  combined prediction of its experts, the coordinator takes the sampler's step. Exact for a mixture.
- `hand_over_latents`: the experts share the steps out among them and pass the latents on, k - 1 messages.
  Exact where experts own disjoint spans of sigma, an approximation of a mixture otherwise.
- `run_alone_merge_once`: every expert denoises alone from the same noise, the final latents are averaged.
  One message per node; always an approximation.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from moe_pipeline.edge.network import Path, all_paths, transfer
from moe_pipeline.edge.problem import Anchor, Problem
from moe_pipeline.edge.profiles import ProfileLibrary
from moe_pipeline.edge.roofline import CallCost, fastest_precision
from moe_pipeline.schema.placement import Shape
from moe_pipeline.schema.profiles import DeviceProfile, EdgeScenario, Node
from moe_pipeline.schema.workload import StageWorkloads, Workload

SHAPES: tuple[Shape, ...] = ("exchange_every_step", "hand_over_latents", "run_alone_merge_once")


@dataclass(frozen=True)
class Site:
    """A node with its device in the chosen power mode, what it has free and what each stage costs there."""

    node: Node
    device: DeviceProfile
    free_bytes: int
    load: float  # share that other work takes
    reachable: bool  # from the user and back
    text: CallCost | None
    expert: CallCost | None
    exchange: CallCost | None
    decode: CallCost | None
    export: CallCost | None

    @property
    def title(self) -> str:
        """The node's name for people."""
        return self.node.title or self.device.title


@dataclass(frozen=True)
class CostTables:
    """Everything a placement needs to know, in floats; node order is the scenario's."""

    scenario: EdgeScenario
    workloads: StageWorkloads
    experts: tuple[str, ...]
    steps: int
    shares: tuple[int, ...]  # steps of each expert in a hand-over; together they are `steps`
    sites: tuple[Site, ...]
    paths: dict[tuple[str, str], Path]
    messages: Messages
    killed: frozenset[str]
    deadline_ms: float | None

    def path(self, start: int, end: int) -> Path | None:
        """The path between two nodes by index; None: unreachable."""
        return self.paths.get((self.sites[start].node.id, self.sites[end].node.id))

    @cached_property
    def user(self) -> int:
        """Index of the user's node."""
        return next(i for i, site in enumerate(self.sites) if site.node.id == self.scenario.user)


def build_tables(
    workloads: StageWorkloads,
    experts: Sequence[str],
    scenario: EdgeScenario,
    profiles: ProfileLibrary,
    *,
    steps: int,
    shares: Sequence[int] | None = None,
    killed: Collection[str] = frozenset(),
    bandwidth_scale: float = 1.0,
    deadline_ms: float | None = None,
) -> CostTables:
    """Prices every stage on every node and finds the paths between them.

    `shares` are the steps of each expert in a hand-over; None: as even as may be.
    """
    alive = [node.id for node in scenario.nodes if node.available and node.id not in killed]
    paths = all_paths(scenario, profiles.networks, alive=alive, bandwidth_scale=bandwidth_scale)
    sites = []
    for node in scenario.nodes:
        device = profiles.device(node.profile).in_mode(node.power_mode)
        reachable = (scenario.user, node.id) in paths and (node.id, scenario.user) in paths
        sites.append(_site(node, device, scenario, workloads, reachable))
    limit = (
        deadline_ms
        if deadline_ms is not None
        else (scenario.deadline_ms.value if scenario.deadline_ms is not None else None)
    )
    return CostTables(
        scenario,
        workloads,
        tuple(experts),
        steps,
        tuple(step_share(steps, len(experts)) if shares is None else shares),
        tuple(sites),
        paths,
        _messages(workloads, sites, paths),
        frozenset(killed),
        limit,
    )


def _site(
    node: Node, device: DeviceProfile, scenario: EdgeScenario, workloads: StageWorkloads, reachable: bool
) -> Site:
    load = node.background_load.value if node.background_load is not None else 0.0
    free = device.free_bytes
    if node.memory_free_gb is not None:
        free = int(node.memory_free_gb.value * 1e9)

    def cost(workload: Workload) -> CallCost | None:
        return fastest_precision(workload, device, scenario.precisions, background_load=load)

    return Site(
        node,
        device,
        free,
        load,
        reachable,
        text=cost(workloads.text),
        expert=cost(workloads.expert_step),
        exchange=cost(workloads.exchange),
        decode=cost(workloads.decode),
        export=cost(workloads.export),
    )


def expert_memory(tables: CostTables, site: Site) -> tuple[int, int]:
    """Weights of one expert and the working memory of a call on this node, in bytes."""
    if site.expert is None:
        return 0, 0
    workload = tables.workloads.expert_step.at(site.expert.precision)
    return workload.weight_bytes, max(0, workload.peak_memory_bytes - workload.weight_bytes)


def stage_memory(workload: Workload, cost: CallCost | None) -> int:
    """Bytes a stage takes on the node that hosts it."""
    return workload.at(cost.precision).peak_memory_bytes if cost is not None else 0


@dataclass(frozen=True)
class Migration:
    """How an expert's weights get to a node."""

    kind: str  # "cached", "delta", "full"
    ms: float
    radio_j: float
    size_bytes: int


def migration(tables: CostTables, index: int) -> Migration | None:
    """The cheaper of difference and full weights from the store; None: they cannot be had."""
    site = tables.sites[index]
    known = site.node.cached == "generalist"
    if site.node.cached == "all" or (known and tables.workloads.delta_bytes == 0):
        return Migration("cached", 0.0, 0.0, 0)
    store = tables.scenario.weight_store
    if store is None or site.expert is None:
        return None
    path = tables.paths.get((store, site.node.id))
    if path is None:
        return None
    # Weights travel as the pack stores them, whatever format the node computes in.
    options = [("full", tables.workloads.expert_step.weight_bytes)]
    if known and tables.workloads.delta_bytes is not None:
        options.append(("delta", tables.workloads.delta_bytes))
    kind, size = min(options, key=lambda option: option[1])
    message = transfer(size, path)
    write_ms = size / (site.device.storage_gbs.value * 1e6)
    return Migration(kind, max(message.total_ms, write_ms), message.radio_j, size)


def may_host(tables: CostTables, index: int) -> bool:
    """May this node hold latents and conditioning at all?"""
    site = tables.sites[index]
    alive = site.node.available and site.node.id not in tables.killed
    return alive and site.reachable and site.node.trusted


def step_share(steps: int, experts: int) -> list[int]:
    """How a hand-over shares the steps out where no gate says so: as even as integers allow, the first experts take
    the rest."""
    return [steps // experts + (1 if e < steps % experts else 0) for e in range(experts)]


def build_problem(tables: CostTables, shape: Shape) -> Problem:
    """The integer problem of one shape; nodes are the scenario's, in its order."""
    count, nodes = len(tables.experts), len(tables.sites)
    hosts = [may_host(tables, d) and tables.sites[d].node.hosts_experts for d in range(nodes)]
    moves = [migration(tables, d) if hosts[d] else None for d in range(nodes)]
    allowed = np.zeros((count, nodes), dtype=bool)
    compute_us, compute_uj = np.zeros((2, count, nodes), dtype=np.int64)
    load_us, load_uj, weight_kb = np.zeros((3, count, nodes), dtype=np.int64)
    working_kb, free_kb = np.zeros((2, nodes), dtype=np.int64)
    share = tables.shares if shape == "hand_over_latents" else (tables.steps,) * count
    for d, site in enumerate(tables.sites):
        free_kb[d] = site.free_bytes // 1000
        move = moves[d]
        if not hosts[d] or site.expert is None or move is None:
            continue
        weights, working = expert_memory(tables, site)
        working_kb[d] = -(-working // 1000)
        for e in range(count):
            allowed[e, d] = True
            compute_us[e, d] = round(share[e] * site.expert.total_ms * 1e3)
            compute_uj[e, d] = round(share[e] * site.expert.energy_j * 1e6)
            load_us[e, d] = round(move.ms * 1e3)
            load_uj[e, d] = round(move.radio_j * 1e6)
            weight_kb[e, d] = -(-weights // 1000)
    rounds = tables.steps if shape == "exchange_every_step" else 1
    unit = tables.messages
    return Problem(
        shape,
        tables.experts,
        tuple(site.node.id for site in tables.sites),
        tuple(_anchors(tables, shape)),
        allowed,
        compute_us,
        compute_uj,
        load_us,
        load_uj,
        weight_kb,
        working_kb,
        free_kb,
        conditioning_us=_scaled(unit.conditioning_ms, 1e3),
        conditioning_uj=_scaled(unit.conditioning_j, 1e6),
        serial_us=_scaled(unit.serial_ms, rounds * 1e3),
        delay_us=_scaled(unit.delay_ms, rounds * 1e3),
        exchange_uj=_scaled(unit.exchange_j, rounds * 1e6),
        handover_us=_scaled(unit.latents_ms, 1e3),
        handover_uj=_scaled(unit.latents_j, 1e6),
        deadline_us=None if tables.deadline_ms is None else round(tables.deadline_ms * 1e3),
    )


@dataclass(frozen=True)
class Messages:
    """One message of each kind between every two nodes, (D, D): milliseconds and radio joules.

    `serial` and `delay` are latents to a node and the prediction back.
    """

    conditioning_ms: NDArray[np.float64]
    conditioning_j: NDArray[np.float64]
    serial_ms: NDArray[np.float64]
    delay_ms: NDArray[np.float64]
    exchange_j: NDArray[np.float64]
    latents_ms: NDArray[np.float64]
    latents_j: NDArray[np.float64]


def _messages(work: StageWorkloads, sites: Sequence[Site], paths: dict[tuple[str, str], Path]) -> Messages:
    table = np.zeros((7, len(sites), len(sites)))
    for a, start in enumerate(sites):
        for b, end in enumerate(sites):
            there = paths.get((start.node.id, end.node.id))
            back = paths.get((end.node.id, start.node.id))
            if there is None or back is None:
                continue  # such a node is not allowed anyway
            conditioning = transfer(work.text.output_bytes, there)
            out = transfer(work.expert_step.input_bytes, there)
            answer = transfer(work.expert_step.output_bytes, back)
            latents = transfer(work.latent_bytes, there)
            table[:, a, b] = (
                conditioning.total_ms,
                conditioning.radio_j,
                out.serial_ms + answer.serial_ms,
                out.delay_ms + answer.delay_ms,
                out.radio_j + answer.radio_j,
                latents.total_ms,
                latents.radio_j,
            )
    return Messages(*table)


def _scaled(values: NDArray[np.float64], factor: float) -> NDArray[np.int64]:
    return np.rint(values * factor).astype(np.int64)


def _anchors(tables: CostTables, shape: Shape) -> list[Anchor]:
    """Every feasible choice of text, coordinator and decoder node.

    Text runs on the user's node if the raw prompt must stay there, otherwise there or on the coordinator.
    """
    user, nodes = tables.user, range(len(tables.sites))
    if not may_host(tables, user):
        return []
    combines = 1 if shape == "run_alone_merge_once" else tables.steps
    hosts = [d for d in nodes if may_host(tables, d)]
    centres = [d for d in hosts if tables.sites[d].exchange is not None]
    tails = {d: tail for d in hosts if (tail := _tail_of(tables, d)) is not None}
    heads = {d: head for d in hosts if (head := _head_of(tables, d)) is not None}
    stays = tables.scenario.raw_prompt_stays_on_user_device
    return [
        _anchor(tables, heads[text], centre, tails[decoder], combines)
        for centre in centres
        for decoder in tails
        for text in sorted({user} if stays else {user, centre})
        if text in heads
    ]


@dataclass(frozen=True)
class _Part:
    """Text or decode on one node: microseconds, microjoules, kilobytes."""

    node: int
    compute_us: int
    network_us: int
    compute_j: float
    radio_j: float
    memory_kb: int


def _head_of(tables: CostTables, node: int) -> _Part | None:
    encoder, path = tables.sites[node].text, tables.path(tables.user, node)
    if encoder is None or path is None:
        return None
    prompt = transfer(tables.workloads.prompt_bytes, path)
    memory = -(-stage_memory(tables.workloads.text, encoder) // 1000)
    compute_us, network_us = round(encoder.total_ms * 1e3), round(prompt.total_ms * 1e3)
    return _Part(node, compute_us, network_us, encoder.energy_j, prompt.radio_j, memory)


def _tail_of(tables: CostTables, node: int) -> _Part | None:
    decode, export = tables.sites[node].decode, tables.sites[node].export
    path = tables.path(node, tables.user)
    if decode is None or export is None or path is None:
        return None
    clip = transfer(tables.workloads.export.output_bytes, path)
    memory = -(-stage_memory(tables.workloads.decode, decode) // 1000)
    compute_us = round(decode.total_ms * 1e3) + round(export.total_ms * 1e3)
    energy = decode.energy_j + export.energy_j
    return _Part(node, compute_us, round(clip.total_ms * 1e3), energy, clip.radio_j, memory)


def _anchor(tables: CostTables, head: _Part, centre: int, tail: _Part, combines: int) -> Anchor:
    mixer = tables.sites[centre].exchange
    mixing_ms, mixing_j = (mixer.total_ms, mixer.energy_j) if mixer is not None else (0.0, 0.0)
    latents_ms = float(tables.messages.latents_ms[centre, tail.node])
    latents_j = float(tables.messages.latents_j[centre, tail.node])
    return Anchor(
        head.node,
        centre,
        tail.node,
        text_compute_us=head.compute_us,
        text_network_us=head.network_us,
        combine_us=round(combines * mixing_ms * 1e3),
        tail_compute_us=tail.compute_us,
        tail_network_us=round(latents_ms * 1e3) + tail.network_us,
        compute_uj=round((head.compute_j + combines * mixing_j + tail.compute_j) * 1e6),
        radio_uj=round((head.radio_j + latents_j + tail.radio_j) * 1e6),
        memory_kb=((head.node, head.memory_kb), (tail.node, tail.memory_kb)),
    )

"""The mobile edge: scenario, map, Gantt charts, and the devices panel beside the stage.

Estimated figures (from the placement) and measured ones (from the record) go into separate keys and separate
charts; nothing here adds one to the other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from moe_pipeline.schema.placement import Placement
from moe_pipeline.schema.profiles import EdgeScenario, NetworkProfile
from moe_pipeline.schema.record import RunRecord
from moe_pipeline.ui.palette import Palette
from moe_pipeline.ui.panel import Panel, View

POLICIES = {"greedy": "Greedy", "single-device": "All on one device", "cloud-only": "All in the cloud"}
EVENTS = ("scenario", "bandwidth", "kill", "revive", "restore")


class Networks(Protocol):
    """What the map needs of a profile library."""

    def scenario(self, scenario_id: str) -> EdgeScenario: ...

    def network(self, network_id: str) -> NetworkProfile: ...


def empty_devices(message: str = "The placement appears with the first words of a prompt.") -> View:
    """No placement yet, and why."""
    return {"rows": [], "message": message}


def devices_view(placement: Placement, palette: Palette, scenario_title: str) -> View:
    """One row an active expert: device and estimated latency split."""
    rows = [
        {
            "title": palette[a.expert].title,
            "colour": palette[a.expert].colour,
            "device": a.device_title,
            "compute_ms": a.estimated_ms.compute,
            "network_ms": a.estimated_ms.network,
            "total_ms": a.estimated_ms.total,
            "reason": a.reason,
        }
        for a in placement.assignments
    ]
    latency = placement.totals.latency
    return {
        "rows": rows,
        "message": "",
        "scenario": scenario_title,
        "compute_ms": latency.compute,
        "network_ms": latency.network,
        "total_ms": latency.total,
        "energy_j": placement.totals.energy.total,
    }


def empty_edge(scenarios: Sequence[EdgeScenario], chosen: str, palette: Palette) -> View:
    """The scenario alone, before anything was placed in it."""
    return {
        "scenarios": [{"id": s.id, "title": s.title} for s in scenarios],
        "scenario": chosen,
        "description": next((s.description for s in scenarios if s.id == chosen), ""),
        "experts": palette.wire(),
        "nodes": [],
        "links": [],
        "timeline": [],
        "measured": [],
        "assignments": [],
        "rejected": [],
        "baselines": [],
        "killed": [],
        "bandwidth_scale": 1.0,
        "total_ms": None,
        "compute_ms": None,
        "network_ms": None,
        "energy_j": None,
        "radio_j": None,
        "transferred_bytes": 0,
        "deadline": "",
        "solver": "",
        "shape_reason": "",
        "calibration": "",
        "replanned": "",
        "error": "",
    }


def edge_view(
    placement: Placement,
    networks: Networks,
    scenarios: Sequence[EdgeScenario],
    palette: Palette,
    *,
    measured: Sequence[View] = (),
    replanned: str = "",
) -> View:
    """Everything the Edge tab shows of one placement."""
    scenario = networks.scenario(placement.scenario)
    totals = placement.totals
    return {
        **empty_edge(scenarios, scenario.id, palette),
        "nodes": _nodes(placement, scenario, palette),
        "links": _links(placement, scenario, networks),
        "timeline": [
            {
                "stage": e.stage,
                "device": e.device,
                "start_ms": round(e.start_ms, 3),
                "end_ms": round(e.end_ms, 3),
            }
            | {"kind": e.kind, "expert": e.expert}
            for e in placement.timeline
        ],
        "measured": list(measured),
        "assignments": [
            {"title": palette[a.expert].title, "colour": palette[a.expert].colour, "device": a.device_title}
            | {"reason": a.reason}
            for a in placement.assignments
        ],
        "rejected": [{"reason": reason} for reason in dict.fromkeys(r.reason for r in placement.rejected)],
        "baselines": [
            {"title": POLICIES.get(b.policy, b.policy), "feasible": b.feasible, "total_ms": b.total_ms}
            | {"energy_j": b.energy_j, "reason": b.reason}
            for b in placement.baselines
        ],
        "killed": list(placement.killed),
        "bandwidth_scale": placement.bandwidth_scale,
        "total_ms": totals.latency.total,
        "compute_ms": totals.latency.compute,
        "network_ms": totals.latency.network,
        "energy_j": totals.energy.total,
        "radio_j": totals.energy.radio,
        "transferred_bytes": totals.transferred_bytes,
        "deadline": _deadline(placement),
        "solver": f"{placement.solver}, found in {placement.solve_ms:.0f} ms",
        "shape_reason": placement.shape_reason,
        "calibration": placement.calibration,
        "replanned": replanned,
    }


def edge_failed(
    view: View,
    scenarios: Sequence[EdgeScenario],
    palette: Palette,
    sentence: str,
    killed: Iterable[str],
    bandwidth_scale: float,
) -> View:
    """No placement under these conditions: say so, keep the map, mark what was killed; no figure of before stays."""
    dead = set(killed)
    idle = {"experts": [], "stages": [], "busy_ms": 0.0, "energy_j": 0.0, "reason": ""}
    nodes = [{**node, **idle, "killed": node["id"] in dead} for node in view["nodes"]]
    links = [{**link, "used": False} for link in view["links"]]
    empty = empty_edge(scenarios, view["scenario"], palette)
    return {**empty, "nodes": nodes, "links": links, "measured": view["measured"], "killed": sorted(dead),
            "bandwidth_scale": bandwidth_scale, "error": sentence}  # fmt: skip


def measured_timeline(record: RunRecord) -> list[View]:
    """The run as this machine's clock saw it, stage after stage, for the chart labelled measured."""
    timing = record.timing
    entries: list[View] = []
    now = 0.0

    def add(stage: str, ms: float, kind: str) -> None:
        nonlocal now
        if ms > 0:
            entries.append({"stage": stage, "device": "this-machine", "start_ms": round(now, 3)}
                           | {"end_ms": round(now + ms, 3), "kind": kind, "expert": None})  # fmt: skip
            now += ms

    add("text", timing.encode_prompt_ms, "text")
    add("gate", timing.gate_ms, "gate")
    add("placement", timing.place_ms, "place")
    for step in timing.steps:
        add(f"step {step.index + 1}", step.ms, "step")
    add("decode", timing.decode_ms, "decode")
    add("metrics", timing.metrics_ms, "metrics")
    add("export", timing.export_ms, "export")
    return entries


def _deadline(placement: Placement) -> str:
    totals = placement.totals
    if totals.deadline_ms is None:
        return ""
    word = "meets" if totals.meets_deadline else "misses"
    return f"It {word} the deadline of {totals.deadline_ms / 1000:.3g} s."


def _hops(scenario: EdgeScenario) -> dict[str, int]:
    """Links between each node and the user; nodes without a way stand one column behind the last."""
    hops = {scenario.user: 0}
    queue = deque([scenario.user])
    while queue:
        here = queue.popleft()
        for link in scenario.links:
            if here in (link.user_side, link.far_side):
                there = link.far_side if here == link.user_side else link.user_side
                if there not in hops:
                    hops[there] = hops[here] + 1
                    queue.append(there)
    last = max(hops.values()) + 1
    return {node.id: hops.get(node.id, last) for node in scenario.nodes}


def _nodes(placement: Placement, scenario: EdgeScenario, palette: Palette) -> list[View]:
    loads = {load.device: load for load in placement.devices}
    stages: dict[str, list[str]] = {}
    for host in placement.stages:
        stages.setdefault(host.device, []).append(host.stage)
    reasons: dict[str, str] = {}
    for rejection in placement.rejected:
        reasons.setdefault(rejection.device, rejection.reason)
    hops = _hops(scenario)
    nodes = []
    for node in scenario.nodes:
        load = loads.get(node.id)
        nodes.append(
            {
                "id": node.id,
                "title": load.device_title if load else (node.title or node.id),
                "category": load.category if load else "host",
                "user": node.id == scenario.user,
                "hops": hops[node.id],
                "experts": [
                    {"title": palette[name].title, "colour": palette[name].colour}
                    for name in (load.experts if load else ())
                ],
                "stages": stages.get(node.id, []),
                "busy_ms": load.busy_ms if load else 0.0,
                "energy_j": load.energy_j if load else 0.0,
                "memory_needed_bytes": load.memory_needed_bytes if load else 0,
                "memory_free_bytes": load.memory_free_bytes if load else 0,
                "available": load.available if load else node.available,
                "killed": node.id in placement.killed,
                "reason": reasons.get(node.id, ""),
            }
        )
    return nodes


def _links(placement: Placement, scenario: EdgeScenario, networks: Networks) -> list[View]:
    carrying = _carrying(placement, scenario)
    links = []
    for link in scenario.links:
        network = networks.network(link.network)
        scale = placement.bandwidth_scale
        links.append(
            {
                "a": link.user_side,
                "b": link.far_side,
                "title": network.title,
                "medium": network.medium,
                "up_mbps": network.up_mbps.value * scale,
                "down_mbps": network.down_mbps.value * scale,
                "rtt_ms": network.rtt_ms.value,
                "used": frozenset((link.user_side, link.far_side)) in carrying,
            }
        )
    return links


def _carrying(placement: Placement, scenario: EdgeScenario) -> set[frozenset[str]]:
    """Links on the shortest way from each node that has work to the user."""
    hops = _hops(scenario)
    carrying: set[frozenset[str]] = set()
    for node in {a.device for a in placement.assignments} | {host.device for host in placement.stages}:
        while hops.get(node, 0) > 0:
            ends = [(link.user_side, link.far_side) for link in scenario.links]
            nearer = [b if a == node else a for a, b in ends if node in (a, b)]
            step = min(nearer, key=lambda n: hops[n], default=None)
            if step is None or hops[step] >= hops[node]:
                break
            carrying.add(frozenset((node, step)))
            node = step
    return carrying


def scenario_titles(scenarios: Sequence[EdgeScenario]) -> Mapping[str, str]:
    """Title by id."""
    return {scenario.id: scenario.title for scenario in scenarios}


class DevicesPanel(Panel):
    """Chosen devices beside the stage."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(
            "devices", kwargs.pop("value", empty_devices()), label="Devices", elem_id="devices", **kwargs
        )


class EdgePanel(Panel):
    """The Edge tab; its script asks for another scenario, bandwidth or a device's end through events."""

    def __init__(self, value: View | None = None, **kwargs: Any) -> None:
        super().__init__("edge", value, label="Mobile edge", elem_id="edge", events=EVENTS, **kwargs)

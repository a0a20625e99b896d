"""The estimated run as bars of a Gantt chart. The last bar ends exactly at the placement's total latency."""

from __future__ import annotations

from moe_pipeline.edge.cost import CostTables
from moe_pipeline.edge.network import transfer
from moe_pipeline.edge.problem import Problem
from moe_pipeline.edge.solver import Solution
from moe_pipeline.schema.placement import TimelineEntry, TimelineKind


class _Chart:
    """Collects bars; times come in microseconds and leave in milliseconds."""

    def __init__(self, tables: CostTables) -> None:
        self.ids = [site.node.id for site in tables.sites]
        self.bars: list[TimelineEntry] = []

    def add(
        self,
        stage: str,
        node: int,
        start_us: float,
        length_us: float,
        kind: TimelineKind,
        expert: str | None = None,
    ) -> float:
        """One bar, left out where it has no length; returns its end."""
        end = start_us + length_us
        if length_us > 0:
            self.bars.append(
                TimelineEntry(
                    stage=stage,
                    device=self.ids[node],
                    start_ms=round(start_us / 1e3, 3),
                    end_ms=round(end / 1e3, 3),
                    kind=kind,
                    expert=expert,
                )
            )
        return end


def timeline(tables: CostTables, problem: Problem, solution: Solution) -> list[TimelineEntry]:
    """The bars of a solution in the order in which they begin."""
    chart = _Chart(tables)
    anchor = solution.anchor
    chart.add("prompt", anchor.text, 0, anchor.text_network_us, "upload")
    text_end = chart.add("text", anchor.text, anchor.text_network_us, anchor.text_compute_us, "compute")
    starts = _starts(chart, problem, solution, text_end)
    if problem.shape == "exchange_every_step":
        end = _exchange(chart, tables, problem, solution, max(starts.values()))
    elif problem.shape == "run_alone_merge_once":
        end = _alone(chart, tables, problem, solution, starts)
    else:
        end = _sequence(chart, tables, problem, solution, max(starts.values()))
    _tail(chart, tables, solution, end)
    return sorted(chart.bars, key=lambda bar: (bar.start_ms, bar.end_ms))


def _starts(chart: _Chart, problem: Problem, solution: Solution, text_end: float) -> dict[int, float]:
    """Weights and conditioning on their way; when each node may begin."""
    anchor, ready = solution.anchor, {}
    in_sequence = problem.shape == "hand_over_latents"
    for node in sorted(set(solution.assignment)):
        loads = [int(problem.load_us[e, node]) for e, d in enumerate(solution.assignment) if d == node]
        load = max(loads) if in_sequence else sum(loads)
        weights = chart.add("weights", node, 0, load, "upload")
        arrival = int(problem.conditioning_us[anchor.text, node])
        ready[node] = max(weights, chart.add("conditioning", node, text_end, arrival, "upload"))
    return ready


def _exchange(chart: _Chart, tables: CostTables, problem: Problem, solution: Solution, start: float) -> float:
    steps, anchor = tables.steps, solution.anchor
    centre = anchor.coordinator
    nodes = sorted(set(solution.assignment))
    serial = sum(int(problem.serial_us[centre, node]) for node in nodes) / steps
    compute = {
        node: [
            (e, int(problem.compute_us[e, node]) / steps)
            for e, d in enumerate(solution.assignment)
            if d == node
        ]
        for node in nodes
    }
    delay = {node: int(problem.delay_us[centre, node]) / steps for node in nodes}
    slowest = max(sum(t for _, t in compute[node]) + delay[node] for node in nodes)
    now = start
    for step in range(1, steps + 1):
        begin = now + serial / 2
        if serial > 0:
            chart.add(f"step {step}", centre, now, serial / 2, "upload")
        for node in nodes:
            clock = begin + delay[node] / 2
            for expert, length in compute[node]:
                clock = chart.add(f"step {step}", node, clock, length, "compute", problem.experts[expert])
        answered = begin + slowest
        collected = chart.add(f"exchange {step}", centre, answered, serial / 2, "exchange")
        now = chart.add(f"combine {step}", centre, collected, anchor.combine_us / steps, "compute")
    return now


def _alone(
    chart: _Chart, tables: CostTables, problem: Problem, solution: Solution, starts: dict[int, float]
) -> float:
    steps, anchor = tables.steps, solution.anchor
    centre = anchor.coordinator
    arrivals = []
    for node, start in starts.items():
        delay = int(problem.delay_us[centre, node])
        clock = start + delay / 2
        for expert, where in enumerate(solution.assignment):
            if where == node:
                length = int(problem.compute_us[expert, node])
                clock = chart.add(f"steps 1-{steps}", node, clock, length, "compute", problem.experts[expert])
        arrivals.append(clock + delay / 2)
    serial = sum(int(problem.serial_us[centre, node]) for node in starts)
    collected = chart.add("exchange", centre, max(arrivals), serial, "exchange")
    return chart.add("combine", centre, collected, anchor.combine_us, "compute")


def _sequence(chart: _Chart, tables: CostTables, problem: Problem, solution: Solution, start: float) -> float:
    now, first = start, 1
    for expert, share in enumerate(tables.shares):
        node = solution.assignment[expert]
        label = f"steps {first}-{first + share - 1}"
        now = chart.add(
            label, node, now, int(problem.compute_us[expert, node]), "compute", problem.experts[expert]
        )
        first += share
        if expert + 1 < len(problem.experts):
            after = solution.assignment[expert + 1]
            now = chart.add("hand over", after, now, int(problem.handover_us[node, after]), "exchange")
    return chart.add("sampler", solution.anchor.coordinator, now, solution.anchor.combine_us, "compute")


def _tail(chart: _Chart, tables: CostTables, solution: Solution, start: float) -> None:
    anchor = solution.anchor
    site = tables.sites[anchor.decoder]
    if site.decode is None or site.export is None:
        raise ValueError(f"{site.node.id} cannot decode, so no anchor may name it")
    clip = tables.path(anchor.decoder, tables.user)
    clip_us = round(transfer(tables.workloads.export.output_bytes, clip).total_ms * 1e3) if clip else 0
    now = chart.add("latents", anchor.decoder, start, anchor.tail_network_us - clip_us, "exchange")
    now = chart.add("decode", anchor.decoder, now, round(site.decode.total_ms * 1e3), "decode")
    now = chart.add("export", anchor.decoder, now, round(site.export.total_ms * 1e3), "decode")
    chart.add("download", tables.user, now, clip_us, "download")

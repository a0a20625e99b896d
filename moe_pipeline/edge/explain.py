"""Decisions in words: why an expert runs where it runs, and why every other node does not run it."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from moe_pipeline.edge.cost import CostTables, Site, expert_memory, may_host, migration
from moe_pipeline.edge.problem import LATENCY, Anchor, Evaluation, Problem, Weights, evaluate, memory_needed
from moe_pipeline.edge.roofline import call_cost, supported
from moe_pipeline.edge.solver import Solution, solve
from moe_pipeline.schema.placement import Objective, Rejection
from moe_pipeline.schema.profiles import PRECISION_BYTES

Code = Literal[
    "unavailable", "killed", "unreachable", "memory", "privacy", "precision", "deadline", "role", "not_chosen"
]


def milliseconds(value: float) -> str:
    """A duration for people: 0.42 ms, 37 ms, 2.4 s."""
    if value >= 1000:
        return f"{value / 1000:.1f} s"
    return f"{value:.0f} ms" if value >= 10 else f"{value:.2f} ms"


def size(value: float) -> str:
    """A byte count for people: 18 MB, 1.9 GB."""
    if value >= 1e9:
        return f"{value / 1e9:.1f} GB"
    return f"{value / 1e6:.0f} MB" if value >= 1e7 else f"{value / 1e6:.2f} MB"


def joules(value: float) -> str:
    """An energy for people."""
    return f"{value:.1f} J" if value >= 1 else f"{value * 1e3:.1f} mJ"


def assignment_reason(tables: CostTables, problem: Problem, solution: Solution, expert: int) -> str:
    """Why this node: what limits it there, in which format, and what it costs to reach."""
    node = solution.assignment[expert]
    site = tables.sites[node]
    cost = site.expert
    if cost is None:
        return f"{site.title}: no estimate."
    limits = {"compute": "arithmetic", "memory": "memory bandwidth", "launch": "the start of each call"}
    parts = [
        f"{site.title}: {milliseconds(cost.total_ms)} a step in {cost.precision}, limited by "
        f"{limits[cost.bound]}"
    ]
    if len(supported(site.device, tables.scenario.precisions)) > 1:
        others = [
            call_cost(tables.workloads.expert_step, site.device, precision, background_load=site.load)
            for precision in supported(site.device, tables.scenario.precisions)
            if precision != cost.precision
        ]
        slowest = max(others, key=lambda other: other.total_ms)
        if slowest.total_ms > 1.02 * cost.total_ms:
            parts.append(f"{slowest.precision} would take {milliseconds(slowest.total_ms)}")
    if node == solution.anchor.coordinator:
        parts.append("it also holds the latents, so nothing crosses a network between steps")
    move = migration(tables, node)
    if move is not None and move.kind != "cached":
        parts.append(
            f"its weights come as {'a difference' if move.kind == 'delta' else 'a full copy'} of "
            f"{size(move.size_bytes)} in {milliseconds(move.ms)}"
        )
    mates = [problem.experts[e] for e, d in enumerate(solution.assignment) if d == node and e != expert]
    if mates:
        parts.append(f"shares the device with {', '.join(mates)}")
    return "; ".join(parts) + "."


def rejections(
    tables: CostTables, problem: Problem, solution: Solution, weights: Weights, objective: Objective
) -> list[Rejection]:
    """One sentence for every node that runs no expert."""
    found = []
    for index in range(len(tables.sites)):
        if index not in solution.assignment:
            found.append(_reject(tables, problem, solution, weights, objective, index))
    return found


def _reject(
    tables: CostTables,
    problem: Problem,
    solution: Solution,
    weights: Weights,
    objective: Objective,
    index: int,
) -> Rejection:
    site = tables.sites[index]
    code, text = obstacle(tables, solution.anchor, index)
    if code is None:
        code, text = _comparison(tables, problem, solution, weights, objective, index)
    return Rejection(
        device=site.node.id,
        device_title=site.title,
        profile=site.device.id,
        expert=None,
        code=code,
        reason=f"{site.title}: {text}.",
    )


def obstacle(tables: CostTables, anchor: Anchor | None, index: int) -> tuple[Code | None, str]:
    """A rule that keeps every expert off a node, as (code, words); (None, "") if there is none."""
    site = tables.sites[index]
    if site.node.id in tables.killed:
        return "killed", "was switched off"
    if not site.node.available:
        return "unavailable", "is not available in this scenario"
    if not site.reachable:
        return "unreachable", f"cannot be reached from {tables.sites[tables.user].title} and back"
    if not site.node.trusted:
        return "privacy", "is not trusted with the user's data"
    if not site.node.hosts_experts:
        return "role", "does not host experts in this scenario"
    if site.expert is None:
        have = ", ".join(site.device.peak_tflops)
        want = ", ".join(tables.scenario.precisions)
        return "precision", f"computes in {have}, the scenario allows {want}"
    if migration(tables, index) is None:
        return "unreachable", "has no expert weights and cannot reach a node that serves them"
    return _memory_obstacle(tables, site, anchor, index)


def _memory_obstacle(
    tables: CostTables, site: Site, anchor: Anchor | None, index: int
) -> tuple[Code | None, str]:
    weights, working = expert_memory(tables, site)
    other = sum(kb * 1000 for node, kb in anchor.memory_kb if node == index) if anchor else 0
    if weights + working + other <= site.free_bytes:
        return None, ""
    detail = " beside the text encoder or decoder" if other else ""
    words = f"does not fit, needs {size(weights + working)}{detail} of {size(max(0, site.free_bytes - other))} free"
    smallest = min(supported(site.device, tables.scenario.precisions), key=lambda p: PRECISION_BYTES[p])
    if site.expert is not None and PRECISION_BYTES[smallest] < PRECISION_BYTES[site.expert.precision]:
        words += f" in {site.expert.precision}"
    return "memory", words


def _comparison(
    tables: CostTables,
    problem: Problem,
    solution: Solution,
    weights: Weights,
    objective: Objective,
    index: int,
) -> tuple[Code, str]:
    """No rule forbids it: what would a request cost with it?"""
    best = _best_with(problem, solution, weights, index)
    chosen = solution.evaluation
    if best is None:
        return "not_chosen", "could not be combined with the chosen nodes"
    if best.problem_code == "deadline" and tables.deadline_ms is not None:
        return "deadline", (
            f"with it the request would take {milliseconds(best.latency_us / 1e3)}, later than the "
            f"deadline of {milliseconds(tables.deadline_ms)}"
        )
    if best.problem_code == "memory":
        return "memory", "one expert fits alone, but not beside the other stages placed there"
    site = tables.sites[index]
    words = _price(best, objective)
    if weights.value(best) == weights.value(chosen):
        return "not_chosen", f"fits, and would cost the same: {words}"
    more = ""
    if objective == "latency" and site.expert:
        ratio = best.latency_us / max(1, chosen.latency_us)
        more = f" ({ratio:.2f} times, {milliseconds(site.expert.total_ms)} a step there)"
    return "not_chosen", (
        f"fits, but the best placement found with it takes {words} instead of {_price(chosen, objective)}{more}"
    )


def _price(result: Evaluation, objective: Objective) -> str:
    """What the objective counts, in words."""
    time, energy = milliseconds(result.latency_us / 1e3), joules(result.energy_uj / 1e6)
    return {"latency": time, "energy": energy, "balanced": f"{time} and {energy}"}[objective]


def _best_with(problem: Problem, solution: Solution, weights: Weights, index: int) -> Evaluation | None:
    """The cheapest of the placements near the chosen one, and of those around the node, that use the node.

    One expert moves there, or all do; the latents, and the decoder with them, stay where they are or move there.
    """
    chosen = solution.anchor
    anchors = [chosen] + [
        a
        for a in problem.anchors
        if a.coordinator == index and a.text == chosen.text and a.decoder in (index, chosen.decoder)
    ]
    experts = range(len(problem.experts))
    moved = [tuple(index if e == one else d for e, d in enumerate(solution.assignment)) for one in experts]
    best: Evaluation | None = None
    for assignment in dict.fromkeys([*moved, (index,) * len(experts)]):
        if not all(problem.allowed[e, d] for e, d in enumerate(assignment)):
            continue
        for anchor in anchors:
            result = evaluate(problem, anchor, assignment)
            if result.problem_code == "not_allowed":  # a hand-over ends where the latents are
                continue
            better = best is None or (result.feasible, -weights.value(result)) > (
                best.feasible,
                -weights.value(best),
            )
            best = result if better else best
    return best


def infeasible(tables: CostTables, problem: Problem) -> tuple[str, str]:
    """Why a scenario has no placement at all: (message, remedy)."""
    name = f"edge_profiles/scenarios/{tables.scenario.id}.yaml"
    user = tables.sites[tables.user]
    if not may_host(tables, tables.user):
        return (
            f"{name}: user: {user.title} is switched off or unavailable, so nobody can ask or watch.",
            "Bring the user's device back.",
        )
    needs = [obstacle(tables, None, d)[1] for d in range(len(tables.sites))]
    if not problem.allowed.any(axis=1).all():
        words = "; ".join(
            f"{site.title} {text}" for site, text in zip(tables.sites, needs, strict=True) if text
        )
        return (
            f"{name}: nodes: no device can run an expert: {words}.",
            "Add a device or a link to `nodes` and `links`.",
        )
    if tables.scenario.raw_prompt_stays_on_user_device and user.text is None:
        return (
            f"{name}: precisions: the prompt must stay on {user.title}, which computes in "
            f"{', '.join(user.device.peak_tflops)}, not in {', '.join(tables.scenario.precisions)}.",
            "Allow one of its formats, or let the prompt leave it (raw_prompt_stays_on_user_device: false).",
        )
    if not problem.anchors:
        return (
            f"{name}: nodes: no reachable device can run the text encoder and the decoder.",
            "Add a device with a number format of `precisions`.",
        )
    text_memory = tables.workloads.text.at(user.text.precision).peak_memory_bytes if user.text else 0
    if tables.scenario.raw_prompt_stays_on_user_device and text_memory > user.free_bytes:
        return (
            f"{name}: raw_prompt_stays_on_user_device: the text encoder needs {size(text_memory)} and "
            f"{user.title} has {size(user.free_bytes)} free.",
            "Allow the prompt to leave the device (false) or choose a larger user device.",
        )
    late = _quickest_without_deadline(problem)
    if tables.deadline_ms is not None and late is not None:
        return (
            f"{name}: deadline_ms: the quickest placement takes {milliseconds(late / 1e3)}, the deadline is "
            f"{milliseconds(tables.deadline_ms)}.",
            "Raise the deadline, ask for fewer steps or frames, or add a faster device.",
        )
    words = "; ".join(f"{s.title} {text}" for s, text in zip(tables.sites, needs, strict=True) if text)
    return (
        f"{name}: nodes: {len(tables.experts)} experts do not fit into the memory of the devices"
        f"{': ' + words if words else ''}.",
        "Add memory or devices, or lower top-k.",
    )


def _quickest_without_deadline(problem: Problem) -> int | None:
    relaxed = solve(replace(problem, deadline_us=None), LATENCY)
    return relaxed.evaluation.latency_us if relaxed else None


def memory_by_node(problem: Problem, solution: Solution) -> dict[int, int]:
    """Bytes each node needs in this placement."""
    return {d: kb * 1000 for d, kb in memory_needed(problem, solution.anchor, solution.assignment).items()}

"""Simpler policies under the same constraints and the same cost model, to see what the exact one is worth."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from moe_pipeline.edge.cost import CostTables
from moe_pipeline.edge.problem import Anchor, Evaluation, Problem, Weights, evaluate
from moe_pipeline.edge.solver import construct
from moe_pipeline.schema.placement import Baseline

Policy = Literal["greedy", "single-device", "cloud-only"]
Found = tuple[Evaluation, Anchor, tuple[int, ...]]


def baselines(tables: CostTables, problem: Problem, weights: Weights) -> list[Baseline]:
    """Greedy, one device for everything, and cloud only, in the mixture's exact shape."""
    clouds = {d for d, site in enumerate(tables.sites) if site.device.category == "cloud"}
    everywhere = set(range(len(tables.sites)))
    return [
        _describe(
            problem,
            "greedy",
            greedy(tables, problem, weights),
            "each expert in turn goes where it adds least, the coordinator is the user's device",
        ),
        _describe(
            problem,
            "single-device",
            _best_single(problem, weights, everywhere),
            "the best one device runs all experts, combines and decodes",
        ),
        _describe(
            problem,
            "cloud-only",
            _best_single(problem, weights, clouds),
            "the best cloud device runs all experts, combines and decodes",
        ),
    ]


def greedy(tables: CostTables, problem: Problem, weights: Weights) -> Found | None:
    """No look-ahead: the user's device coordinates and decodes where it can, else the cheapest stage hosts."""
    own = [a for a in problem.anchors if a.coordinator == tables.user and a.decoder == tables.user]
    for anchors in (own, sorted(problem.anchors, key=lambda a: a.fixed_us + a.text_us)):
        for anchor in anchors:
            assignment = construct(problem, anchor, weights)
            if assignment is not None:
                result = evaluate(problem, anchor, assignment)
                if result.feasible:
                    return result, anchor, assignment
    return None


def _best_single(problem: Problem, weights: Weights, nodes: Iterable[int]) -> Found | None:
    options: list[Found] = []
    allowed = set(nodes)
    for anchor in problem.anchors:
        if anchor.coordinator in allowed and anchor.coordinator == anchor.decoder:
            assignment = (anchor.coordinator,) * len(problem.experts)
            result = evaluate(problem, anchor, assignment)
            if result.feasible:
                options.append((result, anchor, assignment))
    return min(options, key=lambda found: weights.value(found[0]), default=None)


def _describe(problem: Problem, policy: Policy, found: Found | None, words: str) -> Baseline:
    if found is None:
        return Baseline(policy=policy, feasible=False, reason=f"No feasible placement: {words}.")
    result, _, assignment = found
    return Baseline(
        policy=policy,
        feasible=True,
        reason=f"{words[:1].upper()}{words[1:]}.",
        devices={expert: problem.nodes[d] for expert, d in zip(problem.experts, assignment, strict=True)},
        total_ms=round(result.latency_us / 1e3, 3),
        energy_j=round(result.energy_uj / 1e6, 6),
    )

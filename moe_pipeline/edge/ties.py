"""Of placements that cost the same energy the quicker one: the solver proves the optimum, not which of its twins."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from moe_pipeline.edge.problem import Anchor, Problem, Weights, energy_parts, evaluate
from moe_pipeline.edge.solver import Solution


def quickest_twin(problem: Problem, solution: Solution, weights: Weights) -> Solution:
    """The same objective at less latency, where moving the stages or swapping one node for another gives it.

    Looks at every other anchor with the chosen assignment, and at every node in the place of every used one.
    """
    best = solution
    for anchor, assignment in _neighbours(problem, solution):
        if not all(problem.allowed[e, d] for e, d in enumerate(assignment)):
            continue
        if (
            not weights.latency
            and sum(energy_parts(problem, anchor, assignment)) != best.evaluation.energy_uj
        ):
            continue  # most neighbours: their latency need not be known
        found = evaluate(problem, anchor, assignment)
        same = found.feasible and weights.value(found) == weights.value(best.evaluation)
        if same and found.latency_us < best.evaluation.latency_us:
            best = replace(best, anchor=anchor, assignment=assignment, evaluation=found)
    return best


def _neighbours(problem: Problem, solution: Solution) -> Iterator[tuple[Anchor, tuple[int, ...]]]:
    chosen, assignment = solution.anchor, solution.assignment
    by_nodes = {(a.text, a.coordinator, a.decoder): a for a in problem.anchors}
    for anchor in problem.anchors:
        yield anchor, assignment
    for old in set(assignment):
        for new in range(len(problem.nodes)):
            swapped = tuple(new if d == old else d for d in assignment)
            centre, decoder = (new if d == old else d for d in (chosen.coordinator, chosen.decoder))
            moved = by_nodes.get((chosen.text, centre, decoder))
            if new != old and moved is not None:
                yield moved, swapped

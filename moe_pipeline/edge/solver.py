"""The exact placement: best-first over anchors, OR-tools CP-SAT for the experts of each.

An anchor's lower bound decides whether it is searched at all; the first anchor whose bound is no better
than the best solution ends the search. Where the assignment behind the bound is feasible and reaches it, it is
optimal and CP-SAT is not asked. CP-SAT runs with one worker, a fixed seed and a limit in its
deterministic time, so that two runs give the same answer. Experts whose costs are equal are one integer
count, which removes the symmetry that makes makespans slow to prove.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from moe_pipeline.edge import sequences
from moe_pipeline.edge.bounds import (
    FAR,
    Key,
    anchor_part,
    count_bound,
    key_of,
    least_stage_memory,
    quick_bound,
)
from moe_pipeline.edge.problem import Anchor, Evaluation, Problem, Weights, evaluate

if TYPE_CHECKING:
    from ortools.sat.python import cp_model

DETERMINISTIC_LIMIT = 2.0  # CP-SAT's own unit, about seconds; reached only by contrived instances
SEED = 0


@dataclass(frozen=True)
class Solution:
    """A placement of one shape and how it was found."""

    anchor: Anchor
    assignment: tuple[int, ...]
    evaluation: Evaluation
    optimal: bool
    solver: str
    searched: int  # anchors that CP-SAT was asked about


def solve(problem: Problem, weights: Weights) -> Solution | None:
    """The best feasible solution, or None if there is none."""
    if problem.shape == "hand_over_latents":
        return _solve_sequence(problem, weights)
    return _solve_parallel(problem, weights)


def construct(problem: Problem, anchor: Anchor, weights: Weights) -> tuple[int, ...] | None:
    """Expert after expert to the node that raises the objective least; None where memory leaves no node."""
    chosen: list[int] = []
    for expert in range(len(problem.experts)):
        best: tuple[int, int] | None = None
        for node in np.flatnonzero(problem.allowed[expert]):
            trial = evaluate(problem, anchor, [*chosen, int(node)])
            # While experts are missing, a hand-over has not reached its last node yet.
            partial = trial.problem_code == "not_allowed" and len(chosen) + 1 < len(problem.experts)
            if not trial.feasible and not partial:
                continue
            value = weights.value(trial)
            if best is None or value < best[0]:
                best = (value, int(node))
        if best is None:
            return None
        chosen.append(best[1])
    return tuple(chosen)


def _solve_parallel(problem: Problem, weights: Weights) -> Solution | None:
    """Best first over two levels of bounds: a cheap one for each key, a tight one before CP-SAT is asked."""
    members: dict[Key, list[int]] = {}
    for index, anchor in enumerate(problem.anchors):
        if not _hosts_its_stages(problem, anchor):
            continue
        members.setdefault(key_of(anchor), []).append(index)
    queue: list[tuple[int, int, int, Key, list[int]]] = []  # bound, anchor (-1: whole key), serial, key, hint
    for serial, (key, indices) in enumerate(members.items()):
        quick = quick_bound(problem, key, weights)
        if quick is not None:
            extra = min(anchor_part(problem.anchors[i], weights) for i in indices)
            heapq.heappush(queue, (quick + extra, -1, serial, key, []))
    best: Solution | None = None
    proven, searched = True, 0
    while queue:
        bound, index, serial, key, hint = heapq.heappop(queue)
        value = weights.value(best.evaluation) if best is not None else FAR
        if bound >= value:
            break
        if index < 0:
            least = min(anchor_part(problem.anchors[i], weights) for i in members[key])
            taken = least_stage_memory(problem, [problem.anchors[i] for i in members[key]])
            tight, counts = count_bound(problem, key, weights, value - least, taken)
            for i in members[key] if tight < FAR else []:
                refined = max(bound, tight + anchor_part(problem.anchors[i], weights))
                heapq.heappush(queue, (refined, i, serial, key, counts))
            continue
        anchor = problem.anchors[index]
        first = _spread(problem, hint)
        trial = evaluate(problem, anchor, first) if first is not None else None
        if first is not None and trial is not None and trial.feasible and weights.value(trial) == bound:
            best = Solution(anchor, first, trial, True, "bound reached", searched)  # nothing can be better
            continue
        if serial >= 0:  # once more with this anchor's own memory, before CP-SAT is asked
            part = anchor_part(anchor, weights)
            taken = least_stage_memory(problem, [anchor])
            own, counts = count_bound(problem, key, weights, value - part, taken)
            if own < FAR:
                heapq.heappush(queue, (max(bound, own + part), index, -1, key, counts))
            continue
        searched += 1
        first = first or construct(problem, anchor, weights)
        assignment, complete = _search(problem, anchor, weights, bound, value - 1 if best else None, first)
        proven &= complete
        if assignment is not None:
            best = Solution(
                anchor, assignment, evaluate(problem, anchor, assignment), True, "cp-sat", searched
            )
    return None if best is None else replace(best, optimal=proven, searched=searched)


def _spread(problem: Problem, counts: Sequence[int]) -> tuple[int, ...] | None:
    """Copies on each node as an assignment of the experts in order; None where it is not allowed."""
    nodes = [node for node, count in enumerate(counts) for _ in range(count)]
    if len(nodes) != len(problem.experts):
        return None
    return tuple(nodes) if all(problem.allowed[e, d] for e, d in enumerate(nodes)) else None


def _groups(problem: Problem) -> list[list[int]]:
    """Experts with equal rows in every matrix."""
    found: dict[bytes, list[int]] = {}
    for expert in range(len(problem.experts)):
        rows = (
            problem.allowed[expert],
            problem.compute_us[expert],
            problem.compute_uj[expert],
            problem.load_us[expert],
            problem.load_uj[expert],
            problem.weight_kb[expert],
        )
        found.setdefault(b"".join(row.tobytes() for row in rows), []).append(expert)
    return list(found.values())


def _search(
    problem: Problem,
    anchor: Anchor,
    weights: Weights,
    bound: int,
    limit: int | None,
    hint: Sequence[int] | None,
) -> tuple[tuple[int, ...] | None, bool]:
    """CP-SAT for one anchor: an assignment no worse than `limit`, and whether the answer is proven."""
    from ortools.sat.python import cp_model

    model = cp_model.CpModel()
    groups = _groups(problem)
    nodes = range(len(problem.nodes))
    used = [model.new_bool_var(f"used_{d}") for d in nodes]
    count: list[list[Any]] = []  # count[g][d]: experts of group g on node d
    for members in groups:
        size = len(members)
        row = [
            model.new_int_var(0, size if problem.allowed[members[0], d] else 0, f"x_{members[0]}_{d}")
            for d in nodes
        ]
        model.add(sum(row) == size)
        for d in nodes:
            model.add(row[d] <= size * used[d])
        count.append(row)
    for d in nodes:
        model.add(used[d] <= sum(row[d] for row in count))
    _add_memory(model, problem, anchor, groups, count, used)
    latency = _latency_of(model, problem, anchor, groups, count, used)
    energy = _energy_of(problem, anchor, groups, count, used)
    if problem.deadline_us is not None:
        model.add(latency <= problem.deadline_us)
    objective = weights.latency * latency + weights.energy * energy
    model.add(objective >= bound)
    if limit is not None:
        model.add(objective <= limit)
    model.minimize(objective)
    if hint is not None:
        for members, row in zip(groups, count, strict=True):
            for d in nodes:
                model.add_hint(row[d], sum(1 for expert in members if hint[expert] == d))
    status, value = _run(model)
    if status == "INFEASIBLE":
        return None, True
    if value is None:
        return None, False
    assignment = [0] * len(problem.experts)
    for members, row in zip(groups, count, strict=True):
        waiting = iter(members)
        for d in nodes:
            for _ in range(value(row[d])):
                assignment[next(waiting)] = d
    return tuple(assignment), status == "OPTIMAL"


def _run(model: cp_model.CpModel) -> tuple[str, Any]:
    from ortools.sat.python import cp_model

    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = SEED
    solver.parameters.max_deterministic_time = DETERMINISTIC_LIMIT
    # Its own handler would leave SIGINT at the default action, and the next Ctrl-C would kill the process.
    solver.parameters.catch_sigint_signal = False
    status = solver.solve(model)
    name = solver.status_name(status)
    return name, (solver.value if status in (cp_model.OPTIMAL, cp_model.FEASIBLE) else None)


def _add_memory(
    model: cp_model.CpModel,
    problem: Problem,
    anchor: Anchor,
    groups: list[list[int]],
    count: list[list[Any]],
    used: list[Any],
) -> None:
    extra = dict.fromkeys(range(len(problem.nodes)), 0)
    for node, kilobytes in anchor.memory_kb:
        extra[node] += kilobytes
    for d, other in extra.items():
        terms = [int(problem.weight_kb[m[0], d]) * row[d] for m, row in zip(groups, count, strict=True)]
        model.add(sum(terms) + int(problem.working_kb[d]) * used[d] + other <= int(problem.free_kb[d]))


def _latency_of(
    model: cp_model.CpModel,
    problem: Problem,
    anchor: Anchor,
    groups: list[list[int]],
    count: list[list[Any]],
    used: list[Any],
) -> Any:
    """The latency as a linear expression; its maxima become variables that the objective presses down."""
    top = 2**40
    centre = anchor.coordinator
    serial = sum(int(problem.serial_us[centre, d]) * used[d] for d in range(len(used)))
    common = problem.shape == "exchange_every_step"
    start = model.new_int_var(0, top, "start") if common else 0
    longest = model.new_int_var(0, top, "longest")
    for d in range(len(used)):
        arrival = anchor.text_us + int(problem.conditioning_us[anchor.text, d])
        delay = int(problem.delay_us[centre, d])
        compute = sum(int(problem.compute_us[m[0], d]) * row[d] for m, row in zip(groups, count, strict=True))
        load = sum(int(problem.load_us[m[0], d]) * row[d] for m, row in zip(groups, count, strict=True))
        if common:
            model.add(start >= arrival * used[d])
            model.add(start >= load)
            model.add(longest >= compute + delay * used[d])
        else:
            model.add(longest >= compute + (arrival + delay) * used[d])
            model.add(longest >= compute + load + delay * used[d])
    return start + longest + serial + anchor.fixed_us


def _energy_of(
    problem: Problem, anchor: Anchor, groups: list[list[int]], count: list[list[Any]], used: list[Any]
) -> Any:
    total: Any = anchor.compute_uj + anchor.radio_uj
    for members, row in zip(groups, count, strict=True):
        own = problem.compute_uj[members[0]] + problem.load_uj[members[0]]
        total = total + sum(int(own[d]) * row[d] for d in range(len(used)))
    for d, flag in enumerate(used):
        message = problem.conditioning_uj[anchor.text, d] + problem.exchange_uj[anchor.coordinator, d]
        total = total + int(message) * flag
    return total


def _solve_sequence(problem: Problem, weights: Weights) -> Solution | None:
    """Hand-over: by blocks (`sequences`); CP-SAT where energy counts under a deadline, or a search grows large."""
    known: dict[tuple[Any, ...], sequences.Blocks] = {}
    nothing = np.zeros(len(problem.nodes), dtype=np.int64)

    def tables(anchor: Anchor, own_memory: bool) -> sequences.Blocks:
        key = (anchor.text, anchor.text_us, *(anchor.memory_kb if own_memory else ()))
        if key not in known:
            taken = least_stage_memory(problem, [anchor]) if own_memory else nothing
            known[key] = sequences.blocks(problem, anchor.text_us, anchor.text, weights, taken)
        return known[key]

    queue: list[tuple[int, int, bool]] = []  # bound, anchor, is it the bound of its own memory
    for index, anchor in enumerate(problem.anchors):
        value = int(tables(anchor, False).least()[anchor.coordinator])
        if value < FAR and _hosts_its_stages(problem, anchor):
            queue.append((value + anchor_part(anchor, weights), index, False))
    heapq.heapify(queue)
    best: Solution | None = None
    proven, searched = True, 0
    while queue:
        bound, index, refined = heapq.heappop(queue)
        limit = weights.value(best.evaluation) - 1 if best is not None else FAR
        if bound > limit:
            break
        anchor = problem.anchors[index]
        if not refined:
            value = int(tables(anchor, True).least()[anchor.coordinator])
            if value < FAR:
                heapq.heappush(queue, (max(bound, value + anchor_part(anchor, weights)), index, True))
            continue
        assignment, complete, asked = _one_sequence(
            problem, tables(anchor, True), anchor, weights, limit, bound
        )
        proven &= complete
        searched += asked
        if assignment is not None:
            solver = "cp-sat" if asked else "shortest path"
            best = Solution(anchor, assignment, evaluate(problem, anchor, assignment), True, solver, searched)
    return None if best is None else replace(best, optimal=proven, searched=searched)


def _one_sequence(
    problem: Problem, tables: sequences.Blocks, anchor: Anchor, weights: Weights, limit: int, bound: int
) -> tuple[tuple[int, ...] | None, bool, bool]:
    """One anchor: an assignment of at most `limit`, is the answer proven, and was CP-SAT asked for it."""
    if problem.deadline_us is not None and not weights.energy:
        limit = min(limit, weights.latency * problem.deadline_us)
    path, complete = sequences.search(problem, tables, anchor, weights, limit)
    if complete and (path is None or evaluate(problem, anchor, path).feasible):
        return path, True, False
    found, complete = _search_sequence(problem, anchor, weights, bound, limit if limit < FAR else None)
    return found, complete, True


def _hosts_its_stages(problem: Problem, anchor: Anchor) -> bool:
    """Do the text encoder and the decoder fit where the anchor puts them, before any expert?"""
    needed: dict[int, int] = {}
    for node, kilobytes in anchor.memory_kb:
        needed[node] = needed.get(node, 0) + kilobytes
    return all(kilobytes <= int(problem.free_kb[node]) for node, kilobytes in needed.items())


def _search_sequence(
    problem: Problem, anchor: Anchor, weights: Weights, bound: int, limit: int | None
) -> tuple[tuple[int, ...] | None, bool]:
    """CP-SAT for a hand-over with its pairwise messages linearised."""
    from ortools.sat.python import cp_model

    model = cp_model.CpModel()
    experts, nodes = range(len(problem.experts)), range(len(problem.nodes))
    x = [[model.new_bool_var(f"x_{e}_{d}") for d in nodes] for e in experts]
    used = [model.new_bool_var(f"used_{d}") for d in nodes]
    for e in experts:
        model.add_exactly_one(x[e])
        for d in nodes:
            model.add_implication(x[e][d], used[d])
            if not problem.allowed[e, d]:
                model.add(x[e][d] == 0)
    model.add(x[-1][anchor.coordinator] == 1)
    _add_memory(model, problem, anchor, [[e] for e in experts], x, used)
    start = model.new_int_var(0, 2**40, "start")
    latency: Any = start + anchor.fixed_us
    energy: Any = anchor.compute_uj + anchor.radio_uj
    for e in experts:
        for d in nodes:
            arrival = anchor.text_us + int(problem.conditioning_us[anchor.text, d])
            model.add(start >= max(arrival, int(problem.load_us[e, d])) * x[e][d])
        latency = latency + sum(int(problem.compute_us[e, d]) * x[e][d] for d in nodes)
        own = problem.compute_uj[e] + problem.load_uj[e] + problem.conditioning_uj[anchor.text]
        energy = energy + sum(int(own[d]) * x[e][d] for d in nodes)
    for e in list(experts)[:-1]:
        for a in nodes:
            for b in nodes:
                if problem.handover_us[a, b] == 0 and problem.handover_uj[a, b] == 0:
                    continue
                pair = model.new_bool_var(f"y_{e}_{a}_{b}")
                model.add_bool_or([x[e][a].negated(), x[e + 1][b].negated(), pair])
                latency = latency + int(problem.handover_us[a, b]) * pair
                energy = energy + int(problem.handover_uj[a, b]) * pair
    if problem.deadline_us is not None:
        model.add(latency <= problem.deadline_us)
    objective = weights.latency * latency + weights.energy * energy
    model.add(objective >= bound)
    if limit is not None:
        model.add(objective <= limit)
    model.minimize(objective)
    status, value = _run(model)
    if status == "INFEASIBLE":
        return None, True
    if value is None:
        return None, False
    assignment = tuple(next(d for d in nodes if value(x[e][d])) for e in experts)
    return assignment, status == "OPTIMAL"

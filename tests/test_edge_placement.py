"""The exact placement equals brute force, respects every constraint, and explains itself."""

from __future__ import annotations

import itertools
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_pipeline.edge import ProfileLibrary, load_profiles, place
from moe_pipeline.edge.problem import ENERGY, LATENCY, Anchor, Problem, Weights, balanced, evaluate
from moe_pipeline.edge.solver import solve
from moe_pipeline.schema.errors import MoEverseError
from moe_pipeline.schema.placement import Placement
from moe_pipeline.schema.profiles import EdgeScenario, Quantity
from moe_pipeline.schema.workload import StageWorkloads, Workload

SHAPES = ("exchange_every_step", "hand_over_latents", "run_alone_merge_once")


def random_problem(seed: int, experts: int, nodes: int, *, shape: str, identical: bool = False) -> Problem:
    """An instance with tight memory and, every third time, a deadline."""
    rng = np.random.default_rng(seed)

    def table(low: int, high: int, *size: int) -> np.ndarray:
        return rng.integers(low, high, size=size, dtype=np.int64)

    def links(high: int) -> np.ndarray:
        matrix = table(0, high, nodes, nodes)
        np.fill_diagonal(matrix, 0)
        return matrix

    rows = 1 if identical else experts
    spread = np.zeros((experts, nodes), dtype=np.int64)
    anchors = tuple(
        Anchor(
            int(rng.integers(nodes)),
            c,
            v,
            int(table(0, 9_000)),
            int(table(0, 9_000)),
            int(table(0, 500)),
            int(table(0, 30_000)),
            int(table(0, 30_000)),
            int(table(0, 9_000)),
            int(table(0, 9_000)),
            ((v, int(table(0, 60))),),
        )
        for c in range(nodes)
        for v in range(nodes)
        if rng.random() < 0.5 or c == v == 0
    )
    return Problem(
        shape,
        tuple(f"e{i}" for i in range(experts)),
        tuple(f"d{i}" for i in range(nodes)),
        anchors,  # type: ignore[arg-type]
        allowed=np.broadcast_to(rng.random((rows, nodes)) < 0.85, (experts, nodes)).copy(),
        compute_us=spread + table(1_000, 90_000, rows, nodes),
        compute_uj=spread + table(0, 90_000, rows, nodes),
        load_us=spread + table(0, 40_000, rows, nodes),
        load_uj=spread + table(0, 4_000, rows, nodes),
        weight_kb=spread + table(20, 60, rows, nodes),
        working_kb=table(5, 30, nodes),
        free_kb=table(40, 190, nodes),
        conditioning_us=links(9_000),
        conditioning_uj=links(900),
        serial_us=links(30_000),
        delay_us=links(30_000),
        exchange_uj=links(9_000),
        handover_us=links(60_000),
        handover_uj=links(9_000),
        deadline_us=int(table(60_000, 300_000)) if seed % 3 == 0 else None,
    )


def brute_force(problem: Problem, weights: Weights) -> int | None:
    best: int | None = None
    for anchor in problem.anchors:
        for assignment in itertools.product(range(len(problem.nodes)), repeat=len(problem.experts)):
            result = evaluate(problem, anchor, assignment)
            if result.feasible and (best is None or weights.value(result) < best):
                best = weights.value(result)
    return best


@pytest.mark.parametrize("seed", range(200))
def test_cp_sat_equals_brute_force(seed: int) -> None:
    experts, nodes = 1 + seed % 4, 2 + (seed // 4) % 3
    problem = random_problem(seed, experts, nodes, shape=SHAPES[seed % 3], identical=seed % 5 == 0)
    weights = (LATENCY, ENERGY, balanced(100_000, 100_000, 0.4))[(seed // 3) % 3]
    found = solve(problem, weights)
    expected = brute_force(problem, weights)
    assert (None if found is None else weights.value(found.evaluation)) == expected
    if found is not None:
        assert found.optimal
        assert evaluate(problem, found.anchor, found.assignment) == found.evaluation


def test_the_random_instances_test_something() -> None:
    outcomes = [(solve(random_problem(s, 3, 3, shape=SHAPES[s % 3]), LATENCY), s) for s in range(60)]
    feasible = [found for found, _ in outcomes if found is not None]
    assert 20 < len(feasible) < 60  # both answers occur
    assert any(len(set(found.assignment)) > 1 for found in feasible)  # spreading pays somewhere
    assert any(found.searched > 0 for found in feasible)  # CP-SAT was really asked


def test_two_runs_give_the_same_answer() -> None:
    problem = random_problem(7, 6, 8, shape="exchange_every_step")
    first, second = solve(problem, LATENCY), solve(problem, LATENCY)
    assert first == second

"""Lower bounds that tell which anchors are worth an exact search, and the exact hand-over without memory."""

from __future__ import annotations

import heapq

import numpy as np
from numpy.typing import NDArray

from moe_pipeline.edge.problem import Anchor, Problem, Weights

FAR = np.int64(2**60)


def latency_bound(problem: Problem, anchor: Anchor) -> int | None:
    """No assignment with this anchor is quicker; None: some expert has no node. Memory is ignored.

    Two relaxations, the larger counts: each expert alone on its best node, and all experts as copies of the
    smallest, put one after another where they finish first.
    """
    if problem.shape == "hand_over_latents":
        raise ValueError("hand-over has its own bound, see best_sequences")
    centre, text = anchor.coordinator, anchor.text
    arrival = anchor.text_us + problem.conditioning_us[text]  # (D,)
    overhead = problem.serial_us[centre] + problem.delay_us[centre]  # (D,)
    start = np.maximum(arrival[None, :], problem.load_us)  # (E, D)
    alone = np.where(problem.allowed, start + problem.compute_us + overhead, FAR)
    best_alone = int(alone.min(axis=1).max())
    if best_alone >= FAR:
        return None
    each = np.where(problem.allowed, problem.compute_us, FAR).min(axis=0)  # (D,)
    queue = [
        (int(arrival[d] + overhead[d] + each[d]), int(each[d]))
        for d in range(len(problem.nodes))
        if problem.allowed[:, d].any()
    ]
    heapq.heapify(queue)
    finish = 0
    for _ in problem.experts:
        finish, step = queue[0]
        heapq.heapreplace(queue, (finish + step, step))
    return max(best_alone, finish) + anchor.fixed_us


def energy_bound(problem: Problem, anchor: Anchor) -> int | None:
    """No assignment with this anchor takes less energy; None: some expert has no node."""
    own = np.where(problem.allowed, problem.compute_uj + problem.load_uj, FAR)  # (E, D)
    message = problem.conditioning_uj[anchor.text] + problem.exchange_uj[anchor.coordinator]  # (D,)
    count = len(problem.experts)
    shared = own.min(axis=1)
    if int(shared.max()) >= FAR:
        return None
    # One node's messages are paid at least once, whatever the split; spread over the experts it is a bound.
    spread = np.where(problem.allowed, own + message // count, FAR).min(axis=1)
    return int(spread.sum()) + anchor.compute_uj + anchor.radio_uj


def objective_bound(problem: Problem, anchor: Anchor, weights: Weights) -> int | None:
    """Bound of the weighted objective; None: infeasible, also by the deadline."""
    latency = latency_bound(problem, anchor)
    energy = energy_bound(problem, anchor) if weights.energy else 0
    if latency is None or energy is None:
        return None
    if problem.deadline_us is not None and latency > problem.deadline_us:
        return None
    return weights.latency * latency + weights.energy * energy


def best_sequences(
    problem: Problem, text_us: int, text: int, weights: Weights
) -> tuple[NDArray[np.int64], list[list[int]]]:
    """Hand-over without memory and deadline, exact: for each node of the last expert the least objective
    (anchor's own part excluded) and its path.

    The common start B is a maximum, not a sum: for each possible value of B a shortest path is found among
    the nodes that are ready by then.
    """
    experts, nodes = problem.compute_us.shape
    ready = np.maximum(text_us + problem.conditioning_us[text][None, :], problem.load_us)  # (E, D)
    step = weights.latency * problem.compute_us + weights.energy * (
        problem.compute_uj + problem.load_uj + problem.conditioning_uj[text][None, :]
    )
    edge = weights.latency * problem.handover_us + weights.energy * problem.handover_uj  # (D, D)
    best = np.full(nodes, FAR)
    paths: list[list[int]] = [[] for _ in range(nodes)]
    thresholds = np.unique(np.where(problem.allowed, ready, 0))
    needed = int(np.where(problem.allowed, ready, FAR).min(axis=1).max())
    for begin in thresholds[thresholds >= needed]:
        cost = np.where(problem.allowed & (ready <= begin), step, FAR)
        total, back = cost[0], []
        for expert in range(1, experts):
            arrive = total[:, None] + edge  # (from, to)
            origin = arrive.argmin(axis=0)
            back.append(origin)
            total = np.minimum(arrive[origin, np.arange(nodes)] + cost[expert], FAR)
        total = np.minimum(total + weights.latency * int(begin), FAR)
        for last in np.flatnonzero(total < best):
            best[last] = total[last]
            paths[last] = _walk(back, int(last))
    return best, paths


def _walk(back: list[NDArray[np.int64]], last: int) -> list[int]:
    path = [last]
    for origin in reversed(back):
        path.append(int(origin[path[-1]]))
    return path[::-1]

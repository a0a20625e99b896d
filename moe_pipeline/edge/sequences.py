"""The exact hand-over: which nodes the experts run on, one after the other, within each node's memory.

Experts that follow one another on one node are a block. Without memory the best blocks are a shortest path. With
memory, a dynamic program that limits each block alone (a node that is left may be entered again with all its memory)
gives a lower bound and most times the answer; where it does not, a best-first search over blocks that counts what
every node already holds finds it, guided by that bound (A*, Hart, Nilsson and Raphael, 1968).

The common start is a maximum, not a sum: every possible value of it is tried, with the nodes that are ready by then.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moe_pipeline.edge.bounds import FAR, IntArray, anchor_part
from moe_pipeline.edge.problem import Anchor, Problem, Weights

MOST_EXPANSIONS = 20_000  # then CP-SAT is asked


@dataclass(frozen=True)
class Blocks:
    """Tables of one text node; S starts, E experts, D nodes. Costs are the objective's, `FAR` where impossible.

    Attributes:
        begin: (S,) cost of each common start.
        run: (E + 1, D) cost of the experts before e on one node; a block s..e costs run[e] - run[s].
        weight: (E + 1, D) kilobytes, in the same way.
        bad: (E + 1, S, D) how many experts before e may not run on the node or are not ready by the start.
        room: (D,) kilobytes for experts.
        hand: (D, D) cost of a hand-over, `FAR` on the diagonal: a block ends where another node follows.
        ending: (E + 1, S, D) least cost of the experts before e when the last of them runs on the node.
        before: (E + 1, S, D) least cost of the experts before e when the next block is on the node.
    """

    begin: IntArray
    run: IntArray
    weight: IntArray
    bad: IntArray
    room: IntArray
    hand: IntArray
    ending: IntArray
    before: IntArray

    def valid(self, s: int, e: int) -> NDArray[np.bool_]:
        """(S, D) may the experts s..e be one block there?"""
        return (self.bad[e] == self.bad[s]) & ((self.weight[e] - self.weight[s]) <= self.room)[None, :]

    def least(self) -> IntArray:
        """(D,) lower bound of all experts, by the node of the last one."""
        return np.minimum((self.ending[-1] + self.begin[:, None]).min(axis=0, initial=FAR), FAR)


def blocks(problem: Problem, text_us: int, text: int, weights: Weights, taken: IntArray) -> Blocks:
    """The tables of one text node, where `taken` (D,) kilobytes of each node are not for experts."""
    experts, nodes = problem.compute_us.shape
    ready = np.maximum(text_us + problem.conditioning_us[text][None, :], problem.load_us)  # (E, D)
    step = weights.latency * problem.compute_us + weights.energy * (
        problem.compute_uj + problem.load_uj + problem.conditioning_uj[text][None, :]
    )
    hand = weights.latency * problem.handover_us + weights.energy * problem.handover_uj
    hand = np.where(np.eye(nodes, dtype=bool), FAR, hand)
    starts = np.unique(ready[problem.allowed]) if problem.allowed.any() else np.zeros(0, dtype=np.int64)
    if not weights.latency:
        starts = starts[-1:]  # waiting for the last node costs nothing
    late = ~problem.allowed[:, None, :] | (ready[:, None, :] > starts[None, :, None])  # (E, S, D)
    size = (len(starts), nodes)
    tables = Blocks(
        weights.latency * starts,
        _sums(step),
        _sums(problem.weight_kb),
        np.concatenate([np.zeros((1, *size), dtype=np.int64), np.cumsum(late, axis=0)]),
        problem.free_kb - problem.working_kb - taken,
        hand,
        np.full((experts + 1, *size), FAR, dtype=np.int64),
        np.full((experts + 1, *size), FAR, dtype=np.int64),
    )
    tables.before[0] = 0
    for e in range(1, experts + 1):
        for s in range(e):
            cost = tables.before[s] + (tables.run[e] - tables.run[s])[None, :]
            np.minimum(tables.ending[e], np.where(tables.valid(s, e), cost, FAR), out=tables.ending[e])
        np.minimum(tables.ending[e], FAR, out=tables.ending[e])
        # (S, from, to): a hand-over costs, and nobody hands over to himself
        entered = (tables.ending[e][:, :, None] + hand[None]).min(axis=1)
        tables.before[e] = np.minimum(entered, FAR)
    return tables


def _sums(matrix: IntArray) -> IntArray:
    """(E + 1, D) sums over the experts before e."""
    return np.concatenate([np.zeros((1, matrix.shape[1]), dtype=np.int64), np.cumsum(matrix, axis=0)])


def search(
    problem: Problem, tables: Blocks, anchor: Anchor, weights: Weights, limit: int
) -> tuple[tuple[int, ...] | None, bool]:
    """The cheapest sequence that ends at the anchor's coordinator, costs at most `limit`, and fits; is it proven?

    The tables are those of the anchor's own memory.
    """
    experts, part = len(problem.experts), anchor_part(anchor, weights)
    centre = anchor.coordinator
    nothing = (0,) * len(problem.nodes)
    queue: list[tuple[int, int, int, int, int, tuple[int, ...], tuple[int, ...]]] = []
    for number, begin in enumerate(tables.begin):
        bound = int(tables.ending[experts, number, centre]) + int(begin) + part
        if bound <= limit:
            # (bound, start, experts left, node that follows or -1, cost so far, kilobytes held (D,), nodes chosen)
            heapq.heappush(queue, (bound, number, experts, -1, int(begin) + part, nothing, ()))
    seen: set[tuple[int, int, int, tuple[int, ...]]] = set()
    # Plain lists: the loop below reads single numbers, which numpy is slow at.
    room, hand, run, weight = (t.tolist() for t in (tables.room, tables.hand, tables.run, tables.weight))
    by_start: dict[int, tuple[list[list[int]], list[list[int]]]] = {}
    for _ in range(MOST_EXPANSIONS):
        if not queue:
            return None, True
        _, number, left, following, cost, held, chosen = heapq.heappop(queue)
        if not left:
            return chosen, True
        if (number, left, following, held) in seen:
            continue
        seen.add((number, left, following, held))
        if number not in by_start:
            by_start[number] = tables.bad[:, number].tolist(), tables.before[:, number].tolist()
        bad, before = by_start[number]  # (E + 1, D) each
        for node in range(len(problem.nodes)) if following >= 0 else (centre,):
            handed = hand[node][following] if following >= 0 else 0
            free = room[node] - held[node]
            for s in range(left - 1, -1, -1):
                block = weight[left][node] - weight[s][node]
                if block > free or bad[left][node] != bad[s][node]:
                    break
                spent = cost + handed + run[left][node] - run[s][node]
                bound = spent + before[s][node]
                if bound <= limit:
                    now = (*held[:node], held[node] + block, *held[node + 1 :])
                    path = (node,) * (left - s) + chosen
                    heapq.heappush(queue, (bound, number, s, node, spent, now, path))
    return None, False

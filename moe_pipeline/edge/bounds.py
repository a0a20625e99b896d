"""Lower bounds that tell which anchors are worth an exact search.

A bound belongs to a `Key`: text node, its time, and coordinator. Anchors of one key differ only by what they
add (decoding), so their bounds are the key's plus that.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moe_pipeline.edge.problem import Anchor, Problem, Weights

FAR = 2**60
CHUNK = 512  # guesses that are covered at once, the cheapest first
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Key:
    """What the experts' part of a solution depends on."""

    text: int
    text_us: int
    coordinator: int


def key_of(anchor: Anchor) -> Key:
    """The key of an anchor."""
    return Key(anchor.text, anchor.text_us, anchor.coordinator)


def anchor_part(anchor: Anchor, weights: Weights) -> int:
    """The objective's share that does not depend on the experts' nodes."""
    return weights.latency * anchor.fixed_us + weights.energy * (anchor.compute_uj + anchor.radio_uj)


def quick_bound(problem: Problem, key: Key, weights: Weights) -> int | None:
    """Cheap: each expert alone on its best node, and all as copies of the smallest; None: impossible."""
    arrival = key.text_us + problem.conditioning_us[key.text]  # (D,)
    overhead = problem.serial_us[key.coordinator] + problem.delay_us[key.coordinator]  # (D,)
    start = np.maximum(arrival[None, :], problem.load_us)  # (E, D)
    alone = np.where(problem.allowed, start + problem.compute_us + overhead, FAR)
    best_alone = int(alone.min(axis=1).max())
    if best_alone >= FAR:
        return None
    total = 0
    if weights.latency:
        each = np.where(problem.allowed, problem.compute_us, FAR).min(axis=0)  # (D,)
        base = arrival + overhead
        queue = [(int(base[d] + each[d]), int(each[d])) for d in np.flatnonzero(each < FAR)]
        heapq.heapify(queue)
        finish = 0
        for _ in problem.experts:
            finish, step = queue[0]
            heapq.heapreplace(queue, (finish + step, step))
        total += weights.latency * max(best_alone, finish)
    if weights.energy:
        message = problem.conditioning_uj[key.text] + problem.exchange_uj[key.coordinator]  # (D,)
        own = problem.compute_uj + problem.load_uj + message // len(problem.experts)
        total += weights.energy * int(np.where(problem.allowed, own, FAR).min(axis=1).sum())
    return total


@dataclass(frozen=True)
class _Copies:
    """The relaxation in which every expert is a copy of the smallest on each node, (D,) each."""

    compute: IntArray
    load: IntArray
    own: IntArray  # objective for one more copy
    opening: IntArray  # objective for the first copy: messages
    arrival: IntArray
    delay: IntArray
    room: IntArray  # copies that memory admits


def least_stage_memory(problem: Problem, anchors: list[Anchor]) -> IntArray:
    """(D,) kilobytes that text encoder and decoder take on each node whichever of the anchors is chosen."""
    taken = np.zeros((len(anchors), len(problem.nodes)), dtype=np.int64)
    for row, anchor in enumerate(anchors):
        for node, kilobytes in anchor.memory_kb:
            taken[row, node] += kilobytes
    return taken.min(axis=0)


def _copies(problem: Problem, key: Key, weights: Weights, taken: IntArray) -> _Copies:
    def least(matrix: IntArray) -> IntArray:
        return np.where(problem.allowed, matrix, FAR).min(axis=0)

    weight = np.maximum(least(problem.weight_kb), 1)
    room = np.maximum(0, (problem.free_kb - problem.working_kb - taken) // weight)
    message = problem.conditioning_uj[key.text] + problem.exchange_uj[key.coordinator]
    usable = problem.allowed.any(axis=0)
    energy = np.where(usable, least(problem.compute_uj + problem.load_uj), 0)
    return _Copies(
        compute=np.where(usable, least(problem.compute_us), 0),
        load=np.where(usable, least(problem.load_us), 0),
        own=weights.energy * energy,
        opening=weights.latency * problem.serial_us[key.coordinator] + weights.energy * message,
        arrival=key.text_us + problem.conditioning_us[key.text],
        delay=problem.delay_us[key.coordinator],
        room=np.where(usable, np.minimum(room, len(problem.experts)), 0),
    )


def count_bound(
    problem: Problem, key: Key, weights: Weights, below: int, taken: IntArray
) -> tuple[int, list[int]]:
    """The exact optimum of the copies, by dynamic programming over how many run on each node.

    The maxima in the latency are guessed: for every possible common start B and longest chain M, each node
    admits a number of copies, and the cheapest way to host all of them is a covering problem. For experts of
    equal cost only the decoder's memory is relaxed, so the bound is nearly always the optimum.

    Args:
        below: guesses whose B + M alone reaches this objective are left out.
        taken: (D,) kilobytes that text encoder and decoder surely take, see `least_stage_memory`.

    Returns:
        The bound (`FAR` if nothing stays below) and the copies on each node that reach it.
    """
    copies, count = _copies(problem, key, weights, taken), len(problem.experts)
    guesses = _guesses(problem, copies, weights, below)
    opening = int(copies.opening[copies.room > 0].min(initial=FAR))
    best, chosen = below, np.zeros(0, dtype=np.int64)
    for piece in np.split(guesses.order, range(CHUNK, len(guesses.order), CHUNK)):
        if not len(piece) or guesses.fixed[piece[0]] + opening >= best:  # what follows is dearer still
            break
        caps = guesses.caps(piece)
        enough = caps.sum(axis=1) >= count
        if not enough.any():
            continue
        piece, caps = piece[enough], caps[enough]
        if (
            len(guesses.order) == 1
        ):  # energy alone: there is no maximum to guess, and plain numbers are quicker
            total, counts = _cover_counts(copies, caps[0], count)
            total += int(guesses.fixed[piece[0]])
            return (total, counts) if total < below else (FAR, [])
        totals = guesses.fixed[piece] + _cover(copies, caps, count)
        least = int(totals.argmin())
        if totals[least] < best:
            best, chosen = int(totals[least]), caps[least]
    return (best, _cover_counts(copies, chosen, count)[1]) if len(chosen) else (FAR, [])


@dataclass(frozen=True)
class _Guesses:
    """Values of the maxima: guess g combines row first[g] of `by_start` with row last[g] of `by_chain`."""

    fixed: IntArray  # (G,) objective of the maxima
    first: IntArray  # (G,)
    last: IntArray  # (G,)
    by_start: IntArray  # (S, D) copies that may have started by then
    by_chain: IntArray  # (C, D) copies that have ended by then
    order: IntArray  # (G,) the cheapest first

    def caps(self, which: IntArray) -> IntArray:
        """(N, D) copies that the nodes admit; both limits grow with the count, so the smaller one binds."""
        return np.minimum(self.by_start[self.first[which]], self.by_chain[self.last[which]])


def _guesses(problem: Problem, copies: _Copies, weights: Weights, below: int) -> _Guesses:
    """All combinations of a common start and a longest chain that stay below an objective."""
    experts = len(problem.experts)
    counts = np.arange(1, experts + 1, dtype=np.int64)[:, None]  # (E, 1)
    fits = counts <= copies.room[None, :]
    start = np.maximum(copies.arrival[None, :], counts * copies.load[None, :])  # (E, D)
    chain = counts * copies.compute[None, :] + copies.delay[None, :]
    everything = copies.room[None, :]
    begins, by_start = np.zeros(1, dtype=np.int64), everything
    longest, by_chain = np.zeros(1, dtype=np.int64), everything
    if weights.latency and problem.shape == "run_alone_merge_once":
        longest, by_chain = _admitted(start + chain, fits, experts)
    elif weights.latency:
        begins, by_start = _admitted(start, fits, experts)
        longest, by_chain = _admitted(chain, fits, experts)
    fixed = weights.latency * (begins[:, None] + longest[None, :])
    first, last = np.nonzero(fixed < below)
    costs = fixed[first, last]
    return _Guesses(costs, first, last, by_start, by_chain, np.argsort(costs, kind="stable"))


def _admitted(ends: IntArray, fits: NDArray[np.bool_], experts: int) -> tuple[IntArray, IntArray]:
    """Every value that a maximum over nodes may have, and the copies (N, D) that stay within it, if enough do."""
    values = np.unique(ends[fits])
    caps = ((ends[None] <= values[:, None, None]) & fits[None]).sum(axis=1)
    enough = caps.sum(axis=1) >= experts
    return values[enough], caps[enough]


def _cover(copies: _Copies, caps: IntArray, count: int) -> IntArray:
    """Least objective to host `count` copies under each guess, (G,)."""
    guesses = len(caps)
    table = np.full((count + 1, guesses), FAR, dtype=np.int64)  # table[n]: n copies hosted so far
    table[0] = 0
    for d in np.flatnonzero(caps.max(axis=0, initial=0) > 0):
        after = table.copy()
        for n in range(1, min(count, int(caps[:, d].max())) + 1):
            price = int(copies.opening[d] + n * copies.own[d])
            option = np.where(caps[None, :, d] >= n, table[: count + 1 - n] + price, FAR)
            np.minimum(after[n:], option, out=after[n:])
        table = after
    return np.minimum(table[count], FAR)


def _cover_counts(copies: _Copies, caps: IntArray, count: int) -> tuple[int, list[int]]:
    """The cheapest cover under one guess, whose caps (D,) admit all copies: objective, and copies on each node."""
    opening, own = copies.opening.tolist(), copies.own.tolist()
    best, taken = [0] + [FAR] * count, []  # best[n]: n copies hosted so far; taken[d][n]: of them on node d
    for d, cap in enumerate(caps.tolist()):
        after, here = best.copy(), [0] * (count + 1)
        for n in range(1, min(cap, count) + 1):
            price = opening[d] + n * own[d]
            for hosted in range(count + 1 - n):
                if best[hosted] + price < after[hosted + n]:
                    after[hosted + n], here[hosted + n] = best[hosted] + price, n
        best = after
        taken.append(here)
    counts, left = [0] * len(taken), count
    for d in reversed(range(len(taken))):
        counts[d] = taken[d][left]
        left -= counts[d]
    return min(best[count], FAR), counts

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


def _copies(problem: Problem, key: Key, weights: Weights) -> _Copies:
    def least(matrix: IntArray) -> IntArray:
        return np.where(problem.allowed, matrix, FAR).min(axis=0)

    weight = np.maximum(least(problem.weight_kb), 1)
    room = np.maximum(0, (problem.free_kb - problem.working_kb) // weight)
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


def count_bound(problem: Problem, key: Key, weights: Weights, below: int) -> tuple[int, list[int]]:
    """The exact optimum of the copies, by dynamic programming over how many run on each node.

    The maxima in the latency are guessed: for every possible common start B and longest chain M, each node
    admits a number of copies, and the cheapest way to host all of them is a covering problem. For experts of
    equal cost only the memory of text and decoder is relaxed, so the bound is nearly always the optimum.

    Args:
        below: guesses whose B + M alone reaches this objective are left out.

    Returns:
        The bound (`FAR` if nothing stays below) and the copies on each node that reach it.
    """
    copies = _copies(problem, key, weights)
    fixed, caps = _guesses(problem, copies, weights, below)
    opening = int(copies.opening[copies.room > 0].min(initial=FAR))
    best, chosen = below, -1
    order = np.argsort(fixed, kind="stable")
    for piece in np.split(order, range(CHUNK, len(order), CHUNK)):
        if not len(piece) or fixed[piece[0]] + opening >= best:  # what follows is dearer still
            break
        totals = fixed[piece] + _cover(copies, caps[piece], len(problem.experts))
        least = int(totals.argmin())
        if totals[least] < best:
            best, chosen = int(totals[least]), int(piece[least])
    if chosen < 0:
        return FAR, []
    return best, _cover_counts(copies, caps[chosen], len(problem.experts))


def _guesses(problem: Problem, copies: _Copies, weights: Weights, below: int) -> tuple[IntArray, IntArray]:
    """The objective of every guess (G,) and the copies each node admits under it (G, D)."""
    counts = np.arange(1, len(problem.experts) + 1, dtype=np.int64)[:, None]  # (E, 1)
    fits = counts <= copies.room[None, :]
    load = counts * copies.load[None, :]  # (E, D)
    start = np.maximum(copies.arrival[None, :], load)
    chain = counts * copies.compute[None, :] + copies.delay[None, :]
    if not weights.latency:
        return np.zeros(1, dtype=np.int64), copies.room[None, :]
    if problem.shape == "run_alone_merge_once":
        finish = start + chain
        longest = np.unique(finish[fits])
        longest = longest[weights.latency * longest < below]
        caps = ((finish[None] <= longest[:, None, None]) & fits[None]).sum(axis=1)
        enough = caps.sum(axis=1) >= len(problem.experts)
        return (weights.latency * longest)[enough], caps[enough]
    begins, longest = np.unique(start[fits]), np.unique(chain[fits])
    # Start and chain grow with the count, so a node admits the smaller of what each of them admits: (S, D), (C, D).
    by_start = ((start[None] <= begins[:, None, None]) & fits[None]).sum(axis=1)
    by_chain = ((chain[None] <= longest[:, None, None]) & fits[None]).sum(axis=1)
    first, last = np.nonzero(weights.latency * (begins[:, None] + longest[None, :]) < below)
    caps = np.minimum(by_start[first], by_chain[last])  # (G, D)
    enough = caps.sum(axis=1) >= len(problem.experts)
    return weights.latency * (begins[first] + longest[last])[enough], caps[enough]


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


def _cover_counts(copies: _Copies, caps: IntArray, count: int) -> list[int]:
    """The copies on each node in the cheapest cover under one guess."""
    best: list[tuple[int, list[int]] | None] = [(0, [])] + [None] * count
    for d, cap in enumerate(caps):
        after: list[tuple[int, list[int]] | None] = [None] * (count + 1)
        for hosted, entry in enumerate(best):
            if entry is None:
                continue
            for n in range(min(int(cap), count - hosted) + 1):
                price = entry[0] + (int(copies.opening[d] + n * copies.own[d]) if n else 0)
                known = after[hosted + n]
                if known is None or price < known[0]:
                    after[hosted + n] = (price, [*entry[1], n])
        best = after
    final = best[count]
    return final[1] if final is not None else []

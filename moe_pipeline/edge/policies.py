"""Who decides where a request runs: simple rules, a learned policy, and an optimum that knows the future.

A policy sees the `Ledger` of the run and must use only `observe` (what the request's provider may know).
`Clairvoyant` is the one exception, on purpose: it is the bound that the others are measured against.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from moe_pipeline.edge.simulation_batch import NOTHING_CAME, Ledger
from moe_pipeline.edge.simulation_model import Deployment
from moe_pipeline.schema.errors import MoEverseError

Array = npt.NDArray[np.float64]

POLICIES = ("greedy", "optimal", "random", "local-only", "cloud-only", "moe-ppo")
WINDOW_STATES = 4096  # the clairvoyant enumerates as many sequences of decisions at once


class Policy(Protocol):
    """Chooses an option index for a request at time t, shape (1,)."""

    def choose(self, ledger: Ledger, request: int, t: Array) -> int: ...


class Greedy:
    """The option of the highest estimated utility: known queues, present channel, known experts in memory."""

    def choose(self, ledger: Ledger, request: int, t: Array) -> int:
        seen = ledger.observe(request, t)
        return int(np.where(seen.mask, seen.utility, -np.inf)[0].argmax())


class Random:
    """Any option that is not known to be dead, with equal probability."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(np.random.SeedSequence([seed, 0x9A]))

    def choose(self, ledger: Ledger, request: int, t: Array) -> int:
        return int(self.rng.choice(np.flatnonzero(ledger.observe(request, t).mask[0])))


class Fixed:
    """Always the same option, the quickest idle one of a set."""

    def __init__(self, deployment: Deployment, allowed: list[int]) -> None:
        self.option = min(allowed, key=lambda o: float(deployment.idle_s[o]))

    def choose(self, ledger: Ledger, request: int, t: Array) -> int:
        return self.option


class Clairvoyant:
    """Full knowledge: true queues, future requests, channels and faults.

    Enumerates all sequences of decisions for this and the following requests, as many as `states` allows,
    with the recursion of `simulation_batch`, and takes the first decision of the sequence with the highest
    sum of utilities: exact over its window. With `beam` > 0 the best `beam` sequences are followed over
    `horizon` further requests, which looks further and is no longer exhaustive.
    """

    def __init__(self, states: int = WINDOW_STATES, beam: int = 0, horizon: int = 0) -> None:
        self.states, self.beam, self.horizon = states, beam, horizon

    def choose(self, ledger: Ledger, request: int, t: Array) -> int:
        return int(best_sequence(ledger, request, t, self.states, self.beam, self.horizon)[0][0])


def best_sequence(
    ledger: Ledger, request: int, t: Array, states: int = WINDOW_STATES, beam: int = 0, horizon: int = 0
) -> tuple[npt.NDArray[np.int64], float]:
    """Decisions for `request` and those after it, and their summed utility, under full knowledge."""
    options, last = len(ledger.d.options), ledger.traffic.requests
    depth = 1
    while options > 1 and options ** (depth + 1) <= states:
        depth += 1
    total = np.zeros(1)
    history = np.zeros((1, 0), dtype=np.int64)
    tree = ledger.branch(np.zeros(1, dtype=np.int64))
    for level, r in enumerate(range(request, min(last, request + depth + horizon))):
        if beam and level >= depth:  # beyond the exact window only the most promising sequences live on
            keep = np.argsort(-total, kind="stable")[: max(1, beam)]
            tree, total, history = tree.branch(keep), total[keep], history[keep]
        rows = np.repeat(np.arange(tree.batch), options)
        choice = np.tile(np.arange(options), tree.batch)
        tree = tree.branch(rows)
        now = np.repeat(t if r == request else tree.arrival(r)[:1], len(rows))
        tree.advance(np.maximum(now, tree.last_t))
        outcome = tree.commit(r, choice, now)
        # who knows when a host dies does not count on being decided again
        total = total[rows] + np.where(outcome.lost_host, NOTHING_CAME, outcome.utility)
        history = np.concatenate([history[rows], choice[:, None]], axis=1)
    best = int(total.argmax())
    return history[best], float(total[best])


def make_policy(name: str, deployment: Deployment, seed: int = 0, weights: Path | None = None) -> Policy:
    """The policy of that name for a deployment.

    Raises:
        MoEverseError: `unknown_policy`, `no_local`, `no_cloud`, `no_policy_file`.
    """
    makers: dict[str, Callable[[], Policy]] = {
        "greedy": Greedy,
        "optimal": Clairvoyant,
        "random": lambda: Random(seed),
        "local-only": lambda: Fixed(deployment, _local(deployment)),
        "cloud-only": lambda: Fixed(deployment, _cloud(deployment)),
        "moe-ppo": lambda: _learned(weights),
    }
    if name not in makers:
        raise MoEverseError("unknown_policy", f"There is no policy '{name}'.", f"Known: {', '.join(makers)}.")
    return makers[name]()


def _local(deployment: Deployment) -> list[int]:
    found = [o for o, option in enumerate(deployment.options) if option.primary == deployment.local]
    if not found:
        title = deployment.titles[deployment.local]
        raise MoEverseError(
            "no_local",
            f"In '{deployment.id}' the user's device ({title}) cannot run a request.",
            "Choose another policy, or a scenario whose user has a stronger device.",
        )
    return found


def _cloud(deployment: Deployment) -> list[int]:
    found = [
        o
        for o, option in enumerate(deployment.options)
        if option.secondary is None and deployment.categories[option.primary] == "cloud"
    ]
    if not found:
        raise MoEverseError(
            "no_cloud",
            f"In '{deployment.id}' there is no cloud that could run a request.",
            "Choose another policy, or a scenario with a cloud node.",
        )
    return found


def _learned(weights: Path | None) -> Policy:
    from moe_pipeline.edge.learned_policy import LearnedPolicy, shipped_policy

    return LearnedPolicy.load(weights if weights is not None else shipped_policy())

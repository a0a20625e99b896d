"""Who decides where a request runs: simple rules, a learned policy, and an optimum that knows the future.

A policy sees the `Ledger` of the run and must use only `observe` (what the request's provider may know).
`Clairvoyant` is the one exception, on purpose: the others are measured against it. It is the optimum only where its
window reaches the end of the run.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from moe_pipeline.edge.simulation_batch import LATEST, NOTHING_CAME, TIME_WEIGHT, Ledger
from moe_pipeline.edge.simulation_model import Deployment
from moe_pipeline.schema.errors import MoEverseError

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.int64]

POLICIES = ("greedy", "priced-greedy", "optimal", "random", "local-only", "cloud-only", "moe-ppo")
WINDOW_STATES = 100  # the clairvoyant enumerates as many sequences of decisions at once
FURTHER = 30  # requests over which it follows each of them
WAIT_PRICE, LATE_PRICE = 0.7, 1.2  # tuned by hand on validation traffic, see docs/moe-ppo.md


class Policy(Protocol):
    """Chooses an option index for a request at time t, shape (1,)."""

    def choose(self, ledger: Ledger, request: int, t: Array) -> int: ...


class Greedy:
    """The option of the highest estimated utility: known queues, present channel, known experts in memory."""

    def choose(self, ledger: Ledger, request: int, t: Array) -> int:
        seen = ledger.observe(request, t)
        return int(np.where(seen.mask, seen.utility, -np.inf)[0].argmax())


class PricedGreedy:
    """Greedy with two prices for what a decision does to others. Knows no more than greedy.

    A request that waits for a quick host keeps it busy for those behind it: waiting costs `WAIT_PRICE` a deadline
    on top. A request that is late anyway loses little by being later still: `LATE_PRICE` times that loss is given
    back, so that late requests gather in the longest queue and the others recover.
    """

    def choose(self, ledger: Ledger, request: int, t: Array) -> int:
        return int(self.options(ledger, request, t)[0])

    @staticmethod
    def options(ledger: Ledger, request: int, t: Array) -> Index:
        """(B,) choices of all runs of the ledger."""
        seen, limit = ledger.observe(request, t), ledger.d.deadline_s
        late = seen.latency > limit
        beyond = np.clip(seen.latency / limit - 1.0, 0.0, LATEST - 1.0)
        price = np.where(late, -LATE_PRICE * TIME_WEIGHT * beyond, WAIT_PRICE * seen.wait / limit)
        return np.where(seen.mask, seen.utility - price, -np.inf).argmax(axis=1)


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

    Enumerates all sequences of decisions for this and the following requests, as many as `states` allows, with
    the recursion of `simulation_batch`; follows each over `further` requests, which the priced rule decides; and
    takes the first decision of the sequence with the highest sum of utilities. Exhaustive, hence optimal, where
    the window reaches the end of the run; otherwise a rule improved by knowing the future (a rollout algorithm,
    Bertsekas), which is no strict bound.
    """

    def __init__(self, states: int = WINDOW_STATES, further: int = FURTHER) -> None:
        self.states, self.further = states, further

    def choose(self, ledger: Ledger, request: int, t: Array) -> int:
        return int(best_sequence(ledger, request, t, self.states, self.further)[0][0])


def best_sequence(
    ledger: Ledger, request: int, t: Array, states: int = WINDOW_STATES, further: int = 0
) -> tuple[Index, float]:
    """Decisions for `request` and those after it, and their summed utility, under full knowledge."""
    options, last = len(ledger.d.options), ledger.traffic.requests
    depth = 1
    while options > 1 and options ** (depth + 1) <= states:
        depth += 1
    total = np.zeros(1)
    history = np.zeros((1, 0), dtype=np.int64)
    tree = ledger.branch(np.zeros(1, dtype=np.int64))
    for level, r in enumerate(range(request, min(last, request + depth + further))):
        if level < depth:
            rows = np.repeat(np.arange(tree.batch), options)
            tree, total, history = tree.branch(rows), total[rows], history[rows]
        now = np.repeat(t if r == request else tree.arrival(r)[:1], tree.batch)
        tree.advance(np.maximum(now, tree.last_t))
        if level < depth:
            choice = np.tile(np.arange(options), tree.batch // options)
        else:
            choice = PricedGreedy.options(tree, r, now)
        outcome = tree.commit(r, choice, now)
        # who knows when a host dies does not count on being decided again
        total = total + np.where(outcome.lost_host, NOTHING_CAME, outcome.utility)
        history = np.concatenate([history, choice[:, None]], axis=1)
    best = int(total.argmax())
    return history[best], float(total[best])


def make_policy(name: str, deployment: Deployment, seed: int = 0, weights: Path | None = None) -> Policy:
    """The policy of that name for a deployment.

    Raises:
        MoEverseError: `unknown_policy`, `no_local`, `no_cloud`, `no_policy_file`.
    """
    makers: dict[str, Callable[[], Policy]] = {
        "greedy": Greedy,
        "priced-greedy": PricedGreedy,
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

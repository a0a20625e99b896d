"""Everything random of a run, drawn before it: arrivals, users, requests, jitter, faults.

Policies are compared on common random numbers: two runs with the same deployment and seed meet the same
requests at the same times, the same channels and the same faults, whatever they decide. Each purpose has a
generator of its own, spawned from the seed, so that one more draw for one purpose shifts no other.

Arrays carry a batch dimension B in front: one row for each seed.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from moe_pipeline.edge.simulation_channel import BLOCKS, PERIOD_S, Channel, draw_channel
from moe_pipeline.edge.simulation_model import Deployment
from moe_pipeline.schema.errors import MoEverseError

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.int64]

ZIPF = 0.9  # assumption: popularity of the experts among the users of one provider
MAX_TRACED_USERS = 48  # more users than this share traces at different offsets
LATE_JOIN_SHARE = 0.4  # nodes that are not available at the start join after this share of the run
MAX_REQUESTS = 2_000_000


@dataclass(frozen=True)
class Traffic:
    """B runs of N requests.

    Attributes:
        t: (B, N) arrival, seconds, ascending.
        user, home: (B, N) who asks; the provider (index into `Deployment.homes`) whose agent decides.
        steps: (B, N) denoising steps (or the service law's draw).
        pair: (B, N, 2) the two active experts.
        size: (B, N) relative size of the result.
        jitter: (B, N, 2) uniform draws for the way up and down.
        down: (B, n, K, 2) intervals in which a station is dead, padded with infinity.
        slow: (B, n, K, 2) intervals in which it is slowed by the scenario's factor.
        trace_user: (B, U) which channel trace a user follows; offset: (B, U) where on it, seconds.
    """

    t: Array
    user: Index
    home: Index
    steps: Array
    pair: Index
    size: Array
    jitter: Array
    down: Array
    slow: Array
    trace_user: Index
    offset: Array

    @property
    def requests(self) -> int:
        return self.t.shape[1]


def channel_for(deployment: Deployment, seed: int) -> Channel:
    """The radio links of a deployment, drawn from the seed."""
    if not deployment.access:
        ones = np.ones((1, BLOCKS))
        integral = np.linspace(0.0, PERIOD_S, BLOCKS + 1)[None, :]
        return Channel(ones, integral, np.zeros((1, BLOCKS), dtype=np.int64))
    users = min(deployment.users, MAX_TRACED_USERS)
    return draw_channel(list(deployment.access), deployment.mobility, users, seed)


def draw_traffic(
    deployment: Deployment,
    requests: int,
    seeds: Sequence[int],
    *,
    rate_per_s: float | Sequence[float] | None = None,
    arrivals: Array | None = None,
    faults: bool = True,
) -> Traffic:
    """Draws `requests` requests for each seed.

    Args:
        rate_per_s: Poisson rate, one for all or one for each seed; the scenario's if None.
        arrivals: recorded arrival times instead, repeated end to end when more are asked for.
    """
    if not 1 <= requests <= MAX_REQUESTS:
        raise MoEverseError(
            "bad_requests", f"A run of {requests} requests is not possible.", f"Ask for 1 to {MAX_REQUESTS}."
        )
    rates = np.broadcast_to(
        np.asarray(deployment.rate_per_s if rate_per_s is None else rate_per_s), len(seeds)
    )
    rows = [
        _draw_one(deployment, requests, int(seed), float(rate), arrivals, faults)
        for seed, rate in zip(seeds, rates, strict=True)
    ]
    columns = {
        name: np.stack([row[name] for row in rows]) for name in rows[0] if name not in ("down", "slow")
    }
    return Traffic(
        **columns, down=_padded([row["down"] for row in rows]), slow=_padded([row["slow"] for row in rows])
    )


def _draw_one(
    deployment: Deployment, requests: int, seed: int, rate: float, arrivals: Array | None, faults: bool
) -> dict[str, Any]:
    when, who, what, network, fault = (
        np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(5)
    )
    if arrivals is None:
        t = np.cumsum(when.exponential(1.0 / rate, size=requests))
    else:
        t = repeated(arrivals, requests)
    user = who.integers(deployment.users, size=requests)
    homes = len(deployment.homes)
    popularity = _popularity(deployment.experts, homes, who)
    home = user % homes
    down, slow = _faults(deployment, float(t[-1]), fault, faults)
    return {
        "t": t,
        "user": user,
        "home": home,
        "steps": _steps(deployment, requests, what),
        "pair": _pairs(popularity[home], what),
        "jitter": network.uniform(size=(requests, 2)),
        "size": np.exp(deployment.payload_sigma * what.standard_normal(requests)),
        "down": down,
        "slow": slow,
        "trace_user": network.integers(min(deployment.users, MAX_TRACED_USERS), size=deployment.users),
        "offset": network.uniform(0, PERIOD_S, size=deployment.users),
    }


def repeated(arrivals: Array, requests: int) -> Array:
    """`requests` arrival times of a recording, which starts again one mean gap after its end."""
    span = float(arrivals[-1]) + float(arrivals[-1] - arrivals[0]) / max(1, len(arrivals) - 1)
    laps = -(-requests // len(arrivals))
    return (arrivals[None, :] + span * np.arange(laps)[:, None]).ravel()[:requests]


def read_arrivals(path: Path) -> Array:
    """Arrival times in seconds from a CSV file: its first column, one header line allowed, ascending.

    Raises:
        MoEverseError: `bad_trace` with file, line and remedy.
    """
    try:
        rows = [row for row in csv.reader(path.read_text(encoding="utf-8").splitlines()) if row]
    except (OSError, UnicodeDecodeError) as error:
        raise MoEverseError(
            "bad_trace",
            f"{path.name}: cannot be read ({type(error).__name__}).",
            "Name a CSV file of arrival times in seconds.",
        ) from error
    times: list[float] = []
    for line, row in enumerate(rows, start=1):
        try:
            times.append(float(row[0]))
        except ValueError:
            if line > 1:
                raise MoEverseError(
                    "bad_trace",
                    f"{path.name}: line {line}: {row[0]!r} is not a number.",
                    "Write one arrival time in seconds a line.",
                ) from None
    found = np.array(times)
    if len(found) < 2 or not np.isfinite(found).all() or found[0] < 0 or (np.diff(found) < 0).any():
        raise MoEverseError(
            "bad_trace",
            f"{path.name}: holds no ascending list of at least two times.",
            "Write one arrival time in seconds a line, the earliest first.",
        )
    if found[-1] <= found[0]:
        raise MoEverseError(
            "bad_trace",
            f"{path.name}: all requests arrive at the same time.",
            "Spread the arrival times over some seconds.",
        )
    return found


def _popularity(experts: int, homes: int, rng: np.random.Generator) -> Array:
    """(homes, experts): Zipf, each provider's users with an order of their own."""
    weights = 1.0 / np.arange(1, experts + 1) ** ZIPF
    return np.stack([weights[rng.permutation(experts)] / weights.sum() for _ in range(homes)])


def _pairs(popularity: Array, rng: np.random.Generator) -> Index:
    """(N, 2) two different experts for each request (Gumbel top-2 = sampling without replacement)."""
    keys = np.log(popularity) + rng.gumbel(size=popularity.shape)
    return np.argsort(-keys, axis=1)[:, :2].astype(np.int64)


def _steps(deployment: Deployment, requests: int, rng: np.random.Generator) -> Array:
    if deployment.step_law == "exponential":
        return rng.exponential(1.0, size=requests)
    if deployment.step_law == "constant":
        return np.ones(requests)
    return rng.choice(np.array(deployment.steps, dtype=float), size=requests, p=deployment.step_shares)


def _faults(
    deployment: Deployment, horizon_s: float, rng: np.random.Generator, wanted: bool
) -> tuple[list[list[tuple[float, float]]], list[list[tuple[float, float]]]]:  # type: ignore[return]
    """Dead and slow intervals of each shared station; nodes that join late are dead until then."""
    down: list[list[tuple[float, float]]] = []
    slow: list[list[tuple[float, float]]] = []
    law = deployment.faults
    for station in range(deployment.local):
        dead: list[tuple[float, float]] = []
        slowed: list[tuple[float, float]] = []
        t = 0.0
        if wanted and deployment.joins_late[station]:
            t = LATE_JOIN_SHARE * horizon_s
            dead.append((0.0, t))
        if wanted and law is not None and law.mean_time_between_s.value > 0:
            while True:
                t += rng.exponential(law.mean_time_between_s.value)
                end = t + rng.exponential(max(law.mean_repair_s.value, 1e-3))
                if t > horizon_s:
                    break
                (slowed if rng.uniform() < law.slowdown_share.value else dead).append((t, end))
                t = end
        down.append(dead)
        slow.append(slowed)
    return down, slow


def _padded(rows: Sequence[list[list[tuple[float, float]]]]) -> Array:
    """Ragged intervals as (B, n, K, 2) with infinity where there is none."""
    longest = max([len(intervals) for row in rows for intervals in row] + [1])
    out = np.full((len(rows), len(rows[0]), longest, 2), np.inf)
    for b, row in enumerate(rows):
        for n, intervals in enumerate(row):
            if intervals:
                out[b, n, : len(intervals)] = intervals
    return out

"""Radio links that change: movement past access points, shadowing, handovers, satellites that are re-planned.

Every (user, access link) follows a trace of relative rates f(t) in blocks of `BLOCK_S`: 1 is the rate of the
network profile, 0 an interruption. A transfer that would take `work` seconds at f = 1 and starts at t ends at
the t' with F(t') = F(t) + work, F the integral of f. Traces are periodic, so that a run may be as long as it
likes; all are drawn before a run, so that every policy meets the same channel.

Shadowing is first-order autoregressive in distance (Gudmundson, "Correlation model for shadow fading in mobile
radio systems", 1991). The profile's rate is reached at a quarter of the cell spacing and a signal-to-noise
ratio of `REFERENCE_SNR_DB`, an assumption.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moe_pipeline.schema.profiles import Mobility, NetworkProfile, Reconfiguration

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.int64]

BLOCK_S = 0.05
PERIOD_S = 300.0
BLOCKS = int(PERIOD_S / BLOCK_S)
REFERENCE_SNR_DB = 15.0  # assumption
DECORRELATION_M = 50.0  # assumption, between the urban and the suburban values of the field
SATELLITE_SIGMA = 0.15  # assumption: spread of the rate between two plans of the constellation
FLOOR = 0.02  # a faded link still carries this share of its rate


@dataclass(frozen=True)
class Channel:
    """Traces of relative rates, one row each.

    Attributes:
        rate: (rows, BLOCKS) relative rate f, at least 0.
        integral: (rows, BLOCKS + 1) seconds of work done since the trace's start.
        cell: (rows, BLOCKS) number of the access point that serves, counted along the road.
    """

    rate: Array
    integral: Array
    cell: Index

    @property
    def rows(self) -> int:
        return self.rate.shape[0]

    def finish(self, row: Index, t: Array, work_s: Array) -> Array:
        """When `work_s` of transfer that starts at `t` on trace `row` ends. All arguments of one shape."""
        if t.size == 1:
            end = self._finish_one(int(row.item()), float(t.item()), float(work_s.item()))
            return np.full(t.shape, end)
        lap, inside = np.divmod(t, PERIOD_S)
        position = inside / BLOCK_S
        block = np.minimum(position.astype(np.int64), BLOCKS - 1)
        at_block = self.integral[row, block]
        begun = at_block + (position - block) * (self.integral[row, block + 1] - at_block)
        whole = self.integral[row, BLOCKS]
        target = begun + work_s
        laps, rest = np.divmod(target, whole)
        # one sorted array for all rows: row r lives in [r * span, r * span + whole]
        found = np.searchsorted(self._flat, (rest + row * self._span).ravel(), side="right").reshape(
            rest.shape
        )
        index = np.clip(found - 1 - row * (BLOCKS + 1), 0, BLOCKS - 1)
        low, high = self.integral[row, index], self.integral[row, index + 1]
        share = np.where(high > low, (rest - low) / np.where(high > low, high - low, 1.0), 0.0)
        return np.where(work_s > 0, (lap + laps) * PERIOD_S + (index + share) * BLOCK_S, t)

    def _finish_one(self, row: int, t: float, work_s: float) -> float:
        """`finish` for a single transfer, without the cost of array arithmetic."""
        if work_s <= 0:
            return t
        integral = self.integral[row]
        lap, inside = divmod(t, PERIOD_S)
        block = min(int(inside / BLOCK_S), BLOCKS - 1)
        low = float(integral[block])
        begun = low + (inside / BLOCK_S - block) * (float(integral[block + 1]) - low)
        laps, rest = divmod(begun + work_s, float(integral[BLOCKS]))
        index = min(max(int(integral.searchsorted(rest, side="right")) - 1, 0), BLOCKS - 1)
        low, high = float(integral[index]), float(integral[index + 1])
        share = (rest - low) / (high - low) if high > low else 0.0
        return (lap + laps) * PERIOD_S + (index + share) * BLOCK_S

    def now(self, row: Index, t: Array) -> Array:
        """Relative rate at t."""
        return self.rate[row, self._block(t)]

    def serving(self, row: Index, t: Array) -> Index:
        """Number of the access point that serves at t."""
        return self.cell[row, self._block(t)]

    def until_handover(self, row: Index, t: Array, horizon_s: float) -> Array:
        """Seconds until the next change of access point, at most `horizon_s`."""
        steps = self._to_change[row, self._block(t)] * BLOCK_S
        return np.minimum(steps, horizon_s)

    @staticmethod
    def _block(t: Array) -> Index:
        return np.minimum(((t % PERIOD_S) / BLOCK_S).astype(np.int64), BLOCKS - 1)

    def __post_init__(self) -> None:
        span = float(self.integral[:, -1].max()) + 1.0
        flat = (self.integral + np.arange(self.rows)[:, None] * span).ravel()
        object.__setattr__(self, "_span", span)
        object.__setattr__(self, "_flat", flat)
        object.__setattr__(self, "_to_change", _blocks_to_change(self.cell))

    _span: float = 0.0
    _flat: Array = None  # type: ignore[assignment]
    _to_change: Index = None  # type: ignore[assignment]


def _blocks_to_change(cell: Index) -> Index:
    """For every block the number of blocks until another cell serves."""
    here = np.arange(BLOCKS)
    changes = np.full(cell.shape, 2 * BLOCKS, dtype=np.int64)
    changes[:, :-1] = np.where(cell[:, :-1] != cell[:, 1:], here[:-1] + 1, 2 * BLOCKS)
    following = np.minimum.accumulate(changes[:, ::-1], axis=1)[:, ::-1]
    return np.minimum(following - here, BLOCKS)


def draw_channel(networks: list[NetworkProfile], mobility: Mobility | None, users: int, seed: int) -> Channel:
    """Traces for `users` x `networks`; the row of user u on access link k is u * len(networks) + k.

    Without mobility and without a satellite the trace is f = 1.
    """
    rng = np.random.default_rng(np.random.SeedSequence([seed, 0xC4A]))
    rate = np.ones((users, len(networks), BLOCKS))
    cell = np.zeros((users, len(networks), BLOCKS), dtype=np.int64)
    for index, network in enumerate(networks):
        if mobility is not None and network.medium in ("cellular", "wifi", "sidelink"):
            rate[:, index], cell[:, index] = _moving(mobility, users, rng)
        if network.reconfiguration is not None:
            rate[:, index] *= _replanned(network.reconfiguration, users, rng)
    rows = rate.reshape(-1, BLOCKS)
    integral = np.concatenate([np.zeros((len(rows), 1)), np.cumsum(rows * BLOCK_S, axis=1)], axis=1)
    return Channel(rows, integral, cell.reshape(-1, BLOCKS))


def _moving(mobility: Mobility, users: int, rng: np.random.Generator) -> tuple[Array, Index]:
    """Relative rates (users, BLOCKS) and serving cells of users who pass access points on a line."""
    speed, spacing = mobility.speed_m_per_s.value, max(1.0, mobility.cell_spacing_m.value)
    start = rng.uniform(0, spacing, size=(users, 1))
    own_speed = speed * rng.uniform(0.8, 1.2, size=(users, 1))  # nobody drives at exactly the mean
    x = start + own_speed * (np.arange(BLOCKS) + 0.5) * BLOCK_S
    distance = np.maximum(np.abs(x % spacing - spacing / 2), spacing / 50)
    loss_db = 10 * mobility.path_loss_exponent.value * np.log10(distance / (spacing / 4))
    shadow_db = _shadowing(mobility.fading_sigma_db.value, own_speed * BLOCK_S, users, rng)
    snr = 10 ** ((REFERENCE_SNR_DB - loss_db + shadow_db) / 10)
    reference = np.log2(1 + 10 ** (REFERENCE_SNR_DB / 10))
    rate = np.maximum(np.log2(1 + snr) / reference, FLOOR)
    cell = np.floor(x / spacing).astype(np.int64)
    # a handover interrupts the link from the moment a boundary is crossed
    since = (x % spacing) / np.maximum(own_speed, 1e-9)
    outage = np.clip((mobility.handover_ms.value / 1e3 - (since - BLOCK_S / 2)) / BLOCK_S, 0.0, 1.0)
    outage = np.where(cell > np.floor(start / spacing), outage, 0.0)
    return rate * (1 - outage), cell


def _shadowing(sigma_db: float, step_m: Array, users: int, rng: np.random.Generator) -> Array:
    """Autoregressive shadowing (users, BLOCKS) in dB, correlation exp(-distance / DECORRELATION_M)."""
    from scipy.signal import lfilter

    keep = np.exp(-step_m / DECORRELATION_M)  # (users, 1)
    noise = rng.standard_normal((users, BLOCKS))
    before = rng.standard_normal(users)  # the state just before the trace, so that it starts stationary
    shadow = np.empty_like(noise)
    for user in range(users):
        a = float(keep[user, 0])
        shadow[user], _ = lfilter([np.sqrt(1 - a * a)], [1.0, -a], noise[user], zi=[a * before[user]])
    return sigma_db * shadow


def _replanned(plan: Reconfiguration, users: int, rng: np.random.Generator) -> Array:
    """A new rate in every period, and an outage at its start that loses `burst_loss` of the packets."""
    period = max(1, round(plan.period_s.value / BLOCK_S))
    count = -(-BLOCKS // period)
    level = np.exp(SATELLITE_SIGMA * rng.standard_normal((1, count)) - SATELLITE_SIGMA**2 / 2)
    rate = np.repeat(level, period, axis=1)[:, :BLOCKS]
    phase = (np.arange(BLOCKS) % period) * BLOCK_S
    covered = np.clip((plan.outage_ms.value / 1e3 - phase) / BLOCK_S, 0.0, 1.0)
    return np.repeat(rate * (1 - plan.burst_loss.value * covered), users, axis=0)

"""Many runs advanced at once, request by request, by the recursion of first-come-first-served queues.

    start = max(ready, free of every host),    finish = start + load + slowdown * service     (Lindley, 1952)

The `Ledger` keeps what a dispatcher keeps: until when each station is booked, which experts lie in its memory,
what was reported last. The event simulator uses one of batch size 1 for what policies may see; training uses
a hundred at once as a fast environment; the clairvoyant policy branches it. It agrees with the event
simulator where requests reach a station in the order in which they were decided and no station dies.

Who knows what: a provider sees its own stations as they are, others as they were at the last report (once in
`report_period_s`), and remembers what it sent them since. Nobody sees future channels, faults or requests.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moe_pipeline.edge.simulation_channel import Channel
from moe_pipeline.edge.simulation_model import Deployment
from moe_pipeline.edge.simulation_traffic import Traffic

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

# The utility of one answer, our own design: 1 for a whole object, less for time, energy and lateness.
TIME_WEIGHT, MISS_WEIGHT, ENERGY_WEIGHT = 0.5, 1.0, 0.1
LATEST = 3.0  # latencies count up to this many deadlines
NOTHING_CAME = -TIME_WEIGHT * LATEST - MISS_WEIGHT  # utility of a request that was given up
RETRY_FACTOR = 1.5  # a request whose host dies takes this many idle answers more (batch model only)


def utility(deployment: Deployment, latency_s: Array, energy_j: Array, quality: Array) -> Array:
    """quality - 0.5 min(latency / D, 3) - [latency > D] - 0.1 energy / mean energy."""
    relative = np.minimum(latency_s / deployment.deadline_s, LATEST)
    energy = energy_j / max(deployment.mean_energy_j, 1e-12)
    return quality - TIME_WEIGHT * relative - MISS_WEIGHT * (relative > 1.0) - ENERGY_WEIGHT * energy


@dataclass(frozen=True)
class Observation:
    """What the agent of a request's provider sees. Times in seconds.

    Attributes:
        mask: (B, O) may be chosen: no host of it is reported dead.
        latency: (B, O) estimated from what is known; wait: (B, O) the part of it in queues; energy: (B, O) joules.
        utility: (B, O) of the estimate.
        features: (B, O, F); context: (B, C), both scaled to about 1; None if they were not asked for.
    """

    mask: Mask
    latency: Array
    wait: Array
    energy: Array
    utility: Array
    features: Array | None = None
    context: Array | None = None


@dataclass(frozen=True)
class Booking:
    """What a decision reserves, (B,) each: when its host may begin, loads, works and is free again."""

    ready: Array
    start: Array
    load_s: Array
    service_s: Array  # without load and slowdown
    finish: Array
    first: Index
    second: Index  # the same as first where there is one host


@dataclass(frozen=True)
class Outcome:
    """What a decision led to, (B,) each."""

    latency: Array
    energy: Array
    utility: Array
    wait: Array
    missed: Mask
    lost_host: Mask


FEATURES = 19
CONTEXT = 14


class Ledger:
    """State of B runs. `source[b]` is the row of the traffic that run b follows."""

    def __init__(self, deployment: Deployment, channel: Channel, traffic: Traffic) -> None:
        self.d, self.channel, self.traffic = deployment, channel, traffic
        batch, stations = traffic.t.shape[0], deployment.local
        self.source = np.arange(batch)
        self.free = np.zeros((batch, stations))
        self.free_local = np.zeros((batch, deployment.users))
        resident = deployment.stored[:stations] & (
            np.arange(deployment.experts) < deployment.slots[:stations, None]
        )
        self.resident = np.repeat(resident[None], batch, axis=0)
        self.stored = np.repeat(deployment.stored[None, :stations], batch, axis=0)
        self.used = np.full((batch, stations, deployment.experts), -1.0)
        self.reported_free = np.zeros((batch, stations))
        self.reported_down = np.zeros((batch, stations), dtype=bool)
        self.reported_slow = np.ones((batch, stations))
        self.sent = np.zeros((batch, len(deployment.homes), stations))  # seconds sent since the last report
        self.tick = np.full(batch, -1.0)
        self.last_t = np.zeros(batch)
        self.gap = np.full(batch, np.inf)  # smoothed time between requests
        self._owns = np.array([[p == h for p in deployment.providers[:stations]] for h in deployment.homes])
        self._deaths = bool(np.isfinite(traffic.down).any())
        self._slowdowns = bool(np.isfinite(traffic.slow).any())
        self._slow_factor = deployment.faults.slowdown_factor.value if deployment.faults is not None else 1.0

    _STATE = (
        "source",
        "free",
        "free_local",
        "resident",
        "stored",
        "used",
        "reported_free",
        "reported_down",
        "reported_slow",
        "sent",
        "tick",
        "last_t",
        "gap",
    )

    @property
    def batch(self) -> int:
        return len(self.source)

    def arrival(self, request: int) -> Array:
        """(B,) when a request arrives in each run."""
        return self.traffic.t[self.source, request]

    def branch(self, rows: Index) -> Ledger:
        """A new ledger whose run b is a copy of run rows[b] of this one."""
        other = object.__new__(Ledger)
        other.__dict__.update(self.__dict__)
        for name in self._STATE:
            setattr(other, name, getattr(self, name)[rows].copy())
        return other

    # ── time ────────────────────────────────────────────────────────────────────────────────────────────
    def dead_until(self, t: Array) -> Array:
        """(B, n) end of the dead interval that covers t, 0 where the station is alive."""
        if not self._deaths:
            return np.zeros((self.batch, self.d.local))
        down = self.traffic.down[self.source]
        at = t[:, None, None]
        return np.where((down[..., 0] <= at) & (at < down[..., 1]), down[..., 1], 0.0).max(axis=2)

    def slowdown(self, t: Array) -> Array:
        """(B, n) factor by which services that start at t are stretched; t is (B,) or (B, n)."""
        if not self._slowdowns:
            return np.ones((self.batch, self.d.local))
        slow = self.traffic.slow[self.source]
        at = t.reshape(self.batch, -1, 1)
        covered = ((slow[..., 0] <= at) & (at < slow[..., 1])).any(axis=2)
        return np.where(covered, self._slow_factor, 1.0)

    def advance(self, t: Array) -> None:
        """Moves every run to its time t: stations die and return, reports arrive."""
        if self.batch == 1 and t[0] == self.last_t[0] and self.tick[0] >= 0:
            return
        if self._deaths:
            self._bury(t)
        tick = np.floor(t / self.d.report_period_s)
        fresh = tick > self.tick
        if fresh.any():
            rows = fresh[:, None]
            at = tick * self.d.report_period_s
            self.reported_free = np.where(rows, self.free, self.reported_free)
            self.reported_down = np.where(rows, self.dead_until(at) > 0, self.reported_down)
            self.reported_slow = np.where(rows, self.slowdown(at), self.reported_slow)
            self.sent[fresh] = 0.0
            self.tick = np.where(fresh, tick, self.tick)
        gap = t - self.last_t
        self.gap = np.where(np.isinf(self.gap), gap, 0.9 * self.gap + 0.1 * gap)
        self.last_t = t

    def _bury(self, t: Array) -> None:
        """Stations that died since the last time lose their queue and what lay in their memory."""
        down = self.traffic.down[self.source]
        begun, now = down[..., 0], t[:, None, None]
        died = ((begun > self.last_t[:, None, None]) | (self.tick[:, None, None] < 0)) & (begun <= now)
        if died.any():
            until = np.where(died, down[..., 1], 0.0).max(axis=2)
            hit: Mask = np.any(died, axis=2)
            self.free = np.where(hit, until, self.free)
            self.resident &= ~hit[..., None]

    # ── what one request meets ──────────────────────────────────────────────────────────────────────────
    def _row(self, request: int, link: Index) -> Index:
        """Trace rows of access links (B, ...) of the users of a request."""
        links = max(1, len(self.d.access))
        user = self.traffic.user[self.source, request]
        base = self.traffic.trace_user[self.source, user] * links
        return base.reshape((-1,) + (1,) * (link.ndim - 1)) + np.maximum(link, 0)

    def _offset(self, request: int) -> Array:
        user = self.traffic.user[self.source, request]
        return self.traffic.offset[self.source, user]

    def attachment(self, request: int, t: Array) -> Index:
        """(B,) which access point serves the user at t."""
        points = self.d.access_of.shape[0]
        if points == 1:
            return np.zeros(self.batch, dtype=np.int64)
        link = np.full(self.batch, self.d.access_of.max(axis=1)[0])
        return self.channel.serving(self._row(request, link), t + self._offset(request)) % points

    def arrival_at_host(self, request: int, option: Index, t: Array) -> Array:
        """(B,) when the conditioning of a request decided at t has reached its host(s)."""
        a = self.attachment(request, t)
        row = self._row(request, self.d.access_of[a, option])
        shift = self._offset(request)
        sent = self.channel.finish(row, t + self.d.text_s + shift, self.d.up_work_s[a, option]) - shift
        jitter = self.traffic.jitter[self.source, request, 0] * self.d.up_jitter_s[a, option]
        return sent + self.d.up_delay_s[a, option] + jitter

    def delivered(self, request: int, option: Index, t: Array) -> Array:
        """(B,) when a result that is ready at t has reached the user."""
        a = self.attachment(request, t)
        row = self._row(request, self.d.access_of[a, option])
        shift = self._offset(request)
        work = self.d.down_work_s[a, option] * self.traffic.size[self.source, request]
        sent = self.channel.finish(row, t + shift, work) - shift
        jitter = self.traffic.jitter[self.source, request, 1] * self.d.down_jitter_s[a, option]
        return sent + self.d.down_delay_s[a, option] + jitter

    def energy(self, request: int, option: Index) -> Array:
        """(B,) joules of a request: text, hosts, radio."""
        steps = self.traffic.steps[self.source, request]
        return (
            self.d.text_j + steps * self.d.step_j[option] + self.d.fixed_j[option] + self.d.radio_j[0, option]
        )

    def _misses(self, request: int) -> Array:
        """(B, n + 1, 2) seconds to bring each of the two experts into memory of each station."""
        b = np.arange(self.batch)[:, None]
        pair = self.traffic.pair[self.source, request]  # (B, 2)
        resident = self.resident[b, :, pair].transpose(0, 2, 1)  # (B, n, 2)
        stored = self.stored[b, :, pair].transpose(0, 2, 1)
        n = self.d.local
        cost = np.where(stored, 0.0, self.d.fetch_s[:n, None]) + self.d.load_s[:n, None]
        shared = np.where(resident, 0.0, cost)
        # the user's device holds all experts or reads the two it needs each time
        own = 0.0 if self.d.slots[n] >= self.d.experts else self.d.load_s[n]
        return np.concatenate([shared, np.full((self.batch, 1, 2), own)], axis=1)

    def loads(self, request: int) -> Array:
        """(B, O) seconds of loading that each option would cause: two hosts load side by side."""
        miss = self._misses(request)
        split = self.d.secondary >= 0
        first = miss[:, self.d.primary]  # (B, O, 2)
        second = miss[:, np.maximum(self.d.secondary, 0)]
        return np.where(split, np.maximum(first[..., 0], second[..., 1]), first.sum(axis=2))

    # ── deciding ────────────────────────────────────────────────────────────────────────────────────────
    def booked(self, request: int) -> Array:
        """(B, n + 1) until when each station is truly booked, the acting user's device last."""
        user = self.traffic.user[self.source, request]
        own = self.free_local[np.arange(self.batch), user]
        return np.concatenate([self.free, own[:, None]], axis=1)

    def _known(self, request: int, t: Array) -> tuple[Array, Mask, Array]:
        """(B, n + 1) booked-until, dead, slowdown as the acting provider knows them."""
        b, home = np.arange(self.batch), self.traffic.home[self.source, request]
        mine = self._owns[home]  # (B, n)
        believed = np.maximum(self.reported_free, t[:, None]) + self.sent[b, home]
        free = np.where(mine, self.free, believed)
        dead = np.where(mine, self.dead_until(t) > 0, self.reported_down)
        slow = np.where(mine, self.slowdown(t), self.reported_slow)
        one, user = np.ones((self.batch, 1)), self.traffic.user[self.source, request]
        return (
            np.concatenate([free, self.free_local[b, user][:, None]], axis=1),
            np.concatenate([dead, np.zeros((self.batch, 1), dtype=bool)], axis=1),
            np.concatenate([slow, one], axis=1),
        )

    def observe(self, request: int, t: Array, features: bool = False) -> Observation:
        """What the request's provider sees at t (after `advance(t)`)."""
        d = self.d
        free, dead, slow = self._known(request, t)
        first, second = d.primary, np.where(d.secondary >= 0, d.secondary, d.primary)
        a = self.attachment(request, t)
        link = d.access_of[a]  # (B, O)
        row, at = self._row(request, link), (t + self._offset(request))[:, None] + np.zeros(link.shape)
        rate = np.where(link >= 0, np.maximum(self.channel.now(row, at), 0.02), 1.0)
        steps = self.traffic.steps[self.source, request][:, None]
        size = self.traffic.size[self.source, request][:, None]
        up = d.text_s + d.up_work_s[a] / rate + d.up_delay_s[a] + d.up_jitter_s[a] / 2
        wait = np.maximum(np.maximum(free[:, first], free[:, second]) - (t[:, None] + up), 0.0)
        load = self.loads(request)
        stretch = np.maximum(slow[:, first], slow[:, second])
        service = (steps * d.step_s + d.fixed_s) * stretch
        down = size * d.down_work_s[a] / rate + d.down_delay_s[a] + d.down_jitter_s[a] / 2
        latency = up + wait + load + service + down
        energy = d.text_j + steps * d.step_j + d.fixed_j + d.radio_j[a]
        value = utility(d, latency, energy, d.quality)
        mask = ~(dead[:, first] | dead[:, second])
        mask |= ~mask.any(axis=1, keepdims=True)  # everything is dead: any choice, it will be tried again
        if not features:
            return Observation(mask, latency, wait, energy, value)
        handover = np.where(link >= 0, self.channel.until_handover(row, at, d.deadline_s), d.deadline_s)
        home = self.traffic.home[self.source, request]
        owns = np.concatenate([self._owns[home], np.zeros((self.batch, 1), dtype=bool)], axis=1)
        limit = d.deadline_s
        best = np.where(mask, value, -np.inf).max(axis=1, keepdims=True)
        full = np.ones_like(latency)
        columns = (
            up / limit,
            np.minimum(wait / limit, 5.0),
            load / limit,
            service / limit,
            down / limit,
            np.minimum(latency / limit, 5.0),
            energy / max(d.mean_energy_j, 1e-12) - 1.0,
            d.quality * full,
            owns[:, first] * full,
            (first == d.local) * full,
            (d.secondary >= 0) * full,
            stretch - 1.0,
            rate,
            handover / limit,
            np.clip(value, -3.0, 1.0),
            np.maximum(value - best, -3.0),
            (value >= best - 1e-9) * full,
            (latency > limit) * full,
            np.clip(latency / limit - 1.0, 0.0, LATEST - 1.0),
        )
        return Observation(
            mask,
            latency,
            wait,
            energy,
            value,
            np.stack(columns, axis=2),
            self._context(request, t, mask, value, wait, latency, stretch, rate, best),
        )

    def _context(
        self,
        request: int,
        t: Array,
        mask: Mask,
        value: Array,
        wait: Array,
        latency: Array,
        stretch: Array,
        rate: Array,
        best: Array,
    ) -> Array:
        d, limit = self.d, self.d.deadline_s
        live = np.maximum(mask.sum(axis=1), 1)
        age = t / d.report_period_s - self.tick
        demand = 1.0 / (np.maximum(self.gap, 1e-6) * d.capacity_per_s)
        ordered = np.sort(np.where(mask, value, -3.0), axis=1)
        second = ordered[:, -2] if ordered.shape[1] > 1 else ordered[:, -1]
        columns = (
            age,
            np.log(self.traffic.size[self.source, request]),
            self.traffic.steps[self.source, request] / d.mean_steps - 1.0,
            np.clip(best[:, 0], -3.0, 1.0),
            np.clip(best[:, 0] - second, 0.0, 3.0),
            np.minimum((wait * mask).sum(axis=1) / live / limit, 5.0),
            np.minimum(np.where(mask, wait, np.inf).min(axis=1) / limit, 5.0),
            1.0 - live / mask.shape[1],
            (stretch * mask).sum(axis=1) / live - 1.0,
            rate.mean(axis=1),
            rate.max(axis=1),
            np.minimum(demand, 3.0),
            np.minimum(np.where(mask, latency, np.inf).min(axis=1) / limit, LATEST),
            ((latency > limit) & mask).sum(axis=1) / live,
        )
        return np.stack(columns, axis=1)

    def plan(self, request: int, option: Index, t: Array) -> Booking:
        """What a decision at t would reserve."""
        d, b = self.d, np.arange(self.batch)
        ready = self.arrival_at_host(request, option, t)
        free = self.booked(request)
        first = d.primary[option]
        second = np.where(d.secondary[option] >= 0, d.secondary[option], first)
        start = np.maximum(ready, np.maximum(free[b, first], free[b, second]))
        factor = np.concatenate([self.slowdown(start), np.ones((self.batch, 1))], axis=1)
        load = self.loads(request)[b, option]
        service = self.traffic.steps[self.source, request] * d.step_s[option] + d.fixed_s[option]
        finish = start + load + service * np.maximum(factor[b, first], factor[b, second])
        return Booking(ready, start, load, service, finish, first, second)

    def settle(self, request: int, option: Index, t: Array, booking: Booking) -> Outcome:
        """The true outcome of a decision, by full knowledge of channels and faults."""
        d = self.d
        latency = self.delivered(request, option, booking.finish) - t
        died = self._first_death(t, booking.finish, booking.first, booking.second)
        again = died - t + d.detect_s + RETRY_FACTOR * float(d.idle_s.min())
        lost = np.isfinite(died)
        latency = np.where(lost, again, latency)
        energy = self.energy(request, option)
        value = utility(d, latency, energy, d.quality[option])
        wait = booking.start - booking.ready
        return Outcome(latency, energy, value, wait, latency > d.deadline_s, lost)

    def _first_death(self, t: Array, finish: Array, first: Index, second: Index) -> Array:
        """(B,) when a host of the option is found dead between t and finish; infinity if never."""
        found = np.full(self.batch, np.inf)
        if not self._deaths:  # also where nobody shares a host: a user alone with the own device
            return found
        for station in (first, second):
            shared = station < self.d.local
            down = self.traffic.down[self.source, np.minimum(station, self.d.local - 1)]  # (B, K, 2)
            begun, ended = down[..., 0], down[..., 1]
            hit = (begun < finish[:, None]) & (ended > t[:, None])
            when = np.where(hit, np.maximum(begun, t[:, None]), np.inf).min(axis=1)
            found = np.where(shared, np.minimum(found, when), found)
        return found

    def commit(self, request: int, option: Index, t: Array) -> Outcome:
        """Takes the decisions (B,) and says what comes of them."""
        booking = self.book(request, option, t)
        return self.settle(request, option, t, booking)

    def book(self, request: int, option: Index, t: Array) -> Booking:
        """Takes the decisions (B,): hosts are booked, experts brought into memory."""
        booking = self.plan(request, option, t)
        d = self.d
        first, second, finish = booking.first, d.secondary[option], booking.finish
        dead = self.dead_until(t) > 0
        home, user = self.traffic.home[self.source, request], self.traffic.user[self.source, request]
        pair = self.traffic.pair[self.source, request]
        at_home = first == d.local
        if at_home.any():
            self.free_local[np.flatnonzero(at_home), user[at_home]] = finish[at_home]
        for station, whole in ((first, second < 0), (second, None)):
            rows = np.flatnonzero((station >= 0) & (station < d.local))
            if not len(rows):
                continue
            where = station[rows]
            booked = np.where(dead[rows, where], self.free[rows, where], finish[rows])
            self.free[rows, where] = np.maximum(self.free[rows, where], booked)
            self.sent[rows, home[rows], where] += booking.load_s[rows] + booking.service_s[rows]
            if whole is None:  # the second host of a split runs the second expert
                self._bring(rows, where, pair[rows, 1], t[rows])
                continue
            self._bring(rows, where, pair[rows, 0], t[rows])
            both = whole[rows]
            self._bring(rows[both], where[both], pair[rows[both], 1], t[rows[both]] + 1e-6)  # used last
        return booking

    def _bring(self, rows: Index, station: Index, expert: Index, t: Array) -> None:
        """Experts into memory; the least recently used one leaves where the memory is full."""
        if not len(rows):
            return
        self.resident[rows, station, expert] = True
        self.stored[rows, station, expert] = True
        self.used[rows, station, expert] = t
        count = self.resident[rows, station].sum(axis=1)
        over = count > np.maximum(self.d.slots[station], 1)
        if over.any():
            r, s = rows[over], station[over]
            age = np.where(self.resident[r, s], self.used[r, s], np.inf)
            age[np.arange(len(r)), expert[over]] = np.inf
            self.resident[r, s, age.argmin(axis=1)] = False

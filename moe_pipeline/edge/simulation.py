"""Discrete-event simulation (SimPy) of a deployment under traffic, mobility, faults and a placement policy.

A request travels: text on the user's device, upload, queue of its host (or of both hosts, joined at once),
loading of missing experts, service, download. Queues are first come first served, one request at a time. A
station that dies drops what it runs and what waits there; a dropped request is noticed after `detect_s` and
decided again, at most `ATTEMPTS` times. SimPy adds no randomness and all draws are made before a run, so a
seed fixes every figure.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import simpy

from moe_pipeline.edge.policies import Policy, make_policy
from moe_pipeline.edge.profiles import ProfileLibrary, load_profiles
from moe_pipeline.edge.simulation_batch import NOTHING_CAME, Ledger, utility
from moe_pipeline.edge.simulation_channel import Channel
from moe_pipeline.edge.simulation_model import PAYLOADS, Deployment, compile_scenario
from moe_pipeline.edge.simulation_report import Log, SimulationReport, Spent, summarise, write_report
from moe_pipeline.edge.simulation_traffic import Traffic, channel_for, draw_traffic, read_arrivals
from moe_pipeline.schema.errors import MoEverseError
from moe_pipeline.schema.workload import StageWorkloads

ATTEMPTS = 3
Events = Generator[simpy.Event, Any, None]


class Simulation:
    """One run. With a policy, `run()` goes to the end; without, `next_decision()` stops at each decision."""

    def __init__(
        self, deployment: Deployment, traffic: Traffic, channel: Channel, policy: Policy | None = None
    ) -> None:
        self.deployment, self.traffic, self.policy = deployment, traffic, policy
        self.env = simpy.Environment()
        self.ledger = Ledger(deployment, channel, traffic)
        # queues alone, as theory has them: no ways, nothing to load, nothing to keep books of
        self._bare = not deployment.access and not deployment.load_s.any()
        self.pending: deque[int] = deque()
        self._stations = [simpy.Resource(self.env, capacity=1) for _ in range(deployment.local)]
        self._devices: dict[int, simpy.Resource] = {}
        self._jobs: list[dict[simpy.Process, None]] = [
            {} for _ in range(deployment.local)
        ]  # in order of coming
        self._dead = np.zeros(deployment.local, dtype=bool)
        self._slow = np.ones(deployment.local)
        count = traffic.requests
        self.busy_s = np.zeros(deployment.local + 1)
        self.latency = np.full(count, np.nan)
        self.wait, self.load, self.service = np.zeros(count), np.zeros(count), np.zeros(count)
        self.energy = np.zeros(count)
        self.option, self.attempts = np.full(count, -1), np.zeros(count, dtype=np.int64)
        self.lost, self.handed_over = np.zeros(count, dtype=bool), np.zeros(count, dtype=bool)
        self.finished: deque[int] = deque()
        self.env.process(self._arrivals())
        factor = deployment.faults.slowdown_factor.value if deployment.faults is not None else 1.0
        for station in range(deployment.local):
            for begin, end in traffic.down[0, station]:
                if np.isfinite(begin):
                    self.env.process(self._outage(station, float(begin), float(end)))
            for begin, end in traffic.slow[0, station]:
                if np.isfinite(begin):
                    self.env.process(self._slowdown(station, float(begin), float(end), factor))

    # ── driving ─────────────────────────────────────────────────────────────────────────────────────────
    def run(self) -> Log:
        """Runs to the end under the policy given at construction."""
        if self.policy is None:
            raise ValueError("a run needs a policy; without one, use next_decision and decide")
        remaining = self.traffic.requests
        while remaining:
            self.env.step()
            while self.finished:
                self.finished.popleft()
                remaining -= 1
        return self.log()

    def next_decision(self) -> int | None:
        """Advances to the next request that wants a decision; None when every request has ended."""
        while not self.pending:
            if not np.isnan(self.latency).any():
                return None
            self.env.step()
        return self.pending[0]

    def decide(self, request: int, option: int) -> None:
        """Sends a request on its way."""
        ready, load_s, service_s = self._book(request, option)
        self.attempts[request] += 1
        self.option[request] = option
        self.load[request] = load_s
        if self.pending and self.pending[0] == request:
            self.pending.popleft()
        process = self.env.process(self._job(request, option, ready, load_s, service_s))
        for station in self._hosts(option):
            if station < self.deployment.local:
                self._jobs[station][process] = None

    def _book(self, request: int, option: int) -> tuple[float, float, float]:
        """When the host can begin at the earliest, seconds of loading, seconds of service."""
        if self._bare:
            d = self.deployment
            service_s = float(self.traffic.steps[0, request] * d.step_s[option] + d.fixed_s[option])
            return self.env.now, 0.0, service_s
        now = np.array([self.env.now])
        self.ledger.advance(now)
        booking = self.ledger.book(request, np.array([option]), now)
        return float(booking.ready[0]), float(booking.load_s[0]), float(booking.service_s[0])

    def log(self) -> Log:
        """What happened so far."""
        value = utility(self.deployment, self.latency, self.energy, self.deployment.quality[self.option])
        value = np.where(self.lost, NOTHING_CAME, value)
        return Log(
            self.traffic.t[0],
            self.latency,
            self.wait,
            self.load,
            self.service,
            self.energy,
            value,
            self.option,
            self.attempts,
            self.traffic.user[0],
            self.traffic.home[0],
            self.lost,
            self.handed_over,
            self.busy_s,
            float(self.env.now),
        )

    # ── processes ───────────────────────────────────────────────────────────────────────────────────────
    def _arrivals(self) -> Events:
        for request, at in enumerate(self.traffic.t[0]):
            yield self.env.timeout(max(0.0, float(at) - self.env.now))
            self._ask(request)

    def _ask(self, request: int) -> None:
        """A decision by the policy now, or by whoever drives the simulation."""
        if self.policy is None:
            self.pending.append(request)
            return
        now = np.array([self.env.now])
        if not self._bare:
            self.ledger.advance(now)
        self.decide(request, self.policy.choose(self.ledger, request, now))

    def _job(self, request: int, option: int, ready: float, load_s: float, service_s: float) -> Events:
        hosts = self._hosts(option)
        claims: list[Any] = []
        held_since: float | None = None
        try:
            unit = self._unit(request)
            yield self.env.timeout(max(0.0, ready - self.env.now))
            if any(h < self.deployment.local and self._dead[h] for h in hosts):
                raise simpy.Interrupt("dead")
            claims = [self._resource(request, h).request() for h in hosts]
            yield from claims
            held_since = self.env.now
            self.wait[request] += self.env.now - ready
            stretch = max(self._slow[h] if h < self.deployment.local else 1.0 for h in hosts)
            self.service[request] = service_s * stretch
            yield self.env.timeout(load_s + service_s * stretch)
        except simpy.Interrupt:
            self._leave(request, option, hosts, claims, held_since)
            yield from self._again(request)
            return
        self._leave(request, option, hosts, claims, held_since)
        self.handed_over[request] = self._unit(request) != unit
        if not self._bare:
            now = np.array([self.env.now])
            arrived = float(self.ledger.delivered(request, np.array([option]), now)[0])
            yield self.env.timeout(max(0.0, arrived - self.env.now))
        self._finish(request)

    def _unit(self, request: int) -> int:
        """The access point that serves the request's user now."""
        if self.deployment.access_of.shape[0] == 1:
            return 0
        return int(self.ledger.attachment(request, np.array([self.env.now]))[0])

    def _again(self, request: int) -> Events:
        """The host died: noticed after a while, then decided again or given up."""
        yield self.env.timeout(self.deployment.detect_s)
        if self.attempts[request] >= ATTEMPTS:
            self.lost[request] = True
            self._finish(request)
        else:
            self._ask(request)

    def _finish(self, request: int) -> None:
        self.latency[request] = self.env.now - self.traffic.t[0, request]
        self.finished.append(request)

    def _leave(
        self, request: int, option: int, hosts: Sequence[int], claims: list[Any], held_since: float | None
    ) -> None:
        """Gives the hosts back and books time and energy for the share of the work that was done."""
        for host, claim in zip(hosts, claims, strict=False):
            if claim.triggered:
                self._resource(request, host).release(claim)
            else:
                claim.cancel()
        me = self.env.active_process
        for host in hosts:
            if host < self.deployment.local and me is not None:
                self._jobs[host].pop(me, None)
        if held_since is None:
            return  # it never began
        held = self.env.now - held_since
        for host in hosts:
            self.busy_s[host] += held
        if self._bare:
            return
        whole = self.load[request] + self.service[request]
        share = min(1.0, held / whole) if whole > 0 else 1.0
        self.energy[request] += share * float(self.ledger.energy(request, np.array([option]))[0])

    def _outage(self, station: int, begin: float, end: float) -> Events:
        yield self.env.timeout(begin)
        self._dead[station] = True
        for job in list(self._jobs[station]):
            if job.is_alive and job is not self.env.active_process:
                job.interrupt("dead")
        yield self.env.timeout(max(0.0, end - begin))
        self._dead[station] = False

    def _slowdown(self, station: int, begin: float, end: float, factor: float) -> Events:
        yield self.env.timeout(begin)
        self._slow[station] = factor
        yield self.env.timeout(max(0.0, end - begin))
        self._slow[station] = 1.0

    def _hosts(self, option: int) -> list[int]:
        chosen = self.deployment.options[option]
        return [chosen.primary] if chosen.secondary is None else [chosen.primary, chosen.secondary]

    def _resource(self, request: int, station: int) -> simpy.Resource:
        """A station's queue, or that of the user's own device."""
        if station < self.deployment.local:
            return self._stations[station]
        user = int(self.traffic.user[0, request])
        if user not in self._devices:
            self._devices[user] = simpy.Resource(self.env, capacity=1)
        return self._devices[user]


def run_policy(
    deployment: Deployment, traffic: Traffic, channel: Channel, policy: Policy
) -> tuple[Log, Spent]:
    """One run, and the wall and processor seconds it took: those of the thread that runs it, whatever else does."""
    wall, cpu = time.perf_counter(), time.thread_time()
    log = Simulation(deployment, traffic, channel, policy).run()
    return log, Spent(time.perf_counter() - wall, time.thread_time() - cpu)


def simulate(
    scenario_id: str,
    policy: str,
    *,
    requests: int = 2000,
    seed: int = 0,
    out: Path | None = None,
    load: float | None = None,
    trace: Path | None = None,
    workloads: StageWorkloads | None = None,
    profiles: ProfileLibrary | None = None,
) -> SimulationReport:
    """Simulates a scenario under a policy.

    Args:
        scenario_id: a file in `edge_profiles/scenarios/`.
        policy: one of `policies.POLICIES`.
        requests: how many requests to follow to their end.
        seed: fixes traffic, channels and faults; the same seed meets every policy with the same run.
        out: folder for report.json, requests.csv (and .parquet where pyarrow is there) and plots.
        load: offered load as a share of what the shared hosts can serve; None: the scenario's own rate.
        trace: recorded arrival times (CSV of seconds) instead of Poisson arrivals.

    Raises:
        MoEverseError: `unknown_scenario`, `unknown_policy`, `no_host`, `no_cloud`, `no_local`,
            `bad_requests`, `bad_load`, `bad_trace`.
    """
    library = profiles if profiles is not None else load_profiles()
    deployment = deployment_of(scenario_id, library, workloads)
    rate = offered_rate(deployment, load)
    recorded = trace_of(deployment, library, trace)
    traffic = draw_traffic(deployment, requests, [seed], rate_per_s=rate, arrivals=recorded)
    channel = channel_for(deployment, seed)
    chosen = make_policy(policy, deployment, seed)
    log, spent = run_policy(deployment, traffic, channel, chosen)
    report = summarise(deployment, policy, seed, log, spent, traced=recorded is not None)
    if out is not None:
        report = write_report(Path(out), report, deployment, log)
    return report


def deployment_of(
    scenario_id: str, library: ProfileLibrary, workloads: StageWorkloads | None = None
) -> Deployment:
    """A scenario of the library, compiled with the workloads of the project's default real pack."""
    from moe_pipeline.edge.simulation_workload import reference_workloads

    scenario = library.scenario(scenario_id)
    work = workloads if workloads is not None else reference_workloads()
    return compile_scenario(scenario, library, work, PAYLOADS.get(scenario_id))


def offered_rate(deployment: Deployment, load: float | None) -> float:
    """Requests a second: the scenario's, or a share of the capacity."""
    if load is None:
        return deployment.rate_per_s
    if not 0 < load <= 5:
        raise MoEverseError(
            "bad_load",
            f"A load of {load} is not possible.",
            "Give the share of the capacity that is asked for, above 0 and at most 5.",
        )
    return load * deployment.capacity_per_s


def trace_of(
    deployment: Deployment, library: ProfileLibrary, trace: Path | None
) -> npt.NDArray[np.float64] | None:
    """Recorded arrivals: the given file, or the one that the scenario names inside the profile folder."""
    if trace is not None:
        return read_arrivals(Path(trace))
    if deployment.trace is None:
        return None
    folder = (library.folder or Path(".")).resolve()
    path = (folder / deployment.trace).resolve()
    if not path.is_relative_to(folder):
        raise MoEverseError(
            "bad_trace",
            f"The trace '{deployment.trace}' lies outside of the profile folder.",
            "Put the file into edge_profiles/traces/.",
        )
    return read_arrivals(path)

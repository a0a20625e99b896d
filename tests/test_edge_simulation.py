"""The event simulator: queueing theory, its batch form, channels, faults, caching, reports and refusals."""

from __future__ import annotations

import csv
import json
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from moe_pipeline.edge.policies import POLICIES, Fixed, best_sequence, make_policy
from moe_pipeline.edge.profiles import load_profiles
from moe_pipeline.edge.simulation import Simulation, deployment_of, offered_rate, run_policy, simulate
from moe_pipeline.edge.simulation_batch import Ledger
from moe_pipeline.edge.simulation_channel import BLOCK_S, PERIOD_S, draw_channel
from moe_pipeline.edge.simulation_model import Deployment, single_station
from moe_pipeline.edge.simulation_report import compared, interval, jain
from moe_pipeline.edge.simulation_traffic import channel_for, draw_traffic, read_arrivals
from moe_pipeline.schema.errors import MoEverseError


@pytest.fixture(scope="module")
def transfer() -> Deployment:
    return deployment_of("object-transfer", load_profiles())


def waits(deployment: Deployment, requests: int, seeds: list[int]) -> list[float]:
    found = []
    for seed in seeds:
        traffic = draw_traffic(deployment, requests, [seed])
        log, _ = run_policy(deployment, traffic, channel_for(deployment, seed), Fixed(deployment, [0]))
        found.append(float(log.wait_s.mean()))
    return found


def lindley(gaps: np.ndarray, services: np.ndarray) -> np.ndarray:
    """Waits of one first-come-first-served server, the textbook recursion (independent of the project's)."""
    wait, found = 0.0, []
    for gap, service in zip(gaps, [0.0, *services[:-1]], strict=True):
        wait = max(0.0, wait + service - gap)
        found.append(wait)
    return np.array(found)


@pytest.mark.parametrize("law", ["exponential", "constant"])
def test_a_single_server_queues_exactly_as_lindley_says(law: str) -> None:
    deployment = single_station(2.0, 0.3, law)
    traffic = draw_traffic(deployment, 1500, [5])
    log, _ = run_policy(deployment, traffic, channel_for(deployment, 5), Fixed(deployment, [0]))
    expected = lindley(np.diff(traffic.t[0], prepend=0.0), 2.0 * traffic.steps[0])
    np.testing.assert_allclose(log.wait_s, expected, atol=1e-9)
    assert log.busy_s[0] == pytest.approx(2.0 * traffic.steps[0].sum())


@pytest.mark.parametrize(("law", "factor"), [("exponential", 1.0), ("constant", 0.5)])
def test_the_drawn_traffic_of_one_server_has_the_closed_form_mean_wait(law: str, factor: float) -> None:
    # With the test above: the simulator's mean wait follows theory. Half a million requests, rho = 0.6.
    deployment = single_station(1.0, 0.6, law)
    traffic = draw_traffic(deployment, 500_000, [2])
    mean = lindley(np.diff(traffic.t[0], prepend=0.0), traffic.steps[0]).mean()
    assert mean == pytest.approx(factor * 0.6 / (1 - 0.6), rel=0.03)


@pytest.mark.slow
@pytest.mark.parametrize(("law", "factor"), [("exponential", 1.0), ("constant", 0.5)])
def test_the_simulator_itself_gives_the_closed_form_mean_wait(law: str, factor: float) -> None:
    deployment = single_station(1.0, 0.5, law)
    mean = np.mean(waits(deployment, 20_000, list(range(8))))
    assert mean == pytest.approx(factor * 0.5 / (1 - 0.5), rel=0.03)


def test_the_batch_form_predicts_the_event_simulator(transfer: Deployment) -> None:
    quiet = replace(transfer, faults=None, joins_late=np.zeros_like(transfer.joins_late))
    traffic = draw_traffic(quiet, 300, [4], rate_per_s=0.5 * quiet.capacity_per_s)
    channel = channel_for(quiet, 4)
    log, _ = run_policy(quiet, traffic, channel, make_policy("greedy", quiet))
    ledger = Ledger(quiet, channel, traffic)
    predicted = []
    for request in range(300):
        t = ledger.arrival(request)
        ledger.advance(t)
        predicted.append(float(ledger.commit(request, log.option[request : request + 1], t).latency[0]))
    # Requests that overtake one another while travelling are the only difference.
    assert np.mean(np.abs(np.array(predicted) - log.latency_s) < 1e-6) > 0.8
    assert np.mean(predicted) == pytest.approx(log.latency_s.mean(), rel=0.02)


def test_a_seed_fixes_a_run_and_another_seed_changes_it(transfer: Deployment) -> None:
    a = simulate("vehicle-convoy", "greedy", requests=150, seed=3)
    b = simulate("vehicle-convoy", "greedy", requests=150, seed=3)
    c = simulate("vehicle-convoy", "greedy", requests=150, seed=4)
    timed = {"wall_s", "requests_per_wall_s", "cpu_s", "requests_per_cpu_s"}
    assert a.model_dump(exclude=timed) == b.model_dump(exclude=timed)
    assert a.mean_ms != c.mean_ms


def test_policies_meet_the_same_requests(transfer: Deployment) -> None:
    logs = []
    for name in ("greedy", "random", "cloud-only"):
        traffic = draw_traffic(transfer, 100, [9])
        log, _ = run_policy(transfer, traffic, channel_for(transfer, 9), make_policy(name, transfer))
        logs.append(log)
    for log in logs[1:]:
        np.testing.assert_array_equal(log.arrival_s, logs[0].arrival_s)
        np.testing.assert_array_equal(log.user, logs[0].user)


def test_the_clairvoyant_beats_greedy_and_greedy_beats_random(transfer: Deployment) -> None:
    value = {}
    traffic = draw_traffic(transfer, 50, [1], rate_per_s=0.9 * transfer.capacity_per_s)
    for name in ("optimal", "greedy", "random"):
        log, _ = run_policy(transfer, traffic, channel_for(transfer, 1), make_policy(name, transfer))
        value[name] = log.utility.mean()
    assert value["optimal"] > value["greedy"] > value["random"]


@pytest.mark.parametrize("policy", ["greedy", "optimal", "moe-ppo", "local-only"])
def test_a_user_alone_with_the_own_device_is_a_deployment(policy: str) -> None:
    library = load_profiles()
    here = library.device("laptop-rtx-4090").model_copy(update={"id": "this-machine"})
    report = simulate("this-machine", policy, requests=12, load=0.5, profiles=library.with_device(here))
    assert report.lost == 0 and report.stations[-1].requests == 12


def test_the_clairvoyant_window_is_an_exact_enumeration(transfer: Deployment) -> None:
    traffic = draw_traffic(transfer, 3, [2], rate_per_s=3 * transfer.capacity_per_s)
    channel = channel_for(transfer, 2)
    options = len(transfer.options)
    best, total = best_sequence(Ledger(transfer, channel, traffic), 0, traffic.t[:, 0], states=options**3)
    sums = {}
    for code in range(options**3):
        ledger, value = Ledger(transfer, channel, traffic), 0.0
        choice = (code // options**2, code // options % options, code % options)
        if choice[0] not in (best[0], 0, 3):
            continue  # a third of the tree is enough to see a mistake
        for request, option in enumerate(choice):
            t = ledger.arrival(request)
            ledger.advance(t)
            value += float(ledger.commit(request, np.array([option]), t).utility[0])
        sums[choice] = value
    assert total == pytest.approx(max(sums.values()))
    assert sums[tuple(int(x) for x in best)] == pytest.approx(total)


# ── channels ────────────────────────────────────────────────────────────────────────────────────────────
def test_a_transfer_on_a_changing_channel_takes_the_integral_of_its_rate() -> None:
    library = load_profiles()
    mobility = library.scenario("vehicle-convoy").dynamics.mobility  # type: ignore[union-attr]
    channel = draw_channel([library.network("5g-low-band")], mobility, 3, seed=1)
    row, start, work = np.array([2]), np.array([290.0]), np.array([25.0])  # runs over the end of the trace
    end = channel.finish(row, start, work)[0]
    grid = np.arange(290.0, end, 1e-3)
    done = channel.rate[2, ((grid % PERIOD_S) / BLOCK_S).astype(int)].sum() * 1e-3
    assert done == pytest.approx(25.0, rel=1e-3)
    many = channel.finish(np.array([2, 2, 0]), np.array([290.0, 5.0, 7.0]), np.array([25.0, 1.0, 0.0]))
    assert many[0] == pytest.approx(end) and many[2] == 7.0  # the array form agrees with the single one


def test_satellites_are_replanned_every_15_seconds_with_an_outage() -> None:
    channel = draw_channel([load_profiles().network("leo-satellite")], None, 2, seed=0)
    blocks = int(15 / BLOCK_S)
    rate = channel.rate[0]
    assert rate.shape[0] % blocks == 0
    periods = rate.reshape(-1, blocks)
    steady = periods[:, -1]
    assert np.allclose(periods[:, 10:], steady[:, None])  # constant within a plan
    assert len(np.unique(steady.round(9))) == len(steady)  # another rate in each plan
    np.testing.assert_allclose(periods[:, 0], 0.5 * steady)  # half of the packets are lost at its start


def test_vehicles_are_handed_over_and_interrupted() -> None:
    library = load_profiles()
    mobility = library.scenario("vehicle-convoy").dynamics.mobility
    assert mobility is not None
    channel = draw_channel([library.network("5g-low-band")], mobility, 8, seed=3)
    expected = PERIOD_S * mobility.speed_m_per_s.value / mobility.cell_spacing_m.value
    changes = (np.diff(channel.cell, axis=1) > 0).sum(axis=1)
    assert np.abs(changes - expected).max() <= 0.25 * expected + 1
    user, block = (found[0] for found in np.nonzero(np.diff(channel.cell, axis=1)))
    around = channel.rate[user, block + 1 : block + 3]
    assert around.min() < 0.5 * channel.rate[user, block - 5]
    until = channel.until_handover(np.array([user]), np.array([block * BLOCK_S]), 100.0)
    assert until[0] == pytest.approx(BLOCK_S)


# ── faults, caching, joining ────────────────────────────────────────────────────────────────────────────
def forced(deployment: Deployment, option: int, down: tuple[float, float], requests: int = 3) -> Simulation:
    """A run in which the first host of an option dies at a given time, driven by hand."""
    traffic = draw_traffic(deployment, requests, [0], rate_per_s=0.01, faults=False)
    interval_ = np.full((1, deployment.local, 1, 2), np.inf)
    interval_[0, deployment.primary[option], 0] = down
    traffic = replace(traffic, down=interval_)
    return Simulation(deployment, traffic, channel_for(deployment, 0))


def test_a_request_whose_host_dies_is_decided_again(transfer: Deployment) -> None:
    probe = forced(transfer, 0, (1e8, 1e9))
    first = float(probe.traffic.t[0, 0])
    simulation = forced(transfer, 0, (first + 1.5, first + 60))
    request = simulation.next_decision()
    assert request == 0
    simulation.decide(0, 0)
    again = simulation.next_decision()
    assert again == 0 and simulation.env.now == pytest.approx(first + 1.5 + transfer.detect_s)
    seen = simulation.ledger
    now = np.array([simulation.env.now + transfer.report_period_s])
    seen.advance(now)
    assert not seen.observe(0, now).mask[0, 0]  # by the next report everybody knows
    simulation.decide(0, 2)
    while not np.isfinite(simulation.latency[0]):
        simulation.env.step()
    assert simulation.attempts[0] == 2 and not simulation.lost[0]
    assert simulation.latency[0] > 1.5 + transfer.detect_s


def test_a_request_without_a_living_host_is_given_up_and_counted(transfer: Deployment) -> None:
    traffic = draw_traffic(transfer, 4, [0], rate_per_s=0.01, faults=False)
    everybody = np.zeros((1, transfer.local, 1, 2)) + np.array([0.0, 1e9])
    log, _ = run_policy(
        transfer, replace(traffic, down=everybody), channel_for(transfer, 0), make_policy("greedy", transfer)
    )
    assert log.lost.all() and (log.attempts == 3).all() and (log.utility < -0.5).all()


def test_a_slowed_station_takes_longer(transfer: Deployment) -> None:
    assert transfer.faults is not None
    traffic = draw_traffic(transfer, 1, [0], faults=False)
    slow = np.zeros((1, transfer.local, 1, 2)) + np.array([0.0, 1e9])
    times = []
    for drawn in (traffic, replace(traffic, slow=slow)):
        log, _ = run_policy(transfer, drawn, channel_for(transfer, 0), Fixed(transfer, [0]))
        times.append(log.service_s[0])
    assert times[1] == pytest.approx(times[0] * transfer.faults.slowdown_factor.value)


def test_nodes_that_are_not_available_join_in_the_middle(transfer: Deployment) -> None:
    late = replace(transfer, joins_late=np.arange(len(transfer.stations)) == 0, faults=None)
    traffic = draw_traffic(late, 200, [1])
    log, _ = run_policy(late, traffic, channel_for(late, 1), make_policy("random", late, 1))
    on_it = late.primary[log.option] == 0
    joined = traffic.down[0, 0, 0, 1]
    assert 0.3 * traffic.t[0, -1] < joined < 0.5 * traffic.t[0, -1]
    assert on_it.any() and (log.arrival_s[on_it] + log.latency_s[on_it]).min() > joined


def test_experts_are_cached_least_recently_used(transfer: Deployment) -> None:
    """The ledger's cache against a plain ordered dictionary, one station, 200 requests."""
    traffic = draw_traffic(transfer, 200, [7], faults=False)
    ledger = Ledger(transfer, channel_for(transfer, 7), traffic)
    station, slots = int(transfer.primary[0]), int(transfer.slots[transfer.primary[0]])
    cache: OrderedDict[int, None] = OrderedDict.fromkeys(range(slots))
    for expert in range(slots):
        ledger.used[0, station, expert] = -10.0 + expert  # the order in which they lie there at the start
    for request in range(200):
        t = ledger.arrival(request)
        ledger.advance(t)
        pair = [int(e) for e in traffic.pair[0, request]]
        expected = sum(e not in cache for e in pair) * transfer.load_s[station]
        assert ledger.loads(request)[0, 0] == pytest.approx(expected)
        for expert in pair:
            cache[expert] = None
            cache.move_to_end(expert)
            if len(cache) > slots:
                cache.popitem(last=False)
        ledger.commit(request, np.array([0]), t)


# ── reports ─────────────────────────────────────────────────────────────────────────────────────────────
def test_a_report_is_consistent_and_written(tmp_path: Path) -> None:
    report = simulate("campus-mec", "greedy", requests=120, seed=2, out=tmp_path / "run", load=0.5)
    assert report.p50_ms <= report.p95_ms <= report.p99_ms
    assert 0 <= report.miss_share <= 1 and 0 < report.fairness_jain <= 1 + 1e-12
    assert all(0 <= station.utilisation <= 1 + 1e-9 for station in report.stations)
    rows = list(csv.DictReader((tmp_path / "run" / "requests.csv").open()))
    assert len(rows) == 120
    latencies = np.array([float(row["latency_ms"]) for row in rows])
    assert latencies.mean() == pytest.approx(report.mean_ms, abs=1e-2)
    stored = json.loads((tmp_path / "run" / "report.json").read_text())
    assert stored["policy"] == "greedy" and set(report.files) == {
        p.name for p in (tmp_path / "run").iterdir() if p.name != "report.json"
    } | {"report.json"}


def test_requests_a_second_on_one_core_are_at_least_a_thousand() -> None:
    # processor time, so that what else runs on the machine does not count
    report = simulate("object-transfer", "greedy", requests=600, seed=1, load=0.6)
    assert report.requests_per_cpu_s >= 1000


def test_jain_and_interval_have_their_closed_forms() -> None:
    assert jain(np.array([2.0, 2.0, 2.0])) == pytest.approx(1.0)
    assert jain(np.array([1.0, 0.0, 0.0, 0.0])) == pytest.approx(0.25)
    mean, half = interval([1.0, 2.0, 3.0])
    assert mean == pytest.approx(2.0) and half == pytest.approx(4.3027 * 1.0 / 3**0.5, rel=1e-4)


def test_compared_gives_an_interval_for_every_policy() -> None:
    reports = {p: [simulate("xr-room", p, requests=40, seed=s) for s in (0, 1)] for p in ("greedy", "random")}
    table = compared(reports)
    assert table["random"]["mean_ms"][0] >= table["greedy"]["mean_ms"][0]
    assert all(half >= 0 for figures in table.values() for _, half in figures.values())


def test_arrivals_can_be_replayed_from_a_trace(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("time_s\n1.0\n2.5\n2.5\n7.0\n")
    np.testing.assert_array_equal(read_arrivals(path), [1.0, 2.5, 2.5, 7.0])
    report = simulate("xr-room", "greedy", requests=10, seed=0, trace=path)
    assert report.arrivals == "trace"
    assert report.offered_per_s == pytest.approx(9 / (18 + 2.5 - 1.0))  # three laps of 9 s


@pytest.mark.parametrize(
    ("content", "words"),
    [("1.0\nsoon\n", "line 2"), ("5\n3\n", "ascending"), ("1\n", "at least two"), ("2\n2\n", "same time")],
)
def test_a_broken_trace_is_refused_in_one_sentence(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(content)
    with pytest.raises(MoEverseError) as refusal:
        read_arrivals(path)
    assert refusal.value.code == "bad_trace" and words in refusal.value.message


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"scenario_id": "nowhere"}, "unknown_scenario"),
        ({"policy": "magic"}, "unknown_policy"),
        ({"requests": 0}, "bad_requests"),
        ({"load": -1.0}, "bad_load"),
        ({"policy": "local-only"}, "no_local"),
        ({"scenario_id": "xr-room", "policy": "cloud-only"}, "no_cloud"),
    ],
)
def test_bad_input_is_refused_with_a_remedy(arguments: dict[str, object], code: str) -> None:
    call = {"scenario_id": "object-transfer", "policy": "greedy", "requests": 10, "seed": 0, **arguments}
    with pytest.raises(MoEverseError) as refusal:
        simulate(call.pop("scenario_id"), call.pop("policy"), **call)  # type: ignore[arg-type]
    assert refusal.value.code == code and refusal.value.remedy


@pytest.mark.parametrize("scenario", ["rural-satellite", "air-gapped", "phone-cloud", "stadium-crowd"])
def test_every_scenario_runs_under_every_policy_that_it_allows(scenario: str) -> None:
    for policy in POLICIES:
        try:
            report = simulate(scenario, policy, requests=12, seed=1)
        except MoEverseError as refusal:
            assert refusal.code in ("no_local", "no_cloud"), refusal
            continue
        assert report.requests == 12 and np.isfinite(report.mean_ms)


@pytest.mark.parametrize("scenario", sorted(load_profiles().scenarios))
def test_without_a_load_a_scenario_asks_for_less_than_its_hosts_can_serve(scenario: str) -> None:
    if scenario == "this-machine":
        return  # what it can serve is known only where it was measured
    deployment = deployment_of(scenario, load_profiles())
    assert 0.2 < deployment.rate_per_s / deployment.capacity_per_s < 0.8


def test_the_offered_load_is_the_share_of_the_capacity_that_was_asked_for(transfer: Deployment) -> None:
    report = simulate("object-transfer", "greedy", requests=2000, seed=0, load=0.8)
    assert report.offered_load == pytest.approx(0.8, rel=0.08)
    assert offered_rate(transfer, None) == transfer.rate_per_s

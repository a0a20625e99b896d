"""The exact placement equals brute force, respects every constraint, and explains itself."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_pipeline.edge import ProfileLibrary, load_profiles, place
from moe_pipeline.edge.problem import LATENCY, evaluate
from moe_pipeline.edge.solver import solve
from moe_pipeline.schema.errors import MoEverseError
from moe_pipeline.schema.placement import Placement
from moe_pipeline.schema.profiles import EdgeScenario, Link, Node, Quantity
from moe_pipeline.studies.placement_exact import (
    SHAPES,
    brute_force,
    instance,
    large_scenario,
    random_problem,
    sample_workloads,
)

PAIR = ("city", "avatar")
SCENARIOS = (
    "xr-room",
    "campus-mec",
    "stadium-crowd",
    "vehicle-convoy",
    "phone-cloud",
    "rural-satellite",
    "air-gapped",
)


@pytest.fixture(scope="module")
def library() -> ProfileLibrary:
    return load_profiles()


def assume(value: float) -> Quantity:
    return Quantity(value=value, kind="assumption", source="chosen by a test")


def planned(library: ProfileLibrary, name: str, **changes: object) -> Placement:
    values = {"steps": 12, **changes}
    return place(sample_workloads(), PAIR, library.scenario(name), library, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(200))
def test_cp_sat_equals_brute_force(seed: int) -> None:
    problem, weights = instance(seed)
    found = solve(problem, weights)
    assert (None if found is None else weights.value(found.evaluation)) == brute_force(problem, weights)
    if found is not None:
        assert found.optimal
        assert evaluate(problem, found.anchor, found.assignment) == found.evaluation


def test_the_random_instances_test_something() -> None:
    found = [solve(random_problem(s, 3, 3, shape=SHAPES[s % 3]), LATENCY) for s in range(40)]
    feasible = [solution for solution in found if solution is not None]
    assert 15 < len(feasible) < 40  # both answers occur
    assert any(len(set(solution.assignment)) > 1 for solution in feasible)  # spreading pays somewhere
    assert any(solution.searched > 0 for solution in feasible)  # CP-SAT was really asked


def test_two_runs_give_the_same_answer(library: ProfileLibrary) -> None:
    problem = random_problem(7, 5, 6, shape="exchange_every_step")
    assert solve(problem, LATENCY) == solve(problem, LATENCY)
    first, second = planned(library, "vehicle-convoy"), planned(library, "vehicle-convoy")
    assert first.model_dump(exclude={"solve_ms"}) == second.model_dump(exclude={"solve_ms"})


@pytest.mark.parametrize("objective", ["latency", "energy"])
def test_eight_experts_on_sixteen_devices_within_100_ms(library: ProfileLibrary, objective: str) -> None:
    names, scenario = [f"e{i}" for i in range(8)], large_scenario(library)
    times = []
    for _ in range(6):
        start = time.thread_time()  # the solver works in the calling thread: other work does not count
        placement = place(sample_workloads(), names, scenario, library, objective=objective, steps=16)  # type: ignore[arg-type]
        times.append(time.thread_time() - start)
        assert placement.optimal
    assert sorted(times)[1] < 0.1


@pytest.mark.parametrize("objective", ["latency", "energy", "balanced"])
@pytest.mark.parametrize("name", SCENARIOS)
def test_every_scenario_has_a_plan_that_adds_up(library: ProfileLibrary, name: str, objective: str) -> None:
    placement = planned(library, name, objective=objective)
    assert [a.expert for a in placement.assignments] == list(PAIR)
    total = placement.totals
    for split in (*(p.estimated_ms for p in (*placement.assignments, *placement.stages)), total.latency):
        assert Decimal(str(split.compute)) + Decimal(str(split.network)) == Decimal(str(split.total))
    joules = (total.energy.compute, total.energy.radio, total.energy.total)
    assert Decimal(str(joules[0])) + Decimal(str(joules[1])) == Decimal(str(joules[2]))
    assert max(bar.end_ms for bar in placement.timeline) == pytest.approx(total.latency.total, abs=0.01)
    assert all(bar.start_ms < bar.end_ms for bar in placement.timeline)
    used = {a.device for a in placement.assignments}
    assert {r.device for r in placement.rejected} == {n.id for n in library.scenario(name).nodes} - used
    assert all(r.reason.startswith(r.device_title) and r.reason.endswith(".") for r in placement.rejected)
    assert placement.stages[0].device == library.scenario(name).user  # the raw prompt stays
    assert sum(d.energy_j for d in placement.devices) == pytest.approx(
        total.energy.compute, rel=1e-5, abs=1e-5
    )


@pytest.mark.parametrize("objective", ["latency", "energy"])
def test_no_baseline_beats_the_optimum(library: ProfileLibrary, objective: str) -> None:
    beaten = 0
    for name in SCENARIOS:
        placement = planned(library, name, objective=objective, shape="exchange_every_step")
        own = placement.totals.latency.total if objective == "latency" else placement.totals.energy.total
        for baseline in placement.baselines:
            if baseline.feasible:
                theirs = baseline.total_ms if objective == "latency" else baseline.energy_j
                assert theirs is not None and own <= theirs + 1e-3
                beaten += own < 0.99 * theirs
    assert beaten >= 3  # and it is not a tie everywhere


@given(name=st.sampled_from(SCENARIOS), factor=st.floats(1.05, 20), scale=st.floats(0.05, 1.0))
@settings(max_examples=12, deadline=None)
def test_more_bandwidth_never_hurts(name: str, factor: float, scale: float) -> None:
    library = load_profiles()
    slow = planned(library, name, bandwidth_scale=scale, shape="exchange_every_step")
    fast = planned(library, name, bandwidth_scale=scale * factor, shape="exchange_every_step")
    assert fast.totals.latency.total <= slow.totals.latency.total + 1e-3


def test_another_device_never_worsens_the_optimum(library: ProfileLibrary) -> None:
    scenario = library.scenario("xr-room")
    more = scenario.model_copy(
        update={
            "nodes": (*scenario.nodes, Node(id="extra", profile="cloud-h100")),
            "links": (*scenario.links, Link(user_side="headset", far_side="extra", network="wifi-6")),
        }
    )
    for objective in ("latency", "energy"):
        before = place(sample_workloads(), PAIR, scenario, library, steps=12, objective=objective)  # type: ignore[arg-type]
        after = place(sample_workloads(), PAIR, more, library, steps=12, objective=objective)  # type: ignore[arg-type]
        assert after.totals.latency.total <= before.totals.latency.total + 1e-3 or objective == "energy"
        assert after.totals.energy.total <= before.totals.energy.total + 1e-6 or objective == "latency"


def test_killing_a_device_plans_again_without_it(library: ProfileLibrary) -> None:
    killed: set[str] = set()
    last = 0.0
    for _ in range(3):
        placement = planned(library, "campus-mec", killed=frozenset(killed), shape="exchange_every_step")
        assert not killed & {bar.device for bar in placement.timeline}
        assert {r.device: r.code for r in placement.rejected if r.device in killed} == dict.fromkeys(
            killed, "killed"
        )
        assert placement.totals.latency.total >= last
        last = placement.totals.latency.total
        killed |= {a.device for a in placement.assignments} - {"phone"}
    assert killed


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_rejected_device_is_not_made_worse_than_it_is(library: ProfileLibrary, name: str) -> None:
    """Where one device alone would do everything in so many milliseconds, its rejection may not name more."""
    placement = planned(library, name, shape="exchange_every_step")
    reasons = {r.device: r for r in placement.rejected if r.code == "not_chosen"}
    for baseline in placement.baselines:
        alone = set((baseline.devices or {}).values())
        if baseline.policy == "greedy" or baseline.total_ms is None or not alone & set(reasons):
            continue
        reason = reasons[alone.pop()].reason
        value, unit = re.search(r"with it takes ([\d.]+) (ms|s)", reason).groups()  # type: ignore[union-attr]
        assert (
            float(value) * (1000 if unit == "s" else 1) <= 1.06 * baseline.total_ms
        )  # as rounded for people


def test_balanced_reasons_give_both_prices(library: ProfileLibrary) -> None:
    reasons = [r.reason for r in planned(library, "xr-room", objective="balanced").rejected]
    assert any(re.search(r"takes [\d.]+ m?s and [\d.]+ m?J instead of [\d.]+ m?s and", r) for r in reasons)


@pytest.mark.parametrize("name", (*SCENARIOS, "object-transfer"))
def test_among_placements_of_equal_energy_the_quicker_is_taken(library: ProfileLibrary, name: str) -> None:
    placement = planned(library, name, objective="energy", shape="exchange_every_step")
    for baseline in placement.baselines:
        if baseline.energy_j == round(placement.totals.energy.total, 6):
            assert placement.totals.latency.total <= baseline.total_ms + 1e-3  # type: ignore[operator]


def test_reasons_name_the_memory_that_is_missing(library: ProfileLibrary) -> None:
    scenario = library.scenario("xr-room").model_copy(update={"raw_prompt_stays_on_user_device": False})
    placement = place(sample_workloads(170), PAIR, scenario, library, steps=12, deadline_ms=1e7)
    quest = next(r for r in placement.rejected if r.device == "headset")
    assert quest.code == "memory"
    assert quest.reason == "Quest 3: does not fit, needs 2.6 GB of 1.5 GB free."
    assert placement.stages[0].device != "headset"  # nor does the text encoder
    needed = {d.device: (d.memory_needed_bytes, d.memory_free_bytes) for d in placement.devices}
    assert all(need <= free for need, free in needed.values())
    assert max(need for need, _ in needed.values()) > 2.6e9


def test_rules_keep_experts_off_nodes(library: ProfileLibrary) -> None:
    scenario = library.scenario("campus-mec")
    changed = {"mec-a": {"hosts_experts": False}, "mec-b": {"trusted": False}, "mec-c": {"available": False}}
    nodes = tuple(node.model_copy(update=changed.get(node.id, {})) for node in scenario.nodes)
    placement = place(
        sample_workloads(), PAIR, scenario.model_copy(update={"nodes": nodes}), library, steps=12
    )
    codes = {r.device: r.code for r in placement.rejected}
    assert (codes["mec-a"], codes["mec-b"], codes["mec-c"]) == ("role", "privacy", "unavailable")
    only_int8 = scenario.model_copy(update={"precisions": ("int8",)})
    tight = place(sample_workloads(), PAIR, only_int8, library, steps=12)
    assert {a.precision for a in tight.assignments} == {"int8"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"deadline_ms": assume(1.0)}, ("deadline_ms", "the deadline is 1.00 ms")),
        ({"precisions": ("fp8",)}, ("precisions", "computes in")),
        ({"nodes": "tiny"}, ("raw_prompt_stays_on_user_device", "text encoder needs")),
    ],
)
def test_no_feasible_placement_is_one_sentence(
    library: ProfileLibrary, change: dict[str, object], words: tuple[str, str]
) -> None:
    scenario = library.scenario("vehicle-convoy")
    if change == {"nodes": "tiny"}:
        change = {
            "nodes": tuple(n.model_copy(update={"memory_free_gb": assume(0.001)}) for n in scenario.nodes)
        }
    with pytest.raises(MoEverseError) as caught:
        place(sample_workloads(), PAIR, scenario.model_copy(update=change), library, steps=12)
    assert caught.value.code == "infeasible"
    assert "edge_profiles/scenarios/vehicle-convoy.yaml" in caught.value.message
    assert all(word in caught.value.message for word in words)
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"killed": frozenset({"toaster"})}, "unknown_device"),
        ({"killed": frozenset({"car-lead"})}, "infeasible"),
        ({"steps": 0}, "bad_steps"),
        ({"bandwidth_scale": 0.0}, "bad_bandwidth"),
        ({"bandwidth_scale": float("nan")}, "bad_bandwidth"),
        ({"latency_share": 1.0}, "bad_share"),
    ],
)
def test_bad_input_is_refused(library: ProfileLibrary, change: dict[str, object], code: str) -> None:
    with pytest.raises(MoEverseError) as caught:
        planned(library, "vehicle-convoy", **change)
    assert caught.value.code == code and caught.value.remedy


def test_the_shape_is_a_decision_with_its_reason(library: ProfileLibrary) -> None:
    scenario = library.scenario("campus-mec")
    patient = scenario.model_copy(update={"shape_tolerance": assume(100.0)})
    hasty = scenario.model_copy(update={"shape_tolerance": assume(1.0)})
    exact = place(sample_workloads(), PAIR, patient, library, steps=12)
    approximate = place(sample_workloads(), PAIR, hasty, library, steps=12)
    assert exact.shape == "exchange_every_step" and "exactly" in exact.shape_reason
    assert approximate.shape != "exchange_every_step" and "approximation" in approximate.shape_reason
    assert approximate.totals.latency.total < exact.totals.latency.total
    assert {option.shape for option in exact.shapes} == set(SHAPES)
    by_noise = place(sample_workloads(noise_level_experts=True), PAIR, patient, library, steps=12)
    assert by_noise.shape == "hand_over_latents"
    assert (
        "One active expert" in place(sample_workloads(), ("city",), patient, library, steps=12).shape_reason
    )


def test_experts_by_noise_level_hand_over_after_their_own_steps(library: ProfileLibrary) -> None:
    scenario = library.scenario("campus-mec").model_copy(update={"shape_tolerance": assume(100.0)})

    def placed(noise_level_experts: bool, **changes: object) -> Placement:
        work = sample_workloads(noise_level_experts=noise_level_experts)
        return place(work, PAIR, scenario, library, steps=40, **changes)  # type: ignore[arg-type]

    turns = placed(True, shares=(26, 14))
    labels = [(bar.expert, bar.stage) for bar in turns.timeline if bar.expert]
    assert labels == [("city", "steps 1-26"), ("avatar", "steps 27-40")]
    first, second = (a.estimated_ms.compute for a in turns.assignments)
    assert first / second == pytest.approx(26 / 14, rel=1e-3)
    # Simpler policies hand over as well: every step costs one expert, not both.
    mixture = {baseline.policy: baseline for baseline in placed(False).baselines}
    for baseline in turns.baselines:
        assert turns.totals.latency.total <= baseline.total_ms + 1e-3  # type: ignore[operator]
        assert baseline.total_ms < mixture[baseline.policy].total_ms  # type: ignore[operator]
    for shares in ((26, 13), (40,), (41, -1)):
        with pytest.raises(MoEverseError) as caught:
            placed(True, shares=shares)
        assert caught.value.code == "bad_steps" and caught.value.remedy


def test_missing_weights_travel_as_a_difference(library: ProfileLibrary) -> None:
    scenario = library.scenario("campus-mec")
    nodes = tuple(n.model_copy(update={"cached": "generalist"}) for n in scenario.nodes)
    work = sample_workloads(30)
    delta = place(work, PAIR, scenario.model_copy(update={"nodes": nodes}), library, steps=12)
    full = place(
        work.model_copy(update={"delta_bytes": None}),
        PAIR,
        scenario.model_copy(update={"nodes": nodes}),
        library,
        steps=12,
    )
    assert {a.migration for a in delta.assignments} == {"delta"}
    assert {a.migration for a in full.assignments} == {"full"}
    assert delta.totals.latency.total < full.totals.latency.total
    assert "difference" in delta.assignments[0].reason
    nowhere = scenario.model_copy(update={"nodes": nodes, "weight_store": None})
    with pytest.raises(MoEverseError, match="no expert weights"):
        place(work, PAIR, nowhere, library, steps=12)


def test_solver_limits_are_not_reached_by_a_deadline_on_energy(library: ProfileLibrary) -> None:
    loose = planned(library, "vehicle-convoy", objective="energy")
    limit = 0.5 * loose.totals.latency.total
    tight = planned(library, "vehicle-convoy", objective="energy", deadline_ms=limit)
    assert tight.totals.latency.total <= limit and tight.totals.meets_deadline
    assert tight.totals.energy.total > loose.totals.energy.total
    assert tight.optimal


def test_evaluate_refuses_what_is_not_allowed() -> None:
    problem = random_problem(4, 2, 2, shape="exchange_every_step")
    forbidden = replace(problem, allowed=~(problem.allowed | True))
    assert solve(forbidden, LATENCY) is None
    assert evaluate(forbidden, problem.anchors[0], (0, 0)).problem_code == "not_allowed"


def test_scenarios_are_plain_data(library: ProfileLibrary) -> None:
    scenario = library.scenario("air-gapped")
    assert EdgeScenario.model_validate(scenario.model_dump()) == scenario
    placement = planned(library, "air-gapped")
    assert Placement.model_validate_json(placement.model_dump_json()) == placement

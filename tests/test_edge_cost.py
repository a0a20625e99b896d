"""Roofline, transfers and energy behave as their formulas say."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_pipeline.edge import load_profiles
from moe_pipeline.edge.cost import Migration, build_tables, migration, step_share
from moe_pipeline.edge.network import PACKET_BYTES, Hop, Path, all_paths, expected_rounds, transfer
from moe_pipeline.edge.roofline import call_cost, efficiency_at, fastest_precision, roofline_ms
from moe_pipeline.schema.workload import Workload
from moe_pipeline.studies.placement_exact import sample_workloads


def call(gflop: float, megabytes: float) -> Workload:
    return Workload(
        stage="expert_step",
        flops=round(gflop * 1e9),
        bytes_moved=round(megabytes * 1e6),
        weight_bytes=10,
        peak_memory_bytes=20,
        input_bytes=1,
        output_bytes=1,
        precision="fp16",
    )


def test_roofline_is_the_larger_of_both_roofs_plus_the_start() -> None:
    values = {
        "peak_flops": 1e12,
        "bandwidth": 1e11,
        "eta_max": 0.5,
        "half_work_flops": 1e9,
        "eta_memory": 0.8,
    }
    compute, memory, total = roofline_ms(1e9, 1e6, launch_ms=0.3, **values)
    assert compute == pytest.approx(1e3 * 2e9 / (0.5 * 1e12))  # at w_half only half of eta_max is reached
    assert memory == pytest.approx(1e3 * 1e6 / 8e10)
    assert total == pytest.approx(max(compute, memory) + 0.3)
    assert efficiency_at(1e9, 0.5, 1e9) == 0.25
    assert efficiency_at(1e15, 0.5, 1e9) == pytest.approx(0.5, rel=1e-5)


@given(work=st.floats(0.01, 1e5), more=st.floats(1.01, 100), megabytes=st.floats(0.1, 1e4))
@settings(max_examples=40, deadline=None)
def test_more_work_never_takes_less_time_and_never_lower_efficiency(
    work: float, more: float, megabytes: float
) -> None:
    device = load_profiles().device("mec-l4")
    small, large = (
        call_cost(call(work, megabytes), device, "fp16"),
        call_cost(call(work * more, megabytes), device, "fp16"),
    )
    assert large.total_ms >= small.total_ms
    assert large.compute_ms / more <= small.compute_ms * (1 + 1e-9)
    assert small.bound in ("compute", "memory", "launch")


def test_energy_lies_between_idle_and_full_power() -> None:
    device = load_profiles().device("cloud-a100")
    cost = call_cost(call(500, 100), device, "fp16")
    seconds = cost.total_ms / 1e3
    assert device.power_idle_w.value * seconds < cost.energy_j <= device.power_max_w.value * seconds
    half = call_cost(call(500, 100), device, "fp16", background_load=0.5)
    assert half.compute_ms > 1.9 * cost.compute_ms - cost.launch_ms


def test_the_quickest_allowed_format_is_chosen() -> None:
    library = load_profiles()
    t4 = library.device("mec-t4")
    assert fastest_precision(call(500, 100), t4, ("bf16", "fp16", "fp32")).precision == "fp16"  # type: ignore[union-attr]
    assert fastest_precision(call(500, 100), t4, ("fp16", "int8")).precision == "int8"  # type: ignore[union-attr]
    assert fastest_precision(call(500, 100), t4, ("bf16",)) is None


def test_formats_scale_memory_but_not_messages() -> None:
    work = call(1, 100)
    wide = work.at("fp32")
    assert (wide.bytes_moved, wide.weight_bytes) == (2 * work.bytes_moved, 20)
    assert (wide.flops, wide.input_bytes, wide.output_bytes) == (work.flops, 1, 1)
    assert wide.at("fp16") == work


def hop(mbps: float = 100, rtt: float = 20, loss: float = 0.0, energy: float = 10) -> Hop:
    return Hop(mbps, rtt, 0.0, loss, energy, 0.0, "test")


def test_a_transfer_is_half_a_round_trip_and_its_bits() -> None:
    found = transfer(1_000_000, Path((hop(),)))
    assert found.delay_ms == pytest.approx(10)
    assert found.serial_ms == pytest.approx(80)  # 8 Mbit at 100 Mbit/s
    assert found.radio_j == pytest.approx(8e6 * 10e-9)
    two = transfer(1_000_000, Path((hop(), hop(mbps=50, rtt=4))))
    assert (two.delay_ms, two.serial_ms) == (pytest.approx(12), pytest.approx(160))
    assert transfer(1_000_000, Path()).total_ms == 0


@given(packets=st.integers(1, 400), loss=st.floats(0.0, 0.5))
@settings(max_examples=15, deadline=None)
def test_rounds_of_retransmission_match_a_simulation(packets: int, loss: float) -> None:
    rng = np.random.default_rng(packets)
    draws = rng.geometric(1 - loss, size=(3000, packets)).max(axis=1)
    tolerance = 5 * draws.std() / math.sqrt(3000) + 1e-6
    assert expected_rounds(packets, loss) == pytest.approx(draws.mean(), abs=tolerance)


@given(size=st.integers(1, 10**7), loss=st.floats(0.0, 0.3), worse=st.floats(0.001, 0.3))
@settings(max_examples=40, deadline=None)
def test_loss_and_size_only_ever_cost(size: int, loss: float, worse: float) -> None:
    clean, lossy = transfer(size, Path((hop(loss=loss),))), transfer(size, Path((hop(loss=loss + worse),)))
    assert lossy.total_ms > clean.total_ms and lossy.radio_j > clean.radio_j
    assert transfer(size + PACKET_BYTES, Path((hop(loss=loss),))).total_ms > clean.total_ms


def test_paths_take_the_least_round_trip_and_know_directions() -> None:
    library = load_profiles()
    scenario = library.scenario("phone-cloud")
    paths = all_paths(scenario, library.networks, alive=["phone", "cloud-a", "cloud-b"])
    up, down = paths["phone", "cloud-b"], paths["cloud-b", "phone"]
    assert [h.network for h in up.hops] == ["5g-mid-band", "ethernet-10g"]
    assert (up.mbps, down.mbps) == (14.56, 265.8)
    scaled = all_paths(scenario, library.networks, alive=["phone", "cloud-a", "cloud-b"], bandwidth_scale=0.5)
    assert scaled["phone", "cloud-b"].mbps == 7.28 and scaled["phone", "cloud-b"].rtt_ms == up.rtt_ms
    assert ("phone", "cloud-b") not in all_paths(scenario, library.networks, alive=["phone", "cloud-b"])


def test_a_satellite_waits_for_its_reconfiguration() -> None:
    library = load_profiles()
    paths = all_paths(library.scenario("rural-satellite"), library.networks, alive=["laptop", "cloud"])
    assert paths["laptop", "cloud"].hops[0].outage_wait_ms == pytest.approx(0.5 * 150**2 / (2 * 15_000))


def test_migration_takes_the_smaller_of_difference_and_whole() -> None:
    library = load_profiles()
    scenario, work = library.scenario("campus-mec"), sample_workloads()
    tables = build_tables(work, ["a"], scenario, library, steps=4)
    by_node = {site.node.id: migration(tables, i) for i, site in enumerate(tables.sites)}
    assert by_node["cloud"].kind == "cached" and by_node["robot"].kind == "delta"  # type: ignore[union-attr]
    assert by_node["robot"].size_bytes == work.delta_bytes  # type: ignore[union-attr]
    heavy = work.model_copy(update={"delta_bytes": 10 * work.expert_step.weight_bytes})
    tables = build_tables(heavy, ["a"], scenario, library, steps=4)
    robot = next(i for i, site in enumerate(tables.sites) if site.node.id == "robot")
    assert migration(tables, robot).kind == "full"  # type: ignore[union-attr]
    # What is the generalist, or differs from it by its words alone, is there with it, whoever else has weights.
    same, nowhere = (
        work.model_copy(update={"delta_bytes": 0}),
        scenario.model_copy(update={"weight_store": None}),
    )
    for where in (scenario, nowhere):
        assert migration(build_tables(same, ["a"], where, library, steps=4), robot) == Migration(
            "cached", 0, 0, 0
        )
    assert migration(build_tables(work, ["a"], nowhere, library, steps=4), robot) is None


def test_a_hand_over_shares_out_every_step() -> None:
    assert step_share(16, 3) == [6, 5, 5]
    assert all(sum(step_share(steps, k)) == steps for steps in range(1, 30) for k in range(1, 9))

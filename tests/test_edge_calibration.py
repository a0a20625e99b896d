"""The machine's own profile, the fit of the cost model, and the published calibration figures."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from moe_pipeline.edge.calibration import (
    Measurement,
    Probe,
    as_profile,
    fit_efficiency,
    measure,
    this_machine,
)
from moe_pipeline.edge.placement import CALIBRATION_NOTE
from moe_pipeline.edge.roofline import call_cost
from moe_pipeline.schema.errors import MoEverseError
from moe_pipeline.schema.workload import Workload
from moe_pipeline.studies.calibration import (
    Fit,
    Point,
    fit,
    judged,
    other_splits,
    split,
    stored_measurement,
    summary,
    within_bounds,
)
from moe_pipeline.studies.calibration_public import read_benchmarks

DOCS = Path(__file__).resolve().parents[1] / "docs" / "calibration"


def work(gflop: float) -> Workload:
    return Workload(
        stage="expert_step",
        flops=round(gflop * 1e9),
        bytes_moved=1,
        weight_bytes=1,
        peak_memory_bytes=1,
        input_bytes=1,
        output_bytes=1,
        precision="fp32",
    )


def measurement(*probes: tuple[Workload, float]) -> Measurement:
    return Measurement({"fp32": 0.2, "bf16": 0.4}, 40.0, 0.1, probes, 1.0)


def test_measuring_is_quick_and_sane() -> None:
    runs: list[int] = []
    start = time.process_time()
    found = measure([Probe(work(1), lambda: runs.append(1))])
    assert time.process_time() - start < 3.0 * torch.get_num_threads()  # every thread's time counts
    assert found.seconds < 60 and runs
    assert set(found.tflops) == {"fp32", "bf16"}
    assert 1e-4 < found.tflops["fp32"] < 1e3 and 0.1 < found.memory_gbs < 1e4 and 0 < found.launch_ms < 50


def test_two_probes_give_back_the_efficiency_they_were_made_with() -> None:
    eta, half = 0.5, 2.0

    def ms(gflop: float) -> float:
        return (gflop + half) / (eta * 0.2) + 0.1  # GFLOP at 200 GFLOP/s, plus the launch

    found_eta, found_half = fit_efficiency(measurement((work(4), ms(4)), (work(16), ms(16))))
    assert (found_eta.value, found_half.value) == (
        pytest.approx(eta, rel=1e-3),
        pytest.approx(half, rel=1e-2),
    )
    assert found_eta.kind == "measured"
    profile = as_profile(measurement((work(4), ms(4)), (work(16), ms(16))))
    assert call_cost(work(8), profile, "fp32").total_ms == pytest.approx(ms(8), rel=0.01)
    alone = fit_efficiency(measurement())
    assert alone[0].kind == "assumption"
    single = as_profile(measurement((work(4), ms(4))))
    assert call_cost(work(4), single, "fp32").total_ms == pytest.approx(ms(4), rel=0.02)


def test_the_profile_is_cached_and_a_broken_cache_is_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def counted(probes: object = (), *, torch_device: str = "cpu") -> Measurement:
        calls.append(1)
        return measurement()

    monkeypatch.setattr("moe_pipeline.edge.calibration.measure", counted)
    cache = tmp_path / "deep" / "this-machine.json"
    assert this_machine(cache=cache, measure_if_missing=False) is None
    first = this_machine(cache=cache)
    assert this_machine(cache=cache) == first and len(calls) == 1
    assert first.id == "this-machine" and first.peak_tflops["fp32"].kind == "measured"
    cache.write_text("{ half a file", encoding="utf-8")
    assert this_machine(cache=cache) == first and len(calls) == 2
    stored = json.loads(cache.read_text(encoding="utf-8"))
    stored["key"]["torch"] = "0.0"
    cache.write_text(json.dumps(stored), encoding="utf-8")
    this_machine(cache=cache)
    this_machine(cache=cache, refresh=True)
    assert len(calls) == 4
    this_machine(cache=Path("/proc/no/such/folder/x.json"))  # not writable: measured, not failed


def synthetic(count: int = 24) -> tuple[Fit, list[Point]]:
    truth = Fit({"a": 0.4, "b": 0.7}, {"a": 2.0, "b": 5.0}, 0.8, 0.5)
    points = []
    for i in range(count):
        group = "ab"[i % 2]
        blank = Point(
            f"p{i}",
            group,
            1e9 * (1 + i) ** 1.7,
            1e6 * (30 * (i % 5 == 0) * (1 + i)),
            1.0,
            4e11,
            4e10,
            1.0,
            False,
        )
        points.append(Point(**{**asdict(blank), "measured_ms": truth.predict(blank)}))
    return truth, points


def test_the_fit_finds_the_parameters_that_made_the_points() -> None:
    truth, points = synthetic()
    halves = split(points)
    found = fit(halves, shared_half=False, starts=3)
    figures = summary(judged(halves, found))
    assert figures["held_out_points"] == 12 and figures["held_out_worst"] < 0.02
    assert found.eta["a"] == pytest.approx(truth.eta["a"], rel=0.05)


def test_the_split_is_half_of_every_group_and_fixed() -> None:
    _, points = synthetic()
    assert split(points) == split(points)
    for group in "ab":
        chosen = [p.held_out for p in split(points) if p.group == group]
        assert sum(chosen) == len(chosen) // 2


@pytest.mark.parametrize("name", ["this-machine", "public"])
def test_published_figures_follow_from_their_points_and_hold(name: str) -> None:
    report = json.loads((DOCS / f"{name}.json").read_text(encoding="utf-8"))
    points = [Point(**point) for point in report["points"]]
    model = Fit(**report["fit"])
    again = judged(points, model)
    assert [p.predicted_ms for p in again] == pytest.approx([p.predicted_ms for p in points])
    assert summary(again) == pytest.approx(report["summary"])
    assert within_bounds(name, report["summary"])
    assert len(points) >= (24 if name == "this-machine" else 20)
    assert (DOCS / f"{name}.png").stat().st_size > 10_000
    if name == "public":
        far = {p.id for p in again if abs(p.error) > 0.3}
        assert far == {item["id"] for item in report["outliers"]}
        assert all(item["why"] for item in report["outliers"])


def test_the_note_beside_every_estimate_quotes_the_reports() -> None:
    for name in ("this-machine", "public"):
        report = json.loads((DOCS / f"{name}.json").read_text(encoding="utf-8"))
        assert f"{report['other_splits']['median']['p50']:.0%}" in CALIBRATION_NOTE


def test_other_splits_of_the_stored_times_give_the_spread_that_is_reported() -> None:
    report = json.loads((DOCS / "this-machine.json").read_text(encoding="utf-8"))
    measured, setting = stored_measurement(DOCS)
    assert setting == report["setting"] and len(measured) == len(report["points"])
    few = other_splits(measured, lambda halves: fit(halves, shared_half=False, starts=2), "this-machine", 6)
    spread = report["other_splits"]
    assert few["count"] == 6 and few["median"]["max"] <= spread["median"]["max"] + 1e-6
    assert few["worst"]["max"] <= spread["worst"]["max"] + 1e-6
    assert few["worst"]["p50"] <= few["worst"]["p95"] <= few["worst"]["max"]
    assert 0 <= spread["within"] <= 1 and spread["count"] >= 200


def test_stored_times_that_are_not_there_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(MoEverseError) as caught:
        stored_measurement(tmp_path)
    assert caught.value.code == "no_measurement" and caught.value.remedy


def test_bounds_can_fail() -> None:
    good = {"held_out_median": 0.1, "held_out_worst": 0.2}
    assert within_bounds("this-machine", good)
    assert not within_bounds("this-machine", {**good, "held_out_worst": 0.31})
    assert not within_bounds("this-machine", {**good, "held_out_median": 0.13})
    assert not within_bounds("public", {**good, "held_out_median": 0.31})


def test_the_benchmark_set_is_checked(tmp_path: Path) -> None:
    data = read_benchmarks()
    assert len(data.points) >= 21 and data.left_out
    text = (Path(DOCS).parents[1] / "edge_profiles" / "benchmarks.yaml").read_text(encoding="utf-8")
    (tmp_path / "benchmarks.yaml").write_text(
        text.replace("model: sdxl-1024", "model: sdxl-9", 1), encoding="utf-8"
    )
    with pytest.raises(MoEverseError, match="Known models"):
        read_benchmarks(tmp_path)
    (tmp_path / "benchmarks.yaml").write_text(text.replace("calls: 20", "calls: 0", 1), encoding="utf-8")
    with pytest.raises(MoEverseError, match="calls"):
        read_benchmarks(tmp_path)


def test_the_tables_of_the_document_are_current() -> None:
    from moe_pipeline.edge import load_profiles
    from moe_pipeline.studies.edge_docs import DOCUMENT, filled

    text = DOCUMENT.read_text(encoding="utf-8")
    assert filled(text, load_profiles()) == text, "run python -m moe_pipeline.studies.edge_docs"
    stale = text.replace("| `quest-3` |", "| `quest-2` |", 1)
    assert stale != text and filled(stale, load_profiles()) == text

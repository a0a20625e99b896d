"""VBench's aggregation against its published figures, and latency figures against hand computations."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_pipeline.metrics import latency
from moe_pipeline.metrics.aggregate import DIMENSIONS, normalise, quality_score, semantic_score, total_score
from moe_pipeline.metrics.latency import NO_COUNTER, ResourceMeter, energy_between, read_energy, summarise
from moe_pipeline.schema.errors import MoEverseError

# VBench++ (arXiv 2411.13503), Table II, row ModelScope; per cent
MODELSCOPE = {
    "subject_consistency": 89.87,
    "background_consistency": 95.29,
    "temporal_flickering": 98.28,
    "motion_smoothness": 95.79,
    "dynamic_degree": 66.39,
    "aesthetic_quality": 52.06,
    "imaging_quality": 58.57,
    "object_class": 82.25,
    "multiple_objects": 38.98,
    "human_action": 92.40,
    "color": 81.72,
    "spatial_relationship": 33.68,
    "scene": 39.26,
    "appearance_style": 23.39,
    "temporal_style": 25.37,
    "overall_consistency": 25.67,
}
SCORES = {name: value / 100 for name, value in MODELSCOPE.items()}


def test_modelscope_published_scores_give_its_published_totals():
    assert round(100 * quality_score(SCORES), 2) == 78.06
    assert round(100 * semantic_score(SCORES), 2) == 66.54
    assert round(100 * total_score(SCORES), 2) == 75.75


def test_quality_needs_only_its_seven_dimensions():
    seven = {name: SCORES[name] for name in DIMENSIONS if DIMENSIONS[name].group == "quality"}
    assert len(seven) == 7
    assert quality_score(seven) == quality_score(SCORES)
    with pytest.raises(MoEverseError, match="object_class"):
        total_score(seven)


@pytest.mark.parametrize("name", sorted(DIMENSIONS))
def test_a_missing_dimension_is_refused_and_never_counts_as_zero(name):
    with pytest.raises(MoEverseError, match=name):
        total_score({key: value for key, value in SCORES.items() if key != name})


def test_normalisation_is_not_clipped():
    assert normalise("subject_consistency", 0.0) == pytest.approx(-0.1462 / 0.8538)
    assert normalise("motion_smoothness", 1.0) > 1.0
    with pytest.raises(MoEverseError, match="no dimension"):
        normalise("beauty", 0.5)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(sorted(DIMENSIONS)), st.floats(0.001, 0.2))
def test_a_better_score_never_lowers_the_total(name, gain):
    better = {**SCORES, name: SCORES[name] + gain}
    assert total_score(better) > total_score(SCORES)


# ------------------------------------------------------------------------------------------------ latency


def test_percentiles_rate_and_real_time_factor():
    found = summarise(
        steps_ms=[10.0, 20.0, 30.0, 40.0, 50.0],
        stages_ms={"denoise": 150.0},
        total_ms=500.0,
        frames=16,
        fps=8.0,
        first_preview_ms=42.0,
    )
    assert found.step_p50_ms == 30.0 and found.step_p95_ms == pytest.approx(48.0)
    assert found.frames_per_second == pytest.approx(32.0)
    assert found.real_time_factor == pytest.approx(0.25)
    assert found.time_to_first_preview_ms == 42.0 and found.energy_j is None


def test_a_run_without_steps_has_no_percentiles():
    found = summarise(steps_ms=[], stages_ms={}, total_ms=0.0, frames=1, fps=8.0)
    assert found.step_p50_ms is None and found.frames_per_second is None


def test_meter_sees_memory_that_came_and_went():
    with ResourceMeter(interval_s=0.005) as quiet:
        pass
    with ResourceMeter(interval_s=0.005) as busy:
        block = bytearray(120_000_000)
        block[::4096] = b"x" * len(block[::4096])
        time.sleep(0.05)
        del block
    assert busy.resources.peak_rss_bytes - quiet.resources.peak_rss_bytes > 80_000_000
    assert busy.resources.elapsed_s >= 0.05


def _zone(root, name, microjoules, limit=1000_000, domain="package-0"):
    zone = root / name
    zone.mkdir(exist_ok=True)
    (zone / "name").write_text(f"{domain}\n")
    (zone / "energy_uj").write_text(f"{microjoules}\n")
    (zone / "max_energy_range_uj").write_text(f"{limit}\n")


def test_energy_comes_from_package_counters_and_survives_their_wrap(tmp_path):
    _zone(tmp_path, "intel-rapl:0", 900_000)
    _zone(tmp_path, "intel-rapl:1", 100_000)
    _zone(tmp_path, "intel-rapl:0:0", 5, domain="core")  # inside package 0: counted already
    _zone(tmp_path, "intel-rapl:2", 700_000, domain="psys")  # the board with both packages: counted already
    before, source = read_energy(tmp_path)
    assert "RAPL" in source
    _zone(tmp_path, "intel-rapl:0", 150_000)  # wrapped at 1 J
    _zone(tmp_path, "intel-rapl:1", 350_000)
    after, _ = read_energy(tmp_path)
    rapl = {name for name in before if name.startswith("rapl")}
    assert rapl == {"rapl:intel-rapl:0", "rapl:intel-rapl:1"}
    spent = energy_between({n: before[n] for n in rapl}, {n: after[n] for n in rapl})
    assert spent == pytest.approx(0.25 + 0.25)


class Driver:
    """NVIDIA's management library with three GPUs; the middle one is too old for an energy counter."""

    def __init__(self):
        self.millijoules = {0: 5_000, 2: 90_000}
        self.open = 0

    def nvmlInit_v2(self):
        self.open += 1
        return 0

    def nvmlShutdown(self):
        self.open -= 1
        return 0

    def nvmlDeviceGetCount_v2(self, count):
        count._obj.value = 3
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index, device):
        device._obj.value = 100 + index.value
        return 0

    def nvmlDeviceGetTotalEnergyConsumption(self, device, spent):
        found = self.millijoules.get(device.value - 100)
        if found is None:
            return 3  # NVML_ERROR_NOT_SUPPORTED
        spent._obj.value = found
        return 0


def test_energy_of_gpus_comes_from_the_drivers_library(tmp_path, monkeypatch):
    driver = Driver()
    monkeypatch.setattr(latency, "_nvml_library", lambda: driver)
    with ResourceMeter(rapl_root=tmp_path) as meter:
        driver.millijoules = {0: 6_500, 2: 91_000}
    assert meter.resources.energy_j == pytest.approx(2.5)
    assert meter.resources.energy_source == "NVML (GPUs)" and driver.open == 0
    monkeypatch.setattr(driver, "nvmlInit_v2", lambda: 9)  # NVML_ERROR_DRIVER_NOT_LOADED
    assert read_energy(tmp_path) == ({}, NO_COUNTER)


def test_no_counter_means_no_figure(tmp_path):
    counters = {
        name: value for name, value in read_energy(tmp_path / "absent")[0].items() if name.startswith("rapl")
    }
    assert counters == {} and energy_between({}, {}) is None
    assert "no energy counter" in NO_COUNTER

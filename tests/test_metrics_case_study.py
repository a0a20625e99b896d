"""The case study: paired statistics against known answers, and the whole study on a pack with random weights."""

import json

import known_clips as clips
import numpy as np
import pytest
from PIL import Image

from moe_pipeline.metrics import METRICS
from moe_pipeline.schema.errors import MoEverseError
from moe_pipeline.schema.metrics import ClipMetrics, LatencyMetrics, MetricValue
from moe_pipeline.schema.record import Environment, PackIdentity
from moe_pipeline.studies.bootstrap import paired_interval
from moe_pipeline.studies.case_figures import bars_figure, goodness, radar_figure, write_figures
from moe_pipeline.studies.case_prompts import CASE_PROMPTS
from moe_pipeline.studies.case_report import markdown
from moe_pipeline.studies.case_study import CaseRun, case_study, clip_name, compare_runs
from moe_pipeline.video import write_mp4

ENVIRONMENT = Environment(
    torch="2", torch_device="cpu", cpu_capability="X", threads=1, dtype="fp32", code_version="0", platform="p"
)


def run(prompt, seed, mode, flags=(), **values):
    metrics = ClipMetrics(flags=list(flags))
    for name, value in values.items():
        metrics.values[name] = MetricValue(name=name, value=value, exactness=METRICS[name].exact)
    return CaseRun(
        prompt=f"prompt {prompt}",
        prompt_index=prompt,
        seed=seed,
        mode=mode,
        clip="x.mp4",
        active=["city", "avatar"],
        weights={"city": 0.6, "avatar": 0.4},
        subtasks=["a", "b"],
        warnings=[],
        metrics=metrics,
        latency=LatencyMetrics(
            total_ms=2000.0 if mode == "moe" else 1000.0,
            time_to_first_preview_ms=90.0 if mode == "moe" else 50.0,
            peak_cuda_bytes=3_000_000,
        ),
        environment=ENVIRONMENT,
        pack=PackIdentity(id="p", version="1", sha256="0"),
    )


# ------------------------------------------------------------------------------------------------ bootstrap


def test_interval_of_a_constant_difference_is_that_difference():
    interval = paired_interval({"a": [0.5, 0.5], "b": [0.5]})
    assert (interval.mean, interval.low, interval.high) == (0.5, 0.5, 0.5)
    assert (interval.prompts, interval.pairs) == (2, 3)


def test_few_prompts_decide_nothing_however_alike_they_are():
    assert not paired_interval({str(i): [0.5] for i in range(5)}).decided
    assert paired_interval({str(i): [0.5] for i in range(6)}).decided
    report = study(0.1, "imaging_statistics", prompts=2)
    assert report.comparisons["imaging_statistics"].verdict == "undecided"
    assert "Fewer than 6 prompts" in markdown(report)


def test_prompts_weigh_alike_however_many_seeds_they_have():
    assert paired_interval({"a": [0.0] * 9, "b": [1.0]}).mean == 0.5


def test_no_pairs_give_no_interval():
    assert paired_interval({}) is None and paired_interval({"a": []}) is None


def test_more_seeds_of_few_prompts_are_not_more_evidence():
    rng = np.random.default_rng(0)
    centres = rng.normal(0, 1, 6)  # prompts differ, seeds of a prompt agree
    few = paired_interval({str(i): [c] for i, c in enumerate(centres)})
    many = paired_interval({str(i): [c] * 50 for i, c in enumerate(centres)})
    assert many.high - many.low > 0.9 * (few.high - few.low)


def test_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(1)
    hits = 0
    for k in range(150):
        prompts = rng.normal(0.3, 0.5, 12)
        data = {str(i): list(p + rng.normal(0, 0.5, 3)) for i, p in enumerate(prompts)}
        interval = paired_interval(data, draws=400, seed=k)
        hits += interval.low <= 0.3 <= interval.high
    assert 0.86 <= hits / 150 <= 0.99


def test_interval_turns_with_the_sign_and_is_the_same_every_time():
    data = {"a": [0.1, 0.4], "b": [-0.2, 0.3], "c": [0.5]}
    one, again = paired_interval(data), paired_interval(data)
    assert one == again
    mirrored = paired_interval({k: [-x for x in v] for k, v in data.items()})
    assert (mirrored.low, mirrored.high) == pytest.approx((-one.high, -one.low))


# ---------------------------------------------------------------------------------------------- comparisons


def study(difference, name, prompts=7, seeds=3, flags=()):
    rng = np.random.default_rng(0)
    runs = []
    for p in range(prompts):
        for s in range(seeds):
            base = 0.5 + 0.2 * rng.random()
            runs.append(run(p, s, "single", **{name: base}))
            runs.append(run(p, s, "moe", flags, **{name: base + difference + 0.001 * rng.random()}))
    return compare_runs(runs, [f"prompt {p}" for p in range(prompts)], list(range(seeds)))


@pytest.mark.parametrize(
    ("name", "difference", "verdict"),
    [
        ("imaging_statistics", 0.1, "mixture better"),
        ("imaging_statistics", -0.1, "single better"),
        ("warping_error", 0.1, "single better"),
        ("warping_error", -0.1, "mixture better"),
        ("motion_magnitude", 0.1, "differs"),
    ],
)
def test_verdict_knows_the_direction(name, difference, verdict):
    found = study(difference, name).comparisons[name]
    assert found.verdict == verdict and found.difference == pytest.approx(difference, abs=0.001)
    assert found.low <= found.difference <= found.high and (found.prompts, found.pairs) == (7, 21)


def test_noise_alone_is_undecided():
    rng = np.random.default_rng(4)
    runs = [
        run(p, s, m, imaging_statistics=rng.random())
        for p in range(6)
        for s in range(2)
        for m in ("single", "moe")
    ]
    assert compare_runs(runs, ["x"] * 6, [0, 1]).comparisons["imaging_statistics"].verdict == "undecided"


def test_pairs_without_a_value_are_counted_not_dropped_in_silence():
    runs = [run(p, 0, m, imaging_statistics=0.5) for p in range(3) for m in ("single", "moe")]
    del runs[1].metrics.values["imaging_statistics"]
    found = compare_runs(runs, ["x"] * 3, [0]).comparisons["imaging_statistics"]
    assert (found.pairs, found.left_out) == (2, 1)
    assert "2 of 3 pairs" in markdown(compare_runs(runs, ["x"] * 3, [0]))


def test_a_still_clip_does_not_win_consistency_unnoticed():
    runs = []
    for p in range(4):
        still = p < 2
        runs.append(run(p, 0, "single", background_consistency_pack=0.8))
        runs.append(
            run(
                p,
                0,
                "moe",
                ["hardly moves"] if still else [],
                background_consistency_pack=1.0 if still else 0.7,
            )
        )
    report = compare_runs(runs, ["x"] * 4, [0])
    assert report.comparisons["background_consistency_pack"].difference == pytest.approx(0.05)
    assert report.moving_only["background_consistency_pack"].difference == pytest.approx(-0.1)
    assert "Only pairs in which both clips move (2 pairs)" in markdown(report)


def test_pairs_that_move_decide_consistency_and_still_clips_win_nothing():
    name = "background_consistency_pack"
    still = study(0.3, name, flags=["hardly moves"])  # every clip of the mixture stands still, and is ahead
    assert still.comparisons[name].low > 0 and still.comparisons[name].verdict == "undecided"
    assert still.moving_only == {} and "In no pair do both clips move" in markdown(still)
    runs = []
    for p in range(14):
        frozen = p < 7
        flags = ["hardly moves"] if frozen else []
        runs.append(run(p, 0, "single", background_consistency_pack=0.7, imaging_statistics=0.5))
        ahead = 1.0 if frozen else 0.65  # ahead over all pairs, behind wherever it moves
        runs.append(run(p, 0, "moe", flags, background_consistency_pack=ahead, imaging_statistics=0.6))
    report = compare_runs(runs, ["x"] * 14, [0])
    assert report.comparisons[name].difference > 0 and report.comparisons[name].verdict == "single better"
    assert report.comparisons["imaging_statistics"].verdict == "mixture better"  # not won by standing still


def test_latency_is_compared_as_cost():
    report = study(0.0, "imaging_statistics")
    assert report.latency["total_ms"].verdict == "single better"
    assert report.latency["time_to_first_preview_ms"].difference == pytest.approx(40.0)
    assert "| peak CUDA memory | 3 MB | 3 MB |" in markdown(report)
    assert "energy_j" not in report.latency and "no counter" in markdown(report)


# ------------------------------------------------------------------------------------------------- figures


def test_radar_turns_lower_is_better_outwards():
    assert goodness("warping_error", 0.0) == 1.0 and goodness("warping_error", 9.0) == 0.0
    assert goodness("imaging_statistics", 1.0) == 1.0


def test_figures_hold_both_modes_and_only_metrics_with_a_better_side():
    runs = [
        run(p, 0, m, imaging_statistics=0.5 + 0.1 * (m == "moe"), motion_magnitude=1.0, warping_error=0.01)
        for p in range(3)
        for m in ("single", "moe")
    ]
    comparisons = compare_runs(runs, ["x"] * 3, [0]).comparisons
    radar, bars = radar_figure(comparisons), bars_figure(comparisons)
    assert [trace.name for trace in radar.data] == ["single model", "mixture"]
    assert METRICS["motion_magnitude"].title not in radar.data[0].theta
    index = list(bars.data[0].y).index(METRICS["imaging_statistics"].title)
    assert bars.data[0].x[index] == pytest.approx(20.0)


def test_clip_names_are_those_of_vbench_and_safe():
    assert clip_name("a red tower", 2) == "a red tower-2.mp4"
    assert "/" not in clip_name("a/../b: c?", 0)
    assert len(clip_name("ü" * 500, 0).encode()) < 255


def test_case_prompts_name_several_subjects_within_the_request_limits():
    from moe_pipeline.prompting.decompose import decompose

    assert len(CASE_PROMPTS) == len(set(CASE_PROMPTS)) >= 10
    for prompt in CASE_PROMPTS:
        assert len(decompose(prompt).subtasks) >= 2, prompt


# ----------------------------------------------------------------------------------------------- whole study


def test_figures_and_sheet_are_written_and_need_no_network(tmp_path):
    runs = []
    for p in range(2):
        for mode in ("single", "moe"):
            one = run(p, 0, mode, imaging_statistics=0.5 + 0.1 * p, warping_error=0.01, loop_closure=0.9)
            one.clip = f"{mode}-{p}.mp4"
            write_mp4(clips.shifted(1 + p, frames=3, side=64), tmp_path / one.clip, 8.0)
            runs.append(one)
    report = compare_runs(runs, ["prompt 0", "prompt 1"], [0])
    for name in [*write_figures(report, tmp_path), "plotly.min.js"]:
        assert (tmp_path / name).stat().st_size > 0, name
    assert "https://cdn" not in (tmp_path / "radar.html").read_text()
    assert Image.open(tmp_path / "sheet.png").size == (6 * 128 + 8, 2 * (128 + 16))


@pytest.mark.slow
def test_whole_study_on_a_random_pack_is_resumed_and_complete(random_pack, tmp_path):
    from moe_pipeline.pipeline import MoEVideoPipeline

    pipeline = MoEVideoPipeline.from_pack(random_pack)
    made = []
    real = pipeline.generate

    def counted(request, **options):
        made.append(request.mode)
        return real(request, **options)

    pipeline.generate = counted
    prompt = "an avatar dancing in a neon city"

    def stop_at_once(done, total, what):
        assert (done, total) == (1, 2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        case_study(tmp_path, prompts=[prompt], seeds=1, steps=1, pipeline=pipeline, progress=stop_at_once)
    report = case_study(tmp_path, prompts=[prompt], seeds=1, steps=1, pipeline=pipeline)
    warm_up = ["single", "moe"]
    assert made == [*warm_up, "single", *warm_up, "moe"]  # one clip before the stop, one after
    assert [run.mode for run in report.runs] == ["single", "moe"]
    assert report.comparisons["background_consistency_pack"].pairs == 1
    for name in [*report.written, "plotly.min.js"]:
        assert (tmp_path / name).stat().st_size > 0, name
    assert Image.open(tmp_path / "radar.png").size[0] > 600
    assert (tmp_path / "clips" / "moe" / f"{prompt}-0.mp4").is_file()
    assert json.loads((tmp_path / "report.json").read_text())["schema_version"] == 1
    assert "https://cdn" not in (tmp_path / "radar.html").read_text()  # plotly.js lies in the folder
    text = (tmp_path / "report.md").read_text()
    assert prompt in text and "stand-in" in text and "What this does not show" in text


def test_empty_and_bad_studies_are_refused_before_any_clip(random_pack, tmp_path):
    for options, code in (
        ({"prompts": []}, "empty_study"),
        ({"seeds": 0}, "empty_study"),
        ({"prompts": ["fine", " "]}, "bad_request"),
        ({"prompts": ["fine"], "steps": 100000}, "bad_request"),
    ):
        with pytest.raises(MoEverseError) as caught:
            case_study(tmp_path / "out", pack=random_pack, **options)
        assert caught.value.code == code
    assert not list(tmp_path.rglob("*.mp4"))

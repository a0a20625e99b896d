"""The evaluation engine: many clips, bad ones among them, resumed, and in VBench's layout."""

import csv
import errno
import json
import shutil
from pathlib import Path

import known_clips as clips
import numpy as np
import pytest
from PIL import Image

from moe_pipeline.cli.evaluate import report_text
from moe_pipeline.metrics import DEFAULT_METRICS, measure
from moe_pipeline.metrics.aggregate import DIMENSIONS, quality_score
from moe_pipeline.schema.errors import MoEverseError
from moe_pipeline.schema.metrics import ClipMetrics, EvaluationReport, MetricValue
from moe_pipeline.studies import evaluate as engine
from moe_pipeline.studies.clip_sources import prompt_of_name
from moe_pipeline.studies.evaluate import evaluate
from moe_pipeline.studies.evaluation_files import vbench_documents
from moe_pipeline.video import read_video, write_mp4


@pytest.fixture(scope="module")
def gallery(tmp_path_factory):
    """A folder with three good clips, a folder of frames and three bad files."""
    folder = tmp_path_factory.mktemp("gallery")
    write_mp4(clips.shifted(3, frames=10), folder / "a red tower-0.mp4", 8.0)
    write_mp4(clips.frozen(10), folder / "a red tower-1.mp4", 8.0)
    write_mp4(
        clips.moving_disc(10), folder / "disc.mp4", 8.0, {"comment": '{"request": {"prompt": "a disc"}}'}
    )
    frames = folder / "frames"
    frames.mkdir()
    for t, frame in enumerate(clips.shifted(1, frames=4, side=33)):
        Image.fromarray(frame).save(frames / f"{t}.png")
    (folder / "empty.mp4").touch()
    (folder / "text.webm").write_text("no video at all")
    data = (folder / "disc.mp4").read_bytes()
    (folder / "cut.mp4").write_bytes(data[: len(data) // 2])
    (folder / "notes.txt").write_text("not a clip")
    return folder


def test_bad_clips_are_sentences_and_the_others_are_measured(gallery):
    report = evaluate([gallery, gallery / "absent.mp4"], workers=1)
    by_name = {clip.name: clip for clip in report.clips}
    bad = {"empty.mp4", "text.webm", "cut.mp4", "absent.mp4"}
    assert set(by_name) == bad | {"a red tower-0.mp4", "a red tower-1.mp4", "disc.mp4", "frames"}
    assert {clip.name for clip in report.failed} == bad
    for clip in report.failed:
        assert clip.metrics is None and clip.error.count("\n") == 0 and clip.error.endswith(".")
    flicker = report.summary["temporal_flickering"]
    assert (flicker.measured, flicker.of) == (4, 8) and set(flicker.missing) == {
        c.name for c in report.failed
    }
    eight = report.summary["warping_error_8"]
    assert eight.measured == 3 and "at least 9 frames" in eight.missing["frames"]
    assert by_name["frames"].fps == 8.0 and "assumed" in by_name["frames"].notes[0]


def test_the_table_says_why_figures_are_missing_and_what_was_assumed(gallery, tmp_path):
    weights, one = tmp_path / "weights", tmp_path / "one-0.mp4"
    weights.mkdir()
    write_mp4(clips.frozen(1), one, 8.0)
    names = ["temporal_flickering", "loop_closure", "warping_error_8", "imaging_quality"]
    report = evaluate(
        [gallery / "frames", gallery / "disc.mp4", one], names=names, workers=1, weights=weights
    )
    text = report_text(report, None)
    assert (
        "Left out of one-0.mp4: Temporal flickering, Loop closure (needs at least 2 frames, the clip has 1 frame)."
        in text
    )
    assert (
        "Left out of frames: Warping error over 8 frames (needs at least 9 frames, the clip has 4 frames)."
        in text
    )
    assert "Left out of frames, disc.mp4, one-0.mp4: Imaging quality (needs the weights of MUSIQ" in text
    assert "Note: frames: A folder of frames has no frame rate; 8 fps assumed." in text


def test_a_limit_of_frames_is_told_where_it_cut(gallery):
    found = evaluate(
        [gallery / "disc.mp4", gallery / "frames"], names=["loop_closure"], workers=1, max_frames=6
    )
    cut, whole = found.clips
    assert cut.frames == 6 and "Only the first 6 frames" in cut.notes[-1]
    assert whole.frames == 4 and not any("Only the first" in note for note in whole.notes)
    with pytest.raises(MoEverseError, match="limit of 0 frames"):
        evaluate([gallery / "disc.mp4"], names=["loop_closure"], max_frames=0)


def test_figures_are_those_of_measure(gallery):
    report = evaluate([gallery / "disc.mp4"])
    clip = read_video(gallery / "disc.mp4")
    direct = measure(clip.frames, clip.fps)
    found = report.clips[0].metrics
    assert {n: v.value for n, v in found.values.items()} == {n: v.value for n, v in direct.values.items()}


def test_prompts_come_from_name_record_file_and_argument(gallery, tmp_path):
    sources = {
        c.name: (c.prompt, c.prompt_source)
        for c in evaluate([gallery], workers=1, names=["loop_closure"]).clips
    }
    assert sources["a red tower-0.mp4"] == ("a red tower", "file name")
    assert sources["disc.mp4"] == ("a disc", "record")
    assert sources["frames"] == (None, "")
    table = tmp_path / "prompts.json"
    table.write_text(json.dumps({"disc.mp4": "a square", "frames": "pixels"}))
    filed = {
        c.name: c.prompt for c in evaluate([gallery], prompts=table, workers=1, names=["loop_closure"]).clips
    }
    assert filed["disc.mp4"] == "a square" and filed["frames"] == "pixels"
    assert filed["a red tower-1.mp4"] == "a red tower"
    given = evaluate([gallery / "disc.mp4"], prompt="mine", names=["loop_closure"]).clips[0]
    assert (given.prompt, given.prompt_source) == ("mine", "given")


def test_vbench_names_lose_one_trailing_index():
    assert prompt_of_name("a cat on a sofa-3") == "a cat on a sofa"
    assert prompt_of_name("a well-lit hall-12") == "a well-lit hall"
    assert prompt_of_name("a cat -3") == "a cat "  # nothing but the index is cut
    assert prompt_of_name("clip") is None and prompt_of_name("-3") is None


def test_processes_give_the_same_figures_and_report_progress(gallery):
    seen = []
    names = ("temporal_flickering", "loop_closure", "colour_drift")
    many = evaluate(
        [gallery],
        workers=2,
        names=names,
        progress=lambda done, total, clip: seen.append((done, total, clip.name)),
    )
    one = evaluate([gallery], workers=1, names=names)
    assert [c.name for c in many.clips] == [c.name for c in one.clips]
    assert {n: s.mean for n, s in many.summary.items()} == pytest.approx(
        {n: s.mean for n, s in one.summary.items()}
    )
    assert [done for done, _, _ in seen] == list(range(1, 8)) and {total for _, total, _ in seen} == {7}


def test_interrupted_evaluation_goes_on_where_it_stopped(gallery, tmp_path, monkeypatch):
    folder = tmp_path / "clips"
    shutil.copytree(gallery, folder)
    out = tmp_path / "out"

    def stop_after_two(done, total, clip):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate([folder], out=out, workers=1, progress=stop_after_two)
    assert not (out / "results.json").exists()
    measured = []
    real = engine.evaluate_clip
    monkeypatch.setattr(
        engine, "evaluate_clip", lambda source, s: measured.append(source.name) or real(source, s)
    )
    report = evaluate([folder], out=out, workers=1)
    assert [c.name for c in report.clips if c.reused] == ["a red tower-0.mp4", "a red tower-1.mp4"]
    assert len(measured) == 5
    # changed content and changed settings are measured again, a bad clip is tried again
    shutil.copy(folder / "disc.mp4", folder / "a red tower-0.mp4")
    assert {c.name for c in evaluate([folder], out=out, workers=1).clips if not c.reused} >= {
        "a red tower-0.mp4",
        "cut.mp4",
    }
    assert not any(c.reused for c in evaluate([folder], out=out, workers=1, names=["loop_closure"]).clips)
    # half a result file is no result
    victim = next((out / "clips").glob("disc-*.json"))
    for file in (out / "clips").glob("disc-*.json"):
        file.write_text(victim.read_text()[:100])
    assert "disc.mp4" in {c.name for c in evaluate([folder], out=out, workers=1).clips if not c.reused}


def test_files_hold_every_clip_and_every_count(gallery, tmp_path):
    report = evaluate([gallery], out=tmp_path, workers=1)
    assert report.written == ["results.csv", "series.csv", "results.json"]
    again = EvaluationReport.model_validate_json((tmp_path / "results.json").read_text())
    assert again.summary == report.summary
    rows = list(csv.DictReader((tmp_path / "results.csv").open()))
    table = {row["clip"]: row for row in rows}
    assert table["empty.mp4"]["temporal_flickering"] == "" and "0 bytes" in table["empty.mp4"]["error"]
    good = [float(row["temporal_flickering"]) for row in rows[:-2] if row["temporal_flickering"]]
    assert float(table["mean"]["temporal_flickering"]) == pytest.approx(np.mean(good))
    assert table["clips in the mean"]["temporal_flickering"] == "4 of 7"
    series = [r for r in csv.DictReader((tmp_path / "series.csv").open()) if r["clip"] == "disc.mp4"]
    smooth = [int(r["frame"]) for r in series if r["metric"] == "motion_smoothness_flow"]
    assert smooth == [1, 3, 5, 7]
    assert not list(tmp_path.rglob("*.part*"))


# ------------------------------------------------------------------------------------------ VBench's layout


def vbench_final_score(folder):
    """What VBench's scripts/cal_final_score.py does with a folder of result files: element 0 of each key."""
    upload = {}
    for file in folder.iterdir():
        document = json.loads(file.read_text())
        if isinstance(document, dict):
            upload |= {key.replace("_", " "): document[key][0] for key in document}
    return upload


def test_vbench_layout_is_read_by_vbench_script_and_holds_no_stand_in(gallery, tmp_path):
    report = evaluate([gallery], out=tmp_path, layout="vbench", workers=1)
    upload = vbench_final_score(tmp_path / "vbench")
    assert upload == {"temporal flickering": pytest.approx(report.summary["temporal_flickering"].mean)}
    scores = json.loads((tmp_path / "vbench" / "results_eval_results.json").read_text())
    assert set(scores) <= set(DIMENSIONS)
    average, rows = scores["temporal_flickering"]
    assert average == pytest.approx(np.mean([row["video_results"] for row in rows])) and len(rows) == 4
    full = json.loads((tmp_path / "vbench" / "results_full_info.json").read_text())
    tower = next(entry for entry in full if entry["prompt_en"] == "a red tower")
    assert len(tower["video_list"]) == 2 and tower["dimension"] == ["temporal_flickering"]


def _report_with(values):
    report_clips = []
    for name, by_metric in values.items():
        metrics = ClipMetrics(frames=9, fps=8.0)
        for metric, (value, length) in by_metric.items():
            metrics.values[metric] = MetricValue(
                name=metric, value=value, series=[value] * length, exactness="vbench-definition"
            )
        report_clips.append(engine.ClipEvaluation(name=name, path=name, metrics=metrics))
    return engine.summarise(report_clips)


def test_vbench_scales_of_networks():
    report = _report_with(
        {
            "x-0.mp4": {
                "imaging_quality": (0.6, 9),
                "dynamic_degree": (1.0, 8),
                "subject_consistency": (0.9, 8),
            },
            "y-0.mp4": {
                "imaging_quality": (0.4, 9),
                "dynamic_degree": (0.0, 8),
                "subject_consistency": (0.6, 2),
            },
        }
    )
    _, scores = vbench_documents(report)
    assert scores["imaging_quality"][0] == pytest.approx(0.5)
    assert [r["video_results"] for r in scores["imaging_quality"][1]] == pytest.approx([60.0, 40.0])
    assert [r["video_results"] for r in scores["dynamic_degree"][1]] == [True, False]
    assert scores["dynamic_degree"][0] == 0.5
    assert scores["subject_consistency"][0] == pytest.approx((0.9 * 8 + 0.6 * 2) / 10)  # pairs, not clips


def test_quality_appears_only_when_all_seven_are_exact_on_every_clip():
    seven = {n: (0.8, 3) for n in DIMENSIONS if DIMENSIONS[n].group == "quality"}
    whole = _report_with({"x-0.mp4": seven, "x-1.mp4": seven})
    assert whole.vbench_quality is not None and whole.vbench_quality_note == ""
    partial = _report_with(
        {"x-0.mp4": seven, "x-1.mp4": {n: v for n, v in seven.items() if n != "imaging_quality"}}
    )
    assert partial.vbench_quality is None and "imaging_quality" in partial.vbench_quality_note
    stand_ins = evaluate_names = _report_with({"x-0.mp4": {"temporal_flickering": (1.0, 3)}})
    assert stand_ins.vbench_quality is None and "subject_consistency" in evaluate_names.vbench_quality_note


def test_quality_is_what_vbench_script_makes_of_the_files():
    """Clips of different length: VBench averages both consistencies over frame pairs."""
    seven = [n for n in DIMENSIONS if DIMENSIONS[n].group == "quality"]
    report = _report_with(
        {
            "x-0.mp4": {n: (0.9, 15) for n in seven},
            "y-0.mp4": {n: (0.5, 3) for n in seven},
        }
    )
    _, scores = vbench_documents(report)
    assert report.vbench_quality == pytest.approx(quality_score({n: scores[n][0] for n in seven}))
    assert report.vbench_quality > quality_score({n: report.summary[n].mean for n in seven})


def test_weights_that_came_later_are_used_and_not_hidden_by_an_old_result(gallery, tmp_path):
    weights, options = tmp_path / "weights", {"workers": 1, "names": ["loop_closure", "imaging_quality"]}
    weights.mkdir()

    def again():
        return evaluate([gallery / "disc.mp4"], out=tmp_path / "out", weights=weights, **options).clips[0]

    assert "no musiq-spaq.safetensors" in again().metrics.skipped["imaging_quality"]
    assert again().reused
    (weights / "musiq-spaq.safetensors").write_bytes(b"not tensors")
    now = again()
    assert not now.reused and "damaged" in now.metrics.skipped["imaging_quality"]
    assert again().reused


def _no_features():
    """A maker of an encoder that no asked figure needs."""


def test_features_of_an_older_pack_are_measured_again(gallery, tmp_path, monkeypatch, pack_dir):
    manifest = tmp_path / "pack" / "pack.yaml"
    manifest.parent.mkdir()
    shutil.copy(pack_dir / "pack.yaml", manifest)
    monkeypatch.setattr("moe_pipeline.packs.EMBEDDED", manifest.parent)

    def again(features):
        options = {"names": ["loop_closure"], "out": tmp_path / "out", "workers": 1, "features": features}
        return evaluate([gallery / "disc.mp4"], **options).clips[0].reused

    assert [again(features) for features in (None, _no_features, _no_features)] == [False, False, True]
    manifest.write_text(manifest.read_text() + "# another one\n")
    assert not again(_no_features) and again(None)
    manifest.unlink()
    assert not again(_no_features)  # its absence is for the encoder to tell


# ---------------------------------------------------------------------------------------------- bad requests


def test_bad_requests_are_one_sentence(gallery, tmp_path):
    def refused(code, *arguments, **options):
        with pytest.raises(MoEverseError) as caught:
            evaluate(*arguments, **options)
        assert caught.value.code == code and caught.value.remedy

    refused("nothing_to_measure", [])
    (tmp_path / "bare").mkdir()
    refused("nothing_to_measure", [tmp_path / "bare"])
    refused("unknown_metric", [gallery], names=["beauty"])
    refused("bad_workers", [gallery], workers=0)
    refused("unknown_layout", [gallery], layout="fancy")
    refused("layout_without_folder", [gallery], layout="vbench")
    refused("two_prompts", [gallery], prompt="a", prompts={"a": "b"})
    refused("prompts_unreadable", [gallery], prompts=tmp_path / "none.json")
    (tmp_path / "broken.json").write_text("{")
    refused("prompts_not_json", [gallery], prompts=tmp_path / "broken.json")
    (tmp_path / "list.json").write_text('["a"]')
    refused("prompts_form", [gallery], prompts=tmp_path / "list.json")
    (tmp_path / "file").touch()
    refused("unwritable", [gallery], out=tmp_path / "file" / "out")


def test_a_path_that_cannot_be_looked_at_does_not_end_the_others(gallery, monkeypatch):
    long = "x" * 300 + ".mp4"  # longer than a name may be
    report = evaluate([gallery / long, gallery / "disc.mp4"], workers=1, names=["loop_closure"])
    assert [clip.error_code for clip in report.clips] == ["video_not_found", None]
    closed, real = gallery / "frames", Path.stat

    def guarded(path, **options):
        if path.parent == closed:
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path, **options)

    monkeypatch.setattr(Path, "stat", guarded)  # names are shown, the files behind them are not
    report = evaluate([closed, gallery / "disc.mp4"], workers=1, names=["loop_closure"])
    assert [clip.error_code for clip in report.clips] == ["folder_unreadable", None]


def test_every_default_metric_has_a_value_or_a_reason(gallery):
    for clip in evaluate([gallery], workers=1).clips:
        if clip.metrics is not None:
            assert set(clip.metrics.values) | set(clip.metrics.skipped) == set(DEFAULT_METRICS)


def test_a_surprise_in_one_clip_does_not_end_the_others(gallery, monkeypatch):
    real = engine.measure

    def surprised(frames, fps, **options):
        if len(frames) == 4:
            raise ZeroDivisionError("a bug")
        return real(frames, fps, **options)

    monkeypatch.setattr(engine, "measure", surprised)
    report = evaluate([gallery / "frames", gallery / "disc.mp4"], workers=1, names=["loop_closure"])
    assert "ZeroDivisionError" in report.clips[0].error and report.clips[0].error_code == "unexpected"
    assert report.summary["loop_closure"].measured == 1


def test_clips_of_one_name_in_two_folders_are_told_apart(gallery, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "broken.mp4").write_text("x")
    paths = [tmp_path / "a" / "broken.mp4", tmp_path / "b" / "broken.mp4", gallery / "disc.mp4"]
    report = evaluate(paths, workers=1, names=["loop_closure"])
    assert len({clip.name for clip in report.clips}) == 3
    assert len(report.summary["loop_closure"].missing) == 2

"""Commands that report: packs, devices, doctor, evaluate, simulate, bench; and the generated reference."""

import io
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from moe_pipeline.cli import main
from moe_pipeline.schema.errors import MoEverseError

ROOT = Path(__file__).resolve().parent.parent


def test_packs_lists_experts_and_checks_files(random_pack: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["packs", str(random_pack), "--json"]) == 0
    pack = json.loads(capsys.readouterr().out)["packs"][0]
    assert pack["id"] == "random-worlds" and len(pack["experts"]) == 6
    assert pack["bytes"] == sum(path.stat().st_size for path in random_pack.glob("*.safetensors"))
    assert main(["packs", str(random_pack)]) == 0
    shown = capsys.readouterr().out
    assert "every file matches its checksum" in shown and "avatar" in shown and "generalist" in shown


def test_devices_shows_profiles_and_the_source_of_each_number(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["devices", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert len(data["devices"]) >= 14 and len(data["networks"]) >= 8 and len(data["scenarios"]) >= 6
    assert main(["devices"]) == 0
    shown = capsys.readouterr().out
    assert all(entry["id"] in shown for kind in ("devices", "networks", "scenarios") for entry in data[kind])
    assert main(["devices", "quest-3"]) == 0
    shown = capsys.readouterr().out
    assert "memory_gbs" in shown and "assumption" in shown and "nominal" in shown


def test_doctor_says_in_words_what_works(random_pack: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--pack", str(random_pack)]) == 0
    shown = capsys.readouterr().out
    assert "This machine can" in shown and "make clips with the pack" in shown.split("It cannot")[0]
    assert "6 experts" in shown


def test_doctor_names_what_is_missing_and_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--pack", str(tmp_path), "--json"]) == 1
    data = json.loads(capsys.readouterr().out)
    pack = next(finding for finding in data["findings"] if finding["what"] == "pack")
    assert pack["state"] == "missing" and "pack.yaml is missing" in pack["words"] and pack["remedy"]
    assert any("make clips" in words for words in data["cannot"])
    assert any("simulate" in words for words in data["can"])


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """A folder with a moving clip, a still one, and a file that is no video."""
    from moe_pipeline.video import write_mp4

    folder = tmp_path / "clips"
    folder.mkdir()
    picture = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    write_mp4(
        np.stack([np.roll(picture, 3 * t, axis=1) for t in range(8)]), folder / "a moving wall-0.mp4", 8.0, {}
    )
    write_mp4(np.stack([picture] * 8), folder / "still.mp4", 8.0, {})
    (folder / "notes.mp4").write_text("not a video")
    return folder


def test_evaluate_measures_the_rest_when_one_clip_is_broken(
    clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["evaluate", str(clips), "--out", str(out), "--workers", "1", "--json"]) == 0
    shown = capsys.readouterr()
    report = json.loads(shown.out)
    by_name = {clip["name"]: clip for clip in report["clips"]}
    assert by_name["notes.mp4"]["error"] and by_name["still.mp4"]["metrics"]["temporal_flickering"] > 0.99
    assert by_name["a moving wall-0.mp4"]["prompt"] == "a moving wall"
    assert report["summary"]["temporal_flickering"]["measured"] == 2
    assert "notes.mp4" in shown.err and (out / "results.csv").exists()
    (tmp_path / "nothing").mkdir()
    assert main(["evaluate", str(clips), str(tmp_path / "nothing"), "--out", str(out), "--workers", "1"]) == 0
    shown = capsys.readouterr()
    assert "2 of 4" in shown.out, "an empty folder counts among what was asked for"
    assert "Not measured: notes.mp4 is not a video" in shown.out
    assert "nothing holds no clip and no frames" in shown.out and "nothing holds no clip" in shown.err


def test_evaluate_fails_when_nothing_can_be_measured(clips: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(clips / "notes.mp4")]) == 2
    assert "notes.mp4" in capsys.readouterr().err
    assert main(["evaluate", "x" * 300]) == 2  # longer than a name may be
    assert "There is no file or folder xxx" in capsys.readouterr().err


def test_simulate_reports_one_policy_and_compares_several(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["simulate", "--scenario", "campus-mec", "--requests", "60"]
    assert main([*words, "--policy", "greedy", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["requests"] == 60 and report["p50_ms"] <= report["p95_ms"] <= report["p99_ms"]
    assert main([*words, "--policy", "greedy", "--load", "0.5"]) == 0
    shown = capsys.readouterr().out
    assert "estimated" in shown and "queues grow" not in shown
    assert main([*words, "--policy", "greedy", "--load", "2"]) == 0
    assert "queues grow without end" in capsys.readouterr().out
    both = ["--policy", "greedy", "--policy", "random", "--seeds", "2"]
    assert main([*words, *both, "--json"]) == 0
    compared = json.loads(capsys.readouterr().out)
    assert set(compared["intervals"]) == {"greedy", "random"} and len(compared["reports"]) == 4
    assert compared["reports"][0]["p50_ms"] == report["p50_ms"], "the same seed gives the same run"
    assert main([*words, *both]) == 0
    shown = capsys.readouterr().out
    assert "±" in shown and "true optimum" not in shown


def test_simulate_says_what_its_optimal_policy_is(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["simulate", "--scenario", "phone-cloud", "--requests", "8", "--policy", "optimal"]
    for more in ([], ["--policy", "greedy"]):
        assert main([*words, *more]) == 0
        assert "the true optimum only in runs short enough" in capsys.readouterr().out


def test_bench_measures_and_writes_its_figures(
    random_pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from moe_pipeline.schema.request import SceneRequest
    from moe_pipeline.studies import bench

    def small(**values: object) -> SceneRequest:
        return SceneRequest.parse(**values, steps=2, frames=4, width=64, height=64)

    monkeypatch.setattr(bench, "SceneRequest", small)
    out = tmp_path / "bench"
    words = [
        "bench",
        "--pack",
        str(random_pack),
        "--repeats",
        "2",
        "--cold",
        "0",
        "--out",
        str(out),
        "--json",
    ]
    assert main(words) == 0
    report = json.loads(capsys.readouterr().out)
    assert report == json.loads((out / "bench.json").read_text())
    figures = {figure["name"]: figure for figure in report["figures"]}
    assert set(figures) == {"default_clip_warm_s", "single_clip_warm_s", "first_preview_s"}
    assert all(len(figure["runs"]) == 2 and min(figure["runs"]) > 0 for figure in figures.values())
    for preview, total in zip(
        figures["first_preview_s"]["runs"], figures["default_clip_warm_s"]["runs"], strict=True
    ):
        assert preview < total
    assert report["environment"]["torch"] and report["machine"]["cores"] >= 1
    assert report["stages_ms"]["moe"]["denoise_ms"] > report["stages_ms"]["moe"]["step_ms"] > 0
    assert "| default clip, mixture, warm |" in (out / "bench.md").read_text()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_case_study_writes_its_report(
    random_pack: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["case-study", "--pack", str(random_pack), "--prompt", "a robot on a neon street", "--seeds", "2"]
    words += ["--steps", "1", "--out", str(tmp_path)]
    assert main([*words, "--json"]) == 0
    shown = capsys.readouterr()
    report = json.loads(shown.out)
    assert len(report["runs"]) == 4 and report["comparisons"]["temporal_flickering"]["pairs"] == 2
    assert "4 of 4" in shown.err
    for name in report["written"]:
        assert (tmp_path / name).stat().st_size > 0
    assert main(words) == 0
    assert "95 % interval" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_cold_run_is_a_process_of_its_own(random_pack: Path) -> None:
    from moe_pipeline.studies.bench import cold_run

    seconds, peak_gb = cold_run("a neon street", random_pack)
    assert seconds > 1.0 and peak_gb is not None and 0.2 < peak_gb < 10


def test_a_cold_run_that_fails_says_why(tmp_path: Path) -> None:
    from moe_pipeline.studies.bench import cold_run

    with pytest.raises(MoEverseError, match=r"pack\.yaml is missing"):
        cold_run("a neon street", tmp_path)


# ------------------------------------------------------------------------------------- following a stream


def events(
    control: object, steps: int = 4, between: Callable[[int], None] = lambda index: None
) -> Iterator[tuple]:
    """The part of a stream that progress looks at, with the stream's own rule for cancelling."""
    from moe_pipeline import interfaces as ev

    for index in range(steps):
        if control.cancelled:
            yield "moe", ev.Cancelled("run", index, 0.0, after_steps=index)
            return
        weights = {"city": 0.75, "avatar": 0.25, "space": 0.0}
        yield "moe", ev.Step("run", index, 0.0, index, steps, 0.5, weights, 90.0, 1500.0, None)
        between(index)


def test_a_signal_cancels_between_steps_and_handlers_return() -> None:
    from rich.console import Console

    from moe_pipeline.cli.border import Interrupted
    from moe_pipeline.cli.watch import Watcher, follow
    from moe_pipeline.interfaces import RunControl

    for signum, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        before = signal.getsignal(signum)
        control, shown = RunControl(), io.StringIO()

        def strike(index: int, signum: int = signum) -> None:
            if index == 1:
                os.kill(os.getpid(), signum)

        with pytest.raises(Interrupted) as stopped:
            follow(events(control, between=strike), control, Watcher(Console(file=shown)))
        assert stopped.value.exit_code == code and control.cancelled
        assert "step 2 of 4" in shown.getvalue() and "step 3 of 4" not in shown.getvalue()
        assert signal.getsignal(signum) is before


def test_a_failed_run_is_an_error_with_its_sentence() -> None:
    from rich.console import Console

    from moe_pipeline import interfaces as ev
    from moe_pipeline.cli.watch import Watcher, follow

    failed = iter([("", ev.Failed("run", 0, 0.0, "pack_file_missing", "Pack file x is missing."))])
    with pytest.raises(MoEverseError, match="Pack file x is missing"):
        follow(failed, ev.RunControl(), Watcher(Console(file=io.StringIO())))


def test_a_terminal_sees_step_time_left_and_gate_weights() -> None:
    from rich.console import Console

    from moe_pipeline import interfaces as ev
    from moe_pipeline.cli.watch import Watcher

    request = ev.Accepted("run", 0, 0.0, request=_resolved())
    shown = io.StringIO()
    with Watcher(Console(file=shown, force_terminal=True, width=120)) as watcher:
        watcher.show(request, "moe")
        for label, event in events(ev.RunControl()):
            watcher.show(event, label)
        watcher._bar.refresh()
    for words in ("step 4 of 4", "1.5 s left", "city 0.75, avatar 0.25"):
        assert words in shown.getvalue()
    assert "space" not in shown.getvalue()


def _resolved() -> object:
    from moe_pipeline.schema.request import ResolvedRequest

    return ResolvedRequest(
        prompt="a city", seed=0, steps=4, guidance=3.0, top_k=2, mode="moe", frames=4, width=64, height=64, fps=8,
        scenario="campus-mec", objective="latency",
    )  # fmt: skip


def test_a_prompt_with_markup_is_shown_as_it_is() -> None:
    from rich.console import Console

    from moe_pipeline import interfaces as ev
    from moe_pipeline.cli.watch import Watcher

    shown = io.StringIO()
    note = ev.RunWarning("run", 0, 0.0, "low_coverage", "[bold red]a [link=x]prompt[/link]\x1b[2J")
    Watcher(Console(file=shown)).show(note)
    assert "[bold red]a [link=x]prompt[/link]" in shown.getvalue() and "\x1b" not in shown.getvalue()


def test_the_reference_is_current(request: pytest.FixtureRequest) -> None:
    from moe_pipeline.cli.reference import reference

    path = ROOT / "docs" / "cli.md"
    if request.config.getoption("--update-golden"):
        path.write_text(reference(), encoding="utf-8")
    assert path.read_text(encoding="utf-8") == reference(), (
        "run `python -m moe_pipeline.cli.reference > docs/cli.md` and commit it"
    )

"""The border of the command line: exit codes, one sentence for bad input, only results on standard output."""

import contextlib
import io
import json
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from moe_pipeline.cli import main
from moe_pipeline.cli.border import printable, results_only

ROOT = Path(__file__).resolve().parent.parent
HEAVY = {"torch", "transformers", "diffusers", "gradio", "plotly", "ortools", "simpy", "cv2", "av", "numpy"}


_OPENED: dict[Path, object] = {}


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What the user of this machine measured earlier plays no part."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(autouse=True)
def one_pipeline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands on the random pack share one loaded pipeline; the fixture `generated` opens its own."""
    from moe_pipeline.cli import options

    opened = options.open_pipeline

    def shared(pack: Path | None, torch_device: str = "auto", scenario: str | None = None) -> object:
        if (
            pack is None
            or pack.name != "random-worlds"
            or torch_device != "auto"
            or scenario == "this-machine"
        ):
            return opened(pack, torch_device, scenario)
        if pack not in _OPENED:
            _OPENED[pack] = opened(pack)
        return _OPENED[pack]

    monkeypatch.setattr(options, "open_pipeline", shared)


def python(*words: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=timeout)


def test_help_is_quick_and_loads_nothing_heavy() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    shown = python("-X", "importtime", "-m", "moe_pipeline", "--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert shown.returncode == 0
    for command in (
        "generate",
        "compare",
        "plan",
        "simulate",
        "evaluate",
        "packs",
        "devices",
        "doctor",
        "bench",
    ):
        assert re.search(rf"^  {command}\b", shown.stdout, flags=re.MULTILINE)
    loaded = set(re.findall(r"\|\s+([a-z_0-9]+)$", shown.stderr, flags=re.MULTILINE))
    assert "typer" in loaded and not HEAVY & loaded
    # Processor time, so that a busy machine does not matter; 0.3 s on a quiet core.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0


LONG = "a" * 10_000
BAD_INPUTS = {
    "empty prompt": (["generate", "  "], "empty"),
    "long prompt": (["generate", LONG], "10000 characters, at most 1000"),
    "no steps": (["generate", "a city", "--steps", "0"], "steps"),
    "too many frames": (["generate", "a city", "--frames", "10000"], "frames must be 4 to"),
    "odd frames": (["generate", "a city", "--frames", "15"], "Try 12"),
    "too many experts": (["generate", "a city", "--top-k", "99"], "top_k must be 1 to 6, got 99"),
    "unknown mode": (["generate", "a city", "--mode", "best"], "'moe' or 'single'"),
    "negative seed": (["generate", "a city", "--seed", "-1"], "seed"),
    "guidance not a number": (["generate", "a city", "--guidance", "nan"], "guidance"),
    "not a number": (["generate", "a city", "--steps", "many"], "--steps"),
    "unknown option": (["generate", "a city", "--stepps", "4"], "--stepps"),
    "unknown command": (["generrate", "a city"], "generrate"),
    "no prompt": (["generate"], "'prompt'"),
    "unknown scenario": (["generate", "a city", "--scenario", "moon-base"], "no scenario 'moon-base'"),
    "unknown torch device": (["generate", "a city", "--torch-device", "abacus"], "'auto', 'cpu' or 'cuda'"),
    "control characters": (["generate", "a city", "--mode", "\x1b[31mred"], "mode"),
    "compare, empty prompt": (["compare", ""], "empty"),
    "plan, unknown device": (["plan", "a city", "--kill", "toaster"], "no device 'toaster'"),
    "plan, unknown objective": (
        ["plan", "a city", "--objective", "beauty"],
        "'latency', 'energy' or 'balanced'",
    ),
    "plan, no bandwidth": (["plan", "a city", "--bandwidth", "0"], "0.01 to 10"),
    "devices, unknown device": (["devices", "toaster"], "no device 'toaster'"),
    "simulate, unknown policy": (["simulate", "--policy", "hope"], "no policy 'hope'"),
    "simulate, unknown scenario": (["simulate", "--scenario", "moon-base"], "no scenario 'moon-base'"),
    "evaluate, no file": (["evaluate"], "'paths'"),
    "case-study, no seeds": (["case-study", "--seeds", "0"], "0 seeds"),
    "case-study, empty prompt": (["case-study", "--prompt", " "], "empty"),
    "case-study, no weights": (["case-study", "--weights", "nowhere"], "no folder nowhere"),
    "evaluate, unknown metric": (["evaluate", "x.mp4", "--metric", "beauty"], "no metric 'beauty'"),
    "evaluate, layout without folder": (["evaluate", "x.mp4", "--vbench-layout"], "Give an output folder"),
    "evaluate, two sources of prompts": (["evaluate", "x.mp4", "--prompt", "a", "--prompts", "b"], "exclude"),
    "case-study, no name for weights": (["case-study", "--weights", "x" * 300], "no folder xxx"),
    "packs, no name for a folder": (["packs", "x" * 300], "no pack in xxx"),
    "bench, no runs": (["bench", "--repeats", "0"], "repeats must be 1 to 100"),
}
WITH_PACK = {"generate", "compare", "plan", "bench", "case-study"}
WITH_OUT = {"generate", "compare", "bench", "case-study"}


@pytest.mark.parametrize("case", BAD_INPUTS)
def test_bad_input_is_one_sentence_and_leaves_nothing(
    case: str, random_pack: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words, expected = BAD_INPUTS[case]
    out = tmp_path / "out"
    command = words[0]
    extra = ["--pack", str(random_pack)] * (command in WITH_PACK) + ["--out", str(out)] * (
        command in WITH_OUT
    )
    assert main([*words, *extra]) == 2
    shown = capsys.readouterr()
    assert expected in shown.err
    assert (
        len(shown.err.strip().splitlines()) == 1 and "\x1b" not in shown.err and "Traceback" not in shown.err
    )
    assert shown.out == ""
    assert not out.exists()


def test_an_unwritable_folder_is_refused_before_the_work(
    random_pack: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("mine")
    for command in ("generate", "compare", "bench"):
        words = [] if command == "bench" else ["a city"]
        assert (
            main([command, *words, "--out", str(tmp_path / "file" / "out"), "--pack", str(random_pack)]) == 2
        )
        shown = capsys.readouterr()
        assert "cannot be written" in shown.err and len(shown.err.splitlines()) == 1 and shown.out == ""
    assert (tmp_path / "file").read_text() == "mine"


def test_a_broken_pack_is_named(
    random_pack: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    out = tmp_path / "out"
    small = ["--steps", "1", "--frames", "4", "--width", "64", "--height", "64"]
    broken = shutil.copytree(random_pack, tmp_path / "broken")
    victim = broken / "autoencoder.safetensors"
    content = victim.read_bytes()
    for damage, words in (
        (lambda: victim.write_bytes(content[:-1]), "bytes instead of"),
        (lambda: victim.write_bytes(content[:-1] + bytes([content[-1] ^ 1])), "does not match its checksum"),
        (victim.unlink, "autoencoder.safetensors is missing"),
        ((broken / "pack.yaml").unlink, "pack.yaml is missing"),
    ):
        damage()
        for command in (
            ["generate", "a city", *small, "--out", str(out), "--pack", str(broken)],
            ["packs", str(broken)],
        ):
            assert main(command) == 2
            shown = capsys.readouterr()
            assert words in shown.err.splitlines()[-1] and shown.out == ""
            assert not out.exists()


def test_an_unexpected_failure_is_a_sentence_with_a_hint(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from moe_pipeline.edge import profiles

    def fail(*_: object) -> None:
        raise KeyError("a thing\nthat nobody foresaw")

    monkeypatch.setattr(profiles, "load_profiles", fail)
    assert main(["devices"]) == 1
    shown = capsys.readouterr()
    assert "KeyError" in shown.err and "--traceback" in shown.err and len(shown.err.splitlines()) == 1
    assert main(["devices", "--traceback"]) == 1
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_a_defect_in_a_run_is_no_bad_input(
    random_pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from moe_pipeline.engine import Engine

    def fail(*_: object) -> None:
        raise KeyError("nobody foresaw it")

    monkeypatch.setattr(Engine, "decode", fail)
    small = ["--steps", "1", "--frames", "4", "--width", "64", "--height", "64", "--pack", str(random_pack)]
    words = ["generate", "a quiet bay", "--out", str(tmp_path / "out"), *small]
    assert main(words) == 1
    shown = capsys.readouterr()
    last = shown.err.splitlines()[-1]
    assert "KeyError" in last and "--traceback" in last and "Traceback" not in shown.err and shown.out == ""
    assert not (tmp_path / "out").exists()
    assert main([*words, "--traceback"]) == 1
    assert "nobody foresaw it" in capsys.readouterr().err


def test_ctrl_c_outside_a_run_is_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from moe_pipeline.edge import profiles

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(profiles, "load_profiles", interrupted)
    assert main(["devices"]) == 130
    assert capsys.readouterr().err == "Cancelled.\n"


def test_only_results_reach_standard_output() -> None:
    """Prints of libraries go to stderr, those of C code too, and standard output is whole again afterwards."""
    code = (
        "import os, sys\n"
        "from moe_pipeline.cli.border import results_only\n"
        "with results_only() as results:\n"
        "    print('a library prints'); os.write(1, b'C code prints\\n'); print('the answer', file=results)\n"
        "print('afterwards')"
    )
    done = python("-c", code)
    assert done.stdout == "the answer\nafterwards\n"
    assert "a library prints" in done.stderr and "C code prints" in done.stderr


def test_results_only_serves_a_replaced_stdout(monkeypatch: pytest.MonkeyPatch) -> None:
    mine, other = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", mine)
    monkeypatch.setattr(sys, "stderr", other)
    with results_only() as results:
        print("noise")
        print("answer", file=results)
    assert mine.getvalue() == "answer\n" and other.getvalue() == "noise\n"


def test_sentences_cannot_steer_the_terminal() -> None:
    assert printable("a\x1b[2Jb\nc\x07") == "a\N{REPLACEMENT CHARACTER}[2Jb c\N{REPLACEMENT CHARACTER}"


def test_a_reader_that_goes_away_is_no_failure() -> None:
    command = f"{sys.executable} -m moe_pipeline devices --json | head -c 10; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.endswith("0\n") and done.stderr == ""


def test_an_interrupt_that_a_library_swallows_ends_the_run_before_it_begins() -> None:
    from moe_pipeline.cli.interrupts import cancel_on_signal, remember_interrupts
    from moe_pipeline.interfaces import RunControl

    before = signal.getsignal(signal.SIGINT)
    with remember_interrupts():
        with contextlib.suppress(KeyboardInterrupt):  # as an import inside native code does
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt), cancel_on_signal(RunControl()):
            pytest.fail("the run must not begin")
    with remember_interrupts(), cancel_on_signal(RunControl()) as seen:
        assert seen == [], "an interrupt of an earlier command is forgotten"
    assert signal.getsignal(signal.SIGINT) is before


def test_progress_over_clips_leaves_no_empty_line_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["evaluate", "nowhere.mp4", "--workers", "0"]) == 2
    assert capsys.readouterr().err == "0 workers cannot measure. Give at least 1.\n"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ctrl_c_cancels_a_run_and_leaves_nothing(random_pack: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["generate", "a city", "--steps", "64", "--out", str(out), "--pack", str(random_pack), "--json"]
    run = subprocess.Popen(
        [sys.executable, "-m", "moe_pipeline", *words],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert run.stderr is not None
    lines = []
    for line in run.stderr:
        lines.append(line)
        if "placement" in line:
            break
    run.send_signal(signal.SIGINT)
    stdout, stderr = run.communicate(timeout=120)
    assert run.returncode == 130, "".join(lines) + stderr
    assert stdout == "" and stderr.strip().endswith("Cancelled; nothing was written.")
    assert not out.exists()


@pytest.fixture(scope="module")
def generated(random_pack: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str, str]]:
    """One small run through the whole command: folder, standard output, standard error."""
    out = tmp_path_factory.mktemp("generated") / "out"
    stdout, stderr = io.StringIO(), io.StringIO()
    small = ["--steps", "3", "--frames", "8", "--width", "64", "--height", "64", "--seed", "7"]
    words = [
        "an avatar dancing in a neon city street at night",
        "--out",
        str(out),
        "--pack",
        str(random_pack),
    ]
    patch = pytest.MonkeyPatch()
    patch.setattr(sys, "stdout", stdout)
    patch.setattr(sys, "stderr", stderr)
    try:
        code = main(["generate", *words, *small, "--json"])
    finally:
        patch.undo()
    assert code == 0, stderr.getvalue()
    yield out, stdout.getvalue(), stderr.getvalue()


def test_generate_writes_a_clip_and_prints_its_record_alone(generated: tuple[Path, str, str]) -> None:
    from moe_pipeline.video import read_frames, read_metadata

    out, stdout, _ = generated
    record = json.loads(stdout)
    assert record == json.loads((out / "record.json").read_text())
    assert sorted(path.name for path in out.iterdir()) == ["clip.mp4", "record.json"]
    assert read_frames(out / "clip.mp4").shape == (8, 64, 64, 3)
    assert json.loads(read_metadata(out / "clip.mp4")["comment"])["run_id"] == record["run_id"]
    assert record["request"]["seed"] == 7 and record["request"]["top_k"] == 2
    assert sum(record["gate"]["weights"].values()) == pytest.approx(1.0)
    assert record["clip"]["path"] == "clip.mp4" and len(record["timing"]["steps"]) == 3
    for key in ("schema_version", "plan", "metrics", "pack", "environment"):
        assert record[key]
    for assignment in record["placement"]["assignments"]:
        split = assignment["estimated_ms"]
        assert split["compute"] + split["network"] == pytest.approx(split["total"], abs=2e-3)


def test_progress_goes_to_standard_error(generated: tuple[Path, str, str]) -> None:
    _, _, stderr = generated
    for words in (
        "plan: ",
        "gate: ",
        "placement (estimated): ",
        "step 3 of 3",
        "decoded 8 frames",
        "finished in",
    ):
        assert words in stderr
    for noise in ("Warning", "HF_TOKEN", "it/s", "LOAD REPORT"):
        assert noise not in stderr


def test_without_json_a_person_reads_a_summary(
    random_pack: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["--steps", "1", "--frames", "4", "--width", "64", "--height", "64"]
    scene = "a bay, a robot, a car, a spaceship, a dancer, a cube and a planet"
    words = [scene, "--mode", "single", "--out", str(tmp_path), "--pack", str(random_pack)]
    assert main(["generate", *words, *small]) == 0
    shown = capsys.readouterr().out
    for expected in (
        "clip.mp4",
        "generalist 1.00",
        "estimated",
        "measured",
        "temporal flickering",
        "moves or not (flow stand-in)",
        "Left out: a planet",
    ):
        assert expected in shown


def test_compare_writes_both_clips_and_one_record(
    random_pack: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from moe_pipeline.cli.compare import comparison_table
    from moe_pipeline.schema.record import RunRecord
    from moe_pipeline.video import read_frames

    small = ["--steps", "1", "--frames", "4", "--width", "64", "--height", "64"]
    words = ["an avatar in a neon street", "--out", str(tmp_path), "--pack", str(random_pack)]
    assert main(["compare", *words, *small, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert set(record["runs"]) == {"moe", "single"}
    table = comparison_table({label: RunRecord.model_validate(run) for label, run in record["runs"].items()})
    assert "moves or not (flow stand-in)" in table, "VBench's name is for VBench's own network"
    assert record["runs"]["moe"]["request"]["seed"] == record["runs"]["single"]["request"]["seed"]
    assert record == json.loads((tmp_path / "record.json").read_text())
    for name in ("moe.mp4", "single.mp4"):
        assert read_frames(tmp_path / name).shape == (4, 64, 64, 3)
    assert read_frames(tmp_path / "side_by_side.mp4").shape[2] > 128


def test_plan_answers_without_a_clip(random_pack: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "plan",
        "a neon city with a dancing avatar",
        "--scenario",
        "vehicle-convoy",
        "--pack",
        str(random_pack),
    ]
    assert main([*words, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["scenario"] == "vehicle-convoy" and answer["assignments"]
    for assignment in answer["assignments"]:
        split = assignment["estimated_ms"]
        assert split["compute"] + split["network"] == pytest.approx(split["total"], abs=2e-3)
    used = {assignment["device"] for assignment in answer["assignments"]}
    nodes = {device["device"] for device in answer["devices"]}
    assert {rejection["device"] for rejection in answer["rejected"]} == nodes - used
    assert all(rejection["reason"].endswith(".") for rejection in answer["rejected"])
    words[1] = "a city, a robot, a car, a spaceship, a dancer, a cube and a planet"
    for objective in ("latency", "energy", "balanced"):
        assert main([*words, "--objective", objective]) == 0
        shown = capsys.readouterr().out
        assert f"least {objective}" in shown and "Not used:" in shown
        assert "first 6 of 7 parts" in shown


def test_placing_leaves_ctrl_c_alone() -> None:
    """Placing in C++ must not take the handler of SIGINT with it; only the operating system sees its traces."""
    code = (
        "import os, signal\n"
        "from moe_pipeline.edge import load_profiles, place\n"
        "from moe_pipeline.edge.simulation_workload import reference_workloads\n"
        "profiles = load_profiles()\n"
        "place(reference_workloads(), ['a', 'b'], profiles.scenario('campus-mec'), profiles, steps=4)\n"
        "try:\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    signal.pause()\n"
        "except KeyboardInterrupt:\n"
        "    print('handled')\n"
    )
    done = python("-c", code, timeout=150)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr


def test_a_killed_device_takes_no_expert(random_pack: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "plan",
        "a neon city",
        "--scenario",
        "campus-mec",
        "--objective",
        "energy",
        "--pack",
        str(random_pack),
    ]
    assert main([*words, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    rejected = {rejection["device"] for rejection in answer["rejected"] if rejection["code"] == "not_chosen"}
    victim = sorted(rejected)[0]
    assert main([*words, "--kill", victim, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["killed"] == [victim]
    assert victim not in {assignment["device"] for assignment in answer["assignments"]}
    assert [r["code"] for r in answer["rejected"] if r["device"] == victim] == ["killed"]


def test_a_slower_network_never_helps(random_pack: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "a neon city", "--scenario", "vehicle-convoy", "--pack", str(random_pack), "--json"]
    totals = []
    for scale in ("10", "1", "0.01"):
        assert main([*words, "--bandwidth", scale]) == 0
        totals.append(json.loads(capsys.readouterr().out)["totals"]["latency"]["total"])
    assert totals == sorted(totals)


def test_this_machine_is_measured_when_a_scenario_needs_it(
    random_pack: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["devices", "this-machine"]) == 2
    assert "devices --calibrate" in capsys.readouterr().err
    words = ["plan", "a neon city", "--scenario", "this-machine", "--pack", str(random_pack), "--json"]
    assert main(words) == 0
    answer = json.loads(capsys.readouterr().out)
    assert {assignment["profile"] for assignment in answer["assignments"]} == {"this-machine"}
    assert main(["devices", "this-machine", "--json"]) == 0, "kept for the next command"
    profile = json.loads(capsys.readouterr().out)
    assert (
        profile["memory_gbs"]["kind"] == "measured" and profile["peak_tflops"]["fp32"]["kind"] == "measured"
    )
    assert profile["efficiency"]["eta_compute"]["kind"] == "measured"
    assert "real expert step" in profile["efficiency"]["eta_compute"]["source"]

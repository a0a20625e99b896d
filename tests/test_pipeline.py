"""The stream: its order and its end, stopping, interleaving, replanning, and what stays on disk."""

import json
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from moe_pipeline import interfaces as ev
from moe_pipeline.pipeline import MoEVideoPipeline, catalog
from moe_pipeline.schema.errors import MoEverseError
from moe_pipeline.schema.events import TERMINAL_KINDS
from moe_pipeline.schema.placement import Placement
from moe_pipeline.schema.record import RunRecord, load_record
from moe_pipeline.schema.request import SceneRequest
from moe_pipeline.video import read_metadata, read_video
from moe_pipeline.workloads import request_workloads

PROMPT = "an avatar dancing in a neon city street at night"
ROOM = "xr-room"  # a headset that leaves its experts to others
BEFORE_STEPS = ["accepted", "planned", "gated", "placed"]
AFTER_STEPS = ["decoded", "measured"]


def small(**changes: Any) -> SceneRequest:
    """Two steps of a real mixture at the smallest size, under plain guidance: two branches a step."""
    plain = {"prompt": PROMPT, "steps": 2, "frames": 8, "width": 64, "height": 64, "subject_guidance": 1.0}
    return SceneRequest(**{**plain, **changes})


def away(pipeline: MoEVideoPipeline, placement: Placement) -> str:
    """A device of a placement that runs an expert and is not the one that the user holds."""
    user = pipeline.profiles.scenario(placement.scenario).user
    return next(a.device for a in placement.assignments if a.device != user)


def kinds(events: list[ev.Event], without: str = "warning") -> list[str]:
    return [event.kind for event in events if event.kind != without]


def sha(event: ev.Event) -> str:
    assert isinstance(event, ev.Finished), event
    return event.clip.record.clip.sha256


def check_course(events: list[ev.Event]) -> None:
    """What every run keeps, however it ends."""
    assert len({event.run_id for event in events}) == 1
    assert [event.seq for event in events] == list(range(len(events)))
    times = [event.t_ms for event in events]
    assert times == sorted(times) and times[0] >= 0.0
    assert [event.kind in TERMINAL_KINDS for event in events] == [False] * (len(events) - 1) + [True]


@pytest.fixture(scope="module")
def whole(
    random_pipeline: MoEVideoPipeline, tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[ev.Event], Path]:
    """One exported run, looked at by many tests."""
    out = tmp_path_factory.mktemp("whole")
    return list(random_pipeline.stream(small(), out=out)), out


# --------------------------------------------------------------------------------------------- order and content


def test_events_come_in_order_and_end_once(whole: tuple[list[ev.Event], Path]) -> None:
    events, _ = whole
    check_course(events)
    assert kinds(events) == [*BEFORE_STEPS, "step", "step", *AFTER_STEPS, "exported", "finished"]


def test_steps_tell_what_happens(whole: tuple[list[ev.Event], Path]) -> None:
    events, _ = whole
    gate = next(e.gate for e in events if isinstance(e, ev.Gated))
    steps = [e for e in events if isinstance(e, ev.Step)]
    for index, step in enumerate(steps):
        assert (step.index, step.total) == (index, 2)
        assert step.weights == gate.by_step[index].weights and step.sigma == gate.by_step[index].sigma
        assert (
            step.preview is not None and step.preview.shape == (2, 8, 8, 3) and step.preview.dtype == np.uint8
        )
        assert step.step_ms > 0
    assert steps[0].remaining_ms > 0 and steps[-1].remaining_ms == 0


def test_the_record_holds_what_the_run_said(whole: tuple[list[ev.Event], Path]) -> None:
    events, _ = whole
    said = {event.kind: event for event in events}
    record = said["finished"].clip.record  # type: ignore[union-attr]
    assert record.run_id == events[0].run_id
    assert record.request == said["accepted"].request  # type: ignore[union-attr]
    assert record.plan == said["planned"].plan  # type: ignore[union-attr]
    assert record.gate == said["gated"].gate  # type: ignore[union-attr]
    assert record.placement == said["placed"].placement  # type: ignore[union-attr]
    assert record.metrics == said["measured"].metrics  # type: ignore[union-attr]
    assert {a.expert for a in record.placement.assignments} == set(record.gate.active)
    frames = said["decoded"].frames  # type: ignore[union-attr]
    assert frames.shape == (8, 64, 64, 3) and frames.dtype == np.uint8
    assert (record.clip.frames, record.clip.height, record.clip.width) == (8, 64, 64)
    assert record.clip.path == "clip.mp4"
    assert [w.message for w in events if isinstance(w, ev.RunWarning)] == list(record.warnings)


def test_times_and_peaks_are_measured(whole: tuple[list[ev.Event], Path]) -> None:
    record = whole[0][-1].clip.record  # type: ignore[union-attr]
    timing = record.timing
    parts = (
        timing.encode_prompt_ms + timing.gate_ms + timing.place_ms + timing.denoise_ms + timing.decode_ms
        + timing.metrics_ms + timing.export_ms
    )  # fmt: skip
    assert 0 < parts <= timing.total_ms
    assert timing.denoise_ms == pytest.approx(sum(step.ms for step in timing.steps))
    assert 0 < timing.first_preview_ms <= next(e.t_ms for e in whole[0] if isinstance(e, ev.Step))
    assert timing.peak_rss_bytes > 100e6
    active = [sum(w > 0 for w in step.weights.values()) for step in record.gate.by_step]
    assert [step.forward_passes for step in timing.steps] == [
        2 * count for count in active
    ]  # guidance doubles


def test_one_prompt_of_two_domains_has_a_subject_and_a_background(whole: tuple[list[ev.Event], Path]) -> None:
    plan = next(e.plan for e in whole[0] if isinstance(e, ev.Planned))
    assert [part.role for part in plan.subtasks] == ["subject", "background"]


def test_partial_runs_say_what_the_stream_will(
    random_pipeline: MoEVideoPipeline, whole: tuple[list[ev.Event], Path]
) -> None:
    record = whole[0][-1].clip.record  # type: ignore[union-attr]
    assert random_pipeline.plan(small()) == record.plan
    assert random_pipeline.gate(small()) == record.gate
    placed = random_pipeline.place(small())
    assert placed.assignments == record.placement.assignments
    placed = random_pipeline.place(small(scenario=ROOM))
    device = away(random_pipeline, placed)
    spared = random_pipeline.place(small(scenario=ROOM), killed=frozenset({device}))
    assert device not in {a.device for a in spared.assignments}


def test_the_single_model_is_there_where_the_generalist_is(random_pipeline: MoEVideoPipeline) -> None:
    engine, resolve = random_pipeline.engine, random_pipeline.resolve
    mixture = request_workloads(engine, resolve(small()))
    assert mixture.delta_bytes and request_workloads(engine, resolve(small(mode="single"))).delta_bytes == 0


# --------------------------------------------------------------------------------------------- what is written


def test_clip_and_record_stand_in_the_folder_and_agree(whole: tuple[list[ev.Event], Path]) -> None:
    events, out = whole
    assert sorted(path.name for path in out.iterdir()) == ["clip.mp4", "record.json"]
    record = events[-1].clip.record  # type: ignore[union-attr]
    assert load_record(json.loads((out / "record.json").read_text())) == record
    exported = next(e for e in events if isinstance(e, ev.Exported))
    assert Path(exported.path) == out / "clip.mp4"
    clip = read_video(out / "clip.mp4")
    assert clip.frames.shape == (8, 64, 64, 3) and clip.fps == record.request.fps


def test_the_clip_carries_its_record(whole: tuple[list[ev.Event], Path]) -> None:
    events, out = whole
    record = events[-1].clip.record  # type: ignore[union-attr]
    inside = load_record(json.loads(read_metadata(out / "clip.mp4")["comment"]))
    changing = {"timing"}  # the export cannot have been timed before it was done
    assert inside.model_dump(exclude=changing) == record.model_dump(exclude=changing)
    assert inside.request.prompt == PROMPT and inside.clip.sha256 == record.clip.sha256


def test_without_a_folder_nothing_is_written(random_pipeline: MoEVideoPipeline, tmp_path: Path) -> None:
    events = list(random_pipeline.stream(small(steps=1), previews=False))
    check_course(events)
    assert kinds(events) == [*BEFORE_STEPS, "step", *AFTER_STEPS, "finished"]
    assert events[-1].clip.path is None and events[-1].clip.record.clip.path is None  # type: ignore[union-attr]
    assert all(e.preview is None for e in events if isinstance(e, ev.Step))


def failing(pipeline: MoEVideoPipeline, out: Path, spoil: Any) -> list[ev.Event]:
    """A run whose folder is spoilt once the frames are measured."""
    events = []
    for event in pipeline.stream(small(steps=1), out=out, previews=False):
        events.append(event)
        if event.kind == "measured":
            spoil(out)
    return events


def _becomes_a_file(out: Path) -> None:
    shutil.rmtree(out)
    out.write_text("in the way")


def _record_is_blocked(out: Path) -> None:
    (out / "record.json").mkdir()


@pytest.mark.parametrize("spoil", [_becomes_a_file, _record_is_blocked])
def test_an_export_that_fails_leaves_nothing_half_written(
    random_pipeline: MoEVideoPipeline, tmp_path: Path, spoil: Any
) -> None:
    out = tmp_path / "out"
    events = failing(random_pipeline, out, spoil)
    check_course(events)
    last = events[-1]
    assert isinstance(last, ev.Failed) and last.code == "unwritable" and "\n" not in last.message
    assert "exported" not in kinds(events)
    assert [p for p in out.parent.rglob("*") if p.is_file() and p.name != "out"] == []


@pytest.mark.parametrize(
    ("place", "after"),
    [
        ("moe_pipeline.pipeline.route_request", "planned"),
        ("moe_pipeline.engine.Engine.preview", "placed"),
        ("moe_pipeline.engine.Engine.decode", "step"),
        ("moe_pipeline.pipeline.measure", "decoded"),
        ("moe_pipeline.recording.write_mp4", "measured"),
    ],
)
def test_a_defect_anywhere_ends_the_stream_with_failed(
    random_pipeline: MoEVideoPipeline,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    place: str,
    after: str,
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise KeyError("a secret of the inside")

    monkeypatch.setattr(place, broken)
    events = list(random_pipeline.stream(small(), out=tmp_path))
    check_course(events)
    last = events[-1]
    assert isinstance(last, ev.Failed) and last.code == "unexpected"
    assert kinds(events)[-2] == after
    assert "KeyError" in last.message and "secret" not in last.message and "\n" not in last.message
    assert "a secret of the inside" in caplog.text, "the log says where"
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    assert sha(list(random_pipeline.stream(small()))[-1]), "the pipeline serves the next run"


def test_running_out_of_memory_is_said_in_words(
    random_pipeline: MoEVideoPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr("moe_pipeline.engine.Engine.decode", full)
    last = list(random_pipeline.stream(small()))[-1]
    assert isinstance(last, ev.Failed) and "not enough memory" in last.message


def test_parts_that_the_gate_leaves_out_are_named(random_pipeline: MoEVideoPipeline) -> None:
    scene = "a city, a robot, a car, a spaceship, a dancer, a cube, a planet and a sphere"
    events = list(random_pipeline.stream(small(prompt=scene)))
    warned = [e.message for e in events if isinstance(e, ev.RunWarning) and e.code == "many_parts"]
    assert len(warned) == 1 and "6 of 8" in warned[0] and "a planet" in warned[0] and "a sphere" in warned[0]
    last = events[-1]
    assert isinstance(last, ev.Finished)
    assert warned[0] in last.clip.record.warnings
    assert last.clip.record.plan.left_out == ("a planet", "a sphere")


def test_an_unwritable_folder_is_refused_before_any_work(
    random_pipeline: MoEVideoPipeline, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(MoEverseError) as refusal:
        random_pipeline.stream(small(), out=tmp_path / "file" / "out")
    assert refusal.value.code == "unwritable_folder"


@pytest.mark.parametrize(
    ("changes", "code"),
    [({"steps": 10_000}, "bad_request"), ({"top_k": 99}, "bad_request"), ({"scenario": "moon-base"}, None)],
)
def test_bad_input_is_refused_at_the_call(
    random_pipeline: MoEVideoPipeline, changes: dict[str, Any], code: str | None
) -> None:
    with pytest.raises(MoEverseError) as refusal:
        random_pipeline.stream(small(**changes))
    assert code is None or refusal.value.code == code


# ------------------------------------------------------------------------------------------ equality of the frames


def test_generate_is_the_drained_stream(
    random_pipeline: MoEVideoPipeline, whole: tuple[list[ev.Event], Path]
) -> None:
    clip = random_pipeline.generate(small())
    assert clip.record.clip.sha256 == sha(whole[0][-1])  # and neither export nor previews change a frame
    assert np.array_equal(clip.frames, next(e.frames for e in whole[0] if isinstance(e, ev.Decoded)))


def test_a_seed_decides_the_frames(
    random_pipeline: MoEVideoPipeline, whole: tuple[list[ev.Event], Path]
) -> None:
    assert random_pipeline.generate(small(seed=0)).record.clip.sha256 == sha(whole[0][-1])
    assert random_pipeline.generate(small(seed=1)).record.clip.sha256 != sha(whole[0][-1])


def test_modes_guidance_and_experts_make_other_frames(
    random_pipeline: MoEVideoPipeline, whole: tuple[list[ev.Event], Path]
) -> None:
    made = {"moe": sha(whole[0][-1])}
    for name, changes in {
        "single": {"mode": "single"},
        "unguided": {"guidance": 1.0},
        "top-1": {"top_k": 1},
    }.items():
        clip = random_pipeline.generate(small(**changes))
        made[name] = clip.record.clip.sha256
        if name == "single":
            assert clip.record.gate.weights == {"generalist": 1.0}
            assert [a.expert for a in clip.record.placement.assignments] == ["generalist"]  # type: ignore[union-attr]
        if name == "unguided":
            assert all(step.forward_passes <= 2 for step in clip.record.timing.steps)
        if name == "top-1":
            assert all(step.forward_passes == 2 for step in clip.record.timing.steps)
    assert len(set(made.values())) == len(made)


def test_interleaved_runs_on_alternating_threads_make_the_same_clips(
    random_pipeline: MoEVideoPipeline,
) -> None:
    """No state of one run reaches the other, no torch state reaches the threads that advance them."""
    requests = [small(seed=3), small(seed=4, prompt="a planet with rings", guidance=2.0, top_k=3)]
    in_a_row = [random_pipeline.generate(request).record.clip.sha256 for request in requests]
    states: list[tuple[bool, bool, bool]] = []
    inside: list[tuple[bool, torch.dtype]] = []
    watch = [
        part.register_forward_hook(lambda m, i, out: inside.append((torch.is_grad_enabled(), out.dtype)))
        for part in (random_pipeline.engine.denoiser(e.id) for e in random_pipeline.manifest.experts)
        if isinstance(part, torch.nn.Module)
    ]

    def advance(stream: Iterator[ev.Event]) -> ev.Event | None:
        event = next(stream, None)
        states.append(
            (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu"))
        )
        return event

    streams = [random_pipeline.stream(request) for request in requests]
    courses: list[list[ev.Event]] = [[], []]
    workers = [ThreadPoolExecutor(1), ThreadPoolExecutor(1)]
    try:
        turn = 0
        while any(not course or course[-1].kind not in TERMINAL_KINDS for course in courses):
            for which, stream in enumerate(streams):
                event = workers[(turn + which) % 2].submit(advance, stream).result()
                if event is not None:
                    courses[which].append(event)
            turn += 1
    finally:
        for handle in watch:
            handle.remove()
        for worker in workers:
            worker.shutdown()
    for course in courses:
        check_course(course)
    assert courses[0][0].run_id != courses[1][0].run_id
    assert [sha(course[-1]) for course in courses] == in_a_row
    assert set(states) == {(True, False, False)}
    assert inside and set(inside) == {(False, random_pipeline.engine.dtype)}


# ------------------------------------------------------------------------------------------------------- stopping


def test_a_run_can_be_cancelled_at_every_event(random_pipeline: MoEVideoPipeline, tmp_path: Path) -> None:
    """Until it is written, a run that is cancelled ends with `cancelled`, at once, and leaves nothing."""
    index = 0
    while True:
        out, control = tmp_path / str(index), ev.RunControl()
        events: list[ev.Event] = []
        for event in random_pipeline.stream(small(), out=out, control=control, previews=False):
            events.append(event)
            if len(events) == index + 1:
                control.cancel()
        check_course(events)
        at = events[index].kind
        if at in ("exported", "finished"):
            assert events[-1].kind == "finished"
            break
        last = events[-1]
        assert isinstance(last, ev.Cancelled)
        assert last.after_steps == kinds(events).count("step")
        # A warning may still be told with the one before it; nothing else happens any more.
        assert [e.kind for e in events[index + 1 : -1] if e.kind != "warning"] == []
        assert list(out.iterdir()) == []
        index += 1
    assert index >= 8


def test_a_run_is_stopped_between_two_experts(random_pipeline: MoEVideoPipeline) -> None:
    """The longest wait after a cancel is one expert, not one step."""
    control, ran = ev.RunControl(), []
    experts = [random_pipeline.engine.denoiser(e.id) for e in random_pipeline.manifest.experts]

    def count(module: Any, given: Any, out: Any) -> None:
        ran.append(module)
        control.cancel()

    watch = [e.register_forward_hook(count) for e in experts if isinstance(e, torch.nn.Module)]
    try:
        events = list(random_pipeline.stream(small(top_k=3), control=control))
    finally:
        for handle in watch:
            handle.remove()
    assert len(ran) == 1 and "step" not in kinds(events)
    assert isinstance(events[-1], ev.Cancelled) and events[-1].after_steps == 0


def test_a_cancel_before_the_start_and_from_another_thread_counts(random_pipeline: MoEVideoPipeline) -> None:
    control = ev.RunControl()
    thread = threading.Thread(target=control.cancel)
    thread.start()
    thread.join()
    assert kinds(list(random_pipeline.stream(small(), control=control))) == ["accepted", "cancelled"]
    with pytest.raises(MoEverseError) as refusal:
        random_pipeline.generate(small(), control=control)
    assert refusal.value.code == "cancelled"


def test_a_consumer_that_walks_away_leaves_nothing(random_pipeline: MoEVideoPipeline, tmp_path: Path) -> None:
    stream = random_pipeline.stream(small(), out=tmp_path / "out")
    for event in stream:
        if event.kind == "step":
            break
    stream.close()  # type: ignore[attr-defined]
    assert list(stream) == [] and list((tmp_path / "out").iterdir()) == []


# -------------------------------------------------------------------------------------------- the edge in mid-run


def test_a_device_that_fails_in_mid_run_is_replaced(random_pipeline: MoEVideoPipeline) -> None:
    control, events = ev.RunControl(), []
    killed = ""
    for event in random_pipeline.stream(small(steps=3, scenario=ROOM), control=control):
        events.append(event)
        if isinstance(event, ev.Placed):
            killed = away(random_pipeline, event.placement)
        if isinstance(event, ev.Step) and event.index == 0:
            control.kill(killed)
    check_course(events)
    assert kinds(events) == [*BEFORE_STEPS, "step", "replanned", "step", "step", *AFTER_STEPS, "finished"]
    again = next(e for e in events if isinstance(e, ev.Replanned))
    assert killed in again.reason and killed in again.placement.killed
    assert killed not in {a.device for a in again.placement.assignments}
    record = events[-1].clip.record  # type: ignore[union-attr]
    assert record.placement == again.placement  # the record holds how it ended
    assert any(killed in warning for warning in record.warnings)
    assert record.clip.sha256 == random_pipeline.generate(small(steps=3)).record.clip.sha256


def test_what_fails_before_the_start_is_in_the_first_placement(random_pipeline: MoEVideoPipeline) -> None:
    device = away(random_pipeline, random_pipeline.place(small(scenario=ROOM)))
    control = ev.RunControl()
    control.kill(device)
    events = list(random_pipeline.stream(small(scenario=ROOM), control=control, previews=False))
    assert "replanned" not in kinds(events)
    assert device in next(e for e in events if isinstance(e, ev.Placed)).placement.killed


def test_an_edge_without_an_answer_still_gives_the_clip(random_pipeline: MoEVideoPipeline) -> None:
    scenario = random_pipeline.profiles.scenario(small().scenario)
    control = ev.RunControl()
    for node in scenario.nodes:
        control.kill(node.id)
    events = list(random_pipeline.stream(small(), control=control, previews=False))
    assert "placed" not in kinds(events)
    record = events[-1].clip.record  # type: ignore[union-attr]
    assert record.placement is None and any(isinstance(e, ev.RunWarning) for e in events)


def test_thinner_links_change_the_placement_in_mid_run(random_pipeline: MoEVideoPipeline) -> None:
    control, events = ev.RunControl(), []
    for event in random_pipeline.stream(small(), control=control, previews=False):
        events.append(event)
        if isinstance(event, ev.Step) and event.index == 0:
            control.scale_bandwidth(0.1)
    again = next(e for e in events if isinstance(e, ev.Replanned))
    assert again.placement.bandwidth_scale == 0.1 and "0.1" in again.reason


# ------------------------------------------------------------------------------------------------- what is offered


def test_the_catalogue_offers_what_requests_accept(random_pipeline: MoEVideoPipeline) -> None:
    offered = catalog(random_pipeline)
    assert {"gates", "fusions", "metrics", "devices", "scenarios", "packs", "experts", "fields"} <= set(
        offered
    )
    for section, entries in offered.items():
        ids = [entry["id"] for entry in entries]
        assert ids and len(set(ids)) == len(ids), section
        if section != "fields":
            assert all(entry["title"] and entry["description"] for entry in entries), section
    assert [entry["id"] for entry in offered["experts"]] == list(random_pipeline.manifest.expert_ids())
    for scenario in offered["scenarios"]:
        random_pipeline.resolve(small(scenario=scenario["id"]))
    assert [s["id"] for s in offered["scenarios"] if s["default"]] == [small().scenario]
    for field in offered["fields"]:
        low, high = field["limits"]
        assert low <= field["default"] <= high
        with pytest.raises(MoEverseError):
            random_pipeline.resolve(SceneRequest.parse(prompt="a city", **{field["id"]: high * 4}))


def test_a_record_knows_its_pack_and_its_environment(
    random_pipeline: MoEVideoPipeline, whole: tuple[list[ev.Event], Path]
) -> None:
    record: RunRecord = whole[0][-1].clip.record  # type: ignore[union-attr]
    assert (record.pack.id, record.pack.sha256) == ("random-worlds", random_pipeline.pack.sha256)
    environment = record.environment
    assert environment.torch == torch.__version__ and environment.threads == torch.get_num_threads()
    assert environment.dtype == str(random_pipeline.engine.dtype).removeprefix("torch.")
    assert environment.torch_device == random_pipeline.engine.device.type

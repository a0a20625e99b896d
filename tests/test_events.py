"""Events: one kind in process, one on the wire; no tensor, no path and no user text beyond the record crosses over."""

import base64
import io
import re
import threading
from typing import get_args

import numpy as np
import pytest
from PIL import Image
from pydantic import TypeAdapter, ValidationError

from moe_pipeline import interfaces as ev
from moe_pipeline.interfaces import RunControl
from moe_pipeline.pipeline import MoEVideoPipeline
from moe_pipeline.schema import events as wire
from moe_pipeline.schema.request import SceneRequest
from moe_pipeline.wire import preview_sheet, to_wire

WIRE: TypeAdapter[wire.WireEvent] = TypeAdapter(wire.WireEvent)
HEAD = {"run_id": "abc", "seq": 3, "t_ms": 12.5}
IN_PROCESS = {kind.__dataclass_fields__["kind"].default: kind for kind in get_args(ev.Event)}
ON_THE_WIRE = {kind.model_fields["kind"].default: kind for kind in get_args(get_args(wire.WireEvent)[0])}


@pytest.fixture(scope="module")
def events(
    random_pipeline: MoEVideoPipeline, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, ev.Event]:
    """One event of every kind: a real run's, and by hand those that it did not have."""
    request = SceneRequest(prompt="an avatar in a neon street", steps=1, frames=4, width=64, height=64)
    found: dict[str, ev.Event] = {
        event.kind: event for event in random_pipeline.stream(request, out=tmp_path_factory.mktemp("out"))
    }
    placed = found["placed"]
    assert isinstance(placed, ev.Placed)
    found["replanned"] = ev.Replanned(**HEAD, placement=placed.placement, reason="a node failed")
    found["warning"] = ev.RunWarning(**HEAD, code="low_coverage", message="A guess.")
    found["failed"] = ev.Failed(**HEAD, code="unwritable", message="Disk full.")
    found["cancelled"] = ev.Cancelled(**HEAD, after_steps=1)
    return found


def test_both_forms_have_the_same_kinds(events: dict[str, ev.Event]) -> None:
    assert set(IN_PROCESS) == set(ON_THE_WIRE) == set(events)
    assert set(wire.TERMINAL_KINDS) <= set(ON_THE_WIRE)


@pytest.mark.parametrize("kind", sorted(IN_PROCESS))
def test_an_event_crosses_the_wire_and_comes_back_equal(events: dict[str, ev.Event], kind: str) -> None:
    sent = to_wire(events[kind])
    assert type(sent) is ON_THE_WIRE[kind]
    assert (sent.run_id, sent.seq, sent.t_ms) == (events[kind].run_id, events[kind].seq, events[kind].t_ms)
    text = sent.model_dump_json()
    assert WIRE.validate_json(text) == sent
    assert "NaN" not in text and "Infinity" not in text  # JSON that a browser reads


def test_what_is_no_event_is_refused() -> None:
    with pytest.raises(AssertionError):
        to_wire(type("Surprise", (), {**HEAD, "kind": "surprise"})())  # type: ignore[arg-type]
    for text in (
        '{"kind": "surprise"}',
        '{"kind": "cancelled", "run_id": "a", "seq": -1, "t_ms": 0, "after_steps": 1}',
    ):
        with pytest.raises(ValidationError):
            WIRE.validate_json(text)


def test_no_path_of_this_machine_crosses_the_wire(events: dict[str, ev.Event]) -> None:
    exported = events["exported"]
    assert isinstance(exported, ev.Exported) and exported.path.startswith("/")
    for event in events.values():
        text = to_wire(event).model_dump_json()
        assert exported.path not in text and not re.search(r'"/(?:tmp|home|root|var)/', text), event.kind
    assert to_wire(exported).file_name == "clip.mp4"  # type: ignore[union-attr]


def test_a_preview_travels_as_one_picture_with_the_frames_side_by_side(events: dict[str, ev.Event]) -> None:
    step = events["step"]
    assert isinstance(step, ev.Step) and step.preview is not None
    assert step.preview.shape == (1, 8, 8, 3) and step.preview.dtype == np.uint8
    sent = to_wire(step)
    assert isinstance(sent, wire.StepWire) and sent.preview_webp_base64 is not None
    picture = Image.open(io.BytesIO(base64.b64decode(sent.preview_webp_base64)))
    assert (picture.format, picture.size) == ("WEBP", (8, 8))
    frames = np.arange(2 * 3 * 4 * 3, dtype=np.uint8).reshape(2, 3, 4, 3)
    assert np.array_equal(preview_sheet(frames)[:, 4:], frames[1])


def test_events_in_process_cannot_be_changed(events: dict[str, ev.Event]) -> None:
    for event in events.values():
        with pytest.raises(AttributeError):
            event.seq = 7  # type: ignore[misc]


# ----------------------------------------------------------------------------------------------- run control


def test_a_control_remembers_what_changed_until_somebody_takes_it() -> None:
    control = RunControl()
    assert (
        control.take_change() == "" and control.conditions() == (frozenset(), 1.0) and not control.cancelled
    )
    control.kill("edge-server")
    control.kill("cloud")
    assert "cloud" in control.take_change() and control.take_change() == ""
    assert control.conditions() == ({"edge-server", "cloud"}, 1.0)
    control.cancel()
    assert control.cancelled


@pytest.mark.parametrize(("asked", "got"), [(0.5, 0.5), (0.0, 0.01), (1e9, 10.0)])
def test_bandwidth_stays_within_what_links_can_do(asked: float, got: float) -> None:
    control = RunControl()
    control.scale_bandwidth(asked)
    assert control.conditions()[1] == got
    assert f"{got:g}" in control.take_change()


def test_changes_that_come_together_are_all_told() -> None:
    control = RunControl()
    control.kill("edge-server")
    control.scale_bandwidth(0.5)
    told = control.take_change()
    assert "edge-server" in told and "0.5" in told


def test_a_control_can_be_used_from_many_threads() -> None:
    control = RunControl()
    threads = [threading.Thread(target=control.kill, args=(f"node-{i}",)) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert control.conditions()[0] == {f"node-{i}" for i in range(16)}

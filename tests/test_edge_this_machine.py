"""The app measures the machine it runs on at its first start, in the background, and never again."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from moe_pipeline.edge import calibration
from moe_pipeline.interfaces import RunControl
from moe_pipeline.runs import RunStore
from moe_pipeline.schema.errors import MoEverseError
from moe_pipeline.schema.request import SceneRequest
from moe_pipeline.studies import this_machine

if TYPE_CHECKING:
    from moe_pipeline.pipeline import MoEVideoPipeline
    from moe_pipeline.ui.handlers import StudioHandlers

PROMPT = "a neon city street at night"
Start = Callable[[], "StudioHandlers"]


@pytest.fixture
def start(random_pipeline: MoEVideoPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    """`start()`: the handlers of a freshly started app, on a machine with an empty cache folder."""
    from moe_pipeline.ui.handlers import StudioHandlers
    from moe_pipeline.ui.palette import Palette
    from moe_pipeline.ui.view_state import Scene

    monkeypatch.setattr(calibration, "cache_path", lambda: tmp_path / "cache" / "this-machine.json")
    timed = calibration._times  # the real measurement, cut short
    monkeypatch.setattr(
        calibration, "_times", lambda run, wait, *, seconds, most: timed(run, wait, seconds=0.01, most=2)
    )

    def fresh() -> StudioHandlers:
        pipeline = copy.copy(random_pipeline)  # shares the engine, not the profiles
        scene = Scene(
            Palette.of(pipeline.manifest), pipeline.scenarios(), pipeline.profiles, {}, "campus-mec"
        )
        return StudioHandlers(pipeline, scene, RunStore(tmp_path / "runs"))

    return fresh


@pytest.mark.slow
def test_the_first_start_measures_and_the_second_reads(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    here = SceneRequest.parse(prompt=PROMPT, scenario="this-machine")
    first = start()
    with pytest.raises(MoEverseError) as refused:
        first.pipeline.place(here)
    assert refused.value.code == "not_calibrated" and "a few seconds" in refused.value.sentence()
    first.warm_up(PROMPT)
    assert {a.profile for a in first.pipeline.place(here).assignments} == {"this-machine"}

    monkeypatch.setattr(calibration, "measure", lambda *a, **k: pytest.fail("measured twice"))
    second = start()
    second.warm_up(PROMPT)
    assert second.pipeline.place(here).assignments == first.pipeline.place(here).assignments


def test_measuring_waits_for_a_clip_that_is_being_made(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    handlers = start()
    began = threading.Event()
    monkeypatch.setattr("moe_pipeline.ui.handlers.calibrate", lambda pipeline: began.set())
    with handlers.turns.turn("a clip", RunControl()):
        thread = threading.Thread(target=handlers.warm_up, args=(PROMPT,))
        thread.start()
        assert not began.wait(0.5), "measured while a clip was being made"
    thread.join(timeout=30)
    assert began.is_set()


def test_a_known_profile_is_attached_without_measuring(
    random_pipeline: MoEVideoPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "cache_path", lambda: tmp_path / "this-machine.json")
    pipeline = copy.copy(random_pipeline)
    assert not this_machine.attach_known(pipeline)
    assert "this-machine" not in pipeline.profiles.devices

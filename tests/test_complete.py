"""Details that a prompt leaves open, and where in the picture its subjects are guided."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moe_pipeline.diffusion.regions import subject_columns
from moe_pipeline.pipeline import MoEVideoPipeline
from moe_pipeline.prompting.complete import colours_in, complete, with_colour
from moe_pipeline.prompting.decompose import decompose
from moe_pipeline.schema.pack import PackDetails
from moe_pipeline.schema.plan import ScenePlan, places_of
from moe_pipeline.schema.request import SceneRequest
from training.pack import DETAILS

PACK = PackDetails.model_validate(DETAILS)
MAIN = "an avatar dancing in a neon city street at night"


def read(prompt: str, seed: int = 7) -> ScenePlan:
    return complete(decompose(prompt), PACK, seed)


def test_open_colours_come_from_the_seed_and_differ_from_each_other() -> None:
    seen = set()
    for seed in range(40):
        plan = read(MAIN, seed)
        assert plan == read(MAIN, seed) and plan.prompt == MAIN
        one, other = (list(PACK.colours).index(colour) for colour in colours_in(plan.reading, PACK))
        assert (one - other) % len(PACK.colours) not in (
            0,
            1,
            len(PACK.colours) - 1,
        )  # no yellow figure in orange light
        assert plan.world is not None and plan.world in plan.reading
        assert [part.text for part in plan.subtasks] == ["an avatar dancing", "a neon city street at night"]
        seen.add(plan.reading)
    assert len(seen) > 20


@pytest.mark.parametrize(
    ("prompt", "named"),
    [
        ("a red robot on the right of a blue gallery", 2),
        ("a golden crystal on a pedestal", 1),  # the pedestal takes no colour
        (
            "a black car on the left in a silver street",
            0,
        ),  # colours that no caption had are kept, and none is put beside them
        ("snowy mountains under a pink sky", 1),
        ("an elephant bathing", 0),  # nothing that the pack knows
    ],
)
def test_what_is_named_is_never_changed(prompt: str, named: int) -> None:
    for seed in range(10):
        plan = read(prompt, seed)
        assert plan.reading == prompt and len(colours_in(plan.reading, PACK)) == named


def test_things_that_have_a_colour_by_themselves_keep_to_it() -> None:
    assert {colours_in(read("a robot in a forest", seed).world or "", PACK) for seed in range(20)} == {
        ("green",)
    }
    assert all(
        set(colours_in(read("a red ship over a desert", seed).reading, PACK)) <= {"red", "orange", "yellow"}
        for seed in range(20)
    )


def test_the_colour_stands_where_a_caption_would_have_it() -> None:
    assert with_colour("an avatar dancing", "red") == "a red avatar dancing"
    assert with_colour("A flying car", "orange") == "An orange flying car"
    assert with_colour("the desert at dusk", "yellow") == "the yellow desert at dusk"
    assert with_colour("Neon street, night", "blue") == "blue neon street, night"


@pytest.mark.parametrize(
    ("prompt", "reading"),
    [
        ("a red robot in a blue hall", "a red robot in the middle in a blue hall"),
        ("a red robot on the left of a blue hall", "a red robot on the left of a blue hall"),
        (
            "a red cube and a teal ring in a blue hall",
            "a red cube on the left and a teal ring on the right in a blue hall",
        ),
        (
            "a red cube and a teal ring on the left in a blue hall",
            "a red cube on the right and a teal ring on the left in a blue hall",
        ),
        ("a red robot dancing", "a red robot dancing"),  # no world to stand in
        ("a red robot on a stage", "a red robot on a stage"),  # where it always stands in the middle
        (
            "a red cube, a teal ring, a pink orb in a blue hall",
            "a red cube, a teal ring, a pink orb in a blue hall",
        ),
    ],
)
def test_subjects_in_a_world_get_the_place_where_they_are_guided(prompt: str, reading: str) -> None:
    assert read(prompt).reading == reading
    assert complete(decompose(prompt), PACK.model_copy(update={"places": {}}), 7).reading == prompt


@given(st.text(max_size=200), st.integers(0, 2**32))
def test_any_text_keeps_its_words_in_their_order(prompt: str, seed: int) -> None:
    plan = complete(decompose(prompt), PACK, seed)
    assert len(plan.reading) >= len(prompt) and plan.prompt == prompt
    assert [part.span for part in plan.subtasks] == [part.span for part in decompose(prompt).subtasks]
    assert complete(decompose(prompt), None, seed) == decompose(prompt)


def test_the_record_says_what_was_read_and_a_request_can_refuse_it() -> None:
    pipeline = MoEVideoPipeline.from_pack()
    small = {"prompt": MAIN, "seed": 3, "steps": 1, "frames": 4, "width": 64, "height": 64}
    clip = pipeline.generate(SceneRequest.parse(**small))
    assert clip.record.plan.read_as and clip.record.plan.read_as != MAIN
    plain = pipeline.generate(SceneRequest.parse(**small, fill_details=False))
    assert plain.record.plan.read_as == "" and plain.record.clip.sha256 != clip.record.clip.sha256
    typed = pipeline.generate(SceneRequest.parse(**{**small, "prompt": clip.record.plan.read_as}))
    single = pipeline.generate(SceneRequest.parse(**small, mode="single"))
    assert typed.record.plan.read_as == "" and single.record.plan.read_as == clip.record.plan.read_as
    # Routing and coverage look at what was typed.
    assert clip.record.gate.coverage == plain.record.gate.coverage
    assert clip.record.gate.weights == plain.record.gate.weights


def test_one_subject_stands_in_the_middle_and_two_at_both_sides_unless_the_prompt_says_where() -> None:
    assert places_of(["everywhere"]) == ("centre",) and places_of(["right"]) == ("right",)
    assert places_of(["everywhere", "everywhere"]) == ("left", "right")
    assert places_of(["everywhere", "left"]) == ("right", "left")
    assert places_of(["right", "everywhere"]) == ("right", "left")
    assert places_of(["centre", "everywhere"]) == ("centre", "right")
    assert places_of([]) == () and places_of(["everywhere"] * 3) == ()


def test_guidance_of_subjects_is_full_in_their_region_and_nothing_far_from_it() -> None:
    one, two = subject_columns(["centre"], 16), subject_columns(["left", "right"], 16)
    assert one is not None and two is not None
    torch.testing.assert_close(one, one.flip(0))
    assert float(one[7]) > 0.99 and float(one[0]) < 0.01
    assert (
        float(two[4]) > 0.99 and float(two[11]) > 0.99 and bool((two >= 0).all()) and bool((two <= 1).all())
    )
    left = subject_columns(["left"], 16)
    assert left is not None and float(left[4]) > 0.99 and float(left[12:].max()) < 0.01
    assert subject_columns([], 16) is None

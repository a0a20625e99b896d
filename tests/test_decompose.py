"""Decomposition: one background, the subjects in it, and never an exception."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_pipeline.prompting.decompose import MAX_SUBTASKS, decompose, default_lexicon
from moe_pipeline.schema.plan import ScenePlan

LEXICON = default_lexicon()
WORDS = sorted(LEXICON.subjects | LEXICON.places | LEXICON.worn | LEXICON.modifiers)
JOINTS = [
    "in",
    "on",
    "at",
    "of",
    "with",
    "and",
    "in front of",
    "on the left of",
    ",",
    ".",
    ";",
    "while",
    "a",
    "the",
    "blorp",
]

scenes = st.lists(st.one_of(st.sampled_from(WORDS), st.sampled_from(JOINTS)), min_size=1, max_size=24).map(
    " ".join
)
anything = st.text(min_size=1, max_size=200)


def roles(prompt: str) -> dict[str, list[str]]:
    plan = decompose(prompt)
    return {role: [p.text for p in plan.subtasks if p.role == role] for role in ("subject", "background")}


def check(plan: ScenePlan, prompt: str) -> None:
    assert plan.prompt == prompt and 1 <= len(plan.subtasks) <= MAX_SUBTASKS
    end = 0
    for part in plan.subtasks:
        start, stop = part.span
        assert prompt[start:stop] == part.text and part.text
        assert start >= end  # in the prompt's order, without overlap
        end = stop
    assert sum(part.share for part in plan.subtasks) == pytest.approx(1.0)
    assert len({part.id for part in plan.subtasks}) == len(plan.subtasks)


@given(prompt=anything)
def test_any_text_has_a_plan(prompt: str) -> None:
    check(decompose(prompt), prompt)


@given(prompt=scenes)
def test_any_scene_of_known_words_has_a_plan(prompt: str) -> None:
    plan = decompose(prompt)
    check(plan, prompt)
    assert decompose(prompt) == plan


def test_an_avatar_in_a_street_is_a_subject_in_a_background() -> None:
    found = roles("an avatar dancing in a neon city street at night")
    assert found == {"subject": ["an avatar dancing"], "background": ["a neon city street at night"]}


@pytest.mark.parametrize(
    ("prompt", "subjects", "backgrounds"),
    [
        ("a quiet mountain valley at dawn", 0, 1),
        ("a glowing cube", 1, 0),
        ("neon street, night, flying car", 1, 1),
        ("a robot and a dog in a museum hall", 2, 1),
        ("a spaceship above a planet with rings", 1, 1),
        ("a woman in a red coat on a beach", 1, 1),  # the coat is worn, it is no place
        ("a wombat in a desert", 1, 1),  # an unknown thing in a known place is a subject
        ("Paris", 0, 1),  # an unknown thing alone is the scene
        ("a city car", 1, 0),  # in a compound the last noun is the head
        ("a car in a city", 1, 1),
        ("At night, a neon city street", 0, 1),  # what opens with the time names no subject
        ("Wide shot: a robot in a forest", 1, 1),
        ("a statue in the middle of a desert", 1, 1),
        ("a drone over a field of flowers", 1, 1),
    ],
)
def test_subjects_and_backgrounds_are_told_apart(prompt: str, subjects: int, backgrounds: int) -> None:
    found = roles(prompt)
    assert (len(found["subject"]), len(found["background"])) == (subjects, backgrounds), found


@pytest.mark.parametrize(
    ("prompt", "region"),
    [
        ("a robot on the left in a forest", "left"),
        ("a car at the right side of a street", "right"),
        ("an avatar in the middle of a hall", "centre"),
        ("a robot in a forest", "everywhere"),
        ("a robot waving, camera pans left", "everywhere"),  # the camera's way is no place of the robot's
    ],
)
def test_a_subject_has_its_region(prompt: str, region: str) -> None:
    assert [p.region for p in decompose(prompt).subtasks if p.role == "subject"] == [region]


def test_subjects_and_backgrounds_share_the_weight_in_halves() -> None:
    shares = {p.id: p.share for p in decompose("a robot and a dog in a museum hall").subtasks}
    assert shares == {"subject-1": 0.25, "subject-2": 0.25, "background-1": 0.5}


def test_a_long_prompt_keeps_its_first_parts() -> None:
    plan = decompose(", ".join(["a robot in a city", "a cat in a forest"] * 10))
    check(plan, plan.prompt)
    assert len(plan.subtasks) == MAX_SUBTASKS
    assert len(plan.left_out) == 40 - MAX_SUBTASKS
    assert plan.left_out[-1] == "a forest" and decompose("a robot in a city").left_out == ()


def test_the_word_lists_do_not_contradict_each_other() -> None:
    assert not LEXICON.subjects & LEXICON.places
    assert not LEXICON.subjects & LEXICON.modifiers
    assert all(word == word.lower() for word in WORDS)

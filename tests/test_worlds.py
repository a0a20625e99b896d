"""The worlds: determinism, the held-out split, captions that are true, shards that resume."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from moe_pipeline.schema.errors import MoEverseError
from training.render import RenderPlan, attributes_of, describe, domain_of, render
from training.worlds import DOMAINS, captions, held_out, read_shards, sample
from training.worlds.attributes import MOTIONS, SETTINGS, SHAPES, SceneAttributes, combination
from training.worlds.camera import FRAMES, PIXELS_PER_FRAME, path
from training.worlds.captions import COLOUR_WORDS, MOTION_WORDS, SHAPE_WORDS, SPACE_BEHIND, WORLD_WORDS
from training.worlds.poses import PERIOD_FRAMES, joints
from training.worlds.renderer import Renderer, render_clip


def _scenes(count: int) -> list[SceneAttributes]:
    return [sample(np.random.default_rng([5, k]), DOMAINS[k % len(DOMAINS)]) for k in range(count)]


def _says(text: str, words: tuple[str, ...]) -> bool:
    return any(re.search(rf"(?<![\w-]){re.escape(word)}", text.lower()) for word in words)


def test_attributes_are_words_of_the_space_and_repeat_with_the_seed() -> None:
    for k, scene in enumerate(_scenes(120)):
        assert scene == sample(np.random.default_rng([5, k]), DOMAINS[k % len(DOMAINS)])
        assert scene.world == scene.domains[0] and scene.setting in SETTINGS[scene.world]
        assert scene.shape in SHAPES[scene.subject] and scene.subject_motion in MOTIONS[scene.subject]
        assert SceneAttributes.from_dict(json.loads(json.dumps(scene.as_dict()))) == scene


def test_about_a_third_of_world_clips_hold_a_subject_and_belong_to_two_domains() -> None:
    worlds = [scene for scene in _scenes(1200) if scene.world in ("city", "landscape", "interior", "space")]
    composed = [scene for scene in worlds if scene.composed]
    assert 0.28 < len(composed) / len(worlds) < 0.44
    assert all((scene.domains[1] == "avatar") == (scene.subject == "avatar") for scene in composed)


def _pairs(count: int) -> list[SceneAttributes]:
    worlds = ("city", "landscape", "interior", "space")
    return [sample(np.random.default_rng([6, k]), worlds[k % 4], 1.0, 1.0) for k in range(count)]


def test_companions_differ_from_the_first_subject_and_stand_at_the_other_side() -> None:
    for scene in _pairs(200):
        assert scene.companion is not None and scene.composed
        other = scene.other
        assert {scene.position, other.position} == {"left", "right"}
        assert other.shape != scene.shape and other.shape in SHAPES[other.subject]
        assert len({scene.colour, scene.subject_colour, other.subject_colour}) == 3
        kinds = {"avatar" if one.subject == "avatar" else "object" for one in (scene, other)}
        assert set(scene.domains) == {scene.world} | kinds and scene.domains[0] == scene.world
        assert SceneAttributes.from_dict(json.loads(json.dumps(scene.as_dict()))) == scene


def test_captions_of_pairs_name_both_subjects_and_no_colour_that_is_not_there() -> None:
    for k, scene in enumerate(_pairs(120)):
        texts = captions(scene, np.random.default_rng(k), 6)
        assert len(texts) == len(set(texts)) == 6
        shown = {scene.colour, scene.subject_colour, scene.other.subject_colour}
        others = tuple(
            f"{word} " for name, words in COLOUR_WORDS.items() if name not in shown for word in words
        )
        for text in texts:
            assert len(text.split()) <= 23
            assert _says(text, SHAPE_WORDS[scene.shape]) and _says(text, SHAPE_WORDS[scene.other.shape]), text
            assert not _says(text, others), (text, shown)
            for one, two in (
                (scene, scene.other),
                (scene.other, scene),
            ):  # a side that is named is the right one
                taken = " ".join(SHAPE_WORDS[two.shape])  # "character" does not tell from "robot character"
                nouns = "|".join(noun for noun in SHAPE_WORDS[one.shape] if noun not in taken)
                found = re.search(rf"(?:{nouns})(?:(?! on the |, | and ).)* on the (left|right)", text)
                assert found is None or found[1] == one.position, text


def test_captions_with_places_say_the_place_of_every_subject_in_a_world() -> None:
    scenes = [sample(np.random.default_rng([5, k]), DOMAINS[k % len(DOMAINS)], 0.9) for k in range(120)]
    for k, scene in enumerate([*scenes, *_pairs(60)]):
        texts = captions(scene, np.random.default_rng(k), 6, places=True)
        assert len(texts) == len(set(texts)) == 6
        for text in texts:
            assert len(text.split()) <= 23
            sides = {
                side for side in ("left", "right") if re.search(rf"(?<!panning )(?<!pans )\b{side}", text)
            }
            if scene.companion is not None:
                assert sides == {"left", "right"}, text
            elif scene.composed:
                assert sides == {scene.position} - {"centre"}, (text, scene.position)
                assert ("in the middle" in text) == (scene.position == "centre"), text
                assert "close up" not in text or scene.depth == "near", text
            else:
                assert not sides, text


def test_both_subjects_of_a_pair_can_be_seen(renderer: Renderer) -> None:
    scene = replace(_pairs(1)[0], camera_motion="static", world="interior", setting="gallery")
    assert scene.companion is not None
    both = render_clip(renderer, scene, 5).astype(int)
    first_alone = render_clip(renderer, replace(scene, companion=None), 5).astype(int)
    changed = np.abs(both - first_alone).max((0, 3)) > 40  # (H, W)
    columns = np.flatnonzero(changed.any(0))
    assert changed.mean() > 0.02
    middle = columns.mean()
    assert middle < 64 if scene.other.position == "left" else middle > 64


def test_at_least_15_percent_are_held_out_in_every_domain_and_never_split() -> None:
    scenes = _scenes(3000)
    assert np.mean([held_out(scene) for scene in scenes]) >= 0.15
    for domain in DOMAINS:
        own = [held_out(scene) for scene in scenes if domain in scene.domains]
        assert 0.10 < np.mean(own) < 0.28, domain
    inside = {combination(scene) for scene in scenes if not held_out(scene)}
    outside = {combination(scene) for scene in scenes if held_out(scene)}
    assert not inside & outside
    assert len(outside) >= 0.15 * len(inside | outside)


def test_split_of_the_render_is_respected() -> None:
    for split, expected in (("train", False), ("held-out", True)):
        plan = RenderPlan(60, 3, DOMAINS, split)
        assert {held_out(attributes_of(plan, k)) for k in range(60)} == {expected}


def test_domains_are_balanced_and_mixed() -> None:
    plan = RenderPlan(60, 3, DOMAINS, "any")
    order = [domain_of(plan, k) for k in range(60)]
    assert set(Counter(order).values()) == {10}
    assert order[:6] != order[6:12]


@pytest.mark.parametrize("domain", DOMAINS)
def test_captions_are_true_to_the_attributes(domain: str) -> None:
    coloured = total = 0
    for k in range(80):
        scene = sample(np.random.default_rng([9, k]), domain)
        texts = captions(scene, np.random.default_rng(k), 6)
        assert len(texts) == len(set(texts)) == 6
        for text in texts:
            assert len(text.split()) <= 23
            if scene.world in ("city", "landscape", "interior", "space"):
                behind = tuple(
                    part.format(c="").strip().removeprefix("a ").strip()
                    for part in SPACE_BEHIND.get(scene.setting, ())
                )
                assert _says(text, WORLD_WORDS[scene.setting] + behind), (text, scene.setting)
            if scene.subject != "none":
                assert _says(text, SHAPE_WORDS[scene.shape]), (text, scene.shape)
            allowed = {scene.colour} | ({scene.second_colour} if scene.subject != "none" else set())
            others = [word for name, words in COLOUR_WORDS.items() if name not in allowed for word in words]
            assert not _says(text.replace("reading", ""), tuple(f"{word} " for word in others)), (
                text,
                allowed,
            )
            for motion, words in MOTION_WORDS.items():
                if motion not in (
                    scene.subject_motion,
                    "hovering",
                    "still",
                    "standing",
                    "spinning",
                    "bobbing",
                ):
                    assert (
                        not _says(text, words)
                        or scene.subject == "none"
                        or _says(scene.subject_motion, words)
                    ), text
            total += 1
            coloured += _says(text, COLOUR_WORDS[scene.colour])
    assert coloured / total > 0.75


def test_gestures_are_slow_enough_and_limbs_keep_their_length() -> None:
    assert min(PERIOD_FRAMES.values()) >= 12
    for motion in MOTIONS["avatar"]:
        track = np.stack([joints(motion, "fast", frame, 0.3) for frame in range(FRAMES)])
        calm = np.stack([joints(motion, "normal", frame, 0.3) for frame in range(FRAMES)])
        assert np.allclose(np.linalg.norm(track[:, 4] - track[:, 3], axis=-1), 0.29, atol=1e-4)
        # A metre is 47 pixels where the avatar stands near.
        assert 47 * np.linalg.norm(np.diff(track, axis=0), axis=-1).max() < 8, motion
        assert 47 * np.linalg.norm(np.diff(calm, axis=0), axis=-1).max() < 5.6, motion
        assert track[..., 1].min() > 0


def test_camera_moves_stay_below_three_pixels_a_frame() -> None:
    assert max(PIXELS_PER_FRAME.values()) <= 3
    for motion in ("pan left", "pan right", "orbit", "rise"):
        seen = np.array(
            [view.project(np.array([0.3, 1.0, 0.0]))[:2] for view in path(motion, "fast", 1.0, 2.5, 0.0, 1.0)]
        )
        assert np.abs(np.diff(seen * 64, axis=0)).max() < 4, motion


PLAN = RenderPlan(clips=3, seed=4, domains=("space",), split="any")


def _render(folder: Path) -> None:
    for _ in render(PLAN, folder, workers=1):
        pass


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer()


def test_every_world_renders_a_picture_of_its_own_that_moves(renderer: Renderer) -> None:
    means = []
    for domain in DOMAINS:
        scene = replace(sample(np.random.default_rng(3), domain), camera_motion="pan left", speed="fast")
        clip = render_clip(renderer, scene, 7)
        assert clip.shape == (16, 128, 128, 3) and clip.dtype == np.uint8
        assert clip[0].std() > 8, f"{domain} is blank"
        assert np.abs(clip[15].astype(int) - clip[0]).mean() > 0.5, f"{domain} stands still"
        means.append(clip[8].astype(float))
    for i, one in enumerate(means):
        assert all(np.abs(one - other).mean() > 10 for other in means[i + 1 :])


def test_render_writes_the_shard_contract_and_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    _render(tmp_path)
    arrays, lines = read_shards(tmp_path)
    assert arrays[0].shape == (3, 16, 128, 128, 3) and arrays[0].dtype == np.uint8
    assert [line["index"] for line in lines] == [0, 1, 2]
    assert {line["attributes"]["world"] for line in lines} == set(PLAN.domains)
    assert lines[2] == describe(PLAN, 2)
    assert all(len(line["captions"]) == 6 for line in lines)
    for clip in arrays[0]:
        assert clip.std() > 8  # not blank
    first = (tmp_path / "shard-00000.npy").read_bytes()
    (tmp_path / "shard-00000.jsonl").unlink()  # as if stopped before the metadata
    with pytest.raises(MoEverseError, match="no rendered clips"):
        read_shards(tmp_path)
    _render(tmp_path)
    assert (tmp_path / "shard-00000.npy").read_bytes() == first
    assert not list(tmp_path.glob("*.part"))


def test_render_refuses_a_folder_with_other_parameters(tmp_path: Path) -> None:
    (tmp_path / "render.json").write_text(
        json.dumps({"format": 1, "clips": 6, "seed": 9, "domains": list(DOMAINS), "split": "any"})
    )
    command = [
        sys.executable,
        "-m",
        "training.render",
        "--clips",
        "6",
        "--seed",
        "4",
        "--split",
        "any",
        "--out",
        str(tmp_path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "seed 9 (asked: 4)" in done.stderr and "Traceback" not in done.stderr


def test_colour_word_shows_in_the_picture(renderer: Renderer) -> None:
    """The object's colour, seen: the middle of an object clip is nearest to the named colour's hue."""
    base = replace(
        sample(np.random.default_rng(1), "object"),
        shape="sphere",
        setting="studio",
        material="matte",
        second_colour="white",
        camera_motion="static",
        subject_motion="still",
    )
    for colour, strongest in (("red", 0), ("green", 1), ("blue", 2)):
        clip = render_clip(renderer, replace(base, colour=colour), 3)
        middle = clip[:, 44:84, 44:84].reshape(-1, 3).astype(float)
        assert int(middle.mean(0).argmax()) == strongest, colour
        assert np.array_equal(clip, render_clip(renderer, replace(base, colour=colour), 3))

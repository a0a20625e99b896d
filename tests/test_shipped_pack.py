"""The pack as it ships: whole, small enough, and able to do what the README says of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from moe_pipeline import interfaces as ev
from moe_pipeline.packs import open_pack
from moe_pipeline.pipeline import MoEVideoPipeline
from moe_pipeline.schema.request import SceneRequest

ROOT = Path(__file__).resolve().parents[1]
EVALUATION = ROOT / "docs" / "evaluation" / "evaluation.json"
FRESH = Path(__file__).with_name("coverage_prompts.yaml")
MAIN_PROMPT = "an avatar dancing in a neon city street at night"
DOMAIN_PROMPTS = {
    "city": "a pink neon city skyline at night",
    "landscape": "green mountains in the daytime",
    "interior": "a blue room with a glowing portal",
    "space": "an orange planet with rings in space",
    "object": "a red glossy sphere spinning in a studio",
    "avatar": "a purple robot waving on a stage",
}


@pytest.fixture(scope="module")
def pipeline() -> MoEVideoPipeline:
    return MoEVideoPipeline.from_pack()


def test_every_file_matches_its_hash_and_fits_a_plain_push() -> None:
    pack = open_pack()
    assert pack.verify() < 90_000_000
    sizes = {path.name: path.stat().st_size for path in pack.folder.iterdir()}
    assert max(sizes.values()) < 9_500_000
    assert {"city", "landscape", "interior", "space", "object", "avatar"} == set(pack.manifest.expert_ids())


def test_a_prompt_of_two_domains_activates_both_experts(pipeline: MoEVideoPipeline) -> None:
    decision = pipeline.gate(SceneRequest.parse(prompt=MAIN_PROMPT))
    assert set(decision.active) == {"avatar", "city"}
    assert sum(decision.weights.values()) == pytest.approx(1.0)
    assert not decision.low_coverage


@pytest.mark.parametrize(("domain", "prompt"), DOMAIN_PROMPTS.items())
def test_a_prompt_of_one_domain_goes_to_its_expert(
    pipeline: MoEVideoPipeline, domain: str, prompt: str
) -> None:
    assert pipeline.gate(SceneRequest.parse(prompt=prompt)).active[0] == domain


def test_texts_outside_the_worlds_are_flagged_and_texts_inside_are_not(pipeline: MoEVideoPipeline) -> None:
    """On texts that neither set the scale of the coverage nor chose its threshold."""
    texts = yaml.safe_load(FRESH.read_text(encoding="utf-8"))
    calibrated = yaml.safe_load((ROOT / "training" / "foreign_prompts.yaml").read_text(encoding="utf-8"))
    assert min(len(texts["outside"]), len(texts["inside"])) >= 20
    assert not {text.lower() for text in texts["outside"]} & {text.lower() for text in calibrated}

    def flagged(prompts: list[str]) -> float:
        return float(np.mean([pipeline.gate(SceneRequest.parse(prompt=p)).low_coverage for p in prompts]))

    assert flagged(texts["outside"]) >= 0.85
    assert flagged(texts["inside"]) <= 0.10
    assert flagged([MAIN_PROMPT, *DOMAIN_PROMPTS.values()]) == 0.0


def test_a_part_that_is_known_does_not_hide_the_rest(pipeline: MoEVideoPipeline) -> None:
    assert pipeline.gate(SceneRequest.parse(prompt="an elephant bathing in a river")).low_coverage
    assert not pipeline.gate(SceneRequest.parse(prompt="a robot standing beside a river")).low_coverage


def test_the_gate_names_the_domain_of_hand_written_paraphrases(pipeline: MoEVideoPipeline) -> None:
    entries = yaml.safe_load((ROOT / "training" / "paraphrases.yaml").read_text(encoding="utf-8"))
    assert len(entries) == 60
    first = [pipeline.gate(SceneRequest.parse(prompt=e["text"])).active[0] for e in entries]
    right = [name in e["domains"] for name, e in zip(first, entries, strict=True)]
    assert np.mean(right) >= 0.85


def test_clips_show_what_their_prompts_say(pipeline: MoEVideoPipeline) -> None:
    """Each of six clips is nearest to its own prompt in the space of the probe, which never steers a clip."""
    assert pipeline.features is not None
    texts = np.stack([pipeline.features.encode_text(p) for p in DOMAIN_PROMPTS.values()])
    nearest = []
    for prompt in DOMAIN_PROMPTS.values():
        clip = pipeline.generate(SceneRequest.parse(prompt=prompt, seed=3, steps=6, top_k=1))
        assert clip.frames.std() > 15  # not one flat colour
        nearest.append(int((texts @ pipeline.features(clip.frames).mean(0)).argmax()))
    assert sum(i == n for i, n in enumerate(nearest)) >= 5


def test_the_published_figures_are_of_this_pack() -> None:
    published = json.loads(EVALUATION.read_text(encoding="utf-8"))
    assert published["pack"]["sha256"] == open_pack().sha256
    quality = published["autoencoder_psnr_db"]
    assert quality["mean"] >= 33.0
    assert min(quality.values()) >= 30.0
    assert published["gate"]["held_out_captions"] >= 0.95
    assert published["gate"]["paraphrases"] >= 0.85


def test_the_last_preview_looks_like_the_clip(pipeline: MoEVideoPipeline) -> None:
    """Forming frames are the clip at an eighth of its size, not noise: within a few grey levels of its own average."""
    previews = []
    for event in pipeline.stream(SceneRequest.parse(prompt=MAIN_PROMPT, seed=7)):
        if isinstance(event, ev.Step) and event.preview is not None:
            previews.append(event.preview)
        if isinstance(event, ev.Finished):
            frames = event.clip.frames.astype(np.float32)  # (T, H, W, 3)
    t, h, w = (a // b for a, b in zip(frames.shape[:3], previews[-1].shape[:3], strict=True))
    small = frames.reshape(frames.shape[0] // t, t, frames.shape[1] // h, h, frames.shape[2] // w, w, 3)
    difference = np.abs(previews[-1] - small.mean((1, 3, 5)))
    assert difference.mean() < 20.0  # a map that leaves a direction free is off by more than a hundred
    first = previews[0].astype(np.float32)
    assert np.abs(np.diff(first, axis=2)).mean() < 30.0  # the first guess is a soft picture already

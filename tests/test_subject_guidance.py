"""Subject guidance: scenes with subjects in a world pull harder towards the subjects while the layout is decided."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_pipeline.diffusion.guidance import ClassifierFree, SubjectGuidance
from moe_pipeline.pipeline import MoEVideoPipeline
from moe_pipeline.prompting.decompose import decompose
from moe_pipeline.schema.errors import MoEverseError
from moe_pipeline.schema.request import SceneRequest
from moe_pipeline.workloads import request_workloads

COMPOSED = "an avatar dancing in a neon city street at night"
PLAIN = "a neon city street at night"


@pytest.fixture(scope="module")
def pipeline() -> MoEVideoPipeline:
    return MoEVideoPipeline.from_pack()


def ask(prompt: str, **values: object) -> SceneRequest:
    return SceneRequest.parse(**{"prompt": prompt, "seed": 3, "steps": 5, **values})


@given(scale=st.floats(1.0, 8.0), subjects=st.floats(1.0, 4.0), sigma=st.floats(0.0, 1.0))
@settings(max_examples=40, deadline=None)
def test_equal_strength_is_plain_guidance_and_no_subject_leaves_the_world(
    scale: float, subjects: float, sigma: float
) -> None:
    torch.manual_seed(0)
    full, empty, world = torch.randn(3, 1, 2, 2, 2, 2, dtype=torch.float64)
    plain = ClassifierFree(scale)
    same = SubjectGuidance(plain, 1.0)(full, empty, world, sigma)
    assert torch.equal(same, plain(full, empty, sigma))
    # Where the subjects add nothing, their strength does not matter.
    guided = SubjectGuidance(plain, subjects)
    assert torch.allclose(guided(full, empty, full, sigma), plain(full, empty, sigma))
    # The rule is linear in what the subjects add.
    if guided.needs_world(sigma):
        more = guided(full, empty, world, sigma) - plain(full, empty, sigma)
        assert torch.allclose(more, scale * (subjects - 1.0) * (full - world))


def test_a_world_is_the_prompt_without_its_subjects() -> None:
    assert decompose(COMPOSED).world == "a neon city street at night"
    assert decompose(PLAIN).world is None and decompose("a robot waving").world is None


def test_only_early_steps_of_composed_scenes_pay_for_the_third_branch(pipeline: MoEVideoPipeline) -> None:
    low = pipeline.manifest.defaults.subject_sigma  # type: ignore[attr-defined]

    def passes(prompt: str, **values: object) -> list[tuple[float, int]]:
        record = pipeline.generate(ask(prompt, **values)).record
        active = len(record.gate.active)
        return [(step.sigma, step.forward_passes // active) for step in record.timing.steps]

    guided = passes(COMPOSED, subject_guidance=2.0)
    assert {count for sigma, count in guided if sigma >= low} == {3}
    assert {count for sigma, count in guided if sigma < low} == {2}
    assert {count for _, count in passes(COMPOSED, subject_guidance=1.0)} == {2}
    assert {count for _, count in passes(PLAIN, subject_guidance=2.0)} == {2}
    assert {count for _, count in passes(COMPOSED, subject_guidance=2.0, mode="single")} == {2}


def test_it_changes_composed_scenes_only(pipeline: MoEVideoPipeline) -> None:
    def frames(prompt: str, **values: object) -> np.ndarray:
        return pipeline.generate(ask(prompt, **values)).frames

    assert np.array_equal(frames(PLAIN, subject_guidance=1.0), frames(PLAIN, subject_guidance=3.0))
    assert not np.array_equal(frames(COMPOSED, subject_guidance=1.0), frames(COMPOSED, subject_guidance=3.0))
    single = {"mode": "single"}
    assert np.array_equal(
        frames(COMPOSED, subject_guidance=1.0, **single), frames(COMPOSED, subject_guidance=3.0, **single)
    )


def test_the_estimate_counts_the_third_branch_where_it_runs(pipeline: MoEVideoPipeline) -> None:
    def step(prompt: str, strength: float) -> float:
        request = pipeline.resolve(ask(prompt, steps=16, subject_guidance=strength))
        return float(request_workloads(pipeline.engine, request).expert_step.flops)

    plain, guided = step(COMPOSED, 1.0), step(COMPOSED, 2.0)
    sigmas = pipeline.engine.noise_levels(16)[:-1]
    low = pipeline.manifest.defaults.subject_sigma  # type: ignore[attr-defined]
    share = sum(sigma >= low for sigma in sigmas) / 16
    assert guided / plain == pytest.approx(1.0 + share / 2.0, rel=0.02)
    assert step(PLAIN, 2.0) == step(PLAIN, 1.0)


@pytest.mark.parametrize("strength", [0.5, 99.0, float("nan")])
def test_a_strength_out_of_range_is_one_sentence(pipeline: MoEVideoPipeline, strength: float) -> None:
    with pytest.raises(MoEverseError, match="subject_guidance"):
        pipeline.resolve(ask(COMPOSED, subject_guidance=strength))

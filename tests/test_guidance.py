"""Guidance: what it does inside its interval, and that it costs nothing outside of it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moe_pipeline.diffusion.guidance import ClassifierFree
from moe_pipeline.experts.fusion import weighted_mean
from moe_pipeline.interfaces import Guider

SHAPE = (1, 4, 2, 4, 4)


def predictions() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(SHAPE), torch.randn(SHAPE)


def test_it_is_a_guider() -> None:
    assert isinstance(ClassifierFree(3.0), Guider)


@given(scale=st.floats(1.5, 12.0))
def test_guidance_goes_from_the_unconditional_through_the_conditional_prediction(scale: float) -> None:
    with_text, without = predictions()
    guided = ClassifierFree(scale)(with_text, without, 0.5)
    torch.testing.assert_close(guided - without, scale * (with_text - without), atol=1e-4, rtol=1e-4)


def test_where_both_branches_agree_guidance_changes_nothing() -> None:
    with_text, _ = predictions()
    torch.testing.assert_close(ClassifierFree(7.0)(with_text, with_text, 0.5), with_text)


@pytest.mark.parametrize(
    ("sigma", "inside"),
    [(1.0, False), (0.81, False), (0.8, True), (0.5, True), (0.3, True), (0.29, False), (0.0, False)],
)
def test_outside_of_the_interval_the_conditional_prediction_stands_alone(sigma: float, inside: bool) -> None:
    guider = ClassifierFree(3.0, low=0.3, high=0.8)
    with_text, without = predictions()
    assert guider.needs_unconditional(sigma) is inside
    guided = guider(with_text, without, sigma)
    assert torch.equal(guided, with_text) is not inside
    if not inside:  # the second branch need not even be there
        assert guider(with_text, None, sigma) is with_text


def test_a_scale_of_one_switches_guidance_off() -> None:
    guider = ClassifierFree(1.0)
    with_text, without = predictions()
    assert not any(guider.needs_unconditional(s) for s in (0.0, 0.5, 1.0))
    assert torch.equal(guider(with_text, without, 0.5), with_text)


def test_with_shared_weights_mixing_and_guiding_commute() -> None:
    guider, weights = ClassifierFree(4.0), [0.7, 0.3]
    first, second = predictions(), predictions()
    mixed = [weighted_mean(list(branch), weights) for branch in zip(first, second, strict=True)]
    mix_then_guide = guider(mixed[0], mixed[1], 0.5)
    guide_then_mix = weighted_mean([guider(*first, 0.5), guider(*second, 0.5)], weights)
    torch.testing.assert_close(mix_then_guide, guide_then_mix, atol=1e-5, rtol=1e-5)

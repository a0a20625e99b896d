"""The flow: one definition of noise levels, target and step, for training and for sampling."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from hypothesis import given
from hypothesis import strategies as st

from moe_pipeline.diffusion import flow

SHAPE = (2, 16, 4, 8, 8)  # (B, C, F, H, W)


def pair() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(SHAPE), torch.randn(SHAPE)


@given(sigma=st.floats(0.01, 1.0))
def test_one_euler_step_with_the_perfect_prediction_recovers_the_data(sigma: float) -> None:
    data, noise = pair()
    x = flow.add_noise(data, noise, torch.full((2,), sigma))
    velocity = flow.target(data, noise)
    torch.testing.assert_close(flow.step(x, velocity, sigma, 0.0), data, atol=1e-5, rtol=0)
    torch.testing.assert_close(flow.clean_estimate(x, velocity, sigma), data, atol=1e-5, rtol=0)


def test_the_ends_of_the_flow_are_data_and_noise() -> None:
    data, noise = pair()
    assert torch.equal(flow.add_noise(data, noise, torch.zeros(2)), data)
    assert torch.equal(flow.add_noise(data, noise, torch.ones(2)), noise)
    each = flow.add_noise(data, noise, torch.tensor([0.0, 1.0]))  # a level of its own for every sample
    assert torch.equal(each[0], data[0]) and torch.equal(each[1], noise[1])


@given(sigma=st.floats(0.0, 1.0), following=st.floats(0.0, 1.0))
def test_a_step_walks_along_the_straight_line(sigma: float, following: float) -> None:
    data, noise = pair()
    x = flow.add_noise(data, noise, torch.full((2,), sigma))
    there = flow.add_noise(data, noise, torch.full((2,), following))
    torch.testing.assert_close(
        flow.step(x, flow.target(data, noise), sigma, following), there, atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("shift", [1.0, 1.5, 3.0])
@pytest.mark.parametrize("steps", [1, 2, 7, 16, 64])
def test_the_schedule_equals_diffusers_with_explicit_sigmas(steps: int, shift: float) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 0.0, steps + 1)[:-1])  # it shifts them and appends the 0
    np.testing.assert_allclose(flow.noise_schedule(steps, shift), scheduler.sigmas.numpy(), atol=1e-6)


@given(steps=st.integers(1, 64), shift=st.floats(0.2, 10.0))
def test_the_schedule_falls_from_one_to_zero(steps: int, shift: float) -> None:
    levels = flow.noise_schedule(steps, shift)
    assert len(levels) == steps + 1
    assert levels[0] == pytest.approx(1.0, abs=1e-12) and levels[-1] == 0.0
    assert all(a > b for a, b in pairwise(levels))


def test_the_loss_is_zero_only_for_the_velocity_and_one_figure_a_sample() -> None:
    data, noise = pair()
    velocity = flow.target(data, noise)
    assert torch.equal(flow.velocity_loss(velocity, data, noise), torch.zeros(2))
    wrong = velocity.clone()
    wrong[1] += 2.0
    torch.testing.assert_close(flow.velocity_loss(wrong, data, noise), torch.tensor([0.0, 4.0]))
    # The opposite sign of the convention would be a loss of four times the velocity's power.
    assert bool((flow.velocity_loss(-velocity, data, noise) > 1.0).all())


def test_training_levels_lie_inside_the_flow_and_follow_their_generator() -> None:
    levels = flow.training_sigmas(4000, torch.Generator().manual_seed(3))
    assert bool(((levels > 0.0) & (levels < 1.0)).all())
    assert torch.equal(levels, flow.training_sigmas(4000, torch.Generator().manual_seed(3)))
    assert not torch.equal(levels, flow.training_sigmas(4000, torch.Generator().manual_seed(4)))
    peaked = flow.training_sigmas(4000, torch.Generator().manual_seed(3), even=0.0)
    assert float(peaked.median()) == pytest.approx(
        1 / (1 + np.exp(-0.3)), abs=0.02
    )  # the logit's mean is 0.3


def test_even_training_levels_fall_one_into_each_stratum_and_in_random_order() -> None:
    levels = flow.training_sigmas(64, torch.Generator().manual_seed(3), even=1.0)
    assert sorted((levels * 64).floor().int().tolist()) == list(range(64))
    assert not torch.equal(levels, levels.sort().values)
    # By default half of them do, so that no level is seldom: a tenth at each end gets at least a twentieth of them.
    mixed = flow.training_sigmas(4000, torch.Generator().manual_seed(3))
    assert min(float((mixed < 0.1).float().mean()), float((mixed > 0.9).float().mean())) > 0.05

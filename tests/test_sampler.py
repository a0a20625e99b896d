"""The sampler: Euler equals diffusers', the second order is more accurate, noise belongs to the seed."""

import math

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from moe_pipeline.diffusion.flow import noise_schedule
from moe_pipeline.diffusion.sampler import SampledStep, initial_noise, sample

SHAPE = (1, 4, 2, 4, 4)


def curved(x: torch.Tensor, sigma: float, index: int) -> torch.Tensor:
    """A velocity that depends on state and level: dx/dsigma = x * cos(3 sigma) - sigma."""
    return x * math.cos(3.0 * sigma) - sigma


@pytest.mark.parametrize("steps", [1, 2, 7, 16, 30])
def test_euler_equals_diffusers(steps: int) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=1.5)
    scheduler.set_timesteps(sigmas=torch.linspace(1.0, 0.0, steps + 1)[:-1].numpy())
    theirs = x = initial_noise(SHAPE, 0)
    for level, timestep in zip(scheduler.sigmas.tolist()[:-1], scheduler.timesteps, strict=True):
        theirs = scheduler.step(curved(theirs, level, 0), timestep, theirs, return_dict=False)[0]
    ours = [step.x for step in sample(x, noise_schedule(steps, 1.5), curved, order=1)]
    torch.testing.assert_close(ours[-1], theirs, atol=1e-5, rtol=1e-5)


def endpoint(steps: int, order: int, shift: float = 1.5) -> float:
    """Error at sigma 0 on dx/dsigma = 2 x, from x = 1 at sigma 1; the answer is exp(-2)."""
    start = torch.ones(1, dtype=torch.float32)
    last = [s.x for s in sample(start, noise_schedule(steps, shift), lambda x, s, i: 2.0 * x, order=order)][
        -1
    ]
    return abs(float(last) - math.exp(-2.0))


def test_second_order_is_more_accurate_and_converges_faster() -> None:
    for steps in (4, 8, 16, 32):
        assert endpoint(steps, 2) < 0.6 * endpoint(steps, 1)
    # Doubling the steps halves the error of the first order and quarters that of the second.
    assert endpoint(16, 1) / endpoint(32, 1) == pytest.approx(2.0, rel=0.15)
    assert endpoint(16, 2) / endpoint(32, 2) == pytest.approx(4.0, rel=0.25)


@pytest.mark.parametrize("order", [1, 2])
def test_a_straight_flow_is_exact_in_any_number_of_steps(order: int) -> None:
    data, noise = torch.randn(SHAPE), initial_noise(SHAPE, 1)
    for steps in (1, 3, 10):
        walk = list(sample(noise, noise_schedule(steps, 1.5), lambda x, s, i: noise - data, order=order))
        torch.testing.assert_close(walk[-1].x, data, atol=1e-5, rtol=0)
        for step in walk:  # the clean clip is predicted right from the first step on
            torch.testing.assert_close(step.clean, data, atol=1e-5, rtol=0)


def test_steps_come_one_by_one_with_their_levels() -> None:
    asked: list[tuple[float, int]] = []

    def velocity(x: torch.Tensor, sigma: float, index: int) -> torch.Tensor:
        asked.append((sigma, index))
        return x

    sigmas = noise_schedule(5)
    walk = sample(initial_noise(SHAPE, 0), sigmas, velocity)
    first = next(walk)
    assert isinstance(first, SampledStep) and len(asked) == 1  # nothing runs ahead of the consumer
    rest = list(walk)
    assert asked == [
        (sigma, i) for i, sigma in enumerate(sigmas[:-1])
    ]  # one evaluation a step, in both orders
    assert [(s.index, s.sigma, s.next_sigma) for s in [first, *rest]] == [
        (i, sigmas[i], sigmas[i + 1]) for i in range(5)
    ]


def test_noise_belongs_to_the_seed_and_leaves_the_global_generator_alone() -> None:
    state = torch.get_rng_state()
    noise = initial_noise(SHAPE, 7)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(noise, initial_noise(SHAPE, 7))
    assert not torch.equal(noise, initial_noise(SHAPE, 8))
    assert noise.dtype == torch.float32
    many = initial_noise((1, 16, 4, 16, 16), 0)
    assert float(many.mean()) == pytest.approx(0.0, abs=0.03)
    assert float(many.std()) == pytest.approx(1.0, abs=0.03)

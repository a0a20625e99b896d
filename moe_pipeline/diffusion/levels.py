"""Noise levels of models that were trained in another convention, read as levels of this project's flow.

A variance-preserving model knows x_vp = a * data + s * noise with a^2 + s^2 = 1 at each of its timesteps; the flow
knows x = (1 - sigma) * data + sigma * noise. With sigma = s / (a + s) they are the same point at another length:
x = x_vp / (a + s), and so are their solutions: one Euler step along the flow is one DDIM step with eta = 0 (Song et
al., "Denoising diffusion implicit models", 2021, arXiv 2010.02502, eq. 13; tests/test_hub_packs.py compares them).
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from torch import Tensor

from moe_pipeline.diffusion.flow import noise_schedule
from moe_pipeline.schema.errors import MoEverseError

Prediction = Literal["epsilon", "v_prediction", "sample"]
PREDICTIONS: tuple[Prediction, ...] = ("epsilon", "v_prediction", "sample")
SCHEDULE_KEYS = (
    "num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "steps_offset",
    "timestep_spacing", "rescale_betas_zero_snr",
)  # fmt: skip
ON_A_STEP = 1e-3  # an interpolated timestep this near to a whole one is that one


class NoiseLevels(Protocol):
    """How a model's own convention and the flow translate into each other."""

    def noise_levels(self, steps: int) -> list[float]:
        """`steps` + 1 falling levels of sigma, the last one 0."""
        ...

    def start(self, noise: Tensor, sigma: float) -> Tensor:
        """Standard normal noise -> what the model starts from at its highest level, in the flow's length."""
        ...

    def enter(self, x: Tensor, sigma: float) -> Tensor:
        """x of the flow -> what the model reads."""
        ...

    def timestep(self, sigma: float) -> float:
        """The model's own name of a level."""
        ...

    def leave(self, x: Tensor, output: Tensor, sigma: float) -> Tensor:
        """x of the flow and the model's output -> velocity of the flow."""
        ...


def _lengths(sigma: float) -> tuple[float, float]:
    """(a, s) of the variance-preserving point at level sigma."""
    length = math.hypot(1.0 - sigma, sigma)
    return (1.0 - sigma) / length, sigma / length


@dataclass(frozen=True)
class VarianceLevels:
    """A variance-preserving model: `sigmas[t]` is the flow's level at timestep t, rising with t.

    `spacing` answers with the falling timesteps of a run by its number of steps, as the model's own scheduler does.
    """

    sigmas: tuple[float, ...]
    prediction: Prediction
    spacing: Callable[[int], list[int]]

    def noise_levels(self, steps: int) -> list[float]:
        """Levels at the scheduler's timesteps, then 0: the last step returns the predicted data itself.

        Raises:
            MoEverseError: more steps than the model has timesteps.
        """
        if steps > len(self.sigmas):
            raise MoEverseError(
                "bad_request",
                f"request: steps must be 1 to {len(self.sigmas)} for this pack, got {steps}.",
            )
        return [*(self.sigmas[t] for t in self.spacing(steps)), 0.0]

    def start(self, noise: Tensor, sigma: float) -> Tensor:
        """The model starts from noise of unit variance, which at this level has the length 1 / (a + s)."""
        a, s = _lengths(sigma)
        return noise / (a + s)

    def enter(self, x: Tensor, sigma: float) -> Tensor:
        """x * (a + s): unit variance for data of unit variance."""
        a, s = _lengths(sigma)
        return x * (a + s)

    def timestep(self, sigma: float) -> float:
        """Between two timesteps by linear interpolation of sigma; outside of them the nearest."""
        after = bisect.bisect_left(self.sigmas, sigma)
        if after == 0:
            return 0.0
        if after == len(self.sigmas):
            return float(len(self.sigmas) - 1)
        low, high = self.sigmas[after - 1], self.sigmas[after]
        found = after - 1 + (sigma - low) / (high - low)
        return float(round(found)) if abs(found - round(found)) < ON_A_STEP else found

    def leave(self, x: Tensor, output: Tensor, sigma: float) -> Tensor:
        """noise - data, from whichever of them the model predicts."""
        a, s = _lengths(sigma)
        own = self.enter(x, sigma)
        match self.prediction:
            case "epsilon":
                noise, data = output, (own - s * output) / a
            case "v_prediction":
                noise, data = s * own + a * output, a * own - s * output
            case "sample":
                noise, data = (own - a * output) / s, output
        return noise - data


@dataclass(frozen=True)
class FlowLevels:
    """A model that was trained on the flow itself: only its timesteps have another name, whole thousandths of sigma.

    The published samplers of these models cut them so, and switch between experts by the cut timestep.
    """

    shift: float
    timesteps: int = 1000

    def noise_levels(self, steps: int) -> list[float]:
        return noise_schedule(steps, self.shift)

    def start(self, noise: Tensor, sigma: float) -> Tensor:
        return noise

    def enter(self, x: Tensor, sigma: float) -> Tensor:
        return x

    def timestep(self, sigma: float) -> float:
        return float(math.floor(sigma * self.timesteps + 1e-6))

    def leave(self, x: Tensor, output: Tensor, sigma: float) -> Tensor:
        return output


def variance_levels(config: Mapping[str, Any], pack: str) -> VarianceLevels:
    """Levels of a scheduler's configuration in diffusers' words (`beta_start`, `prediction_type`, ...).

    Raises:
        MoEverseError: `unknown_scheduler`, for what our loop does not do: clipping or thresholding the predicted
            data, another kind of prediction, a schedule whose numbers do not make sense.
    """
    from diffusers import DDIMScheduler

    for key in ("clip_sample", "thresholding"):
        if config.get(key):
            raise MoEverseError(
                "unknown_scheduler",
                f"The scheduler of {pack} has {key} switched on, which latents are never sampled with here.",
                f"Set {key} to false in scheduler/scheduler_config.json if the model allows it.",
            )
    prediction = config.get("prediction_type", "epsilon")
    if prediction not in PREDICTIONS:
        raise MoEverseError(
            "unknown_scheduler",
            f"The scheduler of {pack} has the prediction type {str(prediction)[:40]!r}.",
            f"Known: {', '.join(PREDICTIONS)}.",
        )
    own = {key: config[key] for key in SCHEDULE_KEYS if config.get(key) is not None}

    def made() -> Any:
        return DDIMScheduler(**own, clip_sample=False, prediction_type=prediction)

    def spacing(steps: int) -> list[int]:
        scheduler = made()  # its own object a run: two runs may ask at once
        scheduler.set_timesteps(steps)
        return [int(t) for t in scheduler.timesteps]

    try:
        alphas = [float(value) for value in made().alphas_cumprod.double()]
    except (TypeError, ValueError, NotImplementedError, RuntimeError) as error:
        raise MoEverseError(
            "unknown_scheduler",
            f"The noise schedule of {pack} cannot be read: {str(error)[:120]}.",
            "Use the repository's own scheduler_config.json.",
        ) from error
    sigmas = tuple(math.sqrt(1.0 - a) / (math.sqrt(a) + math.sqrt(1.0 - a)) for a in alphas)
    if any(later <= earlier for earlier, later in itertools.pairwise(sigmas)):
        raise MoEverseError(
            "unknown_scheduler",
            f"The noise schedule of {pack} does not rise with its timesteps.",
            "Use the repository's own scheduler_config.json.",
        )
    if prediction == "epsilon" and alphas[-1] == 0.0:
        raise MoEverseError(
            "unknown_scheduler",
            f"The schedule of {pack} ends in pure noise, from which predicted noise says nothing about the data.",
            "Such a model predicts v: check prediction_type.",
        )
    return VarianceLevels(sigmas, prediction, spacing)


def flow_levels(config: Mapping[str, Any], pack: str, shift: float | None = None) -> FlowLevels:
    """Levels of a flow-matching scheduler's configuration; `shift` stands in for its own.

    Raises:
        MoEverseError: `unknown_scheduler`, for a schedule that depends on the size of the clip or is no flow.
    """
    own = str(config.get("_class_name", "FlowMatchEulerDiscreteScheduler"))
    if config.get("use_dynamic_shifting"):
        raise MoEverseError(
            "unknown_scheduler",
            f"The scheduler of {pack} shifts its noise levels by the size of the clip, which is not done here.",
            "Set use_dynamic_shifting to false and a shift in scheduler/scheduler_config.json.",
        )
    if own == "UniPCMultistepScheduler" and not (
        config.get("use_flow_sigmas") and config.get("prediction_type") == "flow_prediction"
    ):
        raise MoEverseError(
            "unknown_scheduler",
            f"The scheduler of {pack} is no flow: use_flow_sigmas and flow_prediction are not set.",
            "Use the repository's own scheduler_config.json.",
        )
    found = shift or config.get("flow_shift") or config.get("shift") or 1.0
    return FlowLevels(float(found), int(config.get("num_train_timesteps") or 1000))

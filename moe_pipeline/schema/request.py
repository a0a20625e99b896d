"""What a visitor may send, and the form in which every default has been filled."""

from __future__ import annotations

import unicodedata
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from moe_pipeline.schema.errors import MoEverseError, from_validation
from moe_pipeline.schema.pack import Manifest
from moe_pipeline.schema.placement import Objective

Mode = Literal["moe", "single"]

PROMPT_LIMIT = 1000
SEED_LIMIT = 2**31 - 1
DEFAULT_SCENARIO = "campus-mec"


class SceneRequest(BaseModel):
    """One clip to make. Fields left at None take the pack's default in `resolve`.

    Attributes:
        prompt: the scene in words, 1 to 1000 characters after trimming.
        seed: 0 to 2**31 - 1; the same seed with the same pack and environment gives the same frames.
        steps: denoising steps.
        guidance: classifier-free guidance scale; 1 switches guidance off.
        subject_guidance: how many times more strongly the subjects of a scene are guided than its world while the
            picture takes shape; 1 treats both alike. `single` takes the prompt as a whole and has no use for it.
        top_k: how many experts take part in a denoising step.
        mode: `moe` combines experts, `single` runs the generalist alone.
        frames, width, height: size of the clip; multiples the pack names.
        scenario: name of an edge scenario, see `python -m moe_pipeline devices`.
        objective: what the placement minimises.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt: str
    seed: int | None = Field(default=None, ge=0, le=SEED_LIMIT)
    steps: int | None = Field(default=None, ge=1)
    guidance: float | None = Field(default=None, ge=1.0, allow_inf_nan=False)
    subject_guidance: float | None = Field(default=None, ge=1.0, allow_inf_nan=False)
    fill_details: bool = True
    top_k: int | None = Field(default=None, ge=1)
    mode: Mode = "moe"
    frames: int | None = Field(default=None, ge=1)
    width: int | None = Field(default=None, ge=1)
    height: int | None = Field(default=None, ge=1)
    scenario: str = Field(default=DEFAULT_SCENARIO, min_length=1, max_length=64)
    objective: Objective = "latency"

    @field_validator("prompt")
    @classmethod
    def _prompt_within_limits(cls, value: str) -> str:
        text = " ".join(value.split())
        # Joiners and other format characters stay inside a text, but alone they show nothing.
        if all(unicodedata.category(letter) in ("Cf", "Zs") for letter in text):
            raise ValueError("The prompt is empty. Describe a scene, for example 'a neon city at night'.")
        if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
            # Half a UTF-16 pair, or bytes on a command line that are no UTF-8: no encoder or file takes them.
            raise ValueError("The prompt holds bytes that are not valid text. Write it in UTF-8.")
        if len(text) > PROMPT_LIMIT:
            raise ValueError(
                f"The prompt has {len(text)} characters, at most {PROMPT_LIMIT} are allowed. Shorten it."
            )
        return text

    @classmethod
    def parse(cls, **values: Any) -> SceneRequest:
        """Build a request from loose values; bad ones raise `MoEverseError` in one sentence."""
        try:
            return cls(**values)
        except ValidationError as error:
            first = error.errors()[0]
            if first["type"] == "value_error":  # our own sentence about the prompt stands for itself
                raise MoEverseError("bad_request", str(first["ctx"]["error"])) from error
            raise from_validation(error, code="bad_request", where="request") from error


class ResolvedRequest(BaseModel):
    """A request in which nothing is left open; it is stored in the record and read by every stage."""

    model_config = ConfigDict(frozen=True)

    prompt: str
    seed: int
    steps: int
    guidance: float
    subject_guidance: float = 1.0
    fill_details: bool = False
    top_k: int
    mode: Mode
    frames: int
    width: int
    height: int
    fps: int
    scenario: str
    objective: Objective


def _within(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise MoEverseError(
            "bad_request", f"request: {name} must be {low:.15g} to {high:.15g}, got {value:.15g}."
        )


def _multiple(name: str, value: int, of: int, offset: int = 0) -> None:
    if (value - offset) % of:
        lower = max(of, (value - offset) // of * of) + offset
        more = f" plus {offset}" if offset else ""
        raise MoEverseError(
            "bad_request", f"request: {name} must be a multiple of {of}{more}, got {value}.", f"Try {lower}."
        )


def resolve(request: SceneRequest, pack: Manifest) -> ResolvedRequest:
    """Fill every default from the pack and check the pack's limits. Pure and idempotent.

    Raises:
        MoEverseError: a value outside the pack's limits, named with what is allowed.
    """
    defaults, limits = pack.defaults, pack.limits
    steps = request.steps if request.steps is not None else defaults.steps
    guidance = request.guidance if request.guidance is not None else defaults.guidance
    subjects = defaults.subject_guidance if request.subject_guidance is None else request.subject_guidance
    top_k = request.top_k if request.top_k is not None else min(defaults.top_k, len(pack.experts))
    frames = request.frames or defaults.frames
    width = request.width or defaults.width
    height = request.height or defaults.height
    _within("steps", steps, 1, limits.max_steps)
    _within("guidance", guidance, 1.0, limits.max_guidance)
    _within("subject_guidance", subjects, 1.0, limits.max_subject_guidance)
    _within("top_k", top_k, 1, len(pack.experts))
    _within("frames", frames, limits.min_frames, limits.max_frames)
    _multiple("frames", frames, limits.frames_multiple, limits.frames_offset)
    for name, value in (("width", width), ("height", height)):
        _within(name, value, limits.min_side, limits.max_side)
        _multiple(name, value, limits.side_multiple)
    return ResolvedRequest(
        prompt=request.prompt,
        seed=request.seed if request.seed is not None else defaults.seed,
        steps=steps,
        guidance=guidance,
        subject_guidance=subjects if request.mode == "moe" else 1.0,
        fill_details=request.fill_details,
        top_k=top_k,
        mode=request.mode,
        frames=frames,
        width=width,
        height=height,
        fps=defaults.fps,
        scenario=request.scenario,
        objective=request.objective,
    )

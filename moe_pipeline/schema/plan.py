"""A prompt taken apart: one background and the subjects that stand in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Role = Literal["background", "subject"]
Region = Literal["everywhere", "left", "centre", "right"]


MOST_PLACED = 2  # more subjects would fill the picture


def places_of(regions: Sequence[Region]) -> tuple[Region, ...]:
    """A place for each of one or two subjects: its own where the prompt says one; else one alone stands in the middle,
    and the second of two at the side that the first leaves free. Empty for none or more."""
    if not 0 < len(regions) <= MOST_PLACED:
        return ()
    if len(regions) == 1:
        return ("centre",) if regions[0] == "everywhere" else (regions[0],)
    places = list(regions)
    for index, place in enumerate(places):
        other = places[1 - index]
        if place == "everywhere":
            places[index] = "right" if other == "left" or (other != "right" and index == 1) else "left"
    return tuple(places)


class Subtask(BaseModel):
    """One part of the scene, gated on its own.

    `span` holds the character offsets [start, end) of `text` in the prompt. `read_as` is what the experts read of this
    part where that is more than `text`, else empty.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    role: Role
    text: str
    span: tuple[int, int]
    region: Region = "everywhere"
    read_as: str = ""
    share: float = Field(ge=0.0, le=1.0, description="weight of this part when the parts' gates are combined")


class ScenePlan(BaseModel):
    """The subtasks of one prompt in the order in which they appear; shares sum to 1.

    `left_out` holds the texts of parts beyond the most that are gated: the experts still read them, the gate does not.
    `read_as` is what the experts read where that is more than the prompt, else empty (prompting/complete.py).
    """

    model_config = ConfigDict(frozen=True)

    prompt: str
    subtasks: tuple[Subtask, ...]
    method: str = "clauses"
    left_out: tuple[str, ...] = ()
    read_as: str = ""

    @property
    def reading(self) -> str:
        """What the experts read."""
        return self.read_as or self.prompt

    @property
    def places(self) -> tuple[Region, ...]:
        """Where the subjects stand in their world, in the plan's order; empty without a world, or for more than two."""
        regions = [part.region for part in self.subtasks if part.role == "subject"]
        return places_of(regions) if len(regions) < len(self.subtasks) else ()

    @property
    def world(self) -> str | None:
        """What the experts read of the backgrounds, in their order; None unless the plan has both roles."""
        backgrounds = [part.read_as or part.text for part in self.subtasks if part.role == "background"]
        return ", ".join(backgrounds) if 0 < len(backgrounds) < len(self.subtasks) else None

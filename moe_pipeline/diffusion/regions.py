"""Where in the picture the subjects of a scene are guided, while the layout is decided.

A small denoiser that is not sure where a subject stands draws it at every place it considers: two half robots instead
of one. Guided in one part of the picture alone, it has to stand there.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from moe_pipeline.schema.plan import Region

CENTRES: dict[Region, float] = {"left": 0.27, "centre": 0.5, "right": 0.73}  # of the width
HALF_WIDTH, EDGE = 0.18, 0.03  # of the width: half of a region, and how softly it ends
MOST_SUBJECTS = 2  # more would fill the picture


def places_of(regions: Sequence[Region]) -> tuple[Region, ...]:
    """A place for each subject: its own where the prompt says one; else one alone stands in the middle, and the
    second of two at the side that the first leaves free."""
    if len(regions) == 1:
        return ("centre",) if regions[0] == "everywhere" else (regions[0],)
    places = list(regions)
    for index, place in enumerate(places):
        other = places[1 - index]
        if place == "everywhere":
            places[index] = "right" if other == "left" or (other != "right" and index == 1) else "left"
    return tuple(places)


def subject_columns(regions: Sequence[Region], columns: int) -> Tensor | None:
    """Share, 0 to 1, of the subjects' guidance at each latent column, (columns,).

    Args:
        regions: of the subjects, in the prompt's order.
        columns: width of the latents.

    Returns:
        None where there is no subject, or more than two.
    """
    if not 0 < len(regions) <= MOST_SUBJECTS:
        return None
    at = (torch.arange(columns) + 0.5) / columns
    distance = torch.stack([(at - CENTRES[place]).abs() for place in places_of(regions)]).amin(0)
    return torch.sigmoid((HALF_WIDTH - distance) / EDGE)

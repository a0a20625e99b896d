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


def subject_columns(places: Sequence[Region], columns: int) -> Tensor | None:
    """Share, 0 to 1, of the subjects' guidance at each latent column, (columns,).

    Args:
        places: of the subjects (`ScenePlan.places`).
        columns: width of the latents.

    Returns:
        None where no subject has a place.
    """
    if not places:
        return None
    at = (torch.arange(columns) + 0.5) / columns
    distance = torch.stack([(at - CENTRES[place]).abs() for place in places]).amin(0)
    return torch.sigmoid((HALF_WIDTH - distance) / EDGE)

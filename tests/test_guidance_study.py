"""The measure of the guidance study: how much of a picture has the subject's colour."""

from __future__ import annotations

import numpy as np
import pytest

from training.guidance_study import colour_match, colour_share
from training.worlds.palette import COLOURS


def half_of(name: str, share: float = 0.5) -> np.ndarray:
    """Two black frames (2, 32, 32, 3) of which a share is filled with a colour of the palette."""
    frames = np.zeros((2, 32, 32, 3), np.uint8)
    frames[:, : round(32 * share)] = np.round(255 * np.asarray(COLOURS[name])).astype(np.uint8)
    return frames


@pytest.mark.parametrize("name", COLOURS)
def test_every_colour_of_the_palette_is_told_from_the_others(name: str) -> None:
    shares = {other: colour_share(half_of(name), other) for other in COLOURS}
    assert shares.pop(name) == 0.5 and not any(shares.values()), shares


def test_the_match_is_the_smaller_area_over_the_larger() -> None:
    wanted = half_of("red")
    assert colour_match(wanted, wanted, "red") == 1.0
    assert (
        colour_match(half_of("red", 0.25), wanted, "red")
        == colour_match(wanted, half_of("red", 0.25), "red")
        == 0.5
    )
    assert colour_match(half_of("blue"), wanted, "red") == 0.0

"""Named colours and the light of each time of day, in linear RGB."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vec = NDArray[np.float32]

# Display (sRGB) values; chosen so far apart in hue that eight words are enough to tell them.
COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.86, 0.10, 0.11),
    "orange": (0.97, 0.50, 0.08),
    "yellow": (0.97, 0.85, 0.16),
    "green": (0.15, 0.68, 0.24),
    "teal": (0.06, 0.72, 0.72),
    "blue": (0.11, 0.30, 0.92),
    "purple": (0.50, 0.16, 0.82),
    "pink": (0.98, 0.45, 0.72),
    "white": (0.94, 0.94, 0.93),
}


def linear(srgb: tuple[float, float, float]) -> Vec:
    """Display RGB in 0..1 to linear RGB (the 2.2 power that the shaders undo)."""
    return np.power(np.asarray(srgb, dtype=np.float32), 2.2).astype(np.float32)


def colour(name: str) -> Vec:
    return linear(COLOURS[name])


@dataclass(frozen=True)
class Light:
    """Linear colours and the direction to the sun (or moon) of one scene."""

    sun_dir: Vec
    sun_colour: Vec
    sky_top: Vec
    sky_low: Vec
    ambient: Vec
    fog_colour: Vec
    fog_density: float  # per world unit
    night: float  # 0 by day, 1 at night: how far lamps and windows are on


# time of day: (sun elevation, sun colour, sky top, sky at the horizon, ambient, night)
_TIMES: dict[str, tuple[float, tuple, tuple, tuple, tuple, float]] = {
    "dawn": (0.32, (1.0, 0.72, 0.58), (0.42, 0.55, 0.84), (0.99, 0.80, 0.72), (0.60, 0.60, 0.70), 0.35),
    "day": (0.85, (1.0, 0.97, 0.90), (0.20, 0.52, 0.95), (0.74, 0.90, 1.0), (0.68, 0.74, 0.80), 0.0),
    "sunset": (0.20, (1.0, 0.58, 0.30), (0.34, 0.24, 0.60), (1.0, 0.60, 0.34), (0.62, 0.52, 0.56), 0.55),
    "night": (0.60, (0.50, 0.60, 0.90), (0.05, 0.08, 0.25), (0.20, 0.27, 0.52), (0.40, 0.43, 0.58), 1.0),
}


def light(time_of_day: str, weather: str, tint: Vec, azimuth: float) -> Light:
    """The light of a scene; `tint` (linear RGB) colours haze and horizon a little.

    `azimuth` is in radians from the view axis to the right.
    """
    elevation, sun, top, low, ambient, night = _TIMES[time_of_day]
    direction = np.array(
        [np.sin(azimuth) * np.cos(elevation), np.sin(elevation), np.cos(azimuth) * np.cos(elevation)],
        dtype=np.float32,
    )
    sky_top, sky_low = linear(top), linear(low)
    strength = {"clear": 1.0, "cloudy": 0.75, "foggy": 0.5, "snowy": 0.75}[weather]
    density = {"clear": 0.007, "cloudy": 0.011, "foggy": 0.042, "snowy": 0.014}[weather]
    grey = float(sky_low.mean())
    if weather != "clear":
        keep = {"cloudy": 0.75, "foggy": 0.4, "snowy": 0.65}[weather]
        sky_top = sky_top * keep + (1 - keep) * (0.35 * sky_top + 0.65 * grey)
        sky_low = sky_low * keep + (1 - keep) * grey
    # Haze takes the named colour at the brightness it already has, so that light stays plausible.
    tinted = tint / max(float(tint.mean()), 0.05) * float(sky_low.mean())
    fog = 0.62 * sky_low + 0.38 * np.minimum(tinted, 1.2)
    return Light(
        direction,
        linear(sun) * (2.1 * strength if night < 1 else 0.7),
        sky_top,
        0.75 * sky_low + 0.25 * fog,
        linear(ambient),
        fog.astype(np.float32),
        density,
        night,
    )

"""The attribute space of the worlds: what a clip can show, and which combinations stay out of training.

A clip has a *world* (the background: one of the six domains), a *setting* (the layout within it) and,
in every avatar or object clip and in about a third of the others, a *subject*. A subject in a city,
landscape, interior or space makes the clip belong to two domains, the background first.

Colours: in a clip of one domain `colour` marks what the domain is about (neon and facades, ground and
haze, walls, planet, the object, the clothes) and `second_colour` its companion (backdrop, accents); in a
composed clip `colour` belongs to the world and `second_colour` to the subject.

A composed clip can hold a second subject, its *companion*: a scene of its own in the same world, at the other side.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from training.worlds.palette import COLOURS

DOMAINS: tuple[str, ...] = ("city", "landscape", "interior", "space", "object", "avatar")
SETTINGS: dict[str, tuple[str, ...]] = {
    "city": ("street", "skyline"),
    "landscape": ("hills", "mountains", "sea", "desert", "forest"),
    "interior": ("living room", "gallery", "hall", "portal room"),
    "space": ("planet", "ringed planet", "moons", "nebula", "asteroids"),
    "object": ("plinth", "studio"),
    "avatar": ("stage", "backdrop"),
}
SUBJECTS: tuple[str, ...] = ("none", "avatar", "vehicle", "object")
SHAPES: dict[str, tuple[str, ...]] = {
    "none": ("none",),
    "avatar": ("person", "robot"),
    "vehicle": ("car", "ship"),
    "object": ("sphere", "cube", "torus", "pyramid", "crystal", "capsule", "vase"),
}
MATERIALS: tuple[str, ...] = ("matte", "glossy", "metallic", "glowing")
TIMES: tuple[str, ...] = ("dawn", "day", "sunset", "night")
WEATHERS: dict[str, tuple[str, ...]] = {
    "city": ("clear", "foggy"),
    "landscape": ("clear", "cloudy", "foggy", "snowy"),
    "interior": ("clear",),
    "space": ("clear",),
    "object": ("clear",),
    "avatar": ("clear",),
}
CAMERAS: tuple[str, ...] = ("static", "pan left", "pan right", "push in", "pull back", "orbit", "rise")
MOTIONS: dict[str, tuple[str, ...]] = {
    "none": ("none",),
    "avatar": ("standing", "dancing", "waving", "walking", "jumping"),
    "vehicle": ("hovering", "flying past"),
    "object": ("spinning", "bobbing", "still"),
}
SPEEDS: tuple[str, ...] = ("slow", "normal", "fast")
POSITIONS: tuple[str, ...] = ("left", "centre", "right")
DEPTHS: tuple[str, ...] = ("near", "far")

SUBJECT_SHARE = 0.36  # of the clips of city, landscape, interior and space, unless a render asks for another
PAIR_SHARE = (
    0.0  # of the clips with a subject in a world that have a companion, unless a render asks for more
)
HELD_OUT_PERCENT = 18


@dataclass(frozen=True)
class Companion:
    """A second subject: what the first one has, in words of the same lists."""

    subject: str
    shape: str
    colour: str
    material: str
    subject_motion: str
    position: str
    depth: str


@dataclass(frozen=True)
class SceneAttributes:
    """One point of the space; every field is a word of the lists above."""

    domains: tuple[str, ...]
    world: str
    setting: str
    subject: str
    shape: str
    colour: str
    second_colour: str
    material: str
    time_of_day: str
    weather: str
    camera_motion: str
    subject_motion: str
    speed: str
    position: str
    depth: str
    companion: Companion | None = None

    def as_dict(self) -> dict[str, Any]:
        values = {**asdict(self), "domains": list(self.domains)}
        if self.companion is None:  # as before there were companions
            del values["companion"]
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> SceneAttributes:
        second = values.get("companion")
        return cls(
            **{
                **values,
                "domains": tuple(values["domains"]),
                "companion": Companion(**second) if second else None,
            }
        )

    @property
    def composed(self) -> bool:
        return len(self.domains) > 1

    @property
    def subject_colour(self) -> str:
        return self.second_colour if self.composed else self.colour

    @property
    def other(self) -> SceneAttributes:
        """The same world with the companion as its subject."""
        if self.companion is None:
            raise ValueError("this scene has no companion")
        second = self.companion
        return replace(
            self,
            domains=(self.world, domain_of_subject(second.subject)),
            subject=second.subject,
            shape=second.shape,
            second_colour=second.colour,
            material=second.material,
            subject_motion=second.subject_motion,
            position=second.position,
            depth=second.depth,
            companion=None,
        )


def domain_of_subject(subject: str) -> str:
    """The domain that a subject in a world belongs to: an avatar's own, an object's for all else."""
    return "avatar" if subject == "avatar" else "object"


def _pick(rng: np.random.Generator, words: tuple[str, ...], weights: tuple[float, ...] | None = None) -> str:
    p = None if weights is None else np.asarray(weights) / sum(weights)
    return words[int(rng.choice(len(words), p=p))]


def _subject(rng: np.random.Generator, world: str, composed: float) -> str:
    if world in ("avatar", "object"):
        return world
    if rng.random() >= composed:
        return "none"
    return _pick(rng, ("avatar", "vehicle", "object"), (0.5, 0.25, 0.25))


def _paired(rng: np.random.Generator, a: SceneAttributes) -> SceneAttributes:
    """`a` with a companion of another look at the other side; cars and ships keep back, so that both are seen."""
    names = tuple(name for name in COLOURS if name not in (a.colour, a.second_colour))
    subject = _pick(rng, ("avatar", "vehicle", "object"), (0.4, 0.25, 0.35))
    shape = _pick(rng, tuple(shape for shape in SHAPES[subject] if shape != a.shape))
    left = rng.random() < 0.5
    second = Companion(
        subject=subject,
        shape=shape,
        colour=_pick(rng, names),
        material="matte" if subject == "avatar" else _pick(rng, MATERIALS, (1.2, 1, 1, 0.8)),
        subject_motion=_pick(rng, MOTIONS[subject]),
        position="left" if left else "right",
        depth="far" if subject == "vehicle" else _pick(rng, DEPTHS),
    )
    both = (a.world, *dict.fromkeys(domain_of_subject(s) for s in (a.subject, subject)))
    return replace(
        a,
        domains=both,
        position="right" if left else "left",
        depth="far" if a.subject == "vehicle" else a.depth,
        companion=second,
    )


def sample(
    rng: np.random.Generator, world: str, composed: float = SUBJECT_SHARE, pairs: float = PAIR_SHARE
) -> SceneAttributes:
    """Draw a scene of `world` (one of DOMAINS); the same generator state gives the same scene.

    `composed` is the probability, 0 to 1, that a city, landscape, interior or space has a subject in it, `pairs` the
    probability that this subject has a companion.
    """
    subject = _subject(rng, world, composed)
    own = world in ("avatar", "object")
    domains = (world,) if own or subject == "none" else (world, domain_of_subject(subject))
    names = tuple(COLOURS)
    colour = _pick(rng, names, tuple(0.35 if name == "white" else 1.0 for name in names))
    second = _pick(rng, tuple(name for name in names if name != colour))
    time_of_day = _pick(rng, TIMES, (0.1, 0.2, 0.2, 0.5) if world == "city" else None)
    if world in ("space", "object", "avatar"):
        time_of_day = "night" if world == "space" else "day"
    camera = _pick(rng, CAMERAS, (2, 1, 1, 1.5, 1, 1, 1))
    shape = _pick(rng, SHAPES[subject])
    motion = _pick(rng, MOTIONS[subject], (0.7, 1.5, 1.2, 1.2, 0.8) if subject == "avatar" else None)
    drawn = SceneAttributes(
        domains=domains,
        world=world,
        setting=_pick(rng, SETTINGS[world]),
        subject=subject,
        shape=shape,
        colour=colour,
        second_colour=second,
        material="matte" if subject in ("none", "avatar") else _pick(rng, MATERIALS, (1.2, 1, 1, 0.8)),
        time_of_day=time_of_day,
        weather=_pick(rng, WEATHERS[world], (2.5, 1, 1, 1)[: len(WEATHERS[world])]),
        camera_motion=camera,
        subject_motion=motion,
        speed=_pick(rng, SPEEDS, (1, 2, 1)),
        position="centre" if own or subject == "none" else _pick(rng, POSITIONS, (1, 1.4, 1)),
        depth="near" if own or subject == "none" else _pick(rng, DEPTHS, (1.4, 1)),
    )
    if pairs and drawn.composed and rng.random() < pairs:
        return _paired(rng, drawn)
    return drawn


def combination(attributes: SceneAttributes) -> tuple[str, ...]:
    """What a caption always or nearly always shows: the combination that a split holds in or out whole."""
    a = attributes
    return (
        *a.domains,
        a.setting,
        a.subject,
        a.shape,
        a.colour,
        a.second_colour if a.composed else "",
        a.time_of_day,
        a.subject_motion,
        *((a.companion.shape, a.companion.colour, a.companion.subject_motion) if a.companion else ()),
    )


def held_out(attributes: SceneAttributes) -> bool:
    """True for about 18 % of the combinations, by a fixed hash: these never enter training."""
    digest = hashlib.sha256("|".join(combination(attributes)).encode()).digest()
    return int.from_bytes(digest[:8], "big") % 100 < HELD_OUT_PERCENT

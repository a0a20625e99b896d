"""Captions from attributes: a small grammar with synonyms, from terse tags to full sentences.

Every caption names its domain (both, in a composed clip); nothing a caption says is untrue of the clip.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from training.worlds.attributes import SceneAttributes

Generator = np.random.Generator

COLOUR_WORDS: dict[str, tuple[str, ...]] = {
    "red": ("red", "red", "red", "crimson", "scarlet"),
    "orange": ("orange", "orange", "orange", "amber", "tangerine"),
    "yellow": ("yellow", "yellow", "yellow", "golden", "lemon"),
    "green": ("green", "green", "green", "emerald", "bright green"),
    "teal": ("teal", "teal", "cyan", "turquoise", "aqua"),
    "blue": ("blue", "blue", "blue", "deep blue", "azure"),
    "purple": ("purple", "purple", "purple", "violet", "lilac"),
    "pink": ("pink", "pink", "pink", "rose", "magenta"),
    "white": ("white", "white", "white", "pure white", "ivory"),
}
WORLD_WORDS: dict[str, tuple[str, ...]] = {
    "street": (
        "city street",
        "street",
        "downtown street",
        "urban street",
        "city avenue",
        "street between tall buildings",
    ),
    "skyline": (
        "city skyline",
        "skyline",
        "city by the water",
        "downtown skyline",
        "row of city towers",
        "city waterfront",
    ),
    "hills": ("hills", "rolling hills", "hilly landscape", "hills and meadows", "countryside with hills"),
    "mountains": ("mountains", "mountain landscape", "mountain valley", "peaks", "mountain range"),
    "sea": ("sea shore", "beach by the sea", "coast", "ocean shore", "seaside landscape"),
    "desert": ("desert", "sand dunes", "desert landscape", "dunes"),
    "forest": ("forest", "woods", "forest clearing", "woodland", "forest of round trees"),
    "living room": ("living room", "lounge", "room with a sofa", "cosy room", "interior with a sofa"),
    "gallery": ("art gallery", "gallery", "museum room", "gallery with pictures", "exhibition room"),
    "hall": ("hall with columns", "great hall", "columned hall", "palace hall", "large hall"),
    "portal room": (
        "room with a portal",
        "portal room",
        "chamber with a glowing portal",
        "indoor portal chamber",
    ),
    "planet": ("planet in space", "planet", "planet among the stars", "world in outer space"),
    "ringed planet": ("ringed planet", "planet with rings", "ringed planet in space"),
    "moons": ("planet with two moons", "planet and moons", "planet and its moons in space"),
    "nebula": ("nebula", "nebula in space", "space nebula", "cosmic cloud", "nebula in deep space"),
    "asteroids": ("asteroid field", "asteroids", "asteroids in space", "rocks drifting in space"),
}
# When the noun of a space setting does not read as a place: what a subject floats in front of.
SPACE_BEHIND: dict[str, tuple[str, ...]] = {
    "planet": ("a {c} planet", "a {c} planet in space"),
    "ringed planet": ("a {c} ringed planet", "a {c} planet with rings"),
    "moons": ("a {c} planet with two moons", "a {c} planet and its moons"),
    "nebula": ("a {c} nebula", "a {c} space nebula"),
    "asteroids": ("{c} asteroids", "a {c} asteroid field"),
}
PLURAL = (
    "hills",
    "mountains",
    "asteroids",
    "peaks",
    "woods",
    "dunes",
    "hills and meadows",
    "rolling hills",
    "sand dunes",
    "rocks drifting in space",
    "asteroids in space",
)
SHAPE_WORDS: dict[str, tuple[str, ...]] = {
    "person": ("avatar", "person", "character", "figure", "human avatar", "avatar"),
    "robot": ("robot", "robot avatar", "android", "robot character"),
    "car": ("flying car", "hover car", "hovering car", "floating car"),
    "ship": ("spaceship", "rocket ship", "spacecraft", "starship"),
    "sphere": ("sphere", "ball", "orb"),
    "cube": ("cube", "box", "block"),
    "torus": ("ring", "torus", "donut"),
    "pyramid": ("pyramid", "four-sided pyramid"),
    "crystal": ("crystal", "gem", "gemstone"),
    "capsule": ("capsule", "pill", "rounded capsule"),
    "vase": ("vase", "ceramic vase", "pot"),
}
MATERIAL_WORDS: dict[str, tuple[str, ...]] = {
    "matte": ("", "", "matte"),
    "glossy": ("glossy", "shiny", "polished"),
    "metallic": ("metallic", "metal", "chrome"),
    "glowing": ("glowing", "luminous", "shining"),
}
TIME_WORDS: dict[str, tuple[str, ...]] = {
    "dawn": ("at dawn", "at sunrise", "in the early morning"),
    "day": ("by day", "in daylight", "in the daytime"),
    "sunset": ("at sunset", "at dusk", "in the evening light"),
    "night": ("at night", "by night", "after dark"),
}
WEATHER_WORDS: dict[str, tuple[str, ...]] = {
    "clear": ("",),
    "cloudy": ("under clouds", "under a cloudy sky", "with many clouds"),
    "foggy": ("in fog", "in the mist", "in thick haze"),
    "snowy": ("in snow", "covered in snow", "in winter snow"),
}
MOTION_WORDS: dict[str, tuple[str, ...]] = {
    "standing": ("standing", "standing still", "standing calmly"),
    "dancing": ("dancing", "dancing with its arms", "doing a dance"),
    "waving": ("waving", "waving hello", "greeting with a wave"),
    "walking": ("walking", "strolling", "taking a walk"),
    "jumping": ("jumping", "hopping", "jumping for joy"),
    "hovering": ("hovering", "floating", "hanging in the air"),
    "flying past": ("flying past", "passing by", "flying by"),
    "spinning": ("spinning", "turning", "rotating"),
    "bobbing": ("bobbing up and down", "floating up and down", "bobbing"),
    "still": ("resting", "at rest", "motionless"),
}
CAMERA_WORDS: dict[str, tuple[str, ...]] = {
    "static": ("", "", "static shot", "still camera"),
    "pan left": ("camera pans left", "panning left"),
    "pan right": ("camera pans right", "panning right"),
    "push in": ("camera pushes in", "slow zoom in", "moving closer"),
    "pull back": ("camera pulls back", "zooming out", "moving away"),
    "orbit": ("camera orbits", "orbiting camera"),
    "rise": ("camera rises", "rising camera"),
}
PLACE_WORDS: dict[str, tuple[str, ...]] = {
    "left": ("on the left", "at the left side"),
    "centre": ("", "", "in the middle"),
    "right": ("on the right", "at the right side"),
}
DEPTH_WORDS: dict[str, tuple[str, ...]] = {
    "near": ("", "", "close up"),
    "far": ("", "in the distance", "further away"),
}
# Where captions always say the place.
SIDES: dict[str, tuple[str, ...]] = {**PLACE_WORDS, "centre": ("in the middle",)}
DISTANCES: dict[str, tuple[str, ...]] = {"near": ("close up",), "far": ("in the distance", "further away")}


def _one(rng: Generator, words: tuple[str, ...]) -> str:
    return words[int(rng.integers(len(words)))]


def _maybe(rng: Generator, share: float, text: str) -> str:
    return text if rng.random() < share else ""


def _a(text: str) -> str:
    text = " ".join(text.split())
    return ("an " if text[0] in "aeiou" else "a ") + text


def _join(*parts: str, by: str = " ") -> str:
    return by.join(" ".join(part.split()) for part in parts if part.strip())


def _lamp(a: SceneAttributes, rng: Generator, word: str) -> str:
    """The colour as a city shows it: neon by night and at dusk, the houses by day."""
    if a.world == "city" and a.time_of_day in ("night", "sunset"):
        return _one(rng, (f"{word} neon", f"neon {word}", word, f"{word} lit"))
    return word


def _world(a: SceneAttributes, rng: Generator, article: bool) -> str:
    """The background with its colour: 'a purple neon city street'."""
    word = _one(rng, COLOUR_WORDS[a.colour])
    if a.world == "space" and a.subject != "none":
        text = _one(rng, SPACE_BEHIND[a.setting]).format(c=word)
        if not article:
            return text.removeprefix("a ")
        return _a(text.removeprefix("a ")) if text.startswith("a ") else text
    noun = _one(rng, WORLD_WORDS[a.setting])
    text = _join(_lamp(a, rng, word), noun)
    return text if noun in PLURAL or not article else _a(text)


def _subject(a: SceneAttributes, rng: Generator, article: bool, coloured: bool = True) -> str:
    """The subject with colour and material: 'a glossy red cube', 'a person in blue clothes'."""
    word, noun = _one(rng, COLOUR_WORDS[a.subject_colour]), _one(rng, SHAPE_WORDS[a.shape])
    if a.world == "object" and rng.random() < 0.25:
        noun = _one(
            rng,
            (
                f"{noun} object" if " " not in noun else noun,
                f"object shaped like {_a(noun)}",
                f"product, {_a(noun)}",
            ),
        )
    if not coloured:
        text = noun
    elif a.subject == "avatar":
        text = _one(
            rng,
            (f"{word} {noun}", f"{noun} in {word}", f"{noun} in {word} clothes", f"{noun} dressed in {word}"),
        )
        if a.shape == "robot":
            text = f"{word} {noun}"
    else:
        text = _join(_one(rng, MATERIAL_WORDS[a.material]), word, noun)
    return _a(text) if article else text


def _when(a: SceneAttributes, rng: Generator, share: float) -> str:
    outdoors = a.world in ("city", "landscape", "interior")
    return _maybe(rng, share, _one(rng, TIME_WORDS[a.time_of_day])) if outdoors else ""


def _weather(a: SceneAttributes, rng: Generator, share: float) -> str:
    return _maybe(rng, share, _one(rng, WEATHER_WORDS[a.weather]))


def _setting(a: SceneAttributes, rng: Generator) -> str:
    """Where an object or avatar alone stands, with the backdrop's colour."""
    word = _one(rng, COLOUR_WORDS[a.second_colour])
    stand: tuple[str, ...]
    if a.world == "object":
        stand = (
            ("on a round plinth", "on a pedestal", "on a stand")
            if a.setting == "plinth"
            else ("in a studio", "in a plain studio", "in a product studio")
        )
        return _one(
            rng,
            (
                *stand,
                f"{_one(rng, stand)}, {word} background",
                f"before a {word} backdrop".replace("a a", "an a"),
            ),
        )
    stand = ("on a stage", "on a round stage") if a.setting == "stage" else ("on a stage", "before a curtain")
    return _one(rng, (*stand, f"on a stage with {word} backdrop", f"{_one(rng, stand)}, {word} background"))


def _link(a: SceneAttributes, rng: Generator) -> str:
    """The preposition between subject and world."""
    if a.world == "space":
        return _one(rng, ("in front of", "before", "in space near"))
    if a.setting in ("hills", "mountains", "desert"):
        return _one(rng, ("in front of", "among")) if a.setting != "desert" else _one(rng, ("in", "before"))
    if a.setting == "skyline":
        return _one(rng, ("in front of", "before"))
    return "in" if a.setting != "sea" else "at"


def _terse(a: SceneAttributes, rng: Generator, place: str) -> str:
    motion = _one(rng, MOTION_WORDS[a.subject_motion]) if a.subject != "none" else ""
    if a.subject == "none":
        parts = [_world(a, rng, False), _when(a, rng, 0.8), _weather(a, rng, 0.8)]
    elif a.composed:
        parts = [
            _world(a, rng, False),
            _when(a, rng, 0.6),
            _join(_subject(a, rng, False), _maybe(rng, 0.7, motion), place),
        ]
    else:
        parts = [_subject(a, rng, False), motion, _setting(a, rng)]
    parts = [
        p.removeprefix("at ").removeprefix("by ")
        if p in ("at night", "at dawn", "at sunset", "at dusk", "by day")
        else p
        for p in parts
    ]
    if a.subject == "none" and rng.random() < 0.5:
        parts.append(_one(rng, CAMERA_WORDS[a.camera_motion]))
    return _join(*parts, by=", ")


def _phrase(a: SceneAttributes, rng: Generator, place: str) -> str:
    if a.subject == "none":
        return _join(_world(a, rng, True), _when(a, rng, 0.8), _weather(a, rng, 0.8))
    motion = _one(rng, MOTION_WORDS[a.subject_motion])
    if not a.composed:
        return _join(_subject(a, rng, True), motion, _setting(a, rng))
    return _join(
        _subject(a, rng, True),
        motion,
        place,
        _link(a, rng),
        _world(a, rng, True),
        _when(a, rng, 0.7),
        _weather(a, rng, 0.5),
    )


def _with_camera(a: SceneAttributes, rng: Generator, place: str) -> str:
    return _join(_phrase(a, rng, place), _one(rng, CAMERA_WORDS[a.camera_motion]), by=", ")


def _placed(a: SceneAttributes, rng: Generator, place: str) -> str:
    """Background first, then the subject with its place."""
    if not a.composed:
        return _with_camera(a, rng, place)
    motion = _one(rng, MOTION_WORDS[a.subject_motion])
    place = place or _join(_one(rng, PLACE_WORDS[a.position]), _one(rng, DEPTH_WORDS[a.depth]))
    world = _join(_world(a, rng, True), _when(a, rng, 0.6))
    return _one(
        rng,
        (
            f"{world} with {_join(_subject(a, rng, True), motion, place)}",
            f"{world}, {_join(_subject(a, rng, True), motion, place)}",
            _join(_subject(a, rng, True), motion, place, _link(a, rng), world),
        ),
    )


def _sentence(a: SceneAttributes, rng: Generator, place: str) -> str:
    if a.subject == "none":
        start = _one(rng, ("A view of", "A video of", "A short clip of", "We see", "A calm scene:"))
        return f"{start} {_phrase(a, rng, place)}."
    subject, verb = _subject(a, rng, True), _one(rng, MOTION_WORDS[a.subject_motion])
    verb = _one(rng, (f"is {verb}", verb))
    if not a.composed:
        return _capital(f"{_join(subject, verb, _setting(a, rng))}.")
    return _capital(
        f"{_join(subject, verb, place, _link(a, rng), _world(a, rng, True), _when(a, rng, 0.7))}."
    )


def _plain(a: SceneAttributes, rng: Generator, place: str) -> str:
    """Without colours: what a hurried visitor types."""
    if a.subject == "none":
        return _join(_one(rng, WORLD_WORDS[a.setting]), _when(a, rng, 0.7), _weather(a, rng, 0.6))
    motion = _one(rng, MOTION_WORDS[a.subject_motion])
    if not a.composed:
        return _join(_subject(a, rng, True, coloured=False), motion, _setting(a, rng))
    noun = (
        _one(rng, SPACE_BEHIND[a.setting]).format(c="")
        if a.world == "space"
        else _one(rng, WORLD_WORDS[a.setting])
    )
    plain = " ".join(noun.split())
    plural = plain in PLURAL or plain.startswith("a ")
    return _join(
        _subject(a, rng, True, coloured=False),
        motion,
        place,
        _link(a, rng),
        plain if plural else _a(plain),
        _when(a, rng, 0.6),
    )


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


# ---- two subjects ---------------------------------------------------------------------------------------
def _both(
    a: SceneAttributes, rng: Generator, place: str, coloured: float, moving: float, placed: float
) -> tuple[str, str]:
    """Both subjects with what the shares let them say of colour, motion and side; either may come first.

    Where a `place` is to be said, both sides are.
    """
    said = rng.random() < placed or bool(place)
    texts = []
    for one in (a, a.other):
        motion = _maybe(rng, moving, _one(rng, MOTION_WORDS[one.subject_motion]))
        side = f"on the {one.position}" if said else ""
        texts.append(_join(_subject(one, rng, True, coloured=rng.random() < coloured), motion, side))
    return (texts[0], texts[1]) if rng.random() < 0.5 else (texts[1], texts[0])


def _pair_phrase(a: SceneAttributes, rng: Generator, place: str) -> str:
    one, two = _both(a, rng, place, 1.0, 0.5, 0.25)
    return _join(one, "and", two, _link(a, rng), _world(a, rng, True), _when(a, rng, 0.5))


def _pair_terse(a: SceneAttributes, rng: Generator, place: str) -> str:
    one, two = _both(a, rng, place, 1.0, 0.4, 0.2)
    return _join(_world(a, rng, False), _when(a, rng, 0.4), one, two, by=", ")


def _pair_placed(a: SceneAttributes, rng: Generator, place: str) -> str:
    one, two = _both(a, rng, place, 1.0, 0.3, 0.7)
    return _join(_world(a, rng, True), _when(a, rng, 0.4), "with", one, "and", two)


def _pair_sentence(a: SceneAttributes, rng: Generator, place: str) -> str:
    one, two = _both(a, rng, place, 1.0, 0.4, 0.0)
    by = _one(rng, ("next to", "beside", "and", "near"))
    return _capital(f"{_join(one, by, two, _link(a, rng), _world(a, rng, True), _when(a, rng, 0.4))}.")


def _pair_plain(a: SceneAttributes, rng: Generator, place: str) -> str:
    one, two = _both(a, rng, place, 0.3, 0.6, 0.1)
    return _join(one, "and", two, _link(a, rng), _world(a, rng, True))


Form = Callable[[SceneAttributes, Generator, str], str]
_PAIR_FORMS: tuple[Form, ...] = (
    _pair_phrase,
    _pair_terse,
    _pair_placed,
    _pair_sentence,
    _pair_phrase,
    _pair_plain,
)
_FORMS: tuple[Form, ...] = (
    _terse,
    _phrase,
    _with_camera,
    _placed,
    _sentence,
    _plain,
)


def _where(a: SceneAttributes, rng: Generator) -> str:
    """The side and, in half of them, the distance of a subject in a world: 'in the middle close up'."""
    if not a.composed:
        return ""
    return _join(_one(rng, SIDES[a.position]), _maybe(rng, 0.5, _one(rng, DISTANCES[a.depth])))


def captions(attributes: SceneAttributes, rng: Generator, n: int = 6, places: bool = False) -> list[str]:
    """`n` different captions, terse and long mixed; at most about one in six leaves the colours out.

    With `places` each of them says where the subject of a world stands; without, about one in six does.
    """
    found: list[str] = []
    forms = _FORMS if attributes.companion is None else _PAIR_FORMS
    for attempt in range(40 * n):
        form = (
            forms[attempt % len(forms)] if attempt < len(forms) else forms[int(rng.integers(len(forms) - 1))]
        )
        text = form(attributes, rng, _where(attributes, rng) if places else "")
        text = text.replace("a ice", "an ice").replace(" a a", " an a")
        if len(text.split()) <= 23 and text not in found:
            found.append(text)
        if len(found) == n:
            break
    return found

"""The prompts of the case study: metaverse scenes with several subjects, each naming at least two domains.

The paper's own prompts are not published; these are ours. They stay within what the embedded pack was trained on
(city, landscape, interior, space, object, avatar), and no caption of the training grammar is among them.
"""

from __future__ import annotations

CASE_PROMPTS: tuple[str, ...] = (
    "an avatar dancing in a neon city street at night while a flying car passes on the right",
    "a robot avatar waving in a rainy city street, a glowing orb floating beside it",
    "a person walking through a foggy forest with a floating crystal in the near left",
    "an avatar jumping on a sunny beach while a red flying car glides over the sea",
    "an avatar standing in a grand hall with a golden ring floating on the right",
    "a robot dancing in a living room, a blue cube hovering in the centre",
    "a spaceship passing a ringed planet while a metallic sphere drifts on the left",
    "an avatar floating in a purple nebula beside a glowing crystal",
    "a character waving on a snowy mountain meadow while a hover car passes by",
    "a flying car gliding between skyscrapers at sunset with a green sphere near the camera",
    "a robot walking through a portal room with a violet torus floating above the floor",
    "a person dancing in the desert at dusk while a spaceship rises in the distance",
)

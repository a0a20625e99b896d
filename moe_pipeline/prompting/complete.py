"""Fill in what a prompt leaves open: a colour for each part that names none, a place for subjects in a world.

The experts of the embedded pack were taught with captions that nearly always name colours. For "an avatar in a street"
they predict the mean of all avatars, which is a shadow; for "an orange avatar in a purple street" they draw one. Large
packs ask a language model to write such a prompt out ("prompt extension" of Wan 2.1); here the seed draws from what
the pack's manifest says its experts know. A subject without a place is drawn a little at every place that it might
have, so it gets the one where the plan guides it. What was typed is still what is planned, gated and shown.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable

from moe_pipeline.prompting.decompose import Lexicon, default_lexicon
from moe_pipeline.schema.pack import PackDetails
from moe_pipeline.schema.plan import ScenePlan, Subtask

_ARTICLE = re.compile(r"(an?|the|one|some|this|that)\s+", re.IGNORECASE)
_WORD = re.compile(r"[^\W\d_]+")


def _words(text: str) -> set[str]:
    return {word.lower() for word in _WORD.findall(text)}


def colours_in(text: str, details: PackDetails) -> tuple[str, ...]:
    """The pack's colours that a text names, by any of their words."""
    words = _words(text)
    return tuple(colour for colour, names in details.colours.items() if words & {colour, *names})


def with_colour(text: str, colour: str) -> str:
    """`an avatar dancing` -> `a red avatar dancing`: the colour follows the article, or opens the text."""
    article = _ARTICLE.match(text)
    if article is None:
        return f"{colour} {text[:1].lower()}{text[1:]}"
    word = article[1]
    if word.lower() in ("a", "an"):
        fitting = "an" if colour[0] in "aeiou" else "a"
        word = fitting.capitalize() if word[0].isupper() else fitting
    return f"{word} {colour} {text[article.end() :]}"


def _choices(part: Subtask, taken: Iterable[str], details: PackDetails, lexicon: Lexicon) -> list[str]:
    """Colours that may be drawn for a part; none where it names one itself, or nothing that takes a colour."""
    words = _words(part.text)
    known = words & (lexicon.places if part.role == "background" else lexicon.subjects)
    if not known or words & details.uncoloured or words & lexicon.worn or colours_in(part.text, details):
        return []
    natural = [colour for noun in sorted(known & details.natural.keys()) for colour in details.natural[noun]]
    wanted, used = natural or list(details.colours), set(taken)
    apart = [colour for colour in wanted if not used & _near(colour, details)]
    return apart or [colour for colour in wanted if colour not in used] or wanted


def _is_wide(part: Subtask, details: PackDetails, lexicon: Lexicon) -> bool:
    """Whether a part is a world that a subject may stand in here or there, unlike a pedestal or a stage."""
    return part.role == "background" and bool((_words(part.text) & lexicon.places) - details.uncoloured)


def _near(colour: str, details: PackDetails) -> set[str]:
    """A colour with its neighbours in the pack's circle of colours: a yellow figure is lost in an orange street."""
    circle = list(details.colours)
    at = circle.index(colour)
    return {circle[at - 1], colour, circle[(at + 1) % len(circle)]}


def complete(
    plan: ScenePlan, details: PackDetails | None, seed: int, lexicon: Lexicon | None = None
) -> ScenePlan:
    """`plan` with `read_as` of the parts and of the prompt filled in where a colour or a place was left open.

    The same plan and seed give the same colours, apart from each other and from those that are named, where the pack
    has enough of them.
    """
    if details is None:
        return plan
    lexicon = lexicon or default_lexicon()
    rng = random.Random(seed)  # a stream of its own: no noise depends on it
    taken = list(colours_in(plan.prompt, details))
    parts, prompt, shift = [], plan.prompt, 0
    wide = any(_is_wide(part, details, lexicon) for part in plan.subtasks)
    places = iter(plan.places if wide else ())
    # The experts know one colour a world: one background has it for all.
    lit = any(colours_in(part.text, details) for part in plan.subtasks if part.role == "background")
    for part in plan.subtasks:
        draw = rng.random()  # one a part, so that naming a colour does not shift the others
        if part.role == "background" and lit:
            choices: list[str] = []
        else:
            choices = _choices(part, taken, details, lexicon)
        text = part.text
        if choices:
            lit = lit or part.role == "background"
            colour = choices[int(draw * len(choices))]
            taken.append(colour)
            text = with_colour(text, colour)
        place = next(places, None) if part.role == "subject" else None
        if place is not None and part.region == "everywhere" and place in details.places:
            text = f"{text} {details.places[place]}"
        if text != part.text:
            start, end = (offset + shift for offset in part.span)
            prompt = prompt[:start] + text + prompt[end:]
            shift += len(text) - len(part.text)
            part = part.model_copy(update={"read_as": text})
        parts.append(part)
    return plan.model_copy(
        update={"subtasks": tuple(parts), "read_as": prompt if prompt != plan.prompt else ""}
    )

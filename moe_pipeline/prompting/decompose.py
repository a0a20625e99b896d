"""Take a prompt apart: one or more backgrounds and the subjects that stand in them.

The paper decomposes complex prompts before it routes them but publishes no rule for it (facts are listed in
docs/decisions); this one splits at commas, conjunctions and prepositions and decides by a small lexicon.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import yaml

from moe_pipeline.schema.plan import Region, Role, ScenePlan, Subtask

MAX_SUBTASKS = 6

_JOINT = re.compile(
    r"\s*[,;:.!?]+\s*|\s+(?:in front of|on top of|inside of|next to|in|inside|within|into|on|onto|at|above|over|under"
    r"|below|through|across|along|among|between|before|behind|beside|near|by|around|against|with|and|while|featuring"
    r"|containing|of)\s+",
    re.IGNORECASE,
)
_PLACE_JOINTS = frozenset(
    [
        "in front of",
        "on top of",
        "inside of",
        "next to",
        "in",
        "inside",
        "within",
        "into",
        "on",
        "onto",
        "at",
        "above",
        "over",
        "under",
        "below",
        "through",
        "across",
        "along",
        "among",
        "between",
        "before",
        "behind",
        "beside",
        "near",
        "by",
        "around",
        "against",
    ]
)
_SIDES = frozenset({"left", "right", "middle", "centre", "center", "side", "front"})
_PAN = re.compile(
    r"\bpan(?:s|ning)?\s+(?:to\s+the\s+)?(?:left|right)\b", re.IGNORECASE
)  # the camera, no region
_WORD = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)*")


@dataclass(frozen=True)
class Lexicon:
    """Word lists by which clauses are told apart; all lower case."""

    subjects: frozenset[str]
    places: frozenset[str]
    worn: frozenset[str]
    modifiers: frozenset[str]


@lru_cache(maxsize=1)
def default_lexicon() -> Lexicon:
    """The lexicon that ships with the package (lexicon.yaml)."""
    data = yaml.safe_load((Path(__file__).parent / "lexicon.yaml").read_text(encoding="utf-8"))
    return Lexicon(**{name: frozenset(words) for name, words in data.items()})


@dataclass
class _Clause:
    start: int
    end: int
    joint: str
    role: Role | None


def _words(text: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(text)]


def _last_of(words: list[str], vocabulary: frozenset[str]) -> int:
    return max((i for i, word in enumerate(words) if word in vocabulary), default=-1)


def _is_modifier(words: list[str], joint: str, lexicon: Lexicon) -> bool:
    """Whether a clause only says when, how or where in the picture, or what somebody wears."""
    named = set(words)
    if named & (lexicon.subjects | lexicon.places):
        return False
    if joint == "in" and named & lexicon.worn:
        return True
    return not words or bool(named & lexicon.modifiers) or len(words) == 1


def _role_of(words: list[str], joint: str, lexicon: Lexicon) -> Role | None:
    """Role by the head of the clause: the first named thing wins where the clause has no joint of its own."""
    subject, place = _last_of(words, lexicon.subjects), _last_of(words, lexicon.places)
    if subject < 0 and place < 0:
        return None
    # In a compound ("city car", "space robot") the last noun is the head.
    return "subject" if subject > place else "background"


def _split(prompt: str) -> list[tuple[int, int, str]]:
    """Raw clauses as (start, end, joint before it)."""
    pieces, start, joint = [], 0, ""
    for match in _JOINT.finditer(prompt):
        if match.start() > start:
            pieces.append((start, match.start(), joint))
        joint = " ".join(match.group().lower().split())
        start = match.end()
    if start < len(prompt):
        pieces.append((start, len(prompt), joint))
    return pieces


def _opens_a_place(prompt: str, previous: _Clause, role: Role | None) -> bool:
    """ "a robot on the left of a hall": the hall is no part of the robot."""
    words = _words(prompt[previous.start : previous.end])
    return previous.role == "subject" and role == "background" and bool(words) and words[-1] in _SIDES


def _without_a_lone_opening(prompt: str, clauses: list[_Clause], lexicon: Lexicon) -> list[_Clause]:
    """ "At night, a city" and "Wide shot: a robot": what only sets time or camera joins the clause after it."""
    if len(clauses) < 2 or clauses[0].role is not None or clauses[1].joint[:1] not in set(",;:.!?"):
        return clauses
    words = _words(prompt[clauses[0].start : clauses[0].end])
    if not words or words[-1] not in lexicon.modifiers:
        return clauses
    clauses[1].start = clauses[0].start
    return clauses[1:]


def _clauses(prompt: str, lexicon: Lexicon) -> list[_Clause]:
    clauses: list[_Clause] = []
    for start, end, joint in _split(prompt):
        words = _words(prompt[start:end])
        role = _role_of(words, joint, lexicon)
        previous = clauses[-1] if clauses else None
        if previous is not None and (
            # "of" stays with its noun; so do modifiers, and things that the lexicon does not know unless a
            # preposition of place introduces them.
            (joint == "of" and not _opens_a_place(prompt, previous, role))
            or (joint == "in front of" and not words)
            or _is_modifier(words, joint, lexicon)
            or (role is None and joint not in _PLACE_JOINTS)
        ):
            previous.end = end
            previous.role = previous.role or role
            continue
        if role is None and joint in _PLACE_JOINTS:
            role = "background"
        if (
            previous is not None
            and joint == "with"
            and role == "background"
            and previous.role == "background"
        ):
            previous.end = end  # "a planet with rings", "a room with a portal"
            continue
        clauses.append(_Clause(start, end, joint, role))
    return _without_a_lone_opening(prompt, clauses, lexicon)


def _region(text: str) -> Region:
    words = set(_words(_PAN.sub(" ", text)))
    if "left" in words and "right" not in words:
        return "left"
    if "right" in words and "left" not in words:
        return "right"
    if words & {"middle", "centre", "center"}:
        return "centre"
    return "everywhere"


def decompose(prompt: str, lexicon: Lexicon | None = None) -> ScenePlan:
    """Backgrounds and subjects of a prompt, in its order. Never fails: at worst the whole prompt is one part.

    Backgrounds share one half of the weight and subjects the other; where only one role appears it has all.
    Parts after the sixth are named in `left_out`.
    """
    lexicon = lexicon or default_lexicon()
    found = _clauses(prompt, lexicon)
    clauses, rest = found[:MAX_SUBTASKS], found[MAX_SUBTASKS:]
    if clauses and clauses[0].role is None:
        # An unknown thing in a known place is a subject; alone it is the scene.
        clauses[0].role = "subject" if any(c.role == "background" for c in clauses[1:]) else "background"
    roles: list[Role] = [clause.role or "background" for clause in clauses]
    subjects, backgrounds = roles.count("subject"), roles.count("background")
    half = 0.5 if subjects and backgrounds else 1.0
    subtasks = [
        Subtask(
            id=f"{role}-{roles[: i + 1].count(role)}",
            role=role,
            text=prompt[clause.start : clause.end],
            span=(clause.start, clause.end),
            region=_region(prompt[clause.start : clause.end]) if role == "subject" else "everywhere",
            share=half / (subjects if role == "subject" else backgrounds),
        )
        for i, (clause, role) in enumerate(zip(clauses, roles, strict=True))
    ]
    if not subtasks:
        subtasks = [
            Subtask(id="background-1", role="background", text=prompt, span=(0, len(prompt)), share=1.0)
        ]
    left_out = tuple(prompt[clause.start : clause.end] for clause in rest)
    return ScenePlan(prompt=prompt, subtasks=tuple(subtasks), left_out=left_out)

"""The one error type of the project."""

from __future__ import annotations

from pydantic import ValidationError


class MoEverseError(Exception):
    """A refusal that a person can act on.

    Args:
        code: stable snake_case identifier, part of the public contract and tested.
        message: one sentence saying what is wrong; may change between versions.
        remedy: one sentence saying what to do about it.
    """

    def __init__(self, code: str, message: str, remedy: str = "") -> None:
        self.code = code
        self.message = message
        self.remedy = remedy
        # All three are the exception's arguments: pickling and simpy make a copy by calling the type with them.
        super().__init__(code, message, remedy)

    def __str__(self) -> str:
        return self.sentence()

    def sentence(self) -> str:
        """Message and remedy as one line, the form that every border shows."""
        text = f"{self.message} {self.remedy}".strip()
        return " ".join(text.split())


def from_validation(error: ValidationError, *, code: str, where: str, remedy: str = "") -> MoEverseError:
    """The first problem of a pydantic error as one sentence naming `where` and the key."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"]) or "(root)"
    count = error.error_count()
    more = f" ({count - 1} more)" if count > 1 else ""
    text = first["msg"].removeprefix("Value error, ")
    text = (
        (text[:1].lower() + text[1:])
        .replace("input should be", "must be")
        .replace("should have", "must have")
    )
    if first["type"] == "extra_forbidden":
        text = "this key is not known"
    elif first["type"] == "missing":
        text = "this key is missing"
    given = first.get("input")
    shown = (
        f", got {given!r}" if isinstance(given, str | int | float | bool) and len(repr(given)) < 60 else ""
    )
    return MoEverseError(code, f"{where}: {key}: {text}{shown}{more}.", remedy)

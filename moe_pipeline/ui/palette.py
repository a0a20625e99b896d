"""Titles and colours of a pack's experts, the same in every chart."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from moe_pipeline.schema.pack import Manifest

NEUTRAL = "#8a8f98"


@dataclass(frozen=True)
class Tone:
    """How one expert looks and what it is called."""

    id: str
    title: str
    colour: str
    description: str


@dataclass(frozen=True)
class Palette:
    """Tones by expert id, in the manifest's order, the generalist last."""

    tones: tuple[Tone, ...]
    generalist: str

    @classmethod
    def of(cls, manifest: Manifest) -> Palette:
        entries = (*manifest.experts, manifest.generalist)
        tones = tuple(Tone(e.id, e.title, e.colour, e.description) for e in entries)
        return cls(tones, manifest.generalist.id)

    def __getitem__(self, expert: str) -> Tone:
        for tone in self.tones:
            if tone.id == expert:
                return tone
        return Tone(expert, expert, NEUTRAL, "")

    def columns(self, named: Iterable[str]) -> tuple[Tone, ...]:
        """The tones a chart needs: all experts, or the generalist alone when only it is named."""
        wanted = set(named)
        if wanted and wanted <= {self.generalist}:
            return (self[self.generalist],)
        experts = tuple(tone for tone in self.tones if tone.id != self.generalist)
        known = {tone.id for tone in experts}
        return (*experts, *(self[name] for name in sorted(wanted - known)))

    def wire(self) -> dict[str, dict[str, str]]:
        """Plain dicts by id, for the scripts."""
        return {tone.id: {"title": tone.title, "colour": tone.colour} for tone in self.tones}

"""The manifest of a pack: what it holds, where each file is, and how it was trained.

Two kinds share one family: `embedded` packs bring their own files, `hub` packs (schema/hub_pack.py) describe a
repository in the layout of the Hugging Face hub.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from moe_pipeline.schema.plan import Region

PACK_SCHEMA_VERSION = 1
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
# Relative, inside the pack, no parent steps: a manifest can never point outside its own folder.
PackPath = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*(?:[./][A-Za-z0-9_-]+)*$")]
Colour = Annotated[str, StringConstraints(pattern=r"^#[0-9a-fA-F]{6}$")]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PackFile(_Part):
    """One file of a pack with its content hash."""

    path: PackPath
    sha256: Sha256
    bytes: int = Field(gt=0)


class TrainingRecord(_Part):
    """What a component's training cost and reached; every figure measured by its trainer."""

    samples: int = Field(ge=0, description="clips seen, those of the models it was branched from included")
    minutes: float = Field(ge=0)
    validation: dict[str, float] = Field(default_factory=dict)
    share: float = Field(
        default=1.0, ge=0, le=1, description="weight of the branch where it was blended with the generalist"
    )


class Component(_Part):
    """A trained module: constructor arguments and the safetensors files that hold its state."""

    kind: str
    config: dict[str, Any] = Field(default_factory=dict)
    files: tuple[PackFile, ...]
    parameters: int = Field(ge=0)
    training: TrainingRecord | None = None


class ExpertCard(_Part):
    """Who an expert is: its domain, a description and the colour it has in every chart."""

    id: str = Field(pattern=r"^[a-z][a-z0-9-]{1,31}$")
    title: str
    domain: str
    description: str
    colour: Colour
    delta_bytes: int | None = Field(
        default=None, ge=0, description="size of the encoded difference from the generalist, for migration"
    )


class ExpertEntry(Component, ExpertCard):
    """An expert of an embedded pack: a denoiser with its files."""


class LatentShape(_Part):
    """Geometry of the latents: channels, spatial and temporal compression."""

    channels: int = Field(gt=0)
    spatial: int = Field(gt=0)
    temporal: int = Field(gt=0)


class PackDefaults(_Part):
    """Values that fill what a request leaves open."""

    width: int
    height: int
    frames: int
    fps: int
    steps: int
    guidance: float
    top_k: int
    seed: int = 0
    shift: float = Field(default=1.0, gt=0, description="shift of the noise schedule, see diffusion/flow.py")
    subject_guidance: float = Field(default=1.0, ge=1.0, description="see diffusion/guidance.py; 1 is off")
    subject_sigma: float = Field(default=0.6, ge=0.0, le=1.0, description="lowest sigma of subject guidance")
    subject_regions: bool = Field(
        default=False, description="subjects are guided in regions, see diffusion/regions.py"
    )


class PackDetails(_Part):
    """What captions say that a prompt may leave open, to fill it in (prompting/complete.py)."""

    colours: dict[str, tuple[str, ...]] = Field(
        description="colour -> other words that name it; neighbours are alike, as are the last and the first"
    )
    natural: dict[str, tuple[str, ...]] = Field(
        default_factory=dict, description="noun -> colours it has by itself"
    )
    uncoloured: frozenset[str] = Field(
        default=frozenset(), description="nouns that take no colour of their own"
    )
    places: dict[Region, str] = Field(
        default_factory=dict,
        description="how captions say where a subject stands in its world; empty: they do not",
    )


class PackLimits(_Part):
    """What a request may ask of this pack."""

    max_steps: int = 64
    max_guidance: float = 12.0
    max_subject_guidance: float = 6.0
    min_frames: int = 4
    max_frames: int = 32
    frames_multiple: int = 4
    frames_offset: int = Field(default=0, ge=0, description="frames are a multiple plus this: 4k + 1 has 1")
    min_side: int = 64
    max_side: int = 192
    side_multiple: int = 16


class Manifest(_Part):
    """What every kind of pack says of itself; requests, charts and catalogues read nothing else."""

    schema_version: int
    id: str = Field(pattern=r"^[a-z][a-z0-9.-]{1,63}$")
    version: str
    title: str
    description: str
    licence: str
    text_tokens: int = Field(gt=0)
    latents: LatentShape
    defaults: PackDefaults
    limits: PackLimits = PackLimits()
    generalist: ExpertCard
    experts: tuple[ExpertCard, ...] = Field(min_length=1)
    probe: Component | None = None
    details: PackDetails | None = None

    @model_validator(mode="after")
    def _ids_are_distinct(self) -> Self:
        ids = [*self.expert_ids(), self.generalist.id]
        if twice := sorted({name for name in ids if ids.count(name) > 1}):
            raise ValueError(f"the id {twice[0]!r} stands for two models of the pack")
        return self

    def expert_ids(self) -> tuple[str, ...]:
        """Ids of the experts in the manifest's order, the order of every weight vector."""
        return tuple(expert.id for expert in self.experts)


class PackManifest(Manifest):
    """`pack.yaml` of an embedded pack."""

    kind: Literal["embedded"] = "embedded"
    id: str = Field(pattern=r"^[a-z][a-z0-9-]{1,63}$")
    text_encoder: str
    autoencoder: Component
    preview: Component
    generalist: ExpertEntry
    experts: tuple[ExpertEntry, ...] = Field(min_length=1)
    gate: Component

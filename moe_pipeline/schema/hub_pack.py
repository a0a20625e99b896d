"""The manifest of a pack whose weights are a repository in the layout of the Hugging Face hub."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from moe_pipeline.schema.pack import ExpertCard, Manifest, PackFile, _Part

Repository = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}$")]
# A repository whose root, or one folder of which, is a component.
Source = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}(/[a-z][a-z0-9_]{0,31})?$"),
]
# The folder of a component inside the repository: one plain name, so that nothing points outside of it.
ComponentName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
ComponentClass = Annotated[
    str, StringConstraints(pattern=r"^(diffusers|transformers)\.[A-Za-z][A-Za-z0-9]*$")
]

EXPERT_PROMPT_LIMIT = 300


class HubLora(_Part):
    """A low-rank change of the denoiser, merged when it is loaded.

    Either a safetensors file beside the manifest, or a repository that holds one.
    """

    file: PackFile | None = None
    repository: Repository | None = None
    scale: float = Field(default=1.0, ge=-4.0, le=4.0)

    @model_validator(mode="after")
    def _has_one_source(self) -> Self:
        if (self.file is None) == (self.repository is None):
            raise ValueError("a LoRA needs either a file or a repository")
        return self


class HubExpert(ExpertCard):
    """An expert of a hub pack: what it reads, and optionally what it computes with.

    Attributes:
        prompt: words that stand after the visitor's prompt whenever this expert reads it.
        examples: phrases the gate compares a text with, beside the description.
        denoiser: the component that this expert runs; None runs the pack's own.
        lora: a low-rank change of that denoiser.
        noise_levels: (low, high) span of sigma in which this expert alone works; None works everywhere.
        guidance: multiplies the request's guidance in steps of this expert, in proportion to its weight.
    """

    prompt: str = Field(default="", max_length=EXPERT_PROMPT_LIMIT)
    examples: tuple[str, ...] = ()
    denoiser: ComponentName | None = None
    lora: HubLora | None = None
    noise_levels: tuple[float, float] | None = None
    guidance: float = Field(default=1.0, gt=0.0, le=4.0)

    @model_validator(mode="after")
    def _span_is_one(self) -> Self:
        if self.noise_levels is not None and not 0.0 <= self.noise_levels[0] < self.noise_levels[1] <= 1.0:
            raise ValueError("noise_levels must be two rising numbers from 0 to 1")
        return self


class HubGate(_Part):
    """The gate over descriptions: sharpness, and the cosines between which coverage rises from 0 to 1."""

    temperature: float = Field(default=0.07, gt=0.0, le=10.0)
    coverage_low: float = Field(default=0.05, ge=-1.0, le=1.0)
    coverage_high: float = Field(default=0.35, ge=-1.0, le=1.0)

    @model_validator(mode="after")
    def _range_rises(self) -> Self:
        if self.coverage_low >= self.coverage_high:
            raise ValueError("coverage_low must be below coverage_high")
        return self


class HubManifest(Manifest):
    """`pack.yaml` of a hub pack.

    Attributes:
        repository: where the weights are published; looked up in the hub's local cache, never downloaded here.
        revision: branch, tag or commit of it.
        pipeline: `_class_name` of its model_index.json, by which a bare folder of weights finds its manifest.
        architecture: entry of workload/hub.py that prices the pack while its weights are not here.
        components: folder -> class, each checked against model_index.json before anything is loaded.
        denoiser: the component that the generalist runs, and every expert that names no other.
        motion: the component that turns these denoisers of pictures into ones of video (AnimateDiff).
        sources: components of other repositories, `owner/name` or `owner/name/folder`; in a folder of weights they
            lie under the component's name like all others.
        scheduler: keys that stand in for those of the repository's scheduler_config.json.
        download: patterns of the files that are needed; they stand in the download command.
        download_gb: their size, so that nobody starts a download unawares.
        negative_prompt: what the unconditional branch reads.
        full_precision: components that run in float32 whatever the engine's precision.
        flow_shift: of the noise schedule, where the repository's own is not what the model was made for.
    """

    kind: Literal["hub"]
    repository: Repository
    revision: str = Field(default="main", pattern=r"^[\w][\w./-]{0,95}$")
    pipeline: str
    architecture: str
    components: dict[ComponentName, ComponentClass] = Field(min_length=1)
    denoiser: ComponentName
    motion: ComponentName | None = None
    sources: dict[ComponentName, Source] = Field(default_factory=dict)
    scheduler: dict[str, bool | int | float | str] = Field(default_factory=dict)
    download: tuple[str, ...] = ("*.json", "*.txt", "*.safetensors")
    download_gb: float = Field(gt=0.0)
    negative_prompt: str = ""
    full_precision: tuple[ComponentName, ...] = ()
    flow_shift: float | None = Field(default=None, gt=0.0)
    generalist: HubExpert
    experts: tuple[HubExpert, ...] = Field(min_length=1)
    gate: HubGate = HubGate()
    probe: None = None

    @model_validator(mode="after")
    def _denoisers_are_components(self) -> Self:
        own = (self.denoiser, *(expert.denoiser for expert in (*self.experts, self.generalist)))
        for name in (*own, self.motion, *self.sources):
            if name is not None and name not in self.components:
                raise ValueError(f"{name!r} is no component of the pack")
        return self

    def denoiser_of(self, expert: HubExpert) -> str:
        """The component that an expert runs."""
        return expert.denoiser or self.denoiser

    def expert(self, name: str) -> HubExpert:
        """An expert or the generalist by id."""
        return {e.id: e for e in (*self.experts, self.generalist)}[name]

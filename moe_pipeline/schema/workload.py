"""The work of one request as numbers: what each stage computes, moves, holds and transfers."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from moe_pipeline.schema.profiles import PRECISION_BYTES, Precision

Stage = Literal["text", "expert_step", "exchange", "decode", "export"]
STAGES: tuple[Stage, ...] = ("text", "expert_step", "exchange", "decode", "export")


class Workload(BaseModel):
    """One call of one stage, at one number format.

    `flops`: operations (a multiply-add counts two). `bytes_moved`: traffic between memory and arithmetic:
    weights once, every operator's input and output once. `peak_memory_bytes`: weights and the largest set of
    tensors alive at once. `input_bytes`, `output_bytes`: what crosses a network if the stage runs elsewhere.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    stage: Stage
    flops: int = Field(ge=0)
    bytes_moved: int = Field(ge=0)
    weight_bytes: int = Field(ge=0)
    peak_memory_bytes: int = Field(ge=0)
    input_bytes: int = Field(ge=0)
    output_bytes: int = Field(ge=0)
    kernels: int = Field(default=1, ge=0)  # operators launched by the call; for information
    precision: Precision = "bf16"
    note: str = ""

    def at(self, precision: Precision) -> Workload:
        """The same call computed in another number format: FLOPs stay, traffic and memory scale with the width.

        Messages keep the format in which the pack sends them.
        """
        ratio = PRECISION_BYTES[precision] / PRECISION_BYTES[self.precision]
        if ratio == 1.0:
            return self.model_copy(update={"precision": precision})
        scaled = {
            name: round(getattr(self, name) * ratio)
            for name in ("bytes_moved", "weight_bytes", "peak_memory_bytes")
        }
        return self.model_copy(update={**scaled, "precision": precision})


class StageWorkloads(BaseModel):
    """All stages of a request. `expert_step` is one denoising step of one expert, guidance included.

    `expert_step.input_bytes`/`output_bytes` are the latents that go to an expert and the prediction that
    comes back; `text.output_bytes` is the conditioning sent to each expert once; `exchange` combines all
    predictions and takes the sampler's step; `decode` turns latents into frames; `export` encodes the clip,
    its `output_bytes` are what travels to the user.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    text: Workload
    expert_step: Workload
    exchange: Workload
    decode: Workload
    export: Workload
    latent_bytes: int = Field(gt=0)  # one clip's latents on the wire
    prompt_bytes: int = Field(default=512, gt=0)
    delta_bytes: int | None = Field(default=None, ge=0)  # an expert as difference from the generalist
    noise_level_experts: bool = False  # experts own disjoint spans of sigma: hand-over is then exact
    frames: int = Field(gt=0)
    width: int = Field(gt=0)
    height: int = Field(gt=0)
    pack: str = ""

    @model_validator(mode="after")
    def _stages_match(self) -> StageWorkloads:
        for stage in STAGES:
            if getattr(self, stage).stage != stage:
                raise ValueError(f"{stage} holds the workload of {getattr(self, stage).stage}")
        return self

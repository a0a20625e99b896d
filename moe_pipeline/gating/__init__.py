"""Gates (in other texts: routers): from text and noise level to weights of experts."""

from __future__ import annotations

from moe_pipeline.gating.description import DescriptionGate
from moe_pipeline.gating.gate import TextSigmaGate

GATES = {"text-sigma": TextSigmaGate, "description": DescriptionGate}

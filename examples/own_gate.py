"""A gate of your own: no training, experts are weighted by how near the text is to their descriptions.

python -m examples.own_gate
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from moe_pipeline import MoEVideoPipeline, SceneRequest


class DescriptionGate(nn.Module):
    """Logits are cosines between text and expert descriptions, sharpened by `scale`; the noise level plays no part."""

    id = "nearest-description"  # stands in the record of a run

    def __init__(self, descriptions: Tensor, scale: float = 12.0) -> None:
        super().__init__()
        self.descriptions, self.scale = descriptions, scale  # (experts, D), unit length

    def forward(self, pooled: Tensor, sigma: Tensor) -> Tensor:
        """pooled (B, D), sigma (B,) -> (B, experts)."""
        return self.scale * pooled @ self.descriptions.T

    def coverage(self, pooled: Tensor) -> Tensor:
        """(B, D) -> (B,) in [0, 1]: the nearest description's cosine."""
        return (pooled @ self.descriptions.T).amax(-1).clamp(0.0, 1.0)


@torch.no_grad()
def main(pack: Path | None = None, **options: Any) -> None:
    """Routes one prompt with the pack's gate and with this one."""
    pipeline = MoEVideoPipeline.from_pack(pack)
    request = SceneRequest.parse(prompt="an astronaut waves on a neon street", **options)
    print("pack's gate", pipeline.gate(request).active)
    texts = [f"{expert.title}: {expert.description}" for expert in pipeline.manifest.experts]
    pipeline.engine.gate = DescriptionGate(pipeline.engine.encoder(texts).pooled)
    print("own gate   ", pipeline.gate(request).active)


if __name__ == "__main__":
    main()

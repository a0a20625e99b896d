"""A clip from a prompt: frames in memory, clip and record on disk.

python -m examples.generate
"""

from pathlib import Path
from typing import Any

from moe_pipeline import MoEVideoPipeline, SceneRequest


def main(pack: Path | None = None, out: Path = Path("out/example"), **options: Any) -> None:
    """`pack` None is the one that comes with MoEverse; `options` are fields of the request, such as steps=8."""
    pipeline = MoEVideoPipeline.from_pack(pack)
    request = SceneRequest.parse(prompt="an avatar dancing in a neon city street at night", seed=7, **options)
    clip = pipeline.generate(request, out=out)
    record = clip.record
    print("frames", clip.frames.shape, clip.frames.dtype)  # (T, H, W, 3) uint8
    print("active experts", ", ".join(record.gate.active))
    print("temporal flickering", record.metrics.temporal_flickering)
    print(f"measured {record.timing.total_ms:.0f} ms; wrote {out / str(record.clip.path)}")


if __name__ == "__main__":
    main()

"""Mixture against single model from the same seed.

python -m examples.compare
"""

from pathlib import Path
from typing import Any

from moe_pipeline import MoEVideoPipeline, SceneRequest
from moe_pipeline.interfaces import Finished
from moe_pipeline.studies.compare import compare


def main(pack: Path | None = None, out: Path = Path("out/example"), **options: Any) -> None:
    """Writes moe.mp4, single.mp4, side_by_side.mp4 and record.json into `out`."""
    pipeline = MoEVideoPipeline.from_pack(pack)
    request = SceneRequest.parse(prompt="a robot waves beside a portal in a marble hall", seed=3, **options)
    out.mkdir(parents=True, exist_ok=True)
    for mode, event in compare(pipeline, request, out=out, previews=False):
        if isinstance(event, Finished):
            record = event.clip.record
            print(
                f"{mode:<7} warping error {record.metrics.warping_error:.4f}, "
                f"denoising {record.timing.denoise_ms:.0f} ms (measured)"
            )
    print("wrote", out / "side_by_side.mp4")


if __name__ == "__main__":
    main()

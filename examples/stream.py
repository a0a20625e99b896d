"""The event stream: watch a clip form, and stop it half-way.

python -m examples.stream
"""

from pathlib import Path
from typing import Any

from moe_pipeline import MoEVideoPipeline, SceneRequest
from moe_pipeline.interfaces import Cancelled, Finished, Gated, RunControl, Step


def main(pack: Path | None = None, **options: Any) -> None:
    """Prints one line an event; the second run is cancelled after half of its steps."""
    pipeline = MoEVideoPipeline.from_pack(pack)
    request = SceneRequest.parse(prompt="a ringed planet over a quiet bay", **options)
    for stop_early in (False, True):
        control = RunControl()
        for event in pipeline.stream(request, control=control):
            match event:
                case Gated(gate=gate):
                    print("gate", {name: round(w, 2) for name, w in gate.weights.items() if w > 0})
                case Step(index=index, total=total, sigma=sigma, preview=preview):
                    size = (
                        None if preview is None else preview.shape
                    )  # (F, h, w, 3), the predicted clean clip
                    print(f"step {index + 1} of {total}, sigma {sigma:.2f}, preview {size}")
                    if stop_early and 2 * (index + 1) >= total:
                        control.cancel()
                case Finished(clip=clip):
                    print("finished", clip.frames.shape)
                case Cancelled(after_steps=steps):
                    print(f"cancelled after {steps} steps")
                case _:
                    print(event.kind)


if __name__ == "__main__":
    main()

"""Measure clips whose answer is known: one that slides, one that is frozen.

python -m examples.evaluate
"""

from pathlib import Path

import numpy as np

from moe_pipeline.studies.evaluate import evaluate
from moe_pipeline.video import write_mp4


def main(out: Path = Path("out/example-clips")) -> None:
    """Writes two clips and a report beside them; a frozen clip must not win by standing still, so it is flagged."""
    out.mkdir(parents=True, exist_ok=True)
    rows, columns = np.mgrid[0:96, 0:96]
    picture = np.stack(
        [128 + 100 * np.sin(rows / 9), 128 + 100 * np.cos(columns / 7), rows + columns], axis=-1
    )
    picture = picture.clip(0, 255).astype(np.uint8)  # (96, 96, 3)
    write_mp4(np.stack([np.roll(picture, 2 * t, axis=1) for t in range(16)]), out / "slides.mp4", 8.0)
    write_mp4(np.stack([picture] * 16), out / "frozen.mp4", 8.0)
    report = evaluate([out / "slides.mp4", out / "frozen.mp4"], out=out / "report", workers=1)
    for clip in report.clips:
        assert clip.metrics is not None
        flags = ", ".join(clip.metrics.flags) or "none"
        print(f"{clip.name}: flickering {clip.metrics.temporal_flickering:.4f}, flags: {flags}")
    print("wrote", ", ".join(report.written))


if __name__ == "__main__":
    main()

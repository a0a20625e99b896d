"""How strongly should subjects be guided? Single model and mixtures on captions of composed clips, against the renders.

    python -m training.guidance_study --clips data/choice --strengths 1 1.3 1.8 2.4 --out checkpoints/guidance

Only clips for choices are looked at, never those of the evaluation. Every setting makes the same captions from the
same seeds. *Subject colour* compares the area of the subject's colour with its area in the render of that very
caption: 1 is the same area, 0 none of it (or all of the picture).
"""

from __future__ import annotations

import argparse
import colorsys
import json
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from moe_pipeline.interfaces import Frames
from moe_pipeline.pipeline import MoEVideoPipeline
from moe_pipeline.prompting.complete import colours_in
from moe_pipeline.schema.pack import PackDetails
from moe_pipeline.schema.request import SceneRequest
from moe_pipeline.studies.bootstrap import paired_interval
from training.clips import ClipSet
from training.pack import DETAILS
from training.worlds.attributes import SceneAttributes
from training.worlds.palette import COLOURS

METRICS = ("text_alignment_pack", "temporal_flickering", "warping_error_8", "subject_consistency_pack")
COLOUR = "subject_colour"
PALETTE = PackDetails.model_validate(DETAILS)
HUES = {name: 180.0 * colorsys.rgb_to_hsv(*rgb)[0] for name, rgb in COLOURS.items() if name != "white"}


def colour_share(frames: Frames, name: str) -> float:
    """Share, 0 to 1, of the pixels of uint8 frames (T, H, W, 3) that are nearest to a colour of the palette."""
    stacked = frames.reshape(-1, frames.shape[2], 3)  # (T * H, W, 3)
    hue, saturation, value = np.moveaxis(cv2.cvtColor(stacked, cv2.COLOR_RGB2HSV).astype(np.float32), -1, 0)
    if name == "white":
        return float(((saturation < 45) & (value > 190)).mean())
    apart = np.stack([np.abs(hue - other) for other in HUES.values()])  # (colours, T * H, W), of 180 degrees
    nearest = np.minimum(apart, 180.0 - apart).argmin(0)
    return float(((nearest == list(HUES).index(name)) & (saturation > 90) & (value > 60)).mean())


def colour_match(made: Frames, wanted: Frames, name: str) -> float:
    """Smaller over larger area of a colour in two clips, 0 to 1."""
    shares = sorted((colour_share(made, name), colour_share(wanted, name)))
    return shares[0] / shares[1] if shares[1] else 1.0


def cases(clips: ClipSet, most: int) -> list[tuple[int, str, str]]:
    """Index, caption and subject's colour of clips with one subject in a world whose caption names that colour."""
    found = []
    for index, fact in enumerate(clips.facts):
        attributes = SceneAttributes.from_dict(fact["attributes"])
        if not attributes.composed or attributes.companion is not None:
            continue
        named = [c for c in fact["captions"] if attributes.subject_colour in colours_in(c, PALETTE)]
        if named:
            found.append((index, max(named, key=len), attributes.subject_colour))
    return found[:: max(1, len(found) // most)][:most]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pack", type=Path, help="folder of a pack; the embedded one if not given")
    parser.add_argument("--clips", required=True, type=Path, help="rendered shards for choices")
    parser.add_argument("--strengths", type=float, nargs="+", default=[1.0, 1.3, 1.8, 2.4])
    parser.add_argument("--count", type=int, default=32, help="captions, at most")
    parser.add_argument("--out", required=True, type=Path)
    arguments = parser.parse_args()
    pipeline = MoEVideoPipeline.from_pack(arguments.pack)
    clips = ClipSet([arguments.clips])
    chosen = cases(clips, arguments.count)
    settings: dict[str, dict[str, object]] = {"single": {"mode": "single"}}
    settings |= {f"mixture {s:g}": {"subject_guidance": s} for s in arguments.strengths}
    figures: dict[str, dict[str, list[float]]] = {
        name: {m: [] for m in (*METRICS, COLOUR)} for name in settings
    }
    for index, caption, colour in tqdm(chosen, unit="caption"):
        for name, options in settings.items():
            clip = pipeline.generate(SceneRequest.parse(prompt=caption, seed=index, **options))
            values = {metric: value.value for metric, value in clip.record.metrics.values.items()}
            for metric in METRICS:
                figures[name][metric].append(values[metric])
            figures[name][COLOUR].append(colour_match(clip.frames, clips.clip(index), colour))
    report = []
    for name, by_metric in figures.items():
        row: dict[str, object] = {"setting": name}
        for metric, found in by_metric.items():
            other = figures["single"][metric]
            gap = paired_interval(
                {str(i): [a - b] for i, (a, b) in enumerate(zip(found, other, strict=True))}
            )
            row[metric] = {
                "mean": float(np.mean(found)),
                "against_single": [gap.mean, gap.low, gap.high] if gap else [],
            }
        report.append(row)
        shown = (f"{m} {row[m]['mean']:.4f} {row[m]['against_single'][1:]}" for m in by_metric)  # type: ignore[index]
        print(name, "; ".join(shown))
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "guidance.json").write_text(
        json.dumps({"captions": len(chosen), "settings": report}, indent=1)
    )


if __name__ == "__main__":
    main()

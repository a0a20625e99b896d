"""Blend experts with the generalist they were branched from, in weight space.

    python -m training.blend --generalist checkpoints/single --experts checkpoints --share 0.4

A short branch overshoots: the weights on the line between generalist and expert have a lower error on the expert's
domain than either end (Wortsman et al., "Robust fine-tuning of zero-shot models", 2022, arXiv 2109.01903). Writes the
blended averages into each expert's training folder, beside `share` in its summary; run it once a branch.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from safetensors.torch import load_file, save_file

from training.worlds import DOMAINS

NAME = "ema.safetensors"
UNBLENDED = "ema-unblended.safetensors"


def blend(generalist: Path, expert: Path, share: float) -> None:
    """Replace an expert folder's averaged weights by `share` of them and the rest of the generalist's."""
    source = expert / UNBLENDED
    if not source.exists():
        (expert / NAME).rename(source)
    base, own = load_file(generalist / NAME), load_file(source)
    save_file({name: base[name].lerp(own[name], share) for name in own}, expert / NAME)
    summary = json.loads((expert / "summary.json").read_text())
    (expert / "summary.json").write_text(json.dumps(summary | {"share": share}, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--generalist", required=True, help="training folder that the experts started from")
    parser.add_argument("--experts", required=True, help="folder with expert-DOMAIN training folders")
    parser.add_argument("--share", type=float, default=0.4, help="weight of the expert, 0 to 1")
    arguments = parser.parse_args()
    for domain in DOMAINS:
        blend(Path(arguments.generalist), Path(arguments.experts) / f"expert-{domain}", arguments.share)


if __name__ == "__main__":
    main()

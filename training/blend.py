"""Blend experts with the single model that branched from the same trunk, in weight space.

    python -m training.blend --generalist checkpoints/single --experts checkpoints --choose data/choice-latents

The weights on the line between single model and expert often have a lower error on the expert's domain than either end
(Wortsman et al., "Robust fine-tuning of zero-shot models", 2022, arXiv 2109.01903). The share of each expert is
the smallest of `--shares` with an error within 0.1 % of the lowest, on clips of its domain that neither training nor
evaluation sees. Writes the blended averages into each expert's training folder, with `share` in its summary and all
errors in `blend.json`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from moe_pipeline.experts.denoiser import VideoDenoiser
from training.experts import UNBLENDED, held_out_error
from training.latents import LatentSet
from training.worlds import DOMAINS

NAME = "ema.safetensors"
LEVELS = 6  # noise levels of each clip: shares differ by little, so the choice wants more than a validation


def blended(base: dict[str, Tensor], own: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """`share` of the expert's weights and the rest of the generalist's."""
    return {name: base[name].lerp(own[name], share) for name in own}


def choose_share(
    base: dict[str, Tensor], own: dict[str, Tensor], clips: LatentSet, domain: str, shares: Sequence[float]
) -> dict[float, float]:
    """The error on clips of `domain` for every share."""
    model, errors = VideoDenoiser().eval(), {}
    for share in shares:
        model.load_state_dict(blended(base, own, share))
        errors[share] = held_out_error(model, clips, torch.device("cpu"), len(clips), LEVELS)[domain]
    return errors


def smallest_of_the_best(errors: dict[float, float], tolerance: float = 1e-3) -> float:
    """The smallest share with an error within `tolerance` of the lowest: chance decides less."""
    lowest = min(errors.values())
    return min(share for share, error in errors.items() if error <= lowest * (1.0 + tolerance))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--generalist", required=True, help="training folder to blend with")
    parser.add_argument("--experts", required=True, help="folder with expert-DOMAIN training folders")
    parser.add_argument("--choose", required=True, nargs="+", help="encoded clips to choose each share by")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.0, 0.25, 0.5, 0.75, 1.0])
    parser.add_argument("--domains", nargs="+", choices=DOMAINS, default=list(DOMAINS))
    arguments = parser.parse_args()
    base = load_file(Path(arguments.generalist) / NAME)
    for domain in arguments.domains:
        folder = Path(arguments.experts) / f"expert-{domain}"
        source = folder / UNBLENDED
        if not source.exists():
            (folder / NAME).rename(source)
        own = load_file(source)
        clips = LatentSet(*(Path(folder) for folder in arguments.choose), domain=domain)
        errors = choose_share(base, own, clips, domain, arguments.shares)
        share = smallest_of_the_best(errors)
        save_file(blended(base, own, share), folder / NAME)
        summary = json.loads((folder / "summary.json").read_text())
        (folder / "summary.json").write_text(json.dumps(summary | {"share": share}, indent=1))
        (folder / "blend.json").write_text(json.dumps(errors, indent=1))
        shown = "  ".join(f"{s:g}: {error:.4f}" for s, error in errors.items())
        print(f"{domain}  {shown}  -> {share:g}", flush=True)


if __name__ == "__main__":
    main()

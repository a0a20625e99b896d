"""A contact sheet of the worlds: `python -m training.worlds.sheet --out FILE.png`."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from PIL import Image

from training.worlds.attributes import DOMAINS, sample
from training.worlds.renderer import Renderer, clip_seed, render_clip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--clips", type=int, default=8, help="clips a domain, one a row")
    parser.add_argument("--frames", type=int, default=4, help="frames a clip")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--domains", nargs="+", default=list(DOMAINS), choices=DOMAINS)
    options = parser.parse_args()
    renderer = Renderer()
    columns = []
    for domain in options.domains:
        rows, spent = [], 0.0
        for k in range(options.clips):
            seed = clip_seed(options.seed, 100 * DOMAINS.index(domain) + k)
            attributes = sample(np.random.default_rng(seed), domain)
            start = time.perf_counter()
            clip = render_clip(renderer, attributes, seed)
            spent += (time.perf_counter() - start) * (k > 0)
            picked = np.linspace(0, 15, options.frames).round().astype(int)
            rows.append(np.concatenate(list(clip[picked]), axis=1))
        print(f"{domain}: {spent / max(options.clips - 1, 1):.2f} s a clip")
        columns.append(np.concatenate(rows, axis=0))
    Image.fromarray(np.concatenate(columns, axis=1)).save(options.out)


if __name__ == "__main__":
    main()

"""Render clips of the worlds: `python -m training.render --clips N --seed S --out DIR`.

Clip i depends on (seed, i, domains, split, composed, pairs) alone: any number of workers, and a run that was stopped
and started again, give the same bytes.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from moe_pipeline.atomic import unwritable
from moe_pipeline.schema.errors import MoEverseError
from training.worlds.attributes import DOMAINS, PAIR_SHARE, SUBJECT_SHARE, SceneAttributes, held_out, sample
from training.worlds.captions import captions
from training.worlds.shards import CLIPS_A_SHARD, is_whole, write_shard

SPLITS = ("train", "held-out", "any")
FORMAT = 1


@dataclass(frozen=True)
class RenderPlan:
    """What is to be rendered; stored as `render.json` and compared on a second run."""

    clips: int
    seed: int
    domains: tuple[str, ...]
    split: str
    composed: float = SUBJECT_SHARE
    pairs: float = PAIR_SHARE

    def shards(self) -> list[range]:
        return [
            range(start, min(start + CLIPS_A_SHARD, self.clips))
            for start in range(0, self.clips, CLIPS_A_SHARD)
        ]


def domain_of(plan: RenderPlan, index: int) -> str:
    """The world of clip `index`: every run of len(domains) clips holds each domain once, in random order."""
    block, place = divmod(index, len(plan.domains))
    order = np.random.default_rng([plan.seed, 7, block]).permutation(len(plan.domains))
    return plan.domains[int(order[place])]


def attributes_of(plan: RenderPlan, index: int) -> SceneAttributes:
    """Draw scenes for clip `index` until one lies in the split."""
    rng = np.random.default_rng([plan.seed, 11, index])
    while True:
        drawn = sample(rng, domain_of(plan, index), plan.composed, plan.pairs)
        if plan.split == "any" or held_out(drawn) == (plan.split == "held-out"):
            return drawn


def describe(plan: RenderPlan, index: int) -> dict[str, Any]:
    """The metadata line of clip `index`."""
    from training.worlds.renderer import clip_seed

    attributes = attributes_of(plan, index)
    words = captions(attributes, np.random.default_rng([plan.seed, 13, index]), 6)
    return {
        "index": index,
        "seed": clip_seed(plan.seed, index),
        "domains": list(attributes.domains),
        "captions": words,
        "attributes": attributes.as_dict(),
        "held_out": held_out(attributes),
    }


_renderer: Any = None  # one OpenGL context a worker process


def _start_worker() -> None:
    global _renderer
    from training.worlds.renderer import Renderer

    _renderer = Renderer()


def _render_shard(job: tuple[RenderPlan, Path, int]) -> int:
    """Render and write one shard; returns the number of its clips."""
    from training.worlds.renderer import render_clip

    plan, folder, number = job
    lines = [describe(plan, index) for index in plan.shards()[number]]
    clips = [
        render_clip(_renderer, SceneAttributes.from_dict(line["attributes"]), line["seed"]) for line in lines
    ]
    write_shard(folder, number, np.stack(clips), lines)
    return len(lines)


def _agree(plan: RenderPlan, folder: Path) -> None:
    """Store the plan, or refuse a folder that holds another one."""
    path = folder / "render.json"
    wanted = json.loads(json.dumps({"format": FORMAT, **asdict(plan)}))
    if path.is_file():
        stored = {"composed": SUBJECT_SHARE, "pairs": PAIR_SHARE} | json.loads(
            path.read_text(encoding="utf-8")
        )
        differing = sorted(key for key in wanted if stored.get(key) != wanted[key])
        if differing:
            said = ", ".join(f"{key} {stored.get(key)} (asked: {wanted[key]})" for key in differing)
            raise MoEverseError(
                code="render_mismatch",
                message=f"{folder} holds a render with other parameters: {said}.",
                remedy="Choose another --out, or repeat the stored parameters to resume.",
            )
        return
    path.write_text(json.dumps(wanted, indent=1) + "\n", encoding="utf-8")


def render(plan: RenderPlan, folder: Path, workers: int) -> Iterator[int]:
    """Render what is missing; yields the number of clips of each shard as it lands on disk."""
    if plan.clips < 1 or workers < 1:
        raise MoEverseError(
            code="bad_count",
            message="The number of clips and of workers must be at least 1.",
            remedy="Give --clips N and --workers N with N of 1 or more.",
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise unwritable(folder, problem, "unwritable_folder") from problem
    _agree(plan, folder)
    jobs = [(plan, folder, k) for k in range(len(plan.shards())) if not is_whole(folder, k)]
    if not jobs:
        return
    os.environ["LP_NUM_THREADS"] = "1"  # one software-rendering thread a worker: the workers fill the cores
    context = multiprocessing.get_context("spawn")
    with context.Pool(min(workers, len(jobs)), initializer=_start_worker) as pool:
        yield from pool.imap_unordered(_render_shard, jobs)


def main() -> int:
    parser = argparse.ArgumentParser(description="Render captioned clips of the worlds.")
    parser.add_argument("--clips", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--domains", nargs="+", choices=DOMAINS, default=list(DOMAINS))
    parser.add_argument(
        "--split",
        choices=SPLITS,
        default="train",
        help="train leaves the held-out attribute combinations away, held-out renders only these",
    )
    parser.add_argument(
        "--composed",
        type=float,
        default=SUBJECT_SHARE,
        help="share, 0 to 1, of cities, landscapes, interiors and spaces that have a subject in them",
    )
    parser.add_argument(
        "--pairs",
        type=float,
        default=PAIR_SHARE,
        help="share, 0 to 1, of the clips with a subject in a world that have a second subject",
    )
    options = parser.parse_args()
    for name in ("composed", "pairs"):
        if not 0.0 <= getattr(options, name) <= 1.0:
            parser.error(f"--{name} is a share between 0 and 1, not {getattr(options, name)}")
    plan = RenderPlan(
        options.clips,
        options.seed,
        tuple(options.domains),
        options.split,
        options.composed,
        options.pairs,
    )
    try:
        done = sum(len(shard) for k, shard in enumerate(plan.shards()) if is_whole(options.out, k))
        with tqdm(total=plan.clips, initial=done, unit="clip") as bar:
            for count in render(plan, options.out, options.workers):
                bar.update(count)
    except MoEverseError as error:
        print(f"{error.message} {error.remedy}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

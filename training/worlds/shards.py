"""Shards of rendered clips: `shard-NNNNN.npy` (uint8 [n, 16, 128, 128, 3]) beside `shard-NNNNN.jsonl`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moe_pipeline.atomic import replacing, write_text
from moe_pipeline.schema.errors import MoEverseError

CLIPS_A_SHARD = 50


def shard_paths(folder: Path, number: int) -> tuple[Path, Path]:
    stem = folder / f"shard-{number:05d}"
    return stem.with_suffix(".npy"), stem.with_suffix(".jsonl")


def write_shard(folder: Path, number: int, clips: NDArray[np.uint8], lines: list[dict[str, Any]]) -> None:
    """Write both files, each whole or not at all; the metadata last, so that it marks a whole shard."""
    array_path, lines_path = shard_paths(folder, number)
    with replacing(array_path) as part, part.open("wb") as file:
        np.save(file, clips)
    write_text(lines_path, "".join(json.dumps(line) + "\n" for line in lines))


def is_whole(folder: Path, number: int) -> bool:
    return all(path.is_file() for path in shard_paths(folder, number))


def read_shards(folder: Path | str) -> tuple[list[NDArray[np.uint8]], list[dict[str, Any]]]:
    """All whole shards of a folder: memory maps [n, 16, 128, 128, 3], and one dict a clip in the same order.

    Shards that are still being written are left out, so that a folder can be read while it grows.
    """
    folder = Path(folder)
    arrays: list[NDArray[np.uint8]] = []
    lines: list[dict[str, Any]] = []
    for path in sorted(folder.glob("shard-*.jsonl")):
        if not path.with_suffix(".npy").is_file():
            continue
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        array = np.load(path.with_suffix(".npy"), mmap_mode="r")
        if len(rows) != len(array):
            raise MoEverseError(
                code="broken_shard",
                message=f"{path.name} lists {len(rows)} clips, its array holds {len(array)}.",
                remedy="Delete both files of this shard and run training.render again.",
            )
        arrays.append(array)
        lines.extend(rows)
    if not arrays:
        raise MoEverseError(
            code="no_shards",
            message=f"{folder} holds no rendered clips.",
            remedy="Render some first: python -m training.render --clips N --seed S --out DIR.",
        )
    return arrays, lines

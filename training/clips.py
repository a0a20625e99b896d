"""Rendered clips on disk as memory maps: random crops for the autoencoder, whole clips for the rest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Frames = npt.NDArray[np.uint8]


class ClipSet:
    """All finished shards of one or more folders; `refresh` picks up those rendered meanwhile.

    A shard is `shard-NNNNN.npy` (uint8, n x 16 x 128 x 128 x 3) and `shard-NNNNN.jsonl` (one line of facts a
    clip); the jsonl is written last, so a shard without it is not finished.
    """

    def __init__(self, folders: list[Path]) -> None:
        self.folders = folders
        self._maps: list[Frames] = []
        self.facts: list[dict[str, Any]] = []
        self._where: list[tuple[int, int]] = []
        self._seen: set[Path] = set()
        self.refresh()

    def refresh(self) -> int:
        """Number of clips after looking for new shards."""
        for folder in self.folders:
            for facts_path in sorted(folder.glob("shard-*.jsonl")):
                if facts_path in self._seen:
                    continue
                frames = np.load(facts_path.with_suffix(".npy"), mmap_mode="r")
                lines = [json.loads(line) for line in facts_path.read_text().splitlines() if line.strip()]
                self._where += [(len(self._maps), i) for i in range(len(lines))]
                self._maps.append(frames)
                self.facts += lines
                self._seen.add(facts_path)
        return len(self)

    def __len__(self) -> int:
        return len(self._where)

    def clip(self, index: int) -> Frames:
        """One clip, uint8 (T, H, W, 3)."""
        shard, row = self._where[index]
        return np.asarray(self._maps[shard][row])

    def crops(self, rng: np.random.Generator, count: int, side: int) -> Frames:
        """Random square crops of random clips, half of them mirrored: uint8 (count, T, side, side, 3)."""
        out = []
        for index in rng.integers(len(self), size=count):
            shard, row = self._where[int(index)]
            frames = self._maps[shard][row]
            top = int(rng.integers(frames.shape[1] - side + 1))
            left = int(rng.integers(frames.shape[2] - side + 1))
            crop = frames[:, top : top + side, left : left + side]
            out.append(crop[:, :, ::-1] if rng.random() < 0.5 else crop)
        return np.stack(out)

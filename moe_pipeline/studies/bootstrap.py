"""Paired bootstrap over prompts and seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

DRAWS = 4000
LEAST_PROMPTS = (
    6  # resampling fewer prompts cannot show how much prompts differ: two alike would look like proof
)


@dataclass(frozen=True)
class Interval:
    """Mean of the paired differences with a percentile interval."""

    mean: float
    low: float
    high: float
    prompts: int
    pairs: int

    @property
    def decided(self) -> bool:
        """True when the interval leaves out 0 and stands on enough prompts to mean anything."""
        return self.prompts >= LEAST_PROMPTS and (self.low > 0.0 or self.high < 0.0)


def paired_interval(
    differences: Mapping[str, Sequence[float]], *, level: float = 0.95, draws: int = DRAWS, seed: int = 0
) -> Interval | None:
    """Interval of the mean difference, differences given by prompt (one value a seed); None without any.

    Two levels: prompts are drawn with replacement, then seeds within each drawn prompt, because clips of one prompt
    resemble each other and more seeds of few prompts must not look like more evidence. The statistic is the mean of
    the prompts' means, so that prompts weigh alike. Davison and Hinkley, "Bootstrap Methods", 1997, section 3.8.
    """
    groups = [np.asarray(values, dtype=np.float64) for values in differences.values() if len(values)]
    if not groups:
        return None
    rng = np.random.default_rng(seed)
    count = len(groups)
    chosen = rng.integers(0, count, size=(draws, count))
    means = np.zeros((draws, count))
    for p, group in enumerate(groups):
        where = chosen == p
        hits = int(where.sum())
        means[where] = group[rng.integers(0, len(group), size=(hits, len(group)))].mean(axis=1)
    resampled: npt.NDArray[np.float64] = means.mean(axis=1)
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    mean = float(np.mean([group.mean() for group in groups]))
    return Interval(mean, float(low), float(high), count, sum(len(group) for group in groups))

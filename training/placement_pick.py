"""Picks the placement policy that ships, on validation traffic: neither trained on nor held out for the study.

    python -m training.placement_pick --out out/moe-ppo

Many runs at once in the batch form of the simulator; prints what each trained policy gains on greedy at each load
and names the mixture with the highest mean gain.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from moe_pipeline.edge.learned_policy import LearnedPolicy
from moe_pipeline.edge.policies import PricedGreedy
from moe_pipeline.edge.profiles import load_profiles
from moe_pipeline.edge.simulation import deployment_of
from moe_pipeline.edge.simulation_batch import Ledger
from moe_pipeline.edge.simulation_report import interval, write_json
from moe_pipeline.edge.simulation_traffic import channel_for, draw_traffic
from moe_pipeline.schema.errors import MoEverseError

Array = npt.NDArray[np.float64]
Choice = Callable[[Ledger, int, Array], npt.NDArray[np.int64]]

MAIN = "object-transfer"
LOADS = (0.5, 0.7, 0.9)
VALIDATION = 900_000  # below the training's seeds (from 1,000,000), above the study's (from 500,000)
CHANNELS = 4


def traffics(load: float, runs: int, requests: int) -> list[Ledger]:
    """`runs` runs at one load, spread over a few channels."""
    deployment = deployment_of(MAIN, load_profiles())
    share = runs // CHANNELS
    rate = load * deployment.capacity_per_s
    found = []
    for number in range(CHANNELS):
        first = VALIDATION + number * share
        traffic = draw_traffic(deployment, requests, range(first, first + share), rate_per_s=rate)
        found.append(Ledger(deployment, channel_for(deployment, VALIDATION + number), traffic))
    return found


def utilities(ledgers: Sequence[Ledger], choose: Choice) -> Array:
    """(runs,) mean utility of a request under a rule; the ledgers are left as they were."""
    found = []
    for fresh in ledgers:
        ledger = fresh.branch(np.arange(fresh.batch))
        total = np.zeros(ledger.batch)
        for request in range(ledger.traffic.requests):
            t = ledger.arrival(request)
            ledger.advance(t)
            total += ledger.commit(request, choose(ledger, request, t), t).utility
        found.append(total / ledger.traffic.requests)
    return np.concatenate(found)


def greedy(ledger: Ledger, request: int, t: Array) -> npt.NDArray[np.int64]:
    """`policies.Greedy` for many runs."""
    seen = ledger.observe(request, t)
    return np.where(seen.mask, seen.utility, -np.inf).argmax(axis=1)


def pick(folder: Path, runs: int = 64, requests: int = 200) -> tuple[Path, dict[str, dict[str, list[float]]]]:
    """The best mixture in `folder`, and the gain on greedy of every policy there with its half width by load.

    Raises:
        MoEverseError: `no_policy_file` where nothing was trained.
    """
    files = sorted([*folder.glob("moe-ppo-[0-9]*.safetensors"), *folder.glob("ppo-[0-9]*.safetensors")])
    mixtures = [file for file in files if file.stem.startswith("moe-ppo")]
    if not mixtures:
        raise MoEverseError(
            "no_policy_file",
            f"There is no trained moe-ppo in {folder}.",
            "Train first: python -m training.placement_study train.",
        )
    rules: dict[str, Choice] = {"priced-greedy": PricedGreedy.options}
    rules |= {file.stem: LearnedPolicy.load(file).options for file in files}
    gains: dict[str, dict[str, list[float]]] = {name: {} for name in rules}
    for load in LOADS:
        ledgers = traffics(load, runs, requests)
        base = utilities(ledgers, greedy)
        for name, rule in rules.items():
            gains[name][str(load)] = list(interval(list(utilities(ledgers, rule) - base)))
    best = max(mixtures, key=lambda file: sum(gain for gain, _ in gains[file.stem].values()))
    return best, gains


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out/moe-ppo"), help="folder of trained policies")
    arguments = parser.parse_args()
    best, gains = pick(arguments.out)
    for name, by_load in gains.items():
        print(f"{name:>14}", *(f"{load}: {mean:+.4f} ± {half:.4f}" for load, (mean, half) in by_load.items()))
    write_json(Path("docs/simulation/validation.json"), {"picked": best.stem, "gain_on_greedy": gains})
    print(f"picked {best}")


if __name__ == "__main__":
    main()

"""Trains and compares placement policies on held-out traffic, and checks the simulator against theory.

    python -m training.placement_study train --out out/moe-ppo            # all seeds, with and without mixture
    python -m training.placement_study compare --policies out/moe-ppo     # table, JSON and picture
    python -m training.placement_study theory | throughput | scenarios

Held-out means: seeds of traffic, channels and faults that no training run has seen. Every policy meets the
same runs. Intervals are 95 % Student-t over held-out seeds; for learned policies each held-out seed is met by
another training run, so that the interval covers training luck as well.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from moe_pipeline.edge.learned_policy import LearnedPolicy
from moe_pipeline.edge.policies import Fixed, Policy, best_sequence, make_policy
from moe_pipeline.edge.profiles import load_profiles
from moe_pipeline.edge.simulation import deployment_of, offered_rate, run_policy
from moe_pipeline.edge.simulation_batch import Ledger
from moe_pipeline.edge.simulation_model import Deployment, single_station
from moe_pipeline.edge.simulation_report import SimulationReport, compared, interval, summarise, write_json
from moe_pipeline.edge.simulation_traffic import channel_for, draw_traffic
from moe_pipeline.schema.errors import MoEverseError
from training.placement_tables import utilisation, write_scenarios

MAIN = "object-transfer"
LOADS = (0.5, 0.7, 0.9)
HELD_OUT = 500_000  # seeds of the study start here; training uses seeds from 1,000,000 on
RESULTS = Path("docs/simulation")
PICTURES = Path("docs/simulation")
NAMES = {
    "optimal": "full knowledge",
    "shipped": "MoE-PPO as shipped",
    "moe-ppo": "MoE-PPO, five runs",
    "ppo": "PPO without mixture, five runs",
    "priced-greedy": "priced greedy",
    "greedy": "greedy",
    "cloud-only": "cloud only",
    "random": "random",
}
SMALL = ("optimal", "shipped", "moe-ppo", "ppo", "priced-greedy", "greedy")


def train_all(out: Path, minutes: float, seeds: int) -> None:
    """`seeds` runs with the mixture and as many without, of about the same number of weights."""
    import torch

    from training.placement_ppo import train

    torch.set_num_threads(1)
    for seed in range(seeds):
        for name, settings in variants(minutes).items():
            if (out / f"{name}-{seed}.safetensors").exists():
                continue
            train(settings, seed, out, f"{name}-{seed}")


def variants(minutes: float) -> dict[str, Any]:
    """The mixture of four small experts, and one network with as many weights."""
    from training.placement_ppo import Settings

    mixture = Settings(minutes=minutes)
    return {"moe-ppo": mixture, "ppo": Settings(minutes=minutes, experts=1, hidden=42)}


def policy_for(name: str, deployment: Deployment, folder: Path, seed: int) -> Policy:
    """A policy of the comparison; learned ones by training seed, one after the other."""
    if name in ("moe-ppo", "ppo"):
        files = sorted(folder.glob(f"{name}-[0-9]*.safetensors"))
        if not files:
            raise MoEverseError(
                "no_policy_file",
                f"There is no trained {name} in {folder}.",
                "Train first: python -m training.placement_study train.",
            )
        return LearnedPolicy.load(files[seed % len(files)])
    return make_policy("moe-ppo" if name == "shipped" else name, deployment, seed)


def compare(folder: Path, requests: int, seeds: int) -> dict[str, Any]:
    """Every policy at every load of the main scenario."""
    deployment = deployment_of(MAIN, load_profiles())
    result: dict[str, Any] = {"scenario": MAIN, "requests": requests, "seeds": seeds, "loads": {}}
    for load in LOADS:
        reports: dict[str, list[SimulationReport]] = {name: [] for name in NAMES}
        for seed in range(seeds):
            held = HELD_OUT + seed
            rate = offered_rate(deployment, load)
            traffic = draw_traffic(deployment, requests, [held], rate_per_s=rate)
            channel = channel_for(deployment, held)
            for name in NAMES:
                policy = policy_for(name, deployment, folder, seed)
                log, spent = run_policy(deployment, traffic, channel, policy)
                reports[name].append(summarise(deployment, name, held, log, spent))
        figures: dict[str, Any] = dict(compared(reports))
        figures["paired"] = paired(reports)
        result["loads"][str(load)] = figures
        print(table({str(load): figures}), flush=True)
    return result


def paired(reports: dict[str, list[SimulationReport]]) -> dict[str, list[float]]:
    """Mean difference of utility to greedy over the same seeds, with its half width."""
    base = np.array([r.utility_mean for r in reports["greedy"]])
    return {
        name: list(interval(list(np.array([r.utility_mean for r in runs]) - base)))
        for name, runs in reports.items()
        if name != "greedy"
    }


def table(loads: dict[str, Any]) -> str:
    """A Markdown table: utility, latencies, misses, energy, fairness with half widths."""
    lines = [
        "| load | policy | utility | above greedy | mean s | p95 s | p99 s | late or lost | J a request | fairness |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]

    def cell(pair: Sequence[float], scale: float = 1.0, digits: int = 2) -> str:
        return f"{pair[0] * scale:.{digits}f} ± {pair[1] * scale:.{digits}f}"

    for load, figures in loads.items():
        for name, title in NAMES.items():
            f = figures[name]
            gain = figures["paired"].get(name)
            above = cell(gain, 1, 3) if gain else "0"
            lines.append(
                f"| {load} | {title} | {cell(f['utility_mean'], 1, 3)} | {above} | {cell(f['mean_ms'], 1e-3)} "
                f"| {cell(f['p95_ms'], 1e-3)} | {cell(f['p99_ms'], 1e-3)} "
                f"| {cell(f['miss_share'], 100, 1)} % | {cell(f['energy_mean_j'], 1, 0)} "
                f"| {cell(f['fairness_jain'], 1, 3)} |"
            )
    return "\n".join(lines)


def small_instances(folder: Path, instances: int, length: int) -> dict[str, Any]:
    """Whole episodes short enough for exhaustive enumeration: how far is everybody from the true optimum?"""
    deployment = deployment_of(MAIN, load_profiles())
    options = len(deployment.options)
    values: dict[str, list[float]] = {name: [] for name in ("exhaustive", *SMALL)}
    for index in range(instances):
        seed = HELD_OUT + 1000 + index
        traffic = draw_traffic(deployment, length, [seed], rate_per_s=3 * deployment.capacity_per_s)
        channel = channel_for(deployment, seed)
        ledger = Ledger(deployment, channel, traffic)
        _, total = best_sequence(ledger, 0, traffic.t[:, 0], states=options**length)
        values["exhaustive"].append(total / length)
        for name in SMALL:
            policy = policy_for(name, deployment, folder, index)
            run, summed = Ledger(deployment, channel, traffic), 0.0
            for request in range(length):
                t = run.arrival(request)
                run.advance(t)
                option = np.array([policy.choose(run, request, t)])
                summed += float(run.commit(request, option, t).utility[0])
            values[name].append(summed / length)
    return {
        "instances": instances,
        "length": length,
        "utility": {name: list(interval(v)) for name, v in values.items()},
    }


def theory(requests: int, seeds: int) -> dict[str, Any]:
    """Mean waits of M/M/1 and M/D/1 against rho / (mu - lambda), halved for constant service."""
    found: dict[str, Any] = {"requests": requests, "seeds": seeds, "rows": []}
    # the mean settles the more slowly the busier the server is, and for constant service the quicker
    cases = (
        ("exponential", 1.0, 0.3, 1),
        ("exponential", 1.0, 0.5, 3),
        ("constant", 0.5, 0.3, 1),
        ("constant", 0.5, 0.5, 1),
    )
    for law, factor, rho, longer in cases:
        deployment = single_station(1.0, rho, law)
        waits = []
        for seed in range(seeds):
            traffic = draw_traffic(deployment, longer * requests, [seed])
            channel = channel_for(deployment, seed)
            log, _ = run_policy(deployment, traffic, channel, Fixed(deployment, [0]))
            waits.append(float(log.wait_s.mean()))
        mean, half = interval(waits)
        expected = factor * rho / (1 - rho)
        row = {
            "queue": "M/M/1" if law == "exponential" else "M/D/1",
            "rho": rho,
            "theory_s": expected,
            "simulated_s": mean,
            "half_width_s": half,
            "error": mean / expected - 1,
        }
        found["rows"].append(row)
        print(row, flush=True)
    return found


def throughput(requests: int) -> dict[str, Any]:
    """Simulated requests a second, by the clock and of processor time, one core."""
    found: dict[str, Any] = {
        "requests": requests,
        "machine": platform.processor() or platform.machine(),
        "rows": [],
    }
    library = load_profiles()
    for scenario, name in (
        (MAIN, "greedy"),
        (MAIN, "moe-ppo"),
        (MAIN, "cloud-only"),
        ("vehicle-convoy", "greedy"),
        ("campus-mec", "greedy"),
    ):
        deployment = deployment_of(scenario, library)
        traffic = draw_traffic(deployment, requests, [0], rate_per_s=offered_rate(deployment, 0.6))
        _, spent = run_policy(deployment, traffic, channel_for(deployment, 0), make_policy(name, deployment))
        row = {
            "scenario": scenario,
            "policy": name,
            "requests_per_wall_s": requests / spent.wall_s,
            "requests_per_cpu_s": requests / spent.cpu_s,
        }
        found["rows"].append(row)
        print(row, flush=True)
    return found


def scenarios(requests: int, seeds: int, load: float) -> dict[str, Any]:
    """Every scenario under every policy of the simulator, at the same share of its capacity."""
    library = load_profiles()
    result: dict[str, Any] = {"requests": requests, "seeds": seeds, "load": load, "scenarios": {}}
    for scenario in library.scenarios:
        try:
            deployment = deployment_of(scenario, library)
        except MoEverseError as refusal:
            print(f"{scenario}: {refusal.message}", flush=True)
            continue
        reports: dict[str, list[SimulationReport]] = {}
        for name in ("optimal", "moe-ppo", "priced-greedy", "greedy", "cloud-only", "local-only", "random"):
            for seed in range(seeds):
                held = HELD_OUT + 2000 + seed
                try:
                    policy = make_policy(name, deployment, held)
                except MoEverseError:
                    break
                rate = offered_rate(deployment, load)
                traffic = draw_traffic(deployment, requests, [held], rate_per_s=rate)
                log, spent = run_policy(deployment, traffic, channel_for(deployment, held), policy)
                reports.setdefault(name, []).append(summarise(deployment, name, held, log, spent))
        figures: dict[str, dict[str, list[float]]] = compared(reports)
        result["scenarios"][scenario] = {
            name: {**figures[name], **utilisation(runs)} for name, runs in reports.items()
        }
        line = {n: round(f["utility_mean"][0], 3) for n, f in result["scenarios"][scenario].items()}
        print(scenario, line, flush=True)
    return result


def picture(result: dict[str, Any], path: Path) -> None:
    """Utility and misses by load, with intervals."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.8), layout="constrained")
    axes = figure.subplots(1, 2)
    colours = {
        "optimal": "#1a202c",
        "priced-greedy": "#2f855a",
        "moe-ppo": "#2b6cb0",
        "ppo": "#63b3ed",
        "greedy": "#c05621",
        "cloud-only": "#a0aec0",
        "random": "#cbd5e0",
    }
    shown = [name for name in NAMES if name not in ("cloud-only", "random", "shipped")]
    loads = sorted(result["loads"], key=float)
    for shift, name in enumerate(shown):
        x = np.array([float(load) for load in loads]) + 0.008 * (shift - 2)
        if name != "greedy":
            gains = np.array([result["loads"][load]["paired"][name] for load in loads])
            style = {"marker": "o", "capsize": 3, "label": NAMES[name], "color": colours[name]}
            axes[0].errorbar(x, gains[:, 0], yerr=gains[:, 1], **style)
        misses = np.array([result["loads"][load][name]["miss_share"] for load in loads]) * 100
        style = {"marker": "o", "capsize": 3, "label": NAMES[name], "color": colours[name]}
        axes[1].errorbar(x, misses[:, 0], yerr=misses[:, 1], **style)
    axes[0].axhline(0.0, color=colours["greedy"], label="greedy")
    axes[0].set(ylabel="utility of a request above greedy (paired)")
    axes[1].set(ylabel="late or lost (%)")
    for axis in axes:
        axis.set(xlabel="offered load (share of the capacity)")
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    figure.suptitle(
        f"{result['scenario']}: {result['seeds']} held-out seeds, 95 % intervals (estimated figures)"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def regimes(weights: Path, path: Path, requests: int = 400) -> dict[str, Any]:
    """Which expert the gate calls for by load and by the best channel, and a picture of it."""
    from matplotlib.figure import Figure

    deployment, policy = deployment_of(MAIN, load_profiles()), LearnedPolicy.load(weights)
    traffic = draw_traffic(
        deployment,
        requests,
        range(HELD_OUT + 3000, HELD_OUT + 3016),
        rate_per_s=list(np.linspace(0.2, 1.1, 16) * deployment.capacity_per_s),
    )
    ledger = Ledger(deployment, channel_for(deployment, HELD_OUT + 3000), traffic)
    waits, gates = [], []
    for request in range(requests):
        t = ledger.arrival(request)
        ledger.advance(t)
        seen = ledger.observe(request, t, features=True)
        assert seen.context is not None
        gate, choice = policy.gate(seen), policy.probabilities(seen).argmax(axis=1)
        waits.append(seen.context[:, 5] * deployment.deadline_s)
        gates.append(gate)
        ledger.commit(request, choice, t)
    wait, gate = np.concatenate(waits), np.concatenate(gates)
    edges = np.unique(np.quantile(wait, np.linspace(0, 1, 11)))  # equal where many wait for nothing
    count = len(edges) - 1
    groups = np.clip(np.searchsorted(edges, wait, side="right") - 1, 0, count - 1)
    means = np.array([gate[groups == g].mean(axis=0) for g in range(count)])
    centre = np.array([wait[groups == g].mean() for g in range(count)])
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axis = figure.subplots()
    axis.stackplot(
        range(count), means.T, labels=[f"expert {m + 1}" for m in range(policy.experts)], alpha=0.85
    )
    axis.set_xticks(range(count), [f"{c:.1f}" for c in centre])
    axis.set(
        xlabel="mean known wait over the options (s), groups of equal size",
        ylabel="gate weight",
        ylim=(0, 1),
        title="Which expert the gate calls for",
    )
    axis.legend(fontsize=8, loc="lower left")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    return {"wait_s": centre.tolist(), "gate": means.tolist()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "what", choices=["train", "compare", "small", "theory", "throughput", "scenarios", "regimes"]
    )
    parser.add_argument("--out", type=Path, default=Path("out/moe-ppo"), help="folder of trained policies")
    parser.add_argument("--minutes", type=float, default=1.5, help="processor minutes of each training run")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--load", type=float, default=0.7)
    a = parser.parse_args()
    begun = time.process_time()
    if a.what == "train":
        train_all(a.out, a.minutes, a.seeds)
        print(f"{(time.process_time() - begun) / 60:.1f} processor minutes")
        return
    shipped = Path("assets/policies/moe-ppo.safetensors")
    jobs: dict[str, Callable[[], dict[str, Any]]] = {
        "compare": lambda: compare(a.out, a.requests, a.seeds),
        "small": lambda: small_instances(a.out, 20, 4),
        "theory": lambda: theory(a.requests, a.seeds),
        "throughput": lambda: throughput(a.requests),
        "scenarios": lambda: scenarios(a.requests, a.seeds, a.load),
        "regimes": lambda: regimes(shipped, PICTURES / "moe-ppo-gate.png"),
    }
    result = jobs[a.what]()
    write_json(RESULTS / f"{a.what}.json", result)
    if a.what == "scenarios":
        write_scenarios(result)
    if a.what == "compare":
        picture(result, PICTURES / "moe-ppo.png")
        print(table(result["loads"]))
    print(f"wrote {RESULTS / a.what}.json, {(time.process_time() - begun) / 60:.1f} processor minutes")


if __name__ == "__main__":
    main()

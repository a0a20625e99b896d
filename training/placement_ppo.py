"""Multi-agent PPO for placement: one agent for each provider, shared weights, a gated mixture as actor.

One file, after the manner of single-file reinforcement learning: traffic, actor, branched returns and clipped
updates (Schulman et al., "Proximal policy optimization", 2017) stand below one another. Each provider's agent
acts on what that provider may know; all share the team's reward, the utility of each answered request.

What an action is worth is found by branching: at some decisions the simulator is copied once for each action,
and every copy follows the present policy through the same further requests, channels and faults (the "vine" of
Schulman et al., "Trust region policy optimization", 2015, with common random numbers). Differences between the
copies are due to the action alone, so that a delay caused to somebody else twenty requests later is seen through
the noise of the traffic. With the worth of all actions known, the clipped objective is summed over the actions
instead of sampled. Branching is possible because training owns the simulator; the policy never sees the future.

The environment is the batch form of the simulator (`moe_pipeline.edge.simulation_batch`): many runs advanced
together, one decision of each at a time. States, reward and architecture are the project's own design; the
paper it follows in idea (arXiv 2405.12472) publishes none of them.

    python -m training.placement_ppo --minutes 1.5 --out out/moe-ppo --experts 4 --seed 0
"""

from __future__ import annotations

import argparse
import csv
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from moe_pipeline.edge.learned_policy import ADVANTAGE, gate_input
from moe_pipeline.edge.profiles import load_profiles
from moe_pipeline.edge.simulation import deployment_of
from moe_pipeline.edge.simulation_batch import CONTEXT, FEATURES, Array, Index, Ledger, Observation
from moe_pipeline.edge.simulation_channel import Channel
from moe_pipeline.edge.simulation_model import Deployment
from moe_pipeline.edge.simulation_traffic import channel_for, draw_traffic

MAIN_SCENARIO = "object-transfer"
OTHER_SCENARIOS = (
    "vehicle-convoy",
    "campus-mec",
    "stadium-crowd",
    "phone-cloud",
    "rural-satellite",
    "xr-room",
)
TRAINING_SEEDS = 1_000_000  # seeds of training traffic start here; the study's held-out seeds lie below


@dataclass(frozen=True)
class Settings:
    """Everything a run depends on besides the seed."""

    minutes: float = 1.5  # of processor time
    experts: int = 4  # 1: PPO without mixture
    hidden: int = 16
    gate_hidden: int = 24
    sharpness: float = 12.0  # weight of the greedy estimate at the start; experts: 0.6 to 1.6 times that
    runs: int = 96  # advanced together, each with a traffic and a load of its own
    rollout: int = 64  # requests of each run between updates
    segments: int = 2  # rollouts of one traffic before a new one is drawn
    every: int = 4  # requests from one branched decision to the next
    branched: int = 24  # runs that are branched there
    horizon: int = 24  # requests that a branch is followed
    explored: float = 0.01  # actions less probable than that are not branched
    loads: tuple[float, float] = (0.3, 1.05)  # offered loads, spread evenly over the runs
    main_share: float = 0.8  # share of traffics that come from the main scenario
    gamma: float = 0.98
    clip: float = 0.2
    epochs: int = 4
    minibatch: int = 128
    lr: float = 4e-3
    entropy: float = 0.003
    balance: float = 0.01  # weight of the gate's load balance
    floor: float = 0.1  # utility; advantages are scaled to about 1 where they differ by more than that
    max_norm: float = 0.5


class Actor(nn.Module):
    """The mixture that `learned_policy.LearnedPolicy` runs; same names, same shapes."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.width = settings.hidden
        m, h, g, width = settings.experts, settings.hidden, settings.gate_hidden, FEATURES + CONTEXT
        self.w1 = nn.Parameter(torch.randn(m, width, h) * (2 / width) ** 0.5)  # rows: features, then context
        self.b1 = nn.Parameter(torch.zeros(m, h))
        self.w2 = nn.Parameter(torch.randn(m, h, h) * (2 / h) ** 0.5)
        self.b2 = nn.Parameter(torch.zeros(m, h))
        self.w3 = nn.Parameter(torch.randn(m, h) * 0.01 / h**0.5)
        # experts that trust the greedy estimate more and less: the gate may choose how much to explore
        spread = torch.linspace(0.6, 1.6, m) if m > 1 else torch.ones(1)
        self.beta = nn.Parameter(settings.sharpness * spread)
        self.gate_w1 = nn.Parameter(torch.randn(width, g) / width**0.5)
        self.gate_b1 = nn.Parameter(torch.zeros(g))
        self.gate_w2 = nn.Parameter(torch.randn(g, m) * 0.1 / g**0.5)
        self.gate_b2 = nn.Parameter(torch.zeros(m))

    def forward(
        self, features: Tensor, context: Tensor, pooled: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Log-probabilities (B, O) and gate (B, M) of features (B, O, F), context (B, C), pooled (B, C + F)."""
        batch, options, _ = features.shape
        # the context is the same for all options of a request: multiply it once, (M, B, 1, H)
        common = (context @ self.w1[:, FEATURES:] + self.b1[:, None])[:, :, None]
        own = (features.reshape(1, batch * options, -1) @ self.w1[:, :FEATURES]).view(
            -1, batch, options, self.width
        )
        hidden = torch.relu(own + common).view(-1, batch * options, self.width)
        hidden = torch.relu(hidden @ self.w2 + self.b2[:, None])
        score = (hidden @ self.w3[..., None]).squeeze(-1).view(-1, batch, options)
        score = score + self.beta[:, None, None] * features[None, :, :, ADVANTAGE]
        score = score.masked_fill(~mask[None], -1e9)
        gate = torch.softmax(
            torch.tanh(pooled @ self.gate_w1 + self.gate_b1) @ self.gate_w2 + self.gate_b2, dim=1
        )
        mixed = torch.einsum("bm,mbo->bo", gate, torch.softmax(score, dim=2))
        return torch.log(mixed.clamp_min(1e-9)), gate


@dataclass
class Sight:
    """One observation as tensors: (B, O, F), (B, C), (B, C + F), (B, O)."""

    features: Tensor
    context: Tensor
    pooled: Tensor
    mask: Tensor

    def __getitem__(self, rows: Index | Tensor) -> Sight:
        return Sight(self.features[rows], self.context[rows], self.pooled[rows], self.mask[rows])

    @staticmethod
    def joined(sights: list[Sight]) -> Sight:
        """One batch of several."""
        names = ("features", "context", "pooled", "mask")
        return Sight(*(torch.cat([getattr(s, name) for s in sights]) for name in names))


def sight(seen: Observation) -> Sight:
    """Tensors of an observation."""
    assert seen.features is not None and seen.context is not None
    pooled = gate_input(seen.features, seen.context, seen.mask)
    features, context, pooled_t = (
        torch.from_numpy(a.astype(np.float32)) for a in (seen.features, seen.context, pooled)
    )
    return Sight(features, context, pooled_t, torch.from_numpy(seen.mask))


def decide(actor: Actor, ledger: Ledger, request: int, t: Array) -> tuple[Sight, Tensor]:
    """Observation and log-probabilities (B, O) at t; the ledger is advanced to it."""
    ledger.advance(t)
    look = sight(ledger.observe(request, t, features=True))
    log_pi, _ = actor(look.features, look.context, look.pooled, look.mask)
    return look, log_pi


class World:
    """Draws training traffic: a scenario, a load for each copy, a channel from a small pool."""

    def __init__(self, settings: Settings, seed: int) -> None:
        self.settings, self.rng = settings, np.random.default_rng(seed)
        library = load_profiles()
        self.deployments = {name: deployment_of(name, library) for name in (MAIN_SCENARIO, *OTHER_SCENARIOS)}
        self.pool: dict[tuple[str, int], Channel] = {}
        self.next_seed = TRAINING_SEEDS * (1 + seed)

    def draw(self) -> Ledger:
        """A ledger of fresh runs, long enough for all segments and the branches of the last one."""
        settings = self.settings
        main = self.rng.random() < settings.main_share
        name = MAIN_SCENARIO if main else str(self.rng.choice(OTHER_SCENARIOS))
        deployment = self.deployments[name]
        count, (low, high) = settings.runs, settings.loads
        loads = low + (high - low) * (np.arange(count) + self.rng.random(count)) / count
        seeds = range(self.next_seed, self.next_seed + count)
        self.next_seed += count
        length = settings.rollout * settings.segments + settings.horizon + 1
        traffic = draw_traffic(deployment, length, seeds, rate_per_s=list(loads * deployment.capacity_per_s))
        return Ledger(deployment, self._channel(name, deployment), traffic)

    def _channel(self, name: str, deployment: Deployment) -> Channel:
        key = (name, int(self.rng.integers(4 if name == MAIN_SCENARIO else 2)))
        if key not in self.pool:
            self.pool[key] = channel_for(deployment, TRAINING_SEEDS + key[1])
        return self.pool[key]


@dataclass
class Batch:
    """The branched decisions of a rollout, N of them, and how the rollout went."""

    sight: Sight
    log_pi: Tensor  # (N, O) when they were made
    advantage: Tensor  # (N, O), 0 where an action was not branched
    reward: float  # mean utility of all requests of the rollout
    missed: float


@torch.no_grad()
def collect(
    ledger: Ledger,
    start: int,
    actor: Actor,
    settings: Settings,
    generator: torch.Generator,
    rng: np.random.Generator,
) -> Batch:
    """Follows the policy for `rollout` requests of every run and branches some of the decisions."""
    sights, log_pis, advantages = [], [], []
    reward = missed = 0.0
    for request in range(start, start + settings.rollout):
        t = ledger.arrival(request)
        look, log_pi = decide(actor, ledger, request, t)
        action = torch.multinomial(log_pi.exp(), 1, generator=generator).squeeze(1)
        if (request - start) % settings.every == settings.every - 1:
            rows = rng.choice(ledger.batch, min(settings.branched, ledger.batch), replace=False)
            sights.append(look[rows])
            log_pis.append(log_pi[rows])
            advantages.append(branch(ledger, request, rows, log_pi[rows], look.mask[rows], actor, settings))
        outcome = ledger.commit(request, action.numpy(), t)
        reward += float(outcome.utility.mean())
        missed += float(outcome.missed.mean())
    n = settings.rollout
    return Batch(Sight.joined(sights), torch.cat(log_pis), torch.cat(advantages), reward / n, missed / n)


def branch(
    ledger: Ledger, request: int, rows: Index, log_pi: Tensor, mask: Tensor, actor: Actor, settings: Settings
) -> Tensor:
    """(R, O) scaled advantages of the actions in runs `rows` of the ledger, by following each of them.

    Every branch meets the same future; its decisions are the policy's most probable ones, as they are at run
    time. Sums of utilities are discounted, since what comes late is mostly chance.
    """
    tried = ((log_pi.exp() > settings.explored) & mask).numpy()
    which, action = np.nonzero(tried)
    source = rows[which]
    tree = ledger.branch(source)
    total = tree.commit(request, action, tree.arrival(request)).utility
    weight = 1.0
    for later in range(request + 1, request + 1 + settings.horizon):
        t = tree.arrival(later)
        _, following = decide(actor, tree, later, t)
        weight *= settings.gamma
        total = total + weight * tree.commit(later, following.argmax(dim=1).numpy(), t).utility
    worth = np.zeros(tried.shape)
    worth[which, action] = total
    share = np.exp(log_pi.numpy()) * tried
    share /= share.sum(axis=1, keepdims=True)
    gain = np.where(tried, worth - (share * worth).sum(axis=1, keepdims=True), 0.0)
    spread = np.sqrt((share * gain**2).sum(axis=1, keepdims=True))
    # A quiet hour teaches by hundredths of a utility, a crowded one by whole ones: both shall count.
    return torch.from_numpy((gain / (settings.floor + spread)).astype(np.float32))


def update(
    actor: Actor,
    optimiser: torch.optim.Optimizer,
    batch: Batch,
    settings: Settings,
    entropy_weight: float,
    generator: torch.Generator,
) -> dict[str, float]:
    """Clipped objective over all branched actions, entropy, and the gate's balance."""
    totals = {"policy_loss": 0.0, "entropy": 0.0, "kl": 0.0}
    count = 0
    for _ in range(settings.epochs):
        for rows in torch.randperm(len(batch.advantage), generator=generator).split(settings.minibatch):
            look, old, gain = batch.sight[rows], batch.log_pi[rows], batch.advantage[rows]
            log_pi, gate = actor(look.features, look.context, look.pooled, look.mask)
            change = torch.where(look.mask, log_pi - old, 0.0).clamp(-10, 10)
            ratio = change.exp()
            clipped = ratio.clamp(1 - settings.clip, 1 + settings.clip)
            policy_loss = -(old.exp() * torch.min(ratio * gain, clipped * gain)).sum(dim=1).mean()
            entropy = -(log_pi.exp() * log_pi).sum(dim=1).mean()
            importance = gate.mean(dim=0)
            spread = importance.var(unbiased=False) / importance.mean().square()
            loss = policy_loss - entropy_weight * entropy + settings.balance * spread
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(actor.parameters(), settings.max_norm)
            optimiser.step()
            totals["policy_loss"] += float(policy_loss.detach())
            totals["entropy"] += float(entropy.detach())
            totals["kl"] += float(-(old.exp() * change.detach()).sum(dim=1).mean())
            count += 1
    return {name: value / count for name, value in totals.items()}


def train(settings: Settings, seed: int, out: Path, name: str = "policy") -> Path:
    """Trains for `settings.minutes` of processor time; writes NAME.safetensors and NAME.csv into `out`."""
    torch.manual_seed(seed)
    generator, rng = torch.Generator().manual_seed(seed), np.random.default_rng([seed, 1])
    actor, world = Actor(settings), World(settings, seed)
    optimiser = torch.optim.Adam(actor.parameters(), lr=settings.lr, eps=1e-5)
    out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, float | str]] = []
    ledger, segment = world.draw(), 0
    begun, decisions, spent, budget = time.process_time(), 0, 0.0, settings.minutes * 60.0
    while not rows or spent < budget:
        share = spent / budget
        for group in optimiser.param_groups:
            group["lr"] = settings.lr * (1 - share)
        if segment == settings.segments:
            ledger, segment = world.draw(), 0
        batch = collect(ledger, segment * settings.rollout, actor, settings, generator, rng)
        segment += 1
        figures = update(actor, optimiser, batch, settings, settings.entropy * (1 - share), generator)
        decisions += settings.rollout * ledger.batch
        rows.append(
            {
                "cpu_minutes": round(spent / 60, 4),
                "decisions": decisions,
                "scenario": ledger.d.id,
                "reward": batch.reward,
                "miss_share": batch.missed,
                **figures,
            }
        )
        spent = time.process_time() - begun
        if len(rows) % 10 == 0:
            own = [float(r["reward"]) for r in rows[-30:] if r["scenario"] == MAIN_SCENARIO]
            print(
                f"{name} {spent / 60:.2f} min  {decisions} decisions  reward {np.mean(own):.4f} "
                f"entropy {figures['entropy']:.3f} kl {figures['kl']:.4f}",
                flush=True,
            )
    write(actor, rows, out, name, {"seed": seed, "decisions": decisions, **asdict(settings)})
    return out / f"{name}.safetensors"


def write(
    actor: Actor, rows: list[dict[str, float | str]], out: Path, name: str, facts: dict[str, object]
) -> None:
    """The course of training as CSV, the weights as safetensors with what they were trained with."""
    with (out / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    path = out / f"{name}.safetensors"
    tensors = {key: value.detach().contiguous() for key, value in actor.state_dict().items()}
    save_file(tensors, path, metadata={key: str(value) for key, value in facts.items()})
    path.chmod(0o644)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--minutes", type=float, default=Settings.minutes, help="processor minutes of each run"
    )
    parser.add_argument("--experts", type=int, default=Settings.experts, help="1: PPO without mixture")
    parser.add_argument("--hidden", type=int, default=Settings.hidden)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", default="policy")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    settings = Settings(minutes=arguments.minutes, experts=arguments.experts, hidden=arguments.hidden)
    path = train(settings, arguments.seed, arguments.out, arguments.name)
    print(f"wrote {path} ({path.stat().st_size / 1e3:.0f} kB)")


if __name__ == "__main__":
    main()

"""Multi-agent PPO for placement: one agent for each provider, shared weights, a gated mixture as actor.

One file, after the manner of single-file reinforcement learning: environment copies, actor, critic, generalised
advantages (Schulman et al., 2016) and clipped updates (Schulman et al., 2017) stand below one another. Each
provider's agent acts on what that provider may know; the critic, used in training only, also sees the true
queues. All agents share the team's reward: the utility of each answered request.

The environment is the batch form of the simulator (`moe_pipeline.edge.simulation_batch`): many runs advanced
together, one decision of each at a time. States, reward and architecture are the project's own design; the
paper it follows in idea (arXiv 2405.12472) publishes none of them.

    python -m training.placement_ppo --minutes 1.5 --out out/moe-ppo --experts 4 --seed 0
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from moe_pipeline.edge.learned_policy import ADVANTAGE, gate_input
from moe_pipeline.edge.profiles import load_profiles
from moe_pipeline.edge.simulation import deployment_of
from moe_pipeline.edge.simulation_batch import CONTEXT, FEATURES, Ledger, Observation
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

    minutes: float = 0.3  # of processor time
    experts: int = 4  # 1: PPO without mixture
    hidden: int = 16
    gate_hidden: int = 24
    traffics: int = 12  # different traffics at a time
    copies: int = 8  # runs of each traffic; their mean is a baseline that knows the traffic
    rollout: int = 64  # decisions of each run between updates
    segments: int = 3  # rollouts of one traffic before a new one is drawn
    loads: tuple[float, float] = (0.3, 1.05)  # offered loads, drawn for each copy
    main_share: float = 0.7  # share of traffics that come from the main scenario
    gamma: float = 0.95
    lam: float = 0.9
    clip: float = 0.2
    epochs: int = 3
    minibatch: int = 2048
    lr: float = 4e-3
    entropy: float = 0.01
    balance: float = 0.01  # weight of the gate's load balance
    value_weight: float = 0.5
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
        self.beta = nn.Parameter(torch.full((m,), 10.0))
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


class Critic(nn.Module):
    """Value of the team from the pooled observation and the true waits, (B, C + 2 F + 4) -> (B,)."""

    WIDTH = CONTEXT + 2 * FEATURES + 4

    def __init__(self, hidden: int = 96) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(self.WIDTH, hidden),
            nn.Tanh(),
            nn.Linear(hidden, hidden),
            nn.Tanh(),
            nn.Linear(hidden, 1),
        )

    def forward(self, state: Tensor) -> Tensor:
        return 5.0 * self.net(state).squeeze(-1)


@dataclass
class Sight:
    """One observation as tensors."""

    features: Tensor
    context: Tensor
    pooled: Tensor
    mask: Tensor
    state: Tensor  # the critic's


def sight(ledger: Ledger, seen: Observation, request: int, t: np.ndarray) -> Sight:
    """Tensors of an observation, and the critic's view with the true queues."""
    assert seen.features is not None and seen.context is not None
    d = ledger.d
    pooled = gate_input(seen.features, seen.context, seen.mask)
    true_wait = np.maximum(ledger.booked(request)[:, :-1] - t[:, None], 0.0) / d.deadline_s
    down = (ledger.dead_until(t) > 0).mean(axis=1)
    best = np.where(seen.mask[..., None], seen.features, -5.0).max(axis=1)
    truth = np.stack([true_wait.mean(axis=1), true_wait.min(axis=1), true_wait.max(axis=1), down], axis=1)
    state = np.concatenate([pooled, best, np.minimum(truth, 5.0)], axis=1)
    arrays = (seen.features, seen.context, pooled, state)
    features, context, pooled_t, state_t = (torch.from_numpy(a.astype(np.float32)) for a in arrays)
    return Sight(features, context, pooled_t, torch.from_numpy(seen.mask), state_t)


class World:
    """Draws training traffic: a scenario, a load for each copy, a channel from a small pool."""

    def __init__(self, settings: Settings, seed: int) -> None:
        self.settings, self.rng = settings, np.random.default_rng(seed)
        library = load_profiles()
        self.deployments = {name: deployment_of(name, library) for name in (MAIN_SCENARIO, *OTHER_SCENARIOS)}
        self.pool: dict[tuple[str, int], Channel] = {}
        self.next_seed = TRAINING_SEEDS * (1 + seed)

    def draw(self) -> Ledger:
        """A ledger of fresh runs, long enough for all segments and one more observation."""
        main = self.rng.random() < self.settings.main_share
        name = MAIN_SCENARIO if main else str(self.rng.choice(OTHER_SCENARIOS))
        deployment = self.deployments[name]
        count, (low, high) = self.settings.traffics, self.settings.loads
        loads = low + (high - low) * (np.arange(count) + self.rng.random(count)) / count
        rates = loads * deployment.capacity_per_s
        seeds = range(self.next_seed, self.next_seed + count)
        self.next_seed += count
        length = self.settings.rollout * self.settings.segments + 1
        traffic = draw_traffic(deployment, length, seeds, rate_per_s=list(rates))
        ledger = Ledger(deployment, self._channel(name, deployment), traffic)
        return ledger.branch(np.repeat(np.arange(count), self.settings.copies))

    def _channel(self, name: str, deployment: Deployment) -> Channel:
        key = (name, int(self.rng.integers(4 if name == MAIN_SCENARIO else 2)))
        if key not in self.pool:
            self.pool[key] = channel_for(deployment, TRAINING_SEEDS + key[1])
        return self.pool[key]


@dataclass
class Batch:
    """One rollout, (T, B, ...)."""

    sights: list[Sight]
    action: Tensor
    log_prob: Tensor
    reward: Tensor
    target: Tensor  # of the critic
    advantage: Tensor
    latency: float
    missed: float


@torch.no_grad()
def collect(
    ledger: Ledger, start: int, actor: Actor, critic: Critic, settings: Settings, generator: torch.Generator
) -> Batch:
    """Follows the policy for `rollout` requests of every run; advantages by GAE over successive decisions."""
    sights, actions, log_probs, rewards, values = [], [], [], [], []
    latency = missed = 0.0
    for request in range(start, start + settings.rollout):
        t = ledger.arrival(request)
        ledger.advance(t)
        look = sight(ledger, ledger.observe(request, t, features=True), request, t)
        log_pi, _ = actor(look.features, look.context, look.pooled, look.mask)
        action = torch.multinomial(log_pi.exp(), 1, generator=generator).squeeze(1)
        outcome = ledger.commit(request, action.numpy(), t)
        sights.append(look)
        actions.append(action)
        log_probs.append(log_pi.gather(1, action[:, None]).squeeze(1))
        rewards.append(torch.from_numpy(outcome.utility.astype(np.float32)))
        values.append(critic(look.state))
        latency += float((outcome.latency / ledger.d.deadline_s).mean())
        missed += float(outcome.missed.mean())
    request = start + settings.rollout
    t = ledger.arrival(request)
    look = sight(ledger, ledger.observe(request, np.maximum(t, ledger.last_t), features=True), request, t)
    following = critic(look.state)
    advantages = [torch.zeros(0)] * settings.rollout
    running = torch.zeros_like(following)
    for step in reversed(range(settings.rollout)):
        delta = rewards[step] + settings.gamma * following - values[step]
        running = delta + settings.gamma * settings.lam * running
        advantages[step], following = running, values[step]
    n = settings.rollout
    gain = torch.stack(advantages)  # (T, B)
    target = gain + torch.stack(values)
    # Runs of the same traffic meet the same future: what they gain on average is luck, not merit.
    groups = gain.view(n, -1, settings.copies)
    gain = (groups - groups.mean(dim=2, keepdim=True)).reshape(n, -1)
    return Batch(
        sights,
        torch.stack(actions),
        torch.stack(log_probs),
        torch.stack(rewards),
        target,
        gain,
        latency / n,
        missed / n,
    )


def minibatches(
    batch: Batch, size: int, generator: torch.Generator
) -> Iterator[tuple[Sight, dict[str, Tensor]]]:
    """Shuffled pieces of a rollout, flattened over time and runs."""
    joined = Sight(
        *(
            torch.cat([getattr(s, name) for s in batch.sights])
            for name in ("features", "context", "pooled", "mask", "state")
        )
    )
    flat = {name: getattr(batch, name).reshape(-1) for name in ("action", "log_prob", "target", "advantage")}
    for rows in torch.randperm(len(flat["action"]), generator=generator).split(size):
        piece = Sight(
            joined.features[rows],
            joined.context[rows],
            joined.pooled[rows],
            joined.mask[rows],
            joined.state[rows],
        )
        yield piece, {name: values[rows] for name, values in flat.items()}


def update(
    actor: Actor,
    critic: Critic,
    optimiser: torch.optim.Optimizer,
    batch: Batch,
    settings: Settings,
    entropy_weight: float,
    generator: torch.Generator,
) -> dict[str, float]:
    """Clipped policy loss, value loss, entropy, and the gate's balance (squared coefficient of variation)."""
    totals: dict[str, float] = {"policy_loss": 0.0, "value_loss": 0.0, "entropy": 0.0, "kl": 0.0}
    count = 0
    for _ in range(settings.epochs):
        for look, target in minibatches(batch, settings.minibatch, generator):
            log_pi, gate = actor(look.features, look.context, look.pooled, look.mask)
            new = log_pi.gather(1, target["action"][:, None]).squeeze(1)
            ratio = (new - target["log_prob"]).exp()
            gain = target["advantage"]
            gain = (gain - gain.mean()) / (gain.std() + 1e-6)
            clipped = ratio.clamp(1 - settings.clip, 1 + settings.clip)
            policy_loss = -torch.min(ratio * gain, clipped * gain).mean()
            value_loss = 0.5 * (critic(look.state) - target["target"]).square().mean()
            entropy = -(log_pi.exp() * log_pi).sum(dim=1).mean()
            importance = gate.mean(dim=0)
            spread = importance.var(unbiased=False) / importance.mean().square()
            loss = (
                policy_loss
                + settings.value_weight * value_loss
                - entropy_weight * entropy
                + settings.balance * spread
            )
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(actor.parameters(), settings.max_norm)
            nn.utils.clip_grad_norm_(critic.parameters(), settings.max_norm)
            optimiser.step()
            kl = float((target["log_prob"] - new.detach()).mean())
            for name, value in (
                ("policy_loss", policy_loss),
                ("value_loss", value_loss),
                ("entropy", entropy),
            ):
                totals[name] += float(value.detach())
            totals["kl"] += kl
            count += 1
    return {name: value / count for name, value in totals.items()}


def train(settings: Settings, seed: int, out: Path, name: str = "policy") -> Path:
    """Trains for `settings.minutes` of processor time; writes NAME.safetensors and NAME.csv into `out`."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    actor, critic, world = Actor(settings), Critic(), World(settings, seed)
    parameters = [*actor.parameters(), *critic.parameters()]
    optimiser = torch.optim.Adam(parameters, lr=settings.lr, eps=1e-5)
    out.mkdir(parents=True, exist_ok=True)
    begun, decisions, budget = time.process_time(), 0, settings.minutes * 60.0
    rows: list[dict[str, float | str]] = []
    ledger, segment = world.draw(), 0
    while (spent := time.process_time() - begun) < budget:
        share = spent / budget
        for group in optimiser.param_groups:
            group["lr"] = settings.lr * (1 - share)
        if segment == settings.segments:
            ledger, segment = world.draw(), 0
        batch = collect(ledger, segment * settings.rollout, actor, critic, settings, generator)
        segment += 1
        figures = update(actor, critic, optimiser, batch, settings, settings.entropy * (1 - share), generator)
        decisions += batch.reward.numel()
        rows.append(
            {
                "cpu_minutes": round(spent / 60, 4),
                "decisions": decisions,
                "scenario": ledger.d.id,
                "reward": float(batch.reward.mean()),
                "miss_share": batch.missed,
                **figures,
            }
        )
        if len(rows) % 10 == 0:
            own = [float(r["reward"]) for r in rows[-30:] if r["scenario"] == MAIN_SCENARIO]
            print(
                f"{name} {spent / 60:.2f} min  {decisions} decisions  reward {np.mean(own):.4f} "
                f"entropy {figures['entropy']:.3f} kl {figures['kl']:.4f} value {figures['value_loss']:.3f}",
                flush=True,
            )
    with (out / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    path = out / f"{name}.safetensors"
    facts = {"seed": seed, "decisions": decisions, **asdict(settings)}
    tensors = {key: value.detach().contiguous() for key, value in actor.state_dict().items()}
    save_file(tensors, path, metadata={key: str(value) for key, value in facts.items()})
    path.chmod(0o644)
    return path


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

"""The multi-agent environment and the learned policy."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from pettingzoo.test import parallel_api_test

from moe_pipeline.edge.environment import PlacementEnv
from moe_pipeline.edge.learned_policy import LearnedPolicy, shipped_policy
from moe_pipeline.edge.policies import make_policy
from moe_pipeline.edge.profiles import load_profiles
from moe_pipeline.edge.simulation import deployment_of, offered_rate, run_policy
from moe_pipeline.edge.simulation_batch import Ledger
from moe_pipeline.edge.simulation_traffic import channel_for, draw_traffic
from moe_pipeline.schema.errors import MoEverseError


@pytest.fixture(scope="module")
def env() -> PlacementEnv:
    return PlacementEnv("object-transfer", requests=30, load=0.9)


def play(env: PlacementEnv, seed: int, chooser: np.random.Generator) -> tuple[dict[str, float], int]:
    """One episode of random legal actions: summed rewards and rounds."""
    observations, _ = env.reset(seed=seed)
    total, rounds = dict.fromkeys(env.possible_agents, 0.0), 0
    while env.agents:
        actions = {
            agent: int(chooser.choice(np.flatnonzero(observations[agent]["action_mask"])))
            for agent in env.agents
        }
        observations, rewards, _, _, _ = env.step(actions)
        for agent, reward in rewards.items():
            total[agent] += reward
        rounds += 1
    return total, rounds


def test_it_passes_the_parallel_api_test(env: PlacementEnv) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the test warns about what it does not like
        parallel_api_test(env, num_cycles=60)


def test_there_is_one_agent_for_each_provider_of_the_scenario(env: PlacementEnv) -> None:
    scenario = load_profiles().scenario("object-transfer")
    providers = {n.provider for n in scenario.nodes if n.hosts_experts} - {"cloud"}
    assert set(env.possible_agents) == providers and len(providers) == 4


def test_an_episode_ends_with_every_request_and_repeats_from_its_seed(env: PlacementEnv) -> None:
    first = play(env, 5, np.random.default_rng(0))
    assert not np.isnan(env.simulation.latency).any()
    assert first == play(env, 5, np.random.default_rng(0))
    assert first != play(env, 6, np.random.default_rng(0))


def test_rewards_are_the_utilities_of_the_answered_requests(env: PlacementEnv) -> None:
    for team in (0.0, 0.5, 1.0):
        env.team = team
        total, _ = play(env, 7, np.random.default_rng(1))
        log = env.simulation.log()
        own = [log.utility[log.home == h].sum() for h in range(4)]
        expected = [(1 - team) * value + team * np.mean(own) for value in own]
        assert list(total.values()) == pytest.approx(expected)
    env.team = 0.5


def test_actions_outside_of_the_mask_are_refused(env: PlacementEnv) -> None:
    observations, infos = env.reset(seed=1)
    waiting = len(env.deployment.options)
    actions = {a: int(np.flatnonzero(o["action_mask"])[0]) for a, o in observations.items()}
    asked = next(agent for agent in env.agents if infos[agent]["undecided"])
    idle = next(agent for agent in env.agents if not infos[agent]["undecided"])
    for agent, wrong in ((asked, waiting), (idle, 0), (asked, waiting + 1)):
        with pytest.raises(MoEverseError) as refusal:
            env.step({**actions, agent: wrong})
        assert refusal.value.code == "illegal_action"


def test_the_state_shows_queues_that_observations_do_not(env: PlacementEnv) -> None:
    env.reset(seed=3)
    before = env.state()
    agent = next(iter(env._asked))
    env.step({a: 0 if a == agent else len(env.deployment.options) for a in env.agents})
    assert env.state().shape == before.shape and env.state()[0] > 0


# ── the learned policy ──────────────────────────────────────────────────────────────────────────────────
def test_the_shipped_policy_is_small_and_holds_a_mixture() -> None:
    assert shipped_policy().stat().st_size < 1_000_000
    assert LearnedPolicy.load(shipped_policy()).experts >= 2


def test_its_choice_does_not_depend_on_the_order_of_the_options() -> None:
    deployment = deployment_of("object-transfer", load_profiles())
    traffic = draw_traffic(deployment, 5, [1, 2, 3])
    ledger = Ledger(deployment, channel_for(deployment, 1), traffic)
    t = ledger.arrival(0)
    ledger.advance(t)
    seen = ledger.observe(0, t, features=True)
    assert seen.features is not None
    policy = LearnedPolicy.load(shipped_policy())
    turned = np.random.default_rng(0).permutation(len(deployment.options))
    other = type(seen)(
        seen.mask[:, turned],
        seen.latency[:, turned],
        seen.wait[:, turned],
        seen.energy[:, turned],
        seen.utility[:, turned],
        seen.features[:, turned],
        seen.context,
    )
    np.testing.assert_allclose(policy.probabilities(other), policy.probabilities(seen)[:, turned], atol=1e-12)
    np.testing.assert_allclose(policy.probabilities(seen).sum(axis=1), 1.0)
    np.testing.assert_allclose(policy.gate(seen).sum(axis=1), 1.0)


def test_dead_hosts_are_never_chosen() -> None:
    deployment = deployment_of("object-transfer", load_profiles())
    traffic = draw_traffic(deployment, 3, [4])
    ledger = Ledger(deployment, channel_for(deployment, 1), traffic)
    t = ledger.arrival(0)
    ledger.advance(t)
    ledger.reported_down[:, :4] = True
    home = int(traffic.home[0, 0])
    policy = LearnedPolicy.load(shipped_policy())
    probabilities = policy.probabilities(ledger.observe(0, t, features=True))[0]
    for option in range(len(deployment.options)):
        station = int(deployment.primary[option])
        if station < 4 and deployment.providers[station] != deployment.homes[home]:
            assert probabilities[option] < 1e-12


def test_training_and_run_time_compute_the_same_probabilities() -> None:
    import torch

    from training.placement_ppo import Actor, Settings, sight

    torch.manual_seed(1)
    actor = Actor(Settings())
    with torch.no_grad():
        for parameter in actor.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    deployment = deployment_of("vehicle-convoy", load_profiles())
    traffic = draw_traffic(deployment, 5, [1, 2, 3, 4])
    ledger = Ledger(deployment, channel_for(deployment, 1), traffic)
    t = ledger.arrival(0)
    ledger.advance(t)
    seen = ledger.observe(0, t, features=True)
    look = sight(seen)
    with torch.no_grad():
        log_pi, gate = actor(look.features, look.context, look.pooled, look.mask)
    policy = LearnedPolicy(
        {name: value.detach().double().numpy() for name, value in actor.state_dict().items()}
    )
    np.testing.assert_allclose(policy.probabilities(seen), log_pi.exp().numpy(), atol=2e-5)
    np.testing.assert_allclose(policy.gate(seen), gate.numpy(), atol=2e-5)


def test_the_shipped_policy_gains_on_greedy_in_three_held_out_runs_under_heavy_load() -> None:
    deployment = deployment_of("object-transfer", load_profiles())
    gains = []
    for seed in (500_100, 500_101, 500_102):
        rate = offered_rate(deployment, 0.9)
        traffic = draw_traffic(deployment, 150, [seed], rate_per_s=rate)
        channel = channel_for(deployment, seed)
        value = {
            name: run_policy(deployment, traffic, channel, make_policy(name, deployment))[0].utility.mean()
            for name in ("moe-ppo", "greedy")
        }
        gains.append(value["moe-ppo"] - value["greedy"])
    assert np.mean(gains) > 0.05 and min(gains) > 0


def test_a_branch_tells_what_an_action_does_to_later_requests() -> None:
    """An overloaded moment: where a late request goes matters to those behind it, and the branches show it."""
    import torch

    from training.placement_ppo import Actor, Settings, branch, decide

    torch.manual_seed(0)
    settings = Settings(horizon=12, explored=0.0)
    deployment = deployment_of("object-transfer", load_profiles())
    traffic = draw_traffic(deployment, 60, range(6), rate_per_s=1.5 * deployment.capacity_per_s, faults=False)
    ledger = Ledger(deployment, channel_for(deployment, 1), traffic)
    actor = Actor(settings)
    with torch.no_grad():
        for request in range(40):
            t = ledger.arrival(request)
            _, log_pi = decide(actor, ledger, request, t)
            ledger.commit(request, log_pi.argmax(dim=1).numpy(), t)
        look, log_pi = decide(actor, ledger, 40, ledger.arrival(40))
        free = ledger.free.copy()
        gain = branch(ledger, 40, np.arange(6), log_pi, look.mask, actor, settings)
    assert np.array_equal(ledger.free, free), "branches leave the run itself alone"
    share = log_pi.exp() * look.mask
    mean = (share / share.sum(dim=1, keepdim=True) * gain).sum(dim=1)
    assert torch.allclose(mean, torch.zeros(6), atol=1e-3), (
        "an advantage is relative to the policy's own mean"
    )
    assert bool((gain.abs().max(dim=1).values > 0.5).any()), "actions differ in what they cause"
    estimate = look.features[:, :, 15]  # value - best, what greedy goes by
    greedy = estimate.masked_fill(~look.mask, -9).argmax(dim=1)
    best = gain.masked_fill(~look.mask, -9).argmax(dim=1)
    assert not torch.equal(greedy, best), "under overload the greedy action is not always the best for all"


def test_a_few_minutes_of_training_move_the_policy_and_write_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from training import placement_ppo
    from training.placement_ppo import Settings, train

    monkeypatch.setattr(placement_ppo, "OTHER_SCENARIOS", ("phone-cloud",))

    settings = Settings(minutes=0.002, runs=8, rollout=16, branched=4, horizon=4)
    policy = LearnedPolicy.load(train(settings, 0, tmp_path))
    assert policy.experts == 4 and not np.allclose(policy.weights["beta"], 12 * np.linspace(0.6, 1.6, 4))
    assert (tmp_path / "policy.csv").read_text().startswith("cpu_minutes,decisions,scenario,reward")


@pytest.mark.parametrize("content", [None, b"", b"not safetensors at all"])
def test_a_missing_or_broken_policy_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "policy.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(MoEverseError) as refusal:
        LearnedPolicy.load(path)
    assert refusal.value.code == ("no_policy_file" if content is None else "bad_policy_file")


def test_a_policy_of_another_observation_is_refused(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    weights = load_file(shipped_policy())
    weights["w1"] = np.ascontiguousarray(weights["w1"][:, :-1])
    save_file(weights, tmp_path / "old.safetensors")
    with pytest.raises(MoEverseError) as refusal:
        LearnedPolicy.load(tmp_path / "old.safetensors")
    assert refusal.value.code == "bad_policy_file"

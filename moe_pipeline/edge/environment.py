"""Placement as a multi-agent game: a PettingZoo parallel environment over the event simulator.

One agent for each service provider. In every round each provider that holds an undecided request of one of its
users chooses where the result is made and how it is sent; the others wait. The round ends when the simulator
reaches the next undecided request. The scenario `object-transfer` is the one of "Optimizing Generative AI
Networking" (arXiv 2405.12472): an object generated on one provider and transferred to users under changing
channels. The paper publishes neither states nor actions nor rewards: those here are the project's own.

    from moe_pipeline.edge.environment import PlacementEnv
    env = PlacementEnv("object-transfer", requests=200)
    observations, infos = env.reset(seed=1)
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from pettingzoo import ParallelEnv

from moe_pipeline.edge.profiles import ProfileLibrary, load_profiles
from moe_pipeline.edge.simulation import Simulation, deployment_of, offered_rate
from moe_pipeline.edge.simulation_batch import CONTEXT, FEATURES
from moe_pipeline.edge.simulation_traffic import channel_for, draw_traffic
from moe_pipeline.schema.errors import MoEverseError
from moe_pipeline.schema.workload import StageWorkloads

Vector = npt.NDArray[np.float32]


class PlacementEnv(ParallelEnv):  # type: ignore[misc]
    """Providers that place their users' requests.

    Observation of an agent: `observation` (O * F + C,), the features of every option followed by the context
    (see `simulation_batch.Ledger.observe`), zeros when it has nothing to decide; `action_mask` (O + 1,).
    Actions: 0..O-1 an option, O wait (the only legal action of an agent without an undecided request).
    Reward of an agent: the utilities of its own users' requests that ended in this round, and those of all
    providers' requests, mixed by `team`.

    Args:
        scenario_id: a file in `edge_profiles/scenarios/`.
        requests: length of an episode.
        load: offered load as a share of the capacity; None: the scenario's rate.
        team: 0 every agent for itself, 1 only the common good.
        window_s: requests that arrive within so many seconds of the first one are decided in the same round.
    """

    metadata = {"name": "moeverse_placement_v0", "is_parallelizable": True, "render_modes": []}  # noqa: RUF012

    def __init__(
        self,
        scenario_id: str = "object-transfer",
        *,
        requests: int = 200,
        load: float | None = 0.7,
        team: float = 0.5,
        window_s: float = 0.1,
        workloads: StageWorkloads | None = None,
        profiles: ProfileLibrary | None = None,
    ) -> None:
        library = profiles if profiles is not None else load_profiles()
        self.deployment = deployment_of(scenario_id, library, workloads)
        self.requests, self.team, self.window_s = requests, team, window_s
        self.rate_per_s = offered_rate(self.deployment, load)
        self.render_mode = None
        self.max_cycles = 100 * requests
        self.possible_agents = list(self.deployment.homes)
        self.agents: list[str] = []
        options = len(self.deployment.options)
        low, high = np.float32(-np.inf), np.float32(np.inf)
        self._observation_spaces = {
            agent: spaces.Dict(
                {
                    "observation": spaces.Box(low, high, (options * FEATURES + CONTEXT,), np.float32),
                    "action_mask": spaces.Box(0, 1, (options + 1,), np.int8),
                }
            )
            for agent in self.possible_agents
        }
        self._action_spaces = {agent: spaces.Discrete(options + 1) for agent in self.possible_agents}
        self._seeds = np.random.default_rng()
        self._cycle = 0
        self._asked: dict[str, int] = {}

    # ── the parallel interface ──────────────────────────────────────────────────────────────────────────
    def observation_space(self, agent: str) -> spaces.Space[Any]:
        return self._observation_spaces[agent]

    def action_space(self, agent: str) -> spaces.Space[Any]:
        return self._action_spaces[agent]

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
        """A new episode; the seed fixes its traffic, channels and faults."""
        if seed is not None:
            self._seeds = np.random.default_rng(seed)
        episode = int(self._seeds.integers(2**31))
        traffic = draw_traffic(self.deployment, self.requests, [episode], rate_per_s=self.rate_per_s)
        self.simulation = Simulation(self.deployment, traffic, channel_for(self.deployment, episode))
        self.agents = list(self.possible_agents)
        self._cycle, self._scored = 0, np.zeros(self.requests, dtype=bool)
        self._next_round()
        return self._observations(), {agent: self._info(agent) for agent in self.agents}

    def step(
        self, actions: dict[str, int]
    ) -> tuple[
        dict[str, dict[str, Any]],
        dict[str, float],
        dict[str, bool],
        dict[str, bool],
        dict[str, dict[str, Any]],
    ]:
        """Takes the decisions of this round and goes on to the next.

        Raises:
            MoEverseError: `illegal_action` for an action outside of the agent's mask.
        """
        waiting = len(self.deployment.options)
        for agent in self.agents:
            action, request = int(actions[agent]), self._asked.get(agent)
            if (request is None) != (action == waiting) or not 0 <= action <= waiting:
                raise MoEverseError(
                    "illegal_action",
                    f"Agent '{agent}' may not take action {action} now.",
                    "Choose an action whose entry of action_mask is 1.",
                )
            if request is not None:
                self.simulation.pending.remove(request)
                self.simulation.decide(request, action)
        self._next_round()
        self._cycle += 1
        rewards = self._rewards()
        done = bool(self._scored.all())
        cut = self._cycle >= self.max_cycles and not done
        observations = self._observations()
        agents = self.agents
        terminations, truncations = dict.fromkeys(agents, done), dict.fromkeys(agents, cut)
        infos = {agent: self._info(agent) for agent in agents}
        if done or cut:
            self.agents = []
        return observations, rewards, terminations, truncations, infos

    def state(self) -> Vector:
        """The true state for a central critic: booked seconds, deaths and slowdowns of the stations."""
        ledger, now = self.simulation.ledger, np.array([self.simulation.env.now])
        wait = np.maximum(ledger.free - now, 0.0) / self.deployment.deadline_s
        parts = (wait[0], ledger.dead_until(now)[0] > 0, ledger.slowdown(now)[0])
        return np.concatenate(parts).astype(np.float32)

    def render(self) -> None:
        """Nothing is drawn; `simulate` writes plots of a run."""

    def close(self) -> None:
        """Nothing is held open."""

    # ── rounds ──────────────────────────────────────────────────────────────────────────────────────────
    def _next_round(self) -> None:
        """Runs the simulator to the next undecided request and `window_s` further, one request an agent."""
        simulation, homes = self.simulation, self.deployment.homes
        first = simulation.next_decision()
        self._asked = {}
        if first is None:
            return
        until = simulation.env.now + self.window_s
        while simulation.env.peek() <= until:
            simulation.env.step()
        for request in simulation.pending:
            self._asked.setdefault(homes[int(simulation.traffic.home[0, request])], request)

    def _observations(self) -> dict[str, dict[str, Any]]:
        options = len(self.deployment.options)
        now = np.array([self.simulation.env.now])
        self.simulation.ledger.advance(now)
        found = {}
        for agent in self.agents:
            vector = np.zeros(options * FEATURES + CONTEXT, dtype=np.float32)
            mask = np.zeros(options + 1, dtype=np.int8)
            request = self._asked.get(agent)
            if request is None:
                mask[options] = 1
            else:
                seen = self.simulation.ledger.observe(request, now, features=True)
                assert seen.features is not None and seen.context is not None
                vector[:] = np.concatenate([seen.features[0].ravel(), seen.context[0]])
                mask[:options] = seen.mask[0]
            found[agent] = {"observation": vector, "action_mask": mask}
        return found

    def _rewards(self) -> dict[str, float]:
        """Utilities of the requests that ended since the last round, own and team's mixed."""
        simulation, homes = self.simulation, self.deployment.homes
        ended = ~np.isnan(simulation.latency) & ~self._scored
        self._scored |= ended
        own = dict.fromkeys(homes, 0.0)
        if ended.any():
            utilities = simulation.log().utility
            for request in np.flatnonzero(ended):
                own[homes[int(simulation.traffic.home[0, request])]] += float(utilities[request])
        everybody = sum(own.values()) / len(own)
        return {agent: (1 - self.team) * own[agent] + self.team * everybody for agent in self.agents}

    def _info(self, agent: str) -> dict[str, Any]:
        return {
            "time_s": float(self.simulation.env.now),
            "undecided": agent in self._asked,
        }

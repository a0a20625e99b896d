"""The placement problem in integers: microseconds, microjoules, kilobytes.

One `Problem` is one execution shape at one scenario. A solution is an `Anchor` (the nodes of text, of
combining and sampling, and of decoding) and a node for each expert. `evaluate` is the only definition of
what a solution costs; the solver, the baselines, the brute force of the tests and the chart all use it.

    exchange_every_step:  L = B + S + max_d(C_d + delay_d) + combine + tail
    run_alone_merge_once: L = max_d(start_d + C_d + delay_d) + S + combine + tail
    hand_over_latents:    L = B + sum_i C_i + sum_i handover(d_i, d_i+1) + combine + tail

start_d is when node d has weights and conditioning, B = max_d start_d, C_d the compute of all its experts,
S the sum of the coordinator's messages (its link sends one after the other), delay_d the propagation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from moe_pipeline.schema.placement import Objective, Shape

IntMatrix = NDArray[np.int64]


@dataclass(frozen=True)
class Anchor:
    """Nodes of the stages that are not experts (indices), and what those stages cost."""

    text: int
    coordinator: int
    decoder: int
    text_compute_us: int = 0
    text_network_us: int = 0
    combine_us: int = 0
    tail_compute_us: int = 0  # decode and export
    tail_network_us: int = 0  # latents to the decoder, clip to the user
    compute_uj: int = 0
    radio_uj: int = 0
    memory_kb: tuple[tuple[int, int], ...] = ()  # (node, kilobytes) of text and decoder

    @property
    def fixed_us(self) -> int:
        """Latency that every assignment pays after its start."""
        return self.combine_us + self.tail_compute_us + self.tail_network_us

    @property
    def text_us(self) -> int:
        """When the conditioning leaves the text node."""
        return self.text_compute_us + self.text_network_us


@dataclass(frozen=True)
class Problem:
    """All costs of one shape. E experts, D nodes; matrices are int64."""

    shape: Shape
    experts: tuple[str, ...]
    nodes: tuple[str, ...]
    anchors: tuple[Anchor, ...]
    allowed: NDArray[np.bool_]  # (E, D)
    compute_us: IntMatrix  # (E, D) all steps of the expert
    compute_uj: IntMatrix  # (E, D)
    load_us: IntMatrix  # (E, D) weights that are not there yet
    load_uj: IntMatrix  # (E, D) radio
    weight_kb: IntMatrix  # (E, D)
    working_kb: IntMatrix  # (D,) activations of one call
    free_kb: IntMatrix  # (D,)
    conditioning_us: IntMatrix  # (D, D) text node -> node
    conditioning_uj: IntMatrix  # (D, D) radio
    serial_us: IntMatrix  # (D, D) coordinator -> node: occupies the coordinator's link, whole run
    delay_us: IntMatrix  # (D, D) coordinator -> node and back, whole run
    exchange_uj: IntMatrix  # (D, D) radio
    handover_us: IntMatrix  # (D, D) node -> next expert's node
    handover_uj: IntMatrix  # (D, D) radio
    deadline_us: int | None = None


@dataclass(frozen=True)
class Evaluation:
    """What a solution costs, and whether it may be used. `problem_code` is empty when it may."""

    compute_us: int
    network_us: int
    compute_uj: int
    radio_uj: int
    problem_code: str = ""  # "", "memory", "deadline", "not_allowed"
    where: int = -1  # the node that breaks the rule
    start_us: int = 0  # B, or 0 where there is no common start

    @property
    def latency_us(self) -> int:
        """Critical path."""
        return self.compute_us + self.network_us

    @property
    def energy_uj(self) -> int:
        """All nodes, compute and radio."""
        return self.compute_uj + self.radio_uj

    @property
    def feasible(self) -> bool:
        """Does it break no rule?"""
        return not self.problem_code


@dataclass(frozen=True)
class Weights:
    """The objective in integers: minimise latency * latency_us + energy * energy_uj."""

    latency: int = 1
    energy: int = 0

    def value(self, evaluation: Evaluation) -> int:
        """The objective of a solution."""
        return self.latency * evaluation.latency_us + self.energy * evaluation.energy_uj


LATENCY, ENERGY = Weights(1, 0), Weights(0, 1)


def balanced(latency_us: int, energy_uj: int, latency_share: float) -> Weights:
    """A weighted sum in which one percent of the best latency counts as share : 1 - share to one of energy."""
    return Weights(
        max(1, round(latency_share * 1e9 / max(1, latency_us))),
        max(1, round((1 - latency_share) * 1e9 / max(1, energy_uj))),
    )


def single_weights(objective: Objective) -> Weights:
    """Latency or energy alone ("balanced" needs the two optima first, see `balanced`)."""
    return ENERGY if objective == "energy" else LATENCY


@dataclass
class _Sums:
    """Per-node sums of one assignment."""

    compute: dict[int, int] = field(default_factory=dict)
    load: dict[int, int] = field(default_factory=dict)
    memory: dict[int, int] = field(default_factory=dict)


def memory_needed(problem: Problem, anchor: Anchor, assignment: Sequence[int]) -> dict[int, int]:
    """Kilobytes by node: weights of its experts, activations of one call, text encoder and decoder."""
    needed: dict[int, int] = {}
    for expert, node in enumerate(assignment):
        needed[node] = needed.get(node, 0) + int(problem.weight_kb[expert, node])
    for node in set(assignment):
        needed[node] += int(problem.working_kb[node])
    for node, kilobytes in anchor.memory_kb:
        needed[node] = needed.get(node, 0) + kilobytes
    return needed


def evaluate(problem: Problem, anchor: Anchor, assignment: Sequence[int]) -> Evaluation:
    """Cost and feasibility of a solution; `assignment[e]` is the node index of expert e."""
    energy = energy_parts(problem, anchor, assignment)
    compute_us, network_us, start_us = _latency(problem, anchor, assignment)
    code, where = "", -1
    for expert, node in enumerate(assignment):
        if not problem.allowed[expert, node]:
            code, where = "not_allowed", node
    if not code:
        for node, kilobytes in memory_needed(problem, anchor, assignment).items():
            if kilobytes > int(problem.free_kb[node]):
                code, where = "memory", node
    late = problem.deadline_us is not None and compute_us + network_us > problem.deadline_us
    if not code and late:
        code = "deadline"
    if not code and problem.shape == "hand_over_latents" and assignment[-1] != anchor.coordinator:
        code, where = "not_allowed", anchor.coordinator  # the last expert's node holds the latents
    return Evaluation(compute_us, network_us, *energy, code, where, start_us)


def energy_parts(problem: Problem, anchor: Anchor, assignment: Sequence[int]) -> tuple[int, int]:
    """Microjoules of compute and of radio, all nodes."""
    compute, radio = anchor.compute_uj, anchor.radio_uj
    for expert, node in enumerate(assignment):
        compute += int(problem.compute_uj[expert, node])
        radio += int(problem.load_uj[expert, node])
    if problem.shape == "hand_over_latents":
        radio += sum(int(problem.conditioning_uj[anchor.text, node]) for node in assignment)
        radio += sum(int(problem.handover_uj[a, b]) for a, b in pairwise(assignment))
        return compute, radio
    for node in set(assignment):
        radio += int(problem.conditioning_uj[anchor.text, node])
        radio += int(problem.exchange_uj[anchor.coordinator, node])
    return compute, radio


def _latency(problem: Problem, anchor: Anchor, assignment: Sequence[int]) -> tuple[int, int, int]:
    """Compute and network microseconds along the critical path, and the common start B."""
    if problem.shape == "hand_over_latents":
        return _latency_in_sequence(problem, anchor, assignment)
    sums = _Sums()
    for expert, node in enumerate(assignment):
        sums.compute[node] = sums.compute.get(node, 0) + int(problem.compute_us[expert, node])
        sums.load[node] = sums.load.get(node, 0) + int(problem.load_us[expert, node])
    centre = anchor.coordinator
    serial = sum(int(problem.serial_us[centre, node]) for node in sums.compute)
    delay = {node: int(problem.delay_us[centre, node]) for node in sums.compute}
    starts = {node: _start(problem, anchor, node, sums.load[node]) for node in sums.compute}
    if problem.shape == "exchange_every_step":
        first = max(starts, key=lambda node: (sum(starts[node]), node))
        last = max(sums.compute, key=lambda node: (sums.compute[node] + delay[node], node))
        start_us = sum(starts[first])
        compute = starts[first][0] + sums.compute[last]
        network = starts[first][1] + delay[last] + serial
    else:
        last = max(sums.compute, key=lambda n: (sum(starts[n]) + sums.compute[n] + delay[n], n))
        start_us = 0
        compute = starts[last][0] + sums.compute[last]
        network = starts[last][1] + delay[last] + serial
    compute += anchor.combine_us + anchor.tail_compute_us
    return compute, network + anchor.tail_network_us, start_us


def _start(problem: Problem, anchor: Anchor, node: int, load_us: int) -> tuple[int, int]:
    """When a node may begin, as compute and network microseconds of whichever is later: text or weights."""
    arrival = int(problem.conditioning_us[anchor.text, node]) + anchor.text_network_us
    if anchor.text_compute_us + arrival >= load_us:
        return anchor.text_compute_us, arrival
    return 0, load_us


def _latency_in_sequence(problem: Problem, anchor: Anchor, assignment: Sequence[int]) -> tuple[int, int, int]:
    starts = [
        _start(problem, anchor, node, int(problem.load_us[expert, node]))
        for expert, node in enumerate(assignment)
    ]
    begin = max(starts, key=sum)
    compute = begin[0] + sum(int(problem.compute_us[e, node]) for e, node in enumerate(assignment))
    network = begin[1] + sum(int(problem.handover_us[a, b]) for a, b in pairwise(assignment))
    compute += anchor.combine_us + anchor.tail_compute_us
    return compute, network + anchor.tail_network_us, sum(begin)

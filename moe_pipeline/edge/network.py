"""Paths through a scenario's links, and what a message costs on them."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property

from moe_pipeline.schema.profiles import EdgeScenario, NetworkProfile

PACKET_BYTES = 1448  # payload of a full TCP segment on an Ethernet frame
MAX_ROUNDS = 60


@dataclass(frozen=True)
class Hop:
    """One link in one direction."""

    mbps: float
    rtt_ms: float
    jitter_ms: float
    loss: float
    nj_per_bit: float
    outage_wait_ms: float  # expected extra wait because the link is re-planned periodically
    network: str


@dataclass(frozen=True)
class Path:
    """The way of a message from one node to another; no hops: the same node."""

    hops: tuple[Hop, ...] = ()

    @cached_property
    def mbps(self) -> float:
        """Throughput of the narrowest hop; infinite within a node."""
        return min((hop.mbps for hop in self.hops), default=float("inf"))

    @cached_property
    def rtt_ms(self) -> float:
        """Round-trip time, all hops."""
        return sum(hop.rtt_ms for hop in self.hops)

    @cached_property
    def delay_ms(self) -> float:
        """Mean one-way delay before the first bit arrives: half of RTT and jitter, waits for outages."""
        return sum((hop.rtt_ms + hop.jitter_ms) / 2 + hop.outage_wait_ms for hop in self.hops)

    @cached_property
    def loss(self) -> float:
        """Share of packets lost somewhere on the way."""
        kept = 1.0
        for hop in self.hops:
            kept *= 1.0 - hop.loss
        return 1.0 - kept

    @cached_property
    def nj_per_bit(self) -> float:
        """Radio energy of all hops."""
        return sum(hop.nj_per_bit for hop in self.hops)


@dataclass(frozen=True)
class Transfer:
    """A message on a path. `serial_ms` occupies the sender's link, `delay_ms` only passes."""

    serial_ms: float
    delay_ms: float
    radio_j: float

    @property
    def total_ms(self) -> float:
        """From the first bit sent to the last bit received."""
        return self.serial_ms + self.delay_ms


def transfer(size_bytes: float, path: Path) -> Transfer:
    """Mean cost of a message with selective retransmission.

    serial = 8 size / (R (1 - p)): lost packets are sent again; delay = (RTT + jitter) / 2 + outages +
    (E[rounds] - 1) RTT, one round trip for each further round of retransmissions.
    """
    if not path.hops or size_bytes <= 0:
        return Transfer(0.0, 0.0, 0.0)
    loss = path.loss
    packets = max(1, -(-int(size_bytes) // PACKET_BYTES))
    sent_bits = 8.0 * size_bytes / (1.0 - loss)
    serial_ms = sent_bits / (path.mbps * 1e3)
    delay_ms = path.delay_ms + (expected_rounds(packets, loss) - 1.0) * path.rtt_ms
    return Transfer(serial_ms, delay_ms, sent_bits * path.nj_per_bit * 1e-9)


def expected_rounds(packets: int, loss: float) -> float:
    """Mean number of rounds until all packets are through, each lost independently with `loss`.

    E[max of geometrics] = sum over r >= 0 of 1 - (1 - loss^r)^packets.
    """
    if loss <= 0:
        return 1.0
    total, survivors = 1.0, loss
    for _ in range(MAX_ROUNDS):
        term = 1.0 - (1.0 - survivors) ** packets
        total += term
        if term < 1e-9:
            break
        survivors *= loss
    return total


def hop_of(network: NetworkProfile, *, upwards: bool, bandwidth_scale: float) -> Hop:
    """One direction of a network profile. The scale applies to everything but the loopback."""
    scale = 1.0 if network.medium == "loopback" else bandwidth_scale
    rate = (network.up_mbps if upwards else network.down_mbps).value * scale
    wait = 0.0
    if network.reconfiguration is not None:
        # An arrival falls into the outage with probability outage / period and then waits half of it.
        period_ms = network.reconfiguration.period_s.value * 1e3
        outage_ms = network.reconfiguration.outage_ms.value
        wait = network.reconfiguration.burst_loss.value * outage_ms**2 / (2 * period_ms)
    energy = (network.up_nj_per_bit if upwards else network.down_nj_per_bit).value
    return Hop(
        rate, network.rtt_ms.value, network.jitter_ms.value, network.loss.value, energy, wait, network.id
    )


def all_paths(
    scenario: EdgeScenario,
    networks: Mapping[str, NetworkProfile],
    *,
    alive: Collection[str],
    bandwidth_scale: float = 1.0,
) -> dict[tuple[str, str], Path]:
    """The path of least round-trip time between every two nodes that are alive; unreachable pairs are absent."""
    graph: dict[str, list[tuple[str, Hop]]] = {node: [] for node in alive}
    for link in scenario.links:
        if link.user_side in graph and link.far_side in graph:
            network = networks[link.network]
            up = hop_of(network, upwards=True, bandwidth_scale=bandwidth_scale)
            down = hop_of(network, upwards=False, bandwidth_scale=bandwidth_scale)
            graph[link.user_side].append((link.far_side, up))
            graph[link.far_side].append((link.user_side, down))
    return {(start, end): Path(hops) for start in graph for end, hops in _shortest(graph, start).items()}


def _shortest(graph: Mapping[str, list[tuple[str, Hop]]], start: str) -> dict[str, tuple[Hop, ...]]:
    """Dijkstra on RTT; ties by the order of nodes in the file, so that the answer never depends on a hash."""
    done: dict[str, tuple[Hop, ...]] = {}
    queue: list[tuple[float, int, str, tuple[Hop, ...]]] = [(0.0, 0, start, ())]
    serial = 0
    while queue:
        cost, _, node, hops = heapq.heappop(queue)
        if node in done:
            continue
        done[node] = hops
        for neighbour, hop in graph[node]:
            if neighbour not in done:
                serial += 1
                heapq.heappush(queue, (cost + hop.rtt_ms, serial, neighbour, (*hops, hop)))
    return done

"""Two placement policies on the same simulated traffic.

python -m examples.simulate
"""

from moe_pipeline.edge.simulation import simulate


def main(requests: int = 500) -> None:
    """The same seed meets both policies with the same arrivals, channels and faults; all figures are estimates."""
    for policy in ("greedy", "random"):
        report = simulate("vehicle-convoy", policy, requests=requests, seed=1)
        print(
            f"{policy:<7} p50 {report.p50_ms:.0f} ms, p95 {report.p95_ms:.0f} ms, "
            f"missed {100 * report.miss_share:.1f} %, {report.energy_mean_j:.2f} J a request"
        )


if __name__ == "__main__":
    main()

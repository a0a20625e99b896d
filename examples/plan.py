"""Where would each expert run, and what if the network gets worse or a device fails? Nothing is denoised.

python -m examples.plan
"""

from pathlib import Path
from typing import Any

from moe_pipeline import MoEverseError, MoEVideoPipeline, SceneRequest


def main(pack: Path | None = None, **options: Any) -> None:
    """Places one prompt under three conditions; every figure is an estimate of the cost model."""
    pipeline = MoEVideoPipeline.from_pack(pack)
    prompt = "a neon city with a dancing avatar"
    request = SceneRequest.parse(prompt=prompt, scenario="vehicle-convoy", **options)
    for part in pipeline.plan(request).subtasks:
        print(f"{part.role}: {part.text!r}")
    first = pipeline.place(request)
    failed = frozenset({first.assignments[0].device})
    conditions: dict[str, dict[str, Any]] = {
        "as nominal": {},
        "links at a tenth": {"bandwidth_scale": 0.1},
        f"{', '.join(failed)} failed": {"killed": failed},
    }
    for name, condition in conditions.items():
        try:
            placement = pipeline.place(request, **condition)
        except MoEverseError as error:
            print(f"{name}: {error.sentence()}")
            continue
        where = {assignment.expert: assignment.device for assignment in placement.assignments}
        print(f"{name}: {placement.totals.latency.total:.0f} ms estimated, {where}")


if __name__ == "__main__":
    main()

"""The catalogue: everything that can be chosen, with title, description, limits and default.

The app's choices, the command line's help, the API's documentation and the tests' parametrisation read this.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from moe_pipeline.experts.fusion import FUSIONS
from moe_pipeline.gating import GATES
from moe_pipeline.metrics import METRICS
from moe_pipeline.packs import open_any_pack, shipped_packs
from moe_pipeline.schema.hub_pack import HubManifest

if TYPE_CHECKING:
    from moe_pipeline.pipeline import MoEVideoPipeline

Entry = dict[str, Any]


def _first_line(thing: object) -> str:
    return (thing.__doc__ or "").strip().split("\n\n")[0].replace("\n", " ").strip()


def catalog(pipeline: MoEVideoPipeline) -> dict[str, list[Entry]]:
    """Gates, fusions, metrics, devices, scenarios, packs, experts and request fields of a loaded pipeline."""
    manifest, profiles = pipeline.manifest, pipeline.profiles
    defaults, limits = manifest.defaults, manifest.limits
    gate = "description" if isinstance(manifest, HubManifest) else manifest.gate.kind
    shipped = (open_any_pack(folder).manifest for folder in shipped_packs() if folder.is_dir())
    others = [other for other in shipped if other.id != manifest.id]
    default_metrics = {name for name, info in METRICS.items() if info.default}
    return {
        "gates": [
            {"id": n, "title": n, "description": _first_line(g), "default": n == gate}
            for n, g in GATES.items()
        ],
        "fusions": [
            {"id": n, "title": n, "description": _first_line(f), "default": n == "weighted-mean"}
            for n, f in FUSIONS.items()
        ],
        "metrics": [
            {"id": n, "default": n in default_metrics, "description": info.plain_words, **info.model_dump()}
            for n, info in METRICS.items()
        ],
        "devices": [
            {"id": d.id, "title": d.title, "description": d.description, "default": False}
            for d in profiles.devices.values()
        ],
        "scenarios": [
            {"id": s.id, "title": s.title, "description": s.description, "default": s.id == "campus-mec"}
            for s in profiles.scenarios.values()
        ],
        "packs": [
            {"id": m.id, "title": m.title, "description": m.description, "default": m is manifest}
            for m in (manifest, *others)
        ],
        "experts": [
            {"id": e.id, "title": e.title, "description": e.description, "colour": e.colour, "default": True}
            for e in manifest.experts
        ],
        "fields": [
            {"id": "steps", "limits": [1, limits.max_steps], "default": defaults.steps},
            {"id": "guidance", "limits": [1.0, limits.max_guidance], "default": defaults.guidance},
            {"id": "top_k", "limits": [1, len(manifest.experts)], "default": defaults.top_k},
            {"id": "frames", "limits": [limits.min_frames, limits.max_frames], "default": defaults.frames},
            {"id": "width", "limits": [limits.min_side, limits.max_side], "default": defaults.width},
            {"id": "height", "limits": [limits.min_side, limits.max_side], "default": defaults.height},
        ],
    }

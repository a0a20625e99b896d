"""`devices`: device, network and scenario profiles with the source of each number; measures this machine."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moe_pipeline.cli import options as opt
from moe_pipeline.cli.border import results_only

if TYPE_CHECKING:
    from moe_pipeline.edge.profiles import ProfileLibrary
    from moe_pipeline.schema.profiles import DeviceProfile


def devices(
    device: Annotated[
        str | None, typer.Argument(help="Show one device with the source of every number.")
    ] = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Measure this machine (a few seconds) and keep the result.")
    ] = False,
    pack: opt.PackFolder = None,
    json: opt.Json = False,
) -> None:
    """List devices, networks and scenarios.

    A placement may use all of them; `this-machine` after it was measured.
    """
    with results_only() as results:
        from moe_pipeline.edge.profiles import THIS_MACHINE

        library = measured_now(pack) if calibrate else profiles()
        if device is not None or calibrate:
            chosen = library.device(device or THIS_MACHINE)
            text = _dumps(chosen.model_dump(mode="json")) if json else device_text(chosen, library)
        else:
            text = _dumps(library_data(library)) if json else library_text(library)
        print(text, file=results)


def _dumps(data: dict[str, Any]) -> str:
    return jsonlib.dumps(data, indent=1, ensure_ascii=False)


def profiles() -> ProfileLibrary:
    """The profile library, with `this-machine` where it was measured earlier."""
    from moe_pipeline.edge.calibration import cache_path, this_machine
    from moe_pipeline.edge.profiles import load_profiles

    library = load_profiles()
    if not cache_path().exists():  # spares the import of torch, by which a cached profile is recognised
        return library
    known = this_machine(measure_if_missing=False)
    return library if known is None else library.with_device(known)


def measured_now(pack: Path | None) -> ProfileLibrary:
    """The profile library after measuring this machine with real steps of a pack's experts."""
    from moe_pipeline.studies.this_machine import calibrate as measure

    pipeline = opt.open_pipeline(pack)
    measure(pipeline)
    return pipeline.profiles


def library_data(library: ProfileLibrary) -> dict[str, Any]:
    """All profiles as plain data."""
    return {
        "devices": [profile.model_dump(mode="json") for profile in library.devices.values()],
        "networks": [profile.model_dump(mode="json") for profile in library.networks.values()],
        "scenarios": [profile.model_dump(mode="json") for profile in library.scenarios.values()],
        "sources": dict(library.sources),
    }


def library_text(library: ProfileLibrary) -> str:
    """Three tables: devices with their roofline, networks, scenarios."""
    from moe_pipeline.cli.tables import text_table

    device_rows = []
    for profile in library.devices.values():
        precision, peak = _best_peak(profile)
        ridge = peak * 1e12 / (profile.memory_gbs.value * 1e9)
        device_rows.append(
            [
                profile.id,
                profile.title,
                profile.category,
                f"{peak:.3g} {precision}",
                f"{profile.memory_gbs.value:.4g}",
                f"{ridge:.0f}",
                f"{profile.free_bytes / 1e9:.3g}",
                f"{profile.power_max_w.value:.3g}",
            ]
        )
    network_rows = [
        [
            network.id,
            network.title,
            f"{network.down_mbps.value:.4g}",
            f"{network.up_mbps.value:.4g}",
            f"{network.rtt_ms.value:.3g}",
            f"{network.jitter_ms.value:.3g}",
            f"{100 * network.loss.value:.3g}",
        ]
        for network in library.networks.values()
    ]
    scenario_rows = [
        [scenario.id, scenario.title, ", ".join(node.id for node in scenario.nodes), scenario.description]
        for scenario in library.scenarios.values()
    ]
    device_head = ["device", "title", "kind", "peak TFLOPS", "memory GB/s", "ridge FLOP/byte", "free GB", "W"]
    network_head = ["network", "title", "down Mbit/s", "up Mbit/s", "RTT ms", "jitter ms", "loss %"]
    return "\n\n".join(
        [
            text_table(device_head, device_rows),
            text_table(network_head, network_rows),
            text_table(["scenario", "title", "devices", "description"], scenario_rows),
            f"`{_PROGRAM} devices DEVICE` shows how each number is known and where it comes from.",
        ]
    )


_PROGRAM = "python -m moe_pipeline"


def _best_peak(profile: DeviceProfile) -> tuple[str, float]:
    """The number format with the highest peak among those the experts run in, and that peak in TFLOPS."""
    peaks = {str(precision): quantity.value for precision, quantity in profile.peak_tflops.items()}
    usable = {name: peak for name, peak in peaks.items() if name in ("bf16", "fp16", "fp32")} or peaks
    best = max(usable, key=lambda name: usable[name])
    return best, usable[best]


def device_text(profile: DeviceProfile, library: ProfileLibrary) -> str:
    """One device: every number, how it is known, its source."""
    from moe_pipeline.cli.tables import text_table
    from moe_pipeline.edge.profiles import quantities

    rows = [
        [key, f"{quantity.value:g}", quantity.kind, quantity.formula or "", library.source_text(quantity)]
        for key, quantity in quantities(profile)
    ]
    table = text_table(["key", "value", "known as", "formula", "source"], rows)
    return f"{profile.id}: {profile.title}. {profile.description}\n\n{table}"

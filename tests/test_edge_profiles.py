"""Profiles say where every number comes from, and a broken file is refused by name, key and remedy."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_pipeline.edge.profiles import default_folder, load_profiles, quantities, read_profile
from moe_pipeline.schema.errors import MoEverseError
from moe_pipeline.schema.profiles import DeviceProfile, EdgeScenario, NetworkProfile, Quantity

SHIPPED = default_folder()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the shipped profiles that a test may break."""
    target = tmp_path / "edge_profiles"
    shutil.copytree(SHIPPED, target)
    return target


def refusal(folder: Path) -> MoEverseError:
    with pytest.raises(MoEverseError) as caught:
        load_profiles(folder)
    sentence = caught.value.sentence()
    assert "\n" not in sentence and caught.value.remedy
    return caught.value


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_the_promised_profiles_are_there() -> None:
    library = load_profiles()
    assert {
        "raspberry-pi-5",
        "jetson-orin-nano-super",
        "jetson-agx-orin",
        "jetson-agx-thor",
        "android-sd8gen3",
        "iphone-15-pro",
        "quest-3",
        "vision-pro",
        "laptop-rtx-4090",
        "mec-l4",
        "mec-a2",
        "cloud-a100",
        "cloud-h100",
        "drive-orin",
        "cloud-cpu-2core",
    } <= set(library.devices)
    assert {
        "lte",
        "5g-low-band",
        "5g-mid-band",
        "5g-mmwave",
        "wifi-6",
        "ethernet-1g",
        "backhaul-10g",
        "leo-satellite",
        "v2x-sidelink",
        "loopback",
    } <= set(library.networks)
    assert {
        "xr-room",
        "campus-mec",
        "stadium-crowd",
        "vehicle-convoy",
        "phone-cloud",
        "rural-satellite",
        "air-gapped",
    } <= set(library.scenarios)
    modes = {mode.id for mode in library.device("jetson-agx-orin").power_modes}
    assert modes == {"maxn", "50w", "30w", "15w"}


def test_every_number_names_a_source_or_says_it_is_an_assumption() -> None:
    library = load_profiles()
    seen = 0
    for table in (library.devices, library.networks, library.scenarios):
        for profile in table.values():
            for key, quantity in quantities(profile):
                seen += 1
                if quantity.kind == "assumption":
                    assert len(quantity.source) >= 8, (profile.id, key)
                else:
                    assert re.search(r"\b[KS]\d+", quantity.source), (profile.id, key)
                    assert "[" in library.source_text(quantity)
    assert seen > 400


def test_numbers_without_source_are_counts_and_places_on_the_map_alone() -> None:
    import yaml

    def bare(value: object, key: str) -> list[str]:
        if isinstance(value, dict):
            if "value" in value:
                return [] if {"kind", "source"} <= set(value) else [key]
            return [found for name, item in value.items() for found in bare(item, f"{key}.{name}")]
        if isinstance(value, list):
            return [found for item in value for found in bare(item, key)]
        return [key] if isinstance(value, int | float) and not isinstance(value, bool) else []

    folder = load_profiles().folder
    assert folder is not None
    files = [
        p for kind in ("devices", "networks", "scenarios") for p in sorted((folder / kind).glob("*.yaml"))
    ]
    assert len(files) > 35
    for file in files:
        for key in bare(yaml.safe_load(file.read_text(encoding="utf-8")), ""):
            assert key.rpartition(".")[2] in ("schema_version", "users", "position_m"), (file.name, key)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            "memory_gb: {",
            "memory_bg: {",
            ("quest-3.yaml", "memory_bg", "not known", "Did you mean 'memory_gb'?"),
        ),
        ("memory_gb: {value: 8", "memory_gb: {value: -8", ("quest-3.yaml", "memory_gb.value", "negative")),
        (
            "memory_gbs: {value: 67.2, kind: nominal, source: K15}\n",
            "",
            ("quest-3.yaml", "memory_gbs", "missing"),
        ),
        ("kind: nominal", "kind: rumour", ("quest-3.yaml", "kind", "rumour")),
        ("value: 8,", "value: eight,", ("quest-3.yaml", "memory_gb.value", "eight")),
        ("value: 8,", "value: .nan,", ("quest-3.yaml", "memory_gb.value")),
        ("id: quest-3", "id: quest-4", ("quest-3.yaml", "quest-4")),
        ("source: K17", "source: K999", ("quest-3.yaml", "K999", "sources.yaml")),
        ('formula: "18.88 Wh / 2 h of use"', "formula: null", ("quest-3.yaml", "power_max_w", "formula")),
        ("id: quest-3", "id: quest-3\nid: quest-3", ("quest-3.yaml", "twice")),
        ("category: headset", "category: [headset", ("quest-3.yaml", "YAML")),
        (
            "eta_compute: {value: 0.95",
            "eta_compute: {value: 1.5",
            ("quest-3.yaml: efficiency: ", "eta_compute"),
        ),
    ],
)
def test_a_broken_device_is_named_with_its_key(
    folder: Path, old: str, new: str, words: tuple[str, ...]
) -> None:
    edit(folder / "devices" / "quest-3.yaml", old, new)
    error = refusal(folder)
    assert error.code == "bad_profile"
    assert all(word in error.sentence() for word in words), error.sentence()


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            "profile: quest-3",
            "profile: quest-33",
            ("xr-room.yaml", "nodes.0.profile", "quest-33", "'quest-3'"),
        ),
        ("network: wifi-6", "network: wify-6", ("xr-room.yaml", "links.0.network", "'wifi-6'")),
        ("user: headset", "user: glasses", ("xr-room.yaml: user: ", "glasses")),
        ("far_side: workstation", "far_side: basement", ("xr-room.yaml: links: ", "basement")),
        ("id: headset-b", "id: headset", ("xr-room.yaml: nodes: ", "same id")),
        ("profile: vision-pro,", "profile: vision-pro, power_mode: turbo,", ("nodes.1.power_mode", "turbo")),
        ("deadline_ms:", "dead_line_ms:", ("dead_line_ms", "Did you mean 'deadline_ms'?")),
        ("provider: player", "provder: player", ("nodes.0.provder", "Did you mean 'provider'?")),
        ("rate_per_s:", "rate_per_sec:", ("dynamics.arrivals.rate_per_sec", "Did you mean 'rate_per_s'?")),
    ],
)
def test_a_broken_scenario_is_named_with_its_key(
    folder: Path, old: str, new: str, words: tuple[str, ...]
) -> None:
    edit(folder / "scenarios" / "xr-room.yaml", old, new)
    error = refusal(folder)
    assert all(word in error.sentence() for word in words), error.sentence()


def test_what_does_not_exist_is_answered_with_the_nearest_name() -> None:
    library = load_profiles()
    for ask, code, hint in (
        (lambda: library.device("mec-l44"), "unknown_device", "mec-l4"),
        (lambda: library.network("wifi6"), "unknown_network", "wifi-6"),
        (lambda: library.scenario("vehicle-convoi"), "unknown_scenario", "vehicle-convoy"),
    ):
        with pytest.raises(MoEverseError) as caught:
            ask()
        assert caught.value.code == code and f"Did you mean '{hint}'?" in caught.value.remedy
    with pytest.raises(MoEverseError, match="does not exist"):
        load_profiles("/nowhere/at/all")
    with pytest.raises(MoEverseError, match="--calibrate"):
        library.device("this-machine")


@given(text=st.text(max_size=200))
@settings(max_examples=60, deadline=None)
def test_no_text_raises_anything_but_a_refusal(text: str) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "devices"
        path.mkdir()
        file = path / "odd.yaml"
        file.write_text(text, encoding="utf-8", errors="replace")
        for model in (DeviceProfile, NetworkProfile, EdgeScenario):
            with pytest.raises(MoEverseError) as caught:
                read_profile(file, model)
            assert caught.value.code == "bad_profile"


def test_a_power_mode_changes_peaks_and_power_only() -> None:
    device = load_profiles().device("jetson-agx-orin")
    low = device.in_mode("15w")
    assert low.peak_tflops["fp16"].value < device.in_mode("maxn").peak_tflops["fp16"].value / 10
    assert low.power_max_w.value == 15 and low.memory_gb == device.memory_gb
    assert "15 W" in low.title
    with pytest.raises(KeyError):
        device.in_mode("99w")


def test_quantities_are_checked() -> None:
    with pytest.raises(ValueError, match="formula"):
        Quantity(value=1, kind="derived", source="K01")
    with pytest.raises(ValueError):
        Quantity(value=float("inf"), kind="nominal", source="K01")

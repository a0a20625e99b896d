"""Reads `edge_profiles/`: devices, networks, scenarios and the sources of their numbers.

Every refusal is one sentence that names the file, the key and what to do.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from moe_pipeline.schema.errors import MoEverseError
from moe_pipeline.schema.profiles import DeviceProfile, EdgeScenario, NetworkProfile, Quantity

THIS_MACHINE = "this-machine"
MAX_FILE_BYTES = 256 * 1024
_SOURCE_KEY = re.compile(r"\b[KS]\d+[a-z]?\b")

Profile = TypeVar("Profile", DeviceProfile, NetworkProfile, EdgeScenario)


# The C parser where PyYAML was built with it: ten times as fast, the same language.
_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _StrictLoader(_SafeLoader):  # type: ignore[misc]
    """YAML without repeated keys: the second would silently win."""


def _mapping(loader: _StrictLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node)
        if not isinstance(key, str | int | float | bool | type(None)):
            raise yaml.YAMLError(f"the key in line {key_node.start_mark.line + 1} is not a plain word")
        if key in seen:
            raise yaml.YAMLError(f"the key {key!r} stands twice (line {key_node.start_mark.line + 1})")
        seen.add(key)
    return loader.construct_mapping(node)


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


@dataclass(frozen=True)
class ProfileLibrary:
    """Everything that stands in a profile folder, checked. Mappings are by id."""

    devices: Mapping[str, DeviceProfile]
    networks: Mapping[str, NetworkProfile]
    scenarios: Mapping[str, EdgeScenario]
    sources: Mapping[str, str]
    folder: Path | None = None

    def device(self, device_id: str) -> DeviceProfile:
        """The profile; MoEverseError `unknown_device` if there is none."""
        if device_id == THIS_MACHINE and THIS_MACHINE not in self.devices:
            raise MoEverseError(
                "not_calibrated",
                "The profile 'this-machine' has not been measured yet.",
                "The app measures it a few seconds after its first start; `python -m moe_pipeline devices "
                "--calibrate` does it now.",
            )
        return _pick(self.devices, device_id, "device", "unknown_device")

    def network(self, network_id: str) -> NetworkProfile:
        """The profile; MoEverseError `unknown_network` if there is none."""
        return _pick(self.networks, network_id, "network", "unknown_network")

    def scenario(self, scenario_id: str) -> EdgeScenario:
        """The scenario; MoEverseError `unknown_scenario` if there is none."""
        return _pick(self.scenarios, scenario_id, "scenario", "unknown_scenario")

    def with_device(self, profile: DeviceProfile) -> ProfileLibrary:
        """The same library with one more (or another) device, such as the calibrated `this-machine`."""
        return replace(self, devices={**self.devices, profile.id: profile})

    def source_text(self, quantity: Quantity) -> str:
        """The quantity's source with every key such as K48 followed by what it stands for."""
        keys = [key for key in _SOURCE_KEY.findall(quantity.source) if key in self.sources]
        if keys == [quantity.source]:
            return f"{self.sources[keys[0]]} [{keys[0]}]"
        notes = "; ".join(f"[{key}] {self.sources[key]}" for key in keys)
        return f"{quantity.source} ({notes})" if notes else quantity.source


def _pick(table: Mapping[str, Any], wanted: str, what: str, code: str) -> Any:
    if wanted in table:
        return table[wanted]
    close = difflib.get_close_matches(wanted, table, n=1)
    hint = f"Did you mean '{close[0]}'? " if close else ""
    raise MoEverseError(
        code, f"There is no {what} '{wanted}'.", f"{hint}Known: {', '.join(sorted(table)) or 'none'}."
    )


def default_folder() -> Path:
    """`edge_profiles/` beside the package: the repository's root."""
    return Path(__file__).resolve().parents[2] / "edge_profiles"


def load_profiles(folder: Path | str | None = None) -> ProfileLibrary:
    """Reads and checks a profile folder (default: the repository's). Cached by folder.

    Raises:
        MoEverseError: `no_profiles`, `bad_profile` (file, key and remedy in the sentence).
    """
    return _load(Path(folder).resolve() if folder is not None else default_folder())


@lru_cache(maxsize=8)
def _load(folder: Path) -> ProfileLibrary:
    if not folder.is_dir():
        raise MoEverseError(
            "no_profiles",
            f"The profile folder {folder} does not exist.",
            "Run inside the repository or name a folder that holds devices/, networks/ and scenarios/.",
        )
    sources = _read_sources(folder / "sources.yaml")
    devices = _read_all(folder, "devices", DeviceProfile)
    networks = _read_all(folder, "networks", NetworkProfile)
    scenarios = _read_all(folder, "scenarios", EdgeScenario)
    for kind, table in (("devices", devices), ("networks", networks), ("scenarios", scenarios)):
        for name, profile in table.items():
            _check_sources(profile, f"{folder.name}/{kind}/{name}.yaml", sources)
    for scenario in scenarios.values():
        check_references(scenario, devices, networks, f"{folder.name}/scenarios/{scenario.id}.yaml")
    return ProfileLibrary(devices, networks, scenarios, sources, folder)


def _read_all(folder: Path, kind: str, model: type[Profile]) -> dict[str, Profile]:
    found: dict[str, Profile] = {}
    for path in sorted((folder / kind).glob("*.y*ml")):
        profile = read_profile(path, model)
        if profile.id != path.stem:
            raise MoEverseError(
                "bad_profile",
                f"{folder.name}/{kind}/{path.name}: id: is '{profile.id}' but the file is called '{path.stem}'.",
                "Give the file and the id the same name.",
            )
        found[profile.id] = profile
    return found


def read_profile(path: Path, model: type[Profile]) -> Profile:
    """One YAML file as a checked profile.

    Raises:
        MoEverseError: `bad_profile`, naming file, key and remedy.
    """
    where = f"{path.parent.parent.name}/{path.parent.name}/{path.name}"
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise MoEverseError(
                "bad_profile",
                f"{where}: is larger than {MAX_FILE_BYTES // 1024} KB.",
                "A profile is a short list of numbers; split or shorten it.",
            )
        raw = yaml.load(path.read_text(encoding="utf-8"), Loader=_StrictLoader)
    except (OSError, UnicodeDecodeError) as error:
        raise MoEverseError(
            "bad_profile",
            f"{where}: cannot be read ({type(error).__name__}).",
            "Make it a readable UTF-8 text file.",
        ) from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        text = " ".join(str(error).split())[:160]
        raise MoEverseError(
            "bad_profile", f"{where}: is not valid YAML: {text}.", "Correct that line."
        ) from error
    if not isinstance(raw, dict):
        raise MoEverseError(
            "bad_profile",
            f"{where}: holds no keys.",
            f"Write the keys of a {model.__name__}, see docs/edge.md.",
        )
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise _explain(error, where, model) from error


def _key_named_in(message: str, model: type[BaseModel]) -> str:
    """The first key that the complaint of a rule over several keys speaks of."""
    return next((word for word in re.findall(r"\w+", message) if word in model.model_fields), "(whole file)")


def _explain(error: ValidationError, where: str, model: type[BaseModel]) -> MoEverseError:
    """The most telling of pydantic's errors: a misspelt key before the missing one it causes."""
    errors = error.errors()
    first = next((item for item in errors if item["type"] == "extra_forbidden"), errors[0])
    parts = [str(part) for part in first["loc"]]
    key = ".".join(parts) or _key_named_in(first["msg"], model)
    more = f" ({len(errors) - 1} more)" if len(errors) > 1 else ""
    if first["type"] == "extra_forbidden":
        known = _keys_at(model, parts[:-1])
        close = difflib.get_close_matches(parts[-1], known, n=1, cutoff=0.55)
        remedy = f"Did you mean '{close[0]}'?" if close else f"Known keys: {', '.join(known) or 'none'}."
        return MoEverseError("bad_profile", f"{where}: {key}: this key is not known{more}.", remedy)
    if first["type"] == "missing":
        return MoEverseError(
            "bad_profile",
            f"{where}: {key}: this key is missing{more}.",
            'Add it; a number is written {value: 1.0, kind: assumption, source: "why"}.',
        )
    if first["type"] == "greater_than_equal":
        return MoEverseError(
            "bad_profile",
            f"{where}: {key}: {first['input']!r} is negative{more}.",
            "Write a number of 0 or more in the unit that the key's name ends with.",
        )
    text = first["msg"].removeprefix("Value error, ")
    shown = repr(first.get("input"))
    given = f", got {shown}" if len(shown) < 60 else ""
    return MoEverseError(
        "bad_profile",
        f"{where}: {key}: {text[:1].lower()}{text[1:]}{given}{more}.",
        "Correct this key, see docs/edge.md.",
    )


def _keys_at(model: type[BaseModel], parts: list[str]) -> list[str]:
    """The keys a model knows at a place inside it; empty where the place is not a model."""
    here: type[BaseModel] = model
    inside_container = False
    for part in parts:
        if inside_container:  # an index or a mapping's key: the model is already the element's
            inside_container = False
            continue
        if part not in here.model_fields:
            return []
        found, inside_container = _element_model(here.model_fields[part].annotation)
        if found is None:
            return []
        here = found
    return sorted(here.model_fields)


def _element_model(annotation: Any) -> tuple[type[BaseModel] | None, bool]:
    """The model in an annotation such as `Node | None`, `tuple[Node, ...]` or `dict[str, Node]`, and whether it
    is an element of a container."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, False
    for argument in get_args(annotation):
        found, _ = _element_model(argument)
        if found is not None:
            return found, get_origin(annotation) in (tuple, list, dict)
    return None, False


def _read_sources(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    raw = yaml.load(path.read_text(encoding="utf-8"), Loader=_StrictLoader)
    return {str(key): " ".join(str(text).split()) for key, text in (raw or {}).items()}


def quantities(model: BaseModel, prefix: str = "") -> list[tuple[str, Quantity]]:
    """Every number in a profile with its dotted key."""
    found: list[tuple[str, Quantity]] = []
    for name in type(model).model_fields:
        found += _quantities_in(getattr(model, name), f"{prefix}{name}")
    return found


def _quantities_in(value: Any, key: str) -> list[tuple[str, Quantity]]:
    if isinstance(value, Quantity):
        return [(key, value)]
    if isinstance(value, BaseModel):
        return quantities(value, f"{key}.")
    if isinstance(value, Mapping):
        return [pair for name, item in value.items() for pair in _quantities_in(item, f"{key}.{name}")]
    if isinstance(value, tuple):
        return [pair for index, item in enumerate(value) for pair in _quantities_in(item, f"{key}.{index}")]
    return []


def _check_sources(profile: BaseModel, where: str, sources: Mapping[str, str]) -> None:
    for key, quantity in quantities(profile):
        cited = _SOURCE_KEY.findall(quantity.source)
        unknown = [name for name in cited if name not in sources]
        if unknown:
            raise MoEverseError(
                "bad_profile",
                f"{where}: {key}.source: '{unknown[0]}' is not in sources.yaml.",
                "Add the source there or correct its key.",
            )
        if quantity.kind != "assumption" and sources and not cited:
            raise MoEverseError(
                "bad_profile",
                f"{where}: {key}.source: a {quantity.kind} number cites no key of sources.yaml.",
                "Cite one, or mark the number as an assumption.",
            )


def check_references(
    scenario: EdgeScenario,
    devices: Mapping[str, DeviceProfile],
    networks: Mapping[str, NetworkProfile],
    where: str,
) -> None:
    """A scenario names only devices, power modes and networks that exist; `this-machine` may come later."""
    for index, node in enumerate(scenario.nodes):
        if node.profile == THIS_MACHINE and node.profile not in devices:
            continue
        if node.profile not in devices:
            raise _unknown(where, f"nodes.{index}.profile", "device", node.profile, devices)
        modes = [mode.id for mode in devices[node.profile].power_modes]
        if node.power_mode is not None and node.power_mode not in modes:
            raise MoEverseError(
                "bad_profile",
                f"{where}: nodes.{index}.power_mode: {node.profile} has no mode '{node.power_mode}'.",
                f"Known: {', '.join(modes) or 'none, leave the key out'}.",
            )
    for index, link in enumerate(scenario.links):
        if link.network not in networks:
            raise _unknown(where, f"links.{index}.network", "network", link.network, networks)


def _unknown(where: str, key: str, what: str, name: str, table: Mapping[str, Any]) -> MoEverseError:
    close = difflib.get_close_matches(name, table, n=1)
    remedy = f"Did you mean '{close[0]}'?" if close else f"Known: {', '.join(sorted(table))}."
    return MoEverseError("bad_profile", f"{where}: {key}: there is no {what} '{name}'.", remedy)

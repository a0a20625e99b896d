"""The stored and sent forms, frozen: a change of a JSON schema is a diff that somebody reads."""

import json
from collections.abc import Callable

import pytest
from pydantic import TypeAdapter

from moe_pipeline.schema.events import WireEvent
from moe_pipeline.schema.hub_pack import HubManifest
from moe_pipeline.schema.pack import PackManifest
from moe_pipeline.schema.profiles import DeviceProfile, EdgeScenario, NetworkProfile
from moe_pipeline.schema.record import ComparisonRecord, RunRecord
from moe_pipeline.schema.request import SceneRequest

FORMS = {
    "request": SceneRequest,
    "record": RunRecord,
    "comparison": ComparisonRecord,
    "events": WireEvent,
    "pack": PackManifest,
    "hub-pack": HubManifest,
    "device": DeviceProfile,
    "network": NetworkProfile,
    "scenario": EdgeScenario,
}


@pytest.mark.parametrize("name", FORMS)
def test_json_schema_is_the_reviewed_one(name: str, golden: Callable[[str, str], None]) -> None:
    schema = TypeAdapter(FORMS[name]).json_schema()
    golden(f"schemas/{name}.json", json.dumps(schema, indent=1, sort_keys=True, ensure_ascii=False) + "\n")

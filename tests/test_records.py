"""Records: what others rely on stays readable. `golden/records/v*.json` are never edited."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_pipeline.schema import record as records
from moe_pipeline.schema.errors import MoEverseError
from moe_pipeline.schema.record import SCHEMA_VERSION, ComparisonRecord, RunRecord, load_record

GOLDEN = sorted((Path(__file__).parent / "golden" / "records").glob("v*.json"))


def stored(path: Path = GOLDEN[-1]) -> dict[str, Any]:
    data = json.loads(path.read_text(encoding="utf-8"))
    assert isinstance(data, dict)
    return data


def test_every_version_that_was_ever_written_has_its_golden_record() -> None:
    assert [path.stem for path in GOLDEN] == [f"v{version}" for version in range(1, SCHEMA_VERSION + 1)]
    assert all(stored(path)["schema_version"] == int(path.stem[1:]) for path in GOLDEN)


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_an_old_record_is_read(path: Path) -> None:
    record = load_record(stored(path))
    assert record.request.prompt == "an avatar dancing in a neon city street at night"
    assert record.placement is not None and record.placement.assignments
    assert load_record(json.loads(record.model_dump_json())) == record


def test_a_record_of_this_version_comes_back_key_by_key() -> None:
    """Nothing of what stands in the file is lost or invented by reading and writing it; only keys that this
    version learned later, which say nothing where they are missing, take their empty value."""
    data = stored()
    assert "left_out" not in data["plan"] and "texts" not in data
    data["plan"]["left_out"] = []
    data["texts"] = {}
    data["request"].setdefault("subject_guidance", 1.0)  # what there was before: plain guidance
    data["request"].setdefault("fill_details", False)  # and the prompt as it was typed
    for part in (data["plan"], *data["plan"]["subtasks"]):
        part.setdefault("read_as", "")
    assert load_record(stored()).model_dump(mode="json") == data


def test_the_keys_that_others_rely_on_are_there() -> None:
    data = stored()
    for path in (
        "schema_version", "request.prompt", "request.seed", "plan.subtasks.0.text", "gate.weights", "gate.active",
        "gate.coverage", "placement.assignments.0.expert", "placement.assignments.0.device",
        "placement.assignments.0.estimated_ms.compute", "placement.assignments.0.estimated_ms.network",
        "placement.assignments.0.estimated_ms.total", "placement.assignments.0.energy_j", "timing.encode_prompt_ms",
        "timing.denoise_ms", "timing.decode_ms", "timing.export_ms", "timing.total_ms", "timing.steps.0.ms",
        "metrics.temporal_flickering", "metrics.warping_error", "metrics.dynamic_degree", "clip.path", "clip.frames",
        "clip.width", "clip.height", "clip.fps", "clip.sha256", "pack.id", "pack.version", "environment.torch",
    ):  # fmt: skip
        value: Any = data
        for key in path.split("."):
            value = value[int(key) if key.isdigit() else key]
        assert value is not None, path
    assert sum(data["gate"]["weights"].values()) == pytest.approx(1.0)
    assert (
        Path(data["clip"]["path"]).name == data["clip"]["path"]
    )  # a name in the run's folder, no place on a disk


def test_keys_that_a_newer_program_added_are_kept() -> None:
    data = stored()
    data["mood"] = "calm"
    data["timing"]["warm_up_ms"] = 4.5
    data["clip"]["codec"] = {"name": "h264"}
    data["placement"]["weather"] = "rain"
    again = json.loads(load_record(data).model_dump_json())
    assert (again["mood"], again["timing"]["warm_up_ms"]) == ("calm", 4.5)
    assert (again["clip"]["codec"], again["placement"]["weather"]) == ({"name": "h264"}, "rain")


def test_a_record_of_a_newer_version_is_refused() -> None:
    with pytest.raises(MoEverseError) as refusal:
        load_record(stored() | {"schema_version": SCHEMA_VERSION + 1})
    assert refusal.value.code == "newer_record"
    assert str(SCHEMA_VERSION + 1) in refusal.value.message and "Update" in refusal.value.remedy


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data.pop("schema_version"),
        lambda data: data.update(schema_version="1"),
        lambda data: data.update(schema_version=True),
        lambda data: data.update(schema_version=0),
        lambda data: data.pop("clip"),
        lambda data: data["gate"].update(coverage=7),
        lambda data: data["request"].update(mode="magic"),
        lambda data: data["placement"]["assignments"][0]["estimated_ms"].update(total=-1),
    ],
)
def test_a_broken_record_is_refused_in_one_sentence(spoil: Any) -> None:
    data = stored()
    spoil(data)
    with pytest.raises(MoEverseError) as refusal:
        load_record(data)
    assert refusal.value.code == "bad_record" and "\n" not in refusal.value.sentence()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(key=st.sampled_from(sorted(RunRecord.model_fields)), value=json_values)
def test_a_record_with_a_random_part_is_read_or_refused(key: str, value: Any) -> None:
    try:
        load_record(stored() | {key: value})
    except MoEverseError as error:
        assert error.code in ("bad_record", "newer_record")


@given(value=json_values)
def test_what_is_no_record_is_refused(value: Any) -> None:
    with pytest.raises(MoEverseError) as refusal:
        load_record(value)
    assert refusal.value.code in ("bad_record", "newer_record")


def test_older_records_are_upgraded_step_by_step_and_stay_untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shown on two made-up versions before the first."""

    def from_minus_one(data: dict[str, Any]) -> dict[str, Any]:
        return {**data, "schema_version": 0, "movie": data["film"]}

    def from_zero(data: dict[str, Any]) -> dict[str, Any]:
        return {**{k: v for k, v in data.items() if k != "movie"}, "schema_version": 1, "clip": data["movie"]}

    monkeypatch.setitem(records.UPGRADES, -1, from_minus_one)
    monkeypatch.setitem(records.UPGRADES, 0, from_zero)
    old = {**stored(GOLDEN[0]), "schema_version": -1}
    old["film"] = old.pop("clip")
    kept = copy.deepcopy(old)
    record = load_record(old)
    assert record.clip == load_record(stored(GOLDEN[0])).clip and record.schema_version == 1
    assert old == kept


def test_a_comparison_holds_both_runs() -> None:
    record = load_record(stored())
    both = ComparisonRecord(runs={"moe": record, "single": record})
    again = ComparisonRecord.model_validate_json(both.model_dump_json())
    assert again == both and set(again.runs) == {"moe", "single"}

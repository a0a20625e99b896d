"""The endpoints a program may call: named, typed, and the page's own handlers among them not."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.ui.studio import Served, serve


@pytest.fixture(scope="module")
def client(served: Served):
    from gradio_client import Client

    return Client(served.url, verbose=False)


def fetch(served: Served, path: str) -> bytes:
    with urllib.request.urlopen(served.url.rstrip("/") + path, timeout=10) as answer:
        return answer.read()


def test_only_the_three_endpoints_are_public(client) -> None:
    info = client.view_api(return_format="dict")
    assert set(info["named_endpoints"]) == {"/generate", "/compare", "/plan"}
    names = [p["parameter_name"] for p in info["named_endpoints"]["/generate"]["parameters"]]
    assert names[:3] == ["prompt", "seed", "steps"]


def test_generate_returns_the_record_and_files_that_can_be_fetched(client, served: Served) -> None:
    result = client.predict("a red cube", seed=3, steps=2, api_name="/generate")
    assert result["record"]["request"]["seed"] == 3
    assert abs(sum(result["record"]["gate"]["weights"].values()) - 1) < 1e-6
    clip = fetch(served, result["files"]["clip"])
    assert clip[4:8] == b"ftyp"
    stored = json.loads(fetch(served, result["files"]["record"]))
    assert stored["clip"].pop("path") == "clip.mp4"
    assert stored == result["record"]


def test_compare_uses_one_seed_for_both(client, served: Served) -> None:
    result = client.predict("a red cube", seed=5, steps=2, api_name="/compare")
    assert {run["request"]["mode"] for run in result["runs"].values()} == {"moe", "single"}
    assert {run["request"]["seed"] for run in result["runs"].values()} == {5}
    for address in result["files"].values():
        assert fetch(served, address)


def test_plan_answers_without_making_a_clip(client, served: Served) -> None:
    before = set(served.runs.iterdir())
    result = client.predict("an avatar dancing in a neon city street", api_name="/plan")
    assert [part["role"] for part in result["plan"]["subtasks"]]
    for assignment in result["placement"]["assignments"]:
        parts = assignment["estimated_ms"]
        assert parts["compute"] + parts["network"] == pytest.approx(parts["total"], abs=1e-3)
    assert set(served.runs.iterdir()) == before


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ({"prompt": " "}, "prompt is empty"),
        ({"prompt": "a cube", "steps": 0}, "steps"),
        ({"prompt": "a cube", "steps": 10_000}, "steps must be 1 to"),
        ({"prompt": "a cube", "top_k": 99}, "top_k"),
        ({"prompt": "a cube", "scenario": "moon"}, "There is no scenario 'moon'"),
    ],
)
def test_bad_calls_get_one_sentence(client, call: dict, words: str) -> None:
    from gradio_client.exceptions import AppError

    with pytest.raises(AppError) as refusal:
        client.predict(**call, api_name="/generate")
    assert words in str(refusal.value)
    assert "Traceback" not in str(refusal.value) and "\n" not in str(refusal.value).strip()


@pytest.mark.parametrize("endpoint", ["generate", "compare", "plan"])
def test_wrong_types_and_huge_values_are_refused_by_name(client, served: Served, endpoint: str) -> None:
    from gradio_client.exceptions import AppError

    path = {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}
    calls: dict[str, list[object]] = {
        "prompt": [None, 5, ["a"], path, "x" * 100_000],
        "top_k": ["two", 1.5, -1, 10**30, path],
    }
    if endpoint != "plan":
        calls |= {
            "seed": [-1, 2**40, "abc", [1]],
            "steps": [10**9, {"a": 1}],
            "guidance": [-1, 1e308, "3; x"],
        }
    else:
        calls |= {"scenario": ["../../etc/passwd", "", "x" * 100_000, path], "objective": ["magic", 5]}
    before = set(served.runs.iterdir())
    for name, values in calls.items():
        for value in values:
            with pytest.raises(AppError) as refusal:
                client.predict(**{"prompt": "a cube", name: value}, api_name=f"/{endpoint}")
            sentence = str(refusal.value)
            assert name in sentence and len(sentence) < 300 and "\n" not in sentence.strip(), (name, value)
    assert set(served.runs.iterdir()) == before, "a refused call makes no folder"


def test_numbers_that_are_none_in_json_are_refused(served: Served) -> None:
    """NaN and infinity, which clients do not send but anybody can type into a request."""
    for place, name in ((1, "seed"), (2, "steps"), (3, "guidance")):
        for text in ("NaN", "Infinity", "-Infinity"):
            values = ["0", "2", "3", "2"]
            values[place - 1] = text
            body = f'{{"data": ["a cube", {", ".join(values)}, "moe", "campus-mec", "latency"]}}'
            address = served.url.rstrip("/") + "/gradio_api/call/generate"
            request = urllib.request.Request(
                address, body.encode(), {"content-type": "application/json"}, method="POST"
            )
            with urllib.request.urlopen(request, timeout=10) as answer:
                event = json.load(answer)["event_id"]
            said = fetch(served, f"/gradio_api/call/generate/{event}").decode()
            assert "event: error" in said and name in said and "finite" in said


def test_agents_get_the_same_three_endpoints_only_when_asked_for(
    served: Served, pack_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(urllib.error.HTTPError):
        fetch(served, "/gradio_api/mcp/schema")
    monkeypatch.setenv("GRADIO_MCP_SERVER", "True")
    with serve(pack_dir) as with_tools:
        tools = {tool["name"]: tool for tool in json.loads(fetch(with_tools, "/gradio_api/mcp/schema"))}
        assert with_tools.left == []
    assert set(tools) == {"generate", "compare", "plan"}
    assert tools["generate"]["inputSchema"]["properties"]["prompt"]["type"] == "string"


def test_files_outside_the_runs_are_not_served(served: Served) -> None:
    for path in (
        "/etc/passwd",
        str(served.runs.parent / "secret.txt"),
        str(served.runs / ".." / "secret.txt"),
    ):
        (served.runs.parent / "secret.txt").write_text("secret")
        with pytest.raises(urllib.error.HTTPError) as refusal:
            fetch(served, f"/gradio_api/file={path}")
        assert refusal.value.code in (403, 404)

"""Requests: bad values are refused in one sentence that names what is allowed; resolving is pure and idempotent."""

import pickle
import string
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from moe_pipeline.schema.errors import MoEverseError
from moe_pipeline.schema.pack import PackManifest
from moe_pipeline.schema.request import PROMPT_LIMIT, SEED_LIMIT, ResolvedRequest, SceneRequest, resolve

HASH = "0" * 64


def part(name: str, kind: str, **more: Any) -> dict[str, Any]:
    file = {"path": f"{name}.safetensors", "sha256": HASH, "bytes": 10}
    return {"kind": kind, "config": {}, "files": [file], "parameters": 1, **more}


def denoiser(name: str, colour: str = "#112233") -> dict[str, Any]:
    return part(name, "video-denoiser", id=name, title=name, domain=name, description=name, colour=colour)


def manifest(**changes: Any) -> PackManifest:
    data = {
        "schema_version": 1, "id": "two-worlds", "version": "1.0.0", "title": "Two", "description": "Two worlds.",
        "licence": "Apache-2.0", "text_encoder": "all-MiniLM-L6-v2", "text_tokens": 32,
        "latents": {"channels": 16, "spatial": 8, "temporal": 4},
        "defaults": {"width": 128, "height": 128, "frames": 16, "fps": 8, "steps": 16, "guidance": 3.0, "top_k": 2},
        "autoencoder": part("autoencoder", "video-autoencoder"), "preview": part("preview", "latent-preview"),
        "generalist": denoiser("generalist"), "experts": [denoiser("city"), denoiser("space")],
        "gate": part("gate", "text-sigma"), **changes,
    }  # fmt: skip
    return PackManifest.model_validate(data)


PACK = manifest()
LIMITS = PACK.limits

requests = st.builds(
    SceneRequest,
    prompt=st.text(string.ascii_letters + " ,", min_size=1, max_size=60).filter(str.strip),
    seed=st.none() | st.integers(0, SEED_LIMIT),
    steps=st.none() | st.integers(1, LIMITS.max_steps),
    guidance=st.none() | st.floats(1.0, LIMITS.max_guidance),
    top_k=st.none() | st.integers(1, 2),
    mode=st.sampled_from(["moe", "single"]),
    frames=st.none() | st.integers(1, 8).map(lambda n: 4 * n),
    width=st.none() | st.integers(4, 12).map(lambda n: 16 * n),
    height=st.none() | st.integers(4, 12).map(lambda n: 16 * n),
    objective=st.sampled_from(["latency", "energy", "balanced"]),
)


@given(request=requests)
def test_resolving_fills_everything_and_twice_is_once(request: SceneRequest) -> None:
    before = request.model_copy(deep=True)
    resolved = resolve(request, PACK)
    assert request == before
    assert None not in resolved.model_dump().values()
    for name, value in request.model_dump(exclude_none=True).items():
        assert getattr(resolved, name) == value  # what was asked for is what is done
    again = SceneRequest(**resolved.model_dump(exclude={"fps"}))
    assert resolve(again, PACK) == resolved
    assert ResolvedRequest.model_validate_json(resolved.model_dump_json()) == resolved


def test_open_fields_take_the_defaults_of_the_pack() -> None:
    resolved = resolve(SceneRequest(prompt="a city"), PACK)
    assert (resolved.steps, resolved.guidance, resolved.top_k, resolved.seed) == (16, 3.0, 2, 0)
    assert (resolved.frames, resolved.width, resolved.height, resolved.fps) == (16, 128, 128, 8)
    one = manifest(experts=[denoiser("city")])
    assert resolve(SceneRequest(prompt="a city"), one).top_k == 1  # two of one expert cannot be had


def test_a_prompt_is_kept_but_for_its_white_space() -> None:
    assert SceneRequest(prompt="  a\tneon \n city ").prompt == "a neon city"
    assert len(SceneRequest(prompt="x" * PROMPT_LIMIT).prompt) == PROMPT_LIMIT
    family = "\U0001f468\u200d\U0001f469\u200d\U0001f467 in a city"  # one sign out of three, joined
    assert SceneRequest(prompt=family).prompt == family


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"prompt": "   "}, ["prompt", "empty"]),
        ({"prompt": "\u200b\u200d"}, ["prompt", "empty"]),
        ({"prompt": "\u200b \u200d\ufeff"}, ["prompt", "empty"]),
        ({"prompt": "x" * 10_000}, ["prompt", "10000", "1000"]),
        ({"prompt": "\ud800"}, ["prompt"]),
        ({}, ["prompt", "missing"]),
        ({"steps": 0}, ["steps", "1", "got 0"]),
        ({"steps": 10_000}, ["steps", "1 to 64", "10000"]),
        ({"steps": 1_234_567}, ["steps", "1234567"]),
        ({"steps": 2.5}, ["steps"]),
        ({"guidance": 0.5}, ["guidance", "1", "0.5"]),
        ({"guidance": 13}, ["guidance", "1 to 12", "13"]),
        ({"guidance": float("nan")}, ["guidance"]),
        ({"top_k": 0}, ["top_k", "1"]),
        ({"top_k": 99}, ["top_k", "1 to 2", "99"]),
        ({"frames": 10_000}, ["frames", "4 to 32", "10000"]),
        ({"frames": 3}, ["frames", "4 to 32", "3"]),
        ({"frames": 15}, ["frames", "multiple of 4", "15", "12"]),
        ({"width": 100}, ["width", "multiple of 16", "100", "96"]),
        ({"height": 1024}, ["height", "64 to 192", "1024"]),
        ({"seed": -1}, ["seed", "0", "-1"]),
        ({"seed": 2**40}, ["seed", str(SEED_LIMIT)]),
        ({"mode": "magic"}, ["mode", "moe", "single", "magic"]),
        ({"objective": "weighted"}, ["objective", "latency", "energy", "balanced"]),
        ({"colour": "red"}, ["colour", "not known"]),
    ],
)
def test_a_bad_value_is_refused_by_name_with_what_is_allowed(
    values: dict[str, Any], named: list[str]
) -> None:
    whole = {"prompt": "a city", **values} if values else values
    with pytest.raises(MoEverseError) as refusal:
        resolve(SceneRequest.parse(**whole), PACK)
    sentence = refusal.value.sentence()
    assert refusal.value.code == "bad_request"
    assert "\n" not in sentence and len(sentence) < 200
    assert all(word in sentence for word in named), sentence


@given(
    values=st.dictionaries(
        st.sampled_from([*SceneRequest.model_fields, "extra"]),
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text(max_size=20)
        | st.lists(st.integers(), max_size=3),
    )
)
def test_loose_values_either_resolve_or_are_refused(values: dict[str, Any]) -> None:
    try:
        resolved = resolve(SceneRequest.parse(**values), PACK)
    except MoEverseError as error:
        assert error.code == "bad_request" and error.message
    else:
        assert 1 <= resolved.steps <= LIMITS.max_steps


def test_two_models_of_one_id_are_refused() -> None:
    for experts in ([denoiser("city"), denoiser("city")], [denoiser("generalist")]):
        with pytest.raises(ValueError, match="stands for two models"):
            manifest(experts=experts)


def test_a_refusal_travels_between_processes() -> None:
    error = MoEverseError("no_city", "There is no city.", "Name one.")
    for copy in (
        pickle.loads(pickle.dumps(error)),
        type(error)(*error.args),
    ):  # simpy copies them in the second way
        assert (copy.code, copy.message, copy.remedy) == (error.code, error.message, error.remedy)
        assert str(copy) == "There is no city. Name one."


def test_the_manifest_of_this_test_is_one_that_yaml_can_hold() -> None:
    text = yaml.safe_dump(PACK.model_dump(mode="json"))
    assert PackManifest.model_validate(yaml.safe_load(text)) == PACK

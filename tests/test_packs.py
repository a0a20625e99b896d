"""Packs: whatever is wrong with one is named in one sentence, and nothing outside of its folder is read."""

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save

from moe_pipeline.engine import Engine, EngineConfig
from moe_pipeline.packs import MANIFEST, open_pack
from moe_pipeline.schema.errors import MoEverseError
from moe_pipeline.testing import check_pack

Edit = Callable[[dict[str, Any]], Any]


def component(folder: Path, name: str, kind: str) -> dict[str, Any]:
    content = save({f"{name}.weight": torch.ones(4, 4)})
    (folder / f"{name}.safetensors").write_bytes(content)
    file = {
        "path": f"{name}.safetensors",
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
    }
    return {"kind": kind, "config": {}, "files": [file], "parameters": 16}


def write_small_pack(folder: Path) -> Path:
    """Whole by every checksum; its tensors are no model's."""
    folder.mkdir()

    def denoiser(name: str, colour: str) -> dict[str, Any]:
        entry = component(folder, name, "video-denoiser")
        return entry | {"id": name, "title": name, "domain": name, "description": name, "colour": colour}

    manifest = {
        "schema_version": 1, "id": "small", "version": "1.0.0", "title": "Small", "description": "For tests.",
        "licence": "Apache-2.0", "text_encoder": "all-MiniLM-L6-v2", "text_tokens": 32,
        "latents": {"channels": 16, "spatial": 8, "temporal": 4},
        "defaults": {"width": 128, "height": 128, "frames": 16, "fps": 8, "steps": 16, "guidance": 3.0, "top_k": 1},
        "autoencoder": component(folder, "autoencoder", "video-autoencoder"),
        "preview": component(folder, "preview", "latent-preview"), "generalist": denoiser("generalist", "#000000"),
        "experts": [denoiser("city", "#ff0000")], "gate": component(folder, "gate", "text-sigma"),
    }  # fmt: skip
    (folder / MANIFEST).write_text(yaml.safe_dump(manifest, sort_keys=False))
    return folder


@pytest.fixture
def pack(tmp_path: Path) -> Path:
    return write_small_pack(tmp_path / "small")


def edit(folder: Path, change: Edit) -> None:
    data = yaml.safe_load((folder / MANIFEST).read_text())
    change(data)
    (folder / MANIFEST).write_text(yaml.safe_dump(data, sort_keys=False))


def refusal_of(act: Callable[[], object]) -> MoEverseError:
    with pytest.raises(MoEverseError) as refusal:
        act()
    assert "\n" not in refusal.value.sentence() and len(refusal.value.sentence()) < 250
    return refusal.value


def test_a_whole_pack_is_read_and_verified(pack: Path) -> None:
    opened = open_pack(pack)
    sizes = sum(path.stat().st_size for path in pack.glob("*.safetensors"))
    assert opened.verify() == sizes
    assert opened.manifest.expert_ids() == ("city",)
    assert opened.tensors(opened.manifest.gate)["gate.weight"].shape == (4, 4)


def test_the_hash_of_a_pack_changes_with_its_weights(pack: Path) -> None:
    before = open_pack(pack).sha256
    edit(pack, lambda data: data["experts"][0]["files"][0].update(sha256="f" * 64))
    assert open_pack(pack).sha256 != before


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (lambda path: path.unlink(), "pack_file_missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:-7]), "pack_file_truncated"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\x99"), "pack_file_altered"),
        (lambda path: (path.unlink(), path.mkdir()), "pack_file_missing"),
    ],
)
def test_a_damaged_file_is_named(pack: Path, damage: Callable[[Path], object], code: str) -> None:
    damage(pack / "city.safetensors")
    opened = open_pack(pack)  # the manifest is fine; nobody has asked for the weights yet
    for act in (opened.verify, lambda: opened.tensors(opened.manifest.experts[0])):
        error = refusal_of(act)
        assert error.code == code and "small/city.safetensors" in error.message and error.remedy
    if code != "pack_file_altered":  # a look at names and sizes is enough to see it
        assert refusal_of(opened.require_files).code == code
    else:
        opened.require_files()


@pytest.mark.parametrize(
    ("change", "code", "named"),
    [
        (lambda d: d.update(colour="red"), "pack_broken", "colour: this key is not known"),
        (lambda d: d["experts"][0].update(colour="red"), "pack_broken", "experts.0.colour"),
        (lambda d: d.pop("gate"), "pack_broken", "gate: this key is missing"),
        (lambda d: d.pop("schema_version"), "pack_broken", "schema_version: this key is missing"),
        (lambda d: d.update(schema_version=2), "pack_newer", "schema_version 2"),
        (lambda d: d.update(schema_version="2"), "pack_broken", "schema_version"),
        (lambda d: d.update(schema_version=0), "pack_broken", "schema_version"),
        (lambda d: d.update(experts=[]), "pack_broken", "experts"),
        (lambda d: d.update(experts=d["experts"] * 2), "pack_broken", "'city' stands for two models"),
        (lambda d: d["latents"].update(channels=0), "pack_broken", "latents.channels"),
        (lambda d: d["gate"]["files"][0].update(sha256="abc"), "pack_broken", "sha256"),
    ],
)
def test_a_wrong_manifest_is_refused_by_its_key(pack: Path, change: Edit, code: str, named: str) -> None:
    edit(pack, change)
    error = refusal_of(lambda: open_pack(pack))
    assert error.code == code and f"small/{MANIFEST}" in error.message and named in error.message


@pytest.mark.parametrize(
    "path",
    [
        "../secret.safetensors",
        "/etc/passwd",
        "a/../../secret",
        "..",
        "a//b",
        "~/x",
        "a\\..\\b",
        ".hidden",
        "a/",
        "x\n",
        "C:/x",
    ],
)
def test_a_path_that_could_leave_the_pack_is_refused_unread(pack: Path, path: str) -> None:
    (pack.parent / "secret.safetensors").write_bytes(b"secret")
    edit(pack, lambda data: data["gate"]["files"][0].update(path=path))
    error = refusal_of(lambda: open_pack(pack))
    assert error.code == "pack_broken" and "path" in error.message


def test_a_file_in_a_folder_of_the_pack_is_allowed(pack: Path) -> None:
    (pack / "experts").mkdir()
    shutil.move(pack / "city.safetensors", pack / "experts" / "city.safetensors")
    edit(pack, lambda data: data["experts"][0]["files"][0].update(path="experts/city.safetensors"))
    assert open_pack(pack).verify() > 0


BROKEN_YAML = [
    "{", "- a\n- b", "", "just text", "\x00", "a: 2001-13-45", "!!int x", "!!bool x", "!!timestamp x", "[" * 400,
    "!!python/object/apply:os.getcwd []", "a: &a [*a]", "\ufffe",
]  # fmt: skip


@pytest.mark.parametrize("text", BROKEN_YAML)
def test_what_is_no_manifest_is_refused(pack: Path, text: str) -> None:
    (pack / MANIFEST).write_text(text)
    assert refusal_of(lambda: open_pack(pack)).code == "pack_broken"


@given(
    content=st.binary(max_size=60)
    | st.text(alphabet="{}[]:-!&*?|>'\"%@` \nab01.,#_", max_size=40).map(str.encode)
)
def test_random_bytes_never_raise_anything_but_a_refusal(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    folder = tmp_path_factory.mktemp("random")
    (folder / MANIFEST).write_bytes(content)
    assert refusal_of(lambda: open_pack(folder)).code == "pack_broken"


def test_a_folder_without_a_pack_is_named(tmp_path: Path) -> None:
    for place in (tmp_path / "nowhere", tmp_path):
        error = refusal_of(lambda place=place: open_pack(place))
        assert error.code == "pack_missing" and place.name in error.message
    (tmp_path / "file").write_text("x")
    assert refusal_of(lambda: open_pack(tmp_path / "file")).code == "pack_missing"
    for place in (Path("x" * 300), tmp_path / ("x" * 300)):  # longer than a name may be
        assert refusal_of(lambda place=place: open_pack(place)).code == "pack_missing"


def test_a_checked_file_that_holds_no_tensors_is_refused(pack: Path) -> None:
    content = b"not tensors at all"
    (pack / "gate.safetensors").write_bytes(content)
    facts = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    edit(pack, lambda data: data["gate"]["files"][0].update(facts))
    opened = open_pack(pack)
    error = refusal_of(lambda: opened.tensors(opened.manifest.gate))
    assert error.code == "pack_broken" and "small/gate.safetensors" in error.message


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda gate: None, "pack_mismatch"),  # right by its checksum, but no gate's tensors
        (lambda gate: gate.update(config={"experts": "many"}), "pack_mismatch"),
        (lambda gate: gate.update(config={"colour": 1}), "pack_mismatch"),
        (lambda gate: gate.update(kind="os.system"), "unknown_component"),
    ],
)
def test_a_component_that_cannot_be_built_is_refused(pack: Path, change: Edit, code: str) -> None:
    edit(pack, lambda data: change(data["gate"]))
    engine = Engine(open_pack(pack), EngineConfig())
    assert refusal_of(lambda: engine.gate).code == code
    if engine.manifest.gate.config or code == "unknown_component":  # wrong without a look at the weights
        assert refusal_of(lambda: engine.shell(engine.manifest.gate)).code == code


# -------------------------------------------------------------------------------------- conformance of packs


def linked(folder: Path, to: Path) -> Path:
    """The same pack by hard links, so that its manifest can be changed without a copy of the weights."""
    to.mkdir()
    for path in folder.iterdir():
        if path.name == MANIFEST:
            shutil.copy(path, to)
        else:
            os.link(path, to / path.name)
    return to


def test_a_pack_of_the_trainers_conforms(random_pack: Path) -> None:
    found = check_pack(random_pack, EngineConfig(dtype="bf16"))
    assert len(found) >= 5 and any("6 experts" in sentence for sentence in found)


@pytest.mark.parametrize(
    ("change", "because"),
    [
        (lambda d: d["defaults"].update(steps=1000), "steps"),
        (lambda d: d["defaults"].update(width=100), "multiple of 16"),
        (lambda d: d.update(limits={"side_multiple": 4}), "factor of 8"),
        (lambda d: d["experts"][0].update(colour=d["experts"][1]["colour"]), "share a colour"),
        (lambda d: d["gate"].update(parameters=3), "the manifest says 3"),
        (lambda d: d["experts"][0].update(files=d["gate"]["files"]), "two components"),
    ],
)  # fmt: skip
def test_the_conformance_check_says_what_is_wrong(
    random_pack: Path, tmp_path: Path, change: Edit, because: str
) -> None:
    copy = linked(random_pack, tmp_path / "changed")
    edit(copy, change)
    assert because in refusal_of(lambda: check_pack(copy)).message


def test_pipelines_that_share_a_cache_share_models_of_equal_content_and_precision(
    random_pack: Path, tmp_path: Path
) -> None:
    copy = linked(random_pack, tmp_path / "copy")
    first = Engine(open_pack(random_pack), EngineConfig(dtype="bf16"))
    second = Engine(open_pack(copy), EngineConfig(dtype="bf16"), cache=first.cache)
    precise = Engine(open_pack(copy), EngineConfig(dtype="fp32"), cache=first.cache)
    assert first.denoiser("city") is second.denoiser("city")
    assert first.denoiser("city") is not first.denoiser("space")
    assert precise.denoiser("city") is not first.denoiser("city")
    assert {p.dtype for p in precise.denoiser("city").parameters()} == {torch.float32}  # type: ignore[attr-defined]

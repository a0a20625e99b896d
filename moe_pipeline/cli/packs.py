"""`packs`: what is installed, what it holds, and whether every file is whole."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moe_pipeline.cli import options as opt
from moe_pipeline.cli.border import results_only

if TYPE_CHECKING:
    from moe_pipeline.packs import HubPack, Pack


def packs(
    folder: Annotated[
        Path | None,
        typer.Argument(
            help="A pack's folder, a folder of weights in the hub's layout, or a pack's id. Default: all."
        ),
    ] = None,
    json: opt.Json = False,
) -> None:
    """List packs and check every file of them.

    Experts, sizes, training and defaults; a missing, altered or truncated file is named. Packs of the hub whose
    weights are not here are listed with the command that fetches them; nothing is ever downloaded by itself.
    """
    with results_only() as results:
        found = [describe(place) for place in ([folder] if folder is not None else installed())]
        if json:
            print(jsonlib.dumps({"packs": found}, indent=1, ensure_ascii=False), file=results)
        else:
            print("\n\n".join(pack_text(pack) for pack in found), file=results)


def installed() -> list[Path]:
    """Folders of the packs that come with the project; the embedded one even when it is missing, to say so."""
    from moe_pipeline.packs import shipped_packs

    return shipped_packs()


def describe(folder: Path) -> dict[str, Any]:
    """A pack as plain data, after checking all of its files.

    Weights of a hub pack that are not here are a fact about it (`weights`, `missing`, `get`), no error; weights that
    are here and broken are one.

    Raises:
        MoEverseError: the manifest or a file is missing, altered or truncated; the sentence names it.
    """
    from moe_pipeline.packs import HubPack, open_any_pack

    pack = open_any_pack(folder)
    facts = _hub(pack) if isinstance(pack, HubPack) else _embedded(pack)
    manifest = pack.manifest
    return {
        "id": manifest.id,
        "version": manifest.version,
        "kind": manifest.kind,
        "title": manifest.title,
        "description": manifest.description,
        "licence": manifest.licence,
        "sha256": pack.sha256,
        **facts,
        "defaults": manifest.defaults.model_dump(),
        "limits": manifest.limits.model_dump(),
        "generalist": _network(manifest.generalist),
        "experts": [_network(expert) for expert in manifest.experts],
    }


def _embedded(pack: Pack) -> dict[str, Any]:
    manifest = pack.manifest
    networks = (*manifest.experts, manifest.generalist)
    return {
        "bytes": pack.verify(),
        "parameters": sum(part.parameters for part in (*networks, manifest.autoencoder, manifest.gate)),
    }


def _hub(pack: HubPack) -> dict[str, Any]:
    """Where the weights are, or what is missing; broken weights in a folder that was named are refused."""
    missing = pack.missing()
    if missing is not None and pack.given:
        raise missing
    here = missing is None
    return {
        "repository": pack.manifest.repository,
        "weights": "here" if here else "missing",
        "folder": str(pack.weights) if here else None,
        "bytes": pack.verify() if here else None,
        "code": None if missing is None else missing.code,
        "missing": None if missing is None else missing.message,
        "get": pack.get_command(),
        "download_gb": pack.manifest.download_gb,
    }


def _network(entry: Any) -> dict[str, Any]:
    facts = entry.model_dump(include={"id", "title", "domain", "description", "colour", "parameters"})
    if entry_prompt := getattr(entry, "prompt", ""):
        facts["prompt"] = entry_prompt
    training = getattr(entry, "training", None)
    facts["training"] = None if training is None else training.model_dump()
    facts["sha256"] = [file.sha256 for file in getattr(entry, "files", ())]
    return dict(facts)


def pack_text(pack: dict[str, Any]) -> str:
    """A pack as a heading, its defaults and a table of its networks."""
    from moe_pipeline.cli.tables import text_table

    if pack["kind"] == "hub":
        return _hub_text(pack)
    rows = []
    for network in [*pack["experts"], pack["generalist"]]:
        training = network["training"] or {}
        rows.append(
            [
                network["id"],
                network["description"],
                f"{network['parameters'] / 1e6:.2f}",
                f"{training['minutes']:.0f}" if training else "-",
                f"{training['samples']:,}" if training else "-",
            ]
        )
    size = f"{pack['bytes'] / 1e6:.1f} MB, every file matches its checksum; {_terms(pack)}"
    table = text_table(["network", "what it knows", "million parameters", "minutes", "samples"], rows)
    return f"{_head(pack)}\n{size}\n\n{table}"


def size_text(count: int) -> str:
    """Bytes in MB, or in GB from one on."""
    return f"{count / 1e9:.3g} GB" if count >= 1e9 else f"{count / 1e6:.3g} MB"


def _head(pack: dict[str, Any]) -> str:
    return f"{pack['id']} {pack['version']}: {pack['title']}. {pack['description']}"


def _terms(pack: dict[str, Any]) -> str:
    defaults = pack["defaults"]
    return (
        f"licence {pack['licence']}; default clip "
        f"{defaults['frames']} frames of {defaults['width']}x{defaults['height']} at {defaults['fps']} fps, "
        f"{defaults['steps']} steps, guidance {defaults['guidance']:g}, top-{defaults['top_k']}"
    )


def _hub_text(pack: dict[str, Any]) -> str:
    """The same for a hub pack: where its weights are or how to get them, and what each expert reads."""
    from moe_pipeline.cli.tables import text_table

    if pack["weights"] == "here":
        state = f"weights here: {pack['folder']}, {size_text(pack['bytes'])} of safetensors"
    else:
        reason = (
            "weights not here"
            if pack["code"] == "weights_missing"
            else f"weights not whole: {pack['missing']}"
        )
        state = f"{reason.rstrip('.')} ({pack['download_gb']:g} GB). Get them: {pack['get']}"
    rows = [
        [network["id"], network["description"], network.get("prompt", "")]
        for network in [*pack["experts"], pack["generalist"]]
    ]
    table = text_table(["network", "what it knows", "reads besides the prompt"], rows)
    return f"{_head(pack)}\n{state}\n{_terms(pack)}\n\n{table}"

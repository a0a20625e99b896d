"""`packs`: what is installed, what it holds, and whether every file is whole."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import Annotated, Any

import typer

from moe_pipeline.cli import options as opt
from moe_pipeline.cli.border import results_only


def packs(
    folder: Annotated[
        Path | None, typer.Argument(help="A pack's folder. Default: every pack in assets/packs.")
    ] = None,
    json: opt.Json = False,
) -> None:
    """List packs and check every file of them.

    Experts, sizes, training and defaults; a missing, altered or truncated file is named.
    """
    with results_only() as results:
        found = [describe(place) for place in ([folder] if folder is not None else installed())]
        if json:
            print(jsonlib.dumps({"packs": found}, indent=1, ensure_ascii=False), file=results)
        else:
            print("\n\n".join(pack_text(pack) for pack in found), file=results)


def installed() -> list[Path]:
    """Folders of the packs that come with the project; the embedded one even when it is missing, to say so."""
    from moe_pipeline.packs import EMBEDDED, MANIFEST

    others = sorted(path.parent for path in EMBEDDED.parent.glob(f"*/{MANIFEST}"))
    return list(dict.fromkeys([EMBEDDED, *others]))


def describe(folder: Path) -> dict[str, Any]:
    """A pack as plain data, after reading and checking all of its files.

    Raises:
        MoEverseError: the manifest or a file is missing, altered or truncated; the sentence names it.
    """
    from moe_pipeline.packs import open_pack

    pack = open_pack(folder)
    size = pack.verify()
    manifest = pack.manifest
    networks = (*manifest.experts, manifest.generalist)
    return {
        "id": manifest.id,
        "version": manifest.version,
        "title": manifest.title,
        "description": manifest.description,
        "licence": manifest.licence,
        "sha256": pack.sha256,
        "bytes": size,
        "parameters": sum(part.parameters for part in (*networks, manifest.autoencoder, manifest.gate)),
        "defaults": manifest.defaults.model_dump(),
        "limits": manifest.limits.model_dump(),
        "generalist": _network(manifest.generalist),
        "experts": [_network(expert) for expert in manifest.experts],
    }


def _network(entry: Any) -> dict[str, Any]:
    facts = entry.model_dump(include={"id", "title", "domain", "description", "colour", "parameters"})
    training = entry.training
    facts["training"] = None if training is None else training.model_dump()
    facts["sha256"] = [file.sha256 for file in entry.files]
    return dict(facts)


def pack_text(pack: dict[str, Any]) -> str:
    """A pack as a heading, its defaults and a table of its networks."""
    from moe_pipeline.cli.tables import text_table

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
    defaults = pack["defaults"]
    head = f"{pack['id']} {pack['version']}: {pack['title']}. {pack['description']}"
    size = (
        f"{pack['bytes'] / 1e6:.1f} MB, every file matches its checksum; licence {pack['licence']}; default clip "
        f"{defaults['frames']} frames of {defaults['width']}x{defaults['height']} at {defaults['fps']} fps, "
        f"{defaults['steps']} steps, guidance {defaults['guidance']:g}, top-{defaults['top_k']}"
    )
    table = text_table(["network", "what it knows", "million parameters", "minutes", "samples"], rows)
    return f"{head}\n{size}\n\n{table}"

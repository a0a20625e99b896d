"""`doctor`: what this machine can run and what is missing, in words."""

from __future__ import annotations

import json as jsonlib
import os
import platform
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import typer

from moe_pipeline.cli import options as opt
from moe_pipeline.cli.border import UNEXPECTED, printable, results_only
from moe_pipeline.schema.errors import MoEverseError

State = Literal["ok", "limited", "missing"]
NEEDED_MEMORY_GB = 2.5  # peak of the default clip and what the system needs beside it
NEEDED_DISK_GB = 0.5
INSTALL = "Run `make run` once, or install requirements.txt."


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. `missing` means that something announced in `what` does not work here."""

    what: str
    state: State
    words: str
    remedy: str = ""


Check = Callable[[], Iterator[Finding]]


def doctor(pack: opt.PackFolder = None, weights: opt.Weights = None, json: opt.Json = False) -> None:
    """Say what this machine can run and what is missing."""
    with results_only() as results:
        findings = examine(pack, weights)
        can, cannot = verdict(findings)
        if json:
            data = {"can": can, "cannot": cannot, "findings": [asdict(finding) for finding in findings]}
            print(jsonlib.dumps(data, indent=1, ensure_ascii=False), file=results)
        else:
            print(report_text(findings, can, cannot), file=results)
    if any(finding.state == "missing" for finding in findings if finding.what in ESSENTIAL):
        raise typer.Exit(UNEXPECTED)


ESSENTIAL = ("Python", "libraries", "torch", "pack", "text encoder", "video")


def examine(pack: Path | None = None, weights: Path | None = None) -> list[Finding]:
    """All findings; a check that fails in an unforeseen way becomes a finding too, so the others still report."""
    checks: tuple[tuple[str, Check], ...] = (
        ("Python", _python),
        ("libraries", _libraries),
        ("processor", _processor),
        ("memory", _memory),
        ("disk", _disk),
        ("torch", _torch),
        ("pack", lambda: _pack(pack)),
        ("hub packs", _hub_packs),
        ("text encoder", _text_encoder),
        ("video", _video),
        ("profiles", _profiles),
        ("this-machine", _this_machine),
        ("app", _app),
        ("VBench networks", lambda: _vbench(weights)),
        ("energy counter", _energy),
    )
    findings: list[Finding] = []
    for name, check in checks:
        try:
            findings += check()
        except MoEverseError as error:
            findings.append(Finding(name, "missing", error.message, error.remedy))
        except (ImportError, OSError, RuntimeError, ValueError) as error:
            findings.append(Finding(name, "missing", printable(f"{type(error).__name__}: {error}."), INSTALL))
    return findings


def verdict(findings: list[Finding]) -> tuple[list[str], list[str]]:
    """What works and what does not, as sentences."""
    state = {finding.what: finding.state for finding in findings}
    clips = all(state.get(name) != "missing" for name in ESSENTIAL)
    edge = state.get("profiles") == "ok"
    cuda = any(finding.what == "torch" and "CUDA" in finding.words for finding in findings)
    claims = (
        (clips, "make clips with the pack: generate, compare, bench, case-study"),
        (clips and edge, "place the experts of a prompt: plan"),
        (edge, "simulate the edge over time: simulate"),
        (clips and state.get("app") == "ok", "serve the app: make run"),
        (state.get("video") == "ok", "measure any clip: evaluate"),
        (cuda, "run packs of full-size models, which need a CUDA device"),
        (
            state.get("VBench networks") == "ok",
            "measure VBench's network dimensions by VBench's own networks",
        ),
    )
    return [words for holds, words in claims if holds], [words for holds, words in claims if not holds]


def report_text(findings: list[Finding], can: list[str], cannot: list[str]) -> str:
    """Findings, then the verdict."""
    marks = {"ok": "ok      ", "limited": "limited ", "missing": "missing "}
    width = max(len(finding.what) for finding in findings)
    lines = []
    for finding in findings:
        remedy = f" {finding.remedy}" if finding.remedy else ""
        lines.append(f"{marks[finding.state]} {finding.what:<{width}}  {finding.words}{remedy}")
    lines += ["", "This machine can", *(f"  {text}" for text in can)]
    if cannot:
        lines += ["It cannot", *(f"  {text}" for text in cannot)]
    return "\n".join(lines)


# ------------------------------------------------------------------------------------------------- checks


def _python() -> Iterator[Finding]:
    yield Finding("Python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}.")


LIBRARIES = (
    "torch", "transformers", "tokenizers", "safetensors", "av", "opencv-python", "numpy", "scipy", "scikit-image",
    "pillow", "ortools", "simpy", "pyyaml", "platformdirs", "pydantic", "rich",
)  # fmt: skip


def _libraries() -> Iterator[Finding]:
    missing = []
    for name in LIBRARIES:
        try:
            version(name)
        except PackageNotFoundError:
            missing.append(name)
    if missing:
        yield Finding("libraries", "missing", f"Not installed: {', '.join(missing)}.", INSTALL)
    else:
        yield Finding("libraries", "ok", f"All {len(LIBRARIES)} that make clips are installed.")


def _processor() -> Iterator[Finding]:
    from moe_pipeline.studies.bench import describe_machine

    machine = describe_machine(None)
    busy = machine.load_after is not None and machine.load_after > 0.5 * machine.cores
    load = "" if machine.load_after is None else f", load {machine.load_after:.1f}"
    words = f"{machine.cpu}, {machine.cores} usable cores{load}."
    if machine.cores < 2:
        yield Finding("processor", "limited", words, "Clips take about twice as long on one core as on two.")
    elif busy:
        yield Finding("processor", "limited", words, "Other programs are using it; timings will be slow.")
    else:
        yield Finding("processor", "ok", words)


def _memory() -> Iterator[Finding]:
    import psutil

    memory = psutil.virtual_memory()
    free, total = memory.available / 1e9, memory.total / 1e9
    words = f"{free:.1f} of {total:.1f} GB free; a clip needs up to {NEEDED_MEMORY_GB:g} GB."
    if free >= NEEDED_MEMORY_GB:
        yield Finding("memory", "ok", words)
    else:
        yield Finding("memory", "limited", words, "Close other programs or ask for smaller clips.")


def _disk() -> Iterator[Finding]:
    from moe_pipeline.runs import RunStore

    place = RunStore().root
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free / 1e9
    if not os.access(place, os.W_OK):
        yield Finding(
            "disk", "missing", f"The run store below {place} cannot be written.", "Set XDG_CACHE_HOME."
        )
    elif free < NEEDED_DISK_GB:
        yield Finding("disk", "limited", f"{free:.1f} GB free for the run store.", "Free some space.")
    else:
        yield Finding("disk", "ok", f"{free:.0f} GB free for the run store.")


def _torch() -> Iterator[Finding]:
    import torch

    if torch.cuda.is_available():
        name = torch.cuda.get_device_name()
        memory = torch.cuda.get_device_properties(0).total_memory / 1e9
        yield Finding("torch", "ok", f"{torch.__version__} with CUDA on {name}, {memory:.0f} GB.")
        return
    fast = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    precision = "bf16" if fast else "float32, as this processor does not multiply bf16 itself"
    capability = torch.backends.cpu.get_cpu_capability()
    yield Finding(
        "torch",
        "ok",
        f"{torch.__version__} on the CPU ({capability}, {torch.get_num_threads()} threads), in {precision}.",
    )


def _pack(folder: Path | None) -> Iterator[Finding]:
    from moe_pipeline.cli.packs import describe, size_text

    pack = describe(folder) if folder is not None else describe(_embedded())
    head = f"{pack['id']} {pack['version']}, {len(pack['experts'])} experts"
    if pack["kind"] == "embedded":
        words = f"{head}, {pack['bytes'] / 1e6:.0f} MB, every file matches its checksum."
        yield Finding("pack", "ok", words)
    elif pack["weights"] == "here":
        yield Finding("pack", "ok", f"{head}, {size_text(pack['bytes'])} of safetensors in {pack['folder']}.")
    else:
        yield Finding("pack", "missing", f"{head}: {pack['missing']}", f"To get them: `{pack['get']}`.")


def _hub_packs() -> Iterator[Finding]:
    from moe_pipeline.packs import HubPack, open_any_pack, shipped_packs

    opened = [open_any_pack(folder) for folder in shipped_packs()]
    packs = [pack for pack in opened if isinstance(pack, HubPack)]
    here = [pack for pack in packs if pack.missing() is None]
    for pack in packs:
        if pack in here:
            yield Finding("hub packs", "ok", f"{pack.manifest.id}: weights here, in {pack.weights}.")
        else:
            words = f"{pack.manifest.id}: weights not here ({pack.manifest.download_gb:g} GB)."
            yield Finding("hub packs", "limited", words, f"To get them: `{pack.get_command()}`.")


def _embedded() -> Path:
    from moe_pipeline.packs import EMBEDDED

    return EMBEDDED


def _text_encoder() -> Iterator[Finding]:
    from moe_pipeline.prompting.encoder import minilm_folder

    folder = minilm_folder()
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
    yield Finding(
        "text encoder", "ok", f"all-MiniLM-L6-v2 is installed ({size:.0f} MB); nothing is downloaded."
    )


def _video() -> Iterator[Finding]:
    import av

    try:
        av.codec.Codec("libx264", "w")
    except Exception:  # PyAV's own error type is named differently across versions
        yield Finding(
            "video", "missing", "PyAV has no H.264 encoder.", "Install the wheel of `av` from PyPI."
        )
        return
    yield Finding("video", "ok", f"PyAV {av.__version__} writes H.264 and reads any clip.")


def _profiles() -> Iterator[Finding]:
    from moe_pipeline.edge.profiles import load_profiles

    library = load_profiles()
    words = f"{len(library.devices)} devices, {len(library.networks)} networks, {len(library.scenarios)} scenarios."
    yield Finding("profiles", "ok", words)


def _this_machine() -> Iterator[Finding]:
    from moe_pipeline.cli.devices import profiles
    from moe_pipeline.edge.profiles import THIS_MACHINE

    if THIS_MACHINE in profiles().devices:
        yield Finding("this-machine", "ok", "Measured; placements may use it.")
    else:
        remedy = "Run `python -m moe_pipeline devices --calibrate` once."
        yield Finding("this-machine", "limited", "Not measured yet.", remedy)


def _app() -> Iterator[Finding]:
    try:
        yield Finding("app", "ok", f"gradio {version('gradio')}.")
    except PackageNotFoundError:
        yield Finding("app", "missing", "gradio is not installed.", INSTALL)


def _vbench(weights: Path | None) -> Iterator[Finding]:
    from moe_pipeline.metrics.weights import WEIGHTS, available

    at_hand = available(weights)
    missing = [WEIGHTS[key].title for key, there in at_hand.items() if not there]
    if not missing:
        yield Finding("VBench networks", "ok", f"The weights of all {len(at_hand)} are at hand.")
        return
    words = f"{len(at_hand) - len(missing)} of {len(at_hand)} have their weights here; missing: {', '.join(missing)}."
    remedy = "Stand-ins are measured under their own names; docs/metrics.md says where the weights are."
    yield Finding("VBench networks", "limited", words, remedy)


def _energy() -> Iterator[Finding]:
    from moe_pipeline.metrics.latency import NO_COUNTER, read_energy

    counters, source = read_energy()
    if counters:
        yield Finding("energy counter", "ok", f"{source} can be read; energy of a run is measured.")
    else:
        yield Finding(
            "energy counter",
            "limited",
            f"{NO_COUNTER[:1].upper()}{NO_COUNTER[1:]}; energy is estimated only.",
        )

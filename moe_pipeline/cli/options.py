"""Options that several commands share, and what is made of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from moe_pipeline.pipeline import MoEVideoPipeline
    from moe_pipeline.schema.request import SceneRequest

# Plain text and numbers here: the request itself says what is allowed, in the same words everywhere.
Prompt = Annotated[str, typer.Argument(help="The scene in words, up to 1000 characters.")]
Seed = Annotated[int | None, typer.Option("--seed", help="Same seed, same frames. Default: the pack's.")]
Steps = Annotated[
    int | None, typer.Option("--steps", help="Denoising steps. Default: the pack's, 16 in tiny-worlds.")
]
Guidance = Annotated[
    float | None,
    typer.Option(
        "--guidance",
        help="How strictly the clip follows the words (classifier-free guidance); 1 switches it off. Default: 3 in "
        "tiny-worlds.",
    ),
]
SubjectGuidance = Annotated[
    float | None,
    typer.Option(
        "--subject-guidance",
        help="How many times more strongly the subjects of a scene are guided than its world while the picture takes "
        "shape; 1 treats both alike. Default: the pack's.",
    ),
]
FillDetails = Annotated[
    bool,
    typer.Option(
        "--details/--no-details",
        help="Fill in colours, by the seed, and places that the prompt leaves open, where the pack knows any; the "
        "record says what.",
    ),
]
TopK = Annotated[
    int | None, typer.Option("--top-k", help="Experts that take part in a denoising step. Default: 2.")
]
Mode = Annotated[
    str, typer.Option("--mode", metavar="moe|single", help="Mixture of experts, or the generalist alone.")
]
Frames = Annotated[
    int | None, typer.Option("--frames", help="Frames of the clip. Default: 16 in tiny-worlds.")
]
Width = Annotated[int | None, typer.Option("--width", help="Width in pixels. Default: 128 in tiny-worlds.")]
Height = Annotated[
    int | None, typer.Option("--height", help="Height in pixels. Default: 128 in tiny-worlds.")
]
Scenario = Annotated[
    str,
    typer.Option("--scenario", help="Edge scenario that the experts are placed in; `devices` lists them."),
]
Objective = Annotated[
    str, typer.Option("--objective", metavar="latency|energy|balanced", help="What the placement minimises.")
]
PackFolder = Annotated[
    Path | None,
    typer.Option(
        "--pack",
        help="Folder of a pack or of weights in the hub's layout, or the id of a pack that `packs` lists. Default: "
        "the one that brings its own weights.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Only JSON on standard output; progress goes to stderr.")]
Weights = Annotated[
    Path | None,
    typer.Option("--weights", help="Folder with the weights of VBench's networks; never downloaded."),
]
Killed = Annotated[
    list[str] | None, typer.Option("--kill", help="An edge device that has failed; may be repeated.")
]
Bandwidth = Annotated[
    float, typer.Option("--bandwidth", help="Throughput of all links as a multiple of nominal, 0.01 to 10.")
]


def scene_request(**values: Any) -> SceneRequest:
    """A checked request; options that were not given keep the request's own defaults."""
    from moe_pipeline.schema.request import SceneRequest

    return SceneRequest.parse(**{name: value for name, value in values.items() if value is not None})


def check(request: SceneRequest, pack: Path | None) -> None:
    """Refuse what this pack or these profiles cannot do, before torch is loaded.

    Raises:
        MoEverseError: a value outside the pack's limits, an unknown scenario, a broken manifest.
    """
    from moe_pipeline.edge.profiles import load_profiles
    from moe_pipeline.packs import open_any_pack
    from moe_pipeline.schema.request import resolve

    load_profiles().scenario(resolve(request, open_any_pack(pack).manifest).scenario)


def check_weights(weights: Path | None) -> None:
    """A folder of weights that was named has to be there."""
    from moe_pipeline.schema.errors import MoEverseError

    if weights is not None and not os.path.isdir(weights):
        raise MoEverseError(
            "no_weights", f"There is no folder {weights}.", "Name one, or leave --weights out."
        )


def open_pipeline(
    pack: Path | None, torch_device: str = "auto", scenario: str | None = None
) -> MoEVideoPipeline:
    """The pipeline of a pack; a broken pack or an unknown torch device is named in one sentence.

    With a scenario, `this-machine` is among its devices: as measured earlier, or measured now where it is needed.
    """
    from pydantic import ValidationError

    from moe_pipeline.pipeline import EngineConfig, MoEVideoPipeline
    from moe_pipeline.schema.errors import from_validation
    from moe_pipeline.studies.this_machine import attach

    try:
        engine = EngineConfig.model_validate({"torch_device": torch_device})
    except ValidationError as error:
        raise from_validation(error, code="bad_engine", where="engine") from error
    pipeline = MoEVideoPipeline.from_pack(pack, engine)
    if scenario is not None:
        attach(pipeline, scenario)
    return pipeline

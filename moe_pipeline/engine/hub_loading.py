"""Components of a hub pack from its folder: known classes only, safetensors only, no request, no remote code."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from moe_pipeline.packs import HubPack
from moe_pipeline.packs.files import verified_tensors
from moe_pipeline.schema.errors import MoEverseError
from moe_pipeline.schema.hub_pack import HubLora

MODELS = frozenset(
    {
        "diffusers.AutoencoderKL", "diffusers.AutoencoderKLWan", "diffusers.MotionAdapter",
        "diffusers.UNet2DConditionModel", "diffusers.UNet3DConditionModel", "diffusers.WanTransformer3DModel",
        "transformers.CLIPTextModel", "transformers.UMT5EncoderModel",
    }
)  # fmt: skip
TOKENIZERS = frozenset({"transformers.CLIPTokenizer", "transformers.T5Tokenizer"})
_REFETCH = "Fetch the repository again."


def model_class(name: str, pack: str) -> Any:
    """A class of the allow-list by its `library.Name`; nothing else is ever looked up.

    Raises:
        MoEverseError: `unknown_component`.
    """
    if name not in MODELS | TOKENIZERS:
        raise MoEverseError(
            "unknown_component",
            f"{pack} asks for {name}, which this program does not load.",
            f"Known: {', '.join(sorted(MODELS | TOKENIZERS))}.",
        )
    library, _, cls = name.partition(".")
    if library == "diffusers":
        import diffusers as source
    else:
        import transformers as source
    return getattr(source, cls)


def load_model(pack: HubPack, component: str, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """A component's network with its weights, ready for inference.

    Raises:
        MoEverseError: what `HubPack.check` refuses; `weights_mismatch`, where tensors are missing or of another
            shape; `pack_broken`, where a file is damaged.
    """
    manifest = pack.manifest
    pack.check()
    wanted = manifest.components[component]
    files = pack.component_files(component, wanted)
    cls = model_class(wanted, manifest.id)
    named: dict[str, Any] = {"torch_dtype" if wanted.startswith("diffusers.") else "dtype": dtype}
    try:
        with _quiet():
            model, info = cls.from_pretrained(
                str(files.files[0].parent),
                use_safetensors=True,
                local_files_only=True,
                variant=files.variant or None,
                output_loading_info=True,
                **named,
            )
    except (OSError, ValueError, RuntimeError, TypeError, KeyError, LookupError) as error:
        raise _unreadable(component, manifest.id, error) from error
    except Exception as error:
        # safetensors raises a type of its own that is no subclass of any of the above
        if type(error).__name__ != "SafetensorError":
            raise
        raise _unreadable(component, manifest.id, error) from error
    _require_all(info, component, manifest.id)
    return model.to(device).eval().requires_grad_(False)


def load_tokenizer(pack: HubPack, component: str) -> Any:
    """A component's tokenizer from its own vocabulary files.

    Raises:
        MoEverseError: its files are damaged.
    """
    pack.check()
    cls = model_class(pack.manifest.components[component], pack.manifest.id)
    try:
        with _quiet():
            return cls.from_pretrained(str(pack.place(component)), local_files_only=True)
    except (OSError, ValueError, RuntimeError, TypeError, KeyError, LookupError) as error:
        raise _unreadable(component, pack.manifest.id, error) from error


def shell_of_config(pack: HubPack, component: str) -> nn.Module | None:
    """A component's architecture on the meta device from its config.json; None while that is not here."""
    config = pack.config(component)
    if config is None:
        return None
    name = pack.manifest.components[component]
    cls = model_class(name, pack.manifest.id)
    try:
        with torch.device("meta"), _quiet():
            if name.startswith("diffusers."):
                return cls.from_config(config)
            return cls(cls.config_class.from_dict(config))
    except (ValueError, RuntimeError, TypeError, KeyError, LookupError, ArithmeticError) as error:
        raise _unreadable(component, pack.manifest.id, error) from error


def with_motion(pictures: nn.Module, motion: nn.Module, pack: str) -> nn.Module:
    """A denoiser of pictures with the motion modules of an adapter between its layers: one of video.

    Raises:
        MoEverseError: `weights_mismatch`, where the two do not fit each other.
    """
    from diffusers import UNetMotionModel

    try:
        with torch.device(next(pictures.parameters()).device), _quiet():
            model = UNetMotionModel.from_unet2d(pictures, motion)
    except (ValueError, RuntimeError, KeyError) as error:
        reason = " ".join(str(error).split())[:160]
        raise MoEverseError(
            "weights_mismatch", f"The motion adapter of {pack} does not fit its denoiser: {reason}.", _REFETCH
        ) from error
    return model.to(next(pictures.parameters()).dtype).eval().requires_grad_(False)


def load_lora(pack: HubPack, lora: HubLora) -> dict[str, Tensor]:
    """The tensors of an expert's LoRA.

    Raises:
        MoEverseError: the file is missing, altered or no safetensors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if lora.file is not None:
        return verified_tensors(pack.folder, lora.file, pack.manifest.id)
    path = pack.lora_file(lora)
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise _unreadable(f"loras/{path.parent.name}", pack.manifest.id, error) from error


def _require_all(info: dict[str, Any], component: str, pack: str) -> None:
    """A tensor that is not in the file would silently be random."""
    for key, what in (("missing_keys", "is missing"), ("mismatched_keys", "has another shape")):
        names = sorted(str(item[0] if isinstance(item, tuple) else item) for item in info.get(key) or ())
        if names:
            raise MoEverseError(
                "weights_mismatch",
                f"In {component}/ of {pack} the tensor {names[0][:120]} {what} ({len(names)} in all).",
                "Fetch the repository that the pack is for again.",
            )


def _unreadable(component: str, pack: str, error: Exception) -> MoEverseError:
    reason = " ".join(str(error).split())[:160] or type(error).__name__
    return MoEverseError("pack_broken", f"{component}/ of {pack} cannot be loaded: {reason}.", _REFETCH)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Libraries report by progress bars and warnings; this program reports by errors and events."""
    import diffusers.utils.logging as diffusers_logging
    import transformers.utils.logging as transformers_logging

    levels = diffusers_logging.get_verbosity(), transformers_logging.get_verbosity()
    bar = transformers_logging.is_progress_bar_enabled()
    diffusers_logging.set_verbosity_error()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        diffusers_logging.set_verbosity(levels[0])
        transformers_logging.set_verbosity(levels[1])
        if bar:
            transformers_logging.enable_progress_bar()

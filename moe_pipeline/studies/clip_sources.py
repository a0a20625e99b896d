"""Which clips a list of paths means, and which prompt each of them has."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from moe_pipeline.schema.errors import MoEverseError
from moe_pipeline.schema.metrics import ClipEvaluation
from moe_pipeline.video import IMAGE_SUFFIXES, VIDEO_SUFFIXES, read_metadata, sha256_file

PromptSource = Literal["given", "prompts file", "record", "file name", ""]
PromptRule = Callable[[Path], tuple[str | None, PromptSource]]

VBENCH_NAME = re.compile(r"^(?P<prompt>.*\S.*)-(?P<index>\d+)$", re.DOTALL)


def prompt_of_name(stem: str) -> str | None:
    """The prompt of a VBench file name PROMPT-INDEX, or None when the name has no index.

    VBench cuts one trailing "-<digits>", so a prompt that itself ends so loses its end; the same is done here.
    """
    match = VBENCH_NAME.match(stem)
    return match["prompt"] if match else None


def prompt_rule(prompt: str | None, prompts: str | os.PathLike[str] | Mapping[str, str] | None) -> PromptRule:
    """How a clip gets its prompt: one for all, the prompts file, the record inside it, its file name; else none."""
    table = _load_prompts(prompts)

    def rule(path: Path) -> tuple[str | None, PromptSource]:
        if prompt is not None:
            return prompt, "given"
        for key in (path.name, str(path), path.stem):
            if key in table:
                return table[key], "prompts file"
        recorded = _prompt_of_record(path)
        if recorded is not None:
            return recorded, "record"
        named = prompt_of_name(path.stem if path.is_file() else path.name)
        return named, "file name" if named is not None else ""

    return rule


def _load_prompts(prompts: str | os.PathLike[str] | Mapping[str, str] | None) -> dict[str, str]:
    if prompts is None:
        return {}
    remedy = 'A prompts file is JSON of the form {"clip.mp4": "a neon street at night"}.'
    if isinstance(prompts, Mapping):
        table: object = dict(prompts)
        name = "the prompts"
    else:
        name = Path(prompts).name
        try:
            table = json.loads(Path(prompts).read_text(encoding="utf-8"))
        except OSError as error:
            raise MoEverseError(
                "prompts_unreadable", f"The prompts file {prompts} cannot be read ({error.strerror}).", remedy
            ) from error
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise MoEverseError("prompts_not_json", f"{name} is not valid JSON.", remedy) from error
    if not isinstance(table, dict) or not all(isinstance(v, str) and v.strip() for v in table.values()):
        raise MoEverseError("prompts_form", f"{name} does not map file names to prompts.", remedy)
    return {str(key): value for key, value in table.items()}


def _prompt_of_record(path: Path) -> str | None:
    """The prompt in the record that this project writes into its clips."""
    if path.suffix.lower() != ".mp4" or not path.is_file():
        return None
    try:
        record = json.loads(read_metadata(path).get("comment", ""))
        found = record["request"]["prompt"]
    except (MoEverseError, ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, str) and found else None


def find_clips(paths: Sequence[str | os.PathLike[str]], rule: PromptRule) -> list[ClipEvaluation]:
    """The clips behind the paths, in order, without duplicates; a path that is not there becomes a failed clip.

    Raises MoEverseError when no path was given or none leads to a clip.
    """
    if not paths:
        raise MoEverseError(
            "nothing_to_measure", "No clip was given.", "Name a video, a folder of frames or of clips."
        )
    found: dict[str, ClipEvaluation] = {}
    for given in paths:
        inside = _expand(Path(given))
        for path in inside:
            key = os.path.abspath(path)
            if key not in found:
                found[key] = _source(path, rule)
        if not inside:
            found[os.path.abspath(given)] = _empty_folder(Path(given))
    if all(clip.error_code == "empty_folder" for clip in found.values()):
        named = ", ".join(str(p) for p in list(paths)[:3])
        raise MoEverseError(
            "nothing_to_measure",
            f"There is no clip in {named}.",
            "Clips end in " + ", ".join(VIDEO_SUFFIXES) + "; a folder of numbered images is a clip too.",
        )
    return _with_distinct_names(list(found.values()))


def _empty_folder(path: Path) -> ClipEvaluation:
    sentence = f"The folder {path} holds no clip and no frames."
    return ClipEvaluation(
        name=path.name or str(path), path=str(path), error=sentence, error_code="empty_folder"
    )


def _with_distinct_names(clips: list[ClipEvaluation]) -> list[ClipEvaluation]:
    """Clips of one name in different folders are named by their paths, so that no table mixes them up."""
    names = Counter(clip.name for clip in clips)
    for clip in clips:
        if names[clip.name] > 1:
            clip.name = clip.path
    return clips


def _expand(path: Path) -> list[Path]:
    """The clips that a path means; none where a folder holds none."""
    try:
        if not path.is_dir():
            return [path]
        entries = sorted(path.iterdir())
        videos = [p for p in entries if p.is_file() and p.suffix.lower() in VIDEO_SUFFIXES]
        frame_folders = [p for p in entries if p.is_dir() and _holds_images(p)]
    except OSError:  # a name that is too long, a folder that may not be entered: reading it as a clip says so
        return [path]
    if videos or frame_folders:
        return sorted(videos + frame_folders)
    return [path] if _holds_images(path) else []


def _holds_images(folder: Path) -> bool:
    try:
        return any(p.suffix.lower() in IMAGE_SUFFIXES for p in folder.iterdir())
    except OSError:
        return False


def _source(path: Path, rule: PromptRule) -> ClipEvaluation:
    name = path.name or str(path)
    try:
        content = _content_hash(path)
    except MoEverseError as error:
        return ClipEvaluation(name=name, path=str(path), error=error.sentence(), error_code=error.code)
    prompt, source = rule(path)
    return ClipEvaluation(name=name, path=str(path), sha256=content, prompt=prompt, prompt_source=source)


def _content_hash(path: Path) -> str:
    if not os.path.exists(path):  # unlike Path.exists, also where a name is too long or may not be looked at
        raise MoEverseError("video_not_found", f"There is no file or folder {path}.", "Check the path.")
    if path.is_file():
        return sha256_file(path)
    digest = hashlib.sha256()
    try:
        frames = sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
    except OSError as error:
        raise MoEverseError(
            "folder_unreadable", f"The folder {path} cannot be read ({(error.strerror or 'error').lower()})."
        ) from error
    for frame in frames:
        digest.update(f"{frame.name}:{sha256_file(frame)};".encode())
    return digest.hexdigest()

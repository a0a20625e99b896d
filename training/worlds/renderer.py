"""Headless OpenGL: a clip as 16 cells of one 512x512 atlas, read back as uint8 [16, 128, 128, 3]."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import moderngl
import numpy as np
from numpy.typing import NDArray

from training.worlds.attributes import SceneAttributes
from training.worlds.camera import FRAMES, View
from training.worlds.scene import Scene, build

SIZE, GRID = 128, 4
_SHADERS = Path(__file__).parent / "shaders"


@lru_cache(maxsize=32)
def _source(name: str) -> str:
    return (_SHADERS / name).read_text(encoding="utf-8")


class Renderer:
    """One OpenGL context with its programs; make one a process and keep it."""

    def __init__(self) -> None:
        self.context = moderngl.create_standalone_context(backend="egl")  # type: ignore[arg-type]
        side = SIZE * GRID
        self.atlas = self.context.framebuffer(
            self.context.renderbuffer((side, side), components=4, dtype="f1")
        )
        self.quad = self.context.buffer(np.array([-1, -1, 1, -1, -1, 1, 1, 1], dtype=np.float32).tobytes())
        for path in _SHADERS.iterdir():  # read now: a long render keeps the shaders it began with
            _source(path.name)
        self._programs: dict[str, tuple[moderngl.Program, moderngl.VertexArray]] = {}

    def program(self, name: str) -> tuple[moderngl.Program, moderngl.VertexArray]:
        """The compiled shader: a world's name, or `subject-N` for body N."""
        if name not in self._programs:
            if name.startswith("subject-"):
                head, rest = _source("common.glsl").split("\n", 1)
                text = f"{head}\n#define BODY {name.removeprefix('subject-')}\n{rest}" + _source(
                    "subject.glsl"
                )
            else:
                text = _source("common.glsl") + _source(f"{name}.glsl") + _source("world_main.glsl")
            program = self.context.program(vertex_shader=_source("frame.vert"), fragment_shader=text)
            self._programs[name] = (
                program,
                self.context.vertex_array(program, [(self.quad, "2f", "corner")]),
            )
        return self._programs[name]

    def render(self, scene: Scene) -> NDArray[np.uint8]:
        """All frames of a scene, uint8 [16, 128, 128, 3], row 0 at the top."""
        program, array = self.program(scene.shader)
        _set(program, scene.uniforms)
        self.atlas.use()
        self.context.disable(moderngl.BLEND)
        for frame, view in enumerate(scene.views):
            self._cell(frame)
            _set(program, {**_view(view, frame), **_moving(scene, frame)})
            array.render(moderngl.TRIANGLE_STRIP)
        for figure in scene.subjects:
            self._draw_subject(scene, figure)
        self.atlas.scissor = None  # type: ignore[assignment]
        side = SIZE * GRID
        flat = np.frombuffer(self.atlas.read(components=3), dtype=np.uint8).reshape(side, side, 3)[::-1]
        cells = flat.reshape(GRID, SIZE, GRID, SIZE, 3).swapaxes(1, 2).reshape(FRAMES, SIZE, SIZE, 3)
        return _soften(cells)

    def _cell(self, frame: int, window: tuple[int, int, int, int] | None = None) -> None:
        """Restrict drawing to the frame's cell (rows from the top), or to a pixel window (x, y, w, h) of it."""
        x, y = frame % GRID * SIZE, (GRID - 1 - frame // GRID) * SIZE
        self.atlas.viewport = (x, y, SIZE, SIZE)
        left, low, width, height = window or (0, 0, SIZE, SIZE)
        self.atlas.scissor = (x + left, y + low, width, height)

    def _draw_subject(self, scene: Scene, figure: dict[str, Any]) -> None:
        program, array = self.program(f"subject-{figure['body']}")
        _set(program, {**scene.uniforms, **figure["fixed"]})
        self.context.enable(moderngl.BLEND)
        self.context.blend_func = (moderngl.ONE, moderngl.ONE_MINUS_SRC_ALPHA)
        for frame, view in enumerate(scene.views):
            centre = figure["places"][frame] + np.asarray(figure["centre"])
            window = _window(
                view, centre, figure["radius"], 1.45 if figure["fixed"]["material"][2] > 0 else 1.0
            )
            if window is None:
                continue
            self._cell(frame, window)
            moving: dict[str, Any] = {
                **_view(view, frame),
                "place": figure["places"][frame],
                "turn": figure["turns"][frame].T,
                "bound": (*centre, figure["radius"] * (1.4 if figure["fixed"]["material"][2] > 0 else 1.0)),
            }
            if "joints" in figure:
                moving["joint"] = figure["joints"][frame]
            _set(program, moving)
            array.render(moderngl.TRIANGLE_STRIP)


def _view(view: View, frame: int) -> dict[str, Any]:
    return {"cam_pos": view.position, "cam_basis": view.basis.T, "moment": frame / (FRAMES - 1)}


def _moving(scene: Scene, frame: int) -> dict[str, Any]:
    """What of the world changes with the frame besides the camera: the subjects' shadows, a planet's turn."""
    values: dict[str, Any] = {}
    if "turn_rate" in scene.uniforms:
        values["turn"] = scene.uniforms["turn_rate"] * frame / (FRAMES - 1)
    for figure in scene.subjects:
        x, _, z = figure["places"][frame]
        blob, radius, strength = figure["shadow"]
        values[blob] = (x, z, radius, strength)
    return values


def _window(view: View, centre: NDArray, radius: float, margin: float) -> tuple[int, int, int, int] | None:
    """The pixel rectangle (x, y from below, width, height) that holds a sphere, or None when out of sight."""
    x, y, depth = view.project(centre)
    reach = radius * margin / (max(depth - 0.3 * radius, 0.4) * 0.55) + 0.03
    lo_x, hi_x = (int(np.clip((x + s * reach + 1) * 64, 0, SIZE)) for s in (-1, 1))
    lo_y, hi_y = (int(np.clip((y + s * reach + 1) * 64, 0, SIZE)) for s in (-1, 1))
    return (lo_x, lo_y, hi_x - lo_x, hi_y - lo_y) if hi_x > lo_x and hi_y > lo_y else None


def _set(program: moderngl.Program, values: dict[str, Any]) -> None:
    for name, value in values.items():
        if name in program:
            program[name].write(np.ascontiguousarray(value, dtype=np.float32).tobytes())  # type: ignore[union-attr]


def _soften(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A tent of 1-6-1 eighths in both directions: joins the two samples of neighbouring pixels."""
    wide = frames.astype(np.uint16)
    for axis in (1, 2):
        before = np.roll(wide, 1, axis)
        after = np.roll(wide, -1, axis)
        edge = [slice(None)] * 4
        edge[axis] = slice(0, 1)
        before[tuple(edge)] = wide[tuple(edge)]
        edge[axis] = slice(SIZE - 1, SIZE)
        after[tuple(edge)] = wide[tuple(edge)]
        wide = (before + after + 6 * wide + 4) // 8
    return wide.astype(np.uint8)


def clip_seed(seed: int, index: int) -> int:
    """A 63-bit seed of clip `index` in the series `seed`."""
    digest = hashlib.sha256(f"{seed}/{index}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def render_clip(renderer: Renderer, attributes: SceneAttributes, seed: int) -> NDArray[np.uint8]:
    """The clip of `attributes`; `seed` decides what no attribute names."""
    return renderer.render(build(attributes, np.random.default_rng(seed)))

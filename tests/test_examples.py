"""Every example runs, on a pack with random weights and at a small size, and prints what it says."""

import ast
import importlib
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent.parent / "examples"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py"))
SMALL = {"steps": 2, "frames": 4, "width": 64, "height": 64}


def test_examples_are_short_and_documented() -> None:
    assert {"generate", "stream", "compare", "own_gate", "plan", "evaluate"} <= set(NAMES)
    for name in NAMES:
        text = (FOLDER / f"{name}.py").read_text(encoding="utf-8")
        assert 15 <= len(text.splitlines()) <= 50, name
        assert f"python -m examples.{name}" in (ast.get_docstring(ast.parse(text)) or ""), name


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("generate", ["frames (4, 64, 64, 3) uint8", "active experts", "wrote"]),
        (
            "stream",
            ["step 2 of 2", "preview (1, 8, 8, 3)", "finished (4, 64, 64, 3)", "cancelled after 1 steps"],
        ),
        ("compare", ["moe ", "single ", "side_by_side.mp4"]),
        ("own_gate", ["pack's gate", "own gate    ('"]),
        ("plan", ["as nominal: ", "links at a tenth: ", " failed: "]),
        ("simulate", ["greedy", "random", "p95"]),
        ("evaluate", ["slides.mp4: ", "frozen.mp4: flickering 1.0000, flags: hardly moves", "results.csv"]),
    ],
)
def test_an_example_runs(
    name: str, expected: list[str], random_pack: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    example = importlib.import_module(f"examples.{name}")
    arguments: dict[str, object] = {}
    if name in ("generate", "compare", "evaluate"):
        arguments["out"] = tmp_path / "out"
    if name in ("generate", "stream", "compare", "own_gate", "plan"):
        arguments |= {"pack": random_pack, **SMALL}
    if name == "simulate":
        arguments["requests"] = 40
    example.main(**arguments)
    shown = capsys.readouterr().out
    for words in expected:
        assert words in shown


def test_every_example_is_run() -> None:
    parameters = next(mark for mark in test_an_example_runs.pytestmark if mark.name == "parametrize")
    assert {case[0] for case in parameters.args[1]} == set(NAMES)

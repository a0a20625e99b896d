"""What the documents promise: the commands they show exist, the files they link to are there."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
TARGETS = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))


def code_of(document: Path) -> str:
    """The text of all fenced blocks and inline code of a document."""
    text = document.read_text(encoding="utf-8")
    fenced = re.findall(r"```[^\n]*\n(.*?)```", text, flags=re.DOTALL)
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    return "\n".join([*fenced, *inline])


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_help_lists_every_target_that_the_project_promises() -> None:
    shown = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    listed = set(re.findall(r"^\s+make (\S+)", shown, flags=re.MULTILINE))
    assert listed == TARGETS
    assert listed >= {
        "run",
        "test",
        "test-fast",
        "lint",
        "fix",
        "typecheck",
        "golden",
        "shots",
        "train",
        "bench",
        "clean",
    }


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_documents_name_targets_files_and_commands_that_exist(document: Path) -> None:
    code = code_of(document)
    unknown = {name for name in re.findall(r"\bmake ([a-z][a-z-]*)", code) if name not in TARGETS}
    assert not unknown, f"no such make target: {unknown}"

    text = document.read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in link]
    links += re.findall(r'<img[^>]* src="([^":]+)"', text)
    broken = [link for link in links if not (document.parent / link).exists()]
    assert not broken, f"links to nothing: {broken}"


def moeverse_commands(document: Path) -> list[list[str]]:
    """Every `python -m moe_pipeline ...` of a document, as words."""
    lines = re.sub(r"\\\n\s*", " ", code_of(document)).splitlines()
    found = [
        match.group(1) for line in lines if (match := re.search(r"python -m moe_pipeline(?: (.*)|$)", line))
    ]
    commands = [shlex.split(rest or "", comments=True) for rest in found]
    return [words for words in commands if "COMMAND" not in words]


def test_documents_show_commands_and_flags_that_the_command_line_has() -> None:
    import typer

    from moe_pipeline.cli import app

    group = typer.main.get_command(app)
    wrong = []
    for document in DOCUMENTS:
        for words in moeverse_commands(document):
            name = next((word for word in words if not word.startswith("-")), None)
            command = group.commands.get(name) if name else group
            if command is None:
                wrong.append(f"{document.name}: no command {name}")
                continue
            known = {option for parameter in command.params for option in parameter.opts} | {
                "--help",
                "--version",
            }
            wrong += [
                f"{document.name}: {name} {w}"
                for w in words
                if w.startswith("--") and w.split("=")[0] not in known
            ]
    assert not wrong


def front_matter() -> dict[str, object]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text.startswith("---\n")
    return yaml.safe_load(text.split("---\n")[1])


def test_the_readme_opens_with_front_matter_that_a_space_understands() -> None:
    front = front_matter()
    assert front["sdk"] == "gradio"
    assert f"gradio=={front['sdk_version']}\n" in (ROOT / "constraints.txt").read_text()
    assert front["python_version"] in {"3.11", "3.12", "3.13"}
    assert (ROOT / str(front["app_file"])).is_file()
    assert front["license"] == "apache-2.0"
    assert len(str(front["short_description"])) <= 60  # the Hub refuses more
    assert front["colorFrom"] in COLOURS and front["colorTo"] in COLOURS


# The Hub's list of card colours.
COLOURS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}


def test_the_python_of_the_readme_runs_as_it_stands(
    random_pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from moe_pipeline import pipeline

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    opened = pipeline.open_any_pack
    monkeypatch.setattr(pipeline, "open_any_pack", lambda path: opened(path or random_pack))
    monkeypatch.chdir(tmp_path)
    exec(compile(program.replace("seed=7", "seed=7, steps=1"), "README.md", "exec"), {})
    assert capsys.readouterr().out.startswith("(") and (tmp_path / "out" / "clip.mp4").is_file()

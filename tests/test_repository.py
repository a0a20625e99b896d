"""The repository itself: sizes, names, contracts that can fail, and what an import costs."""

import ast
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import packages_distributions, version
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAX_FILE_BYTES = 9_500_000  # a Hugging Face Space takes larger files only through LFS
MAX_PACK_BYTES = 90_000_000
MAX_REPOSITORY_BYTES = 120_000_000  # without history

PICKLES = {".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".bin", ".npy", ".npz", ".joblib"}
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "manager", "managers", "common", "misc"}
OPTIONAL = {"spaces"}  # used where it exists: on a ZeroGPU Space
HEAVY = {
    "torch",
    "gradio",
    "diffusers",
    "transformers",
    "numpy",
    "ortools",
    "simpy",
    "plotly",
    "cv2",
    "pandas",
}


def tracked_files() -> list[Path]:
    """Every file that git tracks and that exists in the work tree."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a git checkout: there is no list of tracked files")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]


def test_every_tracked_file_fits_a_space() -> None:
    large = {
        str(p.relative_to(ROOT)): p.stat().st_size
        for p in tracked_files()
        if p.stat().st_size > MAX_FILE_BYTES
    }
    assert not large, f"over {MAX_FILE_BYTES} bytes: {large}"


def test_repository_and_pack_stay_in_their_budgets() -> None:
    sizes = {p.relative_to(ROOT): p.stat().st_size for p in tracked_files()}
    assert sum(sizes.values()) < MAX_REPOSITORY_BYTES
    packs: dict[str, int] = {}
    for path, size in sizes.items():
        if path.parts[:2] == ("assets", "packs"):
            packs[path.parts[2]] = packs.get(path.parts[2], 0) + size
    assert all(size < MAX_PACK_BYTES for size in packs.values()), packs


def test_no_pickles_and_no_rooms_without_a_name() -> None:
    files = [p.relative_to(ROOT) for p in tracked_files()]
    assert not [str(p) for p in files if p.suffix in PICKLES]
    assert not [str(p) for p in files if p.suffix == ".py" and {p.stem, *p.parent.parts} & VAGUE_NAMES]


def test_the_commit_guard_names_a_large_file_and_allows_a_pack(tmp_path: Path) -> None:
    (tmp_path / "assets" / "packs").mkdir(parents=True)
    for name in ("notes.txt", "assets/packs/expert.safetensors"):
        (tmp_path / name).write_bytes(bytes(600_000))
    guard = [str(ROOT / ".ci" / "large-files"), "notes.txt", "assets/packs/expert.safetensors"]
    done = subprocess.run(guard, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert "notes.txt" in done.stderr and "expert" not in done.stderr
    assert subprocess.run([guard[0], guard[2]], cwd=tmp_path).returncode == 0


def test_no_text_names_a_place_on_somebodys_disk() -> None:
    places = re.compile(rf"{re.escape(str(ROOT))}\b|(?<![\w.])/(?:root|Users|home/(?!user\b)\w+)/")
    found = []
    for path in tracked_files():
        if path.suffix in {
            ".py",
            ".md",
            ".yaml",
            ".yml",
            ".toml",
            ".json",
            ".txt",
            ".sh",
            ".glsl",
            ".html",
            ".js",
        }:
            text = path.read_text(encoding="utf-8")
            found += [f"{path.relative_to(ROOT)}: {hit.group()}" for hit in places.finditer(text)]
    assert not found


def lint_imports(root: Path) -> subprocess.CompletedProcess[str]:
    script = Path(sys.executable).with_name("lint-imports")
    command = [str(script), "--no-logo", "--no-cache", str(root / "pyproject.toml")]
    env = {**os.environ, "PYTHONPATH": str(root), "NO_COLOR": "1", "COLUMNS": "200"}
    return subprocess.run(command, cwd=root, env=env, capture_output=True, text=True)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the code whose import contracts hold."""
    copy = tmp_path_factory.mktemp("house")
    shutil.copy(ROOT / "pyproject.toml", copy)
    for package in ("moe_pipeline", "training"):
        shutil.copytree(ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    kept = lint_imports(copy)
    assert kept.returncode == 0, kept.stdout + kept.stderr
    return copy


@pytest.mark.parametrize(
    ("module", "forbidden", "contract"),
    [
        ("schema/request.py", "import torch", "The schema imports no torch"),
        ("video.py", "import gradio", "gradio only in ui"),
        ("pipeline.py", "import training", "training imports the package, never the reverse"),
        ("gating/__init__.py", "import moe_pipeline.experts", "Each floor imports only floors below it"),
    ],
)
def test_an_import_contract_can_fail(house: Path, module: str, forbidden: str, contract: str) -> None:
    """The same configuration on a copy with one forbidden import names the contract that it breaks."""
    path = house / "moe_pipeline" / module
    sound = path.read_text(encoding="utf-8")
    try:
        path.write_text(f"{sound}\n{forbidden}\n", encoding="utf-8")
        broken = lint_imports(house)
    finally:
        path.write_text(sound, encoding="utf-8")
    assert broken.returncode == 1
    assert re.search(re.escape(contract) + r".* BROKEN", broken.stdout), broken.stdout


def cost_of(statement: str) -> tuple[set[str], float]:
    """Top-level packages that a statement loads in a fresh interpreter, and the CPU seconds it takes."""
    script = (
        "import sys, time; before = set(sys.modules); began = time.process_time()\n"
        f"{statement}\n"
        "spent = time.process_time() - began\n"
        "print(spent, *{name.split('.')[0] for name in set(sys.modules) - before})"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    spent, *loaded = done.stdout.split()
    return set(loaded), float(spent)


def test_importing_the_package_loads_nothing_heavy() -> None:
    loaded, cpu_s = cost_of("import moe_pipeline")
    assert "moe_pipeline" in loaded
    assert not HEAVY & loaded
    assert cpu_s < 0.3


def test_a_record_costs_pydantic_and_no_torch() -> None:
    loaded, _ = cost_of("import moe_pipeline; moe_pipeline.RunRecord")
    assert "pydantic" in loaded
    assert not HEAVY & loaded


def test_the_public_names_load_and_others_are_refused() -> None:
    import moe_pipeline

    assert re.fullmatch(r"\d+\.\d+\.\d+", moe_pipeline.__version__)
    for name in moe_pipeline.__all__:
        assert getattr(moe_pipeline, name) is not None
        assert name in dir(moe_pipeline)
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = moe_pipeline.no_such_name


def third_party_imports(package: str) -> set[str]:
    """Top-level names that the package's code imports and that are neither ours nor the standard library's."""
    names: set[str] = set()
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names.add(node.module.split(".")[0])
    return names - {"moe_pipeline", "training"} - set(sys.stdlib_module_names)


def required(file: str) -> set[str]:
    """Normalised distribution names in a requirements file."""
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    names = [
        re.match(r"[A-Za-z0-9._-]+", line.strip()) for line in lines if line.strip()[:1] not in {"", "#", "-"}
    ]
    return {normalised(match.group()) for match in names if match}


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize(
    ("package", "files"),
    [("moe_pipeline", ["requirements.txt"]), ("training", ["requirements.txt", "requirements-dev.txt"])],
)
def test_requirements_name_every_package_that_the_code_imports(package: str, files: list[str]) -> None:
    wanted = set().union(*(required(file) for file in files)) | OPTIONAL
    homes = packages_distributions()
    missing = {
        name
        for name in third_party_imports(package)
        if name not in wanted and not {normalised(d) for d in homes.get(name, [])} & wanted
    }
    assert not missing, f"imported by {package}, not in {files}: {sorted(missing)}"


def test_constraints_pin_every_requirement_without_a_local_version() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#"]
    assert all(re.fullmatch(r"[a-z0-9._-]+==[0-9][0-9a-z.]*", line) for line in lines), (
        "exact public versions only"
    )
    pinned = {normalised(line.split("==")[0]) for line in lines}
    assert required("requirements.txt") | required("requirements-dev.txt") <= pinned


def test_the_tests_run_with_the_versions_that_the_constraints_name() -> None:
    pins = [line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line]
    installed = {name: version(name).split("+")[0] for name, _ in pins if name[0] != "#"}
    assert installed == {name: pin for name, pin in pins if name[0] != "#"}

"""What every test shares: hypothesis profiles, seeds, the shipped pack, golden files."""

import os
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from moe_pipeline.pipeline import MoEVideoPipeline

# Libraries of the hub count their use there from threads of their own, also long after a test: never from here.
os.environ["HF_HUB_OFFLINE"] = os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "golden"

# "ci" draws the same examples in every run; HYPOTHESIS_PROFILE=nightly searches on.
settings.register_profile(
    "ci", max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile(
    "nightly", max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite tests/golden/ (make golden)")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Rewriting golden files runs only the tests that compare with them."""
    if config.getoption("--update-golden"):
        items[:] = [item for item in items if "golden" in getattr(item, "fixturenames", ())]


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """Seed every generator that a test may use without naming one; imports nothing on its own."""
    random.seed(0)
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed(0)
    if (torch := sys.modules.get("torch")) is not None:
        torch.manual_seed(0)
    yield


@pytest.fixture(scope="session")
def pack_dir() -> Path:
    """The pack that ships with the project."""
    return ROOT / "assets" / "packs" / "tiny-worlds"


@pytest.fixture(scope="session")
def random_pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pack of the real architecture with random weights: whole in every way but what it draws."""
    from training.pack import write_random_pack

    return write_random_pack(tmp_path_factory.mktemp("packs") / "random-worlds")


@pytest.fixture(scope="session")
def random_pipeline(random_pack: Path) -> "MoEVideoPipeline":
    """A pipeline on the random pack, shared by all tests: runs must not leave anything behind in it."""
    from moe_pipeline.pipeline import MoEVideoPipeline

    return MoEVideoPipeline.from_pack(random_pack)


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """``golden("schemas/request.json", text)`` compares with tests/golden/; ``make golden`` rewrites it."""

    def check(name: str, text: str) -> None:
        path = GOLDEN / name
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert path.exists(), f"no golden file {name}: run `make golden` and commit it"
        assert text == path.read_text(encoding="utf-8"), f"{name} changed: if meant, run `make golden`"

    return check

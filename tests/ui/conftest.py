"""One app and one browser for all browser tests; a page that misbehaves fails its test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlparse

import pytest

from tests.ui import studio
from tests.ui.studio import Served, Watched

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ARTIFACTS = Path(__file__).resolve().parents[2] / "test-artifacts"


@pytest.fixture(scope="session")
def served(pack_dir: Path) -> Iterator[Served]:
    with studio.serve(pack_dir) as running:
        yield running


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    if studio.find_chromium() is None:
        pytest.skip("there is no Chromium here; install the package chromium")
    with studio.browser() as running:
        yield running


@pytest.fixture
def visit(
    served: Served, chromium: Browser, request: pytest.FixtureRequest
) -> Iterator[Callable[..., Watched]]:
    """`visit(**context_options)`: a fresh visitor; at the end nothing may have gone wrong in their pages."""
    visitors: list[Watched] = []

    def one(**options: object) -> Watched:
        context = chromium.new_context(**{"viewport": studio.DESKTOP, **options})
        visitors.append(Watched(context, urlparse(served.url).netloc))
        return visitors[-1]

    yield one
    ARTIFACTS.mkdir(exist_ok=True)
    for number, visitor in enumerate(visitors):
        for page in visitor.context.pages:
            page.screenshot(path=ARTIFACTS / f"{request.node.name}-{number}.png")
        visitor.context.close()
    troubles = [trouble for visitor in visitors for trouble in visitor.troubles]
    troubles += [f"the server asked for {address}" for address in served.left]
    assert not troubles, "\n".join(troubles)

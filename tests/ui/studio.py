"""The whole page served for tests, and a browser that lets nothing pass: shared by the tests and by `make shots`."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlparse

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
DESKTOP = {"width": 1440, "height": 900}
PHONE = {"width": 390, "height": 844}
LONG = 120_000  # ms; a busy machine is slow, not broken


def find_chromium() -> str | None:
    """The system's Chromium; none is ever downloaded."""
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


# Notes what the stage goes through, so that a test need not catch a state of half a second in the act.
NOTES = """
window.seen = {states: [], headlines: [], previews: 0};
new MutationObserver(() => {
  const stage = document.querySelector('.mv-stage');
  if (!stage) return;
  if (window.seen.states.at(-1) !== stage.dataset.state) window.seen.states.push(stage.dataset.state);
  const line = stage.querySelector('.mv-status').textContent;
  if (window.seen.headlines.at(-1) !== line) window.seen.headlines.push(line);
  if (stage.querySelector('canvas[data-ready]') && stage.dataset.preview === 'yes') window.seen.previews += 1;
}).observe(document, {subtree: true, childList: true, attributes: true, characterData: true});
"""


@dataclass(frozen=True)
class Served:
    """A running app."""

    url: str
    runs: Path  # where its clips go
    left: list[str]  # addresses outside this machine that the server's process tried to reach


@contextmanager
def connections_out() -> Iterator[list[str]]:
    """While inside, connecting or asking for a name outside this machine is refused and noted."""
    connect, lookup, left = socket.socket.connect, socket.getaddrinfo, []

    def local(host: object) -> bool:
        return host in (None, "", "localhost", socket.gethostname()) or str(host).startswith(
            ("127.", "::1", "0.0.0.0")
        )

    def watched_connect(self: socket.socket, address: object) -> None:
        if isinstance(address, tuple) and not local(address[0]):
            left.append(str(address))
            raise OSError(f"{address} is outside this machine")
        connect(self, address)

    def watched_lookup(host: object, *rest: object, **named: object) -> object:
        if not local(host.decode() if isinstance(host, bytes) else host):
            left.append(str(host))
            raise socket.gaierror(f"{host} is outside this machine")
        return lookup(host, *rest, **named)  # type: ignore[call-overload]

    socket.socket.connect, socket.getaddrinfo = watched_connect, watched_lookup  # type: ignore[method-assign,assignment]
    try:
        yield left
    finally:
        socket.socket.connect, socket.getaddrinfo = connect, lookup  # type: ignore[method-assign]


@contextmanager
def serve(pack: Path) -> Iterator[Served]:
    """The app over `pack`, on a free port, with its files in a folder of its own."""
    with connections_out() as left, _serving(pack, left) as served:
        yield served


@contextmanager
def _serving(pack: Path, left: list[str]) -> Iterator[Served]:
    from moe_pipeline.pipeline import MoEVideoPipeline
    from moe_pipeline.runs import RunStore
    from moe_pipeline.ui import create_studio, launch_options

    with tempfile.TemporaryDirectory() as folder:
        os.environ["GRADIO_TEMP_DIR"] = str(Path(folder) / "gradio")
        runs = RunStore(Path(folder) / "runs")
        studio = create_studio(MoEVideoPipeline.from_pack(pack), runs)
        studio.launch(**launch_options(), prevent_thread_lock=True, quiet=True)
        try:
            yield Served(studio.local_url, runs.root, left)
        finally:
            studio.close()


@contextmanager
def browser() -> Iterator[Browser]:
    """One Chromium; starting it is the dear part, so share it."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=find_chromium(), args=ARGUMENTS)
        try:
            yield chromium
        finally:
            chromium.close()


class Watched:
    """A browser context that remembers everything that went wrong in its pages."""

    def __init__(self, context: BrowserContext, host: str) -> None:
        context.set_default_timeout(LONG)
        context.add_init_script(NOTES)
        self.context = context
        self.host = host
        self.requested: list[str] = []
        self.troubles: list[str] = []

    def page(self) -> Page:
        page = self.context.new_page()
        page.on("request", self._request)
        page.on("console", lambda m: m.type == "error" and self.troubles.append(f"console: {m.text}"))
        page.on("pageerror", lambda error: self.troubles.append(f"page: {error}"))
        page.on("response", lambda r: r.status >= 400 and self.troubles.append(f"{r.status}: {r.url}"))
        return page

    def _request(self, request: object) -> None:
        url = str(getattr(request, "url", ""))
        self.requested.append(url)
        parts = urlparse(url)
        if parts.scheme not in ("data", "blob") and parts.netloc != self.host:
            self.troubles.append(f"left the machine: {url}")

    def open(self, served: Served, query: str = "") -> Page:
        """The page, once its first plan and placement are there."""
        page = self.page()
        page.goto(served.url + query)
        page.wait_for_selector(".mv-devices .mv-bar")
        return page


def set_steps(page: Page, steps: int) -> None:
    """Fewer steps than the default keep a test short."""
    field = page.locator("#steps input[type=number]")
    if not field.is_visible():
        page.get_by_role("button", name="Advanced").click()
        field.wait_for(state="visible")
    drawn = f"document.querySelectorAll('.mv-gate .mv-column').length === {steps}"
    for _ in range(20):
        # Gradio sets a slider that has just been unfolded to its default once more, over what was typed meanwhile.
        field.fill(str(steps))
        field.press("Tab")
        page.wait_for_timeout(400)
        if field.input_value() == str(steps):
            break
    page.wait_for_function(drawn)


def state(page: Page, wanted: str) -> None:
    """Wait until the stage is in that state."""
    page.wait_for_selector(f'.mv-stage[data-state="{wanted}"]')


def generate(page: Page) -> None:
    """Press Generate and wait for the clip."""
    before = page.evaluate("window.seen.states.length")
    page.click("#generate")
    page.wait_for_function(f"window.seen.states.length > {before} && window.seen.states.at(-1) === 'done'")

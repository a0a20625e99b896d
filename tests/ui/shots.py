"""The README's pictures of the page, from the shipped pack: `make shots`, or `python -m tests.ui.shots`.

Writes `assets/pictures/app.png` (a clip and everything about it), `app-running.png`, `app-compare.png`,
`app-edge.png`, `app-dark.png` and `app-phone.png`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from urllib.parse import urlparse

from tests.ui.studio import DESKTOP, PHONE, Watched, browser, find_chromium, generate, serve

ROOT = Path(__file__).resolve().parents[2]
PROMPT = "an avatar dancing in a neon city street at night"


def paint(pack: Path, out: Path, prompt: str, seed: int) -> list[Path]:
    """Drive the page once and take its pictures; returns what was written."""
    written: list[Path] = []
    with serve(pack) as served, browser() as chromium:
        host = urlparse(served.url).netloc

        def visit(theme: str, **options: object) -> tuple[Watched, object]:
            visitor = Watched(chromium.new_context(**options), host)  # type: ignore[arg-type]
            page = visitor.open(served, f"?__theme={theme}")
            page.fill("#prompt textarea", prompt)
            page.fill("#seed input", str(seed))
            page.get_by_label("Keep seed").check()
            return visitor, page

        def shoot(page: object, name: str, *, full: bool = False) -> None:
            path = out / f"{name}.png"
            page.wait_for_timeout(900)  # type: ignore[attr-defined]
            page.screenshot(path=path, full_page=full)  # type: ignore[attr-defined]
            written.append(path)

        _, page = visit("light", viewport={"width": DESKTOP["width"], "height": 1080})
        page.click("#generate")
        page.wait_for_function("window.seen.headlines.some(line => line.startsWith('Step 6 '))")
        page.screenshot(path=out / "app-running.png")
        written.append(out / "app-running.png")
        page.wait_for_selector('.mv-stage[data-state="done"]')
        page.wait_for_function("document.querySelector('.mv-stage video').currentTime > 0.6")
        shoot(page, "app")
        page.get_by_role("tab", name="Compare").click()
        page.click("#compare")
        page.wait_for_selector('.mv-comparison[data-state="done"]')
        page.wait_for_selector("#radar .js-plotly-plot .scatterlayer path")
        page.locator(".mv-tabs").scroll_into_view_if_needed()
        page.evaluate("document.querySelector('.mv-tabs').scrollIntoView()")
        shoot(page, "app-compare")
        page.get_by_role("tab", name="Edge").click()
        page.wait_for_selector(".mv-node")
        page.evaluate("document.querySelector('.mv-tabs').scrollIntoView()")
        shoot(page, "app-edge")
        for name, theme, size in (("app-dark", "dark", DESKTOP), ("app-phone", "light", PHONE)):
            visitor, page = visit(theme, viewport=size)
            generate(page)
            shoot(page, name)
            visitor.context.close()
    return written


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pack", type=Path, default=ROOT / "assets" / "packs" / "tiny-worlds")
    parser.add_argument("--out", type=Path, default=ROOT / "assets" / "pictures")
    parser.add_argument("--prompt", default=PROMPT)
    parser.add_argument("--seed", type=int, default=7)
    given = parser.parse_args()
    if find_chromium() is None:
        print("There is no Chromium here; install the package chromium.", file=sys.stderr)
        return 2
    given.out.mkdir(parents=True, exist_ok=True)
    for path in paint(given.pack, given.out, given.prompt, given.seed):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())

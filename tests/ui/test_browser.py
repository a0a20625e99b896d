"""The page in a real browser: the main job and what a visitor may do to it.

Every visitor's requests are checked for their host, and console errors fail the test (see `conftest.py`).
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlparse

import pytest

from moe_pipeline.video import read_metadata
from tests.ui.studio import PHONE, Served, Watched, connections_out, generate, set_steps, state

if TYPE_CHECKING:
    from playwright.sync_api import Browser

FAINT = Path(__file__).with_name("faint.js").read_text(encoding="utf-8")
pytestmark = pytest.mark.timeout(400)  # seconds of work on quiet cores; a busy machine is slow, not broken
Visit = Callable[..., Watched]
STEPS = 6
# What is drawn last in each tab once a clip is there.
TABS = {
    "Metrics": ".mv-metrics .mv-facts",
    "Compare": ".mv-comparison .mv-pair",
    "Edge": "#energy .js-plotly-plot .main-svg",
    "Details": ".mv-details .mv-facts",
}
# Waits for the end of colours and sizes that are on their way.
STILL = """() => Promise.allSettled(
  document.getAnimations().filter(a => a instanceof CSSTransition).map(a => a.finished))"""
# True when both clips of a comparison play and were less than 0.2 s apart at five looks in a row; positions run in a
# circle, because the clips loop.
IN_STEP = """() => {
  const [a, b] = document.querySelectorAll('.mv-comparison video');
  const apart = Math.abs(a.currentTime - b.currentTime);
  const near = !a.paused && !b.paused && Math.min(apart, a.duration - apart) < 0.2;
  window.looks = near ? (window.looks || 0) + 1 : 0;
  return window.looks >= 5;
}"""


def weights(page) -> list[list[float]]:
    """Gate weights as drawn: steps x experts."""
    return page.evaluate(
        "[...document.querySelectorAll('.mv-gate .mv-column')].map(c => [...c.children].map(s => +s.dataset.weight))"
    )


def open_tab(page, name: str) -> None:
    """Press the tab and wait for what it shows."""
    page.get_by_role("tab", name=name).click()
    page.locator(TABS[name]).first.wait_for()
    page.evaluate(STILL)


def focused(page, name: str) -> None:
    """Wait until the keyboard is at the element with this id."""
    page.wait_for_function("name => document.activeElement.id === name", arg=name)


def working() -> bool:
    """Is a run's thread at work?"""
    return any(thread.name == "moeverse-run" for thread in threading.enumerate())


def wait_until_idle(seconds: float = 20) -> float:
    began = time.monotonic()
    while working():
        assert time.monotonic() - began < seconds, "the work did not stop"
        time.sleep(0.05)
    return time.monotonic() - began


def clips(served: Served) -> set[Path]:
    return set(served.runs.glob("*/clip.mp4"))


def test_from_prompt_to_clip(visit: Visit, served: Served) -> None:
    page = visit().open(served)
    before = weights(page)
    page.fill("#prompt textarea", "a ringed planet among the stars in outer space")
    page.wait_for_function("document.querySelector('.mv-plan mark')?.textContent.includes('planet')")
    page.wait_for_function(
        f"JSON.stringify({json.dumps(before)}) !== JSON.stringify([...document.querySelectorAll("
        "'.mv-gate .mv-column')].map(c => [...c.children].map(s => +s.dataset.weight)))"
    )
    assert all(abs(sum(step) - 1) < 0.01 for step in weights(page))
    set_steps(page, STEPS)

    page.click("#generate")
    page.wait_for_selector("#stop")
    state(page, "done")
    assert page.locator("#generate").is_visible() and not page.locator("#stop").is_visible()
    assert page.locator(".mv-gate .mv-todo").count() == 0
    seen = page.evaluate("window.seen")
    assert seen["states"][0] == "idle" and seen["states"][-2:] == ["running", "done"]
    assert any(line.startswith("Step ") and line.endswith(f"of {STEPS}") for line in seen["headlines"])
    assert seen["previews"] > 0, "no preview was drawn in the slot of the clip"

    page.wait_for_function(
        "(() => { const v = document.querySelector('.mv-stage video');"
        " return v.videoWidth > 0 && !v.paused && v.currentTime > 0.1; })()"
    )
    first = page.evaluate("document.querySelector('.mv-stage video').currentTime")
    page.wait_for_function(f"document.querySelector('.mv-stage video').currentTime !== {first}")

    flicker = page.locator('[data-metric="temporal_flickering"]')
    assert 0 <= float(flicker.locator(".mv-value b").inner_text()) <= 1
    assert "higher is better" in flicker.inner_text()
    assert page.locator('[data-metric="warping_error"] .mv-words').first.inner_text()
    # The cursor of a metric follows the clip that plays.
    where = "document.querySelector('[data-metric=\"temporal_flickering\"] .mv-cursor').getAttribute('x1')"
    page.evaluate(
        "(() => { const v = document.querySelector('.mv-stage video'); v.pause(); v.currentTime = 0.1; })()"
    )
    page.wait_for_function(f"parseFloat({where}) < 40")  # of 240
    page.wait_for_selector('.mv-scrub[aria-label="Position in the clip"][aria-valuetext^="0.1 of "]')
    page.evaluate("document.querySelector('.mv-stage video').currentTime = 1.5")
    page.wait_for_function(f"parseFloat({where}) > 80")

    page.get_by_role("tab", name="Details").click()
    with page.expect_download() as download:
        page.get_by_role("link", name="Download clip.mp4").click()
    record = json.loads(read_metadata(download.value.path())["comment"])
    assert record["request"]["prompt"].startswith("a ringed planet") and record["request"]["steps"] == STEPS
    page.get_by_text("The whole record").click()
    page.wait_for_function("document.querySelector('.mv-record').textContent.includes('schema_version')")


def test_mixture_and_single_model_play_in_step(visit: Visit, served: Served) -> None:
    page = visit().open(served)
    set_steps(page, STEPS)
    page.get_by_role("tab", name="Compare").click()
    page.focus("#compare")
    page.keyboard.press("Enter")
    focused(page, "stop-compare")
    page.wait_for_selector('.mv-comparison[data-state="done"]')
    focused(page, "compare")
    pair = "[...document.querySelectorAll('.mv-comparison video')]"
    page.wait_for_function(
        f"{pair}.length === 2 && {pair}.every(v => v.videoWidth > 0 && v.currentTime > 0.3)"
    )
    page.wait_for_function(IN_STEP, polling=150)
    page.get_by_role("button", name="Pause both clips").click()
    page.wait_for_function(f"{pair}.every(v => v.paused)")
    rows = page.locator(".mv-comparison tbody tr")
    assert rows.count() >= 4 and "Time, measured" in rows.last.inner_text()
    page.wait_for_selector("#radar .js-plotly-plot .scatterlayer path")
    page.get_by_role("button", name="Wipe").click()
    assert page.locator(".mv-wipe").is_visible()
    assert page.get_attribute(".mv-wipe", "aria-valuetext") == "50 % mixture, 50 % single model"
    with page.expect_download() as download:
        page.get_by_role("link", name="Side by side").click()
    assert read_metadata(download.value.path()) and download.value.suggested_filename.endswith(
        "side_by_side.mp4"
    )
    record = json.loads(next(served.runs.glob("*/moe.mp4")).with_name("record.json").read_text())
    assert record["runs"]["moe"]["request"]["seed"] == record["runs"]["single"]["request"]["seed"]


def test_stop_keeps_the_last_clip_and_ends_the_work(visit: Visit, served: Served) -> None:
    page = visit().open(served)
    set_steps(page, 2)
    generate(page)
    last = page.evaluate("document.querySelector('.mv-stage video').src")
    set_steps(page, 40)
    made = clips(served)
    page.click("#generate")
    page.wait_for_selector('.mv-stage[data-state="running"][data-preview="yes"]')
    began = time.monotonic()
    page.click("#stop")
    state(page, "stopped")
    assert time.monotonic() - began < 5
    assert page.locator(".mv-stage .mv-status").inner_text().startswith("Stopped")
    assert page.locator("#generate").is_visible()
    assert page.evaluate("document.querySelector('.mv-stage video').src") == last
    wait_until_idle()
    assert clips(served) == made


def test_closing_the_page_stops_the_work(visit: Visit, served: Served) -> None:
    page = visit().open(served)
    set_steps(page, 40)
    made = clips(served)
    page.click("#generate")
    page.wait_for_selector('.mv-stage[data-state="running"][data-preview="yes"]')
    assert working()
    page.close()
    wait_until_idle()
    assert clips(served) == made


def test_two_visitors_do_not_see_each_other(visit: Visit, served: Served) -> None:
    one, two = visit(), visit()
    page, other = one.open(served), two.open(served)
    set_steps(page, 40)
    set_steps(other, 2)
    page.fill("#prompt textarea", "green hills in the fog")
    page.wait_for_function("document.querySelector('.mv-plan').textContent.includes('green hills')")
    page.click("#generate")
    page.wait_for_selector('.mv-stage[data-state="running"]')
    assert "green hills" not in other.locator("body").inner_text()
    assert other.get_attribute(".mv-stage", "data-state") == "idle"
    # The second visitor waits for the first one's run, is told so, and then gets a clip of their own.
    other.click("#generate")
    other.wait_for_function(
        "document.querySelector('.mv-stage .mv-status').textContent.startsWith('Waiting: 1 run')"
    )
    page.click("#stop")
    state(page, "stopped")
    state(other, "done")
    assert page.get_attribute(".mv-stage", "data-state") == "stopped"
    assert page.get_attribute(".mv-stage", "data-clip") == "no"
    # A device that one visitor kills is alive for the other.
    page.get_by_role("tab", name="Edge").click()
    page.locator(".mv-kill").first.click()
    page.wait_for_selector(".mv-killed")
    other.get_by_role("tab", name="Edge").click()
    other.wait_for_selector(".mv-node")
    assert other.locator(".mv-killed").count() == 0


def test_the_edge_replans_while_you_look_and_while_a_run_goes_on(visit: Visit, served: Served) -> None:
    page = visit().open(served)
    page.get_by_role("tab", name="Edge").click()
    page.wait_for_selector(".mv-node")
    outcome = page.locator(".mv-outcome")
    nominal = outcome.inner_text()
    page.locator('.mv-knob input[type="range"]').fill("-1.5")
    page.wait_for_selector(".mv-replanned")
    assert outcome.inner_text() != nominal
    assert page.get_attribute(".mv-knob input", "aria-valuetext") == "× 0.032"
    page.get_by_role("button", name="Undo all changes").click()
    page.wait_for_function(
        f"document.querySelector('.mv-outcome').innerText.startsWith({json.dumps(nominal[:20])})"
    )
    page.locator('[data-scenario="vehicle-convoy"]').click()
    page.wait_for_selector('[data-scenario="vehicle-convoy"][aria-pressed="true"]')
    page.wait_for_function("document.querySelector('.mv-devices .mv-total').textContent.includes('Convoy')")
    assert page.locator('.mv-gantt [class*="mv-kind-"]').count() > 3

    set_steps(page, 64)  # long enough for a slow browser to press the button while it goes on
    page.click("#generate")
    page.wait_for_selector('.mv-stage[data-state="running"][data-preview="yes"]')
    busy = page.locator(".mv-node:not(.mv-user):not(.mv-idle)").first
    device = busy.get_attribute("data-node")
    busy.locator(".mv-kill").click()
    page.wait_for_selector(f'.mv-killed[data-node="{device}"]')
    page.wait_for_function(
        "document.querySelector('.mv-stage .mv-note').textContent.includes('Re-planned while running')"
    )
    assert page.get_attribute(".mv-stage", "data-state") == "running"
    page.click("#stop")
    state(page, "stopped")


def test_the_keyboard_stays_where_it_works(visit: Visit, served: Served) -> None:
    page = visit().open(served)
    set_steps(page, 40)
    page.evaluate(
        "() => { window.stops = 0;"
        " document.querySelector('#stop').addEventListener('click', () => { window.stops += 1; }); }"
    )
    page.focus("#generate")
    page.keyboard.down("Enter")
    page.wait_for_selector('.mv-stage[data-state="running"]')
    focused(page, "stop")
    page.keyboard.down("Enter")  # the key is still held and repeats: that stops nothing
    page.keyboard.up("Enter")
    assert page.evaluate("window.stops") == 0
    page.keyboard.press("Enter")
    state(page, "stopped")
    focused(page, "generate")
    # Who is elsewhere by then is left there.
    page.focus("#prompt textarea")
    page.keyboard.press("Shift+Enter")
    page.wait_for_selector('.mv-stage[data-state="running"]')
    page.evaluate("document.querySelector('#stop').click()")
    state(page, "stopped")
    assert page.evaluate("document.activeElement.matches('#prompt textarea')")

    page.get_by_role("tab", name="Edge").click()
    page.locator(".mv-kill").first.focus()
    device = page.evaluate("document.activeElement.closest('[data-node]').dataset.node")
    at_device = (
        "d => document.activeElement.matches('.mv-kill')"
        " && document.activeElement.closest('[data-node]').dataset.node === d"
    )
    killed, alive = f'.mv-killed[data-node="{device}"]', f'[data-node="{device}"]:not(.mv-killed)'
    for after in (killed, alive, killed):
        page.keyboard.press("Enter")
        page.wait_for_selector(after)
        page.wait_for_function(at_device, arg=device)
    undo = page.get_by_role("button", name="Undo all changes")
    undo.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector(alive)
    page.wait_for_selector('.mv-quiet[aria-disabled="true"]')
    assert undo.evaluate("button => button === document.activeElement")
    page.focus('[data-scenario="vehicle-convoy"]')
    page.keyboard.press("Enter")
    page.wait_for_selector('[data-scenario="vehicle-convoy"][aria-pressed="true"]')
    assert page.evaluate("document.activeElement.dataset.scenario") == "vehicle-convoy"


def test_typed_text_is_shown_never_executed(visit: Visit, served: Served) -> None:
    evil = "a city ${window.pwned=1} {{constructor}} <img src=x onerror='window.pwned=2'> `${window.pwned=3}`"
    page = visit().open(served)
    set_steps(page, 2)
    page.fill("#prompt textarea", evil)
    page.wait_for_function(
        "document.querySelector('.mv-plan .mv-prompt').textContent.includes('constructor')"
    )
    generate(page)
    page.get_by_role("tab", name="Details").click()
    page.wait_for_function("document.querySelector('.mv-details .mv-facts').textContent.includes('onerror')")
    assert page.evaluate("window.pwned") is None
    assert page.locator(".mv-root img").count() == 0
    assert evil in page.locator(".mv-details dd").first.inner_text()


def test_a_bad_prompt_is_one_sentence_and_nothing_is_lost(visit: Visit, served: Served) -> None:
    page = visit().open(served)
    set_steps(page, 2)
    generate(page)
    clip = page.evaluate("document.querySelector('.mv-stage video').src")
    for prompt, words in (("   ", "prompt is empty"), ("x" * 1200, "1200 characters")):
        page.fill("#prompt textarea", prompt)
        page.click("#generate")
        page.wait_for_function(
            f"document.querySelector('.mv-stage .mv-error').textContent.includes({json.dumps(words)})",
        )
        assert page.locator(".mv-stage .mv-error").is_visible()
        assert page.evaluate("document.querySelector('.mv-stage video').src") == clip
        assert page.input_value("#prompt textarea") == prompt
        assert "Traceback" not in page.locator("body").inner_text()


def test_a_phone_shows_everything_without_sideways_scrolling(visit: Visit, served: Served) -> None:
    page = visit(viewport=PHONE, reduced_motion="reduce", is_mobile=True, has_touch=True).open(
        served, "?__theme=dark"
    )
    set_steps(page, 2)
    generate(page)
    # Reduced motion: nothing plays by itself, the button does.
    assert page.evaluate("document.querySelector('.mv-stage video').paused")
    page.get_by_role("button", name="Play the clip").click()
    page.wait_for_function("document.querySelector('.mv-stage video').currentTime > 0")
    for tab in ("Metrics", "Compare", "Edge", "Details"):
        open_tab(page, tab)
        # A chart that was drawn out of sight takes its width a moment later.
        page.wait_for_function("width => document.documentElement.scrollWidth <= width", arg=PHONE["width"])
    small = page.evaluate(
        # Gradio measures its tabs by hidden twins of one pixel's height: those are not for fingers.
        "[...document.querySelectorAll('button, a.mv-download')].filter(b => b.offsetParent && b.offsetHeight > 1"
        " && (b.offsetWidth < 24 || b.offsetHeight < 24))"
        ".map(b => `${b.offsetWidth}x${b.offsetHeight} ${b.className} ${b.textContent.trim()}`)"
    )
    assert not small, "\n".join(small)


def test_a_screen_reader_hears_the_run_and_finds_every_control(visit: Visit, served: Served) -> None:
    page = visit().open(served)
    nameless = page.evaluate(
        "[...document.querySelectorAll('button, input, textarea, video, canvas')].filter(e => e.offsetParent"
        " && !e.closest('[aria-hidden=true]') && !(e.getAttribute('aria-label') || e.textContent.trim()"
        " || e.labels?.length || e.title)).map(e => e.outerHTML.slice(0, 150))"
    )
    assert nameless == []
    assert page.locator(".mv-columns").get_attribute("aria-label").startswith("Gate weights over")
    set_steps(page, 2)
    generate(page)
    heard = page.locator('.mv-stage [role="status"][aria-live="polite"]').inner_text()
    assert heard.startswith("Done in")


def test_a_request_that_leaves_the_machine_is_noticed(served: Served, chromium: Browser) -> None:
    """What the other tests rely on, seen to fail: a page that asks another host, and a server that does."""
    visitor = Watched(chromium.new_context(), urlparse(served.url).netloc)
    page = visitor.open(served)
    assert visitor.troubles == []
    visitor.context.route("http://elsewhere.invalid/**", lambda route: route.abort())
    page.evaluate("fetch('http://elsewhere.invalid/pixel.png').catch(() => 0)")
    page.wait_for_timeout(200)
    assert "left the machine: http://elsewhere.invalid/pixel.png" in visitor.troubles
    visitor.context.close()
    with connections_out() as left:
        for attempt in (
            lambda: socket.create_connection(("elsewhere.invalid", 80), timeout=1),
            lambda: socket.create_connection(("192.0.2.1", 80), timeout=1),
        ):
            with pytest.raises(OSError, match="outside this machine"):
                attempt()
    assert left[0] == "elsewhere.invalid" and "192.0.2.1" in left[1]


@pytest.mark.parametrize(
    ("prompt", "part"),
    [
        ("🐉🐉 a robot 🌃 in a city at night 🌌", "a city at night 🌌"),
        ("مدينة نيون في الليل", "مدينة نيون في الليل"),
        ("a robot\n\n in\t a city", "a city"),
    ],
)
def test_marks_stand_at_their_words_in_any_script(
    visit: Visit, served: Served, prompt: str, part: str
) -> None:
    page = visit().open(served)
    page.fill("#prompt textarea", prompt)
    page.wait_for_function(
        "p => [...document.querySelectorAll('.mv-plan mark')].some(m => m.textContent === p)", arg=part
    )
    assert page.inner_text(".mv-plan .mv-prompt") == " ".join(prompt.split())
    for number, text in enumerate(page.locator(".mv-parts .mv-part-text").all_inner_texts()):
        assert page.locator(".mv-plan mark").nth(number).inner_text() == text


def test_odd_seeds_are_refused_in_words(visit: Visit, served: Served) -> None:
    page = visit().open(served)
    for typed, words in (  # no sentence twice in a row, so that each is seen to come
        ("1.5", "whole number from 0"),
        ("", "seed is empty"),
        ("-5", "whole number from 0"),
        ("", "seed is empty"),
        ("99999999999999999999", "whole number from 0"),
    ):
        page.fill("#seed input", typed)
        page.click("#generate")
        page.wait_for_function(
            "w => document.querySelector('.mv-stage .mv-error').textContent.includes(w)", arg=words
        )
        assert page.get_attribute(".mv-stage", "data-state") == "failed"


def test_a_seed_that_was_chosen_is_the_seed_of_the_clip(visit: Visit, served: Served) -> None:
    page = visit().open(served)
    set_steps(page, 2)
    keep = page.get_by_label("Keep seed")
    assert not keep.is_checked()
    page.fill("#seed input", "4711")
    page.wait_for_function("document.querySelector('#lock input').checked")
    generate(page)
    assert page.locator(".mv-stage .mv-left").inner_text() == "seed 4711"
    keep.uncheck()
    page.click("#dice")
    page.wait_for_function("document.querySelector('#lock input').checked")
    rolled = page.input_value("#seed input")
    generate(page)
    assert page.locator(".mv-stage .mv-left").inner_text() == f"seed {rolled}"


def test_a_defect_in_a_run_is_one_sentence_and_the_last_clip_stays(
    visit: Visit, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise KeyError("a secret of the inside")

    page = visit().open(served)
    set_steps(page, 2)
    generate(page)
    clip = page.evaluate("document.querySelector('.mv-stage video').src")
    monkeypatch.setattr("moe_pipeline.engine.Engine.decode", broken)
    page.click("#generate")
    state(page, "failed")
    sentence = page.inner_text(".mv-stage .mv-error")
    assert "Something went wrong inside MoEverse" in sentence and "secret" not in sentence
    assert page.evaluate("document.querySelector('.mv-stage video').src") == clip
    page.get_by_role("tab", name="Compare").click()
    page.click("#compare")
    page.wait_for_selector('.mv-comparison[data-state="failed"]')
    assert "Something went wrong" in page.inner_text(".mv-comparison .mv-error")
    monkeypatch.undo()
    generate(page)


def test_earlier_clips_stay_at_hand(visit: Visit, served: Served) -> None:
    page = visit().open(served)
    set_steps(page, 2)
    for prompt in ("a ringed planet", "green hills in the fog"):
        page.fill("#prompt textarea", prompt)
        generate(page)
    page.get_by_role("tab", name="Details").click()
    page.wait_for_selector(".mv-earlier li")
    assert page.locator(".mv-earlier li").count() == 1
    assert "a ringed planet" in page.inner_text(".mv-earlier")
    page.locator(".mv-still").click()
    page.wait_for_function("document.querySelector('.mv-still video').currentTime > 0")
    with page.expect_download() as download:
        page.locator(".mv-earlier a", has_text="record").click()
    record = json.loads(Path(download.value.path()).read_text())
    assert record["request"]["prompt"] == "a ringed planet"


@pytest.mark.parametrize("theme", ["light", pytest.param("dark", marks=pytest.mark.slow)])
def test_text_can_be_read(visit: Visit, served: Served, theme: str) -> None:
    """WCAG AA: 4.5 to 1, large text 3 to 1, for every text of the page's own panels and controls."""
    page = visit().open(served, f"?__theme={theme}")
    set_steps(page, 2)
    page.fill("#prompt textarea", "quarterly revenue grew by four percent")
    page.wait_for_selector(".mv-plan .mv-note:not([hidden])")
    generate(page)
    for tab in ("Metrics", "Compare", "Edge", "Details"):
        open_tab(page, tab)
        faint = page.evaluate(FAINT)
        assert faint == [], f"{tab}: {faint[:5]}"


def test_faint_text_is_noticed(visit: Visit, served: Served) -> None:
    page = visit().open(served)
    page.evaluate("document.querySelector('.mv-plan .mv-hint').style.color = '#bbb'")
    assert any("Your scene taken apart" in text for text in page.evaluate(FAINT))

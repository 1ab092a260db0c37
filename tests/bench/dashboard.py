"""Latency of the dashboard: from `python app.py` to a usable page, to a compressed demo model, and in between.

    python tests/bench/dashboard.py --method hybrid --sparsity 0.5

Starts the app with an empty state folder, opens it in Chromium, presses Start with the defaults except --method and the
slider, and until the run is done changes tabs, types, and moves the slider repeatedly. Prints seconds to the first
response, to a usable page, and from there to the end of the run; and milliseconds (median and 95th percentile) until
another tab is shown, until typed text appears, until the command follows the slider, of all polling requests of the
page (including network and queueing), and of the handler that serves those of the tab Compress (called here, on the
same run).
"""

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from statistics import median, quantiles
from types import SimpleNamespace

ROOT = Path(__file__).parents[2]
PAUSE_MS = 15_000  # between rounds, because the browser uses CPU time too
LOOK_MS = 1000
TABS = ("runs", "layers", "evaluate", "chat", "compress")


def opened(home: Path, port: int) -> tuple[subprocess.Popen, float]:
    """Start the app; return it and the seconds until its page responds."""
    began = time.monotonic()
    app = subprocess.Popen(
        [sys.executable, str(ROOT / "app.py"), "--state-dir", str(home), "--port", str(port)],
        cwd=ROOT, stdout=subprocess.DEVNULL, env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    while app.poll() is None:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30).read()
            return app, time.monotonic() - began
        except OSError:
            time.sleep(0.05)
    raise SystemExit(f"the app ended with code {app.returncode}")


def timed(act: Callable[..., None], *args: object) -> float:
    """Milliseconds."""
    began = time.monotonic()
    act(*args)
    return 1000 * (time.monotonic() - began)


def spread(times: list[float]) -> dict[str, float]:
    return {"median": round(median(times), 1), "p95": round(quantiles(times, n=20)[-1], 1), "count": len(times)}


def show(page, tab: str) -> None:
    page.click(f"#tab-{tab}-button")
    page.wait_for_selector(f"#tab-{tab}-button[aria-selected=true]")


def type_word(page, word: str) -> None:
    page.fill("#chat-prompt textarea", word)
    page.wait_for_function(f"document.querySelector('#chat-prompt textarea').value == '{word}'")


def slide(page, sparsity: str) -> None:
    page.fill("#sparsity input[type=number]", sparsity)
    page.keyboard.press("Tab")
    page.wait_for_function(f"document.querySelector('#command').innerText.includes('--sparsity {sparsity}')")


def looker(home: Path) -> Callable[[], None]:
    """The polling request of the tab Compress, for the newest run."""
    from lsprism.runs import RunStore
    from lsprism.ui.compress_tab import CompressHandlers
    from lsprism.ui.run_views import RunViews

    runs = RunStore(home)
    handlers, seen = CompressHandlers(SimpleNamespace(runs=runs, watch=RunViews(runs), planner=None)), ""
    newest = max(runs.list_all(), key=lambda run: run.created).id

    def look() -> None:
        nonlocal seen
        answer = handlers.update_view(newest, seen)[-1]
        seen = answer if isinstance(answer, str) else seen

    return look


def meanwhile(page, seconds: float, look: Callable[[], None]) -> dict[str, list[float]]:
    """Use the page until its run is done, for at most `seconds`."""
    times: dict[str, list[float]] = {"tab": [], "typing": [], "command": [], "handler": []}
    deadline = time.monotonic() + seconds
    turn = 0
    while not page.locator("#compress-run .badge", has_text="done").count():
        if time.monotonic() > deadline or page.locator("#compress-run .badge", has_text="failed").count():
            raise SystemExit(page.inner_text("#compress-run"))
        for tab in TABS:
            times["tab"].append(timed(show, page, tab))
            if tab == "chat":
                times["typing"].append(timed(type_word, page, f"word {turn}"))
        times["command"].append(timed(slide, page, f"0.{31 + turn % 8}"))
        for _ in range(PAUSE_MS // LOOK_MS):
            times["handler"].append(timed(look))
            page.wait_for_timeout(LOOK_MS)
        turn += 1
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="hybrid")
    parser.add_argument("--sparsity", default="0.5")
    parser.add_argument("--minutes", type=float, default=30, help="time limit")
    options = parser.parse_args()
    from playwright.sync_api import sync_playwright

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    with tempfile.TemporaryDirectory() as home, sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        app, answers_s = opened(Path(home), port)
        try:
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            page.set_default_timeout(180_000)
            looks: list[float] = []
            page.on("requestfinished", lambda asked: _note(asked, looks))
            began = time.monotonic()
            page.goto(f"http://127.0.0.1:{port}/")
            page.wait_for_selector("#compress-start:not([disabled])")
            usable_s = time.monotonic() - began
            page.get_by_role("button", name="Command and settings").click()
            page.wait_for_selector("#command")
            if page.input_value("#sparsity input[type=number]") != options.sparsity:
                slide(page, options.sparsity)
            _choose(page, options.method)
            page.click("#compress-start")
            page.wait_for_selector("#compress-run .badge")
            times = meanwhile(page, 60 * options.minutes, looker(Path(home)))
            done_s = time.monotonic() - began
        finally:
            app.terminate()
            app.wait(30)
            browser.close()
    figures = {"answers_s": round(answers_s, 1), "usable_s": round(answers_s + usable_s, 1), "done_s": round(done_s, 1)}
    print(json.dumps(figures | {f"{name}_ms": spread(found) for name, found in (times | {"look": looks}).items()}))


def _choose(page, method: str) -> None:
    box = page.locator("#method input")
    if box.input_value() != method:
        box.fill(method)
        box.press("Enter")


def _note(asked, looks: list[float]) -> None:
    """Record the milliseconds of a request that bypassed the queue, as polling requests do."""
    if asked.method == "POST" and "/run/" in asked.url:
        looks.append(asked.timing["responseEnd"])


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()

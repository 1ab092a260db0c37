"""Fixtures with a running dashboard and a browser."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
OPENING_S = 180  # time limit, for a busy machine


@dataclass(frozen=True)
class Dashboard:
    url: str
    home: Path


@pytest.fixture(scope="session")
def dashboard(tmp_path_factory) -> Iterator[Dashboard]:
    """`python app.py` on a free port, with an empty state folder."""
    home = tmp_path_factory.mktemp("home")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, str(ROOT / "app.py"), "--state-dir", str(home), "--port", str(port)]
    with (home / "out").open("w") as out:
        process = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=out, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    try:
        url = f"http://127.0.0.1:{port}/"
        _wait(url, process, home / "out")
        yield Dashboard(url, home)
    finally:
        process.terminate()
        process.wait(30)


def _wait(url: str, process: subprocess.Popen, out: Path) -> None:
    deadline = time.monotonic() + OPENING_S
    while time.monotonic() < deadline:
        assert process.poll() is None, out.read_text()
        try:
            urllib.request.urlopen(url, timeout=30).read()
            return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"{url} did not open: {out.read_text()}")


@pytest.fixture(scope="session")
def browser():
    if CHROMIUM is None:
        missing = "no chromium on this machine (Debian: apt-get install chromium)"
        pytest.fail(missing) if os.environ.get("CI") == "true" else pytest.skip(missing)
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    quiet = ["--no-sandbox", "--disable-background-networking", "--disable-component-update"]
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=quiet)
        yield opened
        opened.close()


@pytest.fixture
def page(browser, dashboard):
    """A page that fails its test on console errors and on requests to other hosts."""
    tab = browser.new_page(viewport={"width": 1440, "height": 1000})
    tab.set_default_timeout(60_000)
    wrong: list[str] = []
    tab.on("console", lambda said: wrong.append(said.text) if said.type == "error" and not _left(said.text) else None)
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on("request", lambda asked: None if _is_ours(asked.url, dashboard.url) else wrong.append(asked.url))
    yield tab
    tab.close()
    assert not wrong


def _left(text: str) -> bool:
    """Messages of gradio about requests that were interrupted by leaving or reloading the page."""
    return text.startswith(("AbortError", "Unexpected error Connection errored out"))


def _is_ours(url: str, home: str) -> bool:
    return url.startswith((home, "data:", "blob:"))

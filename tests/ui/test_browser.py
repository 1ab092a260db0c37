"""A person at the dashboard: real app, real browser, a tiny model."""

import json
import re
import urllib.error
import urllib.request

import pytest
from conftest import make_model

pytestmark = pytest.mark.slow
BLOCKS = 24
BUSY_MS = 120_000  # a child process that loads torch on a machine that is busy


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Enough blocks that a run can be watched and stopped."""
    return make_model(tmp_path_factory.mktemp("models") / "tall", blocks=BLOCKS)


def _open(page, url):
    page.goto(url)
    page.wait_for_selector("#tabs")


def _badge(page, words):
    page.locator("#compress-run .badge", has_text=re.compile(words)).first.wait_for(timeout=BUSY_MS)


def _fill_form(page, model, text_file):
    box = page.locator("#model input")
    box.fill(str(model))
    box.press("Enter")
    page.get_by_text("Conservative 0.3").click()
    page.get_by_role("button", name="Details").click()
    source = page.locator("#source input")
    source.fill(str(text_file))
    source.press("Enter")
    for name, value in (("samples", 64), ("length", 64)):
        page.locator(f"#{name} input").fill(str(value))
    page.locator(f"#{name} input").blur()


def test_compress_reload_stop_resume_look(page, dashboard, model, text_file):
    _open(page, dashboard.url)
    _fill_form(page, model, text_file)
    page.locator("#compress-estimate .tile", has_text="Size on disk").wait_for(timeout=BUSY_MS)
    assert page.locator("#sparsity input[type=number]").input_value() == "0.3"
    page.click("#compress-start")
    _badge(page, "running|queued")
    run_id = page.locator("#compress-run code").inner_text()
    settings = json.loads((dashboard.home / "runs" / run_id / "record.json").read_text())["settings"]
    assert (settings["sparsity"], settings["calibration"]["samples"]) == (0.3, 64)

    page.reload()
    page.wait_for_selector("#compress-run code")
    assert page.locator("#compress-run code").inner_text() == run_id
    page.locator("#compress-run .grid i.full").first.wait_for(timeout=BUSY_MS)
    page.click("#compress-stop")
    _badge(page, "stopped|done")
    if page.locator("#compress-run .badge").first.inner_text() == "stopped":
        page.click("#compress-resume")
    _badge(page, "done")
    assert page.locator("#compress-run .grid i.full").count() == BLOCKS * 7

    page.click("#tab-layers-button")
    page.locator("#layers-heat .js-plotly-plot").wait_for()
    page.click("#spectra-compute")
    page.locator("#spectra-values .js-plotly-plot").wait_for(timeout=BUSY_MS)

    _open(page, f"{dashboard.url}?run={run_id}")
    page.locator("#runs-page", has_text=run_id).wait_for()
    page.locator("#runs-notes textarea").fill("the <b>first</b> one")
    page.locator("#runs-notes textarea").blur()
    page.locator("#runs-table", has_text="the <b>first</b> one").wait_for()
    page.click("#runs-delete")
    page.click("#runs-delete-sure")
    page.locator("#runs-page", has_text="No run selected").wait_for()
    assert not (dashboard.home / "runs" / run_id).exists()


@pytest.mark.parametrize("width", [390, 1600])
def test_nothing_is_wider_than_the_page(page, dashboard, width):
    page.set_viewport_size({"width": width, "height": 844})
    _open(page, f"{dashboard.url}?__theme=dark")
    for tab in ("layers", "runs", "compress"):
        page.click(f"#tab-{tab}-button")
        page.wait_for_timeout(300)
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_wrong_model_is_said_where_the_estimate_stands(page, dashboard):
    _open(page, dashboard.url)
    box = page.locator("#model input")
    box.fill("./no<script>where")
    box.press("Enter")
    page.locator("#compress-estimate .note.bad", has_text="no<script>where").wait_for(timeout=BUSY_MS)


def test_the_api_lists_runs_and_foreign_names_are_refused(dashboard):
    from gradio_client import Client

    client = Client(dashboard.url, verbose=False, analytics_enabled=False, download_files=False)
    assert isinstance(client.predict(api_name="/list_runs"), list)
    names = set(client.view_api(return_format="dict", print_info=False)["named_endpoints"])
    assert names == {"/list_runs", "/start", "/status", "/stop", "/compare"}
    for header in ({"Host": "evil.example"}, {"Origin": "https://evil.example"}):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(urllib.request.Request(dashboard.url, headers=header))
        assert refused.value.code in (400, 403)


def test_files_outside_are_not_served(dashboard):
    (dashboard.home / "runs").mkdir(exist_ok=True)
    for path in ("/etc/passwd", "README.md", str(dashboard.home / "out"), "../../etc/passwd"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{dashboard.url}gradio_api/file={path}")
        assert refused.value.code in (403, 404)

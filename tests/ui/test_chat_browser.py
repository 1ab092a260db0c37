"""Both new tabs in a real browser, over the real page and the real worker, with tiny models."""

import json
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import make_model
from eval_reports import report

from lsprism import api
from lsprism.runs import RunRequest, RunStore

HOSTILE = '<img src=x onerror="window.harm=1"><script>window.harm=2</script> {{a}} ${window.harm=3} the river'
PAIR = "/half|wanda/.test(document.querySelector('#chat-sides').innerText)"  # not loaded yet, or loaded
pytestmark = pytest.mark.slow
BUSY_MS = 180_000  # a child that loads torch and measures on a busy machine


@pytest.fixture(scope="module")
def runs(tmp_path_factory, text_file) -> RunStore:
    """A finished compression of a model that never ends by itself, and a finished evaluation."""
    folder = tmp_path_factory.mktemp("browser")
    dense = _endless(make_model(folder / "dense", blocks=24))
    calibration = {"source": str(text_file), "samples": 2, "length": 16}
    api.compress(str(dense), folder / "half", method="wanda", sparsity=0.5, calibration=calibration)
    (folder / "measured").mkdir()
    (folder / "measured" / "report.json").write_text(report("wanda", 0.5, 24.0).model_dump_json())
    found = RunStore(folder / "state")
    settings = {"model_id": str(dense), "method": "wanda", "sparsity": 0.5}
    for verb, place in (("compress", folder / "half"), ("evaluate", folder / "measured")):
        run = found.create(found.create_id(), RunRequest(verb=verb, artifact=place, settings=settings))
        found.update(run.id, lambda run: run.replace(state="done", begun=1.0, ended=2.0))
    return found


def _endless(folder: Path) -> Path:
    """A long context, and the end-of-text token has the logit 0, below the largest of twenty others."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"][2] = 0
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 8192}))
    return folder


def run_of(runs: RunStore, verb: str) -> str:
    return next(run.id for run in runs.list_all() if run.verb == verb)


@pytest.fixture(scope="module")
def address(runs):
    from lsprism.ui.serve import find_free_port, prepare_environment

    with pytest.MonkeyPatch.context() as patch:
        for name in ("GRADIO_ANALYTICS_ENABLED", "GRADIO_TEMP_DIR", "LSPRISM_STATE"):
            patch.setenv(name, "")  # so that it is put back afterwards
        prepare_environment(runs.home)
        from lsprism.ui.dashboard import build_dashboard, get_settings

        page, _ = build_dashboard(runs)
        port = find_free_port("127.0.0.1", None)
        page.launch(**get_settings("127.0.0.1", port), prevent_thread_lock=True, _frontend=False)
        yield f"http://127.0.0.1:{port}/?__theme=light"
        page.close()


@contextmanager
def opened(browser, address: str, tab: str):
    """A page on one tab; nothing may be written to its console as an error."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(40_000)
    errors: list[str] = []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(address)
    if "run=" in address:
        page.wait_for_selector("#tab-runs-button[aria-selected=true]")  # where a link to a run leads
    page.click(f"#tab-{tab}-button")
    try:
        yield page
    finally:
        page.close()
    assert not errors


def _ask(page, prompt: str) -> None:
    page.fill("#chat-prompt textarea", prompt)
    page.press("#chat-prompt textarea", "Enter")


def _wait(page, true: str) -> None:
    page.wait_for_function(true)


def test_chat_streams_stops_votes_and_runs_no_script(browser, address, runs):
    with opened(browser, f"{address}&run={run_of(runs, 'compress')}", "chat") as page:
        _wait(page, PAIR)  # the run's pair is chosen
        page.click("#chat-settings > button")
        page.check("#chat-greedy input")
        page.fill("#chat-max_new_tokens input", "4000")
        _ask(page, HOSTILE)
        _wait(page, "document.querySelectorAll('#chat-now .cost strong').length == 2")  # both speeds, live
        _wait(page, "document.querySelector('#chat-now .verdict strong')")
        assert HOSTILE in page.inner_text("#chat-now .prompt")
        page.keyboard.press("Escape")
        _wait(page, "document.getElementById('chat-stop').disabled")
        costs = "[...document.querySelectorAll('#chat-now .cost')].map(one => one.innerText)"
        _wait(page, f"{costs}.filter(cost => cost.includes('stopped') && cost.includes('tok/s')).length == 2")
        page.click("#chat-vote-b")
        _wait(page, "document.querySelector('#chat-status').innerText.includes('1 open vote')")
        page.reload()
        page.wait_for_selector("#tab-runs-button[aria-selected=true]")
        page.click("#tab-chat-button")
        _wait(page, "(document.querySelector('#chat-now .prompt') || {innerText: ''}).innerText.includes('river')")
        assert "tok/s" in page.inner_text("#chat-now .cost >> nth=1")
        assert page.evaluate("window.harm") is None
        page.click("#chat-edit")
        _wait(page, "document.querySelector('#chat-prompt textarea').value.includes('river')")
        page.click("#chat-unload")
        _wait(page, "document.querySelector('#chat-sides').innerText.includes('Not loaded')")


def test_a_page_that_is_closed_frees_the_worker_for_the_next(browser, address, runs):
    link = f"{address}&run={run_of(runs, 'compress')}"
    with opened(browser, link, "chat") as page:
        _wait(page, PAIR)
        _ask(page, "the river")
        _wait(page, "document.querySelectorAll('#chat-now .answer').length == 2")
    with opened(browser, link, "chat") as page:
        _wait(page, PAIR)
        _ask(page, "the stone")
        _wait(page, "document.querySelector('#chat-now').innerText.split('first token').length >= 3")  # both answer


def test_the_board_opens_the_run_behind_a_point(browser, address, runs):
    with opened(browser, address, "evaluate") as page:
        _wait(page, "document.querySelector('#evaluate-table table')")
        assert "24.00" in page.inner_text("#evaluate-table")
        page.click("#evaluate-board svg a >> nth=1")
        _wait(page, f"document.body.innerText.includes({json.dumps(run_of(runs, 'evaluate'))})")


@pytest.mark.parametrize("tab", ["chat", "evaluate"])
def test_a_narrow_screen_needs_no_scrolling_sideways(browser, address, tab):
    with opened(browser, address, tab) as page:
        page.set_viewport_size({"width": 390, "height": 844})
        time.sleep(1)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_measurement_is_asked_for_watched_and_read_in_two_browsers(browser, address, runs, text_file):
    made = next(run for run in runs.list_all() if run.verb == "compress")
    with opened(browser, address, "evaluate") as page, opened(browser, address, "evaluate") as other:
        _wait(page, "document.querySelector('#evaluate-artifacts').innerText.includes('wanda')")  # the newest is chosen
        page.click("#evaluate-measures label >> text=Text: similarity")
        page.click("#evaluate-measures label >> text=Speed: tokens")
        page.check("#evaluate-quick input")
        page.click("#evaluate-details > button")
        box = page.locator("#evaluate-dataset textarea, #evaluate-dataset input")
        box.wait_for()
        page.wait_for_timeout(500)  # what is still being unfolded takes its first value again
        box.fill(str(text_file))
        box.press("Tab")
        page.wait_for_timeout(500)
        assert box.input_value() == str(text_file)
        page.click("#evaluate-start")
        for one in (page, other):  # what the one has begun, the other sees
            one.locator("#evaluate-work .badge").first.wait_for()
        page.locator("#evaluate-work .badge.good, #evaluate-work .badge.bad").first.wait_for(timeout=BUSY_MS)
        run = next(run for run in runs.list_all() if run.verb == "evaluate")
        assert run.state == "done", run.message
        assert run.settings["model_id"] == str(made.artifact) and run.settings["measuring"]["quick"]
        _wait(page, "document.querySelector('#evaluate-table').textContent.includes('words.txt')")  # at once
        with page.expect_download() as saved:
            page.click("#evaluate-page")
        assert "<svg" in Path(saved.value.path()).read_text() or "plotly" in Path(saved.value.path()).read_text()

"""The tab Evaluate: the form becomes runs, finished runs become a table, charts and the board."""

import time
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import pytest
from eval_reports import report

from lsprism.errors import SpecError
from lsprism.events import Progress
from lsprism.records.evaluation import Recommendation, SweepReport
from lsprism.runs import RunRequest, RunStore
from lsprism.runs.event_log import EventLog
from lsprism.specs import EvaluateSpec, SweepSpec
from lsprism.ui import evaluate_html, evaluate_tab
from lsprism.ui.context import Context
from lsprism.ui.report_cache import ReportCache
from lsprism.ui.run_views import RunViews

VALUES = {
    "model": "demo", "artifacts": ["/made/half"], "measures": ["perplexity", "sizes"], "quick": True, "dataset": "auto",
    "baseline": "auto", "context": 0, "windows": 4, "limit": None, "device": "auto",
    "method": "wanda", "zero_shot_tasks": "piqa, arc_easy", "zero_shot_limit": 50,
}  # fmt: skip
ADVICE = Recommendation(rule="By the rule.", choice="wanda 0.3", reason="It is <good>.")


@pytest.fixture
def runs(tmp_path):
    return RunStore(tmp_path / "state")


@pytest.fixture
def handlers(runs, monkeypatch):
    made = evaluate_tab.EvaluateHandlers(SimpleNamespace(runs=runs, watch=RunViews(runs)))
    made.started = []

    def start(found, verb, spec):
        made.started.append((verb, spec))
        return found.create(found.create_id(), RunRequest(verb=verb, settings=spec.model_dump(mode="json")))

    monkeypatch.setattr(evaluate_tab, "start", start)
    return made


def finished(runs, folder, name="wanda", perplexity=24.0):
    folder.mkdir(parents=True)
    (folder / "report.json").write_text(report(name, 0.5, perplexity).model_dump_json())
    run = runs.create(runs.create_id(), RunRequest(verb="evaluate", artifact=folder, settings={"model_id": name}))
    return runs.update(run.id, lambda run: run.replace(state="done", begun=1.0, ended=2.0))


def finished_study(runs, folder):
    folder.mkdir(parents=True)
    reports = [report("wanda", 0.3, 22.0), report("wanda", 0.5, 24.0)]
    (folder / "study.json").write_text(SweepReport(model_id="demo", reports=reports, advice=ADVICE).model_dump_json())
    run = runs.create(runs.create_id(), RunRequest(verb="sweep", artifact=folder, settings={"model_id": "demo"}))
    return runs.update(run.id, lambda run: run.replace(state="done", begun=1.0, ended=2.0))


def test_one_button_asks_for_the_whole_study(handlers, runs):
    handlers.handle_study(VALUES)
    ((verb, spec),) = handlers.started
    assert verb == "sweep" and isinstance(spec, SweepSpec)
    assert (spec.model_id, spec.method, spec.sparsities, spec.measuring.quick) == ("demo", "wanda", (0.3, 0.5), True)
    assert (spec.measuring.zero_shot_tasks, spec.measuring.zero_shot_limit) == (("piqa", "arc_easy"), 50)
    assert spec.save_path.is_relative_to(runs.home)


def test_each_model_becomes_a_run_of_its_own(handlers):
    first = handlers.handle_measure({**VALUES, "artifacts": ["/made/half", "/made/third", "/made/half"]})
    assert [spec.model_id for _, spec in handlers.started] == ["/made/half", "/made/third"]
    spec = handlers.started[0][1]
    assert isinstance(spec, EvaluateSpec) and spec.save_path is None, "its place is the run's folder"
    assert spec.measuring.measures == ("perplexity", "sizes") and spec.measuring.windows == 4
    assert handlers.runs.get(first).settings["model_id"] == "/made/half"


@pytest.mark.parametrize(
    ("wrong", "said"), [({"artifacts": []}, "No model"), ({"measures": []}, "No metric"), ({"device": "x"}, "device")]
)
def test_what_is_missing_is_named(wrong, said):
    with pytest.raises(SpecError, match=said):
        evaluate_html.make_evaluate_specs({**VALUES, **wrong})


def test_a_finished_run_becomes_table_files_and_charts(handlers, runs, tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "page"))
    run = finished(runs, tmp_path / "out")
    (tmp_path / "out" / "report.html").write_text("<p>all of it</p>")
    table, files, page, *plots = handlers.update_comparison([run.id])
    assert "24.00" in table and "wanda 0.5" in table and "Perplexity: exp(mean NLL)" in table
    assert files.count("download=") == 2
    assert page.visible and Path(page.value["path"]).read_text() == "<p>all of it</p>"
    assert Path(page.value["path"]).is_relative_to(tmp_path / "page"), "nothing else may be served"
    assert len(plots) == evaluate_tab.CHARTS
    assert sum(plot.visible for plot in plots) >= 5


def test_nothing_chosen_says_what_to_do(handlers):
    table, files, page, *plots = handlers.update_comparison([])
    assert "Nothing to compare" in table and files == ""
    assert not any(part.visible for part in [page, *plots])


def test_a_page_that_is_gone_is_not_offered(handlers, runs, tmp_path):
    table, _, page, *_ = handlers.update_comparison([finished(runs, tmp_path / "out").id])
    assert "24.00" in table and not page.visible


def test_a_study_gives_all_its_rows_and_its_advice(handlers, runs, tmp_path):
    table, *_ = handlers.update_comparison([finished_study(runs, tmp_path / "study").id])
    assert "wanda 0.3" in table and "wanda 0.5" in table
    assert "Recommended: wanda 0.3." in table and "&lt;good&gt;" in table


def test_the_board_holds_all_finished_runs_and_leads_to_them(handlers, runs, tmp_path):
    one, other = finished(runs, tmp_path / "one"), finished(runs, tmp_path / "two", "svd", 40.0)
    board, _, listed, seen = handlers.update_choices("", [], "")
    assert f"?run={one.id}" in board and f"?run={other.id}" in board
    assert listed.value == [runs.list_all()[0].id], "the newest is compared first"
    assert handlers.update_choices("", listed.value, seen) == (gr.skip(),) * 4


def test_what_was_just_measured_is_compared_at_once(handlers, runs, tmp_path):
    one = finished(runs, tmp_path / "one")
    _, _, _, seen = handlers.update_choices("", [one.id], "")
    other = finished(runs, tmp_path / "two")
    _, _, listed, seen = handlers.update_choices(other.id, [one.id], seen)
    assert listed.value == [other.id]
    finished(runs, tmp_path / "three")  # by another page
    assert handlers.update_choices(other.id, [one.id], seen)[2].value == [one.id], "a choice stands"


def test_a_point_opens_its_run_and_nothing_else(handlers, runs, tmp_path):
    run = finished(runs, tmp_path / "one")
    run_id, tabs = handlers.open(SimpleNamespace(run=run.id))
    assert run_id == run.id and tabs.selected == "runs"
    with pytest.raises(gr.Error):
        handlers.open(SimpleNamespace(run="../../etc"))


def test_a_report_that_is_gone_or_no_report_is_left_out(runs, tmp_path):
    good, gone, broken = (finished(runs, tmp_path / name) for name in ("good", "gone", "broken"))
    reports = ReportCache(runs)
    assert len(reports.list_finished()) == 3
    (tmp_path / "gone" / "report.json").unlink()
    (tmp_path / "broken" / "report.json").write_text('{"format": 1}')
    assert [run.id for run in reports.list_finished()] == [good.id]
    assert reports.load(gone) == reports.load(broken) == []


def test_an_opened_run_is_what_is_compared(handlers, runs, tmp_path):
    run = finished(runs, tmp_path / "out")
    assert handlers.select_run(run.id) == [run.id]
    assert handlers.select_run("") == gr.skip()


def test_what_is_at_work_is_shown_until_nothing_is(handlers, runs):
    idle, stops, _, seen = handlers.update_view("", "")
    assert "No evaluation running" in idle and not stops.visible
    run = runs.create(runs.create_id(), RunRequest(verb="evaluate", settings={"model_id": "half"}))
    runs.update(run.id, lambda run: run.replace(state="running", begun=time.time()))
    journal = EventLog(runs.get_folder(run.id))
    journal.add(Progress(step="perplexity", block=1, of=4, fraction=0.25, elapsed_s=1.0, eta_s=60.0))
    journal.close()
    cards, stops, goes_on, seen = handlers.update_view("", seen)
    assert "half, evaluate" in cards and "25%" in cards and "1 min 00 s left" in cards and stops.visible
    assert not goes_on.visible
    assert handlers.update_view("", seen) == (gr.skip(),) * 4
    runs.update(run.id, lambda run: run.replace(state="stopped", ended=time.time()))
    cards, stops, goes_on, _ = handlers.update_view(run.id, seen)
    assert "stopped" in cards and goes_on.visible and not stops.visible


def test_a_look_costs_little(handlers, runs, tmp_path):
    for n in range(20):
        finished(runs, tmp_path / str(n), f"m{n}")
    _, _, listed, mark = handlers.update_choices("", [], "")
    taken = []
    for _ in range(20):
        begun = time.perf_counter()
        handlers.update_choices("", listed.value, mark)
        taken.append(time.perf_counter() - begun)
    assert sorted(taken)[10] < 0.1


def test_the_tab_builds(runs):
    with gr.Blocks() as blocks, gr.Tabs() as tabs, gr.Tab("One"):
        evaluate_tab.build(Context(runs, blocks, tabs, gr.State(""), gr.BrowserState("")))

"""What happens on a click, without a browser: handlers are plain functions that read, ask and show."""

from pathlib import Path

import gradio as gr
import pytest
from run_views import plan, report, run

from lsprism.errors import SpecError
from lsprism.events import Finished
from lsprism.runs import RunRequest, RunStore
from lsprism.runs.event_log import EventLog
from lsprism.ui import compress_form, compress_tab, dashboard, endpoints, form_values, layers_tab, runs_tab, spectra_tab
from lsprism.ui.context import Context, show_errors

FORM = {"model_id": "demo", "sparsity": 0.5, "method": "wanda", "samples": 8, "length": 64, "save_path": ""}


class FakePlanner:
    def __init__(self):
        self.asked = []

    def plan(self, spec, token="", *, finished=0):
        self.asked.append((spec, token))
        if spec.model_id == "gone":
            raise SpecError("No such model.", "Choose another.")
        return plan()

    def get_free_bytes(self, device):
        return None


@pytest.fixture
def context(tmp_path, monkeypatch):
    made = Context(RunStore(tmp_path), None, None, None, None)
    made.__dict__["planner"] = FakePlanner()  # where the cached property would keep it
    started = []

    def fake(found, verb, spec, *, token="", **_):
        started.append((verb, spec, token))
        return found.create(found.create_id(), RunRequest(verb=verb, settings=spec.model_dump(mode="json")))

    for module in (compress_tab, spectra_tab, endpoints.work):
        monkeypatch.setattr(module, "start", fake)
    monkeypatch.setattr(compress_tab, "resume", lambda found, run_id, *, token: started.append((run_id, token.strip())))
    made.__dict__["started"] = started
    return made


def _done(context: Context) -> str:
    found = context.runs
    made = found.create(
        found.create_id(), RunRequest(verb="compress", artifact=Path("/nowhere"), settings=run().settings)
    )
    journal = EventLog(found.get_folder(made.id))
    journal.add(Finished(report=report(Path("/nowhere"))))
    journal.close()
    found.update(made.id, lambda run: run.replace(state="done", begun=1.0, ended=2.0))
    return made.id


def _skips(answer) -> bool:
    return all(part == gr.skip() for part in answer)


def test_start_asks_for_what_the_form_says_and_hands_the_token_on_apart(context):
    run_id = compress_tab.CompressHandlers(context).handle_start(FORM, " hf_secret ")
    ((verb, spec, token),) = context.started
    assert (verb, spec.method, spec.calibration.samples, token.strip()) == ("compress", "wanda", 8, "hf_secret")
    assert "hf_secret" not in (context.runs.get_folder(run_id) / "record.json").read_text()


def test_resume_needs_no_token(context):
    compress_tab.CompressHandlers(context).handle_resume("a run", None)
    assert context.started == [("a run", "")]


def test_a_wrong_form_is_a_message_and_starts_nothing(context):
    with pytest.raises(gr.Error, match="model"):
        compress_tab.CompressHandlers(context).handle_start({**FORM, "model_id": ""}, "")
    assert context.started == [] and context.runs.list_all() == ()


def test_the_estimate_shows_a_refusal_in_its_place(context):
    handlers = compress_tab.CompressHandlers(context)
    assert "65% of the original size" in handlers.update_estimate(FORM, "")
    said = handlers.update_estimate({**FORM, "model_id": "gone"}, "")
    assert "No such model." in said and "Choose another." in said


def test_a_refusal_names_no_option_of_the_command_line(context):
    wrong = {**FORM, "sparsity": 2}
    with pytest.raises(SpecError) as refused:
        form_values.make_spec(wrong)
    assert "--help" in str(refused.value), "for the command line"
    said = compress_tab.CompressHandlers(context).update_estimate(wrong, "")
    assert "sparsity" in said and "--help" not in said
    with pytest.raises(gr.Error) as caught:
        compress_tab.CompressHandlers(context).handle_start(wrong, "")
    assert "--help" not in caught.value.message


def test_the_estimate_is_asked_for_without_the_folder(context):
    handlers = compress_tab.CompressHandlers(context)
    handlers.update_estimate(FORM, "")
    handlers.update_estimate({**FORM, "save_path": "out"}, "")
    (one, _), (other, _) = context.planner.asked
    assert one == other


def test_looking_twice_sends_nothing_twice(context):
    run_id = _done(context)
    handlers = compress_tab.CompressHandlers(context)
    card, _, stop, resume, again, mark = handlers.update_view(run_id, "")
    assert "60%" in card and not stop.interactive and not resume.visible and again.visible
    assert _skips(handlers.update_view(run_id, mark))
    assert not _skips(handlers.update_view("", mark))


def test_the_settings_of_a_run_come_back_into_the_form(context):
    handlers, run_id = compress_tab.CompressHandlers(context), _done(context)
    values = dict(zip(compress_form.FIELDS, handlers.load_settings(run_id), strict=True))
    assert values["save_path"] == "/nowhere", "outside of the run's own folder"
    del values["save_path"]
    assert form_values.make_spec(values) == form_values.make_spec(form_values.map_settings(run().settings))
    other = context.runs.create(context.runs.create_id(), RunRequest(verb="sweep"))
    with pytest.raises(gr.Error, match="not a compression"):
        handlers.load_settings(other.id)


def test_a_run_that_was_deleted_leaves_the_page_usable(context):
    handlers = compress_tab.CompressHandlers(context)
    run_id = _done(context)
    mark = handlers.update_view(run_id, "")[-1]
    context.runs.delete(run_id)
    assert "No compression yet" in handlers.update_view(run_id, mark)[0]


def test_the_list_is_sent_again_only_when_it_changed(context):
    run_id, handlers = _done(context), runs_tab.RunsHandlers(context)
    table, *_, mark = handlers.update_list("")
    assert table.value["data"][0][-1] == run_id
    assert _skips(handlers.update_list(mark))
    handlers.handle_note(run_id, "the good one")
    assert not _skips(handlers.update_list(mark))
    assert context.runs.get(run_id).notes == "the good one"


def test_deleting_asks_first_and_refuses_what_is_at_work(context):
    handlers, run_id = runs_tab.RunsHandlers(context), _done(context)
    group, _ = handlers.update_delete_prompt(run_id)
    assert group.visible and context.runs.list_all()
    opened, _ = handlers.handle_delete(run_id, "")
    assert opened == "" and context.runs.list_all() == ()
    live = context.runs.create(context.runs.create_id(), RunRequest(verb="compress"))
    with pytest.raises(gr.Error, match="Stop it first"):
        handlers.update_delete_prompt(live.id)


def test_an_artifact_elsewhere_goes_only_when_its_place_is_written_out(context, tmp_path):
    found, place = context.runs, tmp_path / "elsewhere"
    (place / "lsprism").mkdir(parents=True)
    (place / "lsprism" / "manifest.json").write_text("{}")
    made = found.create(found.create_id(), RunRequest(verb="compress", artifact=place))
    found.update(made.id, lambda run: run.replace(state="done", ended=1.0))
    assert runs_tab.find_outside_artifact(found.get(made.id), found) == str(place)
    with pytest.raises(gr.Error):
        runs_tab.RunsHandlers(context).handle_delete(made.id, "/another/place")
    assert place.exists() and found.list_all()
    runs_tab.RunsHandlers(context).handle_delete(made.id, f" {place} ")
    assert not place.exists() and found.list_all() == ()


def test_the_folder_of_a_study_is_not_offered_for_deletion(context, tmp_path):
    made = context.runs.create(context.runs.create_id(), RunRequest(verb="sweep", artifact=tmp_path))
    assert runs_tab.find_outside_artifact(made, context.runs) == ""


def test_layers_are_drawn_once(context):
    run_id, handlers = _done(context), layers_tab.LayersHandlers(context)
    heat, bars, hint, files, column, mark = handlers.update_charts(run_id, "error", "")
    assert heat.type == bars.type == "plotly" and "data:text/csv" in files and column.visible
    assert _skips(handlers.update_charts(run_id, "error", mark))
    assert not _skips(handlers.update_charts(run_id, "rank", mark))
    assert "No layer data" in handlers.update_charts(None, "error", "")[2]


def test_the_artifacts_of_a_study_can_be_looked_at_too(context, tmp_path):
    settings = {"model_id": "demo", "method": "wanda", "sparsities": [0.3, 0.5]}
    study = context.runs.create(
        context.runs.create_id(), RunRequest(verb="sweep", artifact=tmp_path / "made", settings=settings)
    )
    (tmp_path / "made" / "wanda-0.5" / "lsprism").mkdir(parents=True)
    (tmp_path / "made" / "wanda-0.5" / "lsprism" / "report.json").write_text(report(Path("/")).model_dump_json())
    handlers, spectra = layers_tab.LayersHandlers(context), spectra_tab.SpectraHandlers(context)
    chosen, _ = handlers.open(study.id)
    assert chosen.value == f"{study.id}/wanda-0.5" and "demo, wanda at 0.5" in chosen.choices[0][0]
    assert handlers.update_charts(chosen.value, "error", "")[0].type == "plotly"
    spectra.compute(chosen.value)
    ((_, spec, _),) = context.started
    assert spec.model_id == str(tmp_path / "made" / "wanda-0.5")
    assert spec.save_path == context.runs.get_folder(study.id) / "spectra-wanda-0.5.jsonl"
    assert "No layer data" in handlers.update_charts(f"{study.id}/wanda-0.3", "error", "")[2]  # not there yet


def test_spectra_are_computed_into_the_folder_of_the_run(context):
    run_id, handlers = _done(context), spectra_tab.SpectraHandlers(context)
    assert handlers.update_state(run_id, "")[1].visible  # the button
    handlers.compute(run_id)
    ((verb, spec, _),) = context.started
    assert verb == "spectra" and spec.save_path == context.runs.get_folder(run_id) / "spectra.jsonl"
    said, button, *_ = handlers.update_state(run_id, "")
    assert "Computing" in said and not button.visible


def test_a_link_opens_its_run_and_any_other_page_the_newest_compression(context):
    run_id = _done(context)
    opened, tabs = dashboard.select_first_view(context.runs, {"run": run_id})
    assert opened == run_id and tabs.selected == "runs"
    for query in ({}, {"run": "../../etc/passwd"}, {"run": "20200101-000000-000000"}):
        assert dashboard.select_first_view(context.runs, query) == (run_id, gr.skip())


def test_the_public_api_answers_in_plain_values(context):
    run_id, api = _done(context), endpoints.Service(context.runs)
    assert [found["id"] for found in api.list_runs()] == [run_id]
    assert api.status(run_id)["state"] == "done" and "processes" not in api.status(run_id)
    started = api.start("demo", 0.3, {"method": "wanda"})
    assert started["settings"]["sparsity"] == 0.3
    assert api.compare(run_id, started["id"])[0][0] == "run"
    with pytest.raises(gr.Error, match="does not exist"):
        api.status("nothing")


def test_messages_are_escaped():
    with pytest.raises(gr.Error) as caught, show_errors():
        raise SpecError("<img src=x onerror=alert(1)>", "<b>")
    assert "<img" not in caught.value.message and "<b>" not in caught.value.message

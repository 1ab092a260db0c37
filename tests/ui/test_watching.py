"""Following a run: each look reads what was added, and is the very same object while nothing is."""

import pytest
from run_views import layers, report

from lsprism.errors import RequestError
from lsprism.events import BlockDone, Finished, Notice, Progress, Stage
from lsprism.runs import RunRequest, RunStore
from lsprism.runs.event_log import EventLog
from lsprism.ui.run_views import RunViews, select_first_run


@pytest.fixture
def followed(tmp_path):
    runs = RunStore(tmp_path)
    run = runs.create(runs.create_id(), RunRequest(verb="compress", settings={"model_id": "demo"}))
    journal = EventLog(runs.get_folder(run.id))
    yield RunViews(runs), run.id, journal
    journal.close()


def _events():
    done = [BlockDone(block=b + 1, of=2, layers=layers(2)[2 * b : 2 * b + 2], seconds=1.0) for b in range(2)]
    progress = Progress(step="measure", block=1, of=2, fraction=0.2, elapsed_s=1.0, eta_s=3.0)
    return [Stage(name="compress", detail="2 blocks"), progress, done[0], Notice(text="so"), done[1]]


def test_a_look_sees_what_was_added_since(followed):
    watch, run_id, journal = followed
    stage, progress, first, notice, second = _events()
    for event in (stage, progress, first):
        journal.add(event)
    view = watch.get_view(run_id)
    assert (view.stage, view.blocks, len(view.layers), view.progress.fraction) == ("compress", 2, 2, 0.2)
    journal.add(second)
    later = watch.get_view(run_id)
    assert len(later.layers) == 4 and later.mark > view.mark and later.stage == "compress"


def test_nothing_new_is_the_same_object(followed):
    watch, run_id, journal = followed
    journal.add(_events()[0])
    assert watch.get_view(run_id) is watch.get_view(run_id)


def test_the_log_is_seen_to_grow(followed):
    watch, run_id, _ = followed
    assert watch.get_view(run_id).log == ""
    (watch.runs.get_folder(run_id) / "log").write_text("loading\n")
    assert watch.get_view(run_id).log == "loading\n"


def test_a_resumed_run_does_not_count_a_block_twice(followed):
    watch, run_id, journal = followed
    for event in (*_events(), *_events()):
        journal.add(event)
    assert len(watch.get_view(run_id).layers) == 4


def test_what_is_measured_meanwhile_is_no_block(followed):
    watch, run_id, journal = followed
    for event in (*_events(), Progress(step="perplexity", block=1, of=4, fraction=0, elapsed_s=0, eta_s=None)):
        journal.add(event)
    view = watch.get_view(run_id)
    assert (view.progress.of, view.blocks, len(view.layers)) == (4, 2, 4)


def test_a_second_compression_begins_without_the_layers_of_the_first(followed):
    watch, run_id, journal = followed
    stage, progress, first, *_ = _events()
    for event in (*_events(), stage, progress):
        journal.add(event)
    assert not watch.get_view(run_id).layers
    journal.add(first)
    assert len(watch.get_view(run_id).layers) == 2


def test_the_report_is_the_last_word(followed, tmp_path):
    watch, run_id, journal = followed
    journal.add(_events()[2])
    journal.add(Finished(report=report(tmp_path, blocks=3)))
    view = watch.get_view(run_id)
    assert len(view.layers) == 6 and view.report.kept_parameters == 600


def test_a_run_that_is_gone_is_refused(followed):
    watch, run_id, _ = followed
    watch.get_view(run_id)
    watch.runs.update(run_id, lambda run: run.replace(state="failed", ended=1.0))
    watch.runs.delete(run_id)
    with pytest.raises(RequestError):
        watch.get_view(run_id)


def test_a_new_page_shows_what_is_at_work_before_what_waits_before_what_is_done(tmp_path):
    runs = RunStore(tmp_path)
    assert select_first_run(runs) == ""
    ids = [f"20260101-12000{n}-00000{n}" for n in range(3)]
    for run_id in ids:
        runs.create(run_id, RunRequest(verb="compress"))
    done = lambda run: run.replace(state="done", ended=1.0)
    assert select_first_run(runs) in ids
    runs.update(ids[0], lambda run: run.replace(state="running"))
    assert select_first_run(runs) == ids[0]
    for run_id in ids:
        runs.update(run_id, done)
    assert select_first_run(runs) == runs.list_all()[0].id

"""What is shown is made by pure functions: every sentence can be asserted, and nothing of a user's becomes HTML."""

import pytest
from run_views import layer, layers, plan, report, run

from lsprism.events import Progress
from lsprism.records.model_plan import DurationEstimate
from lsprism.specs import CalibrationSpec, PlanSpec
from lsprism.ui import cards, runs_html
from lsprism.ui.estimate_html import find_previous_seconds, render_estimate, render_refusal
from lsprism.ui.run_views import RunView
from lsprism.ui.texts import common as texts

SCRIPT = "<script>alert(1)</script>"


@pytest.mark.parametrize(("free", "kind"), [(10_000, "good"), (1_200, "fair"), (900, "bad")])
def test_memory_is_green_amber_or_red(free, kind):
    said = render_estimate(plan(), free, None)
    assert f'class="note {kind}"' in said and f"{plan().memory.total}" in said.replace(" B", "").replace(",", "")


@pytest.mark.parametrize(("free", "kind"), [(10_000, "good"), (1, "bad")])
def test_a_cards_memory_is_weighed_apart_from_the_hosts(free, kind):
    on_card = plan().model_copy(update={"device": "cuda:1"})
    said = render_estimate(on_card, 10**9, None, free)
    assert "GPU memory (cuda:1)" in said and f'class="note {kind}"' in said
    assert "GPU" not in render_estimate(plan(), 10**9, None)


def test_the_estimate_says_bytes_and_parameters_and_no_time_that_it_does_not_know():
    said = render_estimate(plan(), 10_000, None)
    assert "65% of the original size" in said and "60%" in said and "after the first block" in said
    predicted = plan().model_copy(update={"duration": DurationEstimate(sensitivity=60.0, blocks=240.0)})
    assert "≈ 5 min" in (said := render_estimate(predicted, 10_000, None)) and "predicted" in said
    assert "1 min 01 s" in render_estimate(plan(), 10_000, 61.0)


def test_the_error_to_be_expected_is_shown_where_it_is_known():
    known = plan().model_copy(update={"sites": [s.model_copy(update={"error": 0.123}) for s in plan().sites]})
    assert "12.3%" in render_estimate(known, 10_000, None) and "Expected error" not in render_estimate(
        plan(), 10_000, None
    )
    told = plan().model_copy(update={"notes": [f"Shown alike {SCRIPT}."]})
    assert "Shown alike &lt;script&gt;" in render_estimate(told, 10_000, None)


def test_time_is_taken_only_from_a_run_of_the_same_work():
    spec = PlanSpec(model_id="demo", method="wanda", calibration=CalibrationSpec(samples=8, length=64))
    done = run(figures={"seconds": 61.0})
    assert find_previous_seconds([run("failed", figures={"seconds": 5.0}), done], spec) == 61.0
    assert find_previous_seconds([done], spec.model_copy(update={"method": "svd"})) is None
    for other in ({"heal_minutes": 20}, {"allocation": "error-curves"}, {"calibration": CalibrationSpec(samples=9)}):
        assert find_previous_seconds([done], spec.model_copy(update=other)) is None


def test_memory_that_is_missing_says_what_to_do():
    assert "use fewer or shorter samples" in render_estimate(plan(), 900, None)
    assert "max(distillation" not in (said := render_estimate(plan(), 900, None)) and "Memory breakdown" in said
    healed = plan().model_copy(update={"memory": plan().memory.model_copy(update={"healing": 9})})
    assert "max(distillation" in render_estimate(healed, 900, None)


def _progress(**more) -> Progress:
    return Progress(**{"step": "measure", "block": 2, "of": 4, "fraction": 0.3, "elapsed_s": 9.0, "eta_s": 70.0} | more)


def test_a_running_compression_says_block_and_time_left():
    said = cards.render_progress_card(
        RunView(run("running", begun=1.0), progress=_progress(), stage="compress", blocks=4)
    )
    assert "block 2 of 4" in said and "1 min 10 s left" in said and "30%" in said and 'aria-valuenow="30"' in said


def test_before_a_block_was_timed_no_time_is_foretold():
    said = cards.render_progress_card(
        RunView(run("running", begun=1.0), progress=_progress(eta_s=None), stage="compress")
    )
    assert "estimating time left" in said
    measuring = RunView(
        run("running", begun=1.0), progress=_progress(step="perplexity", eta_s=None), stage="perplexity"
    )
    assert "estimating time left" in cards.render_progress_card(measuring)


def test_cells_fill_as_layers_are_done():
    some = cards.render_layer_bars(layers(1), 4)
    assert some.count('class="full"') == 2 and some.count("<i") == 8 and "1 of 4 blocks" in some
    assert cards.render_layer_bars(layers(4), 4).count('class="full"') == 8
    assert cards.render_layer_bars([], 0) == ""


def test_a_queued_run_says_how_many_are_before_it():
    assert "Queued behind 2 runs" in cards.render_progress_card(RunView(run("queued"), ahead=2))


def test_a_failure_shows_its_reason_and_the_next_step():
    said = cards.render_progress_card(RunView(run("failed", message="Memory ran out.", hint="Resume it.")))
    assert "Memory ran out." in said and "Resume it." in said and "note bad" in said


def test_a_result_counts_what_came_of_it(tmp_path):
    said = cards.render_progress_card(
        RunView(run(begun=1.0, ended=62.0), report=report(tmp_path), layers=tuple(layers()))
    )
    assert "took 1 min 01 s" in said and "60% (600 of 1,000)" in said and "15.0%" in said


def test_nothing_that_others_wrote_becomes_html(tmp_path):
    settings = {"model_id": SCRIPT, "method": SCRIPT, "sparsity": 0.5}
    nasty = run("failed", settings=settings, message=SCRIPT, hint=SCRIPT, notes=SCRIPT, words=[SCRIPT])
    view = RunView(nasty, stage=SCRIPT, detail=SCRIPT, layers=(layer(0, SCRIPT),), blocks=1)
    shown = [
        cards.render_progress_card(view),
        cards.render_queue([nasty], ""),
        runs_html.render_run(nasty, SCRIPT),
        runs_html.render_comparison(nasty, run(settings={**settings, "method": "wanda"})),
        render_refusal(SCRIPT, SCRIPT),
    ]
    for html in shown:
        assert "<script" not in html and "&lt;script&gt;" in html


def test_the_queue_links_to_the_others():
    other = run("queued", id="20260101-130000-000000")
    said = cards.render_queue([run("running"), other], run().id)
    assert "?run=20260101-130000-000000" in said and run().id not in said
    assert cards.render_queue([run("running")], run().id) == ""


def test_every_state_has_words():
    from typing import get_args

    from lsprism.runs import State

    assert set(texts.STATES) == set(get_args(State))


def test_rows_of_the_list_end_with_the_id():
    rows = runs_html.make_rows(
        [run(figures={"stored_bytes": 1300}, begun=1.0, ended=62.0, notes="a\nb"), run("damaged", verb="")]
    )
    assert all(len(row) == len(runs_html.HEADERS) and row[-1] == run().id for row in rows)
    assert rows[0][:4] == ["demo, wanda at 0.5", "done", "1.3 kB", "1 min 01 s"] and rows[0][5] == "a b"


def test_two_runs_are_compared_by_figures_and_by_the_settings_that_differ():
    other = run(settings={**run().settings, "sparsity": 0.3}, figures={"stored_bytes": 1500})
    rows = runs_html.find_differences(run(figures={"stored_bytes": 1300}), other)
    assert ("Size on disk", "1.3 kB", "1.5 kB") in rows and ("sparsity", "0.5", "0.3") in rows
    assert not any(name == "method" for name, *_ in rows)

"""Allocations that measure the model first: measured once, cached, and stable across interruptions."""

import json
import shutil
import time
from collections import deque
from pathlib import Path

import pytest
from conftest import make_model
from tiny_runs import asked, digests, done, notices, stopped_after

from lsprism import api
from lsprism.calibration.sensitivity_cache import traits_folder
from lsprism.engine import sensitivity_pass
from lsprism.errors import SpecError, TargetError
from lsprism.events import Finished, Stage
from lsprism.old_names import CACHED_AS

pytestmark = pytest.mark.usefixtures("one_thread")

LEARNING = ("owl", "spectrum", "sensitivity", "error-curves")  # and kmif, which takes a second per block


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return make_model(tmp_path_factory.mktemp("models") / "tiny", blocks=3)


@pytest.fixture(autouse=True)
def nothing_known():
    shutil.rmtree(traits_folder(), ignore_errors=True)


def passes(events) -> list[str]:
    """The measurement passes of allocation rules."""
    return [e.detail for e in events if isinstance(e, Stage) and e.name == "measure"]


def plan_of(model, text_file, **settings):
    calibration = {"source": str(text_file), "samples": 8, "length": 32}
    return api.inspect(str(model), calibration=calibration, **settings)


@pytest.mark.parametrize("rule", [*LEARNING, "atp"])
def test_layers_have_different_densities_and_the_recipe_records_them(model, text_file, tmp_path, rule):
    report = done(asked(model, text_file, tmp_path / "out", method="sparsegpt", allocation=rule))[-1].report
    check_shares(report, tmp_path / "out")


def test_kmif_is_an_allocation_rule_like_the_others(text_file, tmp_path):
    model = make_model(tmp_path / "one", blocks=1)
    events = done(asked(model, text_file, tmp_path / "out", method="svd", allocation="kmif"))
    assert len(passes(events)) == 1
    check_shares(events[-1].report, tmp_path / "out", within=0.02)  # with so few layers, one rank is more than 1 %
    plan = plan_of(model, text_file, method="svd", allocation="kmif")
    assert [p.kept for p in plan.sites] == [layer.kept for layer in events[-1].report.layers]


def check_shares(report, out, within=0.001):
    assert len({round(layer.sparsity, 3) for layer in report.layers}) > 2
    assert sum(layer.kept for layer in report.layers) == pytest.approx(
        0.5 * sum(layer.rows * layer.columns for layer in report.layers), rel=within
    )
    recipe = json.loads((out / "lsprism/recipe.json").read_text())
    assert recipe["site_budgets"] == {layer.name: [layer.kept, layer.rank] for layer in report.layers}


@pytest.mark.parametrize("rule", LEARNING)
def test_a_second_sparsity_reuses_the_measurements(model, text_file, tmp_path, rule):
    first = done(asked(model, text_file, tmp_path / "a", method="wanda", allocation=rule))
    assert len(passes(first)) == 1
    second = done(asked(model, text_file, tmp_path / "b", method="wanda", allocation=rule, sparsity=0.3))
    assert passes(second) == []
    assert any("cached layer measurements" in text for text in notices(second))
    shutil.rmtree(traits_folder())
    afresh = done(asked(model, text_file, tmp_path / "c", method="wanda", allocation=rule, sparsity=0.3))
    assert len(passes(afresh)) == 1
    assert digests(tmp_path / "b") == digests(tmp_path / "c")


def test_weights_are_measured_once_and_inputs_once_per_text(model, text_file, tmp_path):
    for rule, again in (("spectrum", 0), ("owl", 1)):
        one = done(asked(model, text_file, tmp_path / f"{rule}1", method="wanda", allocation=rule))
        other = done(asked(model, text_file, tmp_path / f"{rule}2", method="wanda", allocation=rule, seed=5))
        assert (len(passes(one)), len(passes(other))) == (1, again)
        assert ("tokens" in passes(one)[0]) == (rule == "owl")


def test_an_impossible_resume_is_refused_before_measuring(model, text_file, tmp_path):
    spec = asked(model, text_file, tmp_path / "out", method="wanda", allocation="owl")
    stopped_after(spec, 1)
    shutil.rmtree(traits_folder())
    events = api.stream_compress(spec.model_copy(update={"resume": True, "sparsity": 0.3}))
    with pytest.raises(TargetError, match=r"out\.part was started with different settings: sparsity 0.5, not 0.3"):
        deque(events)
    assert not traits_folder().exists()


def test_a_resumed_run_keeps_its_budgets_without_the_cache(model, text_file, tmp_path, monkeypatch):
    done(asked(model, text_file, tmp_path / "whole", method="sparsegpt", allocation="error-curves"))
    spec = asked(model, text_file, tmp_path / "out", method="sparsegpt", allocation="error-curves")
    stopped_after(spec, 2)
    shutil.rmtree(traits_folder())
    monkeypatch.setattr(sensitivity_pass, "_run_pass", lambda *_: pytest.fail("the model is measured again"))
    events = done(spec.model_copy(update={"resume": True}))
    assert "Resuming after block 2 of 3." in notices(events)
    assert digests(tmp_path / "out") == digests(tmp_path / "whole")
    assert isinstance(done(spec.model_copy(update={"resume": True}))[-1], Finished)  # complete: nothing to do


def test_other_settings_do_not_inherit_the_budgets_of_an_unfinished_run(model, text_file, tmp_path):
    spec = asked(model, text_file, tmp_path / "out", method="wanda", allocation="owl")
    stopped_after(spec, 1)
    other = spec.model_copy(update={"resume": True, "force": True, "sparsity": 0.3})
    report = done(other)[-1].report
    whole = sum(layer.rows * layer.columns for layer in report.layers)
    assert sum(layer.kept for layer in report.layers) == pytest.approx(0.7 * whole, rel=0.001)


def test_stored_errors_do_not_change_the_next_run(model, text_file, tmp_path):
    done(asked(model, text_file, tmp_path / "a", method="wanda", allocation="error-curves"))
    done(asked(model, text_file, tmp_path / "b", method="wanda", sparsity=0.4))
    done(asked(model, text_file, tmp_path / "c", method="wanda", allocation="error-curves"))
    assert digests(tmp_path / "a") == digests(tmp_path / "c")


@pytest.mark.parametrize("rule", ["spectrum", "sensitivity"])
def test_an_interrupted_pass_resumes_at_the_next_block(model, text_file, tmp_path, monkeypatch, rule):
    spec = asked(model, text_file, tmp_path / "out", method="wanda", allocation=rule)
    events = api.stream_compress(spec)
    next(event for event in events if event.kind == "progress" and event.block == 3)
    events.close()
    assert plan_of(model, text_file, method="wanda", allocation=rule).notes  # incomplete measurements are not used
    learn, blocks = sensitivity_pass._measure_block, []
    monkeypatch.setattr(sensitivity_pass, "_measure_block", lambda *given: blocks.append(given[3]) or learn(*given))
    done(spec)
    assert blocks == [2]
    shutil.rmtree(traits_folder())
    done(spec.model_copy(update={"save_path": tmp_path / "whole"}))
    assert digests(tmp_path / "out") == digests(tmp_path / "whole")


def test_a_pattern_requires_uniform_allocation(model, text_file, tmp_path):
    with pytest.raises(SpecError, match="--pattern 2:4 requires --allocation uniform, not owl"):
        asked(model, text_file, tmp_path / "out", method="wanda", pattern="2:4", allocation="owl")


def test_the_plan_uses_cached_measurements_and_notes_missing_ones(model, text_file, tmp_path):
    before = plan_of(model, text_file, method="wanda", allocation="owl")
    assert before.notes[0].startswith("Layer allocation (owl) is computed when the run starts")
    report = done(asked(model, text_file, tmp_path / "out", method="wanda", allocation="owl"))[-1].report
    after = plan_of(model, text_file, method="wanda", allocation="owl")
    assert after.notes == []
    assert [p.kept for p in after.sites] == [layer.kept for layer in report.layers] != [p.kept for p in before.sites]
    assert after.stored_bytes == report.stored_bytes


@pytest.mark.parametrize("method", ["wanda", "sparsegpt", "svd"])
def test_errors_are_predicted_from_two_finished_runs(model, text_file, tmp_path, method):
    for sparsity in (0.4, 0.6):
        assert plan_of(model, text_file, method=method, sparsity=0.5).mean_error is None
        done(asked(model, text_file, tmp_path / f"{sparsity}", method=method, sparsity=sparsity))
    plan = plan_of(model, text_file, method=method, sparsity=0.5)
    report = done(asked(model, text_file, tmp_path / "out", method=method, sparsity=0.5))[-1].report
    errors = [layer.error for layer in report.layers]
    assert plan.mean_error == pytest.approx(sum(errors) / len(errors), rel=0.05)
    assert [p.error for p in plan.sites] == pytest.approx(errors, rel=0.2)  # in matrices of 32 columns
    assert plan_of(model, text_file, method=method, sparsity=0.9).mean_error is None, "too far from both"
    assert plan_of(model, text_file, method="magnitude").mean_error is None


def test_errors_are_predicted_from_measured_curves(model, text_file, tmp_path):
    report = done(asked(model, text_file, tmp_path / "out", method="sparsegpt", allocation="error-curves"))[-1].report
    for rule in ("error-curves", "uniform"):
        plan = plan_of(model, text_file, method="sparsegpt", sparsity=0.45, allocation=rule)
        assert None not in [p.error for p in plan.sites]
        assert plan.mean_error < sum(layer.error for layer in report.layers) / len(report.layers)


@pytest.mark.parametrize(("method", "rule"), [("svd", "error-curves"), ("hybrid", "sensitivity")])
def test_the_sensitivity_of_every_layer_is_measured(model, text_file, tmp_path, method, rule):
    done(asked(model, text_file, tmp_path / "out", method=method, allocation=rule))
    (path,) = traits_folder().glob(f"{CACHED_AS.get(rule, rule)}*")
    assert all(site["harm"] > 0 for site in json.loads(path.read_text()))


def test_errors_of_a_pattern_are_not_predicted(model, text_file, tmp_path):
    done(asked(model, text_file, tmp_path / "out", method="wanda", allocation="error-curves"))
    assert plan_of(model, text_file, method="wanda").mean_error is not None
    assert plan_of(model, text_file, method="wanda", pattern="2:4").mean_error is None


def test_errors_after_reconstruction_are_not_stored(model, text_file, tmp_path):
    done(asked(model, text_file, tmp_path / "out", method="wanda", reconstruct_steps=1))
    assert not list(traits_folder().glob("*"))


def test_a_prediction_takes_a_moment(model, text_file, tmp_path):
    done(asked(model, text_file, tmp_path / "out", method="wanda", allocation="error-curves"))
    started = time.process_time()
    plan_of(model, text_file, method="wanda", sparsity=0.37)
    assert time.process_time() - started < 1


def test_the_memory_estimate_includes_the_sensitivity_pass(model, text_file):
    """The pass needs no Gram matrices for a sparse method without them, and those of a whole block for SparseGPT."""
    squares = 4 * (32**2 + 48**2)  # bytes of the Gram matrices of a block, 32 and 48 columns
    for method, rule, expected in (
        ("wanda", "error-curves", 0),
        ("hybrid", "sensitivity", 8 * 48**2),
        ("svd", "error-curves", squares),
    ):
        assert plan_of(model, text_file, method=method, allocation=rule).memory.statistics == expected
    plan = plan_of(model, text_file, method="hybrid", allocation="error-curves")
    assert plan.memory.statistics == max(8 * 48**2, squares)

"""The metrics of the tab Runs are names in real reports, of a compression and of an evaluation."""

import pytest
from eval_reports import report as made_report
from run_views import run

import lsprism
from lsprism.evaluation import speed_comparison
from lsprism.runs.event_log import extract_values
from lsprism.ui import runs_html
from lsprism.ui.texts import runs as texts

OF_AN_EVALUATION = {
    "perplexity", "baseline_perplexity", "agreement.kl", "agreement.top1", "tokens_per_s", "baseline_tokens_per_s",
    "speedup",
}  # fmt: skip


def test_every_metric_has_a_label():
    assert list(runs_html.FIGURES) == list(texts.METRICS)
    assert len(set(texts.METRICS.values())) == len(texts.METRICS)


def test_perplexity_and_speed_of_two_evaluations_are_compared():
    one = run(verb="evaluate", figures=extract_values(made_report("wanda", 0.5, 24.0)))
    other = run(verb="evaluate", figures=extract_values(made_report("svd", 0.5, 40.0)))
    rows = runs_html.find_differences(one, other)
    assert ("Perplexity", "24.00", "40.00") in rows and ("Baseline perplexity", "20.00", "20.00") in rows
    assert ("Decode speed", "33.0 tok/s", "33.0 tok/s") in rows and ("Decode speedup", "1.10x", "1.10x") in rows
    assert "24.00" in runs_html.render_run(one, "folder")


def test_what_was_not_measured_is_left_out():
    alone = made_report(baseline=None, agreement=None, speedups=[], tasks=[])
    found = runs_html.collect_metrics(run(verb="evaluate", figures=extract_values(alone)))
    assert found == {"Perplexity": "24.00", "Decode speed": "33.0 tok/s"}


@pytest.mark.slow
def test_every_metric_is_a_number_in_the_report_of_a_real_run(tiny_folder, text_file, tmp_path, monkeypatch):
    monkeypatch.setattr(speed_comparison, "add_peak_memory", lambda figure, source: figure)
    calibration = {"source": str(text_file), "samples": 4, "length": 16}
    compressed = lsprism.compress(str(tiny_folder), tmp_path / "out", method="wanda", calibration=calibration)
    cheap = {"dataset": str(text_file), "context": 32, "windows": 3, "prompt_lengths": "8", "new_tokens": 3}
    evaluated = lsprism.evaluate(tmp_path / "out", measuring={"measures": "perplexity,kl,speed", **cheap})
    of_compression, of_evaluation = extract_values(compressed), extract_values(evaluated)
    for key, shown in runs_html.FIGURES.items():
        value = (of_evaluation if key in OF_AN_EVALUATION else of_compression)[key]
        assert isinstance(value, str if shown is str else int | float), key
        assert shown(value)
    assert of_evaluation["tokens_per_s"] == evaluated.compressed.speeds[0].tokens_per_s
    assert of_evaluation["speedup"] == evaluated.speedups[0].ratio
    assert of_evaluation["perplexity"] == evaluated.compressed.likelihood.value

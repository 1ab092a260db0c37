"""A metric of another package: one file and an entry point, and nothing else changes."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import WORDS

import lsprism
from lsprism.cli.options import Parser, add_options, list_options
from lsprism.errors import SpecError
from lsprism.metric_declarations import (
    BUILT_IN,
    USUAL,
    Column,
    Metric,
    MetricValues,
    get_metric,
    list_summaries,
)
from lsprism.records.evaluation import ModelReport
from lsprism.specs import EvaluateSpec, MeasureSpec, validate

HERE = Path(__file__).parent
EXAMPLE = HERE / "next_token_accuracy.py"
NAME = "next-token-accuracy"
CONTRIBUTING = HERE.parents[1] / ".github/CONTRIBUTING.md"


@pytest.fixture
def packages(tmp_path, monkeypatch) -> Path:
    """A folder of installed packages: one with the example as it is, and one that is broken."""
    folder = tmp_path / "packages"
    info = folder / "example_metric-1.dist-info"
    info.mkdir(parents=True)
    (folder / EXAMPLE.name).write_bytes(EXAMPLE.read_bytes())
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: example-metric\nVersion: 1\n")
    lines = [
        f"{NAME} = next_token_accuracy:METRIC",
        "lost = no_such_module:METRIC",
        "other = next_token_accuracy:METRIC",
    ]
    (info / "entry_points.txt").write_text("\n".join(["[lsprism.metrics]", *lines]) + "\n")
    monkeypatch.syspath_prepend(folder)
    yield folder
    sys.modules.pop("next_token_accuracy", None)


@pytest.fixture
def text(tmp_path) -> Path:
    picks = torch.randint(3, len(WORDS), (600,), generator=torch.Generator().manual_seed(7)).tolist()
    (tmp_path / "text.txt").write_text(" ".join(WORDS[n] for n in picks))
    return tmp_path / "text.txt"


def test_the_example_is_short_and_quoted():
    code = EXAMPLE.read_text(encoding="utf-8")
    assert len(code.splitlines()) <= 40
    assert f"```python\n{code}```" in CONTRIBUTING.read_text(encoding="utf-8")


def test_an_added_metric_is_in_the_report_and_in_all_tables(packages, text, tiny_folder, tmp_path):
    calibration = {"source": str(text), "samples": 2, "length": 16}
    lsprism.compress(str(tiny_folder), tmp_path / "small", method="magnitude", sparsity=0.5, calibration=calibration)
    measuring = {"measures": f"sizes,{NAME}", "dataset": str(text), "context": 32, "windows": 3}
    out = tmp_path / "out"
    report = lsprism.evaluate(tmp_path / "small", save_path=out, measuring=measuring)
    for side in (report.compressed, report.baseline):
        assert 0 <= side.extra[NAME].values["next_token"] <= 1
        assert "3 of" in side.extra[NAME].protocol

    for name in ("report.csv", "report.html"):
        assert "next token" in (out / name).read_text(encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1])}  # the package need not be installed to compare
    for columns in ([], ["--figures", "next_token"]):
        command = [sys.executable, "-m", "lsprism", "compare", str(out), *columns]
        shown = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
        assert "next token" in shown and "Next-token accuracy:" in shown

    cached = list((out / "figures").glob(f"{NAME}-*.json"))
    assert len(cached) == 2
    for path in cached:
        content = json.loads(path.read_text())
        path.write_text(json.dumps(content | {"values": {"next_token": 0.25}}))
    again = lsprism.evaluate(tmp_path / "small", save_path=out, measuring=measuring, resume=True)
    assert again.compressed.extra[NAME].values == again.baseline.extra[NAME].values == {"next_token": 0.25}


def test_a_metric_that_needs_a_baseline_is_computed_for_the_model_only(packages, tiny_folder, monkeypatch):
    def measure(given):
        yield from ()
        pairs = zip(given.model.parameters(), given.baseline.parameters(), strict=True)
        return MetricValues({"distance": sum(float((a - b).abs().sum()) for a, b in pairs)}, "Sum of differences.")

    columns = (Column("distance", "distance", "{:.3f}", "lower"),)
    (packages / "weight_distance.py").write_text("METRIC = None\n")
    with (packages / "example_metric-1.dist-info/entry_points.txt").open("a") as file:
        file.write("weight-distance = weight_distance:METRIC\n")
    module = importlib.import_module("weight_distance")
    monkeypatch.setattr(module, "METRIC", Metric("weight-distance", "", columns, needs_baseline=True, measure=measure))

    asked = {"measures": "weight-distance"}
    report = lsprism.evaluate(tiny_folder, baseline=str(tiny_folder), measuring=asked)
    assert report.compressed.extra["weight-distance"].values == {"distance": 0}
    assert report.baseline.extra == {}
    with pytest.raises(SpecError, match="The metric weight-distance needs a baseline"):
        lsprism.evaluate(tiny_folder, measuring=asked)


def test_the_dashboard_has_a_checkbox_for_an_added_metric(packages, tmp_path):
    import gradio as gr

    from lsprism.runs import RunStore
    from lsprism.ui import evaluate_form

    with gr.Blocks():
        boxes = evaluate_form.build(RunStore(tmp_path)).fields["measures"]
    assert (get_metric(NAME).summary, NAME) in boxes.choices
    assert boxes.value == list(USUAL)


def test_an_added_metric_is_a_choice_without_importing_torch(packages):
    code = (
        "import sys; from lsprism.metric_declarations import list_summaries; from lsprism.specs import MeasureSpec;"
        f"assert list_summaries()['{NAME}'].startswith('Next-token accuracy:');"
        f"MeasureSpec(measures='{NAME}'); sys.exit('torch' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), str(packages)])}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0
    parser = Parser(prog="lsprism evaluate")
    add_options(parser, list_options(MeasureSpec))
    assert f"lost, {NAME}" in " ".join(parser.format_help().split()).replace("- ", "-")


def test_built_in_metrics_come_first_and_keep_their_sentences(packages):
    assert list(list_summaries()) == [*BUILT_IN, "lost", NAME, "other"]


def test_metrics_that_cannot_be_used_are_refused_in_one_sentence(packages, text, tiny_folder):
    assert list_summaries()["lost"] == "lost"
    with pytest.raises(SpecError, match="lost cannot be loaded: No module named 'no_such_module'"):
        lsprism.evaluate(tiny_folder, measuring={"measures": "lost", "dataset": str(text)})
    with pytest.raises(SpecError, match="is not a metric named other"):
        get_metric("other")
    with pytest.raises(SpecError, match="--measures: input should be 'sizes', .* or 'other', got 'magic'"):
        validate(EvaluateSpec, model_id="demo", measuring={"measures": "sizes,magic"})


def test_reports_without_added_metrics_stay_as_they_are():
    assert "extra" not in ModelReport.model_construct(model=None).model_dump(include={"extra"})


@pytest.mark.parametrize("form", ["{}", "{:d}", "{:>999999999}", "{0.__class__}", "{:.2f}{:.2f}"])
def test_the_format_of_a_column_is_that_of_one_number(form):
    with pytest.raises(ValueError, match="is not the format of a number"):
        Column("key", "title", form)

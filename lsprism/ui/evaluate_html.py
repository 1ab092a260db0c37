"""The form as requests, and reports as HTML. Pure; no gradio."""

import json
import time
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from lsprism.charts.html_report import render_table
from lsprism.charts.scatter import collect_points, render_scatter
from lsprism.charts.table import FLAG_MARK, Table, to_csv
from lsprism.errors import SpecError
from lsprism.records.evaluation import EvalReport, Recommendation
from lsprism.runs import RunStore
from lsprism.specs import EvaluateSpec, MeasureSpec, SweepSpec, validate
from lsprism.ui.cards import render_empty, render_progress_card
from lsprism.ui.plots import render_downloads
from lsprism.ui.run_views import RunView
from lsprism.ui.texts import evaluate as texts

SPARSITIES = (0.3, 0.5)
COUNTS = ("context", "windows", "limit", "zero_shot_limit")
NO_REPORT = render_empty(texts.NO_REPORT)
NO_BOARD = render_empty(texts.NO_BOARD)
Values = dict[str, Any]  # the form's, by the names of the settings


def make_measure_spec(values: Values) -> MeasureSpec:
    """SpecError names the setting that is wrong."""
    said = {name: values[name] or 0 for name in COUNTS}
    said |= {"zero_shot_tasks": tasks} if (tasks := (values["zero_shot_tasks"] or "").strip()) else {}
    measures = tuple(values["measures"] or ())
    if not measures:
        raise SpecError(*texts.NO_METRIC)
    dataset = (values["dataset"] or "auto").strip()
    return validate(MeasureSpec, measures=measures, quick=bool(values["quick"]), dataset=dataset, **said)


def make_evaluate_specs(values: Values) -> list[EvaluateSpec]:
    """A request for each selected model."""
    chosen = [model.strip() for model in values["artifacts"] or [] if model.strip()]
    if not chosen:
        raise SpecError(*texts.NO_MODELS)
    how = {"measuring": make_measure_spec(values), "device": (values["device"] or "auto").strip()}
    baseline = (values["baseline"] or "auto").strip()
    return [validate(EvaluateSpec, model_id=model, baseline=baseline, **how) for model in dict.fromkeys(chosen)]


def make_study_spec(values: Values, runs: RunStore) -> SweepSpec:
    """The sweep; its artifacts get a folder of their own in the state folder."""
    model = (values["model"] or "").strip()
    place = runs.home / "studies" / f"{Path(model).name or 'model'}-{time.strftime('%Y%m%d-%H%M%S')}"
    how = {"measuring": make_measure_spec(values), "device": (values["device"] or "auto").strip()}
    return validate(SweepSpec, model_id=model, method=values["method"], sparsities=SPARSITIES, save_path=place, **how)


def render_running(views: Sequence[RunView]) -> str:
    """The progress of each active or selected run."""
    return "".join(render_progress_card(view) for view in views)


def render_comparison(table: Table, advice: Sequence[Recommendation]) -> str:
    """Table, flags, recommendation, and measurement protocols."""
    if not table.rows:
        return NO_REPORT
    doubts = "".join(f'<div class="note fair">{FLAG_MARK} {escape(doubt)}</div>' for doubt in table.list_flags())
    said = "".join(_render_recommendation(one) for one in advice)
    protocols = "".join(f"<li>{escape(one)}</li>" for one in table.protocols)
    how = f"<details><summary>{texts.PROTOCOL}</summary><ol>{protocols}</ol></details>"
    return f'<div class="card wide figures">{said}{render_table(table)}{doubts}{how}</div>'


def _render_recommendation(advice: Recommendation) -> str:
    kind, choice = "fair", texts.NONE_RECOMMENDED
    if advice.choice:
        kind, choice = "good", texts.RECOMMENDED.format(choice=advice.choice)
    why = f"{escape(advice.reason)} <small>{escape(advice.rule)}</small>"
    return f'<div class="note {kind}"><strong>{escape(choice)}</strong> {why}</div>'


def render_files(table: Table, reports: Sequence[EvalReport]) -> str:
    """Links to download the results."""
    if not table.rows:
        return ""
    content = json.dumps([report.model_dump(mode="json") for report in reports], indent=1)
    return render_downloads("evaluation", {"csv": to_csv(table), "json": content})


def render_overview(linked: Sequence[tuple[EvalReport, str]]) -> str:
    """All evaluations of this state folder as one scatter plot."""
    found = collect_points(linked)
    return f'<div class="card wide"><h3>{texts.BOARD}</h3>{render_scatter(found)}</div>' if found else NO_BOARD

"""Reports on disk that are none are named, with what is wrong and what to do."""

import json
from pathlib import Path

import pytest

from lsprism.charts.report_files import compare
from lsprism.errors import DamagedError, SpecError

ASSETS = Path(__file__).parents[2] / "assets" / "results"


@pytest.fixture
def report(tmp_path) -> Path:
    path = tmp_path / "report.json"
    path.write_bytes(next(ASSETS.glob("*.json")).read_bytes())
    return path


@pytest.mark.parametrize("content", ["", "null", "[]", "{}", "[" * 5000, '{"a":' * 5000, '{"reports": 3}', "\ufeff{}"])
def test_what_is_no_report_is_named(report, content):
    report.write_text(content, encoding="utf-8")
    with pytest.raises(DamagedError, match=r"report.json' is not an LS-PRISM report: .+\.$") as refusal:
        compare([report])
    assert refusal.value.hint and "\n" not in refusal.value.message


@pytest.mark.parametrize(("part", "value"), [("model_parameters", 0), ("model_parameters", None), ("dtype", 3)])
def test_figures_that_cannot_be_shown_are_damage_too(report, part, value):
    content = json.loads(report.read_text())
    for one in content.get("reports", [content]):
        one["compressed"]["sizes"][part] = value
    report.write_text(json.dumps(content))
    with pytest.raises(DamagedError, match="is not an LS-PRISM report"):
        compare([report.parent])


@pytest.mark.parametrize("name", ["nothing", "n" * 300, "~no-such-user/x", "a\0b"])
def test_what_is_not_there_is_named(tmp_path, name):
    with pytest.raises(SpecError, match="No report found in"):
        compare([tmp_path / name])

"""Reads reports from disk and compares them in one table; takes milliseconds, without torch."""

import os
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from lsprism.charts.table import Table, build_comparison, list_columns
from lsprism.errors import DamagedError, SpecError
from lsprism.json_files import parse
from lsprism.paths import expand
from lsprism.records.evaluation import EvalReport, SweepReport

AGAIN = "Use another file, or evaluate the model again."
REPORT, STUDY = "report", "study"  # .json, .csv and .html


def compare(paths: Sequence[str | Path], figures: Sequence[str] | None = None) -> Table:
    """One table of any reports: report.json, study.json, or folders that contain one.

    `figures`: keys of the columns (default: all). SpecError for a missing file, DamagedError for an invalid one.
    """
    reports = read_reports(paths)
    known = [column.key for column in list_columns(reports)]
    unknown = [key for key in figures or () if key not in known]
    if unknown:
        raise SpecError(f"Unknown metric {unknown[0]!r}.", f"Choose from {', '.join(known)}.")
    return build_comparison(reports, figures)


def read_reports(paths: Sequence[str | Path]) -> list[EvalReport]:
    """In the order of the paths; a sweep has several."""
    return [report for path in paths for report in _read(expand(path))]


def _read(path: Path) -> list[EvalReport]:
    files = [path / f"{name}.json" for name in (STUDY, REPORT)] if os.path.isdir(path) else [path]
    file = next((file for file in files if os.path.isfile(file)), None)
    if file is None:
        raise SpecError(f"No report found in '{path}'.", "Use a report.json or study.json, or a folder with one.")
    try:
        content = parse(file.read_bytes())
        study = isinstance(content, dict) and "reports" in content
        reports = SweepReport.model_validate(content).reports if study else [EvalReport.model_validate(content)]
        for report in reports:  # fails for values that cannot be shown, such as a model of 0 parameters
            build_comparison([report])
        return reports
    except (OSError, ValueError, LookupError, ArithmeticError, RecursionError) as error:
        raise DamagedError(f"'{file}' is not an LS-PRISM report: {_format_reason(error)}.", AGAIN) from None


def _format_reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return ": ".join(filter(None, (".".join(map(str, first["loc"])), first["msg"])))
    return str(error).splitlines()[0].rstrip(".")

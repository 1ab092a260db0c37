"""Reports on disk, and one table of any of them: read in milliseconds, without torch."""

from collections.abc import Sequence
from pathlib import Path

from lsprism.charts.table import FIGURES, Table, comparison
from lsprism.errors import DamagedError, SpecError
from lsprism.json_files import parse
from lsprism.outcomes import EvalReport, StudyReport

REPORT, STUDY = "report", "study"  # .json, .csv and .html


def compare(paths: Sequence[str | Path], figures: Sequence[str] = FIGURES) -> Table:
    """One table of any reports: report.json, study.json, or folders that hold one.

    `figures`: keys of the columns, see charts.table. SpecError for what is not there, DamagedError for no report.
    """
    unknown = [key for key in figures if key not in FIGURES]
    if unknown:
        raise SpecError(f"There is no figure {unknown[0]!r}.", f"Choose from {', '.join(FIGURES)}.")
    return comparison(read_reports(paths), figures)


def read_reports(paths: Sequence[str | Path]) -> list[EvalReport]:
    """In the order of the paths; a study gives all of its own."""
    return [report for path in paths for report in _read(Path(path).expanduser())]


def _read(path: Path) -> list[EvalReport]:
    files = [path / f"{name}.json" for name in (STUDY, REPORT)] if path.is_dir() else [path]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        raise SpecError(f"There is no report in '{path}'.", "Give a report.json or study.json, or a folder with one.")
    try:
        content = parse(file.read_bytes())
        if isinstance(content, dict) and "reports" in content:
            return StudyReport.model_validate(content).reports
        return [EvalReport.model_validate(content)]
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise DamagedError(f"'{file}' is no report of LS-PRISM: {reason}.", "Evaluate the model again.") from None

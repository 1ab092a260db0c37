"""Evaluation reports of finished runs, read from disk. No gradio, no torch."""

from pathlib import Path

from pydantic import ValidationError

from lsprism.json_files import parse
from lsprism.records.evaluation import EvalReport, Recommendation, SweepReport
from lsprism.runs import Run, RunStore

FILES = {"evaluate": "report", "sweep": "study"}  # command -> name of its report


class ReportCache:
    """Reports by run; a file is read again only if it has changed."""

    def __init__(self, runs: RunStore) -> None:
        self.runs = runs
        self._seen: dict[Path, tuple[tuple[int, int], EvalReport | SweepReport | None]] = {}

    def list_finished(self) -> list[Run]:
        """Runs whose report still exists, the newest first."""
        return [run for run in self.runs.list_all() if run.state == "done" and self._read(run) is not None]

    def load(self, run: Run) -> list[EvalReport]:
        """One for an evaluation, several for a sweep, none if the file is missing or damaged."""
        report = self._read(run)
        if isinstance(report, SweepReport):
            return report.reports
        return [report] if report is not None else []

    def get_recommendation(self, run: Run) -> Recommendation | None:
        report = self._read(run)
        return report.advice if isinstance(report, SweepReport) else None

    def list_linked(self) -> list[tuple[EvalReport, str]]:
        """All reports, the oldest first, each with a link that opens its run."""
        return [(report, f"?run={run.id}") for run in reversed(self.list_finished()) for report in self.load(run)]

    def _read(self, run: Run) -> EvalReport | SweepReport | None:
        path = find_report_file(run, "json")
        if path is None:
            return None
        try:
            state = path.stat()
            mark = (state.st_mtime_ns, state.st_size)
            if path not in self._seen or self._seen[path][0] != mark:
                self._seen[path] = (mark, _parse_report(path, run.verb))
        except OSError:
            return None
        return self._seen[path][1]


def find_report_file(run: Run, kind: str) -> Path | None:
    """The report of a run as "json", "csv", or "html" with charts."""
    return run.artifact / f"{FILES[run.verb]}.{kind}" if run.artifact and run.verb in FILES else None


def _parse_report(path: Path, verb: str) -> EvalReport | SweepReport | None:
    try:
        content = parse(path.read_bytes())
        return (SweepReport if verb == "sweep" else EvalReport).model_validate(content)
    except (ValueError, ValidationError):
        return None

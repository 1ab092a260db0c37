"""Evaluation reports of finished runs, read from disk. No gradio, no torch."""

from pathlib import Path

from pydantic import ValidationError

from lsprism.json_files import parse
from lsprism.outcomes import Advice, EvalReport, StudyReport
from lsprism.runs import Run, Runs

FILES = {"evaluate": "report", "sweep": "study"}  # command -> name of its report


class Reports:
    """Reports by run; a file is read again only if it has changed."""

    def __init__(self, runs: Runs) -> None:
        self.runs = runs
        self._seen: dict[Path, tuple[tuple[int, int], EvalReport | StudyReport | None]] = {}

    def finished(self) -> list[Run]:
        """Runs whose report still exists, the newest first."""
        return [run for run in self.runs.all() if run.state == "done" and self._read(run) is not None]

    def of(self, run: Run) -> list[EvalReport]:
        """One for an evaluation, several for a sweep, none if the file is missing or damaged."""
        report = self._read(run)
        if isinstance(report, StudyReport):
            return report.reports
        return [report] if report is not None else []

    def advice(self, run: Run) -> Advice | None:
        report = self._read(run)
        return report.advice if isinstance(report, StudyReport) else None

    def linked(self) -> list[tuple[EvalReport, str]]:
        """All reports, the oldest first, each with a link that opens its run."""
        return [(report, f"?run={run.id}") for run in reversed(self.finished()) for report in self.of(run)]

    def _read(self, run: Run) -> EvalReport | StudyReport | None:
        path = page_of(run, "json")
        if path is None:
            return None
        try:
            state = path.stat()
            mark = (state.st_mtime_ns, state.st_size)
            if path not in self._seen or self._seen[path][0] != mark:
                self._seen[path] = (mark, _parsed(path, run.verb))
        except OSError:
            return None
        return self._seen[path][1]


def page_of(run: Run, kind: str) -> Path | None:
    """The report of a run as "json", "csv", or "html" with charts."""
    return run.artifact / f"{FILES[run.verb]}.{kind}" if run.artifact and run.verb in FILES else None


def _parsed(path: Path, verb: str) -> EvalReport | StudyReport | None:
    try:
        content = parse(path.read_bytes())
        return (StudyReport if verb == "sweep" else EvalReport).model_validate(content)
    except (ValueError, ValidationError):
        return None

"""The evaluations of finished runs, read from where they were written. No gradio, and no torch."""

from pathlib import Path

from pydantic import ValidationError

from lsprism.json_files import parse
from lsprism.outcomes import Advice, EvalReport, StudyReport
from lsprism.runs import Run, Runs

FILES = {"evaluate": "report", "sweep": "study"}  # verb -> name of its report


class Reports:
    """Reports by run; a file is read again only where it has changed."""

    def __init__(self, runs: Runs) -> None:
        self.runs = runs
        self._seen: dict[Path, tuple[tuple[int, int], EvalReport | StudyReport | None]] = {}

    def finished(self) -> list[Run]:
        """Runs that have a report which is still there, the newest first."""
        return [run for run in self.runs.all() if run.state == "done" and self._read(run) is not None]

    def of(self, run: Run) -> list[EvalReport]:
        """One of an evaluation, several of a study, none where the file is gone or no report."""
        report = self._read(run)
        if isinstance(report, StudyReport):
            return report.reports
        return [report] if report is not None else []

    def advice(self, run: Run) -> Advice | None:
        report = self._read(run)
        return report.advice if isinstance(report, StudyReport) else None

    def linked(self) -> list[tuple[EvalReport, str]]:
        """All that was measured, the oldest first, with the link that opens its run."""
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
    """Where the report of a run lies: "json", "csv", or "html" with all its charts."""
    return run.artifact / f"{FILES[run.verb]}.{kind}" if run.artifact and run.verb in FILES else None


def _parsed(path: Path, verb: str) -> EvalReport | StudyReport | None:
    try:
        content = parse(path.read_bytes())
        return (StudyReport if verb == "sweep" else EvalReport).model_validate(content)
    except (ValueError, ValidationError):
        return None

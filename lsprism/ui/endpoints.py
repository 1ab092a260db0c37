"""The public API of a running dashboard, for gradio_client and other programs."""

from typing import Any

import gradio as gr

from lsprism import runs as work
from lsprism.runs import Run, RunStore
from lsprism.ui import form_values
from lsprism.ui.context import show_errors
from lsprism.ui.runs_html import find_differences, format_label


class Service:
    """The API endpoints; every result is plain JSON."""

    def __init__(self, runs: RunStore) -> None:
        self._runs = runs

    def list_runs(self) -> list[dict[str, Any]]:
        """All runs, the newest first."""
        return [_to_plain(run) for run in self._runs.list_all()]

    def start(self, model_id: str, sparsity: float = 0.5, settings: dict[str, Any] | None = None) -> dict[str, Any]:
        """Start a compression. `settings`: further fields of the form, such as {"method": "wanda", "samples": 16}."""
        with show_errors():
            spec = form_values.make_spec({**(settings or {}), "model_id": model_id, "sparsity": sparsity})
            return _to_plain(work.start(self._runs, "compress", spec))

    def status(self, run_id: str) -> dict[str, Any]:
        """One run and its progress."""
        with show_errors():
            run, progress = self._runs.get(run_id), self._runs.get_progress(run_id)
        return {**_to_plain(run), "progress": progress.model_dump(mode="json") if progress else None}

    def stop(self, run_id: str) -> dict[str, Any]:
        """Stop a run and wait until it has ended, a few seconds at most."""
        with show_errors():
            return _to_plain(work.stop(self._runs, run_id))

    def compare(self, first: str, second: str) -> list[list[str]]:
        """Metrics and settings of two runs as rows: name, first, second."""
        with show_errors():
            one, other = self._runs.get(first), self._runs.get(second)
        return [["run", format_label(one), format_label(other)], *map(list, find_differences(one, other))]


def register_api(runs: RunStore) -> None:
    """Add the endpoints to the page that is being built."""
    service = Service(runs)
    for endpoint in (service.list_runs, service.start, service.status, service.stop, service.compare):
        gr.api(endpoint, api_name=endpoint.__name__)


def _to_plain(run: Run) -> dict[str, Any]:
    return run.model_dump(mode="json", exclude={"processes", "format"})

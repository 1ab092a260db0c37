"""The current state of a run, gathered once for all pages that show it. No gradio."""

import threading
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Any

from lsprism.events import BlockDone, Finished, Notice, Progress, Stage
from lsprism.records.compression import CompressionReport, LayerReport
from lsprism.runs import Run, RunStore

LOG_BYTES = 16384  # read from the end of the log
FOLLOWED = 16  # runs whose events are kept in memory
SKIM_LINES = 200


@dataclass(frozen=True)
class RunView:
    """One run. `mark` changes whenever anything else in it changes."""

    run: Run
    mark: int = 0
    ahead: int = 0  # runs before it in the queue
    stage: str = ""
    detail: str = ""
    progress: Progress | None = None  # since the run was last started or resumed
    layers: tuple[LayerReport, ...] = ()  # of finished blocks
    blocks: int = 0  # of the model; 0: unknown
    report: Any = None
    said: tuple[str, ...] = ()  # stages and notices, in order
    log: str = ""


class RunViews:
    """Follows runs: every look reads only what was added since the last one, on any page."""

    def __init__(self, runs: RunStore) -> None:
        self.runs = runs
        self._views: OrderedDict[str, RunView] = OrderedDict()
        self._places: dict[str, tuple[int, int]] = {}  # read offsets of events and log
        self._lock = threading.Lock()

    def get_view(self, run_id: str) -> RunView:
        """The same object as long as nothing changes; RequestError if the run does not exist."""
        run = self.runs.get(run_id)
        with self._lock:
            old = self._views.get(run_id) or RunView(run)
            offset, logged = self._places.get(run_id, (0, -1))
            tail = self.runs.read_events(run_id, offset)
            size = self._log_size(run_id)
            ahead = len(self.runs.find_ahead(run)) if run.state == "queued" else 0
            if run_id in self._views and (run, tail.offset, size, ahead) == (old.run, offset, logged, old.ahead):
                return old
            begun = RunView(run, mark=old.mark) if tail.offset < offset else old  # started over: read from the start
            view = _add_events(replace(begun, run=run, ahead=ahead), tail.moments)
            log = self.runs.log(run_id, LOG_BYTES) if size != logged else old.log
            self._views[run_id] = replace(view, log=log, mark=old.mark + 1)
            self._places[run_id] = tail.offset, size
            self._views.move_to_end(run_id)
            while len(self._views) > FOLLOWED:
                self._places.pop(self._views.popitem(last=False)[0], None)
            return self._views[run_id]

    def _log_size(self, run_id: str) -> int:
        try:
            return (self.runs.get_folder(run_id) / "log").stat().st_size
        except OSError:
            return 0


OF_A_BLOCK = ("measure", "compress", "learn", "propagate", "teach")  # steps that count blocks


def _add_events(view: RunView, moments: tuple) -> RunView:
    changes: dict[str, Any] = {"said": list(view.said), "layers": {layer.name: layer for layer in view.layers}}
    for moment in moments:
        match moment.event:
            case Stage(name=name, detail=detail):
                changes |= {"stage": name, "detail": detail}
                changes["said"].append(f"{name}  {detail}".rstrip())
            case Notice(text=text):
                changes["said"].append(f"  {text}")
            case Progress() as progress:
                changes["progress"] = progress
                if progress.step in OF_A_BLOCK:
                    changes["blocks"] = progress.of
                    if progress.block == 1:  # another compression, or one that started over
                        changes["layers"] = {}
            case BlockDone(layers=layers, of=of, block=block, seconds=seconds):
                changes["blocks"] = of
                changes["layers"] |= {layer.name: layer for layer in layers}
                changes["said"].append(f"  block {block}/{of}  {seconds:.1f} s")
            case Finished(report=report):
                changes["report"] = report
                if isinstance(report, CompressionReport):
                    changes["layers"] = {layer.name: layer for layer in report.layers}
    said, layers = changes.pop("said"), changes.pop("layers")
    return replace(view, said=tuple(said[-SKIM_LINES:]), layers=tuple(layers.values()), **changes)


def select_first_run(runs: RunStore) -> str:
    """Id of the compression that a new page shows: an active one, else a queued one, else the newest; "" if none."""
    found = [run for run in runs.list_all() if run.verb == "compress"]
    live = [run for run in found if run.is_active]
    at_work = [run for run in live if run.state != "queued"]
    return next((run.id for run in [*at_work, *live, *found]), "")

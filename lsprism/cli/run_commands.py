"""The command `runs`: list and control runs from the command line and the dashboard."""

import argparse
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from rich import box
from rich.table import Table

from lsprism.cli.command import CliCommand, print_json, print_report, print_table
from lsprism.cli.display import format_remaining, print_line
from lsprism.errors import SpecError
from lsprism.events import Notice, Stage
from lsprism.runs import Run, RunStore, resume, stop
from lsprism.runs.argv import format_command_line

LAST_LINES = 20  # of the log of a failed run


def _add_options(parser: argparse.ArgumentParser) -> None:
    actions = f"{', '.join(ACTIONS)} (default list)"
    parser.add_argument("action", nargs="?", default="list", metavar="ACTION", choices=list(ACTIONS), help=actions)
    parser.add_argument("run", nargs="?", metavar="RUN", help="run id or unique prefix")
    parser.add_argument("--artifact", metavar="PATH", help="with delete: also delete the artifact at this path")


def _run_action(options: argparse.Namespace) -> None:
    """Perform one action on one run, or list all runs."""
    runs = RunStore()
    if options.artifact and options.action != "delete":
        raise SpecError("--artifact requires the action delete.", "Use: runs delete RUN --artifact PATH.")
    if options.action == "list":
        return _list(runs, options)
    run = _find_run(runs, options)
    changed = ACTIONS[options.action](runs, run, options)
    if changed is not None:
        print_report(options, changed, lambda run: _build_details(runs, run))


def _find_run(runs: RunStore, options: argparse.Namespace) -> Run:
    if not options.run:
        raise SpecError(f"runs {options.action} requires a run id.", "'runs list' shows them.")
    found = [run for run in runs.list_all() if run.id.startswith(options.run)]
    if len(found) > 1:
        raise SpecError(f"{options.run!r} matches {len(found)} runs.", "Use a longer prefix.")
    return found[0] if found else runs.get(options.run)


def _list(runs: RunStore, options: argparse.Namespace) -> None:
    found = runs.list_all()
    if options.json:
        print_json([run.model_dump(mode="json") for run in found])
    elif not found:
        print_line(f"No runs in {runs.folder}.")
    else:
        print_table(_build_table(runs, found))


def _log(runs: RunStore, run: Run, options: argparse.Namespace) -> Run | None:
    """Print the log; for a run from the command line, which has none, its stages and notices."""
    text = runs.log(run.id) or "\n".join(_iter_log_lines(runs, run))
    if options.json:
        print_json({"id": run.id, "log": text})
    else:
        print(text.rstrip("\n"))
    return None


def _iter_log_lines(runs: RunStore, run: Run) -> Iterable[str]:
    for moment in runs.read_events(run.id).moments:
        match moment.event:
            case Stage(name=name, detail=detail):
                yield f"{name}  {detail}"
            case Notice(text=text):
                yield f"  {text}"


def _delete(runs: RunStore, run: Run, options: argparse.Namespace) -> Run | None:
    runs.delete(run.id, options.artifact)
    if options.json:
        print_json({"id": run.id, "deleted": True})
        return None
    print_line(f"Deleted run {run.id}.")
    if run.artifact and run.artifact.exists():
        print_line(f"Its artifact remains at {run.artifact}.")
    return None


ACTIONS: dict[str, Callable[[RunStore, Run, argparse.Namespace], Run | None]] = {
    "list": lambda runs, run, options: None,  # takes no run
    "show": lambda runs, run, options: run,
    "log": _log,
    "stop": lambda runs, run, options: stop(runs, run.id),
    "resume": lambda runs, run, options: resume(runs, run.id),
    "delete": _delete,
}


def _build_table(runs: RunStore, found: Iterable[Run]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("run", "state", "command", "output"):
        table.add_column(name, no_wrap=name in ("run", "state"), overflow="fold")
    for run in found:
        table.add_row(run.id, format_state(runs, run), _format_command(run), _format_path(run.artifact))
    return table


def format_state(runs: RunStore, run: Run) -> str:
    """'running 40%, 2 min 10 s left', 'queued behind 2', 'done'."""
    if run.state == "queued":
        return f"queued behind {len(runs.find_ahead(run))}"
    if run.state == "running" and (progress := runs.get_progress(run.id)):
        left = format_remaining(progress.eta_s)
        return f"running {progress.fraction:.0%}" + (f", {left}" if left else "")
    return run.state


def _format_command(run: Run) -> str:
    if run.state == "damaged":
        return run.message
    said = [run.settings.get(name) for name in ("model_id", "method", "sparsity")]
    return " ".join([run.verb, *(str(word) for word in said if word is not None)])


def _format_path(path: Path | None) -> str:
    """Relative to the working folder, if it is inside."""
    if path is None:
        return ""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _build_details(runs: RunStore, run: Run) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in (run.id, ""):
        table.add_column(name, overflow="fold")
    log = runs.log(run.id).splitlines()[-LAST_LINES:] if run.state in ("failed", "lost") else []
    rows = {
        "state": format_state(runs, run),
        "reason": " ".join(filter(None, (run.message, run.hint))),
        "command": format_command_line(run) if run.verb else "",
        "working folder": str(run.cwd),
        "started": _format_time(run.begun or run.created),
        "ended": _format_time(run.ended),
        "output": str(run.artifact or ""),
        "run folder": str(runs.get_folder(run.id)),
        "notes": run.notes,
        "last lines": "\n".join(log),
        **{
            name.replace("_", " "): _format_value(value)
            for name, value in run.figures.items()
            if value != run.settings.get(name)
        },
    }
    for name, value in rows.items():
        if value:
            table.add_row(name, value)
    return table


def _format_value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _format_time(seconds: float | None) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds)) if seconds else ""


RUNS = CliCommand(
    "list and control runs: list, show, log, stop, resume, delete",
    "--json\nstop 20260818-0930",
    _add_options,
    _run_action,
    usage="[ACTION] [RUN] [options]",
)

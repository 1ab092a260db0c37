"""What all tabs share."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from html import escape

import gradio as gr

from lsprism.errors import LSPrismError
from lsprism.runs import RunStore, request_stop, stop
from lsprism.ui.planner import Planner
from lsprism.ui.run_views import RunViews
from lsprism.ui.texts import common as texts


@dataclass(frozen=True)
class Context:
    """Passed to `build(context)` of every tab.

    To show another tab, output `gr.Tabs(selected=NAME)` to `tabs`; NAME is that of the tab's module. To open a run,
    output its id to `opened`; a tab that shows a run listens to `opened.change`.
    """

    runs: RunStore
    page: gr.Blocks  # its `load` event fires when a page is opened or reloaded
    tabs: gr.Tabs
    opened: gr.State  # id of the selected run, from ?run=ID or chosen since; "" if none is
    talk: gr.BrowserState  # the conversation of the chat; outside of all tabs, or a page would read it too late

    timers: dict[str, list[gr.Timer]] = field(default_factory=dict)  # by tab

    def create_timer(self, tab: str, every_s: float) -> gr.Timer:
        """A timer that ticks only while its tab is visible."""
        made = gr.Timer(every_s, active=tab in (*self.timers, tab)[:1])  # the first tab built is visible first
        self.timers.setdefault(tab, []).append(made)
        return made

    @cached_property
    def watch(self) -> RunViews:
        return RunViews(self.runs)

    @cached_property
    def planner(self) -> Planner:
        return Planner()


@contextmanager
def show_errors() -> Iterator[None]:
    """Errors meant for a person become messages on the page; any other error is a bug and goes to the log."""
    try:
        yield
    except LSPrismError as error:
        hint = f"<br>{escape(error.hint)}" if error.hint else ""
        raise gr.Error(escape(error.message) + hint, title=texts.ERROR, print_exception=False) from None


def stop_run(runs: RunStore, run_id: str) -> None:
    """Ask a run to stop and return at once; a thread makes sure that it ends."""
    with show_errors():
        request_stop(runs, run_id)
    threading.Thread(target=_wait_and_kill, args=(runs, run_id), daemon=True, name=f"lsprism-stop-{run_id}").start()


def _wait_and_kill(runs: RunStore, run_id: str) -> None:
    with suppress(LSPrismError):  # it ended in the meantime
        stop(runs, run_id)

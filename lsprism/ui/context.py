"""What all tabs share."""

from dataclasses import dataclass

import gradio as gr

from lsprism.runs import Runs


@dataclass(frozen=True)
class Context:
    """Handed to `build(context)` of every tab.

    To show another tab, output `gr.Tabs(selected=NAME)` to `tabs`; NAME is that of the tab's module. To open a run,
    output its id to `opened`; a tab that shows a run listens to `opened.change`.
    """

    runs: Runs
    page: gr.Blocks  # its `load` happens when a page is opened or reloaded
    tabs: gr.Tabs
    opened: gr.State  # id of the run that this page looks at, from ?run=ID or chosen since; "" where none is

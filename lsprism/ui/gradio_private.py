"""Everything that the dashboard uses of gradio but its documentation does not promise, with the reason."""

from typing import Any

from gradio.components.plot import PlotData
from gradio.utils import get_upload_folder

__all__ = [
    "LAUNCH",
    "PlotData",  # a chart with its toolbar: `gr.Plot` takes a figure, but not plotly's settings
    "get_upload_folder",  # the folder that gradio serves and cleans up, for downloads too large for the page
]

# gradio would request its own page and give up after 3 s, too soon on a busy machine.
LAUNCH: dict[str, Any] = {"_frontend": False}

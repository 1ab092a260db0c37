"""Figures as gradio wants them, and files to save: small ones lie in the page itself."""

import base64
import json
import shutil
from html import escape
from pathlib import Path

import plotly.graph_objects as go
from gradio.components.plot import PlotData
from gradio.utils import get_upload_folder

KINDS = {"csv": "text/csv", "json": "application/json"}
UNUSED = ["select2d", "lasso2d", "zoomIn2d", "zoomOut2d", "autoScale2d"]


def plot(figure: go.Figure, name: str) -> PlotData:
    """`name`: of the file that the camera of the chart saves."""
    content = json.loads(figure.to_json())
    content["config"] = {
        "displaylogo": False,
        "responsive": True,
        "modeBarButtonsToRemove": UNUSED,
        "toImageButtonOptions": {"format": "png", "filename": name, "scale": 2},
    }
    return PlotData(type="plotly", plot=json.dumps(content))


def downloads(name: str, contents: dict[str, str]) -> str:
    """Links that save `contents`, by their kind ("csv", "json"); the chart's own camera saves a PNG."""
    links = []
    for kind, text in contents.items():
        data = f"data:{KINDS[kind]};base64,{base64.b64encode(text.encode()).decode()}"
        links.append(f'<a class="file" download="{escape(name)}.{kind}" href="{data}">{kind.upper()}</a>')
    return f'<div class="files"><span>Save</span>{"".join(links)}<span>PNG: the camera on each chart</span></div>'


def served(path: Path, name: str) -> str:
    """A copy of a large file where gradio serves from; it is gone after a day. OSError where there is no room."""
    copy = Path(get_upload_folder()) / name
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, copy)
    return str(copy)

"""Charts for gradio, and downloads: small files are embedded in the page."""

import base64
import json
import shutil
from html import escape
from pathlib import Path

import plotly.graph_objects as go

from lsprism.ui.gradio_private import PlotData, get_upload_folder
from lsprism.ui.texts import common as texts

KINDS = {"csv": "text/csv", "json": "application/json"}
UNUSED = ["select2d", "lasso2d", "zoomIn2d", "zoomOut2d", "autoScale2d"]


def plot(figure: go.Figure, name: str) -> PlotData:
    """`name`: of the PNG file that the chart's camera icon saves."""
    content = json.loads(figure.to_json())
    content["config"] = {
        "displaylogo": False,
        "responsive": True,
        "modeBarButtonsToRemove": UNUSED,
        "toImageButtonOptions": {"format": "png", "filename": name, "scale": 2},
    }
    return PlotData(type="plotly", plot=json.dumps(content))


def render_downloads(name: str, contents: dict[str, str]) -> str:
    """Links that download `contents`, by their kind ("csv", "json")."""
    links = []
    for kind, text in contents.items():
        data = f"data:{KINDS[kind]};base64,{base64.b64encode(text.encode()).decode()}"
        links.append(f'<a class="file" download="{escape(name)}.{kind}" href="{data}">{kind.upper()}</a>')
    return f'<div class="files"><span>{texts.DOWNLOAD}</span>{"".join(links)}<span>{texts.CHART_AS_PNG}</span></div>'


def copy_for_download(path: Path, name: str) -> str:
    """Copy a large file to where gradio serves from; deleted after a day. OSError if the disk is full."""
    copy = Path(get_upload_folder()) / name
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, copy)
    return str(copy)

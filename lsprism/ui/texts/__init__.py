"""Every text of the dashboard, a file per tab. Components name them; nothing else is decided here.

`get_field_texts` is the label and the info line of a form field. Empty states and errors are pairs: what, and what to
do next. Names in braces are filled in by `str.format`.
"""

from typing import Any

Pair = tuple[str, str]


def get_field_texts(label: str, info: str = "") -> dict[str, Any]:
    """Arguments of a gradio component."""
    return {"label": label, "info": info} if info else {"label": label}


def fill_names(pair: Pair, **values: Any) -> Pair:
    """Both texts with their names in braces filled in."""
    return pair[0].format(**values), pair[1].format(**values)

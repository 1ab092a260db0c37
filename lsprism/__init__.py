"""LS-PRISM: compresses causal language models and measures what it costs.

The public names are imported on first use: `import lsprism` takes milliseconds and does not import torch.
"""

import importlib
from typing import Any

__version__ = "0.1.0"
__all__ = ["compare", "compress", "evaluate", "events", "export", "inspect", "load", "study"]

_HOMES = {
    **dict.fromkeys(("compress", "export", "inspect", "load"), "lsprism.api"),
    **dict.fromkeys(("evaluate", "study"), "lsprism.measure"),
    "compare": "lsprism.charts.reports",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'lsprism' has no attribute {name!r}")

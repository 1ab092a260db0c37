"""LS-PRISM: compresses causal language models and measures what it costs.

The public names are imported on first use: `import lsprism` takes milliseconds and does not import torch.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lsprism import events, runs
    from lsprism.api import compress, export, inspect, load
    from lsprism.charts.report_files import compare
    from lsprism.charts.table import Table
    from lsprism.commands import Generation, benchmark, check_stats, generate, spectra
    from lsprism.errors import LSPrismError, RequestError, WorkError
    from lsprism.evaluation_api import evaluate, study, sweep
    from lsprism.models.load import LoadedModel
    from lsprism.records.compression import CompressionReport, LayerSpectrum, StatsReport
    from lsprism.records.evaluation import EvalReport, SweepReport
    from lsprism.records.model_plan import Plan
    from lsprism.specs import (
        CalibrationSpec,
        CompressSpec,
        EvaluateSpec,
        GenerateSpec,
        MeasureSpec,
        PlanSpec,
        SpectraSpec,
        SweepSpec,
    )
    from lsprism.ui.serve import dashboard

__version__ = "0.1.0"
__all__ = [
    "CalibrationSpec",
    "CompressSpec",
    "CompressionReport",
    "EvalReport",
    "EvaluateSpec",
    "GenerateSpec",
    "Generation",
    "LSPrismError",
    "LayerSpectrum",
    "LoadedModel",
    "MeasureSpec",
    "Plan",
    "PlanSpec",
    "RequestError",
    "SpectraSpec",
    "StatsReport",
    "SweepReport",
    "SweepSpec",
    "Table",
    "WorkError",
    "benchmark",
    "check_stats",
    "compare",
    "compress",
    "dashboard",
    "evaluate",
    "events",
    "export",
    "generate",
    "inspect",
    "load",
    "runs",
    "spectra",
    "study",
    "sweep",
]

_MODULES = {  # module -> the public names that it has
    "api": "compress export inspect load",
    "charts.report_files": "compare",
    "charts.table": "Table",
    "commands": "Generation benchmark check_stats generate spectra",
    "errors": "LSPrismError RequestError WorkError",
    "evaluation_api": "evaluate study sweep",
    "models.load": "LoadedModel",
    "records.evaluation": "EvalReport SweepReport",
    "records.compression": "CompressionReport LayerSpectrum StatsReport",
    "records.model_plan": "Plan",
    "specs": "CalibrationSpec CompressSpec EvaluateSpec GenerateSpec MeasureSpec PlanSpec SpectraSpec SweepSpec",
    "ui.serve": "dashboard",
}
_HOMES = {name: f"lsprism.{module}" for module, names in _MODULES.items() for name in names.split()}


def __getattr__(name: str) -> object:
    from lsprism.extras import translate_import_errors

    if name in ("events", "runs"):
        return importlib.import_module(f"lsprism.{name}")
    if name in _HOMES:
        with translate_import_errors():
            return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'lsprism' has no attribute {name!r}")

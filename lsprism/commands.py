"""Commands as functions, beyond those of api.py and evaluation_api.py: each runs to its end and returns the result."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Unpack

from lsprism import api
from lsprism.api import get_final_report
from lsprism.extras import translate_import_errors
from lsprism.generation.stream import Reason
from lsprism.generation.timing import DecodeTiming
from lsprism.models.load import LoadedModel
from lsprism.packed.compute_dtype import use_compute_dtype
from lsprism.packed.kernels.dispatch import use_kernel
from lsprism.records.compression import LayerSpectrum, StatsReport
from lsprism.records.evaluation import EvalReport
from lsprism.settings import EvaluateSettings, GenerateSettings, StatsSettings
from lsprism.specs import TASKS, DtypeName, EvaluateSpec, GenerateSpec, PlanSpec, SpectraSpec, validate


@dataclass(frozen=True)
class Generation:
    """The text for one prompt, why it ended (eos or length), and what it took."""

    text: str
    reason: Reason | None
    timing: DecodeTiming


def benchmark(
    model_id: str | Path, task: str | Sequence[str] = TASKS, **settings: Unpack[EvaluateSettings]
) -> EvalReport:
    """Compare the completions of a model with those of its baseline on prompts.

    `task`: one or several of summarization, extraction, creative, logic, cnn_dailymail, xsum, samsum, or .jsonl files.
    `settings` are those of `evaluate`. Raises as `evaluate` does.
    """
    with translate_import_errors("eval"):
        from lsprism import evaluation_api

    given = settings.pop("measuring", {})
    measuring = {**(given if isinstance(given, dict) else dict(given)), "measures": ("text",), "tasks": task}
    spec = validate(EvaluateSpec, model_id=model_id, measuring=measuring, **settings)
    return get_final_report(evaluation_api.stream_evaluate(spec), EvalReport)


def check_stats(model_id: str | Path, **settings: Unpack[StatsSettings]) -> StatsReport:
    """Statistics of the input activations of every layer of an uncompressed model, on the calibration text.

    `settings` and defaults: see settings.StatsSettings. Raises as `compress` does.
    """
    return get_final_report(api.check_stats(validate(PlanSpec, model_id=model_id, **settings)), StatsReport)


def spectra(model_id: str | Path, save_path: str | Path) -> list[LayerSpectrum]:
    """Singular values of every compressed matrix of an artifact, before and after.

    They are added to the file `save_path`, one JSON line per matrix; matrices that it has already are not computed
    again. Raises TargetError or SourceError before any work, DamagedError or DiskError while working.
    """
    with translate_import_errors("eval"):
        from lsprism import evaluation_api
        from lsprism.charts.spectrum import read_spectra

    spec = validate(SpectraSpec, model_id=model_id, save_path=save_path)
    for _ in evaluation_api.stream_spectra(spec):
        pass
    return read_spectra(spec.save_path)


def generate(
    model: LoadedModel | str | Path,
    prompt: str,
    *,
    system: str | None = None,
    chat: bool = True,
    kernel: str = "auto",
    compute_dtype: DtypeName = "auto",
    **settings: Unpack[GenerateSettings],
) -> Generation:
    """Generate text for one prompt, with a model from `load` or with any source.

    `chat` False: complete the plain text without the chat template. `settings` and defaults: see
    settings.GenerateSettings. Raises SpecError for a value out of range or a prompt that fills the context; for a
    source, raises as `load` does.
    """
    spec = validate(GenerateSpec, **settings)
    with use_kernel(kernel), use_compute_dtype(compute_dtype):
        loaded = model if isinstance(model, LoadedModel) else api.load(model)
        pieces = list(api.stream_generate(loaded, prompt, spec, system=system, chat=chat))
    return Generation("".join(piece.text for piece in pieces), pieces[-1].reason, pieces[-1].timing)

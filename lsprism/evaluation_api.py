"""Evaluation API: evaluate one model, or sweep over several sparsities."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Unpack

from lsprism.api import get_final_report, stream_compress
from lsprism.artifact.manifest import MANIFEST, RECIPE, REMEDY, read_recipe, read_report, verify
from lsprism.artifact.recipe import Recipe
from lsprism.artifact.shards import translate_disk_errors, write_atomic
from lsprism.artifact.target import ANOTHER, check_target
from lsprism.charts.html_report import render_page
from lsprism.charts.report_files import REPORT, STUDY
from lsprism.charts.spectrum import add_spectrum, read_spectra
from lsprism.charts.table import build_comparison, to_csv
from lsprism.errors import DamagedError, SourceError, SpecError, TargetError
from lsprism.evaluation.agreement import check_same_tokens
from lsprism.evaluation.model_pair import ModelPair, resolve_model
from lsprism.evaluation.progress import Part
from lsprism.evaluation.recommendation import recommend
from lsprism.evaluation.result_cache import ResultCache
from lsprism.evaluation.runner import Evaluation, EvaluationData, fit_to_models, load_data
from lsprism.evaluation.spectra import iter_spectra as singular_values
from lsprism.events import BlockClock, Event, Finished, Notice, Stage
from lsprism.metric_declarations import get_metric
from lsprism.models.demo import HUB_ID
from lsprism.models.source import resolve
from lsprism.packed.compute_dtype import use_compute_dtype
from lsprism.packed.kernels.dispatch import use_kernel
from lsprism.paths import check_writable, expand
from lsprism.records.evaluation import EvalReport, SweepReport
from lsprism.records.model_plan import ModelSource
from lsprism.settings import EvaluateSettings, SweepSettings
from lsprism.specs import CompressSpec, EvaluateSpec, MeasureSpec, SpectraSpec, SweepSpec, validate

MEASURED = "figures"  # folder of cached metrics


def evaluate(model_id: str | Path, **settings: Unpack[EvaluateSettings]) -> EvalReport:
    """Evaluate a model and its baseline. `settings` are the fields of EvaluateSpec, `measuring` those of MeasureSpec.

    Perplexities are per token, sizes in bytes, speeds in tokens per second; every metric states its protocol.
    Raises SpecError, SourceError, CorpusError or TargetError before any work, WorkError or NumericError during it.
    """
    return get_final_report(stream_evaluate(validate(EvaluateSpec, model_id=model_id, **settings)), EvalReport)


def stream_evaluate(spec: EvaluateSpec) -> Iterator[Event]:
    """As `evaluate`, as a stream of events; closing it stops. With a save_path, finished metrics are kept."""
    with use_kernel(spec.kernel), use_compute_dtype(spec.compute_dtype):
        yield from _run_evaluate(spec)


def _run_evaluate(spec: EvaluateSpec) -> Iterator[Event]:
    yield Stage(name="prepare", detail=spec.model_id)
    if spec.save_path is not None:
        _check_target(spec.save_path, REPORT, spec)
    source = _verify_source(resolve(spec.model_id, spec.revision))
    baseline, notice = _resolve_baseline(spec, source)
    if notice:
        yield Notice(text=notice)
    asked = _filter_measures(spec.measuring, baseline)
    material = load_data(asked, _is_demo(source) or (baseline is not None and _is_demo(baseline)))
    asked, material = fit_to_models(asked, material, *filter(None, (source, baseline)))
    ledger = _open_cache(spec.save_path, spec)
    report = yield from _compare_models(spec, asked, material, (source, baseline), ledger)
    if notice:
        report = report.model_copy(update={"notes": [*report.notes, notice]})
    if spec.save_path is not None:
        _write(spec.save_path, REPORT, report, [report], f"Evaluation of {report.compressed.model.label}")
    yield Finished(report=report)


def sweep(model_id: str | Path, save_path: str | Path, **settings: Unpack[SweepSettings]) -> SweepReport:
    """Compress a model to several sparsities, evaluate each, and recommend one; `settings`: fields of SweepSpec."""
    return get_final_report(
        stream_study(validate(SweepSpec, model_id=model_id, save_path=save_path, **settings)), SweepReport
    )


study = sweep  # its name in earlier versions


def stream_study(spec: SweepSpec) -> Iterator[Event]:
    """As `sweep`, as a stream of events. Each artifact and each metric is stored as soon as it is finished."""
    with use_kernel(spec.kernel), use_compute_dtype(spec.compute_dtype):
        yield from _run_study(spec)


def _run_study(spec: SweepSpec) -> Iterator[Event]:
    yield Stage(name="prepare", detail=spec.model_id)
    _check_target(spec.save_path, STUDY, spec)
    targets = _resolve_targets(spec)
    source = resolve(spec.model_id, spec.revision, need_weights=False)
    if source.kind == "artifact":
        raise SourceError(f"{spec.model_id} is already compressed.", "Use its base model.")
    asked = spec.measuring
    asked, material = fit_to_models(asked, load_data(asked, source.kind == "demo"), source)
    ledger = _open_cache(spec.save_path, spec)
    reports: list[EvalReport] = []
    for number, (sparsity, target) in enumerate(targets.items(), start=1):
        yield Notice(text=f"Model {number} of {len(targets)}: {spec.method} at sparsity {sparsity:g}.")
        for event in stream_compress(_make_compress_spec(spec, sparsity, target)):
            if not isinstance(event, Finished):
                yield event
        one = validate(EvaluateSpec, model_id=target, device=spec.device)
        baseline = resolve(spec.model_id, spec.revision)
        reports.append((yield from _compare_models(one, asked, material, (resolve(str(target)), baseline), ledger)))
    result = SweepReport(model_id=spec.model_id, reports=reports, advice=recommend(reports))
    title = f"{source.base_model} at sparsity {', '.join(f'{sparsity:g}' for sparsity in spec.sparsities)}"
    _write(spec.save_path, STUDY, result, reports, title)
    yield Finished(report=result)


def _compare_models(
    spec: EvaluateSpec,
    asked: MeasureSpec,
    material: EvaluationData,
    sources: tuple[ModelSource, ModelSource | None],
    ledger: ResultCache,
) -> Part[EvalReport]:
    """Evaluate (model, baseline), both loaded the same way, and return the report."""
    model = resolve_model(sources[0], spec.device, spec.dtype)
    other = None if sources[1] is None else resolve_model(sources[1], spec.device, model.dtype)
    return (yield from Evaluation(asked, material, ModelPair(model, other), ledger).run())


def _resolve_baseline(spec: EvaluateSpec, source: ModelSource) -> tuple[ModelSource | None, str]:
    """The baseline, and a notice if there is none although the model has one."""
    if spec.baseline == "none":
        return None, ""
    if spec.baseline != "auto":
        baseline = _verify_source(resolve(spec.baseline))
        check_same_tokens(baseline, source)
        return baseline, ""
    recipe = read_recipe(source.folder) if source.kind == "artifact" else None
    if recipe is None:
        return None, ""
    try:
        baseline = _read_base(recipe)
    except SourceError as error:
        name = recipe.model_id
        return None, f"Base model {name} not available; evaluating without a baseline. {error.message} Set --baseline."
    check_same_tokens(baseline, source)
    return baseline, ""


def _read_base(recipe: Recipe) -> ModelSource:
    """The base model of an artifact, from its recipe. A local folder or file is never looked up on the Hub, where
    another model may have the same name. Raises SourceError."""
    name = recipe.model_id
    if name == "demo" or recipe.revision or "/" in recipe.base_model:
        return resolve(name, recipe.revision)
    named = expand(name)
    known = expand(recipe.base_path)
    if os.path.exists(known) and not (os.path.exists(named) and os.path.samefile(named, known)):
        return resolve(str(known))  # model_id was relative to another folder
    if not os.path.exists(named):
        hint = "Move it back." if known.is_absolute() else "Run this in the folder where the artifact was made."
        raise SourceError(f"The base model was not found at {known}.", hint)
    return resolve(name)


def _filter_measures(asked: MeasureSpec, baseline: ModelSource | None) -> MeasureSpec:
    """Leave out metrics that need a baseline if there is none; SpecError if nothing is left."""
    if baseline is not None:
        return asked
    left = tuple(name for name in asked.measures if not get_metric(name).needs_baseline)
    if not left:
        raise SpecError(f"The metric {asked.measures[0]} needs a baseline.", "Set --baseline.")
    return asked.model_copy(update={"measures": left})


def _verify_source(source: ModelSource) -> ModelSource:
    """`source`; an artifact is verified first."""
    if source.kind == "artifact" or (source.folder / MANIFEST).is_file():
        verify(source.folder)
    return source


def _is_demo(source: ModelSource) -> bool:
    if source.kind != "artifact":
        return source.kind == "demo"
    recipe = read_recipe(source.folder)
    return recipe is not None and recipe.base_model == HUB_ID


def _make_compress_spec(spec: SweepSpec, sparsity: float, target: Path) -> CompressSpec:
    fields = {
        name: getattr(spec, name) for name in ("model_id", "revision", "method", "rank_share", "allocation", "values")
    }
    return validate(
        CompressSpec,
        **fields,
        sparsity=sparsity,
        calibration=spec.calibration,
        device=spec.device,
        dtype=spec.dtype,
        compute_dtype=spec.compute_dtype,
        save_path=target,
        resume=spec.resume,
        force=spec.force,
    )


def _resolve_targets(spec: SweepSpec) -> dict[float, Path]:
    """Sparsity -> folder of the artifact; all are checked before the first compression starts."""
    targets = {sparsity: spec.save_path / f"{spec.method}-{sparsity:g}" for sparsity in spec.sparsities}
    if len(set(targets.values())) < len(spec.sparsities):
        raise SpecError(
            f"--sparsities {','.join(map(str, spec.sparsities))} contains a sparsity twice.",
            "Give each once, with at most six digits.",
        )
    for target in targets.values():
        check_target(target, resume=spec.resume, force=spec.force)
    return targets


def _check_target(folder: Path, name: str, spec: EvaluateSpec | SweepSpec) -> None:
    """Raise TargetError for a folder with a finished or unfinished report, unless `resume` or `force` is set."""
    if os.path.isfile(folder):
        raise TargetError(f"{folder} is a file.", ANOTHER)
    check_writable(folder / MEASURED, ANOTHER)
    known = [folder / f"{name}.json", folder / MEASURED]
    begun = next((path for path in known if path.exists()), None)
    if begun is not None and not (spec.resume or spec.force):
        raise TargetError(f"{begun} already exists.", "Use --resume to continue or --force to start over.")


def _open_cache(folder: Path | None, spec: EvaluateSpec | SweepSpec) -> ResultCache:
    """The cache of finished metrics; `force` clears it."""
    if folder is None:
        return ResultCache()
    if spec.force and not spec.resume:
        with translate_disk_errors(folder):
            for path in (folder / MEASURED).glob("*.json"):
                path.unlink()
    return ResultCache(folder / MEASURED)


def _write(folder: Path, name: str, result: EvalReport | SweepReport, reports: list[EvalReport], title: str) -> None:
    """Write the HTML page, the CSV table and, last, the JSON report, which marks the evaluation as complete."""
    advice = result.advice if isinstance(result, SweepReport) else None
    write_atomic(folder / f"{name}.html", render_page(title, reports, advice))
    write_atomic(folder / f"{name}.csv", to_csv(build_comparison(reports)))
    write_atomic(folder / f"{name}.json", result.model_dump_json(indent=2) + "\n")


def stream_spectra(spec: SpectraSpec) -> Iterator[Event]:
    """Append the singular values of every compressed layer to a file, one JSON line each, in block order."""
    yield Stage(name="spectra", detail=spec.model_id)
    if os.path.isdir(spec.save_path):
        raise TargetError(f"{spec.save_path} is a folder.", "Set --save-path to a file name.")
    check_writable(spec.save_path, ANOTHER)
    artifact = _verify_source(resolve(spec.model_id))
    if artifact.kind != "artifact":
        raise SourceError(f"{spec.model_id} is not compressed.", "Give an artifact.")
    recipe = read_recipe(artifact.folder)
    if recipe is None:
        raise DamagedError(f"{artifact.folder / RECIPE} is missing or malformed.", REMEDY)
    source = _read_base(recipe)
    known = {site.name for site in read_spectra(spec.save_path)}
    count = sum(layer.form != "dense" for layer in read_report(artifact.folder).layers)
    clock = BlockClock(count, done=len(known))
    for site in singular_values(artifact.folder, source, known):
        with translate_disk_errors(spec.save_path):
            add_spectrum(spec.save_path, site)
        clock.next_block()
        yield clock.make_progress("spectra", 0.0)

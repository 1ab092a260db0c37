"""The public API: one function per command. `compress` returns its report; `stream_compress` yields events."""

import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar, Unpack

import psutil
import torch

import lsprism
import lsprism.hf  # noqa: F401 - registers the artifact format
from lsprism.artifact.export import check_absent
from lsprism.artifact.export import stream_dense_copy as write_dense
from lsprism.artifact.manifest import MANIFEST, read_recipe, verify
from lsprism.artifact.push import check_repo
from lsprism.artifact.push import push_to_hub as push
from lsprism.artifact.target import check_target, count_partial_bytes, restore_bos
from lsprism.calibration.corpus import Corpus, is_file_name, read_text
from lsprism.calibration.sample import sample_windows
from lsprism.engine.error_prediction import add_predicted_errors, store_errors
from lsprism.engine.input_stats import stream_input_stats
from lsprism.engine.layer_budgets import resolve_budgets
from lsprism.engine.plan import PreparedPlan, prepare_checked_plan
from lsprism.engine.recipe import make_recipe, restore_compute_dtype
from lsprism.engine.run import run
from lsprism.errors import ResourceError, SourceError
from lsprism.events import Event, Finished, Notice, Stage
from lsprism.extras import check_extra
from lsprism.generation.prompt import encode
from lsprism.generation.stream import Piece, generate
from lsprism.machine import get_free_memory
from lsprism.models.load import LoadedModel, select_device
from lsprism.models.load import load as load_model
from lsprism.models.source import resolve
from lsprism.models.tokenizer_files import check_tokenizer
from lsprism.packed.kernels.autotune import load_choice
from lsprism.paths import find_existing, get_sibling
from lsprism.reports import CompressionReport, LayerInputStats, LayerPlan, ModelSource, Plan, StatsReport
from lsprism.settings import CompressSettings, PlanSettings
from lsprism.specs import CompressSpec, GenerateSpec, PlanSpec, validate

R = TypeVar("R")


def inspect(model_id: str | Path, **settings: Unpack[PlanSettings]) -> Plan:
    """Plan a compression without running it (dry run), from the model's config and cached measurements.

    Nothing is written except the cache (`demo` and .gguf files are converted there), and no weight is read: only the
    headers of existing files, which must match the config.

    `settings` are the fields of PlanSpec, `calibration` a dict of the fields of CalibrationSpec. The plan lists every
    layer (weight [rows, columns] = [out, in]) with its format and budget, the parts that are not compressed and why,
    and the bytes on disk, in memory, and at the peak of the run (see reports.Plan). 1 - sparsity of the layers'
    parameters are kept in total, distributed by the allocation rule, or uniformly until its measurements are known.
    Raises SpecError for a setting out of range, SourceError for a model that cannot be found, is not supported, or is
    already compressed.
    """
    return plan_from_spec(validate(PlanSpec, model_id=model_id, **settings))


def plan_from_spec(spec: PlanSpec) -> Plan:
    """As `inspect`, for a PlanSpec."""
    drafted = prepare_checked_plan(spec, _check_uncompressed(resolve(spec.model_id, spec.revision, need_weights=False)))
    plan = _add_tokenizer_note(add_predicted_errors(spec, drafted))
    if drafted.device.type != "cpu":
        return plan
    sites = [site.model_copy(update={"kernel": _find_kernel(site, drafted.dtype)}) for site in plan.sites]
    return plan.model_copy(update={"sites": sites})


def _add_tokenizer_note(plan: Plan) -> Plan:
    """Add a note if the tokenizer is missing or malformed: a plan does not need it, a compression does."""
    if plan.source.config_only:
        return plan
    try:
        check_tokenizer(plan.source.folder, plan.source.model_id)
    except SourceError as error:
        return plan.model_copy(update={"notes": [*plan.notes, str(error)]})
    return plan


def _find_kernel(plan: LayerPlan, dtype: torch.dtype) -> str:
    site = plan.site
    return load_choice(plan.form, (site.rows, site.columns), plan.budget, plan.values, dtype)


def compress(
    model_id: str | Path, save_path: str | Path, **settings: Unpack[CompressSettings]
) -> CompressionReport:
    """Compress a model and write it to the folder `save_path`, which is complete afterwards, or absent.

    `settings` are the fields of CompressSpec, `calibration` a dict of the fields of CalibrationSpec; sparsity is the
    fraction in (0, 1) of the compressed layers' parameters to remove. Each weight [rows, columns] is packed in a format
    that keeps its budget; methods/ cites the papers of the methods. The report has sizes in bytes, counted from the
    files, and the error ||(W - W')X||_F / ||WX||_F of each layer (see reports.CompressionReport).

    Raises a RequestError (SpecError, SourceError, CorpusError, TargetError, ResourceError) before anything starts, or a
    WorkError (DamagedError, NumericError, DiskError) during the run, which `resume=True` continues.
    """
    spec = validate(CompressSpec, model_id=model_id, save_path=save_path, **settings)
    return get_final_report(stream_compress(spec), CompressionReport)


def get_final_report(events: Iterator[Event], kind: type[R]) -> R:
    """Run a stream of events to its end and return the report of the last one."""
    last = deque(events, maxlen=1).pop()
    assert isinstance(last, Finished) and isinstance(last.report, kind)
    return last.report


def stream_compress(spec: CompressSpec) -> Iterator[Event]:
    """As `compress`, as a stream of events. Closing the iterator stops the run, which can be resumed.

    The last event is a Finished with the report.
    """
    yield Stage(name="prepare", detail=spec.model_id)
    check_target(spec.save_path, resume=spec.resume, force=spec.force)
    spec = restore_bos(spec)
    select_device(spec.device)
    if spec.rule == "kmif":
        check_extra("kmif")
    corpus = _load_local_text(spec)
    source = _fetch(spec)
    plan, notice = restore_compute_dtype(spec, prepare_checked_plan(spec, source))
    if notice:
        yield Notice(text=notice)
    _check_resources(plan, spec.save_path)
    tokens, text, notice = sample_windows(spec, source, corpus)
    for note in filter(None, [*plan.plan.notes, notice]):
        yield Notice(text=note)
    recipe, started = make_recipe(spec, plan, tokens), time.monotonic()
    if spec.rule != "uniform":
        plan = yield from resolve_budgets(spec, plan, tokens, recipe)
    notes: dict[str, list[str]] = {}
    for site in plan.plan.sites:
        notes.setdefault(site.note, []).append(site.site.name)
    for note, (first, *others) in notes.items():
        if note:
            yield Notice(text=f"{first}{f', like {len(others)} others,' if others else ''} {note}.")
    for event in run(spec, plan, tokens, recipe, text, started):
        if isinstance(event, Finished):
            assert isinstance(event.report, CompressionReport)
            yield from _store_layer_errors(spec, plan, event.report)
        yield event


def _store_layer_errors(spec: CompressSpec, plan: PreparedPlan, report: CompressionReport) -> Iterator[Event]:
    """Store the layer errors for later estimates. The artifact is complete, so a failure is only a notice."""
    try:
        store_errors(spec, plan, report.layers)
    except (OSError, ValueError, ArithmeticError, LookupError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        yield Notice(text=f"{report.save_path} is complete, but its errors were not stored for estimates ({reason}).")


def check_stats(spec: PlanSpec) -> Iterator[Event]:
    """Measure activation statistics of every layer of the uncompressed model; the last event has a StatsReport.

    For the inputs X [tokens, columns] of a layer: mean and maximum of |x|, mean of the feature norms ||X_j||_2, and
    the fraction of features whose norm is far above it (see reports.SiteStats). Raises the same errors as `compress`.
    """
    source = _check_uncompressed(resolve(spec.model_id, spec.revision))
    plan = prepare_checked_plan(spec, source)
    tokens, text, notice = sample_windows(spec, source)
    if notice:
        yield Notice(text=notice)
    sites = []
    for item in stream_input_stats(plan, tokens):
        if isinstance(item, LayerInputStats):
            sites.append(item)
        else:
            yield item
    samples, length = tokens.shape
    yield Finished(
        report=StatsReport(model_id=spec.model_id, calibration=text, samples=samples, length=length, sites=sites)
    )


def load(model_id: str | Path, device: str = "auto", dtype: str = "auto", revision: str = "") -> LoadedModel:
    """Load a dense model or an artifact, with its tokenizer. All files of an artifact are verified first.

    The weights of an artifact stay packed: in memory its `model` takes as many bytes as the artifact on disk.
    `dtype` auto: the model's own; `revision`: branch, tag or commit of a Hub model. Raises SourceError for a model that
    cannot be found or is not supported, SpecError for a device or dtype that is not available, and DamagedError, which
    names the file, for an artifact or weights that are incomplete or altered.
    """
    source = resolve(str(model_id), revision)
    if source.kind == "artifact" or (source.folder / MANIFEST).is_file():  # also if config.json lost its entry
        verify(source.folder)
    return load_model(source, device, dtype)


def stream_generate(
    loaded: LoadedModel, prompt: str, spec: GenerateSpec, *, system: str | None = None, chat: bool = True
) -> Iterator[Piece]:
    """Stream the output for one prompt; the last piece has the stop reason. `chat`: use the chat template, if any."""
    messages = [{"role": "user", "content": prompt}]
    if system:
        messages.insert(0, {"role": "system", "content": system})
    tokens = encode(loaded.tokenizer, messages if chat else prompt, chat=None if chat else False)
    return generate(loaded.model, loaded.tokenizer, tokens, spec)


def _fetch(spec: CompressSpec) -> ModelSource:
    """The model to compress, with its weights; checks everything possible before they are downloaded."""
    source = _check_uncompressed(resolve(spec.model_id, spec.revision, need_weights=False))
    if source.config_only:
        check_tokenizer(source.folder, spec.model_id)
        _check_resources(prepare_checked_plan(spec, source), spec.save_path)
    return resolve(spec.model_id, spec.revision) if source.kind in ("hub", "folder") else source


def _check_uncompressed(source: ModelSource) -> ModelSource:
    """`source`; SourceError if it is an artifact, whose removed weights are gone."""
    if source.kind != "artifact":
        return source
    base = read_recipe(source.folder).get("base_model", "")
    raise SourceError(
        f"{source.model_id} is already compressed and cannot be compressed again.",
        f"Give its base model{f', {base},' if base else ''} instead.",
    )


def _load_local_text(spec: PlanSpec) -> Corpus | None:
    """The calibration text if it is local, so that a missing one is noticed before a model is downloaded."""
    wanted = spec.calibration.source
    return read_text(wanted, spec.calibration.column) if wanted == "embedded" or is_file_name(wanted) else None


def _check_resources(plan: PreparedPlan, target: Path) -> None:
    """Raise ResourceError if memory or disk space is not enough, by estimate."""
    need, free = plan.plan.memory.total, get_free_memory()
    if need > free:
        raise ResourceError(
            f"This needs about {need / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free.",
            "Lower --samples or --length, or close other programs.",
        )
    if plan.device.type == "cuda":
        need, free = plan.plan.memory.on_device, torch.cuda.mem_get_info(plan.device)[0]
        if need > free:
            raise ResourceError(
                f"This needs about {need / 1e9:.1f} GB on {plan.device}, {free / 1e9:.1f} GB are free.",
                "Free GPU memory, or use --device cpu.",
            )
    existing = find_existing(get_sibling(target))
    need, free = plan.plan.disk_bytes - count_partial_bytes(target), psutil.disk_usage(str(existing)).free
    if need > free:
        raise ResourceError(
            f"This needs about {need / 1e9:.1f} GB of disk space in {existing}, {free / 1e9:.1f} GB are free.",
            "Free some space, or choose another --save-path.",
        )


def export(
    model_id: str | Path, save_path: str | Path, push_to_hub: str = "", public: bool = False, revision: str = ""
) -> Path:
    """Write a dense copy of any source, for transformers without LS-PRISM, to the folder `save_path`, and return it.

    Packed weights become dense weights [out, in] in their dtype: the copy is as large as the uncompressed model.
    `push_to_hub`: Hub repository OWNER/NAME to upload the copy to, private unless `public`. Raises TargetError if the
    folder exists or the name is not allowed, SourceError, or ResourceError (disk) before the work; DamagedError,
    DiskError, or WorkError (the Hub refused) during it.
    """
    target = Path(save_path)
    for _ in stream_export(model_id, target, push_to_hub, public, revision):
        pass
    return target


def stream_export(
    model_id: str | Path, target: Path, push_to_hub: str = "", public: bool = False, revision: str = ""
) -> Iterator[Event]:
    """As `export`, as a stream of events; an upload that is not allowed is an error before the work."""
    check_absent(target)
    source = resolve(str(model_id), revision)
    if source.kind == "artifact":
        verify(source.folder)
    if push_to_hub:
        check_repo(push_to_hub, source.folder, source.base_model)
    yield from write_dense(source, target)
    if push_to_hub:
        yield Stage(name="upload", detail=push_to_hub)
        yield Notice(text=f"Uploaded to {push(target, push_to_hub, public=public)}.")

"""The public API: one function per command. `compress` returns its report; `stream_compress` yields events."""

from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar, Unpack

import torch

import lsprism
import lsprism.hf  # noqa: F401 - registers the artifact format
from lsprism.artifact.export import check_absent
from lsprism.artifact.export import stream_dense_copy as write_dense
from lsprism.artifact.manifest import MANIFEST, verify
from lsprism.artifact.push import check_repo
from lsprism.artifact.push import push_to_hub as push
from lsprism.calibration.sample import sample_windows
from lsprism.engine.error_prediction import add_predicted_errors, try_store_errors
from lsprism.engine.input_stats import stream_input_stats
from lsprism.engine.plan import prepare_checked_plan
from lsprism.engine.prepare import add_tokenizer_note, prepare_run, resolve_uncompressed
from lsprism.engine.run import run
from lsprism.events import Event, Finished, Notice, Stage
from lsprism.generation.prompt import encode
from lsprism.generation.stream import Piece, generate
from lsprism.models.load import LoadedModel
from lsprism.models.load import load as load_model
from lsprism.models.source import resolve
from lsprism.packed.kernels.autotune import load_choice
from lsprism.records.compression import CompressionReport, LayerInputStats, StatsReport
from lsprism.records.model_plan import LayerPlan, Plan
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
    drafted = prepare_checked_plan(spec, resolve_uncompressed(spec, need_weights=False))
    plan = add_tokenizer_note(add_predicted_errors(spec, drafted))
    if drafted.device.type != "cpu":
        return plan
    sites = [site.model_copy(update={"kernel": _find_kernel(site, drafted.dtype)}) for site in plan.sites]
    return plan.model_copy(update={"sites": sites})


def _find_kernel(plan: LayerPlan, dtype: torch.dtype) -> str:
    site = plan.site
    return load_choice(plan.form, (site.rows, site.columns), plan.budget, plan.values, dtype)


def compress(model_id: str | Path, save_path: str | Path, **settings: Unpack[CompressSettings]) -> CompressionReport:
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
    prepared = yield from prepare_run(spec)
    for event in run(prepared):
        if isinstance(event, Finished):
            assert isinstance(event.report, CompressionReport)
            if notice := try_store_errors(prepared.spec, prepared.draft, event.report):
                yield Notice(text=notice)
        yield event


def check_stats(spec: PlanSpec) -> Iterator[Event]:
    """Measure activation statistics of every layer of the uncompressed model; the last event has a StatsReport.

    For the inputs X [tokens, columns] of a layer: mean and maximum of |x|, mean of the feature norms ||X_j||_2, and
    the fraction of features whose norm is far above it (see reports.SiteStats). Raises the same errors as `compress`.
    """
    source = resolve_uncompressed(spec)
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

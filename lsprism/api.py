"""The verbs as functions: glue, no logic. `compressing` streams events; `compress` waits for its report."""

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
from lsprism.artifact.export import exporting as write_dense
from lsprism.artifact.manifest import MANIFEST, recipe_of, verify
from lsprism.artifact.push import check_repo
from lsprism.artifact.push import push_to_hub as push
from lsprism.artifact.target import as_begun, check_target, staged_bytes
from lsprism.calibration.corpus import Corpus, is_file_name, read_text
from lsprism.calibration.sample import sample_windows
from lsprism.engine.expect import expecting, remember
from lsprism.engine.plan import Draft, draft_checked
from lsprism.engine.recipe import keep_compute_dtype, make_recipe
from lsprism.engine.run import run
from lsprism.engine.settle import settled
from lsprism.engine.survey import survey
from lsprism.errors import ResourceError, SourceError
from lsprism.events import Event, Finished, Notice, Stage
from lsprism.extras import require
from lsprism.generation.prompt import encode
from lsprism.generation.stream import Piece, generate
from lsprism.layers.kernels.choice import recorded
from lsprism.machine import free_memory
from lsprism.models.load import LoadedModel, pick_device
from lsprism.models.load import load as load_model
from lsprism.models.source import resolve
from lsprism.models.tokenizer_files import check_tokenizer
from lsprism.paths import beside, nearest_existing
from lsprism.reports import CompressionReport, ModelSource, Plan, SitePlan, SiteStats, StatsReport
from lsprism.settings import CompressSettings, PlanSettings
from lsprism.specs import CompressSpec, GenerateSpec, PlanSpec, ask

R = TypeVar("R")


def inspect(model_id: str | Path, **settings: Unpack[PlanSettings]) -> Plan:
    """What a compression would do, from the model's config and what earlier runs learnt of it.

    Nothing is written but the cache (`demo` and .gguf files are unpacked there), and no weight is looked at: of files
    that are there already only the headers, which must fit the config.

    `settings` are the fields of PlanSpec, `calibration` a dict of those of CalibrationSpec. The plan holds every site
    (weight [rows, columns] = [out, in]) with its form and budget, what is left alone and why, and bytes on disk, in
    memory and at the peak of the work (see reports.Plan). Of all sites' parameters 1 - sparsity are kept, of each site
    as its budget says (budgets/), of all alike while that is not known. Raises SpecError for a setting out of range,
    SourceError for a model that cannot be found or understood, or is compressed already.
    """
    return planning(ask(PlanSpec, model_id=model_id, **settings))


def planning(spec: PlanSpec) -> Plan:
    """The same for a spec."""
    drafted = draft_checked(spec, _uncompressed(resolve(spec.model_id, spec.revision, need_weights=False)))
    plan = _with_tokenizer_note(expecting(spec, drafted))
    if drafted.device.type != "cpu":
        return plan
    sites = [site.model_copy(update={"kernel": _kernel_of(site, drafted.dtype)}) for site in plan.sites]
    return plan.model_copy(update={"sites": sites})


def _with_tokenizer_note(plan: Plan) -> Plan:
    """A plan needs no tokenizer, but a compression would be refused for one that cannot be read."""
    if plan.source.config_only:
        return plan
    try:
        check_tokenizer(plan.source.folder, plan.source.model_id)
    except SourceError as error:
        return plan.model_copy(update={"notes": [*plan.notes, str(error)]})
    return plan


def _kernel_of(plan: SitePlan, dtype: torch.dtype) -> str:
    site = plan.site
    return recorded(plan.form, (site.rows, site.columns), plan.budget, plan.values, dtype)


def compress(
    model_id: str | Path, save_path: str | Path, **settings: Unpack[CompressSettings]
) -> CompressionReport:
    """Compress a model into the folder `save_path`, which is whole afterwards, or absent.

    `settings` are the fields of CompressSpec, `calibration` a dict of those of CalibrationSpec; sparsity is the share
    in (0, 1) of the parameters of the compressed layers that is removed. Each weight [rows, columns] becomes a form
    that keeps its budget; the papers of the methods stand in methods/. The report counts bytes from the files, and
    gives each layer's ||(W - W')X||_F / ||WX||_F (see reports.CompressionReport).

    Raises a RequestError (SpecError, SourceError, CorpusError, TargetError, ResourceError) before anything starts; a
    WorkError (DamagedError, NumericError, DiskError) while working, after which `resume=True` goes on.
    """
    spec = ask(CompressSpec, model_id=model_id, save_path=save_path, **settings)
    return report_of(compressing(spec), CompressionReport)


def report_of(events: Iterator[Event], kind: type[R]) -> R:
    """Run a command to its end; the report of its last event."""
    last = deque(events, maxlen=1).pop()
    assert isinstance(last, Finished) and isinstance(last.report, kind)
    return last.report


def compressing(spec: CompressSpec) -> Iterator[Event]:
    """The same as a stream of events; closing the iterator stops it and leaves a run to resume.

    The last event is a Finished with the report.
    """
    yield Stage(name="prepare", detail=spec.model_id)
    check_target(spec.save_path, resume=spec.resume, force=spec.force)
    spec = as_begun(spec)
    pick_device(spec.device)
    if spec.rule == "kmif":
        require("kmif")
    corpus = _local_text(spec)
    source = _fetch(spec)
    plan, notice = keep_compute_dtype(spec, draft_checked(spec, source))
    if notice:
        yield Notice(text=notice)
    _check_resources(plan, spec.save_path)
    tokens, text, notice = sample_windows(spec, source, corpus)
    for note in filter(None, [*plan.plan.notes, notice]):
        yield Notice(text=note)
    recipe, started = make_recipe(spec, plan, tokens), time.monotonic()
    if spec.rule != "uniform":
        plan = yield from settled(spec, plan, tokens, recipe)
    notes: dict[str, list[str]] = {}
    for site in plan.plan.sites:
        notes.setdefault(site.note, []).append(site.site.name)
    for note, (first, *others) in notes.items():
        if note:
            yield Notice(text=f"{first}{f', like {len(others)} others,' if others else ''} {note}.")
    for event in run(spec, plan, tokens, recipe, text, started):
        if isinstance(event, Finished):
            assert isinstance(event.report, CompressionReport)
            yield from _remembering(spec, plan, event.report)
        yield event


def _remembering(spec: CompressSpec, plan: Draft, report: CompressionReport) -> Iterator[Event]:
    """Keep what the run has shown for later estimates. The artifact is published: a failure is a notice, no more."""
    try:
        remember(spec, plan, report.layers)
    except (OSError, ValueError, ArithmeticError, LookupError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        yield Notice(text=f"{report.save_path} is complete; its errors are not kept for later estimates ({reason}).")


def check_stats(spec: PlanSpec) -> Iterator[Event]:
    """Measure what flows into every site of the uncompressed model; the last event carries a StatsReport.

    For the inputs X [tokens, columns] of a site: mean and maximum of |x|, mean of the features' norms ||X_j||_2, and
    the share of features whose norm is far above it (see reports.SiteStats). Raises as `compressing` does.
    """
    source = _uncompressed(resolve(spec.model_id, spec.revision))
    plan = draft_checked(spec, source)
    tokens, text, notice = sample_windows(spec, source)
    if notice:
        yield Notice(text=notice)
    sites = []
    for item in survey(plan, tokens):
        if isinstance(item, SiteStats):
            sites.append(item)
        else:
            yield item
    samples, length = tokens.shape
    yield Finished(
        report=StatsReport(model_id=spec.model_id, calibration=text, samples=samples, length=length, sites=sites)
    )


def load(model_id: str | Path, device: str = "auto", dtype: str = "auto", revision: str = "") -> LoadedModel:
    """Load any source whole, with its tokenizer; an artifact is first checked file by file against its manifest.

    An artifact stays packed: its `model` takes the artifact's bytes in memory, not those of the dense model.
    `dtype` auto: the model's own; `revision`: branch, tag or commit of a hub model. Raises SourceError for what cannot
    be found or understood, SpecError for a device or dtype that is not there, DamagedError, which names the file, for
    an artifact or weights that are not whole.
    """
    source = resolve(str(model_id), revision)
    if source.kind == "artifact" or (source.folder / MANIFEST).is_file():  # a config.json may have lost its entry
        verify(source.folder)
    return load_model(source, device, dtype)


def generating(
    loaded: LoadedModel, prompt: str, spec: GenerateSpec, *, system: str | None = None, chat: bool = True
) -> Iterator[Piece]:
    """Answer one prompt piece by piece; the last piece says why it ended. `chat`: by the template, if there is one."""
    messages = [{"role": "user", "content": prompt}]
    if system:
        messages.insert(0, {"role": "system", "content": system})
    tokens = encode(loaded.tokenizer, messages if chat else prompt, chat=None if chat else False)
    return generate(loaded.model, loaded.tokenizer, tokens, spec)


def _fetch(spec: CompressSpec) -> ModelSource:
    """The model to compress, with its weights; what can be refused is refused before they are fetched."""
    source = _uncompressed(resolve(spec.model_id, spec.revision, need_weights=False))
    if source.config_only:
        check_tokenizer(source.folder, spec.model_id)
        _check_resources(draft_checked(spec, source), spec.save_path)
    return resolve(spec.model_id, spec.revision) if source.kind in ("hub", "folder") else source


def _uncompressed(source: ModelSource) -> ModelSource:
    """`source`, unless it is an artifact: what was removed from one cannot be weighed any more."""
    if source.kind != "artifact":
        return source
    base = recipe_of(source.folder).get("base_model", "")
    raise SourceError(
        f"{source.model_id} is compressed already: the weights that a second compression would weigh are gone.",
        f"Give the model that it was made of{f', {base},' if base else ''} instead.",
    )


def _local_text(spec: PlanSpec) -> Corpus | None:
    """The calibration text if it lies here, so that a missing one is noticed before a model is fetched."""
    wanted = spec.calibration.source
    return read_text(wanted, spec.calibration.column) if wanted == "embedded" or is_file_name(wanted) else None


def _check_resources(plan: Draft, target: Path) -> None:
    """Refuse what by estimate does not fit into memory or onto the disk."""
    need, free = plan.plan.memory.total, free_memory()
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
                "Close what else uses the card, or choose --device cpu.",
            )
    existing = nearest_existing(beside(target))
    need, free = plan.plan.disk_bytes - staged_bytes(target), psutil.disk_usage(str(existing)).free
    if need > free:
        raise ResourceError(
            f"This needs about {need / 1e9:.1f} GB of disk in {existing}, {free / 1e9:.1f} GB are free.",
            "Free some space or choose another --save-path.",
        )


def export(
    model_id: str | Path, save_path: str | Path, push_to_hub: str = "", public: bool = False, revision: str = ""
) -> Path:
    """Write a dense copy of any source, which transformers loads by itself, into the folder `save_path`; return it.

    Packed weights are multiplied out to [out, in] in their dtype: the copy is as large as the uncompressed model.
    `push_to_hub`: the repository OWNER/NAME of the hub that the copy is sent to, private unless `public`. Raises
    TargetError where the folder exists or the name will not do, SourceError, ResourceError (disk); DamagedError,
    DiskError or, if the hub refuses, WorkError while working.
    """
    target = Path(save_path)
    for _ in exporting(model_id, target, push_to_hub, public, revision):
        pass
    return target


def exporting(
    model_id: str | Path, target: Path, push_to_hub: str = "", public: bool = False, revision: str = ""
) -> Iterator[Event]:
    """The same as a stream of events; what cannot be pushed is refused beforehand."""
    check_absent(target)
    source = resolve(str(model_id), revision)
    if source.kind == "artifact":
        verify(source.folder)
    if push_to_hub:
        check_repo(push_to_hub, source.folder, source.base_model)
    yield from write_dense(source, target)
    if push_to_hub:
        yield Stage(name="upload", detail=push_to_hub)
        yield Notice(text=f"The copy is at {push(target, push_to_hub, public=public)}.")

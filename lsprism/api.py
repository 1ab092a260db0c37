"""The verbs as functions: glue, no logic. `compressing` streams events; `compress` waits for its report."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import torch

import lsprism
import lsprism.hf  # noqa: F401 - registers the artifact format
from lsprism.artifact.export import check_absent
from lsprism.artifact.export import exporting as write_dense
from lsprism.artifact.manifest import MANIFEST, verify
from lsprism.artifact.push import check_repo
from lsprism.artifact.push import push_to_hub as push
from lsprism.artifact.target import check_target, staged_bytes
from lsprism.calibration.corpus import Corpus, read_text, tokenize, windows
from lsprism.calibration.own_text import own_windows
from lsprism.calibration.walk import BATCH_TOKENS
from lsprism.engine.plan import Draft, draft
from lsprism.engine.run import run
from lsprism.engine.survey import survey
from lsprism.errors import ResourceError, SourceError
from lsprism.events import Event, Finished, Notice, Stage
from lsprism.generation.prompt import encode
from lsprism.generation.stream import Piece, generate
from lsprism.models.load import LoadedModel, load_tokenizer, pick_device
from lsprism.models.load import load as load_model
from lsprism.models.source import is_artifact, resolve
from lsprism.reports import CompressionReport, ModelSource, Plan, SiteStats, StatsReport
from lsprism.specs import CompressSpec, GenerateSpec, PlanSpec, ask


def inspect(model_id: str, **settings: Any) -> Plan:
    """What a compression would do, from the model's config alone; `settings` are those of PlanSpec."""
    return planning(ask(PlanSpec, model_id=model_id, **settings))


def planning(spec: PlanSpec) -> Plan:
    """The same for a spec."""
    return draft(spec, resolve(spec.model_id, spec.revision, need_weights=False)).plan


def compress(model_id: str, save_path: str | Path, **settings: Any) -> CompressionReport:
    """Compress a model into the folder `save_path`; `settings` are those of CompressSpec."""
    spec = ask(CompressSpec, model_id=model_id, save_path=save_path, **settings)
    report = None
    for event in compressing(spec):
        if isinstance(event, Finished):
            report = event.report
    assert report is not None
    return report


def compressing(spec: CompressSpec) -> Iterator[Event]:
    """The same as a stream of events; closing the iterator stops it and leaves a run to resume."""
    yield Stage(name="prepare", detail=spec.model_id)
    check_target(spec.save_path, resume=spec.resume, force=spec.force)
    pick_device(spec.device)
    corpus = _local_text(spec)
    source = _fetch(spec)
    plan = draft(spec, source)
    _check_resources(plan, spec.save_path)
    tokens, text, notice = _calibration(spec, source, corpus)
    if notice:
        yield Notice(text=notice)
    notes: dict[str, list[str]] = {}
    for site in plan.plan.sites:
        notes.setdefault(site.note, []).append(site.site.name)
    for note, (first, *others) in notes.items():
        if note:
            yield Notice(text=f"{first}{f', like {len(others)} others,' if others else ''} {note}.")
    yield from run(spec, plan, tokens, _recipe(spec, plan, tokens), text)


def check_stats(spec: PlanSpec) -> Iterator[Event]:
    """Measure what flows into every site of the uncompressed model; the last event carries a StatsReport."""
    source = resolve(spec.model_id, spec.revision)
    plan = draft(spec, source)
    tokens, text, notice = _calibration(spec, source)
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


def load(model_id: str, device: str = "auto", dtype: str = "auto") -> LoadedModel:
    """Load any source; an artifact is first checked file by file against its manifest."""
    source = resolve(model_id)
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
    source = resolve(spec.model_id, spec.revision, need_weights=False)
    if is_artifact(source.folder):
        raise SourceError(
            f"{spec.model_id} is compressed already.", f"Compress its base model, {source.base_model}, instead."
        )
    if source.config_only:
        _check_resources(draft(spec, source), spec.save_path)
    return resolve(spec.model_id, spec.revision) if source.kind in ("hub", "folder") else source


def _local_text(spec: PlanSpec) -> Corpus | None:
    """The calibration text if it lies here, so that a missing one is noticed before a model is fetched."""
    wanted = spec.calibration.source
    return read_text(wanted, spec.calibration.column) if wanted == "embedded" or Path(wanted).suffix else None


def _calibration(spec: PlanSpec, source: ModelSource, corpus: Corpus | None = None) -> tuple[torch.Tensor, str, str]:
    """Token windows [samples, length], the name of their text, and what the user should know of the choice."""
    asked, notice = spec.calibration, ""
    wanted = asked.source
    if wanted == "auto" and source.kind == "demo":
        wanted, notice = "embedded", "Calibrating the demo model on the embedded text; --calibration chooses another."
    if wanted == "self":
        loaded = load_model(source, spec.device, spec.dtype)
        special = loaded.tokenizer.all_special_ids
        return (
            own_windows(loaded.model, asked.samples, asked.length, asked.seed, special),
            "text of the model's own",
            "",
        )
    corpus = corpus or read_text("wikitext2" if wanted == "auto" else wanted, asked.column)
    tokens = tokenize(load_tokenizer(source), corpus.text)
    return windows(tokens, asked.samples, asked.length, asked.seed), corpus.name, notice


def _recipe(spec: CompressSpec, plan: Draft, tokens: torch.Tensor) -> dict:
    """Everything that decides the bytes of the result, resolved: the same recipe gives the same bytes."""
    asked = spec.model_dump(mode="json", exclude={"save_path", "resume", "force"})
    source = plan.plan.source
    return {
        **asked,
        "device": plan.device.type,
        "dtype": plan.plan.dtype,
        "base_model": source.base_model,
        "revision": source.revision,
        "calibration_sha256": hashlib.sha256(tokens.numpy().tobytes()).hexdigest(),
        "batch_tokens": BATCH_TOKENS,
        "lsprism": lsprism.__version__,
    }


def _check_resources(plan: Draft, target: Path) -> None:
    """Refuse what by estimate does not fit into memory or onto the disk."""
    need, free = plan.plan.memory.total, psutil.virtual_memory().available
    if need > free:
        raise ResourceError(
            f"This needs about {need / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free.",
            "Lower --samples or --length, or close other programs.",
        )
    existing = next(folder for folder in (target.absolute(), *target.absolute().parents) if folder.exists())
    need, free = plan.plan.disk_bytes - staged_bytes(target), psutil.disk_usage(str(existing)).free
    if need > free:
        raise ResourceError(
            f"This needs about {need / 1e9:.1f} GB of disk in {existing}, {free / 1e9:.1f} GB are free.",
            "Free some space or choose another --save-path.",
        )


def export(model_id: str, save_path: str | Path, push_to_hub: str = "", public: bool = False) -> Path:
    """Write a plain dense copy of any source; `push_to_hub` names the repository of the hub that it is sent to."""
    target = Path(save_path)
    for _ in exporting(model_id, target, push_to_hub, public):
        pass
    return target


def exporting(model_id: str, target: Path, push_to_hub: str = "", public: bool = False) -> Iterator[Event]:
    """The same as a stream of events; what cannot be pushed is refused beforehand."""
    check_absent(target)
    source = resolve(model_id)
    if source.kind == "artifact":
        verify(source.folder)
    if push_to_hub:
        check_repo(push_to_hub, source.folder, source.base_model)
    yield from write_dense(source, target)
    if push_to_hub:
        yield Stage(name="upload", detail=push_to_hub)
        yield Notice(text=f"The copy is at {push(target, push_to_hub, public=public)}.")

"""The verbs as functions: glue, no logic. `compressing` streams events; `compress` waits for its report."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import torch

import lsprism
import lsprism.hf  # noqa: F401 - registers the artifact format
from lsprism.artifact.manifest import verify
from lsprism.artifact.staging import check_target
from lsprism.calibration.corpus import read_text, tokenize, windows
from lsprism.calibration.own_text import own_windows
from lsprism.calibration.walk import BATCH_TOKENS
from lsprism.engine.plan import Draft, draft
from lsprism.engine.run import run
from lsprism.errors import ResourceError, SourceError
from lsprism.events import Event, Finished, Notice, Stage
from lsprism.generation.prompt import encode
from lsprism.generation.stream import Piece, generate
from lsprism.models.load import LoadedModel, load_tokenizer
from lsprism.models.load import load as load_model
from lsprism.models.source import is_artifact, resolve
from lsprism.reports import CompressionReport, ModelSource, Plan
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
    if not spec.resume:
        check_target(spec.save_path, force=spec.force)
    source = resolve(spec.model_id, spec.revision)
    if is_artifact(source.folder):
        raise SourceError(
            f"{spec.model_id} is compressed already.", f"Compress its base model, {source.base_model}, instead."
        )
    plan = draft(spec, source)
    _check_resources(plan, spec.save_path)
    tokens, text, notice = _calibration(spec, source)
    if notice:
        yield Notice(text=notice)
    for site in plan.plan.sites:
        if site.note:
            yield Notice(text=f"{site.site.name} {site.note}.")
    yield from run(spec, plan, tokens, _recipe(spec, plan, tokens), text)


def load(model_id: str, device: str = "auto", dtype: str = "auto") -> LoadedModel:
    """Load any source; an artifact is first checked file by file against its manifest."""
    source = resolve(model_id)
    if source.kind == "artifact":
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


def _calibration(spec: PlanSpec, source: ModelSource) -> tuple[torch.Tensor, str, str]:
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
    corpus = read_text("wikitext2" if wanted == "auto" else wanted, asked.column)
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
    need, free = plan.plan.disk_bytes, psutil.disk_usage(str(existing)).free
    if need > free:
        raise ResourceError(
            f"This needs about {need / 1e9:.1f} GB of disk in {existing}, {free / 1e9:.1f} GB are free.",
            "Free some space or choose another --save-path.",
        )

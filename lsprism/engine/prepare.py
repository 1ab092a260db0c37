"""Everything before the first block: checks, download, plan, calibration tokens, recipe and layer budgets."""

import hashlib
import os
import time
from collections.abc import Generator, Iterator
from pathlib import Path

import psutil
import torch
from torch import Tensor

import lsprism
from lsprism.artifact.manifest import read_recipe
from lsprism.artifact.recipe import BASE_PATH, Recipe
from lsprism.artifact.target import check_target, count_partial_bytes, load_compute_dtype, restore_bos
from lsprism.calibration.corpus import Corpus, is_file_name, read_text
from lsprism.calibration.sample import sample_windows
from lsprism.engine.layer_budgets import resolve_budgets
from lsprism.engine.plan import PreparedPlan, prepare_checked_plan
from lsprism.engine.run import PreparedRun, compute_batch_tokens
from lsprism.errors import ResourceError, SourceError
from lsprism.events import Event, Notice, Stage
from lsprism.extras import check_extra
from lsprism.machine import get_free_memory
from lsprism.models.load import select_device
from lsprism.models.source import resolve
from lsprism.models.tokenizer_files import check_tokenizer
from lsprism.paths import expand, find_existing, get_sibling
from lsprism.records.model_plan import LayerPlan, ModelSource, Plan
from lsprism.specs import CompressSpec, PlanSpec


def make_recipe(spec: CompressSpec, plan: PreparedPlan, tokens: Tensor) -> Recipe:
    """The same recipe gives the same bytes. tokens [samples, length]."""
    asked = spec.model_dump(mode="json", exclude={"save_path", "resume", "force"})
    source = plan.plan.source
    entries = {
        **asked,
        "allocation": spec.rule,
        "device": plan.device.type,
        "dtype": plan.plan.dtype,
        "compute_dtype": plan.plan.compute_dtype,
        "base_model": source.base_model,
        BASE_PATH: os.path.abspath(expand(spec.model_id)) if source.kind in ("folder", "gguf") else "",
        "revision": source.revision,
        "calibration_sha256": hashlib.sha256(tokens.numpy().tobytes()).hexdigest(),
        "batch_tokens": compute_batch_tokens(spec),
        "lsprism": lsprism.__version__,
    }
    return Recipe(entries)


def restore_compute_dtype(spec: CompressSpec, plan: PreparedPlan) -> tuple[PreparedPlan, str]:
    """A resumed run computes as it began, which decides the bytes; and a notice where that is slower here."""
    known = load_compute_dtype(spec.save_path) if spec.resume and spec.compute_dtype == "auto" else None
    fastest = plan.plan.compute_dtype
    if known is None or known == fastest:
        return plan, ""
    notice = f"Products are computed in {known}, as before the run was stopped; {fastest} is faster here."
    return prepare_checked_plan(spec.model_copy(update={"compute_dtype": known}), plan.plan.source), notice


def add_tokenizer_note(plan: Plan) -> Plan:
    """Add a note if the tokenizer is missing or malformed: a plan does not need it, a compression does."""
    if plan.source.config_only:
        return plan
    try:
        check_tokenizer(plan.source.folder, plan.source.model_id)
    except SourceError as error:
        return plan.model_copy(update={"notes": [*plan.notes, str(error)]})
    return plan


def prepare_run(spec: CompressSpec) -> Generator[Event, None, PreparedRun]:
    """Check and prepare everything that a run needs. The cheap checks come first."""
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
    check_resources(plan, spec.save_path)
    tokens, text, notice = sample_windows(spec, source, corpus)
    for note in filter(None, [*plan.plan.notes, notice]):
        yield Notice(text=note)
    recipe = make_recipe(spec, plan, tokens)
    started = time.monotonic()
    if spec.rule != "uniform":
        plan = yield from resolve_budgets(spec, plan, tokens, recipe)
    yield from _list_layer_notes(plan.plan.sites)
    return PreparedRun(spec, plan, tokens, text, recipe, started)


def resolve_uncompressed(spec: PlanSpec, *, need_weights: bool = True) -> ModelSource:
    """The model that `spec` names; SourceError if it is an artifact, whose removed weights are gone."""
    source = resolve(spec.model_id, spec.revision, need_weights=need_weights)
    if source.kind != "artifact":
        return source
    recipe = read_recipe(source.folder)
    base = recipe.base_model if recipe else ""
    raise SourceError(
        f"{source.model_id} is already compressed and cannot be compressed again.",
        f"Give its base model{f', {base},' if base else ''} instead.",
    )


def check_resources(plan: PreparedPlan, target: Path) -> None:
    """Raise ResourceError if memory or disk space is not enough, by estimate."""
    _check_memory(plan)
    if plan.device.type == "cuda":
        _check_device_memory(plan)
    _check_disk(plan, target)


def _check_memory(plan: PreparedPlan) -> None:
    need = plan.plan.memory.total
    free = get_free_memory()
    if need > free:
        raise ResourceError(
            f"This needs about {need / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free.",
            "Lower --samples or --length, or close other programs.",
        )


def _check_device_memory(plan: PreparedPlan) -> None:
    need = plan.plan.memory.on_device
    free, _ = torch.cuda.mem_get_info(plan.device)
    if need > free:
        raise ResourceError(
            f"This needs about {need / 1e9:.1f} GB on {plan.device}, {free / 1e9:.1f} GB are free.",
            "Free GPU memory, or use --device cpu.",
        )


def _check_disk(plan: PreparedPlan, target: Path) -> None:
    existing = find_existing(get_sibling(target))
    need = plan.plan.disk_bytes - count_partial_bytes(target)
    free = psutil.disk_usage(str(existing)).free
    if need > free:
        raise ResourceError(
            f"This needs about {need / 1e9:.1f} GB of disk space in {existing}, {free / 1e9:.1f} GB are free.",
            "Free some space, or choose another --save-path.",
        )


def _load_local_text(spec: PlanSpec) -> Corpus | None:
    """The calibration text if it is local, so that a missing one is noticed before a model is downloaded."""
    name = spec.calibration.source
    if name == "embedded" or is_file_name(name):
        return read_text(name, spec.calibration.column)
    return None


def _fetch(spec: CompressSpec) -> ModelSource:
    """The model to compress, with its weights; checks everything possible before they are downloaded."""
    source = resolve_uncompressed(spec, need_weights=False)
    if source.config_only:
        check_tokenizer(source.folder, spec.model_id)
        check_resources(prepare_checked_plan(spec, source), spec.save_path)
    return resolve(spec.model_id, spec.revision) if source.kind in ("hub", "folder") else source


def _list_layer_notes(layers: list[LayerPlan]) -> Iterator[Event]:
    """One notice for all layers that have the same note."""
    noted: dict[str, list[str]] = {}
    for layer in layers:
        if layer.note:
            noted.setdefault(layer.note, []).append(layer.site.name)
    for note, (first, *others) in noted.items():
        like_others = f", like {len(others)} others," if others else ""
        yield Notice(text=f"{first}{like_others} {note}.")

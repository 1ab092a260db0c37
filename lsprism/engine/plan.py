"""Plans the compression of every layer from the model's config, before any weight is read."""

from dataclasses import dataclass, replace

import torch
from transformers import PreTrainedModel

from lsprism.artifact.shards import Layout, file_bytes, group_outside, shard_name, tensor_bytes
from lsprism.budgets.allot import allot
from lsprism.budgets.cost import form_bytes
from lsprism.engine.duration import predict_duration
from lsprism.engine.memory import bound_heap, estimate, trim_heap
from lsprism.errors import SpecError
from lsprism.layers.compute_dtype import pick_compute_dtype
from lsprism.layers.modules import empty_form
from lsprism.methods import METHODS
from lsprism.models.anatomy import Anatomy, dissect, dropped_parts, parameter_count, skeleton, stored_shapes
from lsprism.models.load import pick_device, pick_dtype
from lsprism.models.ties import tied_names, untied_names
from lsprism.models.tokens import context_length, has_position_table
from lsprism.models.weights import WeightFiles
from lsprism.reports import LayerBudget, LinearSite, ModelSource, Plan, SitePlan
from lsprism.specs import PlanSpec


@dataclass(frozen=True)
class Draft:
    """A plan together with the model and file layouts that a run needs to execute it."""

    plan: Plan
    model: PreTrainedModel  # without weights, on the meta device
    anatomy: Anatomy
    device: torch.device
    dtype: torch.dtype
    compute: torch.dtype  # dtype of matrix products over many tokens
    outside: list[Layout]  # files of the tensors outside the blocks; they precede the files of the blocks
    blocks: list[Layout]  # one file per block

    def file_of_block(self, index: int) -> str:
        return shard_name(len(self.outside) + index + 1, len(self.outside) + len(self.blocks))

    def file_of_group(self, number: int) -> str:
        return shard_name(number + 1, len(self.outside) + len(self.blocks))


def draft(spec: PlanSpec, source: ModelSource) -> Draft:
    """Make the whole plan. Allocation is uniform where the rule needs measurements first; `shared_out` replaces it.

    Raises SourceError for an unsupported model structure.
    """
    bound_heap()
    device, dtype = pick_device(spec.device), pick_dtype(spec.dtype, source)
    model = skeleton(source.folder, dtype)
    if not source.config_only:
        WeightFiles(source.folder, model)  # raises if the headers of the files do not match the model
    trim_heap()  # building the model allocated and freed large tensors
    anatomy = dissect(model)
    compute = pick_compute_dtype(spec.compute_dtype, dtype, device)
    plan, outside, blocks = _plan(spec, source, (model, anatomy, device, compute), allot(spec, anatomy.sites))
    return Draft(plan, model, anatomy, device, dtype, compute, outside, blocks)


def draft_checked(spec: PlanSpec, source: ModelSource) -> Draft:
    """As `draft`, with a note if the windows exceed the model's context; SpecError if the model cannot read them."""
    drafted = draft(spec, source)
    length, limit = spec.calibration.length, context_length(drafted.model)
    if limit is None or length <= limit:
        return drafted
    if has_position_table(drafted.model):
        message = f"--length {length} exceeds the model's {limit} positions."
        raise SpecError(message, f"Choose {limit} or fewer.")
    note = f"Windows of {length} tokens (--length) are longer than the model's context of {limit}."
    return replace(drafted, plan=drafted.plan.model_copy(update={"notes": [*drafted.plan.notes, note]}))


def shared_out(drafted: Draft, spec: PlanSpec, budgets: dict[str, LayerBudget]) -> Draft:
    """Return the draft with other budgets: layer name -> budget."""
    of = drafted.model, drafted.anatomy, drafted.device, drafted.compute
    plan, outside, blocks = _plan(spec, drafted.plan.source, of, budgets)
    plan = plan.model_copy(update={"notes": drafted.plan.notes})
    return replace(drafted, plan=plan, outside=outside, blocks=blocks)


def _plan(
    spec: PlanSpec,
    source: ModelSource,
    of: tuple[PreTrainedModel, Anatomy, torch.device, torch.dtype],
    budgets: dict[str, LayerBudget],
) -> tuple[Plan, list[Layout], list[Layout]]:
    """Return the plan, the layouts of the files outside the blocks, and those of the blocks."""
    model, anatomy, device, compute = of
    dtype = model.dtype
    sites = [_site_plan(site, budgets[site.name], spec, dtype) for site in anatomy.sites]
    outside, blocks = _layouts(model, anatomy, sites)
    parameters = parameter_count(model)
    memory = estimate(spec, model, anatomy, [tensor_bytes(layout) for layout in outside], compute)
    stored = sum(file_bytes(layout) for layout in outside + blocks)
    plan = Plan(
        source=source,
        method=spec.method,
        sparsity=spec.sparsity,
        allocation=spec.rule,
        dtype=str(dtype).removeprefix("torch."),
        compute_dtype=str(compute).removeprefix("torch."),
        device=str(device),
        sites=sites,
        left_alone=anatomy.left_alone,
        model_parameters=parameters,
        kept_parameters=parameters - sum(p.site.parameters - p.kept for p in sites),
        stored_bytes=stored,
        resident_bytes=sum(tensor_bytes(layout) for layout in outside + blocks) + _computed_bytes(model),
        dense_stored_bytes=stored + sum(p.dense_bytes - p.stored_bytes for p in sites),
        memory=memory,
        duration=predict_duration(spec, model, anatomy, compute) if device.type == "cpu" else None,
        disk_bytes=(2 if spec.heals else 1) * stored + memory.hidden_states * 2,
        untied=bool(untied_names(model)) and not tied_names(model),
        dropped=(dropped := dropped_parts(source.folder, model)),
        notes=_notes(model, dropped),
    )
    return plan, outside, blocks


def _notes(model: PreTrainedModel, dropped: list[str]) -> list[str]:
    """Notes for the user about the model itself."""
    notes = []
    if untied := sorted(untied_names(model)):
        notes.append(f"config.json ties {untied[0]}, but its stored tensor differs: both are kept.")
    if dropped:
        parts = ", ".join(part.removesuffix("_config") for part in dropped)
        notes.append(f"Only the language model is compressed and saved ({type(model).__name__}); dropped: {parts}.")
    return notes


def _site_plan(site: LinearSite, budget: LayerBudget, spec: PlanSpec, dtype: torch.dtype) -> SitePlan:
    form = METHODS[spec.method].form
    if form == "sparse_low_rank" and budget.rank == 0:
        form = "sparse"
    dense_bytes = site.parameters * dtype.itemsize
    stored = form_bytes(form, (site.rows, site.columns), budget, dtype.itemsize, spec.values)
    values, note = spec.values, ""
    if budget.kept >= site.parameters:  # low-rank factors with as many parameters would still be lossy
        note = "stays dense: the budget covers all parameters"
    elif stored >= dense_bytes:
        note = f"stays dense: compressed it would take {stored:,} bytes instead of {dense_bytes:,}"
    if note:
        form, stored, budget, values = "dense", dense_bytes, LayerBudget(kept=site.parameters), "float"
    elif budget.kept == 0:
        note = f"keeps no weights at sparsity {spec.sparsity:g}"
    return SitePlan(
        site=site,
        budget=budget,
        form=form,
        values=values,
        kept=budget.kept,
        stored_bytes=stored,
        dense_bytes=dense_bytes,
        note=note,
    )


def _layouts(model: PreTrainedModel, anatomy: Anatomy, sites: list[SitePlan]) -> tuple[list[Layout], list[Layout]]:
    """Layouts of the safetensors files: the groups outside the blocks, and one per block."""
    state = model.state_dict()
    packed = {p.site.name: p for p in sites if p.form != "dense"}
    outside: Layout = {}
    blocks: list[Layout] = [{} for _ in range(anatomy.count)]
    for name, shape in stored_shapes(model).items():
        owner, _, leaf = name.rpartition(".")
        inside = name.startswith(anatomy.blocks + ".")
        layout = blocks[int(name.removeprefix(anatomy.blocks + ".").split(".")[0])] if inside else outside
        dtype = state[name].dtype
        if leaf == "weight" and owner in packed:
            site = packed[owner]
            for part, tensor in empty_form(site.site, site.form, site.budget, dtype, site.values).tensors().items():
                layout[f"{owner}.{part}"] = (tensor.dtype, tuple(tensor.shape))
        else:
            own = state[name].dtype
            layout[name] = (dtype if own.is_floating_point else own, tuple(shape))
    return group_outside(outside), blocks


def _computed_bytes(model: PreTrainedModel) -> int:
    """Bytes of buffers that are recomputed at load and not stored, such as rotary frequencies."""
    stored = set(model.state_dict())
    return sum(buffer.nbytes for name, buffer in model.named_buffers() if name not in stored)

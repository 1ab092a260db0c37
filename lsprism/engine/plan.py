"""Plans the compression of every layer from the model's config, before any weight is read."""

from dataclasses import dataclass, replace

import torch
from transformers import PreTrainedModel

from lsprism.allocation.allocate import allocate
from lsprism.allocation.packed_sizes import count_packed_bytes
from lsprism.artifact.shards import Layout, compute_file_bytes, count_tensor_bytes, format_shard_name, split_outside
from lsprism.engine.duration import can_predict, predict_duration
from lsprism.engine.memory_estimate import estimate, limit_heap, trim_heap
from lsprism.errors import SpecError
from lsprism.methods import METHODS
from lsprism.models.load import select_device, select_dtype
from lsprism.models.structure import (
    ModelStructure,
    build_meta_model,
    count_parameters,
    find_structure,
    get_stored_shapes,
    list_dropped_parts,
)
from lsprism.models.ties import find_untied_names, get_tied_names
from lsprism.models.tokens import get_context_length, has_position_table
from lsprism.models.weights import WeightFiles
from lsprism.packed.compute_dtype import select_compute_dtype
from lsprism.packed.modules import make_meta_packed
from lsprism.records.model_plan import Layer, LayerBudget, LayerPlan, ModelSource, Plan
from lsprism.specs import PlanSpec


@dataclass(frozen=True)
class PreparedPlan:
    """A plan together with the model and file layouts that a run needs to execute it."""

    plan: Plan
    model: PreTrainedModel  # without weights, on the meta device
    anatomy: ModelStructure
    device: torch.device
    dtype: torch.dtype
    compute: torch.dtype  # dtype of matrix products over many tokens
    outside: list[Layout]  # files of the tensors outside the blocks; they precede the files of the blocks
    blocks: list[Layout]  # one file per block

    def get_block_file(self, index: int) -> str:
        return format_shard_name(len(self.outside) + index + 1, len(self.outside) + len(self.blocks))

    def get_group_file(self, number: int) -> str:
        return format_shard_name(number + 1, len(self.outside) + len(self.blocks))


def prepare_plan(spec: PlanSpec, source: ModelSource) -> PreparedPlan:
    """Make the whole plan. Allocation is uniform where the rule needs measurements first; `apply_budgets` replaces it.

    Raises SourceError for an unsupported model structure.
    """
    limit_heap()
    device = select_device(spec.device)
    dtype = select_dtype(spec.dtype, source)
    model = build_meta_model(source.folder, dtype)
    if not source.config_only:
        WeightFiles(source.folder, model)  # raises if the headers of the files do not match the model
    trim_heap()  # building the model allocated and freed large tensors
    anatomy = find_structure(model)
    compute = select_compute_dtype(spec.compute_dtype, dtype, device)
    plan, outside, blocks = _plan(spec, source, (model, anatomy, device, compute), allocate(spec, anatomy.sites))
    return PreparedPlan(plan, model, anatomy, device, dtype, compute, outside, blocks)


def prepare_checked_plan(spec: PlanSpec, source: ModelSource) -> PreparedPlan:
    """As `prepare_plan`, with a note if the windows exceed the model's context; SpecError if the model cannot read
    them."""
    drafted = prepare_plan(spec, source)
    length = spec.calibration.length
    limit = get_context_length(drafted.model)
    if limit is None or length <= limit:
        return drafted
    if has_position_table(drafted.model):
        message = f"--length {length} exceeds the model's {limit} positions."
        raise SpecError(message, f"Choose {limit} or fewer.")
    note = f"Windows of {length} tokens (--length) are longer than the model's context of {limit}."
    return replace(drafted, plan=drafted.plan.model_copy(update={"notes": [*drafted.plan.notes, note]}))


def apply_budgets(drafted: PreparedPlan, spec: PlanSpec, budgets: dict[str, LayerBudget]) -> PreparedPlan:
    """Return the draft with other budgets: layer name -> budget."""
    of = drafted.model, drafted.anatomy, drafted.device, drafted.compute
    plan, outside, blocks = _plan(spec, drafted.plan.source, of, budgets)
    plan = plan.model_copy(update={"notes": drafted.plan.notes})
    return replace(drafted, plan=plan, outside=outside, blocks=blocks)


def _plan(
    spec: PlanSpec,
    source: ModelSource,
    of: tuple[PreTrainedModel, ModelStructure, torch.device, torch.dtype],
    budgets: dict[str, LayerBudget],
) -> tuple[Plan, list[Layout], list[Layout]]:
    """Return the plan, the layouts of the files outside the blocks, and those of the blocks."""
    model, anatomy, device, compute = of
    dtype = model.dtype
    sites = [_make_layer_plan(site, budgets[site.name], spec, dtype) for site in anatomy.sites]
    outside, blocks = _plan_layouts(model, anatomy, sites)
    parameters = count_parameters(model)
    memory = estimate(spec, model, anatomy, [count_tensor_bytes(layout) for layout in outside], compute)
    stored = sum(compute_file_bytes(layout) for layout in outside + blocks)
    predictable = device.type == "cpu" and can_predict(spec)
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
        resident_bytes=sum(count_tensor_bytes(layout) for layout in outside + blocks) + _count_computed_bytes(model),
        dense_stored_bytes=stored + sum(p.dense_bytes - p.stored_bytes for p in sites),
        memory=memory,
        duration=predict_duration(spec, model, anatomy, compute) if predictable else None,
        disk_bytes=(2 if spec.heals else 1) * stored + memory.hidden_states * 2,
        untied=bool(find_untied_names(model)) and not get_tied_names(model),
        dropped=(dropped := list_dropped_parts(source.folder, model)),
        notes=_list_notes(model, dropped),
    )
    return plan, outside, blocks


def _list_notes(model: PreTrainedModel, dropped: list[str]) -> list[str]:
    """Notes for the user about the model itself."""
    notes = []
    if untied := sorted(find_untied_names(model)):
        notes.append(f"config.json ties {untied[0]}, but its stored tensor differs: both are kept.")
    if dropped:
        parts = ", ".join(part.removesuffix("_config") for part in dropped)
        notes.append(f"Only the language model is compressed and saved ({type(model).__name__}); dropped: {parts}.")
    return notes


def _make_layer_plan(site: Layer, budget: LayerBudget, spec: PlanSpec, dtype: torch.dtype) -> LayerPlan:
    form = METHODS[spec.method].form
    if form == "sparse_low_rank" and budget.rank == 0:
        form = "sparse"
    dense_bytes = site.parameters * dtype.itemsize
    stored = count_packed_bytes(form, (site.rows, site.columns), budget, dtype.itemsize, spec.values)
    values = spec.values
    note = ""
    if budget.kept >= site.parameters:  # low-rank factors with as many parameters would still be lossy
        note = "stays dense: the budget covers all parameters"
    elif stored >= dense_bytes:
        note = f"stays dense: compressed it would take {stored:,} bytes instead of {dense_bytes:,}"
    if note:
        form = "dense"
        stored = dense_bytes
        budget = LayerBudget(kept=site.parameters)
        values = "float"
    elif budget.kept == 0:
        note = f"keeps no weights at sparsity {spec.sparsity:g}"
    return LayerPlan(
        site=site,
        budget=budget,
        form=form,
        values=values,
        kept=budget.kept,
        stored_bytes=stored,
        dense_bytes=dense_bytes,
        note=note,
    )


def _plan_layouts(
    model: PreTrainedModel, anatomy: ModelStructure, sites: list[LayerPlan]
) -> tuple[list[Layout], list[Layout]]:
    """Layouts of the safetensors files: the groups outside the blocks, and one per block."""
    state = model.state_dict()
    packed = {p.site.name: p for p in sites if p.form != "dense"}
    outside: Layout = {}
    blocks: list[Layout] = [{} for _ in range(anatomy.count)]
    for name, shape in get_stored_shapes(model).items():
        owner, _, leaf = name.rpartition(".")
        inside = name.startswith(anatomy.blocks + ".")
        layout = blocks[int(name.removeprefix(anatomy.blocks + ".").split(".")[0])] if inside else outside
        dtype = state[name].dtype
        if leaf == "weight" and owner in packed:
            site = packed[owner]
            for part, tensor in (
                make_meta_packed(site.site, site.form, site.budget, dtype, site.values).get_tensors().items()
            ):
                layout[f"{owner}.{part}"] = (tensor.dtype, tuple(tensor.shape))
        else:
            own = state[name].dtype
            layout[name] = (dtype if own.is_floating_point else own, tuple(shape))
    return split_outside(outside), blocks


def _count_computed_bytes(model: PreTrainedModel) -> int:
    """Bytes of buffers that are recomputed at load and not stored, such as rotary frequencies."""
    stored = set(model.state_dict())
    return sum(buffer.nbytes for name, buffer in model.named_buffers() if name not in stored)

"""Compress one layer: its weight and input statistics in, a packed weight and a report out."""

import torch
from torch import Tensor, nn

from lsprism.errors import NumericError
from lsprism.methods.base import Method
from lsprism.methods.compensation import compute_compensated_weight
from lsprism.methods.stats import InputStats, compute_output_error
from lsprism.models.module_utils import bias_of, get_weight
from lsprism.packed.formats import Dense, PackedWeight, count_bytes, get_value_type
from lsprism.packed.int8 import to_int8
from lsprism.records.compression import LayerReport
from lsprism.records.model_plan import LayerPlan


def compress_layer(
    model: nn.Module, plan: LayerPlan, target: Tensor, stats: InputStats | None, method: Method
) -> tuple[PackedWeight, Tensor | None, LayerReport]:
    """Return the layer's packed weight in the format that `plan` names, its bias, and its report.

    Raises NumericError if the weight cannot be factorized.
    """
    site = plan.site
    form = _compress_target(target, plan, stats, method)
    error = 0.0
    if stats is not None and not isinstance(form, Dense):
        error = compute_output_error(target, form.to_dense(), stats.sample)
    report = LayerReport(
        name=site.name,
        block=site.block,
        rows=site.rows,
        columns=site.columns,
        form=form.name,
        kept=form.kept,
        rank=form.rank,
        values=get_value_type(form),
        stored_bytes=count_bytes(form),
        dense_bytes=plan.dense_bytes,
        error=error,
    )
    return form, bias_of(model.get_submodule(site.name)), report


def check_weight(name: str, weight: Tensor) -> None:
    """Raise NumericError if the weight of the layer `name` contains NaN or Inf."""
    if not weight.isfinite().all():
        raise NumericError(f"The weight of {name} contains NaN or Inf.", "Download the model again.")


def check_inputs(name: str, stats: InputStats) -> None:
    """Raise NumericError if the inputs of the layer `name` contained NaN or Inf."""
    if not stats.norms.isfinite().all():
        raise NumericError(
            f"{name} received NaN or Inf inputs.",
            "Choose --dtype float32 or bfloat16, or another calibration text.",
        )


def compute_target(model: nn.Module, plan: LayerPlan, stats: InputStats | None, method: Method) -> Tensor:
    """The matrix [rows, columns] to approximate: the weight, or one that compensates the error of earlier layers.

    Raises NumericError if the weight or the inputs contain NaN or Inf.
    """
    weight = get_weight(model, plan.site)
    check_weight(plan.site.name, weight)
    if plan.form == "dense" or stats is None:
        return weight
    check_inputs(plan.site.name, stats)
    return compute_compensated_weight(weight, stats, method.anchor)


def _compress_target(target: Tensor, plan: LayerPlan, stats: InputStats | None, method: Method) -> PackedWeight:
    if plan.form == "dense" or stats is None:
        return Dense(target)
    try:
        form = method.compress(target, stats, plan.budget)
        return to_int8(form) if plan.values == "int8" else form
    except torch.linalg.LinAlgError as error:
        raise NumericError(
            f"{plan.site.name} cannot be factorized: {str(error).splitlines()[0].rstrip('.')}.",
            "Choose --method wanda, or another calibration text.",
        ) from None

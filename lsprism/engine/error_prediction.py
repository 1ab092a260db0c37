"""Predicts the error of each layer before a run, from the errors of earlier runs or from error curves.

Accuracy on the demo model at sparsity 0.5, relative to the error of the run:

* uniform, predicted from runs at 0.4 and 0.6: every layer within 10 % (median and maximum: Wanda 0.9 and 8.7,
  SparseGPT 0.5 and 3.8, hybrid 1.5 and 5.1);
* hybrid, sensitivity allocation, predicted from runs at 0.3 and 0.6: 208 of 210 layers within 10 % (1.6 and 11.0);
* from error curves alone (SparseGPT): nine of ten layers within 10 % (median 2.8). Curves are measured on the inputs
  of the uncompressed model and a subset of the rows. The exceptions are layers with small errors; the prediction for
  one o_proj is 2.6 times its error.
"""

from dataclasses import replace

from lsprism.allocation import RULES
from lsprism.allocation.allocate import allocate
from lsprism.allocation.error_curves import predict_error
from lsprism.calibration.sensitivity_cache import SensitivityCache, open_sensitivity_cache
from lsprism.engine.plan import PreparedPlan, apply_budgets
from lsprism.engine.sensitivity_pass import load_sensitivity
from lsprism.records.compression import CompressionReport, LayerReport
from lsprism.records.model_plan import ErrorPoint, LayerPlan, LayerSensitivity, Plan
from lsprism.specs import PlanSpec

ALLOCATION_UNKNOWN = "Layer allocation ({}) is computed when the run starts; this estimate assumes uniform."


def add_predicted_errors(spec: PlanSpec, draft: PreparedPlan) -> Plan:
    """Return the plan with the budgets of its allocation rule and the predicted error of each layer, where known."""
    notes = list(draft.plan.notes)
    if RULES[spec.rule].learns:
        if traits := load_sensitivity(spec, draft):
            draft = _remove_sensitivity(apply_budgets(draft, spec, allocate(spec, draft.anatomy.sites, traits)))
        else:
            notes.append(ALLOCATION_UNKNOWN.format(spec.rule))
    return draft.plan.model_copy(update={"sites": _predict_layer_errors(spec, draft), "notes": notes})


def _remove_sensitivity(draft: PreparedPlan) -> PreparedPlan:
    """Return the draft without the time of the sensitivity pass, which is not needed again."""
    duration = draft.plan.duration
    if duration is None:
        return draft
    known = {"duration": duration.model_copy(update={"sensitivity": 0.0})}
    return replace(draft, plan=draft.plan.model_copy(update=known))


def store_errors(spec: PlanSpec, draft: PreparedPlan, layers: list[LayerReport]) -> None:
    """Store the layer errors of a finished compression, for later predictions.

    Not with reconstruction, which changes the inputs of later blocks, and not with an N:M pattern.
    """
    if spec.reconstructs or spec.pattern != "unstructured":
        return
    points = [
        LayerSensitivity(name=layer.name, curve=[_make_error_point(layer)] if layer.form != "dense" else [])
        for layer in layers
    ]
    open_error_cache(spec, draft).add_points(points)


def try_store_errors(spec: PlanSpec, draft: PreparedPlan, report: CompressionReport) -> str:
    """Store the layer errors. The artifact is complete, so a failure is only a notice, which is returned."""
    try:
        store_errors(spec, draft, report.layers)
    except (OSError, ValueError, ArithmeticError, LookupError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        return f"{report.save_path} is complete, but its errors were not stored for estimates ({reason})."
    return ""


def _make_error_point(layer: LayerReport) -> ErrorPoint:
    size = layer.rows * layer.columns
    return ErrorPoint(
        density=layer.kept / size,
        rank_share=layer.rank * (layer.rows + layer.columns) / max(1, layer.kept),  # kept may be 0
        error=layer.error,
    )


def open_error_cache(spec: PlanSpec, draft: PreparedPlan) -> SensitivityCache:
    """The cache file with the layer errors of finished compressions with this method."""
    settings = {"dtype": draft.plan.dtype, "device": draft.device.type, "effort": spec.effort, "values": spec.values}
    return open_sensitivity_cache(draft.plan.source, "achieved", settings | {"method": spec.method}, spec.calibration)


def _predict_layer_errors(spec: PlanSpec, draft: PreparedPlan) -> list[LayerPlan]:
    """The layer plans with predicted errors: from earlier runs where possible, else from the less accurate curves."""
    if spec.pattern != "unstructured":
        return draft.plan.sites
    found = [open_error_cache(spec, draft).read()]
    if spec.effort == "fast":
        found.append(load_sensitivity(spec.model_copy(update={"allocation": "error-curves"}), draft))
    ways = [{traits.name: traits.curve for traits in way} for way in found]
    sites = []
    for plan in draft.plan.sites:
        errors = (predict_error(way.get(plan.site.name, []), plan.site, plan.budget) for way in ways)
        error = 0.0 if plan.form == "dense" else next((error for error in errors if error is not None), None)
        sites.append(plan.model_copy(update={"error": error}))
    return sites

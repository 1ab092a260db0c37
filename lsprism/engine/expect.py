"""What each layer will lose, foretold before anything is touched: by what earlier runs reached, or by error curves.

Demo model, uniform at 0.5, by runs at 0.4 and 0.6: every layer is within 10 % (Wanda: median 0.9, at most 8.7;
SparseGPT: 0.5 and 3.8; hybrid: 1.5 and 5.1). Hybrid, shares by harm, by runs as far off as 0.3 and 0.6: 208 of 210 are
(median 1.6, at most 11.0). By curves alone nine of ten are (SparseGPT, median 2.8): they know the uncompressed model's
inputs only, and a part of the rows. The others are layers of small errors; one o_proj is foretold 2.6 times its error.
"""

from dataclasses import replace

from lsprism.budgets import BUDGETS
from lsprism.budgets.allot import allot
from lsprism.budgets.curves import foretold
from lsprism.calibration.known import Known, known
from lsprism.engine.plan import Draft, shared_out
from lsprism.engine.traits import known_traits
from lsprism.reports import ErrorPoint, LayerReport, Plan, SitePlan, SiteTraits
from lsprism.specs import PlanSpec

UNSETTLED = "Layer allocation ({}) is computed when the run starts; this estimate assumes uniform."


def expecting(spec: PlanSpec, draft: Draft) -> Plan:
    """The plan with the budgets of its rule and the error that each site is to be expected to have, if known."""
    notes = list(draft.plan.notes)
    if BUDGETS[spec.rule].learns:
        if traits := known_traits(spec, draft):
            draft = _without_sensitivity(shared_out(draft, spec, allot(spec, draft.anatomy.sites, traits)))
        else:
            notes.append(UNSETTLED.format(spec.rule))
    return draft.plan.model_copy(update={"sites": _with_errors(spec, draft), "notes": notes})


def _without_sensitivity(draft: Draft) -> Draft:
    """Its pass is not needed again."""
    duration = draft.plan.duration
    if duration is None:
        return draft
    known = {"duration": duration.model_copy(update={"sensitivity": 0.0})}
    return replace(draft, plan=draft.plan.model_copy(update=known))


def remember(spec: PlanSpec, draft: Draft, layers: list[LayerReport]) -> None:
    """Add what a finished compression lost to what is known. With blocks that learn, later ones met other inputs."""
    if spec.reconstructs or spec.pattern != "unstructured":
        return
    points = [SiteTraits(name=layer.name, curve=[_point(layer)] if layer.form != "dense" else []) for layer in layers]
    achieved(spec, draft).add_points(points)


def _point(layer: LayerReport) -> ErrorPoint:
    size = layer.rows * layer.columns
    return ErrorPoint(
        density=layer.kept / size,
        rank_share=layer.rank * (layer.rows + layer.columns) / max(1, layer.kept),  # a layer may keep nothing
        error=layer.error,
    )


def achieved(spec: PlanSpec, draft: Draft) -> Known:
    """Where the errors lie that finished compressions with this method reached."""
    settings = {"dtype": draft.plan.dtype, "device": draft.device.type, "effort": spec.effort, "values": spec.values}
    return known(draft.plan.source, "achieved", settings | {"method": spec.method}, spec.calibration)


def _with_errors(spec: PlanSpec, draft: Draft) -> list[SitePlan]:
    """Real runs tell more than curves, which were taken with the inputs of the uncompressed model and little effort."""
    if spec.pattern != "unstructured":
        return draft.plan.sites
    found = [achieved(spec, draft).read()]
    if spec.effort == "fast":
        found.append(known_traits(spec.model_copy(update={"allocation": "error-curves"}), draft))
    ways = [{traits.name: traits.curve for traits in way} for way in found]
    sites = []
    for plan in draft.plan.sites:
        errors = (foretold(way.get(plan.site.name, []), plan.site, plan.budget) for way in ways)
        error = 0.0 if plan.form == "dense" else next((error for error in errors if error is not None), None)
        sites.append(plan.model_copy(update={"error": error}))
    return sites

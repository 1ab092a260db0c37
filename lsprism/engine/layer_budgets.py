"""Layer budgets that depend on measurements are computed once, before the compression, and stored in its recipe."""

from collections.abc import Generator

from torch import Tensor

from lsprism.allocation.allocate import allocate
from lsprism.artifact.recipe import Recipe
from lsprism.artifact.target import check_recipe, load_budgets, restore_steps
from lsprism.engine.plan import PreparedPlan, apply_budgets
from lsprism.engine.sensitivity_pass import measure_sensitivity
from lsprism.events import Event
from lsprism.specs import CompressSpec


def resolve_budgets(
    spec: CompressSpec, draft: PreparedPlan, tokens: Tensor, recipe: Recipe
) -> Generator[Event, None, PreparedPlan]:
    """Return the draft with the layer budgets of its allocation rule, which are also set in `recipe`.

    A resumed run uses the budgets that it started with. tokens [samples, length].
    """
    if spec.resume:
        check_recipe(spec.save_path, restore_steps(spec.save_path, recipe), force=spec.force)
    budgets = load_budgets(spec.save_path, recipe) if spec.resume else None
    if budgets is None:
        traits = yield from measure_sensitivity(spec, draft, tokens)
        budgets = allocate(spec, draft.anatomy.sites, traits)
    recipe.set_budgets(budgets)
    return apply_budgets(draft, spec, budgets)
